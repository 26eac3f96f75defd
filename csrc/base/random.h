// Random: the one source of randomness of an engine (ids, nonces, tokens, jitter).
//
// Seeded it is deterministic and NOT secret: manual mode and tests. From the system, fill() is fit
// for keys and tokens. Must never fall back from the second to the first. Thread-safety: none (the
// owner locks), except that fill() in system mode may be called from any thread.
#ifndef TENT_BASE_RANDOM_H
#define TENT_BASE_RANDOM_H

#include <cstddef>
#include <cstdint>

namespace tent {

class Random {
  public:
    // Unseeded it behaves as seeded with 0.
    Random() { seed(0); }

    // The same seed gives the same numbers, on every machine and in every version.
    void seed(uint64_t value);

    // From now on fill() takes its bytes from the kernel, and u64() runs from a seed of the kernel.
    void seed_from_system();

    // The next number: for jitter, spreading, ids. In system mode, too, not for secrets.
    uint64_t u64();

    // A number in [0, bound); 0 for bound 0. The bias is below bound / 2^64.
    uint64_t below(uint64_t bound) {
        return static_cast<uint64_t>(static_cast<unsigned __int128>(u64()) * bound >> 64);
    }

    // Fills memory. In system mode with getrandom(2), fit for secrets; it ends the process when the
    // kernel has none to give (older than Linux 3.17), because a guessable token is worse than no
    // engine.
    void fill(void *data, size_t size);

  private:
    uint64_t state_[4] = {};
    bool system_ = false;
};

}  // namespace tent

#endif
