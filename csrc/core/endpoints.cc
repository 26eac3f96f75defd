// See endpoints.h. Set-up, news, failure and fence of initiator endpoints; the target's half is in
// endpoints_target.cc.
#include "core/endpoints.h"

#include <algorithm>
#include <cstring>

#include "base/mutant.h"
#include "base/status.h"
#include "core/control.h"
#include "core/reports.h"
#include "core/spray.h"
#include "core/unfenced.h"
#include "core/unreachable.h"
#include "core/watch.h"

namespace tent {

namespace {

tent_endpoint_params params_of(const Engine &engine, const Endpoint &endpoint) {
    tent_endpoint_params params{};
    params.size = sizeof params;
    params.initiator = endpoint.initiator;
    params.endpoint = endpoint.id;
    params.rail = endpoint.rail->handle;
    params.peer_rail = endpoint.peer_rail_text.c_str();
    params.peer_address = endpoint.peer_address.c_str();
    params.slice_count_max = std::min(engine.limits.slices, static_cast<uint32_t>(SLICE_COUNT_MAX));
    return params;
}

void set_state(Endpoint &endpoint, EndpointState state) {
    endpoint.state = state;
    endpoint.path.ready =
        endpoint.initiator && state == EndpointState::Ready && endpoint.health.usable();
}

// The books of a peer's rail, shared by all segments of that peer.
RemoteRail *remote_rail_take(Engine &engine, const Descriptor &peer, const DescriptorRail &rail) {
    for (auto &known : engine.remote_rails)
        if (known->index == rail.index && known->epoch == peer.epoch &&
            memcmp(known->engine_id, peer.engine_id, ENGINE_ID_SIZE) == 0) {
            known->endpoints++;
            return known.get();
        }
    engine.remote_rails.push_back(std::make_unique<RemoteRail>());
    RemoteRail &made = *engine.remote_rails.back();
    memcpy(made.engine_id, peer.engine_id, ENGINE_ID_SIZE);
    made.epoch = peer.epoch;
    made.index = rail.index;
    made.endpoints = 1;
    made.lane.rate.init(rail.bandwidth_bytes_per_s, parameters(engine).rate_prior_bytes_per_s);
    return &made;
}

void remote_rail_give(Engine &engine, Endpoint &endpoint) {
    RemoteRail *rail = endpoint.remote_rail;
    endpoint.remote_rail = nullptr;
    if (!rail || --rail->endpoints > 0) return;
    std::erase_if(engine.remote_rails, [&](const auto &known) { return known.get() == rail; });
}

// No route of the segment offers the endpoint any more.
void forget_choice(Segment &segment, const Endpoint &endpoint) {
    for (auto &route : segment.routes)
        for (BoundRung &rung : route->rungs) {
            auto at = std::find(rung.endpoints.begin(), rung.endpoints.end(), &endpoint);
            if (at == rung.endpoints.end()) continue;
            rung.choices.erase(rung.choices.begin() + (at - rung.endpoints.begin()));
            rung.endpoints.erase(at);
            if (rung.stripe) *rung.stripe = {};
        }
}

void destroy(Engine &engine, Endpoint &endpoint) {
    if (endpoint.state == EndpointState::Gone) return;
    engine.endpoint_by_id.erase(endpoint.id);
    endpoint.rail->endpoints--;
    set_state(endpoint, EndpointState::Gone);
    endpoint.held.clear();
    std::erase(engine.blocked, &endpoint);
    watch_forget(engine, endpoint);
    remote_rail_give(engine, endpoint);
    engine.endpoint_free.push_back(endpoint.slot);
}

// A question that the peer has not answered is said again, on every way there is.
void ask_again(Engine &engine, Endpoint &endpoint) {
    endpoint.ask_interval_ns = std::clamp(2 * endpoint.ask_interval_ns, ASK_NS_MIN, ASK_NS_MAX);
    endpoint.ask_due_ns = engine.now_ns + endpoint.ask_interval_ns;
    if (endpoint.state == EndpointState::Offered)
        peer_open_endpoint(engine, endpoint, true);
    else
        peer_retire_endpoint(engine, endpoint, true);
}

void ask_first(Engine &engine, Endpoint &endpoint) {
    endpoint.ask_interval_ns = ASK_NS_MIN;
    endpoint.ask_due_ns = engine.now_ns + ASK_NS_MIN;
    if (endpoint.state == EndpointState::Offered)
        peer_open_endpoint(engine, endpoint);
    else
        peer_retire_endpoint(engine, endpoint);
}

// Requests that waited for this fence may now end.
void release_held(Engine &engine, Endpoint &endpoint, int32_t error) {
    std::vector<uint32_t> held;
    held.swap(endpoint.held);
    for (uint32_t index : held) {
        Request &request = engine.requests[index];
        request.fences--;
        // UNFENCED outranks every other end: the caller must know before it reuses remote memory.
        if (error != TENT_OK) {
            request.error = error;
            spray_stop(engine, index, error);  // what is marked must not stay queued
        }
    }
    for (uint32_t index : held)
        if (engine.requests[index].status.load(std::memory_order_relaxed) == TENT_IN_PROGRESS &&
            engine.requests[index].fences == 0)
            spray_try_finish(engine, index);
}

void import_scratch(Endpoint &endpoint, const EndpointAnswer &answer) {
    const Transport &transport = *endpoint.rail->transport;
    endpoint.scratch_address = answer.scratch;
    if (answer.scratch_export.empty() || !transport.table->segment_import) return;
    if (transport.table->segment_import(transport.instance, answer.scratch_export.data(),
                                        static_cast<uint32_t>(answer.scratch_export.size()),
                                        &endpoint.scratch_handle) != TENT_OK)
        endpoint.scratch_address = 0;
    else if (TENT_OFFERS(transport.table, endpoint_region))
        transport.table->endpoint_region(transport.instance, endpoint.handle,
                                         endpoint.scratch_handle);
}

void report_fence(Engine &engine, const Endpoint &endpoint, int32_t error) {
    report(engine, error == TENT_OK ? TENT_EVENT_FENCED : TENT_EVENT_UNFENCED,
           {.segment = endpoint.segment->handle,
            .endpoint = endpoint.id,
            .rail = static_cast<int32_t>(endpoint.rail->plan.index),
            .status = error},
           "%s: %s", endpoint.title.c_str(),
           error == TENT_OK ? "fenced, nothing posted on it can land any more"
                            : "the peer did not confirm the fence, late writes are possible");
}

// Names what the peer has not confirmed, of one request or (NIL) of all held, and has it asked for
// the proof when it can answer.
void record_unfenced(Engine &engine, Endpoint &endpoint, uint32_t index) {
    bool any = false;
    for (const HeldRange &range : endpoint.held_ranges) {
        if (index != NIL && range.request != index) continue;
        unfenced_add(engine, endpoint, engine.requests[range.request], range.remote, range.length);
        any = true;
    }
    std::erase_if(endpoint.held_ranges,
                  [&](const HeldRange &range) { return index == NIL || range.request == index; });
    if (!any) return;
    report_fence(engine, endpoint, TENT_E_UNFENCED);
    peer_owes_proof(engine, *endpoint.segment->peer, endpoint.id);
}

// Both halves are quiet (or the remote one never will be): what follows the fence.
void conclude(Engine &engine, Endpoint &endpoint, int32_t error) {
    if (error != TENT_OK)
        record_unfenced(engine, endpoint, NIL);
    else if (!endpoint.held.empty())
        report_fence(engine, endpoint, TENT_OK);
    endpoint.held_ranges.clear();
    if (endpoint.remote_quiet)
        unfenced_prove(engine, endpoint.id, "the peer has retired the endpoint");
    if (mutant(Mutant::unfenced_silent) && error != TENT_OK) error = TENT_E_TRANSPORT;
    release_held(engine, endpoint, error);
    engine.schedule_due = true;  // retries may have waited for this
    endpoints_forget_scratch(endpoint);
    endpoint.handle = nullptr;
    engine.endpoint_by_id.erase(endpoint.id);
    set_state(endpoint, EndpointState::Waiting);
}

// The plugin has not let go of our memory in time: requests end without it, what it holds stays
// pinned and charged, and the endpoint stays as it is until it does.
void disown(Engine &engine, const Endpoint &endpoint) {
    std::vector<uint32_t> requests;
    for (uint32_t i = endpoint.flight_head; i != NIL; i = engine.slices[i].next)
        if (engine.slices[i].request != NIL) requests.push_back(engine.slices[i].request);
    // Each once: when one has ended its slot may serve another request at once.
    std::sort(requests.begin(), requests.end());
    requests.erase(std::unique(requests.begin(), requests.end()), requests.end());
    for (uint32_t index : requests) {
        spray_stop(engine, index, TENT_E_UNFENCED_LOCAL);
        endpoints_unfence(engine, index);
        spray_disown(engine, index);
    }
    for (uint32_t index : requests)
        spray_try_finish(engine, index);
}

void try_conclude(Engine &engine, Endpoint &endpoint) {
    if (endpoint.state != EndpointState::Fencing) return;
    bool overdue = engine.now_ns >= endpoint.deadline_ns;
    if (!endpoint.local_quiet && endpoint.handle) {
        const Transport &transport = *endpoint.rail->transport;
        endpoint.local_quiet = transport.table->endpoint_close(transport.instance,
                                                               endpoint.handle) != TENT_IN_PROGRESS;
    }
    // The plugin still owes results: their requests may have to be held, too.
    bool local = endpoint.local_quiet && endpoint.flight_head == NIL && !endpoint.canary_out;
    if (!local && !mutant(Mutant::fence_local)) {
        if (!overdue) return;
        disown(engine, endpoint);
        // What came back before waits for the peer alone.
        if (!endpoint.remote_quiet) record_unfenced(engine, endpoint, NIL);
        endpoint.held_ranges.clear();
        release_held(engine, endpoint, endpoint.remote_quiet ? TENT_OK : TENT_E_UNFENCED);
        return;
    }
    if (endpoint.remote_quiet || endpoint.held.empty())
        conclude(engine, endpoint, TENT_OK);
    else if (overdue || endpoint.unanswered)
        conclude(engine, endpoint, TENT_E_UNFENCED);
    else if (engine.now_ns >= endpoint.ask_due_ns)
        ask_again(engine, endpoint);
}

// Sends the offer of a new incarnation of the endpoint.
int32_t offer(Engine &engine, Endpoint &endpoint) {
    endpoint.id = engine.endpoint_next++;
    engine.endpoint_by_id[endpoint.id] = &endpoint;
    endpoint.local_quiet = endpoint.remote_quiet = endpoint.unanswered = false;
    endpoint.staged_count = 0;
    endpoint.message_number = endpoint.message_seen = 0;
    bool probe = endpoint.health.state() == HealthState::Probing;
    endpoint.deadline_ns = engine.now_ns + (probe ? parameters(engine).probe_timeout_ns
                                                  : parameters(engine).connect_timeout_ns);
    endpoint.moved_bytes = endpoint.moved_slice = endpoint.moved_ns = 0;
    endpoint.refusing_since_ns = 0;
    endpoint.offer.resize(TENT_OFFER_MAX);
    uint32_t size = TENT_OFFER_MAX;
    Transport &transport = *endpoint.rail->transport;
    tent_endpoint_params params = params_of(engine, endpoint);
    transport.failure.clear();
    int32_t status = transport.table->endpoint_offer(transport.instance, &params, &endpoint.handle,
                                                     endpoint.offer.data(), &size);
    if (status != TENT_OK) {
        endpoint.handle = nullptr;
        engine.endpoint_by_id.erase(endpoint.id);
        return fail(status, "%s: %s", endpoint.title.c_str(),
                    transport.failure.empty() ? status_text(status) : transport.failure.c_str());
    }
    endpoint.offer.resize(size);
    for (const auto &[number, region] : endpoint.segment->regions)
        endpoints_region(endpoint, *region);
    set_state(endpoint, EndpointState::Offered);
    engine.endpoints_unsettled++;
    ask_first(engine, endpoint);
    return TENT_OK;
}

// It has broken, or could not even be offered. counts: its path is to blame.
void broken(Engine &engine, Endpoint &endpoint, bool counts) {
    endpoint.health.on_broken(engine.now_ns, counts, engine.random.u64(), parameters(engine));
    endpoint.path.ready = false;
    if (counts && !endpoint.proven) endpoint.setups_failed++;
}

void become_ready(Engine &engine, Endpoint &endpoint) {
    HealthAction action = endpoint.health.on_connected();
    set_state(endpoint, EndpointState::Ready);
    endpoint.tried = endpoint.proven = true;
    endpoint.path.progress_ns = engine.now_ns;
    endpoint.path.slices_max = endpoint.health.slices_max();
    report(engine, TENT_EVENT_ENDPOINT_READY,
           {.segment = endpoint.segment->handle,
            .endpoint = endpoint.id,
            .rail = static_cast<int32_t>(endpoint.rail->plan.index)},
           "%s is ready", endpoint.title.c_str());
    engine.schedule_due = true;
    unreachable_proved(engine, endpoint);
    if (action == HealthAction::Probe) {
        uint64_t from_ns = std::max(engine.now_ns, endpoint.drained_ns);
        endpoint.deadline_ns =
            std::max(endpoint.deadline_ns, from_ns + parameters(engine).probe_timeout_ns);
        watch_probe(engine, endpoint);
    }
}

}  // namespace

void endpoints_forget_scratch(Endpoint &endpoint) {
    const Transport &transport = *endpoint.rail->transport;
    if (endpoint.scratch_handle && transport.table->segment_forget)
        transport.table->segment_forget(transport.instance, endpoint.scratch_handle);
    endpoint.scratch_handle = nullptr;
    endpoint.scratch_address = 0;
}

void endpoints_region(const Endpoint &endpoint, const RemoteRegion &region) {
    const Transport &transport = *endpoint.rail->transport;
    void *const told = endpoints_handle(endpoint);
    if (!told || !TENT_OFFERS(transport.table, endpoint_region)) return;
    for (const auto &[owner, handle] : region.handles)
        if (owner == &transport) transport.table->endpoint_region(transport.instance, told, handle);
}

Endpoint *endpoints_find(Engine &engine, uint64_t id) {
    auto found = engine.endpoint_by_id.find(id);
    return found == engine.endpoint_by_id.end() ? nullptr : found->second;
}

Endpoint *endpoints_make(Engine &engine, Rail &rail) {
    Endpoint *endpoint = nullptr;
    if (!engine.endpoint_free.empty()) {
        uint32_t slot = engine.endpoint_free.back();
        engine.endpoint_free.pop_back();
        engine.endpoints[slot] = std::make_unique<Endpoint>();
        endpoint = engine.endpoints[slot].get();
        endpoint->slot = slot;
    } else if (engine.endpoints.size() < ENDPOINTS_MAX) {
        engine.endpoints.push_back(std::make_unique<Endpoint>());
        endpoint = engine.endpoints.back().get();
        endpoint->slot = static_cast<uint32_t>(engine.endpoints.size() - 1);
    } else {
        return nullptr;
    }
    endpoint->rail = &rail;
    rail.endpoints++;
    // The scheduler pushes endpoints here; it must not allocate then.
    engine.staged.reserve(engine.endpoints.size());
    engine.blocked.reserve(engine.endpoints.size());
    engine.watched.reserve(engine.endpoints.size());
    return endpoint;
}

Endpoint *endpoints_begin(Engine &engine, Segment &segment, Rail &rail,
                          const DescriptorRail &peer) {
    Endpoint *endpoint = endpoints_make(engine, rail);
    if (!endpoint) {
        report(engine, TENT_EVENT_LOG, {.segment = segment.handle, .status = TENT_E_AGAIN},
               "%u endpoints exist, the most there can be", ENDPOINTS_MAX);
        return nullptr;
    }
    endpoint->initiator = true;
    endpoint->segment = &segment;
    endpoint->peer_rail = peer.index;
    endpoint->peer_rail_text = peer.address;
    endpoint->peer_address = peer.listen;
    endpoint->begun_ns = engine.now_ns;
    endpoint->title = segment.descriptor.name + ": rail " + std::to_string(rail.plan.index) +
                      " -> " + std::to_string(peer.index);
    uint64_t nominal = rail_nominal(rail);
    if (peer.bandwidth_bytes_per_s)
        nominal =
            nominal ? std::min(nominal, peer.bandwidth_bytes_per_s) : peer.bandwidth_bytes_per_s;
    endpoint->remote_rail = remote_rail_take(engine, segment.descriptor, peer);
    endpoint->path.init(rail.lane, endpoint->remote_rail->lane, nominal,
                        parameters(engine).rate_prior_bytes_per_s);
    segment.endpoints.push_back(endpoint);
    if (offer(engine, *endpoint) != TENT_OK) {
        report(engine, TENT_EVENT_ENDPOINT_FAILED,
               {.segment = segment.handle, .status = TENT_E_TRANSPORT}, "%s", last_error());
        endpoint->error = TENT_E_TRANSPORT;
        endpoint->tried = true;
        broken(engine, *endpoint, true);
        set_state(*endpoint, EndpointState::Waiting);
    }
    return endpoint;
}

void endpoints_answered(Engine &engine, Peer &peer, const EndpointAnswer &answer) {
    Endpoint *endpoint = endpoints_find(engine, answer.endpoint);
    if (!endpoint || !endpoint->initiator || endpoint->segment->peer != &peer) return;
    if (endpoint->state != EndpointState::Offered) return;  // a repeated answer
    if (answer.status != TENT_OK) {
        endpoints_fail(engine, *endpoint, answer.status, answer.sentence.c_str());
        return;
    }
    set_state(*endpoint, EndpointState::Connecting);
    import_scratch(*endpoint, answer);
    tent_endpoint_params params = params_of(engine, *endpoint);
    params.blob = answer.answer.data();
    params.blob_size = static_cast<uint32_t>(answer.answer.size());
    Transport &transport = *endpoint->rail->transport;
    transport.failure.clear();
    int32_t status =
        transport.table->endpoint_connect(transport.instance, endpoint->handle, &params);
    if (status != TENT_OK) endpoints_fail(engine, *endpoint, status, transport.failure.c_str());
}

void endpoints_retired(Engine &engine, Peer &peer, const EndpointRetired &retired) {
    Endpoint *endpoint = endpoints_find(engine, retired.endpoint);
    if (!endpoint || !endpoint->initiator || endpoint->segment->peer != &peer) return;
    endpoint->remote_quiet = true;
    if (endpoint->state == EndpointState::Fencing)
        try_conclude(engine, *endpoint);
    else
        endpoints_fail(engine, *endpoint,
                       retired.status == TENT_OK ? TENT_E_TRANSPORT : retired.status,
                       retired.sentence.empty() ? "retired by the peer" : retired.sentence.c_str());
}

void endpoints_hold(Engine &engine, Endpoint &endpoint, uint32_t index, const Slice &slice) {
    if (mutant(Mutant::fence_remote)) return;
    Request &request = engine.requests[index];
    endpoint.held_ranges.push_back({index, request.remote + slice.offset, slice.length});
    if (std::find(endpoint.held.begin(), endpoint.held.end(), index) != endpoint.held.end()) return;
    request.fences++;
    endpoint.held.push_back(index);
}

void endpoints_unfence(Engine &engine, uint32_t index) {
    Request &request = engine.requests[index];
    for (auto &endpoint : engine.endpoints) {
        auto at = std::find(endpoint->held.begin(), endpoint->held.end(), index);
        if (at == endpoint->held.end()) continue;
        endpoint->held.erase(at);
        request.fences--;
        record_unfenced(engine, *endpoint, index);
        request.error = mutant(Mutant::unfenced_silent) ? TENT_E_TIMEOUT : TENT_E_UNFENCED;
    }
}

void endpoints_unfenced_slice(Engine &engine, const Endpoint &endpoint, const Request &request,
                              const Slice &slice) {
    unfenced_add(engine, endpoint, request, request.remote + slice.offset, slice.length);
    peer_owes_proof(engine, *endpoint.segment->peer, endpoint.id);
}

void endpoints_fail(Engine &engine, Endpoint &endpoint, int32_t status, const char *sentence) {
    if (endpoint.state == EndpointState::Fencing || endpoint.state == EndpointState::Waiting ||
        endpoint.state == EndpointState::Gone)
        return;
    // Closed on purpose, or the segment's or the peer's affair: the path is not to blame.
    bool counts = status != TENT_E_CANCELLED && status != TENT_E_CLOSED && status != TENT_E_DENIED;
    broken(engine, endpoint, counts);
    // What the wire has taken still passes before anything new, a canary included.
    endpoint.drained_ns = engine.now_ns + std::min(endpoint.path.predict_ns(0), DRAIN_NS_MAX);
    spray_unstage(engine, endpoint);
    set_state(endpoint, EndpointState::Fencing);
    engine.endpoints_unsettled++;  // counted anew by housekeeping, which must run for it
    // A failed slice, or the peer, may be quicker than the plugin's own words, which say why.
    std::string words = sentence;
    for (const EndpointNews &news : control_news(engine))
        if (news.endpoint == endpoint.id && news.status != TENT_OK) words = news.sentence;
    endpoint.tried = true;
    endpoint.error = status;
    endpoint.deadline_ns = engine.now_ns + parameters(engine).fence_timeout_ns;
    engine.schedule_due = true;
    report(engine, TENT_EVENT_ENDPOINT_FAILED,
           {.segment = endpoint.segment->handle,
            .endpoint = endpoint.id,
            .rail = static_cast<int32_t>(endpoint.rail->plan.index),
            .status = status},
           "%s failed: %s", endpoint.title.c_str(),
           words.empty() ? status_text(status) : words.c_str());
    if (!endpoint.handle) endpoint.local_quiet = true;
    if (!endpoint.remote_quiet) ask_first(engine, endpoint);
    try_conclude(engine, endpoint);
}

void endpoints_resend(Engine &engine, const Peer &peer) {
    for (auto &endpoint : engine.endpoints) {
        if (!endpoint->initiator || endpoint->state == EndpointState::Gone) continue;
        if (endpoint->segment->peer != &peer) continue;
        if (endpoint->state == EndpointState::Offered) peer_open_endpoint(engine, *endpoint);
        if (endpoint->state == EndpointState::Fencing && !endpoint->remote_quiet)
            peer_retire_endpoint(engine, *endpoint);
    }
}

void endpoints_peer_lost(Engine &engine, const Peer &peer, bool proven) {
    for (auto &endpoint : engine.endpoints) {
        if (!endpoint->initiator || endpoint->state == EndpointState::Gone) continue;
        if (endpoint->segment->peer != &peer) continue;
        endpoint->abandon = true;
        endpoint->remote_quiet |= proven;
        endpoints_fail(engine, *endpoint, TENT_E_PEER, "the peer is gone");
        endpoint->health.on_gone();
        endpoint->unanswered = true;
        try_conclude(engine, *endpoint);
    }
}

namespace {

// Fails every endpoint that has slices in flight of a request that `chosen` chooses.
template <class Chosen>
void force(Engine &engine, const char *sentence, const Chosen &chosen) {
    std::vector<bool> late(engine.endpoints.size());
    for (uint32_t i = 0; i < engine.slice_fresh; i++) {
        const Slice &slice = engine.slices[i];
        if (slice.endpoint != NIL && slice.request != NIL && chosen(slice.request))
            late[slice.endpoint] = true;
    }
    for (size_t slot = 0; slot < late.size(); slot++)
        if (late[slot]) endpoints_fail(engine, *engine.endpoints[slot], TENT_E_CANCELLED, sentence);
}

}  // namespace

void endpoints_force_cancel(Engine &engine, uint32_t batch) {
    force(engine, "slices of a cancelled request did not finish within cancel_grace",
          [&](uint32_t request) { return engine.requests[request].batch == batch; });
}

void endpoints_force_request(Engine &engine, uint32_t index) {
    force(engine, "slices of a request were in flight when its deadline came",
          [&](uint32_t request) { return request == index; });
}

bool endpoints_end_segment(Engine &engine, Segment &segment) {
    bool left = false;
    for (Endpoint *endpoint : segment.endpoints) {
        if (endpoint->state == EndpointState::Gone) continue;
        endpoint->abandon = true;
        endpoints_fail(engine, *endpoint, TENT_E_CLOSED, "its segment is closed");
        try_conclude(engine, *endpoint);
        if (endpoint->state == EndpointState::Waiting) {
            forget_choice(segment, *endpoint);  // its slot may be made anew while others are left
            destroy(engine, *endpoint);
        }
        left |= endpoint->state != EndpointState::Gone;
    }
    // At once: a slot given back may be made anew before the next step of this close.
    std::erase_if(segment.endpoints,
                  [](const Endpoint *endpoint) { return endpoint->state == EndpointState::Gone; });
    return !left;
}

void endpoints_abandon(Engine &engine, Endpoint &endpoint, const char *why) {
    endpoint.abandon = true;
    endpoints_fail(engine, endpoint, TENT_E_CLOSED, why);
}

void endpoints_abandon_rail(Engine &engine, Rail &rail) {
    for (auto &endpoint : engine.endpoints) {
        if (endpoint->rail != &rail || endpoint->state == EndpointState::Gone) continue;
        endpoint->abandon = true;
        if (!endpoint->initiator) continue;  // peers go on using it until they close
        if (endpoint->path.own.inflight_slices > 0) continue;
        endpoints_fail(engine, *endpoint, TENT_E_CLOSED, "its rail left the plan");
    }
}

void endpoints_rail_changed(Engine &engine, Rail &rail, const char *sentence) {
    for (auto &endpoint : engine.endpoints) {
        if (endpoint->rail != &rail || endpoint->state == EndpointState::Gone) continue;
        if (!rail.down)
            endpoint->health.on_encouraged();
        else if (endpoint->initiator)
            endpoints_fail(engine, *endpoint, TENT_E_TRANSPORT, sentence);
        else
            endpoints_news(engine, endpoint->id, TENT_E_TRANSPORT, sentence);
    }
    engine.endpoints_unsettled++;
    engine.housekeeping_due_ns = std::min(engine.housekeeping_due_ns, engine.now_ns);
}

void endpoints_initiator_news(Engine &engine, Endpoint &endpoint, int32_t status,
                              const char *sentence) {
    if (status != TENT_OK)
        endpoints_fail(engine, endpoint, status, sentence);
    else if (endpoint.state == EndpointState::Connecting ||
             endpoint.state == EndpointState::Offered)
        become_ready(engine, endpoint);
}

namespace {

// Quarantined and fenced: a fresh attempt, when its health says so.
void step_waiting(Engine &engine, Endpoint &endpoint) {
    Segment &segment = *endpoint.segment;
    if (endpoint.abandon || endpoint.trial) {  // a trial has one try
        std::erase(segment.endpoints, &endpoint);
        forget_choice(segment, endpoint);
        destroy(engine, endpoint);
        return;
    }
    if (segment.state == SegmentState::Failed || !peer_connected(segment.peer) ||
        endpoint.rail->down)
        return;
    bool waiting = segment.requests.load(std::memory_order_relaxed) > 0;
    if (endpoint.health.on_idle(engine.now_ns, waiting, parameters(engine)) != HealthAction::Probe)
        return;
    if (!unreachable_learn(engine, endpoint) && offer(engine, endpoint) != TENT_OK)
        broken(engine, endpoint, true);
}

}  // namespace

void endpoints_initiator_step(Engine &engine, Endpoint &endpoint) {
    switch (endpoint.state) {
        case EndpointState::Offered:
        case EndpointState::Connecting:
            if (engine.now_ns >= endpoint.deadline_ns)
                endpoints_fail(engine, endpoint, TENT_E_TIMEOUT, "its set-up took too long");
            else if (endpoint.state == EndpointState::Offered &&
                     engine.now_ns >= endpoint.ask_due_ns)
                ask_again(engine, endpoint);
            break;
        case EndpointState::Fencing: try_conclude(engine, endpoint); break;
        case EndpointState::Waiting: step_waiting(engine, endpoint); break;
        default: break;
    }
}

}  // namespace tent
