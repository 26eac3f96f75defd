// Ring<T>: a bounded queue, many producers and many consumers, lock-free.
//
// After Dmitry Vyukov's bounded MPMC queue: each cell carries a sequence number that says whose
// turn it is. Leans on std::atomic_ref over zeroed memory, so that init() writes nothing and pages
// never used are never resident. Must never allocate after init, block, or make a system call.
//
// Thread-safety: try_push, try_pop and size from any thread; init once, before any of them.
#ifndef TENT_BASE_RING_H
#define TENT_BASE_RING_H

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

namespace tent {

template <class T>
class Ring {
    static_assert(std::is_trivially_copyable_v<T>,
                  "cells live in zeroed raw memory and are copied bytewise");
    static_assert(alignof(T) <= alignof(std::max_align_t), "calloc aligns no further");

  public:
    static constexpr uint32_t CAPACITY_MAX = 1u << 30;

    Ring() = default;
    ~Ring() { free(cells_); }
    Ring(const Ring &) = delete;
    Ring &operator=(const Ring &) = delete;

    // Allocates room for at least `capacity` items (rounded up to a power of two, at least 2).
    // False when there is no memory, capacity is 0 or above CAPACITY_MAX, or the ring has been
    // initialised before.
    bool init(uint32_t capacity) {
        if (cells_ != nullptr || capacity == 0 || capacity > CAPACITY_MAX) {
            return false;
        }
        const uint32_t rounded = std::bit_ceil(capacity < 2 ? 2u : capacity);
        cells_ = static_cast<Cell *>(calloc(rounded, sizeof(Cell)));
        if (cells_ == nullptr) {
            return false;
        }
        mask_ = rounded - 1;
        return true;
    }

    // False when the ring is full (or was never initialised).
    bool try_push(const T &item) {
        if (cells_ == nullptr) {
            return false;
        }
        // Relaxed: the position only nominates a cell; the cell's sequence decides and orders.
        uint64_t position = tail_.load(std::memory_order_relaxed);
        for (;;) {
            Cell &cell = cells_[position & mask_];
            std::atomic_ref<uint64_t> turn(cell.turn);
            // Acquire: pairs with the consumer's release below, so its copy out happens before our
            // copy in.
            const int64_t ahead =
                static_cast<int64_t>(turn.load(std::memory_order_acquire) - free_turn(position));
            if (ahead == 0) {
                // Relaxed: winning the position orders nothing, the turn does.
                if (tail_.compare_exchange_weak(position, position + 1,
                                                std::memory_order_relaxed)) {
                    cell.item = item;
                    // Release: the item is visible before the turn that hands it to a consumer.
                    turn.store(free_turn(position) + 1, std::memory_order_release);
                    return true;
                }
            } else if (ahead < 0) {
                return false;
            } else {
                position = tail_.load(std::memory_order_relaxed);
            }
        }
    }

    // False when the ring is empty (or the oldest push has not finished yet).
    bool try_pop(T &item) {
        if (cells_ == nullptr) {
            return false;
        }
        uint64_t position = head_.load(std::memory_order_relaxed);
        for (;;) {
            Cell &cell = cells_[position & mask_];
            std::atomic_ref<uint64_t> turn(cell.turn);
            // Acquire: pairs with the producer's release, the item is complete.
            const int64_t ahead = static_cast<int64_t>(turn.load(std::memory_order_acquire) -
                                                       (free_turn(position) + 1));
            if (ahead == 0) {
                if (head_.compare_exchange_weak(position, position + 1,
                                                std::memory_order_relaxed)) {
                    item = cell.item;
                    // Release: our copy out is over before a producer of the next lap may overwrite
                    // the cell.
                    turn.store(free_turn(position) + mask_ + 1, std::memory_order_release);
                    return true;
                }
            } else if (ahead < 0) {
                return false;
            } else {
                position = head_.load(std::memory_order_relaxed);
            }
        }
    }

    // How many items wait; approximate while others push and pop.
    uint32_t size() const {
        const uint64_t head = head_.load(std::memory_order_relaxed);
        const uint64_t tail = tail_.load(std::memory_order_relaxed);
        if (tail <= head) {
            return 0;
        }
        const uint64_t count = tail - head;
        return count > capacity() ? capacity() : static_cast<uint32_t>(count);
    }

    bool empty() const { return size() == 0; }
    uint32_t capacity() const { return cells_ == nullptr ? 0 : static_cast<uint32_t>(mask_ + 1); }

  private:
    struct Cell {
        uint64_t turn;
        T item;
    };

    // Vyukov starts cell i at sequence i. Stored minus i, the start is 0: fresh zeroed pages are a
    // valid empty ring.
    uint64_t free_turn(uint64_t position) const { return position & ~mask_; }

    // Read-only after init, then one line each for consumers and producers.
    alignas(64) Cell *cells_ = nullptr;
    uint64_t mask_ = 0;
    alignas(64) std::atomic<uint64_t> head_{0};
    alignas(64) std::atomic<uint64_t> tail_{0};
};

}  // namespace tent

#endif
