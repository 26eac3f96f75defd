// What api.cc and run.cc share: handles, the last error's sentence, and limits of sim.h's times.
#ifndef TENT_SIM_API_H
#define TENT_SIM_API_H

#include "fabric.h"

namespace tent::sim {

constexpr unsigned long long TENT_SIM_TIME_MAX = 1'000'000'000'000'000;  // eleven days
constexpr unsigned long long TRACE_ROOM_MAX = 1u << 26;
constexpr char NAME_RULE[] =
    "'%.40s' is no name: expected 1 to 20 letters, digits, '_', '.' or '-'";

// The opaque handle is the fabric itself.
inline Fabric &fabric_of(tent_sim *sim) {
    return *reinterpret_cast<Fabric *>(sim);
}
inline tent_sim *handle_of(Fabric *fabric) {
    return reinterpret_cast<tent_sim *>(fabric);
}

// Leaves the sentence for tent_sim_last_error and returns the status.
int32_t fail(int32_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace tent::sim

#endif
