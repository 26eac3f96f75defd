// What an epoll event of the instance is about: a number with the kind in its lowest bits.
//
// Leans on state.h.
#ifndef TENT_PLUGINS_SHM_WATCH_H
#define TENT_PLUGINS_SHM_WATCH_H

#include <sys/epoll.h>

#include "state.h"

namespace tent::shm {

enum class Watched : uint64_t { SOCKET = 0, PROCESS = 1, LISTENER = 2, VISITOR = 3 };
constexpr uint64_t WATCHED_MASK = 3;
static_assert(alignof(Endpoint) > WATCHED_MASK);

// value: an endpoint's address, a visitor's descriptor times four, or 0.
inline bool watch(const Instance &instance, int fd, Watched kind, uint64_t value,
                  int operation = EPOLL_CTL_ADD) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = value | static_cast<uint64_t>(kind);
    return epoll_ctl(instance.epoll_fd, operation, fd, &event) == 0;
}
inline void unwatch(const Instance &instance, int fd) {
    epoll_ctl(instance.epoll_fd, EPOLL_CTL_DEL, fd, nullptr);
}

}  // namespace tent::shm

#endif
