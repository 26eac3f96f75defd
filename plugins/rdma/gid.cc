// See gid.h.
#include "gid.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "sysfs.h"

namespace tent::rdma {
namespace {

constexpr uint8_t MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
constexpr uint32_t MAPPED_BITS = 96;
constexpr uint32_t INFINIBAND_PREFIX = 64;  // of every subnet
constexpr uint32_t NO_RANK = 4;

bool ipv4(const uint8_t *gid) {
    return memcmp(gid, MAPPED, sizeof MAPPED) == 0;
}

bool link_local(const uint8_t *gid) {
    return gid[0] == 0xfe && (gid[1] & 0xc0) == 0x80;
}

bool empty(const uint8_t *gid) {
    return std::all_of(gid, gid + GID_SIZE, [](uint8_t byte) { return byte == 0; });
}

// 0 is the best.
uint32_t rank_of(const Gid &gid) {
    switch (gid.link) {
        case Link::INFINIBAND: return 0;
        case Link::ROCE_V1: return 3;
        case Link::ROCE_V2: return ipv4(gid.bytes) ? 0 : link_local(gid.bytes) ? 2 : 1;
    }
    return NO_RANK;
}

const char *word_of(Link link) {
    switch (link) {
        case Link::INFINIBAND: return "ib";
        case Link::ROCE_V1: return "roce1";
        case Link::ROCE_V2: return "roce2";
    }
    return "";
}

bool same_prefix(const uint8_t *a, const uint8_t *b, uint32_t bits) {
    const uint32_t whole = bits / 8, rest = bits % 8;
    if (memcmp(a, b, whole) != 0) return false;
    return rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0;
}

// An address as a GID has it, and its mask's length; false: another family.
bool interface_read(const ifaddrs &entry, uint8_t *gid, uint32_t *bits) {
    if (entry.ifa_addr == nullptr || entry.ifa_netmask == nullptr) return false;
    uint8_t mask[GID_SIZE];
    memset(mask, 0xff, sizeof mask);
    if (entry.ifa_addr->sa_family == AF_INET) {
        sockaddr_in address, netmask;
        memcpy(&address, entry.ifa_addr, sizeof address);
        memcpy(&netmask, entry.ifa_netmask, sizeof netmask);
        memcpy(gid, MAPPED, sizeof MAPPED);
        memcpy(gid + sizeof MAPPED, &address.sin_addr, 4);
        memcpy(mask + sizeof MAPPED, &netmask.sin_addr, 4);
    } else if (entry.ifa_addr->sa_family == AF_INET6) {
        sockaddr_in6 address, netmask;
        memcpy(&address, entry.ifa_addr, sizeof address);
        memcpy(&netmask, entry.ifa_netmask, sizeof netmask);
        memcpy(gid, &address.sin6_addr, GID_SIZE);
        memcpy(mask, &netmask.sin6_addr, GID_SIZE);
    } else {
        return false;
    }
    *bits = 0;
    for (const uint8_t byte : mask)
        *bits += static_cast<uint32_t>(std::popcount(byte));
    return true;
}

struct Address {
    Link link = Link::ROCE_V2;
    uint8_t gid[GID_SIZE] = {};
    uint32_t prefix = 0;  // bits of `gid`
};

bool link_read(const char *word, size_t size, Link *link) {
    for (const Link known : {Link::INFINIBAND, Link::ROCE_V1, Link::ROCE_V2}) {
        if (strlen(word_of(known)) == size && memcmp(word_of(known), word, size) == 0) {
            *link = known;
            return true;
        }
    }
    return false;
}

bool address_read(const char *text, Address *address) {
    char host[INET6_ADDRSTRLEN];
    const char *space = strchr(text, ' ');
    if (space == nullptr || !link_read(text, static_cast<size_t>(space - text), &address->link))
        return false;
    const char *slash = strchr(space, '/');
    const size_t size = slash == nullptr ? 0 : static_cast<size_t>(slash - space - 1);
    if (size == 0 || size >= sizeof host) return false;
    memcpy(host, space + 1, size);
    host[size] = '\0';
    if (!gid_parse(host, address->gid) || empty(address->gid)) return false;
    char *end = nullptr;
    const unsigned long bits = strtoul(slash + 1, &end, 10);
    const bool four = strchr(host, ':') == nullptr;
    if (slash[1] < '0' || slash[1] > '9' || *end != '\0' || bits > (four ? 32 : 128)) return false;
    address->prefix = static_cast<uint32_t>(bits) + (four ? MAPPED_BITS : 0);
    return true;
}

}  // namespace

bool gid_parse(const char *text, uint8_t *bytes) {
    memcpy(bytes, MAPPED, sizeof MAPPED);
    return inet_pton(AF_INET, text, bytes + sizeof MAPPED) == 1 ||
           inet_pton(AF_INET6, text, bytes) == 1;
}

std::vector<Gid> gids_read(const std::string &folder, uint32_t port, bool infiniband) {
    std::vector<Gid> gids;
    const std::string place = folder + "/ports/" + std::to_string(port);
    for (uint32_t index = 0; index < GIDS_MAX; index++) {
        const std::string number = std::to_string(index);
        std::string text;
        if (!sysfs_read(place + "/gids/" + number, &text)) break;
        Gid gid;
        gid.index = index;
        gid.link = Link::INFINIBAND;
        if (!gid_parse(text.c_str(), gid.bytes) || empty(gid.bytes)) continue;
        if (!infiniband) {
            // The kernel refuses to tell the kind of an entry that is going.
            if (!sysfs_read(place + "/gid_attrs/types/" + number, &text)) continue;
            gid.link = text == "RoCE v2" ? Link::ROCE_V2 : Link::ROCE_V1;
            sysfs_read(place + "/gid_attrs/ndevs/" + number, &gid.netdev);
        }
        gids.push_back(gid);
    }
    return gids;
}

const Gid *gid_choose(std::span<const Gid> gids) {
    const auto best = std::min_element(gids.begin(), gids.end(), [](const Gid &a, const Gid &b) {
        return rank_of(a) != rank_of(b) ? rank_of(a) < rank_of(b) : a.index < b.index;
    });
    return best == gids.end() ? nullptr : &*best;
}

const Gid *gid_find(std::span<const Gid> gids, Link link, const uint8_t *bytes, uint32_t index) {
    const Gid *found = nullptr;
    for (const Gid &gid : gids) {
        if (gid.link != link || memcmp(gid.bytes, bytes, GID_SIZE) != 0) continue;
        if (gid.index == index) return &gid;
        if (found == nullptr) found = &gid;
    }
    return found;
}

uint32_t gid_prefix(Link link, const uint8_t *bytes) {
    uint32_t found = link == Link::INFINIBAND || link_local(bytes) ? INFINIBAND_PREFIX : 128;
    ifaddrs *list = nullptr;
    if (link != Link::INFINIBAND && getifaddrs(&list) == 0) {
        for (const ifaddrs *entry = list; entry != nullptr; entry = entry->ifa_next) {
            uint8_t gid[GID_SIZE];
            uint32_t bits = 0;
            if (!interface_read(*entry, gid, &bits) || memcmp(gid, bytes, GID_SIZE) != 0) continue;
            found = bits;
            break;
        }
        freeifaddrs(list);
    }
    return ipv4(bytes) ? found - MAPPED_BITS : found;
}

std::string gid_address(Link link, const uint8_t *bytes, uint32_t prefix) {
    char host[INET6_ADDRSTRLEN] = "";
    const bool four = ipv4(bytes);
    inet_ntop(four ? AF_INET : AF_INET6, four ? bytes + sizeof MAPPED : bytes, host, sizeof host);
    return std::string(word_of(link)) + " " + host + "/" + std::to_string(prefix);
}

int32_t address_reach(const char *ours, const char *peer) {
    Address our, their;
    if (!address_read(ours, &our) || !address_read(peer, &their) || our.link != their.link)
        return 0;
    const bool near = same_prefix(our.gid, their.gid, our.prefix);
    // Queue pairs name the peer's LID, which means something in its own subnet alone.
    if (our.link == Link::INFINIBAND) return near ? 2 : 0;
    if (ipv4(our.gid) != ipv4(their.gid) || link_local(our.gid) != link_local(their.gid)) return 0;
    if (link_local(our.gid)) return 1;
    if (near) return 2;
    return our.link == Link::ROCE_V2 ? 1 : 0;
}

}  // namespace tent::rdma
