// Addresses to text and back. See net.h.
//
// Leans on getaddrinfo and inet_ntop. Must never keep a pointer into a resolver's list.
#include "base/net.h"

#include <cerrno>
#include <cstring>

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>

#include "base/status.h"
#include "base/units.h"

namespace tent {

namespace {

// Longest host name (RFC 1035) plus room for a scope; anything longer is no address.
constexpr size_t HOST_SIZE_MAX = 255;

// Quoted in sentences, so that a hostile text cannot fill them or carry control characters.
std::string quotable(std::string_view text) {
    std::string out(text.substr(0, 80));
    for (char &c : out) {
        if (c < 0x20 || c > 0x7e) c = '?';
    }
    return out;
}

const sockaddr_in &as_v4(const SocketAddress &address) {
    return reinterpret_cast<const sockaddr_in &>(address.storage);
}
const sockaddr_in6 &as_v6(const SocketAddress &address) {
    return reinterpret_cast<const sockaddr_in6 &>(address.storage);
}

}  // namespace

std::string SocketAddress::ip() const {
    char text[INET6_ADDRSTRLEN] = "";
    if (storage.ss_family == AF_INET) {
        inet_ntop(AF_INET, &as_v4(*this).sin_addr, text, sizeof text);
        return text;
    }
    if (storage.ss_family != AF_INET6) return "";
    inet_ntop(AF_INET6, &as_v6(*this).sin6_addr, text, sizeof text);
    std::string out = text;
    const uint32_t scope = as_v6(*this).sin6_scope_id;
    if (scope != 0) {
        char name[IF_NAMESIZE] = "";
        // An interface that is gone keeps its number, which getaddrinfo reads as well.
        out += '%';
        out += if_indextoname(scope, name) != nullptr ? std::string(name) : std::to_string(scope);
    }
    return out;
}

uint16_t SocketAddress::port() const {
    if (storage.ss_family == AF_INET) return ntohs(as_v4(*this).sin_port);
    if (storage.ss_family == AF_INET6) return ntohs(as_v6(*this).sin6_port);
    return 0;
}

void SocketAddress::set_port(uint16_t port) {
    if (storage.ss_family == AF_INET) {
        reinterpret_cast<sockaddr_in &>(storage).sin_port = htons(port);
    } else if (storage.ss_family == AF_INET6) {
        reinterpret_cast<sockaddr_in6 &>(storage).sin6_port = htons(port);
    }
}

std::string SocketAddress::text() const {
    const std::string host = ip();
    if (host.empty()) return "";
    const bool brackets = storage.ss_family == AF_INET6;
    return (brackets ? "[" + host + "]" : host) + ":" + std::to_string(port());
}

bool SocketAddress::is_loopback() const {
    if (storage.ss_family == AF_INET) {
        return ntohl(as_v4(*this).sin_addr.s_addr) >> 24 == 127;
    }
    if (storage.ss_family != AF_INET6) return false;
    const in6_addr &address = as_v6(*this).sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(&address) ||
           (IN6_IS_ADDR_V4MAPPED(&address) && address.s6_addr[12] == 127);
}

bool SocketAddress::is_any() const {
    if (storage.ss_family == AF_INET) return as_v4(*this).sin_addr.s_addr == htonl(INADDR_ANY);
    if (storage.ss_family != AF_INET6) return false;
    const in6_addr &address = as_v6(*this).sin6_addr;
    const uint8_t zeros[4] = {};
    return IN6_IS_ADDR_UNSPECIFIED(&address) ||
           (IN6_IS_ADDR_V4MAPPED(&address) && memcmp(address.s6_addr + 12, zeros, 4) == 0);
}

bool SocketAddress::operator==(const SocketAddress &other) const {
    if (storage.ss_family != other.storage.ss_family || port() != other.port()) return false;
    if (storage.ss_family == AF_INET) {
        return as_v4(*this).sin_addr.s_addr == as_v4(other).sin_addr.s_addr;
    }
    if (storage.ss_family == AF_INET6) {
        return memcmp(&as_v6(*this).sin6_addr, &as_v6(other).sin6_addr, sizeof(in6_addr)) == 0 &&
               as_v6(*this).sin6_scope_id == as_v6(other).sin6_scope_id;
    }
    return true;
}

int32_t parse_host_port(std::string_view text, std::string *host, uint16_t *port) {
    const std::string shown = quotable(text);
    const size_t colon = text.rfind(':');
    std::string_view name = text.substr(0, colon);
    uint64_t number = 0;
    if (colon == std::string_view::npos || !parse_count(text.substr(colon + 1), &number) ||
        number > UINT16_MAX) {
        return fail(TENT_E_INVALID,
                    "\"%s\" is no address: write host:port, with a port from 0 to 65535",
                    shown.c_str());
    }
    const bool brackets = name.size() >= 2 && name.front() == '[' && name.back() == ']';
    if (brackets) name = name.substr(1, name.size() - 2);
    if (brackets != (name.find(':') != std::string_view::npos)) {
        return fail(TENT_E_INVALID, "\"%s\" is no address: IPv6 goes in brackets, as in [::1]:%u",
                    shown.c_str(), static_cast<unsigned>(number));
    }
    bool plain = !name.empty() && name.size() <= HOST_SIZE_MAX;
    for (const char c : name)
        plain = plain && c > 0x20 && c < 0x7f && c != '[' && c != ']';
    if (!plain) {
        return fail(TENT_E_INVALID,
                    "\"%s\" is no address: the host is empty, too long or has odd characters",
                    shown.c_str());
    }
    host->assign(name);
    *port = static_cast<uint16_t>(number);
    return TENT_OK;
}

int32_t resolve(std::string_view host_port, std::vector<SocketAddress> *addresses) {
    std::string host;
    uint16_t port = 0;
    if (const int32_t status = parse_host_port(host_port, &host, &port); status != TENT_OK) {
        return status;
    }
    addrinfo hints = {};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    addrinfo *list = nullptr;
    const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
    if (error != 0) {
        const bool system = error == EAI_SYSTEM || error == EAI_MEMORY;
        return fail(system ? TENT_E_SYSTEM : TENT_E_PEER, "host \"%s\" cannot be resolved: %s",
                    quotable(host).c_str(),
                    error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
    }
    std::vector<SocketAddress> found;
    for (const addrinfo *item = list; item != nullptr; item = item->ai_next) {
        const bool known = item->ai_family == AF_INET || item->ai_family == AF_INET6;
        if (!known || item->ai_addrlen > sizeof(sockaddr_storage)) continue;
        SocketAddress address;
        memcpy(&address.storage, item->ai_addr, item->ai_addrlen);
        address.len = item->ai_addrlen;
        bool fresh = true;
        for (const SocketAddress &other : found)
            fresh = fresh && !(other == address);
        if (fresh) found.push_back(address);
    }
    freeaddrinfo(list);
    if (found.empty()) {
        return fail(TENT_E_PEER, "host \"%s\" has no IPv4 or IPv6 address", quotable(host).c_str());
    }
    *addresses = std::move(found);
    return TENT_OK;
}

}  // namespace tent
