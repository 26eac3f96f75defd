// Taking submitted requests, settling results, ending requests. See spray.h; binding is bind.cc's.
#include "core/spray.h"

#include <algorithm>

#include "base/futex.h"
#include "base/mutant.h"
#include "base/status.h"
#include "core/batches.h"
#include "core/deadlines.h"
#include "core/endpoints.h"
#include "core/flows.h"
#include "core/hedge.h"
#include "core/routes.h"
#include "core/watch.h"

namespace tent {

namespace {

void release(Engine &engine, Endpoint &endpoint, const Slice &slice) {
    uint64_t bytes = slice.length;
    TENT_ASSERT(endpoint.path.own.inflight_bytes >= bytes && endpoint.path.own.inflight_slices > 0);
    endpoint.path.release(bytes, slice.low);
    bump(endpoint.tally.released, bytes);
    bump(endpoint.rail->tally.released, bytes);
    bump(engine.tally.released, bytes);
}

void complete(Engine &engine, Request &request, int32_t status) {
    Batch &batch = engine.batches[request.batch];
    TENT_ASSERT(request.status.load(std::memory_order_relaxed) == TENT_IN_PROGRESS);
    engine.regions[request.local_region]->pins.fetch_sub(1, std::memory_order_release);
    if (request.own_region != NIL)
        engine.regions[request.own_region]->pins.fetch_sub(1, std::memory_order_release);
    if (request.route) request.route->generation->requests--;
    engine.open_requests--;
    if (status != TENT_OK) {
        batch.failed.fetch_add(1, std::memory_order_relaxed);
        if (graver(status, batch.worst.load(std::memory_order_relaxed)))
            batch.worst.store(status, std::memory_order_relaxed);
        bump(engine.tally.requests_failed);
        bump(engine.class_tally[request.class_].requests_failed);
    }
    Segment *segment = request.segment;
    request.order = 0;  // what still watches it must not look at the slot's next user
    // Release: whoever sees the status sees done, rail and the moved bytes.
    request.status.store(status, std::memory_order_release);
    batches_on_terminal(engine, batch, request, status);
    if (mutant(Mutant::exactly_once) && request.retries > 0 &&
        batch.completions == TENT_COMPLETIONS_EACH)
        engine.completions.try_push({batch.handle.load(std::memory_order_relaxed),
                                     request.user_data, request.done, status, request.index});
    // Last: closing a segment waits for this count, and may free it then.
    segment->requests.fetch_sub(1, std::memory_order_release);
}

// What its row gives a request beside the ladder. Its batch's own deadline comes before the row's,
// and what its batch has asked to be checked stays checked.
void apply_use(Request &request, const PlanUse &use) {
    if (use.class_ >= 0) request.class_ = static_cast<uint8_t>(use.class_);
    if (use.integrity > 0) request.flags |= TENT_BATCH_INTEGRITY;
    if (use.deadline_ns != 0 && request.deadline_ns == UINT64_MAX)
        request.deadline_ns = use.deadline_ns;
}

}  // namespace

uint32_t spray_take(Engine &engine) {
    uint32_t taken = 0;
    Submission submission;
    while (taken < 4096 && engine.submissions.try_pop(submission)) {
        Batch &batch = engine.batches[submission.batch];
        if (batch.taken_first == NIL) batch.taken_first = submission.first;
        batch.taken_count += submission.count;
        uint32_t index = submission.first;
        for (uint32_t i = 0; i < submission.count; i++) {
            uint32_t next = i + 1 < submission.count ? engine.request_pool.next(index) : NIL;
            Request &request = engine.requests[index];
            engine.open_requests++;
            request.order = ++engine.order;
            request.route = routes_match(engine, *request.segment, request, batch.label);
            if (request.route) {
                request.route->generation->requests++;
                apply_use(request, request.route->row->use);
            }
            if (request.deadline_ns != UINT64_MAX) {
                request.deadline_ns +=
                    std::min(engine.now_ns, UINT64_MAX - 1 - request.deadline_ns);
                deadlines_watch(engine, index);
            }
            bump(engine.tally.requests);
            bump(engine.class_tally[request.class_].requests);
            Segment &segment = *request.segment;
            if (batch.cancelled.load(std::memory_order_relaxed) || engine.closing.load()) {
                request.error = TENT_E_CANCELLED;
                spray_try_finish(engine, index);
            } else if (segment.state != SegmentState::Ready) {
                request.error = segment.error ? segment.error : TENT_E_CANCELLED;
                spray_try_finish(engine, index);
            } else if (!request.route && !segment.own) {
                request.error = TENT_E_NO_PATH;
                spray_try_finish(engine, index);
            } else {
                flow_push(engine, flow_of(request), index);
            }
            index = next;
        }
        taken += submission.count;
    }
    return taken;
}

void spray_forget_flow(Engine &engine, Flow &flow) {
    TENT_ASSERT(flow_empty(flow));
    flow_deactivate(engine, flow);
}

void spray_unstage(Engine &engine, Endpoint &endpoint) {
    for (uint32_t i = 0; i < endpoint.staged_count; i++) {
        uint32_t slice_index = static_cast<uint32_t>(endpoint.staged[i].id);
        Slice &slice = engine.slices[slice_index];
        Request &request = engine.requests[slice.request];
        release(engine, endpoint, slice);
        flight_leave(engine, endpoint, slice_index);
        if (hedge_dropped(engine, slice_index)) {  // the twin was never posted
            request.slices_out--;
            slice_give(engine, slice_index);
        } else {
            flow_push_retry(engine, flow_of(request), slice_index);
        }
    }
    endpoint.staged_count = 0;
}

namespace {

bool is_path_error(int32_t status) {
    // The path failed, not the request: another path may do it.
    return status == TENT_E_TRANSPORT || status == TENT_E_PEER || status == TENT_E_CANCELLED ||
           status == TENT_E_PROTOCOL || status == TENT_E_TIMEOUT;
}

void settle_ok(Engine &engine, Endpoint &endpoint, Request &request, uint32_t slice_index) {
    const Slice &slice = engine.slices[slice_index];
    bool counts = hedge_won(engine, slice_index);
    if (slice.hedged) {
        endpoint.path.progress_ns = engine.now_ns;
    } else {
        endpoint.path.complete(slice.length, slice.posted_ns, engine.now_ns, parameters(engine));
        endpoint.health.sample(slice.predicted_ns, engine.now_ns - slice.posted_ns);
    }
    watch_success(engine, endpoint);
    if (!counts) return;
    request.done += slice.length;
    bool write = request.op == TENT_OP_WRITE;
    for (Tally *tally : {&engine.tally, &endpoint.tally, &endpoint.rail->tally,
                         &engine.class_tally[request.class_]}) {
        bump(write ? tally->bytes_written : tally->bytes_read, slice.length);
        bump(tally->slices);
    }
}

// Its request has ended without it: only the books and the memory it kept are left to settle.
void settle_disowned(Engine &engine, uint32_t slice_index) {
    const Slice &slice = engine.slices[slice_index];
    for (uint32_t region : {slice.pinned_region, slice.pinned_own})
        if (region != NIL) engine.regions[region]->pins.fetch_sub(1, std::memory_order_release);
    slice_give(engine, slice_index);
}

// May the slice be posted once more? Counts it.
bool retry(Engine &engine, Endpoint &endpoint, Request &request, uint32_t slice_index) {
    Slice &slice = engine.slices[slice_index];
    const Parameters &limits = parameters(engine);
    uint64_t budget = limits.retry_budget;
    if (request.route && request.route->row->use.retry_budget >= 0)
        budget = static_cast<uint64_t>(request.route->row->use.retry_budget);
    // An endpoint closed for another request's sake costs this one no try.
    bool counts = endpoint.error != TENT_E_CANCELLED;
    if (request.error != TENT_OK || (counts && slice.retries >= limits.retries_max) ||
        request.retries >= budget)
        return false;
    slice.retries += counts;
    request.retries++;
    if (mutant(Mutant::retry_offset)) slice.offset = 0;
    for (Tally *tally : {&engine.tally, &endpoint.tally, &endpoint.rail->tally})
        bump(tally->retried);
    flow_push_retry(engine, flow_of(request), slice_index);
    return true;
}

// The endpoint does not reach the request's memory: others are asked. False: the request remembers
// enough of them.
bool unreached(Engine &engine, const Endpoint &endpoint, Request &request, uint32_t slice_index) {
    const uint16_t *end = request.unreaching + request.unreaching_count;
    if (std::find(static_cast<const uint16_t *>(request.unreaching), end, endpoint.slot) == end) {
        if (request.unreaching_count == UNREACHING_MAX) return false;
        request.unreaching[request.unreaching_count++] = static_cast<uint16_t>(endpoint.slot);
    }
    flow_push_retry(engine, flow_of(request), slice_index);
    return true;
}

// A slice came back without having moved for certain. True: it is to be tried again.
bool settle_failed(Engine &engine, Endpoint &endpoint, Request &request, uint32_t slice_index,
                   int32_t status) {
    Slice &slice = engine.slices[slice_index];
    if (status == TENT_E_NO_PATH) {
        // Nothing was posted, and the endpoint is well, whatever becomes of the request.
        if (hedge_dropped(engine, slice_index) || request.error != TENT_OK) return false;
        if (unreached(engine, endpoint, request, slice_index)) return true;
        spray_stop(engine, slice.request, TENT_E_TRANSPORT);
        return false;
    }
    for (Tally *tally : {&engine.tally, &endpoint.tally, &endpoint.rail->tally})
        bump(tally->failed);
    // In any case: the other one must not name a slot that is used for something else.
    bool dropped = hedge_dropped(engine, slice_index), path = is_path_error(status);
    if (path && request.op == TENT_OP_WRITE) {
        // It may still land: its request's end waits until the peer has retired the endpoint.
        endpoints_hold(engine, endpoint, slice.request, slice);
        slice.tried = endpoint.rail->transport;
    }
    if (path && endpoint.state == EndpointState::Ready)
        endpoints_fail(engine, endpoint, status, "");
    else if (status == TENT_E_CORRUPT)
        watch_error(engine, endpoint, slice.request);
    if (path && mutant(Mutant::retry_lost)) {
        request.done += slice.length;
        return false;
    }
    if ((path || status == TENT_E_CORRUPT) && !dropped &&
        retry(engine, endpoint, request, slice_index))
        return true;
    // Of a pair, the other one's end decides where only the path failed.
    bool decided = slice.lost || (dropped && path);
    if (request.error == TENT_OK && !decided)
        spray_stop(engine, slice.request, path ? TENT_E_TRANSPORT : status);
    return false;
}

void settle(Engine &engine, const tent_slice_result &result) {
    uint32_t slice_index = static_cast<uint32_t>(result.id);
    if (slice_index == CANARY_INDEX) {
        watch_canary(engine, static_cast<uint32_t>(result.id >> 32), result.status);
        return;
    }
    if (slice_index >= engine.limits.slices ||
        engine.slices[slice_index].generation != result.id >> 32 ||
        engine.slices[slice_index].endpoint == NIL) {
        engine_poison(engine, "a plugin returned a slice that is not posted");
        return;
    }
    Slice &slice = engine.slices[slice_index];
    Endpoint &endpoint = *engine.endpoints[slice.endpoint];
    uint32_t request_index = slice.request;
    if (result.status == TENT_OK || !mutant(Mutant::charge_release))
        release(engine, endpoint, slice);
    flight_leave(engine, endpoint, slice_index);
    engine.schedule_due = true;
    if (endpoint.state == EndpointState::Fencing && endpoint.flight_head == NIL)
        engine.housekeeping_due_ns = engine.now_ns;  // the local half is quiet: in this very cycle
    if (request_index == NIL) {
        settle_disowned(engine, slice_index);
        return;
    }
    Request &request = engine.requests[request_index];
    if (result.status == TENT_OK)
        settle_ok(engine, endpoint, request, slice_index);
    else if (settle_failed(engine, endpoint, request, slice_index, result.status))
        return;
    request.slices_out--;
    slice_give(engine, slice_index);
    spray_try_finish(engine, request_index);
}

}  // namespace

uint32_t spray_poll(Engine &engine, uint32_t *busy) {
    tent_slice_result results[RESULTS_MAX];
    uint32_t settled = 0;
    for (auto &transport : engine.transports) {
        if (!transport->instance) continue;
        uint32_t moved = 0;
        uint32_t count = transport->table->poll(transport->instance, results, RESULTS_MAX, &moved);
        if (moved) *busy = 1;
        for (uint32_t i = 0; i < count; i++)
            settle(engine, results[i]);
        settled += count;
    }
    return settled;
}

namespace {

void sweep_segment(Engine &engine, Segment &segment) {
    for (Flow &flow : segment.flows)
        flow_sweep(engine, flow);
}

}  // namespace

void spray_stop(Engine &engine, uint32_t index, int32_t error) {
    Request &request = engine.requests[index];
    if (request.error == TENT_OK) request.error = error;
    if (request.queued || request.slices_out > 0) flow_sweep(engine, flow_of(request));
}

void spray_disown(Engine &engine, uint32_t index) {
    Request &request = engine.requests[index];
    for (uint32_t i = 0; i < engine.slice_fresh && request.slices_out > 0; i++) {
        Slice &slice = engine.slices[i];
        if (slice.endpoint == NIL || slice.request != index) continue;
        hedge_dropped(engine, i);
        if (request.op == TENT_OP_WRITE)
            endpoints_unfenced_slice(engine, *engine.endpoints[slice.endpoint], request, slice);
        slice.request = NIL;
        slice.pinned_region = request.local_region;
        slice.pinned_own = request.own_region;
        for (uint32_t region : {slice.pinned_region, slice.pinned_own})
            if (region != NIL) engine.regions[region]->pins.fetch_add(1, std::memory_order_relaxed);
        request.slices_out--;
    }
    request.error = TENT_E_UNFENCED_LOCAL;
}

void spray_stop_many(Engine &engine, const std::vector<uint32_t> &indexes, int32_t error) {
    // Mark all, sweep each flow once, then finish: no request may be closed and reused while others
    // of its batch are still to be visited.
    std::vector<Segment *> touched;
    for (uint32_t index : indexes) {
        Request &request = engine.requests[index];
        if (request.error == TENT_OK) request.error = error;
        if (std::find(touched.begin(), touched.end(), request.segment) == touched.end())
            touched.push_back(request.segment);
    }
    for (Segment *segment : touched)
        sweep_segment(engine, *segment);
    for (uint32_t index : indexes)
        spray_try_finish(engine, index);
}

void spray_collect(Engine &engine, const Batch &batch, std::vector<uint32_t> *indexes) {
    // Acquire: pairs with the submit's add, so that the batch's fields and chain are those of this
    // use.
    if ((batch.remaining.load(std::memory_order_acquire) & ~BATCH_UNSEALED) == 0) return;
    uint32_t index = batch.taken_first;
    for (uint32_t i = 0; i < batch.taken_count; i++) {
        if (engine.requests[index].status.load(std::memory_order_relaxed) == TENT_IN_PROGRESS)
            indexes->push_back(index);
        // The last one's link belongs to the submitting thread.
        if (i + 1 < batch.taken_count) index = engine.request_pool.next(index);
    }
}

void spray_try_finish(Engine &engine, uint32_t index) {
    Request &request = engine.requests[index];
    if (request.slices_out > 0 || request.fences > 0 || request.queued) return;
    if (request.error == TENT_OK && request.done < request.length) return;  // being sliced
    complete(engine, request, request.error);
}

uint32_t spray_stop_pathless(Engine &engine, const Segment &segment, uint64_t patience_ns) {
    std::vector<uint32_t> indexes;
    for (uint32_t b = 0; b < engine.limits.batches; b++)
        spray_collect(engine, engine.batches[b], &indexes);
    std::erase_if(indexes, [&](uint32_t index) {
        const Request &request = engine.requests[index];
        if (request.segment != &segment || !request.route) return true;
        const BoundRoute &route = *request.route;
        // Who came later has the same time.
        return route.pathless_since_ns == 0 || request.order > route.pathless_order ||
               engine.now_ns - route.pathless_since_ns < patience_ns ||
               routes_ready(route, request);
    });
    spray_stop_many(engine, indexes, TENT_E_TRANSPORT);
    return static_cast<uint32_t>(indexes.size());
}

void spray_stop_segment(Engine &engine, const Segment *segment, int32_t error) {
    spray_take(engine);
    std::vector<uint32_t> indexes;
    for (uint32_t b = 0; b < engine.limits.batches; b++)
        spray_collect(engine, engine.batches[b], &indexes);
    if (segment)
        std::erase_if(indexes, [&](uint32_t i) { return engine.requests[i].segment != segment; });
    spray_stop_many(engine, indexes, error);
}

}  // namespace tent
