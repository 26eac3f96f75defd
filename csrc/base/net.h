// Socket addresses as values, and their text.
//
// Leans on getaddrinfo. Must never open a socket. Thread-safety: any thread.
#ifndef TENT_BASE_NET_H
#define TENT_BASE_NET_H

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/socket.h>

namespace tent {

// An IPv4 or IPv6 address with a port.
struct SocketAddress {
    sockaddr_storage storage = {};
    socklen_t len = 0;

    const sockaddr *address() const { return reinterpret_cast<const sockaddr *>(&storage); }
    sockaddr *address() { return reinterpret_cast<sockaddr *>(&storage); }

    // "1.2.3.4:5", "[::1]:5"; "" when it holds no IP address. resolve() reads it back.
    std::string text() const;
    // "1.2.3.4", "::1", "fe80::1%eth0".
    std::string ip() const;
    uint16_t port() const;
    void set_port(uint16_t port);
    // 127.0.0.0/8, ::1, or an IPv4 loopback address inside IPv6.
    bool is_loopback() const;
    // 0.0.0.0 or ::, which listen everywhere.
    bool is_any() const;
    // Same family, address, scope and port.
    bool operator==(const SocketAddress &other) const;
};

// Splits "host:port" or "[ipv6]:port". host loses its brackets; the port is decimal, 0 to 65535.
// Errors: INVALID with a sentence that quotes the text.
int32_t parse_host_port(std::string_view text, std::string *host, uint16_t *port);

// All TCP addresses of "host:port", each once, in the order the resolver prefers, at least one on
// TENT_OK. Numeric hosts do not block, names may (DNS). Errors: INVALID (text), PEER (unknown
// name), SYSTEM.
int32_t resolve(std::string_view host_port, std::vector<SocketAddress> *addresses);

}  // namespace tent

#endif
