// See netlink.h.
//
// Leans on linux/rtnetlink.h for the messages' layout. Fields are read one by one through
// ByteReader: a message is not aligned for the kernel's structs, and may be shorter than they are.
#include "base/netlink.h"

#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "base/status.h"

namespace tent {

namespace {

// More than the kernel puts into one message of a dump (32 KiB).
constexpr size_t BUFFER_SIZE = 64 * 1024;
constexpr int READS_MAX = 16;  // per step: a storm of news must not hold up transfers

size_t aligned(size_t size) {
    return (size + 3) & ~size_t{3};
}

// Calls use(type, value) for each attribute; the first malformed one ends it.
template <class Use>
void each_attribute(std::span<const uint8_t> bytes, Use use) {
    while (bytes.size() >= sizeof(rtattr)) {
        ByteReader head(bytes);
        const size_t size = head.u16();
        const uint16_t type = head.u16() & NLA_TYPE_MASK;
        if (size < sizeof(rtattr) || size > bytes.size()) return;
        use(type, bytes.subspan(sizeof(rtattr), size - sizeof(rtattr)));
        bytes = bytes.subspan(std::min(aligned(size), bytes.size()));
    }
}

void read_link(std::span<const uint8_t> body, NetlinkItem *item) {
    ByteReader reader(body);
    const uint8_t family = reader.u8();
    reader.u8();
    reader.u16();
    item->link = reader.u32();
    const uint32_t flags = reader.u32();
    reader.u32();
    // A bridge tells of its ports by the same messages: a port that leaves is not gone.
    if (!reader.ok() || family != AF_UNSPEC || item->link == 0) return;
    item->kind = NetlinkKind::Link;
    item->enabled = (flags & IFF_UP) != 0;
    // LOWER_UP is the carrier itself. RUNNING follows from the operational state, which the system
    // renews at most once a second, and which may want a login (802.1X) that a probe finds missing.
    item->carrier = (flags & IFF_LOWER_UP) != 0;
    each_attribute(body.subspan(reader.offset()), [&](uint16_t type, auto value) {
        if (type != IFLA_IFNAME || value.empty()) return;
        const size_t size = std::min<size_t>(value.size(), LINK_NAME_SIZE - 1);
        memcpy(item->name, value.data(), size);
        item->name[size] = '\0';
    });
}

void read_address(std::span<const uint8_t> body, NetlinkItem *item) {
    ByteReader reader(body);
    const uint8_t family = reader.u8();
    reader.u8();
    uint32_t flags = reader.u8();
    reader.u8();
    item->link = reader.u32();
    const size_t size = family == AF_INET ? 4 : 16;
    if (!reader.ok() || (family != AF_INET && family != AF_INET6) || item->link == 0) return;
    bool any = false, local = false;
    each_attribute(body.subspan(reader.offset()), [&](uint16_t type, auto value) {
        if (type == IFA_FLAGS && value.size() == sizeof flags)
            memcpy(&flags, value.data(), sizeof flags);
        // Of a tunnel IFA_ADDRESS is the other end's.
        if ((type != IFA_LOCAL && type != IFA_ADDRESS) || value.size() != size || local) return;
        local = type == IFA_LOCAL;
        any = true;
        memcpy(item->address, value.data(), size);
    });
    if (!any) return;
    item->kind = NetlinkKind::Address;
    item->family = family;
    const bool tentative = (flags & IFA_F_TENTATIVE) && !(flags & IFA_F_OPTIMISTIC);
    item->usable = !tentative && !(flags & IFA_F_DADFAILED);
}

void read_body(uint16_t type, std::span<const uint8_t> body, NetlinkItem *item) {
    switch (type) {
        case RTM_DELLINK: item->gone = true; [[fallthrough]];
        case RTM_NEWLINK: return read_link(body, item);
        case RTM_DELADDR: item->gone = true; [[fallthrough]];
        case RTM_NEWADDR: return read_address(body, item);
        case NLMSG_DONE: item->kind = NetlinkKind::Done; return;
        case NLMSG_ERROR: {
            ByteReader reader(body);
            const auto error = static_cast<int32_t>(reader.u32());
            if (!reader.ok()) return;
            item->kind = NetlinkKind::Error;
            item->error = error < 0 && error > INT32_MIN ? -error : 0;
            return;
        }
        default: return;
    }
}

bool is_loopback_v4(uint8_t family, const uint8_t *bytes) {
    return family == AF_INET && bytes[0] == 127;
}

}  // namespace

bool netlink_next(std::span<const uint8_t> *bytes, NetlinkItem *item) {
    *item = NetlinkItem{};
    ByteReader reader(*bytes);
    const size_t size = reader.u32();
    const uint16_t type = reader.u16();
    const uint16_t flags = reader.u16();
    item->sequence = reader.u32();
    reader.u32();
    if (!reader.ok() || size < sizeof(nlmsghdr) || size > bytes->size()) return false;
    item->interrupted = (flags & NLM_F_DUMP_INTR) != 0;
    read_body(type, bytes->subspan(sizeof(nlmsghdr), size - sizeof(nlmsghdr)), item);
    *bytes = bytes->subspan(std::min(aligned(size), bytes->size()));
    return true;
}

// ---- conclusions

std::string WatchedAddress::sentence() const {
    if (!there) return "no interface has address " + text + " any more";
    const std::string interface = std::string("interface ") + name;
    if (!enabled) return interface + " is down";
    if (!carrier) return interface + " has no carrier";
    return "";
}

bool AddressWatch::add(std::string_view text) {
    for (const WatchedAddress &had : addresses)
        if (had.text == text) return true;
    WatchedAddress made;
    made.text = text;
    made.family = made.text.find(':') == std::string::npos ? AF_INET : AF_INET6;
    if (inet_pton(made.family, made.text.c_str(), made.bytes) != 1) return false;
    addresses.push_back(std::move(made));
    dump_wanted = true;
    return true;
}

namespace {

void take_link(WatchedAddress &address, const NetlinkItem &item) {
    if (address.link != item.link) return;
    address.link_seen = true;
    address.enabled = item.enabled && !item.gone;
    address.carrier = item.carrier && !item.gone;
    if (item.name[0]) memcpy(address.name, item.name, sizeof address.name);
}

void move_to(WatchedAddress &address, uint32_t link) {
    address.there = true;
    address.link = link;
    address.enabled = address.carrier = true;  // until the interface's own news
    address.link_seen = true;
}

// True: only a dump can tell more.
bool take_address(WatchedAddress &address, const NetlinkItem &item) {
    const size_t size = address.family == AF_INET ? 4 : 16;
    if (item.family != address.family) return false;
    const bool same = memcmp(item.address, address.bytes, size) == 0;
    // All of 127.0.0.0/8 is there as long as any of it is.
    const bool loopback =
        is_loopback_v4(address.family, address.bytes) && is_loopback_v4(item.family, item.address);
    if (!same && !loopback) return false;
    if (item.gone || !item.usable) {
        if (loopback) return item.gone;
        const bool own = address.link == item.link;
        if (address.seen_link == item.link) address.seen_link = 0;
        if (own) {
            address.there = false;
            address.link = 0;
        }
        return own && item.gone;  // another interface may have it as well
    }
    if (address.seen_link == 0 || item.link == address.link) address.seen_link = item.link;
    if (address.there && address.link != 0) return false;
    move_to(address, item.link);
    return true;
}

}  // namespace

void AddressWatch::take(const NetlinkItem &item) {
    for (WatchedAddress &address : addresses) {
        if (item.kind == NetlinkKind::Link) take_link(address, item);
        if (item.kind == NetlinkKind::Address && take_address(address, item))
            dump_wanted |= item.gone || !dumping;  // interfaces follow anyhow
    }
}

void AddressWatch::dump_begin() {
    dump_wanted = false;
    dumping = true;
    for (WatchedAddress &address : addresses)
        address.seen_link = 0;
}

void AddressWatch::dump_addresses_end() {
    dumping = false;
    for (WatchedAddress &address : addresses) {
        if (address.seen_link == 0) {
            address.there = false;
            address.link = 0;
        } else if (address.link != address.seen_link) {
            move_to(address, address.seen_link);
        }
        address.link_seen = false;  // their interfaces follow
    }
}

uint32_t AddressWatch::link_unknown() const {
    for (const WatchedAddress &address : addresses)
        if (address.link != 0 && !address.link_seen) return address.link;
    return 0;
}

// ---- the socket

LinkSocket::~LinkSocket() {
    if (fd_ >= 0) close(fd_);
}

int32_t LinkSocket::open() {
    fd_ = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    sockaddr_nl name{};
    name.nl_family = AF_NETLINK;
    name.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
    if (fd_ < 0 || bind(fd_, reinterpret_cast<const sockaddr *>(&name), sizeof name) != 0) {
        const int error = errno;
        if (fd_ >= 0) close(fd_);
        fd_ = -1;
        return fail(TENT_E_SYSTEM, "the system tells no news of network interfaces (netlink: %s)",
                    strerror(error));
    }
    buffer_.resize(BUFFER_SIZE);
    return TENT_OK;
}

template <class Body>
bool LinkSocket::ask(uint16_t type, uint16_t flags, const Body &body) {
    struct {
        nlmsghdr head;
        Body body;
    } request{};
    request.head.nlmsg_len = sizeof request;
    request.head.nlmsg_type = type;
    request.head.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    request.head.nlmsg_seq = ++sequence_;
    request.body = body;
    // Refused: news go on, only the state before them stays unknown, which counts as up.
    return send(fd_, &request, sizeof request, 0) == static_cast<ssize_t>(sizeof request);
}

void LinkSocket::ask_addresses(AddressWatch &watch) {
    watch.dump_begin();
    again_ = false;
    dump_ = ask(RTM_GETADDR, NLM_F_DUMP, ifaddrmsg{}) ? Dump::Addresses : Dump::None;
}

// One by one instead of a dump: of a single interface the kernel brings the state up to date first,
// which otherwise lags behind the carrier by up to a second; and there may be thousands of others.
void LinkSocket::ask_link(AddressWatch &watch) {
    link_ = watch.link_unknown();
    if (link_ != 0) {
        ifinfomsg body{};
        body.ifi_index = static_cast<int>(link_);
        dump_ = ask(RTM_GETLINK, 0, body) ? Dump::Links : Dump::None;
        return;
    }
    dump_ = Dump::None;
    if (again_ || watch.dump_wanted) ask_addresses(watch);
}

void LinkSocket::dump(AddressWatch &watch) {
    watch.dump_wanted = false;
    if (fd_ < 0) return;
    // The kernel does one at a time for a socket.
    if (dump_ == Dump::Addresses)
        again_ = true;
    else
        ask_addresses(watch);
}

void LinkSocket::take(AddressWatch &watch, const NetlinkItem &item) {
    watch.take(item);
    if (dump_ == Dump::None || item.sequence != sequence_) return;
    again_ |= item.interrupted;
    const bool refused = item.kind == NetlinkKind::Error && item.error != 0;
    if (dump_ == Dump::Addresses) {
        if (refused) dump_ = Dump::None;
        if (item.kind != NetlinkKind::Done) return;
        watch.dump_addresses_end();
        ask_link(watch);
        return;
    }
    if (!refused && item.kind != NetlinkKind::Link) return;
    if (refused) {  // it went in between
        NetlinkItem gone;
        gone.kind = NetlinkKind::Link;
        gone.gone = true;
        gone.link = link_;
        watch.take(gone);
    }
    ask_link(watch);
}

void LinkSocket::step(AddressWatch &watch) {
    for (int reads = 0; reads < READS_MAX && fd_ >= 0; reads++) {
        sockaddr_nl from{};
        socklen_t from_size = sizeof from;
        const ssize_t got = recvfrom(fd_, buffer_.data(), buffer_.size(), 0,
                                     reinterpret_cast<sockaddr *>(&from), &from_size);
        if (got < 0) {
            // News were lost for want of room: only a dump says what they were.
            if (errno == ENOBUFS) {
                dump(watch);
                continue;
            }
            if (errno == EINTR) continue;
            break;
        }
        if (from_size != sizeof from || from.nl_pid != 0) continue;  // not the kernel
        std::span<const uint8_t> bytes(buffer_.data(), static_cast<size_t>(got));
        NetlinkItem item;
        while (netlink_next(&bytes, &item))
            take(watch, item);
    }
    if (watch.dump_wanted && dump_ == Dump::None) dump(watch);
}

}  // namespace tent
