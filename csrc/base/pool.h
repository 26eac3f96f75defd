// IndexPool: hands out the indexes [0, capacity) of preallocated arrays, in chains, lock-free.
//
// A free list whose head carries a tag, plus a high-water mark below which indexes have been handed
// out at least once: nothing is written at init, so a pool sized for the worst case costs no
// resident memory until used. Leans on std::atomic_ref over zeroed memory. Must never allocate
// after init, block, or make a system call.
//
// Thread-safety: all but init from any thread. An index belongs to whoever took it until it is
// given back; only the owner may call next and set_next for it.
#ifndef TENT_BASE_POOL_H
#define TENT_BASE_POOL_H

#include <atomic>
#include <cstdint>
#include <cstdlib>

namespace tent {

class IndexPool {
  public:
    static constexpr uint32_t NIL = UINT32_MAX;  // ends a chain
    static constexpr uint32_t CAPACITY_MAX = 1u << 30;

    IndexPool() = default;
    ~IndexPool() { free(links_); }
    IndexPool(const IndexPool &) = delete;
    IndexPool &operator=(const IndexPool &) = delete;

    // False when there is no memory, capacity is 0 or above CAPACITY_MAX, or on a second call.
    bool init(uint32_t capacity) {
        if (links_ != nullptr || capacity == 0 || capacity > CAPACITY_MAX) {
            return false;
        }
        links_ = static_cast<uint32_t *>(calloc(capacity, sizeof(uint32_t)));
        if (links_ == nullptr) {
            return false;
        }
        capacity_ = capacity;
        free_count_.store(capacity, std::memory_order_relaxed);
        return true;
    }

    // Takes up to `count` indexes as a chain: *first, next(*first), ... NIL. Returns how many (0:
    // the pool is empty now, *first is NIL). Used indexes come first, so memory already touched is
    // used again.
    uint32_t take(uint32_t count, uint32_t *first) {
        uint32_t last = NIL;
        uint32_t taken = take_used(count, first, &last);
        if (taken < count) {
            taken += take_fresh(count - taken, first, last);
        }
        if (taken != 0) {
            // Relaxed: a gauge, not a guard.
            free_count_.fetch_sub(taken, std::memory_order_relaxed);
        }
        return taken;
    }

    // Takes one; NIL when the pool is empty now.
    uint32_t take_one() {
        uint32_t index = NIL;
        take(1, &index);
        return index;
    }

    // Gives back a chain of `count` indexes that runs from first to last by next(); last's link is
    // overwritten. What the caller wrote to the items before is visible to whoever takes them next.
    void give(uint32_t first, uint32_t last, uint32_t count) {
        uint64_t head = head_.load(std::memory_order_relaxed);
        for (;;) {
            set_next(last, index_of(head));
            // Release: the chain's links and the caller's last writes are visible to the taker.
            if (head_.compare_exchange_weak(head, advance(head, first), std::memory_order_release,
                                            std::memory_order_relaxed)) {
                break;
            }
        }
        free_count_.fetch_add(count, std::memory_order_relaxed);
    }

    void give_one(uint32_t index) { give(index, index, 1); }

    // The index after this one in its chain. Relaxed: the owner wrote it, or received it with the
    // chain by acquire.
    uint32_t next(uint32_t index) const {
        return std::atomic_ref<uint32_t>(links_[index]).load(std::memory_order_relaxed);
    }
    // Atomic because a taker that is about to lose its race may read the link at the same time.
    void set_next(uint32_t index, uint32_t next_index) {
        std::atomic_ref<uint32_t>(links_[index]).store(next_index, std::memory_order_relaxed);
    }

    // How many are free; approximate while others take and give.
    uint32_t available() const {
        const int64_t count = free_count_.load(std::memory_order_relaxed);
        return count < 0 ? 0 : static_cast<uint32_t>(count);
    }
    uint32_t capacity() const { return capacity_; }

  private:
    static uint32_t index_of(uint64_t head) { return static_cast<uint32_t>(head); }
    // The tag counts changes of the head. It makes a taker fail that read links of items which were
    // meanwhile taken and given back (ABA); it would have to sleep through exactly 2^32 changes to
    // be fooled.
    static uint64_t advance(uint64_t head, uint32_t index) {
        return ((head >> 32) + 1) << 32 | index;
    }

    uint32_t take_used(uint32_t count, uint32_t *first, uint32_t *last) {
        *first = NIL;
        if (count == 0) {
            return 0;
        }
        // Acquire: the links that were published by the gives which led to this head. Every change
        // of the head is a read-modify-write, so the release sequence of each give reaches us
        // however many changes lie between.
        uint64_t head = head_.load(std::memory_order_acquire);
        for (;;) {
            const uint32_t start = index_of(head);
            if (start == NIL) {
                return 0;
            }
            uint32_t end = start;
            uint32_t taken = 1;
            uint32_t after = next(end);
            while (taken < count && after != NIL) {
                end = after;
                after = next(end);
                taken++;
            }
            // Acquire on both: success owns the items, failure walks a new chain.
            if (head_.compare_exchange_weak(head, advance(head, after), std::memory_order_acquire,
                                            std::memory_order_acquire)) {
                set_next(end, NIL);
                *first = start;
                *last = end;
                return taken;
            }
        }
    }

    // Extends the chain that ends in `last` (NIL: there is none yet) by indexes never handed out
    // before.
    uint32_t take_fresh(uint32_t count, uint32_t *first, uint32_t last) {
        // Relaxed throughout: nobody wrote anything to fresh items that we would have to see.
        uint32_t mark = mark_.load(std::memory_order_relaxed);
        uint32_t taken = 0;
        do {
            taken = capacity_ - mark < count ? capacity_ - mark : count;
            if (taken == 0) {
                return 0;
            }
        } while (!mark_.compare_exchange_weak(mark, mark + taken, std::memory_order_relaxed));
        for (uint32_t i = 0; i < taken; i++) {
            set_next(mark + i, i + 1 < taken ? mark + i + 1 : NIL);
        }
        if (last == NIL) {
            *first = mark;
        } else {
            set_next(last, mark);
        }
        return taken;
    }

    uint32_t *links_ = nullptr;
    uint32_t capacity_ = 0;
    alignas(64) std::atomic<uint64_t> head_{NIL};  // tag << 32 | index
    alignas(64) std::atomic<uint32_t> mark_{0};    // indexes from here on were never handed out
    std::atomic<int64_t> free_count_{0};
};

}  // namespace tent

#endif
