// Which route a request takes, and look-ups in a plan. See plan.h.
//
// Leans on nothing but the model. Runs when a route is bound, not per slice. Must never allocate.
#include "plan/plan.h"

namespace tent {

bool PlanRoute::operator==(const PlanRoute &other) const {
    return op == other.op && local == other.local && remote == other.remote &&
           same_host == other.same_host && size_min == other.size_min &&
           size_max == other.size_max && class_ == other.class_ && label == other.label &&
           has_label == other.has_label && rungs == other.rungs;
}

bool location_matches(std::string_view pattern, std::string_view location) {
    if (pattern == "*" || pattern == location) return true;
    return pattern.find(':') == std::string_view::npos && location.size() > pattern.size() &&
           location.starts_with(pattern) && location[pattern.size()] == ':';
}

bool route_matches(const PlanRoute &route, const RouteQuery &query) {
    return (route.op == 0 || route.op == query.op) &&
           (route.same_host < 0 || (route.same_host != 0) == query.same_host) &&
           (route.class_ < 0 || static_cast<uint32_t>(route.class_) == query.class_) &&
           query.size >= route.size_min && query.size <= route.size_max &&
           (!route.has_label || route.label == query.label) &&
           location_matches(route.local, query.local) &&
           location_matches(route.remote, query.remote);
}

const PlanRoute *plan_match(const Plan &plan, const RouteQuery &query) {
    for (const PlanRoute &route : plan.routes) {
        if (route_matches(route, query)) return &route;
    }
    return nullptr;
}

const PlanRail *plan_rail(const Plan &plan, uint32_t index) {
    for (const PlanRail &rail : plan.rails) {
        if (rail.index == index) return &rail;
    }
    return nullptr;
}

const PlanDecoration *plan_decoration(const Plan &plan, std::string_view transport) {
    for (const PlanDecoration &decoration : plan.decorations) {
        if (decoration.transport == transport) return &decoration;
    }
    return nullptr;
}

}  // namespace tent
