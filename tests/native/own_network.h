// A network namespace for one test: nothing but a loopback interface, which the test may take down.
//
// Leans on unshare(2) and check.h's style. The namespace is that of the thread the body runs in,
// and of threads it starts; it goes with them. Must never touch the machine's own interfaces.
#ifndef TENT_TESTS_OWN_NETWORK_H
#define TENT_TESTS_OWN_NETWORK_H

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <thread>

#include "check.h"

namespace own_network {

// Runs body in a namespace of its own; without the right to make one it says so and does nothing.
template <class Body>
void run(Body body) {
    std::thread([&] {
        if (unshare(CLONE_NEWNET) != 0) {
            puts("(skipped: network namespaces need root)");
            return;
        }
        body();
    }).join();
}

inline void loopback(bool up) {
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ifreq request{};
    memcpy(request.ifr_name, "lo", 3);
    CHECK_EQ(ioctl(fd, SIOCGIFFLAGS, &request), 0);
    const int flags = request.ifr_flags;
    request.ifr_flags = static_cast<short>(up ? flags | IFF_UP : flags & ~IFF_UP);
    CHECK_EQ(ioctl(fd, SIOCSIFFLAGS, &request), 0);
    close(fd);
}

}  // namespace own_network

#endif
