// The fence of both halves, and settling.
//
// Initiator: the queue pairs go into error, which stops what is posted, and the fence holds when
// the completion of every request was seen: from then on the device reads and writes no memory of
// ours for them. Target: the queue pairs are destroyed. A packet that comes late finds no queue
// pair of its number, and if that number is used again, another sequence of packets (a random
// start) and other keys.
#include <algorithm>

#include "mutant.h"
#include "pairs.h"

namespace tent::rdma {
namespace {

void fence_begin(Endpoint &endpoint) {
    if (endpoint.state == EndpointState::FENCING) return;
    endpoint.news = false;
    endpoint_enter(endpoint, EndpointState::FENCING);
    endpoint.fence_ns = now_of(*endpoint.instance);
    for (const auto &qp : endpoint.qps)
        waiting_abandon(*qp, TENT_E_CANCELLED);
    pairs_error(endpoint);
}

// What of the endpoint's writes the queue pair has still to settle, up to `mark`.
uint64_t unsettled(const Qp &qp, uint64_t mark) {
    const uint64_t needed = std::min(qp.writes_done, mark);
    return needed > qp.settled ? needed : 0;
}

// A READ comes back behind all writes before it. One of no bytes needs no key.
bool settle_ask(Qp &qp) {
    Request request;
    request.kind = SETTLE;
    request.settles = qp.endpoint->writes;
    ibv_send_wr wr{};
    wr.opcode = IBV_WR_RDMA_READ;
    if (!request_post(qp, request, wr)) return false;
    qp.settle_asked = request.settles;
    return true;
}

}  // namespace

int32_t endpoint_close(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    if (endpoint.ascent != nullptr) {
        // Nothing was posted. The library is inside its queue pairs: they go when it is out.
        endpoint.news = false;
        endpoint_enter(endpoint, EndpointState::CLOSED);
        endpoint.let_go = true;
        instance.connecting++;
        return TENT_OK;
    }
    fence_begin(endpoint);
    completions_take(*endpoint.rail);
    if (!mutant(Mutant::rdma_fence_drain) && !pairs_quiet(endpoint) &&
        now_of(instance) < endpoint.fence_ns + FENCE_DRAIN_NS)
        return TENT_IN_PROGRESS;
    if (!pairs_destroy(endpoint, TENT_E_CANCELLED)) return TENT_IN_PROGRESS;
    endpoint_free(endpoint);
    return TENT_OK;
}

int32_t endpoint_retire(void *opaque, void *handle) {
    auto &endpoint = *static_cast<Endpoint *>(handle);
    (void)opaque;
    if (mutant(Mutant::rdma_retire)) return TENT_OK;
    fence_begin(endpoint);
    if (endpoint.ascent != nullptr) return TENT_IN_PROGRESS;
    pairs_error(endpoint);
    keys_revoke_all(endpoint);
    if (!pairs_destroy(endpoint, TENT_E_CANCELLED)) return TENT_IN_PROGRESS;
    // Those whose binds were under way.
    if (!keys_revoke_all(endpoint)) return TENT_IN_PROGRESS;
    endpoint_free(endpoint);
    return TENT_OK;
}

int32_t endpoint_settle(void *, void *handle, uint64_t *mark) {
    auto &endpoint = *static_cast<Endpoint *>(handle);
    if (endpoint.state != EndpointState::READY) return TENT_E_TRANSPORT;
    if (mutant(Mutant::rdma_settle)) return TENT_OK;
    if (*mark == 0) *mark = endpoint.writes + 1;  // 0 is the core's
    const uint64_t writes = *mark - 1;
    bool settled = true;
    for (const auto &qp : endpoint.qps) {
        const uint64_t needed = unsettled(*qp, writes);
        if (needed == 0) continue;
        settled = false;
        if (qp->settle_asked < needed) settle_ask(*qp);
    }
    return settled ? TENT_OK : TENT_IN_PROGRESS;
}

void endpoints_lose_device(Rail &rail) {
    for (Endpoint *endpoint : rail.endpoints) {
        endpoint_fail(*endpoint, TENT_E_TRANSPORT, "the device went away");
        if (endpoint->ascent != nullptr) continue;  // endpoints_step does, when the errand is done
        if (!endpoint->initiator) keys_revoke_all(*endpoint);
        pairs_destroy(*endpoint, endpoint->state == EndpointState::FENCING ? TENT_E_CANCELLED
                                                                           : TENT_E_TRANSPORT);
    }
}

bool endpoints_left_device(const Rail &rail) {
    return std::all_of(rail.endpoints.begin(), rail.endpoints.end(), [](const Endpoint *endpoint) {
        return endpoint->ascent == nullptr &&
               std::all_of(endpoint->qps.begin(), endpoint->qps.end(),
                           [](const auto &qp) { return qp->qp == nullptr; });
    });
}

}  // namespace tent::rdma
