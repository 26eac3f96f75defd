// Planted mutants: each switches one protection of this transport off, so that its tests can show
// that they notice. Compiled in only with the build option TENT_MUTANTS; a normal build has none of
// it. The environment variable TENT_MUTANT names the one that is alive in this process.
//
// Leans on nothing. Must never be reachable in a build that users get.
#ifndef TENT_PLUGINS_SHM_MUTANT_H
#define TENT_PLUGINS_SHM_MUTANT_H

#include <cstdint>

namespace tent::shm {

// X(name, what it breaks). The names are the environment variable's values; the core's mutants
// (csrc/base/mutant.h) pass over all that begin with shm_.
#define TENT_SHM_MUTANT_TABLE(X)                                                    \
    X(shm_lane, "copies are made outside of any lane, where nobody waits for them") \
    X(shm_retired, "slices of a retired endpoint are copied all the same")          \
    X(shm_generation, "slices go to regions that were released")                    \
    X(shm_generation_end, "a released region's generation goes on")                 \
    X(shm_release_wait, "a region is given back while peers still copy")            \
    X(shm_retire_wait, "an endpoint is retired while its peer still copies")        \
    X(shm_peer_lives, "a peer that has gone is reached into by its number")         \
    X(shm_peer_dead, "a dead peer is waited for like one that copies")              \
    X(shm_grant, "memory is given away without a look at the grant")                \
    X(shm_read_only, "who may only read gets a descriptor that writes")             \
    X(shm_seals, "memory that may shrink is mapped")                                \
    X(shm_size, "memory is mapped beyond its file's end")                           \
    X(shm_secret, "any secret opens an endpoint")                                   \
    X(shm_user, "any user is let in")                                               \
    X(shm_proof, "cross-memory attach is believed without a proof")                 \
    X(shm_ring_grant, "the ring's target asks for no grant")                        \
    X(shm_ring_bell, "nobody rings for what was put into the ring")                 \
    X(shm_leftovers, "sockets of killed engines stay")

enum class Mutant : uint8_t {
#define TENT_SHM_MUTANT_NAME(name, what) name,
    TENT_SHM_MUTANT_TABLE(TENT_SHM_MUTANT_NAME)
#undef TENT_SHM_MUTANT_NAME
};

#ifdef TENT_MUTANTS
bool mutant(Mutant which);
#else
constexpr bool mutant(Mutant) {
    return false;
}
#endif

}  // namespace tent::shm

#endif
