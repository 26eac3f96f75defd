// Sleeping on a 32-bit word until another thread of this process changes it.
//
// Leans on futex(2), private to the process. Must never be used on a path that has work to do.
// Thread-safety: any thread.
#ifndef TENT_BASE_FUTEX_H
#define TENT_BASE_FUTEX_H

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <ctime>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace tent {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "futex(2) wants the bare word");

// Sleeps while word == expected, at most timeout_ns (UINT64_MAX: for ever). False only when the
// time ran out. True says "look again": woken, the word differed, or a signal came; the caller
// checks its condition in a loop. The word is compared by the kernel under its own lock, so a wake
// between the caller's load and the sleep is not lost.
inline bool futex_wait(std::atomic<uint32_t> &word, uint32_t expected, uint64_t timeout_ns) {
    timespec timeout = {};
    timespec *limit = nullptr;
    if (timeout_ns != UINT64_MAX) {
        timeout.tv_sec = static_cast<time_t>(timeout_ns / 1000000000u);
        timeout.tv_nsec = static_cast<long>(timeout_ns % 1000000000u);
        limit = &timeout;
    }
    const long result = syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAIT_PRIVATE,
                                expected, limit, nullptr, 0);
    return result == 0 || errno != ETIMEDOUT;
}

// Wakes at most `count` sleepers (UINT32_MAX: all). The caller has changed the word before; one
// system call.
inline void futex_wake(std::atomic<uint32_t> &word, uint32_t count) {
    const uint32_t limit = count > INT_MAX ? INT_MAX : count;
    syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAKE_PRIVATE, limit, nullptr,
            nullptr, 0);
}

}  // namespace tent

#endif
