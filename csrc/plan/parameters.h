// The core's parameters: ONE table from which the struct, the plan's `set` lines and the
// documentation's table come.
//
// Leans on base. Must never hold a second list of the names: a new parameter is one line below and
// one in docs/plan-format.md (a test holds them equal). Thread-safety: a Parameters is a plain
// value.
#ifndef TENT_PLAN_PARAMETERS_H
#define TENT_PLAN_PARAMETERS_H

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/units.h"

namespace tent {

// What the text of a value means; the unit of the 64-bit value behind it.
enum class ParameterKind : uint8_t {
    COUNT,     // a plain number
    SIZE,      // bytes
    DURATION,  // nanoseconds
    RATE,      // written in Gbit/s, kept in bytes per second
};

// X(field, name in the plan, kind, default, min, max, one-line doc)
#define TENT_PARAMETERS(X)                                                                    \
    X(slice_size, "slice_size", SIZE, 1 * MIB, 4 * KIB, 1 * GIB,                              \
      "bytes of a slice, unless the rung names its own")                                      \
    X(window_size_max, "window_max", SIZE, 16 * MIB, 64 * KIB, 16 * GIB,                      \
      "most bytes in flight on one endpoint")                                                 \
    X(window_slices_min, "window_slices_min", COUNT, 2, 1, 1024,                              \
      "slices an endpoint's window holds at least, whatever its measured rate")               \
    X(tier_penalty_1, "tier_penalty_1", COUNT, 1, 1, 1000,                                    \
      "factor on a slice's size in the score of tier 1")                                      \
    X(tier_penalty_2, "tier_penalty_2", COUNT, 3, 1, 1000, "the same for tier 2")             \
    X(tier_penalty_3, "tier_penalty_3", COUNT, 10, 1, 1000, "the same for tier 3 and beyond") \
    X(retries_max, "retries_max", COUNT, 8, 0, 1000,                                          \
      "times one slice may be posted again before its request fails")                         \
    X(fence_timeout_ns, "fence_timeout", DURATION, 1 * SECOND, 1 * MS, 60 * SECOND,           \
      "longest wait for a peer to confirm a fence, then the request ends as unfenced")        \
    X(cancel_grace_ns, "cancel_grace", DURATION, 100 * MS, 0, 60 * SECOND,                    \
      "time posted slices get to finish after a cancel before their endpoint is fenced")      \
    X(connect_timeout_ns, "connect_timeout", DURATION, 2 * SECOND, 1 * MS, 600 * SECOND,      \
      "longest set-up of a control session or an endpoint")                                   \
    X(peer_rails_max, "peer_rails_max", COUNT, 2, 1, 64,                                      \
      "remote rails that one local rail is connected to")                                     \
    X(rate_prior_bytes_per_s, "rate_prior_gbps", RATE, 10 * GBPS, GBPS / 1000, 100000 * GBPS, \
      "starting value of the measured rate where neither the plan nor the transport names one")

struct Parameters {
#define TENT_FIELD(field, name, kind, initial, min, max, doc) uint64_t field = (initial);
    TENT_PARAMETERS(TENT_FIELD)
#undef TENT_FIELD
    bool operator==(const Parameters &) const = default;
};

// One row of the table.
struct ParameterInfo {
    const char *name;
    uint64_t Parameters::*field;
    ParameterKind kind;
    uint64_t initial;
    uint64_t min;
    uint64_t max;
    const char *doc;
};

std::span<const ParameterInfo> parameter_table();

// The row of a name; nullptr for an unknown one.
const ParameterInfo *parameter_find(std::string_view name);

// "size", "duration", "count", "Gbit/s".
const char *parameter_kind_name(ParameterKind kind);

// Reads and writes a value in the row's unit. parse: false when the text is no such value (the
// range is not looked at).
bool parameter_parse(const ParameterInfo &info, std::string_view text, uint64_t *value);
std::string parameter_format(const ParameterInfo &info, uint64_t value);

// The penalty of a tier, counted from 1.
inline uint64_t tier_penalty(const Parameters &parameters, uint32_t tier) {
    return tier <= 1   ? parameters.tier_penalty_1
           : tier == 2 ? parameters.tier_penalty_2
                       : parameters.tier_penalty_3;
}

}  // namespace tent

#endif
