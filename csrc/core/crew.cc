// See crew.h.
#include "core/crew.h"

#include <pthread.h>
#include <sched.h>

#include "base/clock.h"
#include "base/futex.h"

namespace tent {

bool Crew::join(const tent_plugin &table, void *instance) {
    const uint32_t index = member_count_.load(std::memory_order_relaxed);
    if (count_ == 0 || index == CREW_TRANSPORTS_MAX) return false;
    if (threads_.empty() && !start()) return false;
    members_[index] = {table.work, instance};
    member_count_.store(index + 1, std::memory_order_release);
    return true;
}

bool Crew::start() {
    threads_.reserve(count_);
    try {
        for (uint32_t helper = 0; helper < count_; helper++) {
            threads_.emplace_back([this, helper] { run(helper); });
            pthread_setname_np(threads_.back().native_handle(), "tent-helper");
        }
    } catch (...) {
        count_ = static_cast<uint32_t>(threads_.size());  // the system refuses more
    }
    return !threads_.empty();
}

void Crew::ready(uint32_t count) {
    // Orders the work posted before it. Sequentially consistent with a helper's sleepers_ and its
    // second look at calls_ (by the kernel): one of the two sees the other.
    calls_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) futex_wake(calls_, count);
}

void Crew::stop() {
    stop_.store(true, std::memory_order_seq_cst);
    calls_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(calls_, UINT32_MAX);
    for (std::thread &thread : threads_)
        thread.join();
    threads_.clear();
}

bool Crew::work_once(uint32_t helper) {
    bool worked = false;
    const uint32_t members = member_count_.load(std::memory_order_acquire);
    for (uint32_t i = 0; i < members && !stop_.load(std::memory_order_relaxed); i++)
        worked |= members_[i].work(members_[i].instance, helper) > 0;
    return worked;
}

void Crew::run(uint32_t helper) {
    uint64_t worked_ns = monotonic_ns();
    while (!stop_.load(std::memory_order_acquire)) {
        const uint32_t calls = calls_.load(std::memory_order_seq_cst);
        if (work_once(helper)) {
            worked_ns = monotonic_ns();
            continue;
        }
        // More mostly follows at once: waking up costs more than a short look around.
        const uint64_t idle_ns = monotonic_ns() - worked_ns;
        if (idle_ns < CREW_SPIN_NS) {
            if (idle_ns > SPIN_YIELD_NS) sched_yield();
            continue;
        }
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        if (!stop_.load(std::memory_order_seq_cst)) futex_wait(calls_, calls, UINT64_MAX);
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
        worked_ns = monotonic_ns();
    }
}

}  // namespace tent
