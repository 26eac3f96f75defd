// See routes.h.
#include "core/routes.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "base/status.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/pairing.h"
#include "core/reports.h"
#include "core/transports.h"
#include "core/unreachable.h"

namespace tent {

namespace {

// Its requests are refused: no later row is asked.
bool refuses(const BoundRoute &route) {
    return route.row->rungs.empty();
}

// Binds the rows of a plan for the localities of one segment's memory.
class Binder {
  public:
    Binder(Engine &engine, Segment &segment, PlanGeneration &generation)
        : engine_(engine),
          segment_(segment),
          generation_(generation),
          pairing_(segment, generation_) {
        for (const PlanRoute &row : generation_.plan.routes)
            if (peer_matches(row.peer, segment.descriptor.name)) rows_.push_back(&row);
        for (const auto &route : segment.routes)
            if (route->generation == &generation_)
                before_[{route->row, route->locality}] = route.get();
    }

    // False: no rail of ours reaches the peer.
    bool bind() {
        choose_pairs();
        const auto localities = static_cast<uint32_t>(segment_.localities.size());
        bool any = false;
        for (Locality &locality : segment_.localities)
            locality.routes.clear();
        for (const PlanRoute *row : rows_) {
            BoundRoute *first = nullptr;
            for (uint32_t i = 0; i < localities; i++) {
                BoundRoute *route = route_of(*row, i);
                if (refuses(*route)) {
                    segment_.localities[i].routes.push_back(route);
                    continue;
                }
                // Where the bound on endpoints left nothing for this one, another's route serves.
                if (!fill(*route, i)) route = first;
                if (!route) continue;
                if (!first) first = route;
                segment_.localities[i].routes.push_back(route);
                any = true;
            }
        }
        // Of places that are no more; requests may still be on their way by them.
        for (auto &[key, route] : before_)
            if (key.second >= localities) fill(*route, 0);
        std::erase_if(segment_.routes, [&](const auto &route) {
            return route->rungs.empty() && !refuses(*route) &&
                   !before_.contains({route->row, route->locality});
        });
        return any;
    }
    // Of a former plan: only what its requests may be on.
    void bind_again() {
        if (before_.empty()) return;
        choose_pairs();
        for (auto &[key, route] : before_)
            fill(*route, key.second < segment_.localities.size() ? key.second : 0);
    }
    bool any_row() const { return !rows_.empty(); }
    bool any_ladder() const {
        return std::any_of(rows_.begin(), rows_.end(),
                           [](const PlanRoute *row) { return !row->rungs.empty(); });
    }

  private:
    using Key = std::pair<const Rail *, uint32_t>;  // and a peer's rail, by position

    // The nearest of all pairs wanted, as many as a segment may have, at least one of each rail.
    void choose_pairs() {
        std::vector<Pair> wanted;
        for (const PlanRoute *row : rows_)
            for (uint32_t i = 0; i < segment_.localities.size(); i++)
                for (const PlanRung &rung : row->rungs)
                    for (const Pair &pair : pairing_.of(rung, i))
                        if (auto [at, fresh] =
                                chosen_.try_emplace({pair.rail, pair.peer}, pair.tier);
                            !fresh)
                            at->second = std::min(at->second, pair.tier);
                        else
                            wanted.push_back(pair);
        if (wanted.size() <= SEGMENT_ENDPOINTS_MAX) return;
        std::stable_sort(wanted.begin(), wanted.end(), [&](const Pair &a, const Pair &b) {
            return chosen_.at({a.rail, a.peer}) < chosen_.at({b.rail, b.peer});
        });
        static_assert(RAILS_MAX <= SEGMENT_ENDPOINTS_MAX);
        std::set<const Rail *> served;
        std::vector<Pair> more;
        for (const Pair &pair : wanted)
            if (!served.insert(pair.rail).second) more.push_back(pair);
        for (size_t i = SEGMENT_ENDPOINTS_MAX - served.size(); i < more.size(); i++)
            chosen_.erase({more[i].rail, more[i].peer});
    }

    BoundRoute *route_of(const PlanRoute &row, uint32_t locality) {
        const auto found = before_.find({&row, locality});
        if (found != before_.end()) return found->second;
        auto made = std::make_unique<BoundRoute>();
        made->row = &row;
        made->generation = &generation_;
        made->locality = locality;
        segment_.routes.push_back(std::move(made));
        return segment_.routes.back().get();
    }

    // Its rungs anew; false: there is none. What requests on their way look at stays the same
    // object.
    bool fill(BoundRoute &route, uint32_t locality) {
        std::vector<BoundRung> had;
        had.swap(route.rungs);
        for (const PlanRung &rung : route.row->rungs) {
            BoundRung bound = rung_of(rung, *route.row);
            for (const Pair &pair : pairing_.of(rung, locality)) {
                Endpoint *endpoint = endpoint_of(pair, locality);
                auto &used = bound.endpoints;
                if (!endpoint || std::find(used.begin(), used.end(), endpoint) != used.end())
                    continue;
                if (bound.choices.size() == CHOICES_MAX) break;
                const uint64_t penalty = tier_penalty(generation_.plan.parameters, pair.tier);
                bound.transport = endpoint->rail->transport;
                bound.choices.push_back(
                    {&endpoint->path, static_cast<uint32_t>(penalty), pair.tier});
                used.push_back(endpoint);
            }
            for (BoundRung &old : had)  // the turn goes on where nothing has changed
                if (old.index == bound.index && old.endpoints == bound.endpoints)
                    bound.stripe = std::move(old.stripe);
            if (!bound.choices.empty()) route.rungs.push_back(std::move(bound));
        }
        return !route.rungs.empty();
    }

    BoundRung rung_of(const PlanRung &rung, const PlanRoute &row) const {
        BoundRung bound;
        bound.slice_size =
            rung.slice_size ? rung.slice_size : generation_.plan.parameters.slice_size;
        bound.slice_size_min = rung.slice_size_min;
        bound.window_size_max = rung.window_size_max;
        bound.strategy = rung.strategy;
        bound.hedge = rung.hedge;
        bound.index = static_cast<uint32_t>(&rung - row.rungs.data());
        if (rung.strategy == TENT_STRATEGY_ROUND_ROBIN || rung.strategy == TENT_STRATEGY_STATIC)
            bound.stripe = std::make_unique<StripeState>();
        return bound;
    }

    // The pair's endpoint, made where missing; of a pair beyond the bound, or when no more can be
    // made, the nearest other one of the same rail.
    Endpoint *endpoint_of(const Pair &pair, uint32_t locality) {
        if (chosen_.contains({pair.rail, pair.peer})) {
            const DescriptorRail &rail = segment_.descriptor.rails[pair.peer];
            if (Endpoint *known = standing(*pair.rail, rail)) return known;
            if (Endpoint *made = endpoints_begin(engine_, segment_, *pair.rail, rail)) return made;
        }
        Endpoint *best = nullptr;
        uint8_t best_tier = UINT8_MAX;
        for (uint32_t peer = 0; peer < segment_.descriptor.rails.size(); peer++) {
            const uint8_t tier = segment_.localities[locality].tiers[peer];
            if (tier >= best_tier || !chosen_.contains({pair.rail, peer})) continue;
            Endpoint *known = standing(*pair.rail, segment_.descriptor.rails[peer]);
            if (!known) continue;
            best = known;
            best_tier = tier;
        }
        return best;
    }

    Endpoint *standing(const Rail &rail, const DescriptorRail &peer) const {
        for (Endpoint *endpoint : segment_.endpoints) {
            if (endpoint->rail != &rail || endpoint->peer_rail != peer.index || endpoint->abandon ||
                endpoint->peer_rail_text != peer.address)
                continue;
            endpoint->trial = false;
            return endpoint;
        }
        return nullptr;
    }

    Engine &engine_;
    Segment &segment_;
    PlanGeneration &generation_;
    Pairing pairing_;
    std::vector<const PlanRoute *> rows_;
    std::map<std::pair<const PlanRoute *, uint32_t>, BoundRoute *> before_;
    std::map<Key, uint32_t> chosen_;  // the nearest tier it is wanted for
};

// NIL: there is none.
uint32_t locality_like(const Segment &segment, const std::vector<uint8_t> &tiers) {
    for (uint32_t i = 0; i < segment.localities.size(); i++)
        if (segment.localities[i].tiers == tiers) return i;
    return NIL;
}

std::string rails_text(const std::vector<DescriptorRail> &rails) {
    std::string text;
    for (const DescriptorRail &rail : rails)
        text += (text.empty() ? "" : ", ") + rail.transport + " " + rail.address;
    return text.empty() ? "none" : text;
}

}  // namespace

uint32_t routes_locality(Segment &segment, std::string_view location) {
    std::vector<uint8_t> tiers = locality_tiers(segment.descriptor, location);
    uint32_t found = locality_like(segment, tiers);
    // The last one is for all that are too many: equally far from every rail.
    if (found == NIL && segment.localities.size() + 1 >= LOCALITIES_MAX) {
        std::fill(tiers.begin(), tiers.end(), uint8_t{1});
        found = locality_like(segment, tiers);
    }
    if (found != NIL) return found;
    segment.localities.push_back({std::move(tiers), {}});
    return static_cast<uint32_t>(segment.localities.size() - 1);
}

int32_t routes_bind(Engine &engine, Segment &segment) {
    if (segment.own) return TENT_OK;
    const bool pairs_changed = std::exchange(segment.rebind_due, false);
    segment.tidy_due = true;
    engine.routes_due_ns = std::min(engine.routes_due_ns, engine.now_ns);
    if (segment.localities.empty()) routes_locality(segment, "");
    // A new plan changes nothing for those under way; that a pair does not work, or the peer has
    // other rails, does.
    for (size_t i = 0; pairs_changed && i + 1 < engine.plans.size(); i++)
        if (engine.plans[i]->requests > 0) Binder(engine, segment, *engine.plans[i]).bind_again();
    Binder binder(engine, segment, *engine.plans.back());
    if (binder.bind()) return TENT_OK;
    const PlanGeneration &generation = *engine.plans.back();
    if (!binder.any_row())
        return fail(TENT_E_NO_PATH, "no route of the plan is for peer '%s': all name other peers",
                    segment.descriptor.name.c_str());
    if (!binder.any_ladder())
        return fail(TENT_E_NO_PATH,
                    "the plan refuses all requests to peer '%s': its routes are to none",
                    segment.descriptor.name.c_str());
    std::string ours;
    for (const Rail *rail : generation.rails)
        if (rail)
            ours += (ours.empty() ? "" : ", ") + rail->transport->name + " " + rail->info.address;
    return fail(TENT_E_NO_PATH, "no rail of ours (%s) reaches a rail of peer '%s' (%s)",
                ours.empty() ? "none" : ours.c_str(), segment.descriptor.name.c_str(),
                rails_text(segment.descriptor.rails).c_str());
}

namespace {

bool is_bound(const Segment &segment) {
    return segment.state == SegmentState::Ready || segment.state == SegmentState::Binding;
}

void rebind(Engine &engine, Segment &segment) {
    if (!is_bound(segment) || routes_bind(engine, segment) == TENT_OK) return;
    report(engine, TENT_EVENT_LOG, {.segment = segment.handle, .status = TENT_E_NO_PATH}, "%s",
           last_error());
}

bool is_routed(const Segment &segment, const Endpoint *endpoint) {
    for (const auto &route : segment.routes)
        for (const BoundRung &rung : route->rungs)
            if (std::find(rung.endpoints.begin(), rung.endpoints.end(), endpoint) !=
                rung.endpoints.end())
                return true;
    return false;
}

// Gives up endpoints that no route has needed for long. Returns when to look again.
uint64_t tidy(Engine &engine, Segment &segment) {
    uint64_t next_ns = UINT64_MAX;
    for (Endpoint *endpoint : segment.endpoints) {
        if (endpoint->abandon || endpoint->trial) continue;
        if (is_routed(segment, endpoint)) {
            endpoint->unused_since_ns = 0;
            continue;
        }
        if (endpoint->unused_since_ns == 0)
            endpoint->unused_since_ns = std::max<uint64_t>(engine.now_ns, 1);
        const uint64_t due_ns = endpoint->unused_since_ns + UNUSED_NS;
        if (engine.now_ns >= due_ns && endpoint->path.own.inflight_slices == 0)
            endpoints_abandon(engine, *endpoint, "no route needs it any more");
        else
            next_ns = std::min(next_ns, std::max(due_ns, engine.now_ns + HOUSEKEEPING_NS));
    }
    segment.tidy_due = next_ns != UINT64_MAX;
    return next_ns;
}

template <class Visit>
void for_segments(Engine &engine, Visit visit) {
    for (uint32_t slot = 0; slot < engine.segment_count; slot++)
        if (Segment *segment = engine.segments[slot].load(std::memory_order_relaxed))
            visit(*segment);
}

}  // namespace

void routes_rebind_all(Engine &engine) {
    for_segments(engine, [&](Segment &segment) { rebind(engine, segment); });
}

void routes_regrouped(Engine &engine, Segment &segment, size_t localities_before) {
    if (segment.localities.size() != localities_before) rebind(engine, segment);
}

void routes_peer_changed(Engine &engine, Segment &segment) {
    if (segment.localities.empty()) return;
    segment.localities.clear();
    for (auto &[handle, region] : segment.regions)
        region->locality = routes_locality(segment, region->about.location);
    for (auto &region : segment.regions_gone)
        region->locality = routes_locality(segment, region->about.location);
    segment.rebind_due = true;
    rebind(engine, segment);
}

void routes_step(Engine &engine) {
    for_segments(engine, [&](Segment &segment) {
        if (segment.rebind_due) rebind(engine, segment);
    });
    if (engine.now_ns < engine.routes_due_ns) return;
    uint64_t next_ns = UINT64_MAX;
    for_segments(engine, [&](Segment &segment) {
        if (segment.tidy_due && is_bound(segment))
            next_ns = std::min(next_ns, tidy(engine, segment));
    });
    engine.routes_due_ns = std::min(next_ns, unreachable_step(engine));
}

void routes_forget(Engine &engine, const PlanGeneration &generation) {
    for_segments(engine, [&](Segment &segment) {
        for (Locality &locality : segment.localities)
            std::erase_if(locality.routes,
                          [&](const auto *route) { return route->generation == &generation; });
        std::erase_if(segment.routes,
                      [&](const auto &route) { return route->generation == &generation; });
        segment.tidy_due = true;
    });
    engine.routes_due_ns = std::min(engine.routes_due_ns, engine.now_ns);
}

const BoundRoute *routes_first(const Segment &segment, uint32_t locality, const RouteQuery &query) {
    if (locality >= segment.localities.size()) return nullptr;
    for (const BoundRoute *route : segment.localities[locality].routes)
        if (conditions_match(*route->row, query)) return route;
    return nullptr;
}

uint32_t routes_locality_of(const Segment &segment, std::string_view location) {
    std::vector<uint8_t> tiers = locality_tiers(segment.descriptor, location);
    uint32_t found = locality_like(segment, tiers);
    if (found == NIL) {
        std::fill(tiers.begin(), tiers.end(), uint8_t{1});
        found = locality_like(segment, tiers);
    }
    return found == NIL ? 0 : found;
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
    const BoundRoute *route = routes_first(segment, request.remote_region->locality, query);
    return route && refuses(*route) ? nullptr : route;
}

void routes_pathless(Engine &engine, Segment &segment, const BoundRoute &route) {
    if (route.pathless_since_ns != 0) return;
    route.pathless_since_ns = std::max<uint64_t>(engine.now_ns, 1);
    route.pathless_order = engine.order;
    if (segment.pathless_since_ns == 0) segment.pathless_since_ns = route.pathless_since_ns;
}

bool routes_ready(const BoundRoute &route) {
    for (const BoundRung &rung : route.rungs)
        for (const Choice &choice : rung.choices)
            if (choice.path->ready) return true;
    return false;
}

bool request_bars(const Request &request, const Endpoint &endpoint) {
    for (uint32_t i = 0; i < request.unreaching_count; i++)
        if (request.unreaching[i] == endpoint.slot) return true;
    return false;
}

bool routes_ready(const BoundRoute &route, const Request &request) {
    for (const BoundRung &rung : route.rungs)
        for (const Endpoint *endpoint : rung.endpoints)
            if (endpoint->path.ready && !request_bars(request, *endpoint)) return true;
    return false;
}

bool routes_reach(const BoundRoute &route, const Request &request) {
    for (const BoundRung &rung : route.rungs)
        for (const Endpoint *endpoint : rung.endpoints)
            if (!request_bars(request, *endpoint)) return true;
    return false;
}

void routes_pathless_over(const Engine &engine, Segment &segment, uint64_t patience_ns) {
    segment.pathless_since_ns = 0;
    for (const auto &route : segment.routes) {
        uint64_t &since_ns = route->pathless_since_ns;
        if (since_ns == 0) continue;
        if (routes_ready(*route) || engine.now_ns - since_ns >= patience_ns) since_ns = 0;
        if (since_ns != 0 &&
            (segment.pathless_since_ns == 0 || since_ns < segment.pathless_since_ns))
            segment.pathless_since_ns = since_ns;
    }
}

}  // namespace tent
