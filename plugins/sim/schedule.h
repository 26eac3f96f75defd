// Bandwidth over time: how much a server carries between two times, and when a work is done.
//
// Pure functions of integers; leans on the standard library only. Exact: nothing is rounded but the
// final time, up to whole nanoseconds. Must never loop over time: a flapping or far-away schedule
// costs as much as its pieces.
#ifndef TENT_SIM_SCHEDULE_H
#define TENT_SIM_SCHEDULE_H

#include <cstdint>
#include <vector>

#include "sim.h"

namespace tent::sim {

// A rate of 1 byte per second does one unit of work per nanosecond, so a byte is 1e9 units.
__extension__ typedef unsigned __int128 Work;
constexpr Work UNITS_PER_BYTE = 1'000'000'000u;
constexpr uint64_t NEVER = UINT64_MAX;

class Schedule {
  public:
    // nullptr and the schedule set, or what is wrong with it.
    static const char *read(const tent_sim_bandwidth *from, Schedule *out);

    // Work done in [from_ns, to_ns); 0 when to_ns is not later.
    Work carried(uint64_t from_ns, uint64_t to_ns) const;
    // The first time at which `work` begun at from_ns is done; NEVER when it never is.
    uint64_t finish(uint64_t from_ns, Work work) const;
    // The first or high rate: what one would call the speed of it.
    uint64_t first_rate() const { return flapping_ ? high_ : points_.front().bytes_per_s; }

  private:
    struct Piece {
        uint64_t bytes_per_s;
        uint64_t end_ns;
    };
    Piece piece_at(uint64_t now_ns) const;
    Work period_work() const { return Work{high_ + low_} * (period_ns_ / 2); }

    std::vector<tent_sim_point> points_{{0, 0}};
    bool flapping_ = false;
    uint64_t high_ = 0;
    uint64_t low_ = 0;
    uint64_t period_ns_ = 0;
    uint64_t phase_ns_ = 0;
};

}  // namespace tent::sim

#endif
