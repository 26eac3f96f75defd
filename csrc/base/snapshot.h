// ReadGate: lets a writer wait until nobody reads a replaced snapshot any more, after the kernel's
// sleepable RCU.
//
// Use: readers call enter(), load the pointer (acquire), use what it points to, leave(token). The
// writer stores the new pointer (release), calls synchronize(), frees the old. Leans on two
// counters; readers pay two atomic additions. Must never make a reader wait.
//
// Thread-safety: everything from any thread. synchronize blocks while earlier readers are inside;
// it must not be called between enter and leave of the same thread.
#ifndef TENT_BASE_SNAPSHOT_H
#define TENT_BASE_SNAPSHOT_H

#include <atomic>
#include <cstdint>
#include <mutex>

#include <sched.h>
#include <time.h>

namespace tent {

class ReadGate {
  public:
    ReadGate() = default;
    ReadGate(const ReadGate &) = delete;
    ReadGate &operator=(const ReadGate &) = delete;

    // Wait-free. The token goes to leave(), maybe on another thread.
    uint32_t enter() {
        // Relaxed: either side is correct; the side only keeps new readers from holding up the
        // writer.
        const uint32_t side = side_.load(std::memory_order_relaxed) & 1;
        // Acquire: if this addition comes after the one by which a writer saw the side empty, it
        // reads from that one's release sequence, so the pointer stored before synchronize() is
        // visible to us and we cannot load the old one. Otherwise the writer sees us and waits.
        // Both are additions to one counter: one of the two always holds.
        readers_[side].count.fetch_add(1, std::memory_order_acq_rel);
        return side;
    }

    // Wait-free. Release: our last look at the snapshot is over before the writer sees the side
    // empty.
    void leave(uint32_t side) { readers_[side & 1].count.fetch_sub(1, std::memory_order_acq_rel); }

    // Returns once every reader that entered before the call has left. Readers that enter meanwhile
    // use the other side and do not hold it up for ever. Both sides are drained, because a reader
    // may have read side_ long before it counted itself.
    void synchronize() {
        std::lock_guard<std::mutex> lock(writers_);
        for (int i = 0; i < 2; i++) {
            const uint32_t old_side = side_.fetch_add(1, std::memory_order_relaxed) & 1;
            drain(old_side);
        }
    }

  private:
    struct alignas(64) Counter {
        std::atomic<uint64_t> count{0};
    };

    void drain(uint32_t side) {
        for (uint32_t attempt = 0;; attempt++) {
            // An addition of 0 and not a load: it takes its place in the counter's order, see
            // enter(). Acquire: the readers' last looks; release: the caller's pointer store, for
            // later readers.
            if (readers_[side].count.fetch_add(0, std::memory_order_acq_rel) == 0) {
                return;
            }
            if (attempt < 64) {
                sched_yield();
            } else {
                const timespec pause = {0, 50000};
                nanosleep(&pause, nullptr);
            }
        }
    }

    alignas(64) std::atomic<uint32_t> side_{0};
    Counter readers_[2];
    std::mutex writers_;
};

// Holds a ReadGate open for a scope.
class ReadScope {
  public:
    explicit ReadScope(ReadGate &gate) : gate_(gate), side_(gate.enter()) {}
    ~ReadScope() { gate_.leave(side_); }
    ReadScope(const ReadScope &) = delete;
    ReadScope &operator=(const ReadScope &) = delete;

  private:
    ReadGate &gate_;
    uint32_t side_;
};

}  // namespace tent

#endif
