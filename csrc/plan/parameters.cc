// The table behind `set name=value`. See parameters.h.
//
// Leans on base/units. Must never name a parameter itself.
#include "plan/parameters.h"

namespace tent {

namespace {

constexpr ParameterInfo TABLE[] = {
#define TENT_INFO(field, name, kind, initial, min, max, doc) \
    {name, &Parameters::field, ParameterKind::kind, (initial), (min), (max), doc},
    TENT_PARAMETERS(TENT_INFO)
#undef TENT_INFO
};

constexpr bool defaults_in_range() {
    for (const ParameterInfo &info : TABLE) {
        if (info.initial < info.min || info.initial > info.max) return false;
    }
    return true;
}
static_assert(defaults_in_range());

}  // namespace

std::span<const ParameterInfo> parameter_table() {
    return TABLE;
}

const ParameterInfo *parameter_find(std::string_view name) {
    for (const ParameterInfo &info : TABLE) {
        if (name == info.name) return &info;
    }
    return nullptr;
}

const char *parameter_kind_name(ParameterKind kind) {
    switch (kind) {
        case ParameterKind::COUNT: return "count";
        case ParameterKind::SIZE: return "size";
        case ParameterKind::DURATION: return "duration";
        case ParameterKind::RATE: return "Gbit/s";
        case ParameterKind::SWITCH: return "yes/no";
    }
    return "?";
}

bool parameter_parse(const ParameterInfo &info, std::string_view text, uint64_t *value) {
    switch (info.kind) {
        case ParameterKind::COUNT: return parse_count(text, value);
        case ParameterKind::SIZE: return parse_size(text, value);
        case ParameterKind::DURATION: return parse_duration_ns(text, value);
        case ParameterKind::RATE: return parse_gbps(text, value);
        case ParameterKind::SWITCH: *value = text == "yes"; return text == "yes" || text == "no";
    }
    return false;
}

std::string parameter_format(const ParameterInfo &info, uint64_t value) {
    switch (info.kind) {
        case ParameterKind::COUNT: break;
        case ParameterKind::SIZE: return format_size(value);
        case ParameterKind::DURATION: return format_duration(value);
        case ParameterKind::RATE: return format_gbps(value);
        case ParameterKind::SWITCH: return value ? "yes" : "no";
    }
    return std::to_string(value);
}

}  // namespace tent
