// What jobs.cc keeps: the queue of slices that wait to be copied, which one thread fills and many
// empty, and the results on their way to poll.
//
// Leans on units.h. Allocates at init alone; never blocks, no system call.
#ifndef TENT_PLUGINS_SHM_QUEUE_H
#define TENT_PLUGINS_SHM_QUEUE_H

#include <bit>
#include <new>

#include "units.h"

namespace tent::shm {

// A slice in the queue. Pieces are claimed one by one, by whoever comes; the one who ends the last
// of them hands on the result.
struct alignas(64) Job {
    // Lap of the queue << 32 | pieces that nobody has claimed.
    std::atomic<uint64_t> claim{0};
    std::atomic<uint32_t> left{0};         // pieces that have not ended
    std::atomic<int32_t> status{TENT_OK};  // of the first that failed
    std::atomic<bool> used{false};         // the driver may not fill it anew
    // The driver's to write while not `used`; nobody's while it is.
    uint32_t piece_count;
    uint64_t id;
    const RemoteRegion *region;
    Unit whole;
};

inline uint64_t piece_length(const Job &job, uint32_t piece) {
    const uint64_t left = job.whole.length - piece * PIECE_SIZE;
    return left < PIECE_SIZE ? left : PIECE_SIZE;
}

// A bounded queue in a circle. Thread-safety: push by the driver, claim by anyone.
class Queue {
  public:
    bool init(uint32_t capacity) {
        capacity_ = std::bit_ceil(capacity);
        jobs_.reset(new (std::nothrow) Job[capacity_]);
        return jobs_ != nullptr;
    }
    // The job to be filled, nullptr: it is full. Then push() makes it visible.
    Job *next() {
        Job &job = jobs_[tail_.load(std::memory_order_relaxed) & (capacity_ - 1)];
        // Acquire: whoever ended its last slice has done with its fields.
        return job.used.load(std::memory_order_acquire) ? nullptr : &job;
    }
    void push(Job &job) {
        const uint64_t position = tail_.load(std::memory_order_relaxed);
        job.piece_count = static_cast<uint32_t>((job.whole.length + PIECE_SIZE - 1) / PIECE_SIZE);
        job.status.store(TENT_OK, std::memory_order_relaxed);
        job.left.store(job.piece_count, std::memory_order_relaxed);
        job.used.store(true, std::memory_order_relaxed);
        // Before the pieces can be claimed, and taken off again.
        waiting_.fetch_add(cost(job, job.whole.length), std::memory_order_relaxed);
        // Release: the fields come before the claim that leads to them.
        job.claim.store(lap(position) << 32 | job.piece_count, std::memory_order_release);
        tail_.store(position + 1, std::memory_order_release);
    }
    // The oldest piece that nobody has claimed; nullptr: there is none.
    Job *claim(uint32_t *piece) {
        for (;;) {
            uint64_t position = head_.load(std::memory_order_acquire);
            if (position == tail_.load(std::memory_order_acquire)) return nullptr;
            Job &job = jobs_[position & (capacity_ - 1)];
            uint64_t word = job.claim.load(std::memory_order_acquire);
            const uint32_t unclaimed = static_cast<uint32_t>(word);
            if (word >> 32 != lap(position) || unclaimed == 0) {
                // Used up, or even filled anew: the head lags behind. Whoever is first moves it.
                head_.compare_exchange_strong(position, position + 1, std::memory_order_acq_rel);
                continue;
            }
            // Acquire: the job's fields. They stay as they are until our piece has ended.
            if (!job.claim.compare_exchange_weak(word, word - 1, std::memory_order_acq_rel))
                continue;
            *piece = job.piece_count - unclaimed;
            waiting_.fetch_sub(cost(job, piece_length(job, *piece)), std::memory_order_relaxed);
            return &job;
        }
    }
    // All pieces of a job that nobody has claimed; 0: none. By the driver, for any used job.
    static uint32_t claim_all(Job &job) {
        uint64_t word = job.claim.load(std::memory_order_acquire);
        while (static_cast<uint32_t>(word) != 0 &&
               !job.claim.compare_exchange_weak(word, word >> 32 << 32, std::memory_order_acq_rel))
            continue;
        return static_cast<uint32_t>(word);
    }
    void unclaimed_ended(const Job &job, uint32_t count) {
        for (uint32_t piece = job.piece_count - count; piece < job.piece_count; piece++)
            waiting_.fetch_sub(cost(job, piece_length(job, piece)), std::memory_order_relaxed);
    }
    // What nobody has claimed, in bytes of mapped memory that take as long.
    uint64_t waiting() const { return waiting_.load(std::memory_order_relaxed); }
    uint32_t capacity() const { return capacity_; }
    Job &at(uint32_t index) const { return jobs_[index]; }

  private:
    // The kernel takes four times as long for a byte as we do: README.md.
    static uint64_t cost(const Job &job, uint64_t bytes) {
        return job.whole.mapped ? bytes : 4 * bytes;
    }
    // From 1 on: a job that was never filled belongs to no lap.
    uint64_t lap(uint64_t position) const {
        return static_cast<uint32_t>(position / capacity_ + 1);
    }

    std::unique_ptr<Job[]> jobs_;
    uint32_t capacity_ = 0;
    alignas(64) std::atomic<uint64_t> head_{0};
    alignas(64) std::atomic<uint64_t> tail_{0};
    alignas(64) std::atomic<uint64_t> waiting_{0};
};

// Results of one who copies, on their way to poll. Thread-safety: one pushes, the driver pops. It
// is as large as the queue, and each slice has one result: it is never full.
class Results {
  public:
    struct Entry {
        Endpoint *endpoint;
        uint64_t id;
        int32_t status;
    };

    bool init(uint32_t capacity) {
        capacity_ = capacity;
        entries_.reset(new (std::nothrow) Entry[capacity]);
        return entries_ != nullptr;
    }
    void push(const Entry &entry) {
        const uint64_t tail = tail_.load(std::memory_order_relaxed);
        entries_[tail & (capacity_ - 1)] = entry;
        tail_.store(tail + 1, std::memory_order_release);
    }
    bool pop(Entry *entry) {
        const uint64_t head = head_;
        if (head == tail_.load(std::memory_order_acquire)) return false;
        *entry = entries_[head & (capacity_ - 1)];
        head_ = head + 1;
        return true;
    }

  private:
    std::unique_ptr<Entry[]> entries_;
    uint32_t capacity_ = 0;
    alignas(64) uint64_t head_ = 0;  // the driver's
    alignas(64) std::atomic<uint64_t> tail_{0};
};

}  // namespace tent::shm

#endif
