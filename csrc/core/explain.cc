// See explain.h.
#include "core/explain.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "core/control.h"
#include "core/endpoints.h"
#include "core/pairing.h"
#include "core/reports.h"
#include "core/routes.h"

namespace tent {

namespace {

// What would wait in the flow with `length` more bytes; a length beyond any memory does not wrap.
uint64_t backlog_with(const Segment &segment, uint32_t class_, uint64_t length) {
    uint64_t waiting = segment.flows[class_].waiting_bytes;
    return waiting + std::min(length, UINT64_MAX - waiting);
}

// What bind.cc asks for the first slice of such a request, on this rung.
PickQuery query_on(const Engine &engine, const BoundRung &rung, const tent_explain_query &asked,
                   const tent_explanation &found) {
    PickQuery query{};
    query.size = std::min(rung.slice_size, asked.length);
    query.slice_size = rung.slice_size;
    query.slice_size_min = rung.slice_size_min;
    query.window_size_max = rung.window_size_max;
    query.remaining = asked.length;
    query.backlog = found.backlog_bytes;
    query.now_ns = engine.now_ns;
    query.low = found.class_ == TENT_CLASS_LOW;
    return query;
}

// The figures of one choice, where the strategy itself looks at none or is not asked.
PickRow row_of(const Choice &choice, const PickQuery &query, const Parameters &parameters) {
    Path &path = *choice.path;
    if (!path.ready) return {0, 0, 0, TENT_VERDICT_NOT_READY};
    path.refresh(query.now_ns, parameters);
    return {path.predict_ns(query.size), path.predict_ns(query.size * uint64_t{choice.penalty}),
            path.window_bytes(query.slice_size, query.window_size_max, parameters),
            static_cast<uint32_t>(path.blocked ? TENT_VERDICT_FULL : TENT_VERDICT_SLOWER)};
}

Picked decide(const BoundRung &rung, const PickQuery &query, const Parameters &parameters,
              PickRow *rows) {
    if (rung.strategy == TENT_STRATEGY_PREDICTIVE)
        return pick_predictive(rung.choices, query, parameters, rows);
    for (size_t i = 0; i < rung.choices.size(); i++)
        rows[i] = row_of(rung.choices[i], query, parameters);
    StripeState state;  // a copy: the turn stays whose it is
    if (rung.stripe) state = *rung.stripe;
    Picked picked = pick(rung.strategy, rung.choices, query, parameters, &state);
    if (picked.index >= 0) rows[picked.index].verdict = TENT_VERDICT_CHOSEN;
    return picked;
}

// How slices on the endpoint reach one region, in the transport's words; "": it has none.
std::string via_of(const Endpoint &endpoint, const RemoteRegion *region) {
    const Transport &transport = *endpoint.rail->transport;
    void *const asked = endpoints_handle(endpoint);
    if (!asked || !TENT_OFFERS(transport.table, endpoint_about)) return "";
    void *handle = nullptr;
    if (region)
        for (const auto &[owner, known] : region->handles)
            if (owner == &transport) handle = known;
    char text[sizeof tent_candidate{}.via] = "";
    transport.table->endpoint_about(transport.instance, asked, handle, text, sizeof text);
    text[sizeof text - 1] = 0;
    return text;
}

// The same for all the regions that the query means; where they differ, with how many go each way.
std::string via(const Segment &segment, const Endpoint &endpoint, const tent_explain_query &asked) {
    std::map<std::string, uint32_t> ways;
    for (const auto &[number, region] : segment.regions) {
        const DescriptorRegion &about = region->about;
        const bool meant = asked.remote_address != 0
                               ? asked.remote_address - about.address < about.length
                               : location_matches(about.location, asked.remote);
        if (meant) ways[via_of(endpoint, region.get())]++;
    }
    if (ways.empty()) return via_of(endpoint, nullptr);
    if (ways.size() == 1) return ways.begin()->first;
    std::string text;
    for (const auto &[way, count] : ways)
        text += (text.empty() ? "" : "; ") + std::to_string(count) + " of its regions: " + way;
    return text;
}

tent_candidate candidate_of(const Segment &segment, const BoundRung &rung, size_t index,
                            const PickRow &row, const tent_explain_query &asked) {
    const Choice &choice = rung.choices[index];
    const Endpoint &endpoint = *rung.endpoints[index];
    const Path &path = *choice.path;
    tent_candidate found{};
    found.rung = static_cast<int32_t>(rung.index);
    found.tier = static_cast<int32_t>(choice.tier);
    found.penalty = choice.penalty;
    found.rail = static_cast<int32_t>(endpoint.rail->plan.index);
    found.remote_rail = static_cast<int32_t>(endpoint.peer_rail);
    found.state = public_state(endpoint);
    found.verdict = row.verdict;
    found.inflight_bytes = path.own.inflight_bytes;
    found.inflight_local_bytes = path.local->inflight_bytes;
    found.inflight_remote_bytes = path.remote->inflight_bytes;
    found.rate_bytes_per_s = path.own.rate.bytes_per_s();
    found.nominal_bytes_per_s = path.own.rate.nominal();
    found.latency_ns_base = path.base.ns();
    found.window_bytes = row.window_bytes;
    found.predicted_ns = row.predicted_ns;
    found.score_ns = row.score_ns;
    snprintf(found.transport, sizeof found.transport, "%s", endpoint.rail->transport->name.c_str());
    snprintf(found.name, sizeof found.name, "%s", endpoint.title.c_str());
    snprintf(found.via, sizeof found.via, "%s", via(segment, endpoint, asked).c_str());
    return found;
}

// Why a request would find no route.
std::string no_route(const Engine &engine, const RouteQuery &query) {
    bool for_others = false;
    for (const PlanRoute &row : engine.plans.back()->plan.routes) {
        if (!conditions_match(row, query)) continue;
        if (peer_matches(row.peer, query.peer))
            return "(rows of the plan match, but none of their rails reaches the peer)";
        for_others = true;
    }
    return for_others ? "(no row of the plan matches: those that would are not for peer '" +
                            std::string(query.peer) + "')"
                      : "(no row of the plan matches)";
}

// Pairs of the rung's rails that were learned not to work.
void explain_unreachable(const Engine &engine, const Segment &segment, const BoundRung &rung,
                         const PlanRung &row, std::vector<tent_candidate> *candidates) {
    const PlanGeneration &generation = *engine.plans.back();
    for (size_t tier = 0; tier < row.tiers.size(); tier++)
        for (uint32_t index : row.tiers[tier])
            for (const UnreachablePair &pair : segment.peer->unreachable) {
                if (pair.rail != generation.rails[index]) continue;
                tent_candidate found{};
                found.rung = static_cast<int32_t>(rung.index);
                found.tier = static_cast<int32_t>(tier) + 1;
                found.penalty = static_cast<uint32_t>(
                    tier_penalty(parameters(engine), static_cast<uint32_t>(tier) + 1));
                found.rail = static_cast<int32_t>(index);
                found.remote_rail = static_cast<int32_t>(pair.peer_rail);
                found.state = TENT_STATE_QUARANTINED;
                found.verdict = TENT_VERDICT_UNREACHABLE;
                snprintf(found.transport, sizeof found.transport, "%s", row.transport.c_str());
                snprintf(found.name, sizeof found.name, "%s: rail %u -> %u",
                         segment.descriptor.name.c_str(), index, pair.peer_rail);
                candidates->push_back(found);
            }
}

void explain_rungs(const Engine &engine, const Segment &segment, const BoundRoute &route,
                   const tent_explain_query &asked, tent_explanation *out,
                   std::vector<tent_candidate> *candidates) {
    const Parameters &parameters = tent::parameters(engine);
    PickRow rows[CHOICES_MAX];
    for (const BoundRung &rung : route.rungs) {
        PickQuery query = query_on(engine, rung, asked, *out);
        int32_t first = static_cast<int32_t>(candidates->size());
        if (out->rung < 0) {
            Picked picked = decide(rung, query, parameters, rows);
            if (picked.index != PICK_NONE) {
                out->rung = static_cast<int32_t>(rung.index);
                out->strategy = rung.strategy;
                out->winner = picked.index < 0 ? picked.index : first + picked.index;
                out->slice_bytes = picked.index < 0 ? query.size : picked.size;
            }
        } else {
            for (size_t i = 0; i < rung.choices.size(); i++) {
                rows[i] = row_of(rung.choices[i], query, parameters);
                if (rung.choices[i].path->ready) rows[i].verdict = TENT_VERDICT_LATER_RUNG;
            }
        }
        for (size_t i = 0; i < rung.choices.size(); i++)
            candidates->push_back(candidate_of(segment, rung, i, rows[i], asked));
        explain_unreachable(engine, segment, rung, route.row->rungs[rung.index], candidates);
    }
}

}  // namespace

static_assert(PICK_NONE == -1 && PICK_WAIT == -2, "tent.h gives these values to `winner`");

void explain(const Engine &engine, const Segment &segment, const tent_explain_query &query,
             tent_explanation *out, std::vector<tent_candidate> *candidates) {
    const PlanGeneration &generation = *engine.plans.back();
    candidates->clear();
    *out = {};
    out->generation = generation.number;
    out->route = out->rung = out->winner = -1;
    out->class_ = query.class_;
    out->backlog_bytes = backlog_with(segment, query.class_, query.length);
    if (segment.own) {
        snprintf(out->row, sizeof out->row, "(own memory: a plain copy)");
        return;
    }
    RouteQuery match;
    match.op = query.op;
    match.local = query.local;
    match.remote = query.remote;
    match.same_host = segment.same_host;
    match.size = query.length;
    match.class_ = query.class_;
    match.label = query.label;
    match.peer = segment.descriptor.name;
    const BoundRoute *route =
        routes_first(segment, routes_locality_of(segment, query.remote), match);
    if (!route) {
        snprintf(out->row, sizeof out->row, "%s", no_route(engine, match).c_str());
        return;
    }
    const PlanUse &use = route->row->use;
    if (use.class_ >= 0) out->class_ = static_cast<uint8_t>(use.class_);
    out->integrity = use.integrity > 0;
    out->deadline_ns = use.deadline_ns;
    out->backlog_bytes = backlog_with(segment, out->class_, query.length);
    out->route = static_cast<int32_t>(route->row - generation.plan.routes.data());
    snprintf(out->row, sizeof out->row, "%s", plan_render_route(*route->row).c_str());
    explain_rungs(engine, segment, *route, query, out, candidates);
}

}  // namespace tent
