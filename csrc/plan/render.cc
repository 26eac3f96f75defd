// A plan's canonical text: what `tent plan` prints, diffs and goldens hold. See plan.h.
//
// Leans on the model and base/units. Must never write a word that parse.cc would read differently.
#include <tent/tent.h>

#include "plan/plan.h"
#include "plan/words.h"

namespace tent {

namespace {

// A rail's own option needs no prefix, its decorator's does.
void append_option(std::string &out, const PlanOption &option, std::string_view own_transport) {
    if (option.transport != own_transport) out += option.transport + '.';
    out += option.name + '=' + option.value;
}

void append_conditions(std::string &out, const PlanRoute &route) {
    const size_t before = out.size();
    if (route.op != 0) out += std::string(" op=") + word_of(OP_WORDS, route.op);
    if (route.local != "*") out += " local=" + route.local;
    if (route.remote != "*") out += " remote=" + route.remote;
    if (route.same_host >= 0) {
        out += std::string(" same_host=") +
               word_of(YES_NO_WORDS, static_cast<uint32_t>(route.same_host));
    }
    if (route.size_min != 0 || route.size_max != UINT64_MAX) {
        out += " size=";
        if (route.size_min != 0) out += format_size(route.size_min);
        out += "..";
        if (route.size_max != UINT64_MAX) out += format_size(route.size_max);
    }
    if (route.class_ >= 0) {
        out += std::string(" class=") + word_of(CLASS_WORDS, static_cast<uint32_t>(route.class_));
    }
    if (route.has_label) out += " label=" + route.label;
    if (out.size() == before) out += " *";
}

}  // namespace

std::string plan_render_rail(const PlanRail &rail) {
    std::string out = "rail " + std::to_string(rail.index) + ' ' + rail.transport + ' ';
    out += rail.device;
    if (rail.numa >= 0) out += " numa=" + std::to_string(rail.numa);
    if (rail.bandwidth_bytes_per_s != 0) {
        out += " gbps=" + format_gbps(rail.bandwidth_bytes_per_s);
    }
    for (const PlanOption &option : rail.options) {
        out += ' ';
        append_option(out, option, rail.transport);
    }
    return out;
}

std::string plan_render_rung(const PlanRung &rung) {
    std::string out = rung.transport + '[';
    for (size_t tier = 0; tier < rung.tiers.size(); tier++) {
        if (tier != 0) out += " | ";
        for (size_t i = 0; i < rung.tiers[tier].size(); i++) {
            if (i != 0) out += ' ';
            out += std::to_string(rung.tiers[tier][i]);
        }
    }
    out += ']';
    if (!rung.via.empty()) out += " via=" + rung.via;
    if (rung.slice_size != 0) out += " slice=" + format_size(rung.slice_size);
    if (rung.strategy != 0)
        out += std::string(" strategy=") + word_of(STRATEGY_WORDS, rung.strategy);
    if (rung.hedge) out += " hedge=yes";
    return out;
}

std::string plan_render_route(const PlanRoute &route) {
    std::string out = "route";
    append_conditions(out, route);
    for (size_t i = 0; i < route.rungs.size(); i++) {
        out += i == 0 ? " : " : " ; ";
        out += plan_render_rung(route.rungs[i]);
    }
    return out;
}

std::string plan_render(const Plan &plan) {
    std::string out = "plan " + std::to_string(PLAN_VERSION) + '\n';
    const Parameters initial;
    for (const ParameterInfo &info : parameter_table()) {
        const uint64_t value = plan.parameters.*info.field;
        if (value == initial.*info.field) continue;
        out += std::string("set ") + info.name + '=' + parameter_format(info, value) + '\n';
    }
    for (const PlanOption &option : plan.transport_options) {
        out += "set ";
        append_option(out, option, "");
        out += '\n';
    }
    for (const PlanDecoration &decoration : plan.decorations) {
        out += "decorate " + decoration.transport + ' ' + decoration.plugin + '\n';
    }
    for (const PlanRail &rail : plan.rails)
        out += plan_render_rail(rail) + '\n';
    for (const PlanRoute &route : plan.routes)
        out += plan_render_route(route) + '\n';
    return out;
}

}  // namespace tent
