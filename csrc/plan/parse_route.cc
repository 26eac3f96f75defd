// The plan parser's route lines: conditions, then a ladder of rungs. See parser.h.
//
// Leans on base and the vocabularies of words.h. Must never accept a condition that can match
// nothing by its form alone.
#include "base/status.h"
#include "plan/parser.h"

namespace tent {

namespace {

constexpr std::string_view CONDITION_WORDS[] = {"op",   "local", "remote", "same_host",
                                                "size", "class", "label"};
constexpr std::string_view RUNG_WORDS[] = {"via", "slice", "strategy", "hedge"};

bool add_once(std::vector<std::string_view> &keys, std::string_view key) {
    for (const std::string_view other : keys) {
        if (other == key) return false;
    }
    keys.push_back(key);
    return true;
}

}  // namespace

int32_t PlanParser::parse_route() {
    if (plan_.routes.size() == PLAN_ROUTES_MAX) {
        return mistake(1, "the plan has more than %zu routes", PLAN_ROUTES_MAX);
    }
    PlanRoute route;
    route.line = line_;
    if (next_is("*")) {
        at_++;
    } else {
        std::vector<std::string_view> keys;
        while (more() && !next_is(":")) {
            const Word word = words_[at_++];
            Setting setting;
            if (word.text.ends_with(':') && word.text.find('=') == std::string_view::npos) {
                return mistake(word.column,
                               "write a blank before the ':' that ends the conditions");
            }
            if (const int32_t status = split_setting(word, &setting); status != TENT_OK) {
                return status;
            }
            if (!add_once(keys, setting.key.text)) {
                return mistake(word.column, "condition \"%s\" is given twice",
                               setting.key.shown().c_str());
            }
            if (const int32_t status = parse_condition(route, setting); status != TENT_OK) {
                return status;
            }
        }
        if (keys.empty()) {
            return mistake(next_column(), "a route needs conditions, or \"*\" to match everything");
        }
    }
    if (!next_is(":")) {
        return mistake(
            next_column(),
            "expected \" : \" (with blanks) and the transports to use, e.g. \": tcp[0]\"");
    }
    do {
        at_++;  // the ':' or ';'
        if (const int32_t status = parse_rung(route); status != TENT_OK) return status;
    } while (next_is(";"));
    if (const int32_t status = take_end(); status != TENT_OK) return status;
    plan_.routes.push_back(std::move(route));
    return TENT_OK;
}

int32_t PlanParser::parse_condition(PlanRoute &route, const Setting &setting) {
    const std::string_view key = setting.key.text;
    const Word &value = setting.value;
    if (key == "local") return parse_location(value, &route.local);
    if (key == "remote") return parse_location(value, &route.remote);
    if (key == "size") return parse_size_range(route, value);
    if (key == "label") {
        if (value.text.size() > PLAN_NAME_SIZE_MAX) {
            return mistake(value.column, "the label has %zu bytes, at most %zu are allowed",
                           value.text.size(), PLAN_NAME_SIZE_MAX);
        }
        route.label = value.text;
        route.has_label = true;
        return TENT_OK;
    }
    const PlanWord *word = nullptr;
    std::string expected;
    if (key == "op") {
        expected = listing(texts(OP_WORDS));
        word = find_word(OP_WORDS, value.text);
        if (word != nullptr) route.op = word->value;
    } else if (key == "class") {
        expected = listing(texts(CLASS_WORDS));
        word = find_word(CLASS_WORDS, value.text);
        if (word != nullptr) route.class_ = static_cast<int8_t>(word->value);
    } else if (key == "same_host") {
        expected = listing(texts(YES_NO_WORDS));
        word = find_word(YES_NO_WORDS, value.text);
        if (word != nullptr) route.same_host = static_cast<int8_t>(word->value);
    } else {
        return mistake(setting.key.column, "unknown condition \"%s\", expected one of %s%s",
                       setting.key.shown().c_str(), listing(CONDITION_WORDS).c_str(),
                       suggestion(key, CONDITION_WORDS).c_str());
    }
    if (word != nullptr) return TENT_OK;
    return mistake(value.column, "\"%s\" is no value for %s, expected one of %s",
                   value.shown().c_str(), setting.key.shown().c_str(), expected.c_str());
}

int32_t PlanParser::parse_location(const Word &value, std::string *pattern) {
    if (value.text != "*") {
        const size_t colon = value.text.find(':');
        if (colon != std::string_view::npos) {
            uint64_t index = 0;
            const std::string_view digits = value.text.substr(colon + 1);
            // The pattern is compared as text, so "cuda:07" would never match.
            if (!parse_count(digits, &index) || digits != std::to_string(index)) {
                return mistake(value.column + static_cast<uint32_t>(colon) + 1,
                               "\"%s\" is no location: after ':' comes a device number, as in "
                               "cuda:0 (and a blank before the ':' that ends the conditions)",
                               value.shown().c_str());
            }
        }
        const Word name = {value.text.substr(0, colon), value.column};
        if (const int32_t status = check_name(name, "a location"); status != TENT_OK) return status;
        if (value.text.size() > PLAN_NAME_SIZE_MAX) {
            return mistake(value.column, "the location has %zu bytes, at most %zu are allowed",
                           value.text.size(), PLAN_NAME_SIZE_MAX);
        }
    }
    *pattern = value.text;
    return TENT_OK;
}

int32_t PlanParser::parse_size_range(PlanRoute &route, const Word &value) {
    const size_t dots = value.text.find("..");
    const std::string_view low = value.text.substr(0, dots);
    const std::string_view high =
        dots == std::string_view::npos ? std::string_view() : value.text.substr(dots + 2);
    const bool ok = dots != std::string_view::npos && !(low.empty() && high.empty()) &&
                    (low.empty() || parse_size(low, &route.size_min)) &&
                    (high.empty() || parse_size(high, &route.size_max));
    if (!ok) {
        return mistake(value.column,
                       "\"%s\" is no range of sizes: write 64k..1m, ..1m or 1m.. (both ends "
                       "included; units k, m, g, t)",
                       value.shown().c_str());
    }
    if (route.size_min > route.size_max) {
        return mistake(value.column, "the range \"%s\" is empty: its first size is the larger one",
                       value.shown().c_str());
    }
    return TENT_OK;
}

int32_t PlanParser::parse_rung(PlanRoute &route) {
    PlanRung rung;
    Word transport;
    if (route.rungs.size() == PLAN_RUNGS_MAX) {
        return mistake(next_column(), "the route has more than %zu rungs", PLAN_RUNGS_MAX);
    }
    if (const int32_t status = take_name("a transport", &transport); status != TENT_OK)
        return status;
    rung.transport = transport.text;
    if (const int32_t status = parse_tiers(rung); status != TENT_OK) return status;
    std::vector<std::string_view> keys;
    while (more() && !next_is(";")) {
        Setting setting;
        if (const int32_t status = split_setting(words_[at_++], &setting); status != TENT_OK) {
            return status;
        }
        if (!add_once(keys, setting.key.text)) {
            return mistake(setting.key.column, "\"%s\" is given twice",
                           setting.key.shown().c_str());
        }
        if (const int32_t status = parse_rung_setting(rung, setting); status != TENT_OK) {
            return status;
        }
    }
    route.rungs.push_back(std::move(rung));
    return TENT_OK;
}

int32_t PlanParser::parse_tiers(PlanRung &rung) {
    if (!next_is("[")) {
        return mistake(next_column(), "expected the rails of \"%s\" in brackets, e.g. %s[0 1 | 2]",
                       rung.transport.c_str(), rung.transport.c_str());
    }
    uint64_t seen = 0;  // a bit per rail index
    static_assert(PLAN_RAILS_MAX <= 64);
    do {
        at_++;  // the '[' or '|'
        if (rung.tiers.size() == PLAN_TIERS_MAX) {
            return mistake(next_column(), "the rung has more than %zu tiers", PLAN_TIERS_MAX);
        }
        rung.tiers.emplace_back();
        do {
            if (const int32_t status = parse_tier_rail(rung, &seen); status != TENT_OK)
                return status;
        } while (more() && !next_is("|") && !next_is("]"));
    } while (next_is("|"));
    if (!next_is("]")) return mistake(next_column(), "the line ends where ']' is expected");
    at_++;
    return TENT_OK;
}

int32_t PlanParser::parse_tier_rail(PlanRung &rung, uint64_t *seen) {
    Word word;
    if (const int32_t status = take("a rail number", &word); status != TENT_OK) return status;
    uint64_t index = 0;
    if (!parse_count(word.text, &index) || index >= PLAN_RAILS_MAX) {
        return mistake(word.column, "expected a rail number (0 to %zu), found \"%s\"",
                       PLAN_RAILS_MAX - 1, word.shown().c_str());
    }
    if ((*seen >> index & 1) != 0) {
        return mistake(word.column, "rail %u stands twice in this rung",
                       static_cast<unsigned>(index));
    }
    *seen |= uint64_t{1} << index;
    rung.tiers.back().push_back(static_cast<uint32_t>(index));
    rail_uses_.push_back({line_, word.column, static_cast<uint32_t>(index), rung.transport});
    return TENT_OK;
}

int32_t PlanParser::parse_rung_setting(PlanRung &rung, const Setting &setting) {
    const Word &value = setting.value;
    if (setting.key.text == "via") {
        if (find_word(VIA_WORDS, value.text) == nullptr) {
            return mistake(value.column, "\"%s\" is no value for via, expected one of %s",
                           value.shown().c_str(), listing(texts(VIA_WORDS)).c_str());
        }
        rung.via = value.text;
        return TENT_OK;
    }
    if (setting.key.text == "strategy") {
        const PlanWord *word = find_word(STRATEGY_WORDS, value.text);
        if (word == nullptr) {
            return mistake(value.column, "\"%s\" is no value for strategy, expected one of %s",
                           value.shown().c_str(), listing(texts(STRATEGY_WORDS)).c_str());
        }
        rung.strategy = word->value;
        return TENT_OK;
    }
    if (setting.key.text == "hedge") {
        const PlanWord *word = find_word(YES_NO_WORDS, value.text);
        if (word == nullptr) {
            return mistake(value.column, "\"%s\" is no value for hedge, expected one of %s",
                           value.shown().c_str(), listing(texts(YES_NO_WORDS)).c_str());
        }
        rung.hedge = word->value != 0;
        return TENT_OK;
    }
    if (setting.key.text == "slice") {
        const ParameterInfo *info = parameter_find("slice_size");
        uint64_t size = 0;
        if (!parse_size(value.text, &size) || size < info->min || size > info->max) {
            return mistake(value.column, "\"%s\" is no slice size: from %s to %s",
                           value.shown().c_str(), format_size(info->min).c_str(),
                           format_size(info->max).c_str());
        }
        rung.slice_size = size;
        return TENT_OK;
    }
    return mistake(setting.key.column, "unknown word \"%s\" after a rung, expected one of %s%s",
                   setting.key.shown().c_str(), listing(RUNG_WORDS).c_str(),
                   suggestion(setting.key.text, RUNG_WORDS).c_str());
}

}  // namespace tent
