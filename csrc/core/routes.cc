// See routes.h.
#include "core/routes.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/status.h"
#include "core/endpoints.h"
#include "core/reports.h"
#include "core/transports.h"
#include "plan/plan.h"

namespace tent {

namespace {

struct Pairing {
    const DescriptorRail *rail;
    int32_t reach;
    uint32_t distance;  // of the indexes
};

// The peer's rails a local rail can reach, best first: same subnet, then nearest index (DESIGN.md
// section 12).
std::vector<Pairing> pairings(const Rail &rail, const Descriptor &peer) {
    std::vector<Pairing> found;
    for (const DescriptorRail &other : peer.rails) {
        if (other.transport != rail.transport->name) continue;
        int32_t reach = rail.transport->table->rail_reach(rail.transport->instance, rail.handle,
                                                          other.address.c_str());
        if (reach <= 0) continue;
        uint32_t a = rail.plan.index, b = other.index;
        found.push_back({&other, reach, a > b ? a - b : b - a});
    }
    std::stable_sort(found.begin(), found.end(), [](const Pairing &a, const Pairing &b) {
        return a.reach != b.reach ? a.reach > b.reach : a.distance < b.distance;
    });
    return found;
}

Endpoint *endpoint_between(const Segment &segment, const Rail *rail, uint32_t peer_rail) {
    for (Endpoint *endpoint : segment.endpoints)
        if (endpoint->rail == rail && endpoint->peer_rail == peer_rail && !endpoint->abandon)
            return endpoint;
    return nullptr;
}

// The endpoints of one local rail towards the segment's peer, made where missing.
std::vector<Endpoint *> endpoints_of(Engine &engine, Segment &segment, Rail &rail) {
    const Parameters &parameters = engine.plans.back()->plan.parameters;
    std::vector<Pairing> found = pairings(rail, segment.descriptor);
    size_t local_rails = 0, peer_rails = 0;
    for (const Rail *other : engine.plans.back()->rails)
        local_rails += other && other->transport == rail.transport;
    for (const DescriptorRail &other : segment.descriptor.rails)
        peer_rails += other.transport == rail.transport->name;
    // More than one remote rail only where the peer has more rails than we have.
    size_t wanted = local_rails < peer_rails ? parameters.peer_rails_max : 1;
    std::vector<Endpoint *> endpoints;
    for (const Pairing &pairing : found) {
        if (endpoints.size() == wanted) break;
        Endpoint *endpoint = endpoint_between(segment, &rail, pairing.rail->index);
        if (!endpoint) endpoint = endpoints_begin(engine, segment, rail, *pairing.rail);
        if (endpoint) endpoints.push_back(endpoint);
    }
    return endpoints;
}

void bind_row(Engine &engine, Segment &segment, const PlanRoute &row,
              std::vector<std::vector<Endpoint *>> *by_rail, PlanGeneration &generation) {
    auto bound = std::make_unique<BoundRoute>();
    bound->row = &row;
    bound->generation = &generation;
    const Parameters &parameters = generation.plan.parameters;
    for (const PlanRung &rung : row.rungs) {
        BoundRung bound_rung;
        bound_rung.slice_size = rung.slice_size ? rung.slice_size : parameters.slice_size;
        bound_rung.strategy = rung.strategy;
        bound_rung.hedge = rung.hedge;
        bound_rung.index = static_cast<uint32_t>(&rung - row.rungs.data());
        bound_rung.stripe = std::make_unique<StripeState>();
        for (size_t tier = 0; tier < rung.tiers.size(); tier++) {
            uint32_t number = static_cast<uint32_t>(tier) + 1;
            uint32_t penalty = static_cast<uint32_t>(tier_penalty(parameters, number));
            for (uint32_t index : rung.tiers[tier]) {
                Rail *rail = generation.rails[index];
                if (!rail) continue;
                bound_rung.transport = rail->transport;
                auto &endpoints = (*by_rail)[index];
                if (endpoints.empty()) endpoints = endpoints_of(engine, segment, *rail);
                for (Endpoint *endpoint : endpoints) {
                    if (bound_rung.choices.size() == CHOICES_MAX) break;
                    bound_rung.choices.push_back({&endpoint->path, penalty, number});
                    bound_rung.endpoints.push_back(endpoint);
                }
            }
        }
        if (!bound_rung.choices.empty()) bound->rungs.push_back(std::move(bound_rung));
    }
    if (!bound->rungs.empty()) segment.routes.push_back(std::move(bound));
}

}  // namespace

int32_t routes_bind(Engine &engine, Segment &segment) {
    if (segment.own) return TENT_OK;
    PlanGeneration &generation = *engine.plans.back();
    std::vector<std::vector<Endpoint *>> by_rail(RAILS_MAX);
    size_t before = segment.routes.size();
    for (const PlanRoute &row : generation.plan.routes)
        bind_row(engine, segment, row, &by_rail, generation);
    if (segment.routes.size() > before) return TENT_OK;
    std::string theirs;
    for (const DescriptorRail &rail : segment.descriptor.rails)
        theirs += (theirs.empty() ? "" : ", ") + rail.transport + " " + rail.address;
    std::string ours;
    for (const Rail *rail : generation.rails)
        if (rail)
            ours += (ours.empty() ? "" : ", ") + rail->transport->name + " " + rail->info.address;
    return fail(TENT_E_NO_PATH, "no rail of ours (%s) reaches a rail of peer '%s' (%s)",
                ours.empty() ? "none" : ours.c_str(), segment.descriptor.name.c_str(),
                theirs.empty() ? "none" : theirs.c_str());
}

void routes_rebind_all(Engine &engine) {
    for (uint32_t slot = 0; slot < engine.segment_count; slot++) {
        Segment *segment = engine.segments[slot].load(std::memory_order_relaxed);
        if (!segment) continue;
        if (segment->state != SegmentState::Ready && segment->state != SegmentState::Binding)
            continue;
        if (routes_bind(engine, *segment) != TENT_OK)
            report(engine, TENT_EVENT_LOG, {.segment = segment->handle, .status = TENT_E_NO_PATH},
                   "%s", last_error());
    }
}

void routes_forget(Engine &engine, const PlanGeneration &generation) {
    for (uint32_t slot = 0; slot < engine.segment_count; slot++) {
        Segment *segment = engine.segments[slot].load(std::memory_order_relaxed);
        if (!segment) continue;
        std::erase_if(segment->routes,
                      [&](const auto &route) { return route->generation == &generation; });
    }
}

const BoundRoute *routes_first(const Engine &engine, const Segment &segment,
                               const RouteQuery &query) {
    const PlanGeneration *current = engine.plans.back().get();
    for (const auto &route : segment.routes)
        if (route->generation == current && route_matches(*route->row, query)) return route.get();
    return nullptr;
}

const BoundRoute *routes_match(Engine &engine, Segment &segment, const Request &request,
                               const char *label) {
    RouteQuery query;
    query.op = request.op;
    query.local = engine.regions[request.local_region]->location;
    query.remote = request.remote_region->about.location;
    query.same_host = segment.same_host;
    query.size = request.length;
    query.class_ = request.class_;
    query.label = label;
    return routes_first(engine, segment, query);
}

void routes_pathless(Engine &engine, Segment &segment) {
    if (segment.pathless_since_ns == 0)
        segment.pathless_since_ns = std::max<uint64_t>(engine.now_ns, 1);
}

}  // namespace tent
