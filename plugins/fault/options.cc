// See options.h.
#include "options.h"

#include <strings.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tent::fault {
namespace {

struct Unit {
    const char *suffix;
    uint64_t factor;
    uint64_t divisor;
};

// A rate without a unit is in bytes per second; bits count in thousands, as port speeds do.
constexpr Unit RATES[] = {
    {"", 1, 1}, {"kbit", 1000, 8}, {"mbit", 1000000, 8}, {"gbit", 1000000000, 8}};
constexpr Unit SIZES[] = {{"", 1, 1}, {"k", 1 << 10, 1}, {"m", 1 << 20, 1}, {"g", 1 << 30, 1}};
constexpr Unit TIMES[] = {{"ns", 1, 1}, {"us", 1000, 1}, {"ms", 1000000, 1}, {"s", 1000000000, 1}};

constexpr uint64_t NUMBER_MAX = 1ull << 53;

bool number_read(const char *text, const Unit (&units)[4], uint64_t *out) {
    if (text == nullptr || *text < '0' || *text > '9') return false;
    errno = 0;
    char *end = nullptr;
    const unsigned long long number = strtoull(text, &end, 10);
    for (const Unit &unit : units) {
        if (strcasecmp(end, unit.suffix) != 0) continue;
        if (errno != 0 || number > NUMBER_MAX / unit.factor) return false;
        *out = number * unit.factor / unit.divisor;
        return true;
    }
    return false;
}

}  // namespace

bool option_read(const char *name, const char *value, Options *out, char *sentence,
                 size_t sentence_size) {
    const char *expected = nullptr;
    if (strcmp(name, "throttle") == 0) {
        if (!number_read(value, RATES, &out->throttle_bytes_per_s) ||
            out->throttle_bytes_per_s == 0)
            expected = "a rate above 0 such as 500mbit, 4gbit or bytes per second";
    } else if (strcmp(name, "cut_after") == 0) {
        if (!number_read(value, SIZES, &out->cut_after_size)) expected = "a size such as 64m";
    } else if (strcmp(name, "cut_for") == 0) {
        if (!number_read(value, TIMES, &out->cut_for_ns) || out->cut_for_ns == 0)
            expected = "a time above 0 such as 300ms";
    } else if (strcmp(name, "cut") == 0) {
        out->cut_hangs = value != nullptr && strcmp(value, "hang") == 0;
        if (!out->cut_hangs && (value == nullptr || strcmp(value, "error") != 0))
            expected = "error or hang";
    } else {
        snprintf(sentence, sentence_size,
                 "fault has no rail option '%s'; it knows throttle, cut, cut_after and cut_for",
                 name);
        return false;
    }
    if (expected == nullptr) return true;
    snprintf(sentence, sentence_size, "rail option fault.%s=%s: expected %s", name,
             value != nullptr ? value : "", expected);
    return false;
}

}  // namespace tent::fault
