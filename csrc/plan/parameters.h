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
    SWITCH,    // yes or no: 1 or 0
};

// X(field, name in the plan, kind, default, min, max, one-line doc)
#define TENT_PARAMETERS(X)                                                                        \
    X(slice_size, "slice_size", SIZE, 1 * MIB, 4 * KIB, 1 * GIB,                                  \
      "bytes of a slice, unless the rung names its own")                                          \
    X(window_size_max, "window_max", SIZE, 16 * MIB, 64 * KIB, 16 * GIB,                          \
      "most bytes in flight on one endpoint")                                                     \
    X(window_slices_min, "window_slices_min", COUNT, 2, 1, 1024,                                  \
      "slices an endpoint's window holds at least, whatever its measured rate")                   \
    X(tier_penalty_1, "tier_penalty_1", COUNT, 1, 1, 1000,                                        \
      "factor on a slice's size in the score of tier 1")                                          \
    X(tier_penalty_2, "tier_penalty_2", COUNT, 3, 1, 1000, "the same for tier 2")                 \
    X(tier_penalty_3, "tier_penalty_3", COUNT, 10, 1, 1000, "the same for tier 3 and beyond")     \
    X(retries_max, "retries_max", COUNT, 8, 0, 1000,                                              \
      "times one slice may be posted again before its request fails")                             \
    X(fence_timeout_ns, "fence_timeout", DURATION, 1 * SECOND, 1 * MS, 60 * SECOND,               \
      "longest wait for a peer to confirm a fence, then the request ends as unfenced")            \
    X(cancel_grace_ns, "cancel_grace", DURATION, 100 * MS, 0, 60 * SECOND,                        \
      "time posted slices get to finish after a cancel before their endpoint is fenced")          \
    X(connect_timeout_ns, "connect_timeout", DURATION, 2 * SECOND, 1 * MS, 600 * SECOND,          \
      "longest set-up of a control session or an endpoint")                                       \
    X(peer_rails_max, "peer_rails_max", COUNT, 2, 1, 64,                                          \
      "remote rails that one local rail is connected to")                                         \
    X(rate_prior_bytes_per_s, "rate_prior_gbps", RATE, 10 * GBPS, GBPS / 1000, 100000 * GBPS,     \
      "starting value of the measured rate where neither the plan nor the transport names one")   \
    X(slice_size_min, "slice_size_min", SIZE, 64 * KIB, 4 * KIB, 1 * GIB,                         \
      "the end game shrinks slices down to this")                                                 \
    X(window_gain, "window_gain", COUNT, 125, 10, 10000,                                          \
      "percent of rate x base latency that an endpoint's window holds beside one slice")          \
    X(gain_down, "gain_down", COUNT, 500, 1, 1000,                                                \
      "per mille a measurement below the estimated rate weighs")                                  \
    X(gain_up, "gain_up", COUNT, 150, 1, 1000,                                                    \
      "per mille a measurement above the estimated rate weighs")                                  \
    X(rate_sample_ns, "rate_sample", DURATION, 10 * US, 0, 1 * SECOND,                            \
      "busy time that one measurement of a rate covers at least")                                 \
    X(base_latency_window_ns, "base_latency_window", DURATION, 1 * SECOND, 1 * MS, 3600 * SECOND, \
      "time over which the base latency is the minimum")                                          \
    X(idle_half_life_ns, "idle_half_life", DURATION, 1 * SECOND, 0, 3600 * SECOND,                \
      "time in which an idle endpoint's estimate comes half way back to its nominal rate; "       \
      "0: never")                                                                                 \
    X(class_weight_high, "class_weight_high", COUNT, 16, 1, 1024,                                 \
      "MiB the class high may bind per round while other classes wait")                           \
    X(class_weight_normal, "class_weight_normal", COUNT, 4, 1, 1024, "the same for normal")       \
    X(class_weight_low, "class_weight_low", COUNT, 1, 1, 1024, "the same for low")                \
    X(low_slices_max, "low_slices_max", COUNT, 1, 1, 1024,                                        \
      "slices of class low in flight on one local rail: what a high one may have to wait for")    \
    X(deadline_floor_ns, "deadline_floor", DURATION, 2 * MS, 10 * US, 60 * SECOND,                \
      "least time a slice gets before it counts as late")                                         \
    X(deadline_deviations, "deadline_deviations", COUNT, 4, 1, 1000,                              \
      "mean deviations from its predicted time that a slice gets beyond it")                      \
    X(deadline_initial_ns, "deadline_initial", DURATION, 250 * MS, 10 * US, 60 * SECOND,          \
      "least time a slice gets until deadline_samples were measured on its endpoint")             \
    X(deadline_samples, "deadline_samples", COUNT, 8, 0, 1000000,                                 \
      "completions after which an endpoint's deviation is believed")                              \
    X(probe_first_ns, "probe_first", DURATION, 10 * MS, 1 * MS, 60 * SECOND,                      \
      "from a failure to the first probe of its endpoint, doubling with each further one")        \
    X(probe_max_ns, "probe_max", DURATION, 250 * MS, 1 * MS, 600 * SECOND,                        \
      "longest time between probes while work waits for the peer")                                \
    X(probe_idle_ns, "probe_idle", DURATION, 5 * SECOND, 1 * MS, 3600 * SECOND,                   \
      "the same while none does")                                                                 \
    X(probe_timeout_ns, "probe_timeout", DURATION, 250 * MS, 1 * MS, 60 * SECOND,                 \
      "longest time of one probe: connection and canary")                                         \
    X(flap_half_life_ns, "flap_half_life", DURATION, 10 * SECOND, 0, 3600 * SECOND,               \
      "time in which half of an endpoint's failures are forgotten; 0: never")                     \
    X(slow_share, "slow_share", COUNT, 1, 0, 100,                                                 \
      "percent of the best other endpoint's share of its nominal rate below which one is "        \
      "suspect; 0: never")                                                                        \
    X(last_path_patience_ns, "last_path_patience", DURATION, 300 * MS, 1 * MS, 600 * SECOND,      \
      "silence of the last path to a living peer before its connection is made anew, doubling")   \
    X(peer_timeout_ns, "peer_timeout", DURATION, 30 * SECOND, 10 * MS, 3600 * SECOND,             \
      "silence on all paths, while an answer is awaited, after which a peer counts as lost")      \
    X(fence_reserve_ns, "fence_reserve", DURATION, 20 * MS, 0, 60 * SECOND,                       \
      "time before a request's deadline at which it is stopped, at most a quarter of it")         \
    X(retry_budget, "retry_budget", COUNT, 4096, 0, 1000000000,                                   \
      "slices of one request that may be posted again, all together")                             \
    X(hedge_late, "hedge_late", COUNT, 200, 100, 10000,                                           \
      "percent of its predicted time after which a last slice counts as late (hedge=yes)")        \
    X(hedge_grace_ns, "hedge_grace", DURATION, 1 * MS, 0, 60 * SECOND,                            \
      "time the slower twin of a hedged slice gets before its endpoint is fenced")                \
    X(estimator, "estimator", SWITCH, 1, 0, 1, "measure rates; no: nominal ones are believed")    \
    X(late_binding, "late_binding", SWITCH, 1, 0, 1,                                              \
      "post within windows; no: everything at once, as it is submitted")                          \
    X(ecf, "ecf", SWITCH, 1, 0, 1,                                                                \
      "earliest completion first: wait for a full endpoint that would still be quicker")          \
    X(end_game, "end_game", SWITCH, 1, 0, 1, "shrink slices near the end of a request")

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
