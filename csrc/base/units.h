// Sizes, durations and rates as text, exact in both directions: parse(format(x)) == x.
//
// Leans on nothing. Must never round silently where it would change what a user wrote, nor depend
// on the locale. Thread-safety: any thread.
#ifndef TENT_BASE_UNITS_H
#define TENT_BASE_UNITS_H

#include <cstdint>
#include <string>
#include <string_view>

namespace tent {

inline constexpr uint64_t KIB = 1024;
inline constexpr uint64_t MIB = 1024 * KIB;
inline constexpr uint64_t GIB = 1024 * MIB;
inline constexpr uint64_t US = 1000;
inline constexpr uint64_t MS = 1000 * US;
inline constexpr uint64_t SECOND = 1000 * MS;
// 1 Gbit/s in bytes per second: network speeds are decimal.
inline constexpr uint64_t GBPS = 125000000;

// Decimal digits only, no sign, no blank. All parsers: false (and *value untouched) when the text
// is not exactly one such value or does not fit 64 bits.
bool parse_count(std::string_view text, uint64_t *value);
// "4096", "64k", "1m", "2g", "1t" (binary, either case); whole numbers only.
bool parse_size(std::string_view text, uint64_t *bytes);
// "200ns", "10us", "5ms", "1s"; the unit is required, except for 0.
bool parse_duration_ns(std::string_view text, uint64_t *ns);
// Gbit/s, "400" or "0.5", at most 9 decimals, to bytes per second, rounded down.
bool parse_gbps(std::string_view text, uint64_t *bytes_per_s);

// In the largest unit that divides it: 65536 -> "64k", 1500000 ns -> "1500us".
std::string format_size(uint64_t bytes);
std::string format_duration(uint64_t ns);
// 62500000 -> "0.5".
std::string format_gbps(uint64_t bytes_per_s);

}  // namespace tent

#endif
