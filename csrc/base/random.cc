// The generators behind Random. See random.h.
//
// Leans on getrandom(2). Must never hand out bytes of the deterministic generator where secrets
// were asked for.
#include "base/random.h"

#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sys/random.h>

namespace tent {

namespace {

// splitmix64 (Steele, Lea, Flood 2014; public-domain C by S. Vigna), which the authors of xoshiro
// advise for filling its state: no seed gives the forbidden all-zero state.
uint64_t split_mix(uint64_t &state) {
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void fill_from_system(void *data, size_t size) {
    auto *at = static_cast<uint8_t *>(data);
    while (size > 0) {
        const ssize_t got = getrandom(at, size, 0);
        if (got > 0) {
            at += got;
            size -= static_cast<size_t>(got);
        } else if (errno != EINTR) {
            fprintf(stderr, "tent: the system gives no random bytes (getrandom: %s)\n",
                    strerror(errno));
            abort();
        }
    }
}

}  // namespace

void Random::seed(uint64_t value) {
    system_ = false;
    for (uint64_t &word : state_)
        word = split_mix(value);
}

void Random::seed_from_system() {
    uint64_t value = 0;
    fill_from_system(&value, sizeof value);
    seed(value);
    system_ = true;
}

// xoshiro256** 1.0 (D. Blackman and S. Vigna, 2018; public domain, prng.di.unimi.it).
uint64_t Random::u64() {
    const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
}

void Random::fill(void *data, size_t size) {
    if (system_) {
        fill_from_system(data, size);
        return;
    }
    auto *at = static_cast<uint8_t *>(data);
    while (size > 0) {
        const uint64_t word = u64();
        const size_t part = size < sizeof word ? size : sizeof word;
        memcpy(at, &word, part);
        at += part;
        size -= part;
    }
}

}  // namespace tent
