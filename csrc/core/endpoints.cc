// See endpoints.h. Set-up, news, failure and fence of initiator endpoints; the target's half is in
// endpoints_target.cc.
#include "core/endpoints.h"

#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "core/control.h"
#include "core/reports.h"
#include "core/spray.h"

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
    endpoint.path.ready = endpoint.initiator && state == EndpointState::Ready;
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
            *rung.stripe = {};
        }
}

void wait_for_rebuild(Engine &engine, Endpoint &endpoint) {
    endpoint.reopen_interval_ns =
        std::clamp(endpoint.reopen_interval_ns * 2, REOPEN_NS_MIN, REOPEN_NS_MAX);
    endpoint.reopen_ns = engine.now_ns + endpoint.reopen_interval_ns;
    set_state(endpoint, EndpointState::Waiting);
}

void destroy(Engine &engine, Endpoint &endpoint) {
    if (endpoint.state == EndpointState::Gone) return;
    engine.endpoint_by_id.erase(endpoint.id);
    endpoint.rail->endpoints--;
    set_state(endpoint, EndpointState::Gone);
    endpoint.held.clear();
    std::erase(engine.blocked, &endpoint);
    remote_rail_give(engine, endpoint);
    engine.endpoint_free.push_back(endpoint.slot);
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

// Both halves are quiet (or the remote one never will be): what follows the fence.
void conclude(Engine &engine, Endpoint &endpoint, int32_t error) {
    if (!endpoint.held.empty())
        report(engine, error == TENT_OK ? TENT_EVENT_FENCED : TENT_EVENT_UNFENCED,
               {.segment = endpoint.segment->handle,
                .endpoint = endpoint.id,
                .rail = static_cast<int32_t>(endpoint.rail->plan.index),
                .status = error},
               "%s: %s", endpoint.title.c_str(),
               error == TENT_OK ? "fenced, nothing posted on it can land any more"
                                : "the peer did not confirm the fence, late writes are possible");
    release_held(engine, endpoint, error);
    endpoint.handle = nullptr;
    engine.endpoint_by_id.erase(endpoint.id);
    wait_for_rebuild(engine, endpoint);
}

void try_conclude(Engine &engine, Endpoint &endpoint) {
    if (endpoint.state != EndpointState::Fencing) return;
    if (!endpoint.local_quiet && endpoint.handle) {
        const Transport &transport = *endpoint.rail->transport;
        endpoint.local_quiet = transport.table->endpoint_close(transport.instance,
                                                               endpoint.handle) != TENT_IN_PROGRESS;
    }
    // The plugin still owes results: their requests may have to be held, too.
    if (!endpoint.local_quiet || endpoint.path.own.inflight_slices > 0) return;
    if (endpoint.remote_quiet || endpoint.held.empty())
        conclude(engine, endpoint, TENT_OK);
    else if (engine.now_ns >= endpoint.deadline_ns)
        conclude(engine, endpoint, TENT_E_UNFENCED);
}

// Sends the offer of a new incarnation of the endpoint.
int32_t offer(Engine &engine, Endpoint &endpoint) {
    endpoint.id = engine.endpoint_next++;
    engine.endpoint_by_id[endpoint.id] = &endpoint;
    endpoint.local_quiet = endpoint.remote_quiet = false;
    endpoint.staged_count = 0;
    endpoint.message_number = endpoint.message_seen = 0;
    endpoint.deadline_ns = engine.now_ns + parameters(engine).connect_timeout_ns;
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
    set_state(endpoint, EndpointState::Offered);
    engine.endpoints_unsettled++;
    peer_open_endpoint(engine, endpoint);
    return TENT_OK;
}

void become_ready(Engine &engine, Endpoint &endpoint) {
    set_state(endpoint, EndpointState::Ready);
    endpoint.tried = true;
    endpoint.reopen_interval_ns = 0;
    endpoint.path.progress_ns = engine.now_ns;
    endpoint.segment->pathless_since_ns = 0;
    engine.schedule_due = true;
    report(engine, TENT_EVENT_ENDPOINT_READY,
           {.segment = endpoint.segment->handle,
            .endpoint = endpoint.id,
            .rail = static_cast<int32_t>(endpoint.rail->plan.index)},
           "%s is ready", endpoint.title.c_str());
}

}  // namespace

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
        wait_for_rebuild(engine, *endpoint);
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

void endpoints_hold(Engine &engine, Endpoint &endpoint, uint32_t index) {
    Request &request = engine.requests[index];
    if (std::find(endpoint.held.begin(), endpoint.held.end(), index) != endpoint.held.end()) return;
    request.fences++;
    endpoint.held.push_back(index);
}

void endpoints_fail(Engine &engine, Endpoint &endpoint, int32_t status, const char *sentence) {
    if (endpoint.state == EndpointState::Fencing || endpoint.state == EndpointState::Waiting ||
        endpoint.state == EndpointState::Gone)
        return;
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
    if (!endpoint.remote_quiet) peer_retire_endpoint(engine, endpoint);
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
        endpoint->deadline_ns = engine.now_ns;  // nobody is left to confirm a fence
        try_conclude(engine, *endpoint);
    }
}

void endpoints_force_cancel(Engine &engine, uint32_t batch) {
    std::vector<bool> late(engine.endpoints.size());
    for (uint32_t i = 0; i < engine.slice_fresh; i++) {
        const Slice &slice = engine.slices[i];
        if (slice.endpoint == NIL) continue;
        if (engine.requests[slice.request].batch == batch) late[slice.endpoint] = true;
    }
    for (size_t slot = 0; slot < late.size(); slot++)
        if (late[slot])
            endpoints_fail(engine, *engine.endpoints[slot], TENT_E_CANCELLED,
                           "slices of a cancelled request did not finish within cancel_grace");
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

void endpoints_abandon_rail(Engine &engine, Rail &rail) {
    for (auto &endpoint : engine.endpoints) {
        if (endpoint->rail != &rail || endpoint->state == EndpointState::Gone) continue;
        endpoint->abandon = true;
        if (!endpoint->initiator) continue;  // peers go on using it until they close
        if (endpoint->path.own.inflight_slices > 0) continue;
        endpoints_fail(engine, *endpoint, TENT_E_CLOSED, "its rail left the plan");
    }
}

void endpoints_initiator_news(Engine &engine, Endpoint &endpoint, int32_t status,
                              const char *sentence) {
    if (status != TENT_OK)
        endpoints_fail(engine, endpoint, status, sentence);
    else if (endpoint.state == EndpointState::Connecting ||
             endpoint.state == EndpointState::Offered)
        become_ready(engine, endpoint);
}

void endpoints_initiator_step(Engine &engine, Endpoint &endpoint) {
    switch (endpoint.state) {
        case EndpointState::Offered:
        case EndpointState::Connecting:
            if (engine.now_ns >= endpoint.deadline_ns)
                endpoints_fail(engine, endpoint, TENT_E_TIMEOUT,
                               "set-up took longer than connect_timeout");
            break;
        case EndpointState::Fencing: try_conclude(engine, endpoint); break;
        case EndpointState::Waiting:
            if (endpoint.abandon) {
                std::erase(endpoint.segment->endpoints, &endpoint);
                forget_choice(*endpoint.segment, endpoint);
                destroy(engine, endpoint);
            } else if (engine.now_ns >= endpoint.reopen_ns &&
                       endpoint.segment->state != SegmentState::Failed &&
                       peer_connected(endpoint.segment->peer)) {
                if (offer(engine, endpoint) != TENT_OK) wait_for_rebuild(engine, endpoint);
            }
            break;
        default: break;
    }
}

}  // namespace tent
