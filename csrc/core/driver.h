// Who drives the duty cycle: one token, held by the worker thread or by a calling thread, taken by
// compare-and-swap. Everything in the engine that is not explicitly atomic belongs to its holder; a
// control call (register, open a segment ...) simply takes the token for its duration.
//
// Thread-safety: all functions may be called by any thread, except run_worker (the worker only).
// Leans on base/futex; must never call into plugins itself.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/limits.h"

namespace tent {

class Driver {
  public:
    // Waits for the token; the holder hands it over at the end of its present cycle.
    void acquire();
    bool try_acquire() { return take(CALLER); }
    // Gives it back. work_left: the worker must take over at once.
    void release_as_caller(bool work_left);
    // Does the worker drive now (and not another calling thread)?
    bool held_by_worker() const { return token_.load(std::memory_order_relaxed) == WORKER; }
    // Was the token let go with work that nobody has taken up?
    bool work_left() const { return work_left_.load(std::memory_order_seq_cst); }
    // Is another thread waiting for the token?
    bool wanted() const { return wanted_.load(std::memory_order_relaxed) != 0; }

    // A submit was pushed: whoever can see it must be awake. Cheap when someone drives.
    void notify_submit();
    void wake_worker();

    // Worker thread only.
    bool worker_try_acquire();
    void worker_release();
    // Leaves the engine to calling threads; returns when they are gone for linger_ns or work is
    // left.
    void worker_park(uint64_t linger_ns);
    // Brackets the worker's sleep: after begin the caller re-checks the submit ring, then sleeps on
    // wake_fd.
    void worker_sleep_begin() { worker_state_.store(SLEEPING, std::memory_order_seq_cst); }
    void worker_sleep_end() { worker_state_.store(RUNNING, std::memory_order_seq_cst); }

    int wake_fd = -1;  // eventfd, owned by the engine

  private:
    enum : uint32_t { FREE, WORKER, CALLER };
    enum : uint32_t { RUNNING, SLEEPING, PARKED };
    bool take(uint32_t holder);

    std::atomic<uint32_t> token_{FREE};
    std::atomic<uint32_t> wanted_{0};
    std::atomic<uint32_t> worker_state_{RUNNING};
    std::atomic<uint32_t> park_word_{0};  // futex: bumped to end a park
    std::atomic<uint32_t> drives_{0};     // times a calling thread drove
    std::atomic<bool> work_left_{false};  // the token was let go with work for the worker
};

}  // namespace tent
