// Bandwidths of simulated rails, for tests with and without engines. Leans on sim.h alone.
#pragma once

#include <vector>

#include "plugins/sim/sim.h"

namespace sim_bandwidth {

inline tent_sim_bandwidth constant(uint64_t bytes_per_s) {
    tent_sim_bandwidth made{};
    made.size = sizeof made;
    made.bytes_per_s = bytes_per_s;
    return made;
}

inline tent_sim_bandwidth flapping(uint64_t high, uint64_t low, uint64_t period_ns,
                                   uint64_t phase_ns = 0) {
    tent_sim_bandwidth made = constant(0);
    made.kind = TENT_SIM_FLAPPING;
    made.high_bytes_per_s = high;
    made.low_bytes_per_s = low;
    made.period_ns = period_ns;
    made.phase_ns = phase_ns;
    return made;
}

inline tent_sim_bandwidth piecewise(const std::vector<tent_sim_point> &points) {
    tent_sim_bandwidth made = constant(0);
    made.kind = TENT_SIM_PIECEWISE;
    made.points = points.data();
    made.point_count = points.size();
    return made;
}

}  // namespace sim_bandwidth
