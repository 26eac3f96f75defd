// What two processes of one machine share: the board of an endpoint and the table of a target's
// regions. Both are made by the target as sealed memfds; the initiator maps the board read-write
// and the table read-only.
//
// The fence for copies that only the initiator makes (mapped memory, cross-memory attach): who
// copies takes a lane, looks at `retired` and at the region's generation, copies, and leaves the
// lane. The target sets `retired` (or ends the generation) and waits until no lane is as it found
// it. A dead initiator copies nothing. Leans on the standard library. Thread-safety: all of it is
// shared between processes; each lane has one writer.
#ifndef TENT_PLUGINS_SHM_BOARD_H
#define TENT_PLUGINS_SHM_BOARD_H

#include <atomic>
#include <cstdint>

namespace tent::shm {

constexpr uint32_t LANE_COUNT = 16;           // 0: who drives the engine; 1 and on: its helpers
constexpr uint32_t REGIONS_MAX = 65536;       // of one target
constexpr uint32_t BOARD_MAGIC = 0x31424853;  // "SHB1"
constexpr uint32_t TABLE_MAGIC = 0x31544853;  // "SHT1"

// Odd: its owner is copying.
struct alignas(64) Lane {
    std::atomic<uint64_t> sequence{0};
    // Sums since the endpoint began, for the target's counters.
    std::atomic<uint64_t> written_bytes{0}, read_bytes{0};
};

struct Board {
    uint32_t magic = BOARD_MAGIC;
    uint32_t size = 0;
    alignas(64) std::atomic<uint32_t> retired{0};  // the target's: no copy may begin any more
    alignas(64) Lane lanes[LANE_COUNT];
};

// generations[slot]: of the region that has the slot; odd: it is registered, even: it is not.
struct RegionTable {
    uint32_t magic = TABLE_MAGIC;
    uint32_t size = 0;
    alignas(64) std::atomic<uint32_t> generations[REGIONS_MAX];
};

static_assert(std::atomic<uint64_t>::is_always_lock_free);

// From here to lane_leave the target waits for us. False: retired, and the lane is left again.
inline bool lane_enter(Board &board, uint32_t lane) {
    std::atomic<uint64_t> &sequence = board.lanes[lane].sequence;
    sequence.store(sequence.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    // Orders our store before our look at `retired` and the generations; the target's fence orders
    // theirs before its look at the lanes. One of the two sees the other.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (board.retired.load(std::memory_order_acquire) == 0) return true;
    sequence.store(sequence.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    return false;
}

// Copies with non-temporal stores are to be fenced before it (copy.h does).
inline void lane_leave(Board &board, uint32_t lane) {
    std::atomic<uint64_t> &sequence = board.lanes[lane].sequence;
    sequence.store(sequence.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

// Only inside a lane: is the region still registered?
inline bool region_lives(const RegionTable &table, uint32_t slot, uint32_t generation) {
    return table.generations[slot].load(std::memory_order_acquire) == generation;
}

// The target's look at the lanes.
struct LaneView {
    uint64_t sequences[LANE_COUNT];
};
// After the store that makes new copies stop.
inline void lanes_note(const Board &board, LaneView *view) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    for (uint32_t lane = 0; lane < LANE_COUNT; lane++)
        view->sequences[lane] = board.lanes[lane].sequence.load(std::memory_order_acquire);
}
// Nobody copies any more who did when it was noted.
inline bool lanes_quiet(const Board &board, const LaneView &view) {
    for (uint32_t lane = 0; lane < LANE_COUNT; lane++) {
        const uint64_t noted = view.sequences[lane];
        if (noted % 2 == 1 && board.lanes[lane].sequence.load(std::memory_order_acquire) == noted)
            return false;
    }
    return true;
}

}  // namespace tent::shm

#endif
