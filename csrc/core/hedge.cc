// See hedge.h.
#include "core/hedge.h"

#include "core/endpoints.h"
#include "core/flows.h"
#include "core/routes.h"
#include "core/spray.h"

namespace tent {

namespace {

// The rung in use: the first with a ready endpoint that reaches the request's memory.
const BoundRung *rung_of(const Request &request) {
    for (const BoundRung &rung : request.route->rungs)
        for (const Endpoint *endpoint : rung.endpoints)
            if (endpoint->path.ready && !request_bars(request, *endpoint)) return &rung;
    return nullptr;
}

bool is_slice_of(const Engine &engine, uint32_t slice, uint32_t request) {
    return slice != NIL && engine.slices[slice].endpoint != NIL &&
           engine.slices[slice].request == request;
}

// The only slice of the request that is in flight; NIL: it waits for a retry. hint: where it was
// found before, the last one bound at first, which it mostly is.
uint32_t slice_of(const Engine &engine, uint32_t request, uint32_t hint) {
    if (is_slice_of(engine, hint, request)) return hint;
    for (uint32_t i = 0; i < engine.slice_fresh; i++)
        if (is_slice_of(engine, i, request)) return i;
    return NIL;
}

Endpoint *other_endpoint(const Engine &engine, const BoundRung &rung, const Slice &slice) {
    Endpoint *best = nullptr;
    uint64_t best_ns = 0;
    const Request &request = engine.requests[slice.request];
    bool low = request.class_ == TENT_CLASS_LOW;
    // Two transports' writes have no order, not even of the same bytes; see bound_to in bind.cc.
    const Transport *transport = engine.endpoints[slice.endpoint]->rail->transport;
    if (request.op == TENT_OP_WRITE && rung.transport != transport) return nullptr;
    // Nor may a twin land with a flipped bit after the one that was checked.
    if (request.op == TENT_OP_WRITE && (request.flags & TENT_BATCH_INTEGRITY)) return nullptr;
    for (Endpoint *endpoint : rung.endpoints) {
        const Path &path = endpoint->path;
        if (!path.ready || endpoint->slot == slice.endpoint) continue;
        if (request_bars(request, *endpoint)) continue;
        if (!path.is_open(rung.slice_size, rung.window_size_max, low, parameters(engine))) continue;
        uint64_t ns = path.predict_ns(slice.length);
        if (best && ns >= best_ns) continue;
        best = endpoint;
        best_ns = ns;
    }
    return best;
}

// True when there is nothing left to watch.
bool hedge(Engine &engine, Engine::HedgeWatch &watch) {
    uint32_t request_index = watch.request;
    Request &request = engine.requests[request_index];
    const BoundRung *rung = rung_of(request);
    if (request.error != TENT_OK || !rung || !rung->hedge) return true;
    uint32_t first = watch.slice = slice_of(engine, request_index, watch.slice);
    if (first == NIL) return false;
    const Slice &slice = engine.slices[first];
    uint64_t spent_ns = engine.now_ns - slice.posted_ns;
    if (spent_ns <= scale(slice.predicted_ns, parameters(engine).hedge_late, 100)) return false;
    Endpoint *endpoint = other_endpoint(engine, *rung, slice);
    uint32_t second = endpoint ? slice_take(engine) : NIL;
    if (second == NIL) return false;
    Slice &twin = engine.slices[second];
    twin.request = request_index;
    twin.offset = slice.offset;
    twin.length = slice.length;
    twin.retries = slice.retries;
    twin.twin = first;
    engine.slices[first].twin = second;
    twin.hedged = engine.slices[first].hedged = true;
    twin.lost = false;
    twin.tried = slice.tried;
    request.slices_out++;
    for (Tally *tally : {&engine.tally, &endpoint->tally, &endpoint->rail->tally,
                         &engine.class_tally[request.class_]}) {
        bump(tally->slices_hedged);
        bump(tally->bytes_hedged, twin.length);
    }
    spray_stage(engine, *endpoint, second);
    return true;
}

void fence_losers(Engine &engine) {
    for (size_t i = 0; i < engine.hedge_losers.size();) {
        Engine::HedgeLoser loser = engine.hedge_losers[i];
        const Slice &slice = engine.slices[loser.slice];
        bool settled = slice.generation != loser.generation || slice.endpoint == NIL;
        if (!settled && engine.now_ns < loser.until_ns) {
            i++;
            continue;
        }
        engine.hedge_losers[i] = engine.hedge_losers.back();
        engine.hedge_losers.pop_back();
        if (!settled)
            endpoints_fail(engine, *engine.endpoints[slice.endpoint], TENT_E_CANCELLED,
                           "the slower twin of a hedged slice did not finish within hedge_grace");
    }
}

}  // namespace

void hedge_init(Engine &engine) {
    engine.hedge_watched.reserve(HEDGE_WATCHED_MAX);
    engine.hedge_losers.reserve(HEDGE_WATCHED_MAX);
}

void hedge_watch(Engine &engine, uint32_t index, uint32_t slice) {
    const Request &request = engine.requests[index];
    bool wanted = false;
    for (const BoundRung &rung : request.route->rungs)
        wanted |= rung.hedge;
    if (wanted && engine.hedge_watched.size() < HEDGE_WATCHED_MAX)
        engine.hedge_watched.push_back({index, slice, request.order});
}

void hedge_step(Engine &engine) {
    for (size_t i = 0; i < engine.hedge_watched.size();) {
        Engine::HedgeWatch &watch = engine.hedge_watched[i];
        const Request &request = engine.requests[watch.request];
        bool gone = request.order != watch.order ||
                    request.status.load(std::memory_order_relaxed) != TENT_IN_PROGRESS;
        if (!gone && request.slices_out == 1) gone = hedge(engine, watch);
        if (!gone) {
            i++;
            continue;
        }
        engine.hedge_watched[i] = engine.hedge_watched.back();
        engine.hedge_watched.pop_back();
    }
    fence_losers(engine);
}

bool hedge_won(Engine &engine, uint32_t index) {
    Slice &slice = engine.slices[index];
    if (slice.lost) return false;
    if (slice.twin == NIL) return true;
    Slice &loser = engine.slices[slice.twin];
    loser.lost = true;
    loser.twin = NIL;
    if (engine.hedge_losers.size() < HEDGE_WATCHED_MAX)  // else it is only waited for
        engine.hedge_losers.push_back(
            {slice.twin, loser.generation, engine.now_ns + parameters(engine).hedge_grace_ns});
    slice.twin = NIL;
    return true;
}

bool hedge_dropped(Engine &engine, uint32_t index) {
    Slice &slice = engine.slices[index];
    if (slice.lost) return true;
    if (slice.twin == NIL) return false;
    engine.slices[slice.twin].twin = NIL;
    slice.twin = NIL;
    return true;
}

}  // namespace tent
