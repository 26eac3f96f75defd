// A TCP relay on 127.0.0.1 that stands for one rail between an engine and its peer's listener: it
// may swallow what passes, refuse, or break. Leans on sockets and on being pumped by the test; has
// no thread and no clock. Must never hold bytes back unless told to.
#pragma once

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "check.h"

struct Relay {
    struct Half {
        int from, to;
        std::vector<uint8_t> waiting;
    };
    struct Pair {
        int near_fd, far_fd;
        Half up, down;
        bool stuck = false;  // silent for good, even after the hole has gone
        bool ended = false;
    };

    int listener = -1;
    uint16_t port = 0, target_port = 0;
    bool hole = false;  // takes connections and gives nothing on
    std::vector<Pair> pairs;

    Relay() { listen_again(); }
    ~Relay() {
        cut();
        refuse();
    }
    Relay(const Relay &) = delete;

    static sockaddr_in local(uint16_t at) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(at);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return address;
    }
    std::string address() const { return "127.0.0.1:" + std::to_string(port); }
    void listen_again() {
        listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int one = 1;
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        sockaddr_in at = local(port);
        socklen_t size = sizeof at;
        CHECK_EQ(bind(listener, reinterpret_cast<sockaddr *>(&at), sizeof at), 0);
        CHECK_EQ(listen(listener, 16), 0);
        getsockname(listener, reinterpret_cast<sockaddr *>(&at), &size);
        port = ntohs(at.sin_port);
    }
    void refuse() {
        if (listener >= 0) close(listener);
        listener = -1;
    }
    void cut() {
        for (Pair &pair : pairs)
            if (!pair.ended) end(pair);
        pairs.clear();
    }
    // What goes through now is lost for good: a stream with a gap never goes on.
    void swallow() {
        hole = true;
        for (Pair &pair : pairs)
            pair.stuck = true;
    }
    size_t open() const {
        size_t count = 0;
        for (const Pair &pair : pairs)
            count += !pair.ended;
        return count;
    }
    // True when something moved.
    bool pump() {
        bool moved = false;
        for (int fd; listener >= 0 && (fd = accept4(listener, nullptr, nullptr,
                                                    SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
            moved = true;
            int far_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            sockaddr_in at = local(target_port);
            if (connect(far_fd, reinterpret_cast<sockaddr *>(&at), sizeof at) != 0) {
                close(fd);
                close(far_fd);
                continue;
            }
            int one = 1;
            setsockopt(far_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            pairs.push_back({fd, far_fd, {fd, far_fd, {}}, {far_fd, fd, {}}});
        }
        for (Pair &pair : pairs) {
            if (pair.ended) continue;
            // The near side's end shows through a hole, too: it is our own process that closes.
            if (hole || pair.stuck) {
                drain(pair);
                continue;
            }
            bool up = pass(pair.up, &moved), down = pass(pair.down, &moved);
            if (!up || !down) end(pair);
        }
        return moved;
    }

  private:
    static void end(Pair &pair) {
        close(pair.near_fd);
        close(pair.far_fd);
        pair.ended = true;
    }
    static void drain(Pair &pair) {
        uint8_t bytes[4096];
        ssize_t got;
        while ((got = recv(pair.near_fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
            pair.stuck = true;
        if (got == 0) end(pair);
    }
    // False at the end of either side.
    static bool pass(Half &half, bool *moved) {
        uint8_t bytes[65536];
        ssize_t got = recv(half.from, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got > 0) {
            *moved = true;
            half.waiting.insert(half.waiting.end(), bytes, bytes + got);
        }
        if (!half.waiting.empty()) {
            ssize_t sent = send(half.to, half.waiting.data(), half.waiting.size(),
                                MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent > 0) {
                *moved = true;
                half.waiting.erase(half.waiting.begin(), half.waiting.begin() + sent);
            } else if (errno != EAGAIN) {
                return false;
            }
        }
        return got > 0 || (got < 0 && errno == EAGAIN);
    }
};
