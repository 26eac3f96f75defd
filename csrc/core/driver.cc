// See driver.h.
#include "core/driver.h"

#include <sched.h>
#include <unistd.h>

#include "base/futex.h"

namespace tent {

bool Driver::take(uint32_t holder) {
    uint32_t free = FREE;
    // Acquire: what the last holder wrote is ours to read.
    return token_.compare_exchange_strong(free, holder, std::memory_order_acquire,
                                          std::memory_order_relaxed);
}

void Driver::acquire() {
    for (int i = 0; i < 64; i++)
        if (try_acquire()) return;
    wanted_.fetch_add(1, std::memory_order_seq_cst);
    while (!try_acquire()) {
        uint32_t holder = token_.load(std::memory_order_relaxed);
        if (holder != FREE) futex_wait(token_, holder, 10 * MS);
    }
    wanted_.fetch_sub(1, std::memory_order_seq_cst);
}

void Driver::release_as_caller(bool work_left) {
    drives_.fetch_add(1, std::memory_order_relaxed);
    if (work_left) work_left_.store(true, std::memory_order_seq_cst);
    // seq_cst: orders the release before the look at wanted_ and at the worker's state.
    token_.store(FREE, std::memory_order_seq_cst);
    if (wanted_.load(std::memory_order_seq_cst) != 0) futex_wake(token_, 1);
    if (work_left) wake_worker();
}

void Driver::notify_submit() {
    // Pairs with the last looks of whoever stops driving (a caller at the ring after its release,
    // the worker at the ring after worker_sleep_begin and at work_left_ in worker_park): one side
    // sees the other.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (token_.load(std::memory_order_seq_cst) != FREE) return;
    work_left_.store(true, std::memory_order_seq_cst);
    wake_worker();
}

void Driver::wake_worker() {
    uint32_t state = worker_state_.load(std::memory_order_seq_cst);
    if (state == SLEEPING) {
        uint64_t one = 1;
        // The eventfd's counter cannot overflow in practice; a failed write means it is readable
        // already.
        [[maybe_unused]] ssize_t written = ::write(wake_fd, &one, sizeof one);
    } else if (state == PARKED) {
        park_word_.fetch_add(1, std::memory_order_seq_cst);
        futex_wake(park_word_, 1);
    }
}

bool Driver::worker_try_acquire() {
    if (!take(WORKER)) return false;
    work_left_.store(false, std::memory_order_relaxed);
    return true;
}

void Driver::worker_release() {
    token_.store(FREE, std::memory_order_seq_cst);
    if (wanted_.load(std::memory_order_seq_cst) != 0) futex_wake(token_, 1);
}

void Driver::worker_park(uint64_t linger_ns) {
    uint32_t word = park_word_.load(std::memory_order_seq_cst);
    worker_state_.store(PARKED, std::memory_order_seq_cst);
    for (;;) {
        if (work_left_.load(std::memory_order_seq_cst) &&
            token_.load(std::memory_order_seq_cst) == FREE)
            break;
        uint32_t drives = drives_.load(std::memory_order_relaxed);
        bool woken = futex_wait(park_word_, word, linger_ns);
        if (woken || park_word_.load(std::memory_order_seq_cst) != word) break;
        // Calling threads that keep driving keep the engine; one that left for good gives it back.
        bool held = token_.load(std::memory_order_relaxed) != FREE;
        if (!held && drives_.load(std::memory_order_relaxed) == drives) break;
    }
    worker_state_.store(RUNNING, std::memory_order_seq_cst);
}

}  // namespace tent
