// The life of an endpoint until it is fenced (fence.cc): offer, accept, connect, ready, failed.
//
// Each side moves its own queue pairs by an errand. The target does so when it accepts, the
// initiator when it has the answer; an initiator's endpoint is ready when the keys of the regions
// it was told of have come too, which the target gives when its half has risen. So the first
// request never meets a queue pair that is not there yet.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>

#include "mutant.h"
#include "pairs.h"

namespace tent::rdma {
namespace {

constexpr uint64_t ASKED_INTERVAL_NS = 1'000'000;

Endpoint *endpoint_make(Instance &instance, const tent_endpoint_params &params, int32_t *status) {
    if (instance.endpoints.size() >= instance.endpoints_max) {
        *status = refuse(instance, TENT_E_AGAIN, "rdma: all endpoints of this engine are in use");
        return nullptr;
    }
    auto &rail = *static_cast<Rail *>(params.rail);
    if (rail.state != RailState::UP) {
        *status = refuse(instance, TENT_E_TRANSPORT,
                         format("rdma %s: the port is down", rail.device.c_str()).c_str());
        return nullptr;
    }
    auto made = std::make_unique<Endpoint>();
    made->instance = &instance;
    made->rail = &rail;
    made->number = params.endpoint;
    made->initiator = params.initiator != 0;
    made->grant = params.grant;
    rail.endpoints.push_back(made.get());
    instance.endpoints.push_back(std::move(made));
    return instance.endpoints.back().get();
}

// Makes the queue pairs, too, and writes what the peer must know.
int32_t endpoint_begin(Instance &instance, const tent_endpoint_params &params, uint32_t count,
                       Endpoint **out, void *blob, uint32_t *size) {
    int32_t status = TENT_OK;
    if (*size < sizeof(Offer))
        return refuse(instance, TENT_E_INVALID, "rdma: the room for an offer is too small");
    Endpoint *endpoint = endpoint_make(instance, params, &status);
    if (endpoint == nullptr) return status;
    std::string why;
    status = pairs_make(*endpoint, count, &why);
    if (status != TENT_OK) {
        endpoint_free(*endpoint);
        return refuse(instance, status, why.c_str());
    }
    Offer offer;
    offer_write(*endpoint, &offer);
    memcpy(blob, &offer, sizeof offer);
    *size = sizeof offer;
    *out = endpoint;
    return TENT_OK;
}

const char *link_name(Link link) {
    return link == Link::INFINIBAND ? "InfiniBand" : link == Link::ROCE_V1 ? "RoCE v1" : "RoCE v2";
}

// Foreign bytes, and of a port that ours can talk to?
int32_t peer_read(const Instance &instance, const Rail &rail, const tent_endpoint_params &params,
                  Offer *peer) {
    std::string why;
    if (!offer_read(params.blob, params.blob_size, peer, &why))
        return refuse(instance, TENT_E_PROTOCOL, why.c_str());
    if (peer->link == rail.link) return TENT_OK;
    why = format("rdma %s: its port speaks %s, the peer's %s; choose GIDs of one kind by gid=",
                 rail.device.c_str(), link_name(rail.link), link_name(peer->link));
    return refuse(instance, TENT_E_NO_PATH, why.c_str());
}

void news_set(Endpoint &endpoint) {
    endpoint.news = true;
    endpoint.instance->news = true;
    endpoint.instance->moved = true;
}

void become_ready(Endpoint &endpoint) {
    endpoint_enter(endpoint, EndpointState::READY);
    news_set(endpoint);
}

// The errand is done.
void risen_step(Endpoint &endpoint) {
    std::string why;
    const int32_t status = ascent_take(endpoint, &why);
    if (status == TENT_IN_PROGRESS) return;
    endpoint.instance->moved = true;
    if (endpoint.state != EndpointState::CONNECTING) {
        // It failed, or its fence waits, since. What hangs on a device that went goes at once.
        pairs_error(endpoint);
        if (endpoint.rail->state == RailState::GONE) pairs_destroy(endpoint, TENT_E_TRANSPORT);
        return;
    }
    if (status != TENT_OK) return endpoint_fail(endpoint, status, "%s", why.c_str());
    endpoint.risen = true;
    if (!endpoint.initiator) become_ready(endpoint);
}

void connecting_step(Endpoint &endpoint, uint64_t now_ns) {
    if (endpoint.initiator && endpoint.risen &&
        (keys_step(endpoint, now_ns) || mutant(Mutant::rdma_keys_late)))
        return become_ready(endpoint);
    if (now_ns < endpoint.deadline_ns) return;
    endpoint_fail(endpoint, TENT_E_TIMEOUT,
                  endpoint.risen ? "the peer has not given the keys of its memory in time"
                                 : "the kernel has not found the peer's port in time "
                                   "(rdma.connect_timeout); look at 'ip neigh' and the link");
}

// Closed by the core while its errand ran. True: it is gone.
bool let_go_step(Endpoint &endpoint) {
    if (!endpoint.let_go || endpoint.ascent != nullptr) return false;
    if (!pairs_destroy(endpoint, TENT_E_CANCELLED)) return false;
    endpoint.instance->connecting--;
    endpoint_free(endpoint);
    return true;
}

// True: it is gone.
bool endpoint_step(Endpoint &endpoint, uint64_t now_ns) {
    if (endpoint.ascent != nullptr) risen_step(endpoint);
    if (endpoint.state == EndpointState::CONNECTING) connecting_step(endpoint, now_ns);
    if (endpoint.state == EndpointState::READY) {
        if (endpoint.initiator && endpoint.keys_due_ns <= now_ns) keys_step(endpoint, now_ns);
        if (!endpoint.initiator && !endpoint.asked.empty()) keys_serve(endpoint);
    }
    return let_go_step(endpoint);
}

}  // namespace

void endpoint_enter(Endpoint &endpoint, EndpointState state) {
    endpoint.instance->connecting -= endpoint.state == EndpointState::CONNECTING;
    endpoint.state = state;
    endpoint.instance->connecting += state == EndpointState::CONNECTING;
    if (state != EndpointState::CONNECTING) endpoint.deadline_ns = UINT64_MAX;
}

void endpoint_free(Endpoint &endpoint) {
    Instance &instance = *endpoint.instance;
    // One that the library did not destroy keeps its number and its room for good.
    for (const auto &qp : endpoint.qps)
        if (qp->qp != nullptr) instance.qps[qp->slot] = nullptr;
    std::erase(endpoint.rail->endpoints, &endpoint);
    std::erase_if(instance.endpoints,
                  [&](const std::unique_ptr<Endpoint> &held) { return held.get() == &endpoint; });
}

void endpoints_free(Instance &instance) {
    while (!instance.endpoints.empty()) {
        Endpoint &endpoint = *instance.endpoints.back();
        std::string why;
        endpoint.news = false;
        if (endpoint.ascent != nullptr) ascent_take(endpoint, &why);
        if (endpoint.state != EndpointState::FENCING && !endpoint.let_go)
            endpoint_enter(endpoint, EndpointState::FENCING);
        pairs_error(endpoint);
        if (!endpoint.initiator) keys_revoke_all(endpoint);
        pairs_destroy(endpoint, TENT_E_CANCELLED);
        endpoint_free(endpoint);
    }
}

void endpoint_fail(Endpoint &endpoint, int32_t status, const char *text, ...) {
    if (endpoint.state >= EndpointState::FAILED) return;
    char why[400];
    va_list arguments;
    va_start(arguments, text);
    vsnprintf(why, sizeof why, text, arguments);
    va_end(arguments);
    endpoint.status = status;
    endpoint.sentence = format("rdma %s: %s", endpoint.rail->device.c_str(), why);
    endpoint_enter(endpoint, EndpointState::FAILED);
    for (const auto &qp : endpoint.qps)
        waiting_abandon(*qp, TENT_E_TRANSPORT);
    pairs_error(endpoint);
    news_set(endpoint);
}

void endpoints_report(Instance &instance) {
    const tent_host *host = instance.host;
    while (instance.news) {
        // From the start each time: the core may close endpoints from within the call.
        const auto found = std::find_if(instance.endpoints.begin(), instance.endpoints.end(),
                                        [](const auto &endpoint) { return endpoint->news; });
        instance.news = found != instance.endpoints.end();
        if (!instance.news) return;
        Endpoint &endpoint = **found;
        endpoint.news = false;
        const bool failed = endpoint.state == EndpointState::FAILED;
        host->endpoint_state(host->ctx, endpoint.number, failed ? endpoint.status : TENT_OK,
                             failed ? endpoint.sentence.c_str() : nullptr);
    }
}

void endpoints_step(Instance &instance, uint64_t now_ns) {
    for (size_t i = 0; i < instance.endpoints.size();)
        if (!endpoint_step(*instance.endpoints[i], now_ns)) i++;
}

uint64_t endpoints_due_ns(const Instance &instance, uint64_t now_ns) {
    uint64_t due_ns = UINT64_MAX;
    for (const auto &endpoint : instance.endpoints) {
        due_ns = std::min(due_ns, endpoint->deadline_ns);
        if (endpoint->initiator && endpoint->risen && endpoint->state <= EndpointState::READY)
            due_ns = std::min(due_ns, endpoint->keys_due_ns);
        if (endpoint->state == EndpointState::FENCING && !pairs_quiet(*endpoint))
            due_ns = std::min(due_ns, std::max(endpoint->fence_ns + FENCE_DRAIN_NS, now_ns + 1));
        if (endpoint->risen && !endpoint->asked.empty())
            due_ns = std::min(due_ns, now_ns + ASKED_INTERVAL_NS);
    }
    return due_ns;
}

int32_t endpoint_offer(void *opaque, const tent_endpoint_params *params, void **out, void *offer,
                       uint32_t *size) {
    Endpoint *endpoint = nullptr;
    const auto &rail = *static_cast<Rail *>(params->rail);
    const int32_t status = endpoint_begin(instance_of(opaque), *params, rail.options.queue_pairs,
                                          &endpoint, offer, size);
    *out = endpoint;
    return status;
}

int32_t endpoint_accept(void *opaque, const tent_endpoint_params *params, void **out, void *answer,
                        uint32_t *size) {
    Instance &instance = instance_of(opaque);
    const auto &rail = *static_cast<Rail *>(params->rail);
    Offer peer{};
    int32_t status = peer_read(instance, rail, *params, &peer);
    Endpoint *endpoint = nullptr;
    if (status == TENT_OK)
        status = endpoint_begin(instance, *params,
                                std::min<uint32_t>(peer.qp_count, rail.options.queue_pairs),
                                &endpoint, answer, size);
    if (status != TENT_OK) return status;
    endpoint->peer = peer;
    endpoint->deadline_ns = now_of(instance) + instance.options.connect_timeout_ns;
    endpoint_enter(*endpoint, EndpointState::CONNECTING);
    ascent_begin(*endpoint);
    *out = endpoint;
    return TENT_OK;
}

int32_t endpoint_connect(void *opaque, void *handle, const tent_endpoint_params *params) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    if (endpoint.state != EndpointState::OFFERED)
        return refuse(instance, TENT_E_TRANSPORT,
                      format("rdma %s: the endpoint was lost before the peer answered",
                             endpoint.rail->device.c_str())
                          .c_str());
    Offer peer{};
    const int32_t status = peer_read(instance, *endpoint.rail, *params, &peer);
    if (status != TENT_OK) return status;
    if (peer.qp_count > endpoint.qps.size())
        return refuse(instance, TENT_E_PROTOCOL,
                      "rdma: the peer answers with more queue pairs than it was offered");
    pairs_trim(endpoint, peer.qp_count);
    if (endpoint.qps.size() != peer.qp_count)
        return refuse(instance, TENT_E_TRANSPORT,
                      format("rdma %s: queue pairs that the peer does not want cannot be destroyed",
                             endpoint.rail->device.c_str())
                          .c_str());
    endpoint.peer = peer;
    endpoint.deadline_ns = now_of(instance) + instance.options.connect_timeout_ns;
    endpoint_enter(endpoint, EndpointState::CONNECTING);
    ascent_begin(endpoint);
    return TENT_OK;
}

}  // namespace tent::rdma
