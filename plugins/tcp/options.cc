// Reads the options of the tcp transport. Leans on options.h; must never guess: a bad value is an
// error with a sentence.
#include "options.h"

#include "frame.h"

#include <strings.h>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tent::tcp {
namespace {

struct Unit {
    const char *suffix;
    uint64_t factor;
};

constexpr Unit SIZE_UNITS[] = {{"", 1}, {"k", 1ull << 10}, {"m", 1ull << 20}, {"g", 1ull << 30}};
constexpr Unit COUNT_UNITS[] = {{"", 1}};
constexpr Unit TIME_UNITS[] = {{"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", 1000000000}};

struct Rule {
    const char *name;
    const Unit *units;
    size_t unit_count;
    uint64_t least;
    uint64_t most;
    const char *expected;
};

constexpr Rule RULES[] = {
    {"connections", COUNT_UNITS, 1, 1, CONNECTIONS_MAX, "a number from 1 to 16"},
    {"frame_size_max", SIZE_UNITS, 4, 4096, 64ull << 20, "a size from 4k to 64m"},
    {"sndbuf", SIZE_UNITS, 4, 0, 1ull << 30, "a size from 0 (the kernel decides) to 1g"},
    {"rcvbuf", SIZE_UNITS, 4, 0, 1ull << 30, "a size from 0 (the kernel decides) to 1g"},
    {"connect_timeout", TIME_UNITS, 4, 1000000, 600ull * 1000000000, "a time from 1ms to 600s"},
};

bool number_read(const char *text, const Rule &rule, uint64_t *value) {
    if (text == nullptr || *text < '0' || *text > '9') {
        return false;
    }
    errno = 0;
    char *end = nullptr;
    const unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0) {
        return false;
    }
    for (size_t i = 0; i < rule.unit_count; ++i) {
        const Unit &unit = rule.units[i];
        if (strcasecmp(end, unit.suffix) != 0) {
            continue;
        }
        if (number > rule.most / unit.factor) {
            return false;
        }
        *value = number * unit.factor;
        return *value >= rule.least && *value <= rule.most;
    }
    return false;
}

void option_set(Options *options, size_t rule, uint64_t value) {
    switch (rule) {
        case 0: options->connections = static_cast<uint32_t>(value); break;
        case 1: options->frame_size_max = static_cast<uint32_t>(value); break;
        case 2: options->send_buffer_size = static_cast<uint32_t>(value); break;
        case 3: options->receive_buffer_size = static_cast<uint32_t>(value); break;
        default: options->connect_timeout_ns = value; break;
    }
}

}  // namespace

int32_t options_read(const tent_option *options, uint32_t count, Options *out, char *sentence,
                     size_t sentence_size) {
    constexpr size_t rule_count = sizeof(RULES) / sizeof(RULES[0]);
    for (uint32_t i = 0; i < count; ++i) {
        size_t rule = 0;
        while (rule < rule_count && strcmp(options[i].name, RULES[rule].name) != 0) {
            ++rule;
        }
        if (rule == rule_count) {
            snprintf(sentence, sentence_size,
                     "tcp has no option '%s'; it knows connections, frame_size_max, sndbuf, rcvbuf "
                     "and connect_timeout",
                     options[i].name);
            return TENT_E_INVALID;
        }
        uint64_t value = 0;
        if (!number_read(options[i].value, RULES[rule], &value)) {
            snprintf(sentence, sentence_size, "tcp option %s=%s: expected %s", options[i].name,
                     options[i].value != nullptr ? options[i].value : "", RULES[rule].expected);
            return TENT_E_INVALID;
        }
        option_set(out, rule, value);
    }
    return TENT_OK;
}

}  // namespace tent::tcp
