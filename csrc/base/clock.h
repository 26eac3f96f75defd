// The system's clocks, in one place: everything else takes the time as an argument.
//
// Must never be called where an engine in manual mode decides something; that has the time of
// tent_engine_step only. Thread-safety: any thread. Neither blocks (vDSO).
#ifndef TENT_BASE_CLOCK_H
#define TENT_BASE_CLOCK_H

#include <cstdint>
#include <ctime>

namespace tent {

// CLOCK_MONOTONIC in nanoseconds.
inline uint64_t monotonic_ns() {
    timespec now = {};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

// Milliseconds since 1970 (UTC): for expiry dates of grants only, it may jump.
inline uint64_t realtime_ms() {
    timespec now = {};
    clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000u +
           static_cast<uint64_t>(now.tv_nsec) / 1000000u;
}

}  // namespace tent

#endif
