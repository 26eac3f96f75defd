// The system's news of network interfaces and their addresses, and what they mean for addresses
// that somebody watches: an interface was taken down, lost its carrier, lost the address.
//
// Leans on NETLINK_ROUTE of Linux; needs no privilege. Reading messages and drawing conclusions
// (netlink_next, AddressWatch) is pure; only LinkSocket makes system calls, none of which blocks.
// Must never trust a length in a message. Thread-safety: none; the holder's.
#ifndef TENT_BASE_NETLINK_H
#define TENT_BASE_NETLINK_H

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tent {

// ---- messages

enum class NetlinkKind : uint8_t {
    Link,     // an interface
    Address,  // an address of one
    Done,     // the end of a dump
    Error,    // a request was refused; error 0: it was not
    Other,    // not for us
};

constexpr uint32_t LINK_NAME_SIZE = 16;  // IFNAMSIZ, NUL included

struct NetlinkItem {
    NetlinkKind kind = NetlinkKind::Other;
    bool gone = false;         // the interface, or the address from it
    bool interrupted = false;  // of a dump during which something changed
    bool enabled = false;      // interface: taken up by its operator
    bool carrier = false;      // and able to carry packets
    bool usable = false;       // address: one may bind to it
    uint8_t family = 0;        // AF_INET, AF_INET6
    int32_t error = 0;         // errno, positive
    uint32_t sequence = 0;     // of the request that is answered, whoever's
    uint32_t link = 0;         // the interface's number
    uint8_t address[16] = {};
    char name[LINK_NAME_SIZE] = {};
};

// Takes the first message off what a netlink socket received. False: nothing whole is left; bytes
// that are left then are malformed.
bool netlink_next(std::span<const uint8_t> *bytes, NetlinkItem *item);

// ---- conclusions

// One address and its interface. Until something else is known it is there and fine.
struct WatchedAddress {
    std::string text;
    uint8_t family = 0;
    uint8_t bytes[16] = {};
    uint32_t link = 0;       // the interface that has it, 0: not known, or none
    uint32_t seen_link = 0;  // the one found by the dump under way
    bool there = true, enabled = true, carrier = true, link_seen = false;
    bool told_down = false;  // as its watcher knows it
    char name[LINK_NAME_SIZE] = {};

    bool down() const { return !there || !enabled || !carrier; }
    // "interface eth0 has no carrier"; "" when it is up.
    std::string sentence() const;
};

struct AddressWatch {
    std::vector<WatchedAddress> addresses;
    bool dump_wanted = false;  // what was seen does not tell all
    bool dumping = false;      // addresses

    // False: not the text of an IPv4 or IPv6 address. One watched already stays as it is.
    bool add(std::string_view text);
    void take(const NetlinkItem &item);
    // A dump consists of all addresses, then the interfaces of those that are watched.
    void dump_begin();
    void dump_addresses_end();
    // An interface that was found and not yet described; 0: none.
    uint32_t link_unknown() const;
};

// ---- the socket

class LinkSocket {
  public:
    ~LinkSocket();
    LinkSocket() = default;
    LinkSocket(const LinkSocket &) = delete;
    LinkSocket &operator=(const LinkSocket &) = delete;

    // SYSTEM with a sentence where the system has none for us (a filter, a sandbox).
    int32_t open();
    // To poll for reading; -1: not open.
    int fd() const { return fd_; }
    // Asks for everything anew; the answers come by step(). The kernel may let the caller wait for
    // its own configuration lock meanwhile: for set-up, and for when there is no other way.
    void dump(AddressWatch &watch);
    // Reads what is there, a bounded number of messages at a time.
    void step(AddressWatch &watch);

  private:
    enum class Dump : uint8_t { None, Addresses, Links };

    template <class Body>
    bool ask(uint16_t type, uint16_t flags, const Body &body);
    void ask_addresses(AddressWatch &watch);
    void ask_link(AddressWatch &watch);
    void take(AddressWatch &watch, const NetlinkItem &item);

    int fd_ = -1;
    Dump dump_ = Dump::None;
    bool again_ = false;  // what the dump under way says is not the whole truth
    uint32_t sequence_ = 0;
    uint32_t link_ = 0;  // asked about
    std::vector<uint8_t> buffer_;
};

}  // namespace tent

#endif
