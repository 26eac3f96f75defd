// Planted mutants: each switches one protection off, so that a harness can show that it notices.
// Compiled in only with the build option TENT_MUTANTS; a normal build has none of it, and nothing
// to switch. The environment variable TENT_MUTANT names the one that is alive in this process.
// Leans on nothing. Must never be reachable in a build that users get.
#pragma once

#include <cstdint>

namespace tent {

// X(name, what it breaks). The names are the environment variable's values.
#define TENT_MUTANT_TABLE(X)                                                                    \
    X(fence_remote, "a write's request ends before the peer has retired the endpoint")          \
    X(fence_local, "an endpoint counts as closed before its plugin has let go of local memory") \
    X(fence_order, "slices go to another transport before the first one is fenced")             \
    X(unfenced_silent, "a fence nobody confirmed is reported as a plain failure")               \
    X(unfenced_range, "only half of what may still be written is named")                        \
    X(epoch_check, "a restarted peer passes for the one before")                                \
    X(charge_release, "a failed slice stays charged to its rail")                               \
    X(exactly_once, "a request with a retry is reported twice")                                 \
    X(last_path, "the last path to a peer is excluded like any other")                          \
    X(bounds_check, "the target lets every address pass")                                       \
    X(direction_check, "the target lets reads and writes pass alike")                           \
    X(revoke_check, "a revoked grant still opens")                                              \
    X(retry_offset, "a retried slice goes to its request's beginning")                          \
    X(retry_lost, "a slice whose path failed counts as moved")                                  \
    X(slice_overlap, "a slice begins one byte before the last one ended")                       \
    X(quarantine_leak, "an endpoint carries slices before its canary is back")                  \
    X(canary_place, "canaries are written into the peer's user memory")                         \
    X(deadline_ignored, "requests outlive their deadline")                                      \
    X(late_ignored, "a silent endpoint is never suspected")                                     \
    X(pin_released, "a region may be released while a request uses it")

enum class Mutant : uint8_t {
#define TENT_MUTANT_NAME(name, what) name,
    TENT_MUTANT_TABLE(TENT_MUTANT_NAME)
#undef TENT_MUTANT_NAME
};

#ifdef TENT_MUTANTS
bool mutant(Mutant which);
#else
constexpr bool mutant(Mutant) {
    return false;
}
#endif

}  // namespace tent
