// The target's half of endpoints.h: accept, retire, and what both roles share (news, housekeeping).
#include <algorithm>

#include "base/status.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/memory.h"
#include "core/reports.h"
#include "core/transports.h"

namespace tent {

// In endpoints.cc.
Endpoint *endpoints_make(Engine &engine, Rail &rail);
void endpoints_initiator_news(Engine &engine, Endpoint &endpoint, int32_t status,
                              const char *sentence);
void endpoints_initiator_step(Engine &engine, Endpoint &endpoint);

namespace {

void forget(Engine &engine, Endpoint &endpoint) {
    engine.endpoint_by_id.erase(endpoint.id);
    endpoint.rail->endpoints--;
    endpoint.state = EndpointState::Gone;
    endpoint.handle = nullptr;
    engine.inbound.fetch_sub(1, std::memory_order_relaxed);
    engine.endpoint_free.push_back(endpoint.slot);
}

// The remote fence: true once nothing of the endpoint can touch our memory.
bool retire_now(Engine &engine, Endpoint &endpoint) {
    endpoint.state = EndpointState::Fencing;
    const Transport &transport = *endpoint.rail->transport;
    if (endpoint.handle &&
        transport.table->endpoint_retire(transport.instance, endpoint.handle) == TENT_IN_PROGRESS)
        return false;
    report(engine, TENT_EVENT_ENDPOINT_RETIRED,
           {.endpoint = endpoint.id,
            .rail = static_cast<int32_t>(endpoint.rail->plan.index),
            .status = endpoint.error},
           "%s retired", endpoint.title.c_str());
    client_endpoint_retired(engine, *endpoint.client, endpoint.remote_id, endpoint.error);
    forget(engine, endpoint);
    return true;
}

bool awaits_sockets(const Endpoint &endpoint) {
    return endpoint.state == EndpointState::Offered && endpoint.openings_seen == 0 &&
           (endpoint.rail->info.flags & TENT_RAIL_LISTENS);
}

// Accepted, but nobody ever connected.
bool abandoned(const Engine &engine, const Endpoint &endpoint) {
    return awaits_sockets(endpoint) && engine.now_ns >= endpoint.deadline_ns;
}

Rail *rail_offered(Engine &engine, const EndpointOpen &open) {
    for (auto &rail : engine.rails)
        if (!rail->retired && rail->plan.index == open.target_rail &&
            rail->transport->name == open.transport)
            return rail.get();
    return nullptr;
}

int32_t accept(Engine &engine, Client &client, const EndpointOpen &open, EndpointAnswer *answer) {
    int32_t status = grant_prove(engine, open.grant, open.token);
    if (status != TENT_OK) return status;
    if (client_was_retired(client, open.endpoint))
        return fail(TENT_E_STALE, "endpoint %llu was retired already",
                    static_cast<unsigned long long>(open.endpoint));
    Rail *rail = rail_offered(engine, open);
    if (rail && rail->down)
        return fail(TENT_E_AGAIN, "rail %u of engine '%s' is down", open.target_rail,
                    engine.name.c_str());
    if (!rail)
        return fail(TENT_E_NO_PATH, "engine '%s' has no rail %u of transport %s (it has: %s)",
                    engine.name.c_str(), open.target_rail, open.transport.c_str(),
                    transports_list(engine).c_str());
    uint32_t had = 0;
    for (const auto &other : engine.endpoints)
        had += !other->initiator && other->state != EndpointState::Gone && other->client == &client;
    Endpoint *endpoint = had < CLIENT_ENDPOINTS_MAX ? endpoints_make(engine, *rail) : nullptr;
    if (!endpoint)
        return fail(TENT_E_AGAIN, "engine '%s' has no endpoint left", engine.name.c_str());
    endpoint->id = engine.endpoint_next++;
    endpoint->remote_id = open.endpoint;
    endpoint->client = &client;
    Grant &grant = *grant_find(engine, open.grant);
    endpoint->grant = grant.slot;
    if (grant.expires_unix_ms) {  // looked at once more, should the wall clock have been set back
        grant.expired = false;
        engine.grants_due_ns = engine.now_ns;
    }
    endpoint->peer_rail = open.initiator_rail;
    endpoint->peer_rail_text = open.initiator_address;
    endpoint->title = client_name(client) + ": rail " + std::to_string(open.initiator_rail) +
                      " -> " + std::to_string(open.target_rail);
    endpoint->state = EndpointState::Offered;
    endpoint->deadline_ns =
        engine.now_ns + 2 * engine.plans.back()->plan.parameters.connect_timeout_ns;
    tent_endpoint_params params{};
    params.size = sizeof params;
    params.endpoint = endpoint->id;
    params.rail = rail->handle;
    params.grant = endpoint->grant;
    params.peer_rail = endpoint->peer_rail_text.c_str();
    params.peer_address = "";
    params.blob = open.offer.data();
    params.blob_size = static_cast<uint32_t>(open.offer.size());
    params.slice_count_max = open.slice_count_max;
    answer->answer.resize(TENT_OFFER_MAX);
    uint32_t size = TENT_OFFER_MAX;
    Transport &transport = *rail->transport;
    transport.failure.clear();
    engine.inbound.fetch_add(1, std::memory_order_relaxed);
    engine.endpoint_by_id[endpoint->id] = endpoint;
    status = transport.table->endpoint_accept(transport.instance, &params, &endpoint->handle,
                                              answer->answer.data(), &size);
    if (status != TENT_OK) {
        endpoint->handle = nullptr;
        forget(engine, *endpoint);
        return fail(status, "rail %u of engine '%s' refused: %s", open.target_rail,
                    engine.name.c_str(),
                    transport.failure.empty() ? status_text(status) : transport.failure.c_str());
    }
    answer->answer.resize(size);
    endpoint->offer = answer->answer;  // said again when the initiator asks again
    return TENT_OK;
}

// Where canaries of the endpoint may go.
void offer_scratch(const Engine &engine, const Endpoint &endpoint, EndpointAnswer *answer) {
    const Transport &transport = *endpoint.rail->transport;
    void *handle = scratch_handle(engine, transport);
    if (transport.table->region_register && !handle) return;  // it could not be registered
    if (handle && transport.table->region_export) {
        answer->scratch_export.resize(TENT_EXPORT_MAX);
        uint32_t size = TENT_EXPORT_MAX;
        if (transport.table->region_export(transport.instance, handle,
                                           answer->scratch_export.data(), &size) != TENT_OK)
            return answer->scratch_export.clear();
        answer->scratch_export.resize(size);
    }
    answer->scratch = scratch_target(engine);
}

}  // namespace

void endpoints_accept(Engine &engine, Client &client, const EndpointOpen &open,
                      EndpointAnswer *answer) {
    answer->endpoint = open.endpoint;
    if (Endpoint *known = endpoints_find_target(engine, client, open.endpoint)) {
        answer->answer = known->offer;
        offer_scratch(engine, *known, answer);
        return;
    }
    answer->status = accept(engine, client, open, answer);
    if (answer->status == TENT_OK) {
        offer_scratch(engine, *endpoints_find_target(engine, client, open.endpoint), answer);
        return;
    }
    answer->answer.clear();
    answer->sentence = last_error();
    if (answer->status == TENT_E_DENIED) bump(engine.tally.refused);
}

Endpoint *endpoints_find_target(Engine &engine, const Client &client, uint64_t remote_id) {
    for (auto &endpoint : engine.endpoints)
        if (!endpoint->initiator && endpoint->state != EndpointState::Gone &&
            endpoint->client == &client && endpoint->remote_id == remote_id)
            return endpoint.get();
    return nullptr;
}

bool endpoints_retire(Engine &engine, Client &client, uint64_t remote_id) {
    Endpoint *endpoint = endpoints_find_target(engine, client, remote_id);
    if (!endpoint) {
        client_endpoint_retired(engine, client, remote_id, TENT_OK);
        return true;
    }
    return retire_now(engine, *endpoint);
}

void endpoints_retire_grant(Engine &engine, uint32_t grant_slot) {
    for (auto &endpoint : engine.endpoints) {
        if (endpoint->initiator || endpoint->state == EndpointState::Gone) continue;
        if (endpoint->grant != grant_slot) continue;
        endpoint->error = TENT_E_DENIED;
        retire_now(engine, *endpoint);
    }
}

void endpoints_retire_client(Engine &engine, const Client &client) {
    for (auto &endpoint : engine.endpoints)
        if (!endpoint->initiator && endpoint->state != EndpointState::Gone &&
            endpoint->client == &client)
            retire_now(engine, *endpoint);
}

bool endpoints_retire_all(Engine &engine) {
    bool quiet = true;
    for (auto &endpoint : engine.endpoints)
        if (!endpoint->initiator && endpoint->state != EndpointState::Gone)
            quiet &= retire_now(engine, *endpoint);
    return quiet;
}

void endpoints_news(Engine &engine, uint64_t id, int32_t status, const char *sentence) {
    control_news(engine).push_back({id, status, sentence});
}

void endpoints_served(Engine &engine, uint64_t id, uint32_t op, uint64_t bytes) {
    Endpoint *endpoint = endpoints_find(engine, id);
    if (!endpoint) return;
    bool write = op == TENT_OP_WRITE;
    for (Tally *tally : {&engine.tally, &endpoint->tally, &endpoint->rail->tally})
        bump(write ? tally->served_write : tally->served_read, bytes);
}

bool endpoints_process_news(Engine &engine) {
    std::vector<EndpointNews> &waiting = control_news(engine);
    if (waiting.empty()) return false;
    std::vector<EndpointNews> news;
    news.swap(waiting);
    for (const EndpointNews &item : news) {
        Endpoint *endpoint = endpoints_find(engine, item.endpoint);
        if (!endpoint) continue;
        if (endpoint->initiator) {
            endpoints_initiator_news(engine, *endpoint, item.status, item.sentence.c_str());
        } else if (item.status == TENT_OK) {
            if (endpoint->state == EndpointState::Offered) endpoint->state = EndpointState::Ready;
        } else {
            endpoint->error = item.status;
            retire_now(engine, *endpoint);
        }
    }
    return true;
}

void endpoints_housekeeping(Engine &engine) {
    engine.endpoints_unsettled = 0;
    for (size_t i = 0; i < engine.endpoints.size(); i++) {
        Endpoint &endpoint = *engine.endpoints[i];
        if (endpoint.state == EndpointState::Gone) continue;
        if (endpoint.initiator)
            endpoints_initiator_step(engine, endpoint);
        else if (endpoint.state == EndpointState::Fencing || abandoned(engine, endpoint))
            retire_now(engine, endpoint);
        bool settled = endpoint.state == EndpointState::Ready ||
                       endpoint.state == EndpointState::Gone ||
                       (!endpoint.initiator && endpoint.state == EndpointState::Offered &&
                        !awaits_sockets(endpoint));
        if (!settled) engine.endpoints_unsettled++;
    }
}

}  // namespace tent
