// Planted mutants: each switches one protection of this transport off, so that its tests can show
// that they notice. Compiled in only with the build option TENT_MUTANTS; a normal build has none of
// it. The environment variable TENT_MUTANT names the one that is alive in this process.
//
// Leans on nothing. Must never be reachable in a build that users get.
#ifndef TENT_PLUGINS_RDMA_MUTANT_H
#define TENT_PLUGINS_RDMA_MUTANT_H

#include <cstdint>

namespace tent::rdma {

// X(name, what it breaks). The names are the environment variable's values; the core's mutants
// (csrc/base/mutant.h) pass over all that begin with rdma_.
#define TENT_RDMA_MUTANT_TABLE(X)                                                     \
    X(rdma_fence_drain, "a close does not wait for what the device gives back")       \
    X(rdma_retire, "a retired endpoint's queue pairs live on")                        \
    X(rdma_window_range, "a window reaches over all that is registered there")        \
    X(rdma_window_access, "a window allows more than the grant does")                 \
    X(rdma_any_qp, "keys are the registration's own, good on every queue pair")       \
    X(rdma_grant, "keys are given without a look at the grant")                       \
    X(rdma_revoke, "a region is given back while peers' keys of it are good")         \
    X(rdma_stale, "regions of another run of the peer are written to")                \
    X(rdma_signal_last, "the last request of a chain asks for no completion")         \
    X(rdma_cache_keep, "a registration outlives its last region")                     \
    X(rdma_psn, "all sequences begin alike")                                          \
    X(rdma_settle, "writes are called settled when they were acknowledged")           \
    X(rdma_keys_late, "an endpoint is ready before its keys have come")               \
    X(rdma_cq_room, "queue pairs claim more completions than the queue has room for") \
    X(rdma_arm, "what completed just before the driver sleeps is slept over")         \
    X(rdma_device_kept, "a device that went is held open")

enum class Mutant : uint8_t {
#define TENT_RDMA_MUTANT_NAME(name, what) name,
    TENT_RDMA_MUTANT_TABLE(TENT_RDMA_MUTANT_NAME)
#undef TENT_RDMA_MUTANT_NAME
};

#ifdef TENT_MUTANTS
bool mutant(Mutant which);
#else
constexpr bool mutant(Mutant) {
    return false;
}
#endif

}  // namespace tent::rdma

#endif
