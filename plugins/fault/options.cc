// See options.h. The grammar stands in README.md.
#include "options.h"

#include <strings.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace tent::fault {
namespace {

using Text = std::string_view;

struct Unit {
    Text suffix;
    uint64_t factor;
    uint64_t divisor;
};

// A rate without a unit is in bytes per second; bits count in thousands, as port speeds do.
constexpr Unit RATES[] = {
    {"", 1, 1}, {"kbit", 1000, 8}, {"mbit", 1000000, 8}, {"gbit", 1000000000, 8}};
constexpr Unit SIZES[] = {{"", 1, 1}, {"k", 1 << 10, 1}, {"m", 1 << 20, 1}, {"g", 1 << 30, 1}};
constexpr Unit TIMES[] = {{"ns", 1, 1}, {"us", 1000, 1}, {"ms", 1000000, 1}, {"s", 1000000000, 1}};

constexpr uint64_t NUMBER_MAX = 1ull << 53;

constexpr char A_RATE[] = "a rate above 0 such as 500mbit, 4gbit or bytes per second";
constexpr char A_TIME[] = "a time above 0 such as 300ms";
constexpr char A_CUT[] = "error or hang or down";
constexpr char A_CHANCE[] = "a chance from 0 to 1 such as 0.01";

// Takes the digits at the start; false: there are none, or too many.
bool digits_take(Text *text, uint64_t *out) {
    size_t length = 0;
    uint64_t number = 0;
    while (length < text->size() && (*text)[length] >= '0' && (*text)[length] <= '9') {
        number = number * 10 + static_cast<uint64_t>((*text)[length++] - '0');
        if (number > NUMBER_MAX) return false;
    }
    text->remove_prefix(length);
    *out = number;
    return length > 0;
}

bool number_read(Text text, const Unit (&units)[4], uint64_t *out) {
    uint64_t number = 0;
    if (!digits_take(&text, &number)) return false;
    for (const Unit &unit : units) {
        if (text.size() != unit.suffix.size() ||
            strncasecmp(text.data(), unit.suffix.data(), text.size()) != 0)
            continue;
        if (number > NUMBER_MAX / unit.factor) return false;
        *out = number * unit.factor / unit.divisor;
        return true;
    }
    return false;
}

bool time_read(Text text, uint64_t *out) {
    return number_read(text, TIMES, out) && *out > 0;
}

bool rate_read(Text text, uint64_t *out) {
    return number_read(text, RATES, out) && *out > 0;
}

// "5ms" or "1ms..5ms".
bool delay_read(Text text, Cable *out) {
    const size_t dots = text.find("..");
    if (!time_read(text.substr(0, dots), &out->delay_ns_min)) return false;
    out->delay_ns_max = out->delay_ns_min;
    return dots == Text::npos || (time_read(text.substr(dots + 2), &out->delay_ns_max) &&
                                  out->delay_ns_min <= out->delay_ns_max);
}

bool cut_read(Text text, Cut *out) {
    *out = text == "hang" ? Cut::HANG : text == "down" ? Cut::DOWN : Cut::ERROR;
    return text == "error" || *out != Cut::ERROR;
}

// "1", "0.25", ".01"; up to nine digits after the point.
bool chance_read(Text text, uint64_t *out) {
    const size_t point = text.find('.');
    Text whole = text.substr(0, point);
    Text part = point == Text::npos ? Text("0") : text.substr(point + 1);
    uint64_t ones = 0;
    uint64_t parts = 0;
    if (text.empty()) return false;
    if (!whole.empty() && (!digits_take(&whole, &ones) || !whole.empty() || ones > 1)) return false;
    const size_t part_size = part.size();
    if (part_size > 9 || !digits_take(&part, &parts) || !part.empty()) return false;
    for (size_t i = part_size; i < 9; ++i)
        parts *= 10;
    *out = ones * CHANCE_ONE + parts;
    return *out <= CHANCE_ONE;
}

// Cuts the part up to `mark` off the text's start.
Text part_take(Text *text, char mark) {
    const size_t end = text->find(mark);
    const Text part = text->substr(0, end);
    *text = end == Text::npos ? Text() : text->substr(end + 1);
    return part;
}

Failure failure_of_text(Text name) {
    return failure_named(name.data(), static_cast<uint32_t>(name.size()));
}

// ---- the options; each gives what was expected instead, nullptr when it is right ----------------

struct Parse {
    const Reader &reader;

    const char *rule_add(const Rule &rule) const {
        if (rule.failure == Failure::NONE) return "the name of a failure (README.md lists them)";
        if (reader.rail != nullptr && !on_rail(rule.failure))
            return "the failure of one rail; this one is written as a set line";
        if (reader.faults.rule_count == RULES_MAX) return "at most 64 failures";
        reader.faults.rules[reader.faults.rule_count++] = rule;
        return nullptr;
    }

    // "post:3;slice:17"
    const char *fail(Text list) const {
        do {
            Text number = part_take(&list, ';');
            Rule rule;
            rule.by_count = true;
            rule.failure = failure_of_text(part_take(&number, ':'));
            if (!digits_take(&number, &rule.number) || !number.empty() || rule.number == 0)
                return "failure:number such as post:3, several with ; between";
            if (const char *expected = rule_add(rule)) return expected;
        } while (!list.empty());
        return nullptr;
    }

    const char *fail_for(Text value) const {
        if (value == "once")
            reader.faults.fail_for_ns = 0;
        else if (value == "good")
            reader.faults.fail_for_ns = UINT64_MAX;
        else if (!time_read(value, &reader.faults.fail_for_ns))
            return "once, good or a time such as 300ms";
        return nullptr;
    }

    const char *window_add(const Window &window) const {
        if (reader.rail->window_count == WINDOWS_MAX) return "at most 32 times";
        reader.rail->windows[reader.rail->window_count++] = window;
        return nullptr;
    }

    // What stands behind the time of a schedule: "cut=hang", "throttle=1gbit", "drop=0.5", "post".
    const char *effect(Text text, uint64_t begin_ns, uint64_t end_ns) const {
        const bool bare = text.find('=') == Text::npos;
        const Text name = part_take(&text, '=');
        Window window;
        window.begin_ns = begin_ns;
        window.end_ns = end_ns;
        if (reader.rail != nullptr && name == "cut") {
            if (!bare && !cut_read(text, &window.cut)) return A_CUT;
            return window_add(window);
        }
        if (reader.rail != nullptr && name == "throttle") {
            window.what = Window::What::THROTTLE;
            return rate_read(text, &window.cable.throttle_bytes_per_s) ? window_add(window)
                                                                       : A_RATE;
        }
        if (reader.rail != nullptr && name == "delay") {
            window.what = Window::What::DELAY;
            return delay_read(text, &window.cable) ? window_add(window) : A_TIME;
        }
        Rule rule;
        rule.failure = failure_of_text(name);
        rule.begin_ns = begin_ns;
        rule.end_ns = end_ns;
        rule.chance = CHANCE_ONE;
        if (!bare && !chance_read(text, &rule.chance)) return A_CHANCE;
        return rule_add(rule);
    }

    // "200ms:cut=hang,for=300ms;1s:drop=0.5"
    const char *at(Text list) const {
        do {
            Text entry = part_take(&list, ';');
            uint64_t begin_ns = 0;
            uint64_t for_ns = UINT64_MAX;
            if (!number_read(part_take(&entry, ':'), TIMES, &begin_ns) || entry.empty())
                return "time:what such as 200ms:cut=hang,for=300ms, several with ; between";
            const Text what = part_take(&entry, ',');
            if (!entry.empty() && (part_take(&entry, '=') != "for" || !time_read(entry, &for_ns)))
                return "for=time after the comma, such as for=300ms";
            const uint64_t end_ns = for_ns == UINT64_MAX ? UINT64_MAX : begin_ns + for_ns;
            if (const char *expected = effect(what, begin_ns, end_ns)) return expected;
        } while (!list.empty());
        return nullptr;
    }

    // "100ms" or "100ms,down=20ms"
    const char *flap(Text text) const {
        Options &rail = *reader.rail;
        bool ok = time_read(part_take(&text, ','), &rail.flap_period_ns);
        rail.flap_down_ns = rail.flap_period_ns / 2;
        if (ok && !text.empty())
            ok = part_take(&text, '=') == "down" && time_read(text, &rail.flap_down_ns);
        if (ok && rail.flap_down_ns > 0 && rail.flap_down_ns < rail.flap_period_ns) return nullptr;
        return "a period such as 100ms, or 100ms,down=20ms with a shorter part of it";
    }

    const char *of_rail(Text name, Text value, bool *known) const {
        Options &rail = *reader.rail;
        *known = true;
        if (name == "throttle")
            return rate_read(value, &rail.cable.throttle_bytes_per_s) ? nullptr : A_RATE;
        if (name == "delay")
            return delay_read(value, &rail.cable) ? nullptr : "a time such as 5ms, or 1ms..5ms";
        if (name == "cut_after")
            return number_read(value, SIZES, &rail.cut_after_size) ? nullptr : "a size such as 64m";
        if (name == "cut_for") return time_read(value, &rail.cut_for_ns) ? nullptr : A_TIME;
        if (name == "cut") return cut_read(value, &rail.cut) ? nullptr : A_CUT;
        if (name == "flap") return flap(value);
        *known = false;
        return nullptr;
    }

    const char *of_both(Text name, Text value, bool *known) const {
        *known = true;
        if (name == "fail") return fail(value);
        if (name == "fail_for") return fail_for(value);
        if (name == "at") return at(value);
        Rule rule;
        rule.failure = failure_of_text(name);
        if (rule.failure != Failure::NONE)
            return chance_read(value, &rule.chance) ? rule_add(rule) : A_CHANCE;
        *known = false;
        return nullptr;
    }
};

bool seed_read(Text value, Seed *seed) {
    seed->given = true;
    return digits_take(&value, &seed->value) && value.empty();
}

}  // namespace

bool option_read(const Reader &reader, const char *name, const char *given) {
    const char *value = given != nullptr ? given : "";
    const Parse parse{reader};
    bool known = false;
    const char *expected = nullptr;
    if (reader.rail != nullptr) expected = parse.of_rail(name, value, &known);
    if (!known && reader.seed != nullptr && strcmp(name, "seed") == 0) {
        known = true;
        expected = seed_read(value, reader.seed) ? nullptr : "a number up to 2^53";
    }
    if (!known) expected = parse.of_both(name, value, &known);
    if (!known) {
        snprintf(
            reader.sentence, reader.sentence_size,
            "fault has no %s option '%s'; it knows %sfail, fail_for, at and the names of "
            "failures, such as drop or post",
            reader.rail != nullptr ? "rail" : "transport", name,
            reader.rail != nullptr ? "throttle, delay, cut, cut_after, cut_for, flap, " : "seed, ");
        return false;
    }
    if (expected == nullptr) return true;
    snprintf(reader.sentence, reader.sentence_size, "%s option fault.%s=%s: expected %s",
             reader.rail != nullptr ? "rail" : "transport", name, value, expected);
    return false;
}

}  // namespace tent::fault
