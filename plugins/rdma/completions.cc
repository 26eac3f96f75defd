// What completion queues say becomes results.
//
// A reliable connection does its requests in order: a completion says of all requests before it
// that have none of their own that they have succeeded. So most need none. After an error every
// request behind it has a completion, flushed.
#include <cerrno>

#include "pairs.h"

namespace tent::rdma {
namespace {

constexpr int BATCH = 32;
constexpr uint32_t EVENTS_ACKNOWLEDGED = 64;  // at a time: it takes a lock

Qp *qp_of(const Instance &instance, uint64_t id) {
    const uint64_t tag = id >> REQUEST_BITS;
    const uint64_t slot = tag & ((1u << SLOT_BITS) - 1);
    Qp *qp = slot < instance.qps.size() ? instance.qps[slot] : nullptr;
    return qp != nullptr && qp->tag == tag ? qp : nullptr;
}

void write_done(Qp &qp) {
    qp.writes_done = ++qp.endpoint->writes;
}

// The oldest request of the queue pair has ended.
void request_end(Qp &qp, int32_t status) {
    Endpoint &endpoint = *qp.endpoint;
    Instance &instance = *endpoint.instance;
    const Request request = request_at(qp, qp.done);
    qp.done++;
    qp.bytes -= request.length;
    endpoint.rail->in_flight--;
    if (request.kind == BIND) return keys_bound(endpoint, *request.given, status == TENT_OK);
    if (request.kind == SETTLE) {
        if (status == TENT_OK) qp.settled = request.settles;
        return;
    }
    Slice &slice = instance.slices[request.slice];
    slice.requests_left--;
    // Software RoCE (seen with Linux 6.1) calls READs successful that it has not delivered when it
    // gives up their queue pair in the same moment. Reading once more is always right.
    if (slice.op == TENT_OP_READ && status == TENT_OK && endpoint.state >= EndpointState::FAILED)
        status = endpoint.state == EndpointState::FENCING ? TENT_E_CANCELLED : TENT_E_TRANSPORT;
    if (status != TENT_OK && slice.status == TENT_OK) slice.status = status;
    if (status == TENT_OK && slice.op == TENT_OP_WRITE) write_done(qp);
    slice_try_end(instance, request.slice);
}

int32_t status_of(const Endpoint &endpoint, ibv_wc_status status) {
    switch (status) {
        case IBV_WC_SUCCESS: return TENT_OK;
        case IBV_WC_REM_ACCESS_ERR: return TENT_E_DENIED;
        // Not among these, so that the core tries elsewhere: REM_INV_REQ_ERR, a message that is
        // broken (software RoCE after losses; keys that are no good are REM_ACCESS_ERR), and
        // LOC_QP_OP_ERR, which software devices say when the link is down.
        case IBV_WC_LOC_LEN_ERR:
        case IBV_WC_LOC_PROT_ERR:
        case IBV_WC_LOC_ACCESS_ERR: return TENT_E_INVALID;
        case IBV_WC_WR_FLUSH_ERR:
            return endpoint.state == EndpointState::FENCING ? TENT_E_CANCELLED : TENT_E_TRANSPORT;
        default: return TENT_E_TRANSPORT;
    }
}

void fail_by(Endpoint &endpoint, const Qp &qp, const ibv_wc &wc) {
    if (endpoint.state >= EndpointState::FAILED) return;
    const Options &options = endpoint.instance->options;
    const uint32_t number = qp.qp->qp_num;
    const char *text = endpoint.instance->verbs->wc_status_str(wc.status);
    switch (wc.status) {
        case IBV_WC_RETRY_EXC_ERR:
            return endpoint_fail(
                endpoint, TENT_E_TRANSPORT,
                "queue pair %u: no acknowledgement after %u tries of %.0f ms or more "
                "each: the peer, its port or the path is gone",
                number, options.retry_count + 1,
                4.096e-3 * static_cast<double>(1ull << options.ack_timeout));
        case IBV_WC_REM_ACCESS_ERR:
            return endpoint_fail(
                endpoint, TENT_E_DENIED,
                "queue pair %u: the peer's device refused an access (%s): its region "
                "was released or its grant has ended",
                number, text);
        case IBV_WC_WR_FLUSH_ERR:
            return endpoint_fail(endpoint, TENT_E_TRANSPORT,
                                 "queue pair %u: the device has stopped it (%s)", number, text);
        default:
            return endpoint_fail(endpoint, TENT_E_TRANSPORT,
                                 "queue pair %u: %s (vendor's code 0x%x)", number, text,
                                 wc.vendor_err);
    }
}

void completion_take(Instance &instance, const ibv_wc &wc) {
    Qp *qp = qp_of(instance, wc.wr_id);
    if (qp == nullptr) return;  // its queue pair is gone, and its slice has ended with that
    constexpr uint64_t MASK = (1ull << REQUEST_BITS) - 1;
    const uint64_t number = qp->done + ((wc.wr_id - qp->done) & MASK);
    if (number >= qp->posted) return;
    const int32_t status = status_of(*qp->endpoint, wc.status);
    // Of a request that asked for a completion and was passed over nothing is known, nor of those
    // behind it: no success is made of that.
    int32_t passed = TENT_OK;
    while (qp->done < number) {
        if (request_at(*qp, qp->done).signalled && passed == TENT_OK) {
            passed = TENT_E_TRANSPORT;
            endpoint_fail(*qp->endpoint, passed,
                          "queue pair %u: the device gave no completion of a request",
                          qp->qp->qp_num);
        }
        request_end(*qp, passed);
    }
    request_end(*qp, status);
    if (qp->waiting_head != NONE && !qp->pump_due) {
        qp->pump_due = true;
        qp->pump_next = instance.pump_head;
        instance.pump_head = qp;
    }
}

// Failures first: what the device says of a queue pair in the same breath is to be seen in that
// light (request_end).
void failures_take(const Instance &instance, const ibv_wc *batch, int count) {
    for (int i = 0; i < count; i++) {
        if (batch[i].status == IBV_WC_SUCCESS) continue;
        if (const Qp *qp = qp_of(instance, batch[i].wr_id)) fail_by(*qp->endpoint, *qp, batch[i]);
    }
}

void pump_due(Instance &instance) {
    while (instance.pump_head != nullptr) {
        Qp &qp = *instance.pump_head;
        instance.pump_head = qp.pump_next;
        qp.pump_due = false;
        pump(qp);
    }
}

}  // namespace

void result_push(Instance &instance, uint64_t id, int32_t status) {
    instance.results[instance.results_tail++ % instance.results.size()] = {id, status, 0};
}

void slice_try_end(Instance &instance, uint32_t index) {
    Slice &slice = instance.slices[index];
    if (slice.requests_left > 0 || slice.posted < slice.length) return;
    result_push(instance, slice.id, slice.status);
    slice.endpoint->slices--;
    slice.endpoint = nullptr;
    slice.next = instance.slice_free;
    instance.slice_free = index;
}

void waiting_abandon(Qp &qp, int32_t status) {
    Instance &instance = *qp.endpoint->instance;
    while (qp.waiting_head != NONE) {
        const uint32_t index = qp.waiting_head;
        Slice &slice = instance.slices[index];
        qp.waiting_head = slice.next;
        qp.bytes -= slice.length - slice.posted;
        slice.posted = slice.length;
        if (slice.status == TENT_OK) slice.status = status;
        slice_try_end(instance, index);
    }
    qp.waiting_tail = NONE;
}

void requests_abandon(Qp &qp, int32_t status) {
    while (qp.done < qp.posted)
        request_end(qp, status);
}

bool completions_take(Rail &rail) {
    Instance &instance = *rail.instance;
    bool any = false;
    while (rail.cq != nullptr) {
        ibv_wc batch[BATCH];
        const int count = ibv_poll_cq(rail.cq, BATCH, batch);
        if (count < 0) device_suspect(rail);
        if (count <= 0) break;
        any = true;
        failures_take(instance, batch, count);
        for (int i = 0; i < count; i++)
            completion_take(instance, batch[i]);
        if (count < BATCH) break;
    }
    if (any) instance.moved = true;
    pump_due(instance);
    return any;
}

void notifications_take(Rail &rail) {
    const Verbs &verbs = *rail.instance->verbs;
    ibv_cq *cq = nullptr;
    void *context = nullptr;
    while (rail.channel != nullptr && verbs.get_cq_event(rail.channel, &cq, &context) == 0) {
        rail.armed = false;
        if (++rail.cq_events < EVENTS_ACKNOWLEDGED) continue;
        verbs.ack_cq_events(rail.cq, rail.cq_events);
        rail.cq_events = 0;
    }
}

}  // namespace tent::rdma
