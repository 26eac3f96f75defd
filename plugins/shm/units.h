// The copying itself: a few units of work under one lane of an endpoint's board.
//
// Leans on state.h, attach.h and copy.h. Any thread, each with a lane of its own; allocates
// nothing. Must never touch the peer's memory outside the lane, nor a region whose generation has
// ended.
#ifndef TENT_PLUGINS_SHM_UNITS_H
#define TENT_PLUGINS_SHM_UNITS_H

#include <array>

#include "state.h"

namespace tent::shm {

// A target that ends a region or an endpoint waits no longer than one of these takes.
constexpr uint64_t HOLD_SIZE_MAX = 1 << 20;
// A larger slice is copied in pieces, which several may take.
constexpr uint64_t PIECE_SIZE = 256 << 10;
// For checksums of memory that is not mapped.
constexpr size_t BUFFER_SIZE = 256 << 10;

// A slice or a piece of it, with all that its copy needs: a helper looks at no region. No
// initialisers: post() has arrays of it on the stack.
struct Unit {
    Endpoint *endpoint;
    char *local;
    char *mapped;  // the remote side as mapped here; nullptr: ATTACH
    uint64_t remote, length;
    uint32_t op, flags;
    uint32_t slot, generation;
    bool streaming;  // of a slice large enough to go past the caches
    int32_t status;  // out
};

// Decides which copies go past the caches: not those whose destination was written a short while
// ago, as it is likely in the caches still, where stores past them are slower; and of the others
// only what follows on so many of them, so that a small amount is left where its reader finds it.
// A guess, by the distance in bytes copied since; what is forgotten or mixed up costs time alone.
// Any thread.
class Recent {
  public:
    // Notes that the range is written now. True: past the caches, after `row_min` bytes in a row to
    // places that were not written within the last DISTANCE.
    bool past_caches(const void *to, uint64_t length, uint64_t row_min);

    static constexpr uint64_t DISTANCE = 12
                                         << 20;  // of bytes copied; README.md has the measurement

  private:
    static constexpr uint32_t GRAIN_BITS = 16;  // what is remembered is 64 KiB
    static constexpr uint32_t ENTRY_COUNT = 4096;
    std::atomic<uint64_t> clock_bytes_{0}, row_bytes_{0};
    std::array<std::atomic<uint64_t>, ENTRY_COUNT> entries_{};
};

// Who copies: the driver or one of the helpers.
struct Mover {
    uint32_t lane = 0;
    char *buffer = nullptr;  // BUFFER_SIZE bytes
    Recent *recent = nullptr;
};

// Fills the unit. Not TENT_OK: what the slice ends with.
int32_t unit_make(Endpoint &endpoint, const tent_slice &slice, Unit *unit);
// Does all of them in order; each ends with a status.
void units_move(const Mover &mover, Unit *units, uint32_t count);

}  // namespace tent::shm

#endif
