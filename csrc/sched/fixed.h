// The scheduler's fixed-point arithmetic, written down once: rates are bytes per second, paces are
// their inverse in ns per byte with 32 fractional bits (Q32), so that the hot path multiplies where
// it would have to divide. Leans on nothing. Must never use floating point: the reference model in
// Python computes the same integers.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tent {

using Wide = unsigned __int128;

constexpr uint64_t NS_PER_S = 1000000000u;
constexpr uint64_t TIME_NS_MAX = 1ull << 60;  // 36 years; sums of several stay within 64 bits
// 2^56 bytes/s: no pace is 0, and the rates of 128 endpoints add up in 64 bits.
constexpr uint64_t RATE_MAX = 1ull << 56;

// ns per byte, Q32, rounded down. rate 1 .. RATE_MAX.
constexpr uint64_t pace_of(uint64_t rate_bytes_per_s) {
    return (NS_PER_S << 32) / rate_bytes_per_s;
}

// Time of `bytes` at a pace, at most TIME_NS_MAX.
constexpr uint64_t wire_ns(uint64_t bytes, uint64_t pace) {
    Wide ns = static_cast<Wide>(bytes) * pace >> 32;
    return ns > TIME_NS_MAX ? TIME_NS_MAX : static_cast<uint64_t>(ns);
}

// a * b / c, at most 2^64 - 1; by 64-bit division where the product fits.
constexpr uint64_t scale(uint64_t a, uint64_t b, uint64_t c) {
    Wide product = static_cast<Wide>(a) * b;
    if (product >> 64 == 0) return static_cast<uint64_t>(product) / c;
    product /= c;
    return product >> 64 ? UINT64_MAX : static_cast<uint64_t>(product);
}

}  // namespace tent
