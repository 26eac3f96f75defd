// Units to numbers and back. See units.h.
//
// Leans on integer arithmetic only: a rate written as 0.1 must not depend on a float's last bit.
#include "base/units.h"

#include <charconv>

namespace tent {

namespace {

struct Unit {
    std::string_view name;
    uint64_t factor;
};

// Largest first, so that formatting takes the first that divides.
constexpr Unit SIZE_UNITS[] = {{"t", 1024 * GIB}, {"g", GIB}, {"m", MIB}, {"k", KIB}};
constexpr Unit DURATION_UNITS[] = {{"s", SECOND}, {"ms", MS}, {"us", US}, {"ns", 1}};
constexpr size_t GBPS_DECIMALS = 9;
constexpr uint64_t NANO = 1000000000;

char to_lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool ends_with_unit(std::string_view text, std::string_view unit) {
    if (text.size() <= unit.size()) return false;
    const size_t start = text.size() - unit.size();
    for (size_t i = 0; i < unit.size(); i++) {
        if (to_lower(text[start + i]) != unit[i]) return false;
    }
    // "ms" must not pass as "m" digits plus "s".
    return text[start - 1] >= '0' && text[start - 1] <= '9';
}

bool parse_scaled(std::string_view digits, uint64_t factor, uint64_t *value) {
    uint64_t count = 0;
    uint64_t scaled = 0;
    if (!parse_count(digits, &count) || __builtin_mul_overflow(count, factor, &scaled)) {
        return false;
    }
    *value = scaled;
    return true;
}

template <size_t N>
std::string format_in(const Unit (&units)[N], uint64_t value) {
    for (const Unit &unit : units) {
        if (value != 0 && value % unit.factor == 0) {
            return std::to_string(value / unit.factor) + std::string(unit.name);
        }
    }
    return std::to_string(value);
}

}  // namespace

bool parse_count(std::string_view text, uint64_t *value) {
    uint64_t parsed = 0;
    const char *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, parsed);
    if (text.empty() || error != std::errc() || stop != end) return false;
    *value = parsed;
    return true;
}

bool parse_size(std::string_view text, uint64_t *bytes) {
    for (const Unit &unit : SIZE_UNITS) {
        if (ends_with_unit(text, unit.name)) {
            return parse_scaled(text.substr(0, text.size() - unit.name.size()), unit.factor, bytes);
        }
    }
    return parse_count(text, bytes);
}

bool parse_duration_ns(std::string_view text, uint64_t *ns) {
    for (const Unit &unit : DURATION_UNITS) {
        if (ends_with_unit(text, unit.name)) {
            return parse_scaled(text.substr(0, text.size() - unit.name.size()), unit.factor, ns);
        }
    }
    uint64_t zero = 0;
    if (!parse_count(text, &zero) || zero != 0) return false;
    *ns = 0;
    return true;
}

bool parse_gbps(std::string_view text, uint64_t *bytes_per_s) {
    const size_t dot = text.find('.');
    uint64_t nano_gbps = 0;
    if (!parse_scaled(text.substr(0, dot), NANO, &nano_gbps)) return false;
    if (dot != std::string_view::npos) {
        const std::string_view decimals = text.substr(dot + 1);
        uint64_t fraction = 0;
        if (decimals.size() > GBPS_DECIMALS || !parse_count(decimals, &fraction)) return false;
        for (size_t i = decimals.size(); i < GBPS_DECIMALS; i++)
            fraction *= 10;
        if (__builtin_add_overflow(nano_gbps, fraction, &nano_gbps)) return false;
    }
    // A billionth of a Gbit/s is one bit per second.
    *bytes_per_s = nano_gbps / 8;
    return true;
}

std::string format_size(uint64_t bytes) {
    return format_in(SIZE_UNITS, bytes);
}

std::string format_duration(uint64_t ns) {
    return format_in(DURATION_UNITS, ns);
}

std::string format_gbps(uint64_t bytes_per_s) {
    const uint64_t whole = bytes_per_s / GBPS;
    uint64_t fraction = bytes_per_s % GBPS * 8;
    std::string text = std::to_string(whole);
    if (fraction == 0) return text;
    const std::string digits = std::to_string(fraction);
    text += '.' + std::string(GBPS_DECIMALS - digits.size(), '0') + digits;
    text.erase(text.find_last_not_of('0') + 1);
    return text;
}

}  // namespace tent
