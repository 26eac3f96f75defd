// See watch.h.
#include "core/watch.h"

#include <algorithm>

#include "base/mutant.h"
#include "base/status.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/memory.h"
#include "core/reports.h"
#include "core/routes.h"
#include "core/spray.h"

namespace tent {

namespace {

constexpr uint32_t LOOK_MAX = 8;         // slices looked at, of those in flight on an endpoint
constexpr uint64_t LOST_ALLOWANCES = 3;  // beyond the first: a slice overtaken so long is lost

// How long it has been silent, in words.
std::string silence(uint64_t ns) {
    return "silent for " + std::to_string(ns / MS) + " ms";
}

uint64_t slice_id(const Engine &engine, uint32_t index) {
    return static_cast<uint64_t>(engine.slices[index].generation) << 32 | index;
}

// When the slice counts as late. Time nobody drove the engine is not held against it.
uint64_t due_ns(const Engine &engine, const Slice &slice) {
    return slice.posted_ns + slice.allowance_ns + (engine.stalled_ns - slice.stalled_ns);
}

bool tells_progress(const Endpoint &endpoint) {
    const tent_plugin &table = *endpoint.rail->transport->table;
    return TENT_OFFERS(&table, endpoint_progress) && endpoint.handle;
}

// Asks the transport whether bytes have moved since it was asked last for this slice.
bool has_moved(Engine &engine, Endpoint &endpoint) {
    if (!tells_progress(endpoint)) return false;
    const Transport &transport = *endpoint.rail->transport;
    const tent_plugin &table = *transport.table;
    uint64_t bytes = table.endpoint_progress(transport.instance, endpoint.handle);
    bool moved = bytes != endpoint.moved_bytes;
    endpoint.moved_bytes = bytes;
    if (moved) endpoint.moved_ns = engine.now_ns;
    return moved;
}

// The slice in flight that is late first: the oldest, unless it was retried and got more time.
uint32_t first_due(const Engine &engine, const Endpoint &endpoint) {
    uint32_t first = endpoint.flight_head, at = first;
    for (uint32_t i = 0; i < LOOK_MAX && at != NIL; i++, at = engine.slices[at].next)
        if (due_ns(engine, engine.slices[at]) < due_ns(engine, engine.slices[first])) first = at;
    return first;
}

// Looks at the slices in flight; sets late, and says when to look again.
uint64_t look(Engine &engine, Endpoint &endpoint) {
    endpoint.late = false;
    if (endpoint.flight_head == NIL || endpoint.state != EndpointState::Ready) return UINT64_MAX;
    uint32_t first = first_due(engine, endpoint);
    const Slice &slice = engine.slices[first];
    uint64_t late_ns = due_ns(engine, slice), half_ns = late_ns - slice.allowance_ns / 2;
    if (engine.now_ns < half_ns) return half_ns;
    uint64_t id = slice_id(engine, first);
    if (endpoint.moved_slice != id) {  // what has moved up to here says nothing
        endpoint.moved_slice = id;
        has_moved(engine, endpoint);
        endpoint.moved_ns = 0;
    }
    if (engine.now_ns < late_ns) return late_ns;
    bool moved = has_moved(engine, endpoint);
    // A slow one shows bytes, or completes slices, at least this often.
    uint64_t margin_ns =
        std::max(endpoint.health.margin_ns(parameters(engine)), slice.allowance_ns / 4);
    uint64_t seen_ns = std::max(endpoint.moved_ns, endpoint.path.progress_ns);
    endpoint.late = !moved && engine.now_ns >= seen_ns + margin_ns && !mutant(Mutant::late_ignored);
    if (moved) watch_act(engine, endpoint, endpoint.health.on_progress(), "bytes move again");
    return engine.now_ns + WATCH_NS;
}

// Is another endpoint open and not late that could carry the slices of this request?
bool has_other(const Endpoint &endpoint, const Request &request) {
    if (mutant(Mutant::last_path)) return true;
    if (!request.route) return false;
    for (const BoundRung &rung : request.route->rungs)
        for (const Endpoint *other : rung.endpoints)
            if (other != &endpoint && other->path.ready && !other->late &&
                other->refusing_since_ns == 0 && !request_bars(request, *other))
                return true;
    return false;
}

// Would its work, or any, go on without it?
bool has_sibling(const Engine &engine, const Endpoint &endpoint) {
    if (endpoint.flight_head != NIL) {
        uint32_t request = engine.slices[endpoint.flight_head].request;
        if (request != NIL) return has_other(endpoint, engine.requests[request]);
    }
    return std::any_of(
        endpoint.segment->endpoints.begin(), endpoint.segment->endpoints.end(),
        [&](const Endpoint *other) { return other != &endpoint && other->path.ready; });
}

LateView view_of(const Engine &engine, const Endpoint &endpoint, uint32_t request) {
    const Peer &peer = *endpoint.segment->peer;
    uint64_t since_ns = endpoint.health.silent_ns();
    return {request != NIL && has_other(endpoint, engine.requests[request]),
            since_ns != 0 && peer.alive_ns > since_ns};
}

void judge_late(Engine &engine, Endpoint &endpoint) {
    const Slice &slice = engine.slices[endpoint.flight_head];
    Peer &peer = *endpoint.segment->peer;
    peer_ask_life(engine, peer);
    std::string words = silence(engine.now_ns - slice.posted_ns);
    HealthAction action = endpoint.health.on_late(
        engine.now_ns, view_of(engine, endpoint, slice.request), parameters(engine));
    watch_act(engine, endpoint, action, words.c_str());
}

// Others come through and one does not, where the transport cannot say that it is on its way: it
// was lost, and waiting for silence could take for ever.
void judge_lost(Engine &engine, Endpoint &endpoint) {
    const Slice &slice = engine.slices[endpoint.flight_head];
    uint64_t lost_ns = due_ns(engine, slice) + LOST_ALLOWANCES * slice.allowance_ns;
    if (engine.now_ns < lost_ns || tells_progress(endpoint) || mutant(Mutant::late_ignored)) return;
    if (has_sibling(engine, endpoint) ||
        engine.now_ns >= slice.posted_ns + parameters(engine).last_path_patience_ns)
        endpoints_fail(engine, endpoint, TENT_E_TIMEOUT, "it has lost a slice");
}

// A transport that takes nothing although nothing of it is in flight.
void judge_refusing(Engine &engine, Endpoint &endpoint) {
    const Parameters &limits = parameters(engine);
    if (endpoint.refusing_since_ns == 0 || endpoint.path.own.inflight_slices > 0) return;
    if (!endpoint.path.ready) {
        endpoint.refusing_since_ns = 0;
        return;
    }
    bool other = std::any_of(endpoint.segment->endpoints.begin(), endpoint.segment->endpoints.end(),
                             [&](const Endpoint *candidate) {
                                 return candidate != &endpoint && candidate->path.ready &&
                                        candidate->refusing_since_ns == 0;
                             });
    uint64_t patience_ns = other ? endpoint.health.margin_ns(limits) : limits.last_path_patience_ns;
    if (engine.now_ns - endpoint.refusing_since_ns >= patience_ns)
        endpoints_fail(engine, endpoint, TENT_E_TRANSPORT, "it takes no slices");
}

uint64_t share_ppm(const Endpoint &endpoint) {
    const RateEstimator &rate = endpoint.path.own.rate;
    return rate.nominal() ? scale(rate.bytes_per_s(), 1000000, rate.nominal()) : 0;
}

// Compares measured rates of one transport, each with what its rail is said to carry.
void judge_slow(Engine &engine, Endpoint &endpoint) {
    uint64_t percent = parameters(engine).slow_share, own = share_ppm(endpoint), best = 0;
    if (percent == 0 || own == 0 || !endpoint.path.ready) return;
    for (const Endpoint *other : endpoint.segment->endpoints)
        if (other != &endpoint && other->path.ready && !other->late &&
            other->rail->transport == endpoint.rail->transport)
            best = std::max(best, share_ppm(*other));
    if (own >= scale(best, percent, 100)) return;
    uint32_t head = endpoint.flight_head;
    LateView view = view_of(engine, endpoint, head == NIL ? NIL : engine.slices[head].request);
    watch_act(engine, endpoint, endpoint.health.on_slow(engine.now_ns, view, parameters(engine)),
              "far slower than the others");
}

void judge_canary(Engine &engine, Endpoint &endpoint) {
    if (endpoint.state != EndpointState::Ready || endpoint.health.state() != HealthState::Probing)
        return;
    if (engine.now_ns >= endpoint.deadline_ns)
        endpoints_fail(engine, endpoint, TENT_E_TIMEOUT, "its canary did not come back");
    else if (!endpoint.canary_out)
        watch_probe(engine, endpoint);
}

// What its state asks for at this look. False: there is nothing left to watch.
bool judge(Engine &engine, Endpoint &endpoint) {
    if (endpoint.state != EndpointState::Ready) return false;
    judge_canary(engine, endpoint);
    if (endpoint.health.state() == HealthState::Suspect && !has_sibling(engine, endpoint))
        watch_act(engine, endpoint, endpoint.health.on_alone(), "no other path is left");
    if (endpoint.late)
        judge_late(engine, endpoint);
    else if (endpoint.flight_head != NIL)
        judge_lost(engine, endpoint);
    judge_refusing(engine, endpoint);
    bool flying = endpoint.flight_head != NIL;
    if (flying && endpoint.health.state() == HealthState::Healthy) judge_slow(engine, endpoint);
    if (!flying && endpoint.health.state() == HealthState::Suspect)
        watch_act(engine, endpoint, endpoint.health.on_drained(engine.now_ns, parameters(engine)),
                  "it has nothing left in flight");
    return endpoint.state == EndpointState::Ready &&
           (endpoint.flight_head != NIL || !endpoint.health.usable() ||
            endpoint.refusing_since_ns != 0);
}

}  // namespace

void watch_begin(Engine &engine, Endpoint &endpoint) {
    watch_within(engine, engine.now_ns + WATCH_NS);
    if (endpoint.watched) return;
    endpoint.watched = true;
    engine.watched.push_back(&endpoint);
}

void watch_forget(Engine &engine, Endpoint &endpoint) {
    if (endpoint.watched) std::erase(engine.watched, &endpoint);
    endpoint.watched = endpoint.late = false;
}

void watch_act(Engine &engine, Endpoint &endpoint, HealthAction action, const char *why) {
    EventFields fields{.segment = endpoint.segment->handle,
                       .endpoint = endpoint.id,
                       .rail = static_cast<int32_t>(endpoint.rail->plan.index)};
    switch (action) {
        case HealthAction::Pause:
            endpoint.path.ready = false;
            engine.schedule_due = true;
            report(engine, TENT_EVENT_ENDPOINT_SUSPECT, fields, "%s is suspect: %s",
                   endpoint.title.c_str(), why);
            break;
        case HealthAction::Resume:
            endpoint.path.ready = endpoint.state == EndpointState::Ready;
            endpoint.path.slices_max = endpoint.health.slices_max();
            engine.schedule_due = true;
            report(engine, TENT_EVENT_ENDPOINT_HEALED, fields, "%s carries slices again: %s",
                   endpoint.title.c_str(), why);
            break;
        case HealthAction::Close: endpoints_fail(engine, endpoint, TENT_E_TIMEOUT, why); break;
        default: break;
    }
}

void watch_success(Engine &engine, Endpoint &endpoint) {
    endpoint.segment->peer->alive_ns = engine.now_ns;
    HealthAction action = endpoint.health.on_success();
    endpoint.path.slices_max = endpoint.health.slices_max();
    if (action != HealthAction::None && endpoint.state == EndpointState::Ready)
        watch_act(engine, endpoint, action, "a slice has come through");
}

void watch_error(Engine &engine, Endpoint &endpoint, uint32_t request) {
    if (endpoint.state != EndpointState::Ready) return;
    watch_begin(engine, endpoint);
    watch_act(engine, endpoint,
              endpoint.health.on_error(engine.now_ns, view_of(engine, endpoint, request),
                                       parameters(engine)),
              "a checksum did not match");
}

void watch_probe(Engine &engine, Endpoint &endpoint) {
    watch_begin(engine, endpoint);
    if (mutant(Mutant::quarantine_leak)) endpoint.path.ready = true;
    if (endpoint.scratch_address == 0) {  // the transport has nowhere to put one
        watch_act(engine, endpoint, endpoint.health.on_canary(), "it is connected");
        return;
    }
    Transport &transport = *endpoint.rail->transport;
    tent_slice canary{};
    canary.id = static_cast<uint64_t>(endpoint.slot) << 32 | CANARY_INDEX;
    canary.op = TENT_OP_WRITE;
    canary.local = reinterpret_cast<void *>(scratch_source(engine));
    canary.remote = endpoint.scratch_address;
    canary.length = SCRATCH_SIZE;
    canary.local_region = scratch_handle(engine, transport);
    canary.remote_region = endpoint.scratch_handle;
    if (mutant(Mutant::canary_place))
        for (const auto &[handle, region] : endpoint.segment->regions)
            if (region->about.length >= SCRATCH_SIZE) canary.remote = region->about.address;
    endpoint.canary_out =
        transport.table->post(transport.instance, endpoint.handle, &canary, 1) == 1;
    if (TENT_OFFERS(transport.table, flush)) transport.table->flush(transport.instance);
}

void watch_canary(Engine &engine, uint32_t slot, int32_t status) {
    if (slot >= engine.endpoints.size() || !engine.endpoints[slot]->canary_out) {
        engine_poison(engine, "a plugin returned a canary that is not posted");
        return;
    }
    Endpoint &endpoint = *engine.endpoints[slot];
    endpoint.canary_out = false;
    if (endpoint.state != EndpointState::Ready) return;
    if (status == TENT_OK) {
        endpoint.segment->peer->alive_ns = engine.now_ns;
        watch_act(engine, endpoint, endpoint.health.on_canary(), "its canary has come back");
    } else if (status == TENT_E_NO_PATH) {  // it reaches other memory, but not that of canaries
        watch_act(engine, endpoint, endpoint.health.on_canary(), "it is connected");
    } else {
        endpoints_fail(engine, endpoint, status, "its canary failed");
    }
}

void watch_step(Engine &engine) {
    if (engine.now_ns < engine.watch_due_ns) return;
    uint64_t next_ns = UINT64_MAX;
    for (Endpoint *endpoint : engine.watched)
        next_ns = std::min(next_ns, look(engine, *endpoint));
    // Indexed: judging one may take others out of the list.
    for (size_t i = 0; i < engine.watched.size();) {
        Endpoint *endpoint = engine.watched[i];
        if (judge(engine, *endpoint)) {
            if (!endpoint->path.ready || endpoint->refusing_since_ns) next_ns = engine.now_ns;
            i++;
        } else if (i < engine.watched.size() && engine.watched[i] == endpoint) {
            endpoint->watched = endpoint->late = false;
            engine.watched[i] = engine.watched.back();
            engine.watched.pop_back();
        }
    }
    if (!engine.blocked.empty()) {  // what took too little is offered again
        engine.schedule_due = true;
        next_ns = engine.now_ns;
    }
    engine.watch_due_ns =
        next_ns == UINT64_MAX ? next_ns : std::max(next_ns, engine.now_ns + WATCH_NS);
}

void watch_stall(Engine &engine) {
    uint64_t gap_ns = engine.now_ns - engine.cycled_ns;
    if (engine.cycled_ns != 0 && gap_ns > engine.planned_ns + STALL_NS)
        engine.stalled_ns += gap_ns - engine.planned_ns;
    engine.cycled_ns = engine.now_ns;
    engine.planned_ns = 0;
}

}  // namespace tent
