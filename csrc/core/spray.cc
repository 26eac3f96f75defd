// See spray.h.
#include "core/spray.h"

#include <algorithm>
#include <cstring>

#include "base/futex.h"
#include "base/status.h"
#include "core/batches.h"
#include "core/endpoints.h"
#include "core/routes.h"
#include "sched/pick.h"

namespace tent {

namespace {

constexpr uint64_t SELF_SLICE =
    1 << 20;                   // plain copies: bytes per step, so that cancel and others get in
constexpr int ROUNDS_MAX = 4;  // scheduling rounds per duty cycle: results must be seen in between
constexpr uint64_t STALL_NS = 2 * MS;  // a full endpoint that is late by this is not waited for
// Bytes a class may bind per round: its weight. Low keeps moving, high gets most (DESIGN.md section
// 5).
constexpr uint64_t CLASS_QUANTUM[3] = {4u << 20, 16u << 20, 1u << 20};
constexpr uint32_t CLASS_ORDER[3] = {TENT_CLASS_HIGH, TENT_CLASS_NORMAL, TENT_CLASS_LOW};

uint32_t slice_take(Engine &engine) {
    uint32_t index = engine.slice_free;
    if (index != NIL)
        engine.slice_free = engine.slices[index].next;
    else if (engine.slice_fresh < engine.limits.slices)
        index = engine.slice_fresh++;
    else
        return NIL;
    engine.slices_used++;
    return index;
}

void slice_give(Engine &engine, uint32_t index) {
    Slice &slice = engine.slices[index];
    slice.generation++;
    slice.endpoint = NIL;
    slice.next = engine.slice_free;
    engine.slice_free = index;
    engine.slices_used--;
}

void flow_activate(Engine &engine, Flow &flow) {
    engine.schedule_due = true;
    if (flow.active) return;
    flow.active = true;
    Flow *&tail = engine.active[flow.class_];
    if (tail) {
        flow.next = tail->next;
        tail->next = &flow;
    } else {
        flow.next = &flow;
    }
    tail = &flow;
}

bool flow_empty(const Flow &flow) {
    return flow.head == NIL && flow.retry_head == NIL;
}

void flow_push(Engine &engine, Flow &flow, uint32_t index) {
    Request &request = engine.requests[index];
    request.next = NIL;
    request.queued = true;
    if (flow.tail == NIL)
        flow.head = index;
    else
        engine.requests[flow.tail].next = index;
    flow.tail = index;
    flow.waiting_bytes += request.length - request.sliced;
    flow_activate(engine, flow);
}

void flow_pop(Engine &engine, Flow &flow) {
    Request &request = engine.requests[flow.head];
    request.queued = false;
    flow.head = request.next;
    if (flow.head == NIL) flow.tail = NIL;
}

void flow_push_retry(Engine &engine, Flow &flow, uint32_t slice_index) {
    Slice &slice = engine.slices[slice_index];
    slice.endpoint = NIL;
    slice.next = NIL;
    if (flow.retry_tail == NIL)
        flow.retry_head = slice_index;
    else
        engine.slices[flow.retry_tail].next = slice_index;
    flow.retry_tail = slice_index;
    flow.waiting_bytes += slice.length;
    flow_activate(engine, flow);
}

Flow &flow_of(const Request &request) {
    return request.segment->flows[request.class_];
}

void charge(Engine &engine, Endpoint &endpoint, uint64_t bytes) {
    if (endpoint.inflight_slices == 0) {
        endpoint.rate.on_busy(engine.now_ns);
        endpoint.progress_ns = engine.now_ns;
    }
    endpoint.inflight_bytes += bytes;
    endpoint.inflight_slices++;
    endpoint.rail->inflight_bytes += bytes;
    bump(endpoint.tally.charged, bytes);
    bump(endpoint.rail->tally.charged, bytes);
    bump(engine.tally.charged, bytes);
}

void release(Engine &engine, Endpoint &endpoint, uint64_t bytes) {
    TENT_ASSERT(endpoint.inflight_bytes >= bytes && endpoint.inflight_slices > 0);
    endpoint.inflight_bytes -= bytes;
    endpoint.inflight_slices--;
    endpoint.rail->inflight_bytes -= bytes;
    bump(endpoint.tally.released, bytes);
    bump(endpoint.rail->tally.released, bytes);
    bump(engine.tally.released, bytes);
}

// Fills candidates from a rung's ready endpoints; returns how many.
size_t candidates_of(const Engine &engine, const BoundRung &rung, uint64_t size,
                     Candidate *candidates, Endpoint **endpoints) {
    size_t count = 0;
    const Parameters &parameters = engine.plans.back()->plan.parameters;
    for (const BoundRung::Choice &choice : rung.choices) {
        Endpoint &endpoint = *choice.endpoint;
        if (endpoint.state != EndpointState::Ready || count == CANDIDATES_MAX) continue;
        uint64_t rate = endpoint.rate.bytes_per_s();
        uint64_t window = window_bytes(rate, endpoint.latency_ns_base, rung.slice_size,
                                       parameters.window_slices_min, parameters.window_size_max);
        bool open = !endpoint.blocked &&
                    (endpoint.inflight_bytes == 0 || endpoint.inflight_bytes + size <= window);
        Candidate candidate{endpoint.rail->inflight_bytes, rate, endpoint.latency_ns_base,
                            choice.penalty, open};
        if (!open) {
            // Waiting for a full endpoint is right only while it moves.
            uint64_t expected_ns = 2 * predict_ns(candidate, size) + STALL_NS;
            if (engine.now_ns - endpoint.progress_ns > expected_ns) candidate.penalty = UINT32_MAX;
        }
        endpoints[count] = &endpoint;
        candidates[count++] = candidate;
    }
    return count;
}

// The endpoint for a slice of `size`, nullptr to wait. *none is set when no rung has a ready
// endpoint.
Endpoint *choose(const Engine &engine, const BoundRoute &route, uint64_t size, uint64_t backlog,
                 bool *none) {
    Candidate candidates[CANDIDATES_MAX];
    Endpoint *endpoints[CANDIDATES_MAX];
    for (const BoundRung &rung : route.rungs) {
        size_t count = candidates_of(engine, rung, size, candidates, endpoints);
        if (count == 0) continue;
        int choice = pick({candidates, count}, size, backlog);
        return choice < 0 ? nullptr : endpoints[choice];
    }
    *none = true;
    return nullptr;
}

void *local_handle(const Engine &engine, const Request &request, const Transport *transport) {
    for (const auto &[owner, handle] : engine.regions[request.local_region]->handles)
        if (owner == transport) return handle;
    return nullptr;
}

void *remote_handle(const Request &request, const Transport *transport) {
    for (const auto &[owner, handle] : request.remote_region->handles)
        if (owner == transport) return handle;
    return nullptr;
}

// Hands the staged slices to the plugin. What it does not take goes back, in order, to be bound
// anew.
void post_staged(Engine &engine, Endpoint &endpoint) {
    uint32_t count = endpoint.staged_count;
    if (count == 0) return;
    const tent_plugin *table = endpoint.rail->transport->table;
    void *instance = endpoint.rail->transport->instance;
    uint32_t taken = table->post(instance, endpoint.handle, endpoint.staged.data(), count);
    if (taken >= count) {
        endpoint.staged_count = 0;
        return;
    }
    if (!endpoint.blocked) engine.blocked.push_back(&endpoint);
    endpoint.blocked = true;
    memmove(endpoint.staged.data(), endpoint.staged.data() + taken,
            (count - taken) * sizeof endpoint.staged[0]);
    endpoint.staged_count = count - taken;
    spray_unstage(engine, endpoint);
}

void stage(Engine &engine, Endpoint &endpoint, uint32_t slice_index) {
    Slice &slice = engine.slices[slice_index];
    const Request &request = engine.requests[slice.request];
    slice.endpoint = endpoint.slot;
    slice.posted_ns = engine.now_ns;
    charge(engine, endpoint, slice.length);
    Transport *transport = endpoint.rail->transport;
    tent_slice &staged = endpoint.staged[endpoint.staged_count++];
    staged.id = static_cast<uint64_t>(slice.generation) << 32 | slice_index;
    staged.op = request.op;
    staged.flags = request.flags & TENT_BATCH_INTEGRITY ? TENT_SLICE_INTEGRITY : 0;
    staged.local = reinterpret_cast<void *>(request.local + slice.offset);
    staged.remote = request.remote + slice.offset;
    staged.length = slice.length;
    staged.local_region = local_handle(engine, request, transport);
    staged.remote_region = remote_handle(request, transport);
    if (!endpoint.listed) {  // once, so that the capacity reserved for all endpoints suffices
        endpoint.listed = true;
        engine.staged.push_back(&endpoint);
    }
    if (endpoint.staged_count == POST_MAX) post_staged(engine, endpoint);
}

// The segment is this engine's own: slices are copied on the spot. Returns bytes copied.
uint64_t copy_own(Engine &engine, Flow &flow) {
    uint32_t index = flow.head;
    Request &request = engine.requests[index];
    uint64_t size = std::min(SELF_SLICE, request.length - request.sliced);
    void *local = reinterpret_cast<void *>(request.local + request.sliced);
    void *remote = reinterpret_cast<void *>(request.remote + request.sliced);
    if (request.op == TENT_OP_WRITE) {
        memmove(remote, local, size);
        bump(engine.tally.bytes_written, size);
    } else {
        memmove(local, remote, size);
        bump(engine.tally.bytes_read, size);
    }
    flow.waiting_bytes -= size;
    request.sliced += size;
    request.done += size;
    bump(engine.tally.slices);
    if (request.sliced == request.length) {
        flow_pop(engine, flow);
        spray_try_finish(engine, index);
    }
    return size;
}

// The head has no path now: others behind it may have one.
void rotate(Engine &engine, Flow &flow, bool retry) {
    if (retry && flow.retry_head != flow.retry_tail) {
        uint32_t head = flow.retry_head;
        flow.retry_head = engine.slices[head].next;
        engine.slices[head].next = NIL;
        engine.slices[flow.retry_tail].next = head;
        flow.retry_tail = head;
    } else if (!retry && flow.head != flow.tail) {
        uint32_t head = flow.head;
        flow.head = engine.requests[head].next;
        engine.requests[head].next = NIL;
        engine.requests[flow.tail].next = head;
        flow.tail = head;
    }
}

// Binds one slice of the flow. Returns its bytes, 0 when it has to wait (or nothing is left).
uint64_t bind_one(Engine &engine, Flow &flow) {
    if (flow_empty(flow)) return 0;
    if (flow.segment->own) return copy_own(engine, flow);
    bool retry = flow.retry_head != NIL;
    uint32_t slice_index = retry ? flow.retry_head : NIL;
    uint32_t index = retry ? engine.slices[slice_index].request : flow.head;
    Request &request = engine.requests[index];
    uint64_t offset = request.sliced, size = 0;
    if (retry) {
        size = engine.slices[slice_index].length;
    } else {
        uint64_t slice_size = request.route->rungs.front().slice_size;
        size = std::min(slice_size, request.length - request.sliced);
    }
    bool none = false;
    Endpoint *endpoint = choose(engine, *request.route, size, flow.waiting_bytes, &none);
    if (none) {
        routes_pathless(engine, *flow.segment);
        rotate(engine, flow, retry);
    }
    if (!endpoint) return 0;
    if (retry) {
        flow.retry_head = engine.slices[slice_index].next;
        if (flow.retry_head == NIL) flow.retry_tail = NIL;
    } else {
        slice_index = slice_take(engine);
        if (slice_index == NIL) return 0;
        Slice &slice = engine.slices[slice_index];
        slice.request = index;
        slice.offset = offset;
        slice.length = size;
        slice.retries = 0;
        request.sliced += size;
        request.slices_out++;
        if (request.sliced == request.length) flow_pop(engine, flow);
    }
    flow.waiting_bytes -= size;
    request.rail = static_cast<int32_t>(endpoint->rail->plan.index);
    stage(engine, *endpoint, slice_index);
    return size;
}

// Serves a class's flows in turn until all wait or the class has used its quantum.
bool serve_class(Engine &engine, uint32_t class_) {
    Flow *&tail = engine.active[class_];
    bool progress = false;
    uint32_t waiting = 0, flows = 0;
    for (Flow *flow = tail; flow; flow = flow->next == tail ? nullptr : flow->next)
        flows++;
    while (tail && waiting < flows && engine.deficit[class_] > 0) {
        Flow *flow = tail->next;
        uint64_t bound = 0, turn = 0;
        while (engine.deficit[class_] > 0 && (bound = bind_one(engine, *flow)) > 0) {
            engine.deficit[class_] -= std::min(engine.deficit[class_], bound);
            turn += bound;
            if (turn >= CLASS_QUANTUM[TENT_CLASS_LOW]) break;
        }
        progress |= turn > 0;
        if (flow_empty(*flow)) {  // out of the ring
            flow->active = false;
            if (flow == tail)
                tail = nullptr;
            else
                tail->next = flow->next;
            flows--;
        } else {
            tail = flow;  // the next one's turn
            waiting = turn > 0 ? 0 : waiting + 1;
        }
    }
    return progress;
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
        int32_t worst = batch.worst.load(std::memory_order_relaxed);
        if (worst == TENT_OK || status == TENT_E_UNFENCED || status == TENT_E_UNFENCED_LOCAL)
            batch.worst.store(status, std::memory_order_relaxed);
        bump(engine.tally.requests_failed);
        bump(engine.class_tally[request.class_].requests_failed);
    }
    Segment *segment = request.segment;
    // Release: whoever sees the status sees done, rail and the moved bytes.
    request.status.store(status, std::memory_order_release);
    batches_on_terminal(engine, batch, request, status);
    // Last: closing a segment waits for this count, and may free it then.
    segment->requests.fetch_sub(1, std::memory_order_release);
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
            bump(engine.tally.requests);
            bump(engine.class_tally[request.class_].requests);
            request.route = routes_match(engine, *request.segment, request, batch.label);
            if (request.route) request.route->generation->requests++;
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

void spray_schedule(Engine &engine) {
    if (!engine.schedule_due) return;
    engine.schedule_due = false;
    for (Endpoint *endpoint : engine.blocked)
        endpoint->blocked = false;
    engine.blocked.clear();
    bool progress = true;
    for (int round = 0; round < ROUNDS_MAX && progress; round++) {
        progress = false;
        for (uint32_t class_ : CLASS_ORDER) {
            if (!engine.active[class_]) {
                engine.deficit[class_] = 0;
                continue;
            }
            engine.deficit[class_] += CLASS_QUANTUM[class_];
            progress |= serve_class(engine, class_);
            // A class that waits for windows does not save up.
            engine.deficit[class_] = std::min(engine.deficit[class_], CLASS_QUANTUM[class_]);
        }
    }
    if (progress) engine.schedule_due = true;  // own copies and long queues go on in the next cycle
    for (Endpoint *endpoint : engine.staged) {
        endpoint->listed = false;
        post_staged(engine, *endpoint);
    }
    engine.staged.clear();
}

void spray_forget_flow(Engine &engine, Flow &flow) {
    TENT_ASSERT(flow_empty(flow));
    Flow *&tail = engine.active[flow.class_];
    if (!flow.active) return;
    Flow *previous = tail;
    while (previous->next != &flow)
        previous = previous->next;
    if (previous == &flow) {
        tail = nullptr;
    } else {
        previous->next = flow.next;
        if (tail == &flow) tail = previous;
    }
    flow.active = false;
}

void spray_unstage(Engine &engine, Endpoint &endpoint) {
    for (uint32_t i = 0; i < endpoint.staged_count; i++) {
        uint32_t slice_index = static_cast<uint32_t>(endpoint.staged[i].id);
        Slice &slice = engine.slices[slice_index];
        release(engine, endpoint, slice.length);
        flow_push_retry(engine, flow_of(engine.requests[slice.request]), slice_index);
    }
    endpoint.staged_count = 0;
}

namespace {

bool is_path_error(int32_t status) {
    // The path failed, not the request: another path may do it.
    return status == TENT_E_TRANSPORT || status == TENT_E_PEER || status == TENT_E_CANCELLED ||
           status == TENT_E_PROTOCOL || status == TENT_E_TIMEOUT;
}

void settle_ok(Engine &engine, Endpoint &endpoint, Request &request, const Slice &slice) {
    request.done += slice.length;
    endpoint.progress_ns = engine.now_ns;
    uint64_t latency_ns = engine.now_ns - slice.posted_ns;
    uint64_t wire_ns = slice.length * 1000000000u / endpoint.rate.bytes_per_s();
    uint64_t base_ns = latency_ns > wire_ns ? latency_ns - wire_ns : 0;
    if (endpoint.latency_ns_base == 0 || base_ns < endpoint.latency_ns_base)
        endpoint.latency_ns_base = base_ns;
    endpoint.rate.on_settled(slice.length, engine.now_ns, endpoint.inflight_slices == 0);
    bool write = request.op == TENT_OP_WRITE;
    for (Tally *tally : {&engine.tally, &endpoint.tally, &endpoint.rail->tally,
                         &engine.class_tally[request.class_]}) {
        bump(write ? tally->bytes_written : tally->bytes_read, slice.length);
        bump(tally->slices);
    }
}

void settle(Engine &engine, const tent_slice_result &result) {
    uint32_t slice_index = static_cast<uint32_t>(result.id);
    if (slice_index >= engine.limits.slices ||
        engine.slices[slice_index].generation != result.id >> 32 ||
        engine.slices[slice_index].endpoint == NIL) {
        engine_poison(engine, "a plugin returned a slice that is not posted");
        return;
    }
    Slice &slice = engine.slices[slice_index];
    Endpoint &endpoint = *engine.endpoints[slice.endpoint];
    Request &request = engine.requests[slice.request];
    uint32_t request_index = slice.request;
    release(engine, endpoint, slice.length);
    engine.schedule_due = true;
    if (result.status == TENT_OK) {
        settle_ok(engine, endpoint, request, slice);
    } else {
        bump(engine.tally.failed);
        bump(endpoint.tally.failed);
        bump(endpoint.rail->tally.failed);
        const Parameters &parameters = engine.plans.back()->plan.parameters;
        if (is_path_error(result.status)) {
            // A write may still land: its request's end waits until the peer has retired the
            // endpoint.
            if (request.op == TENT_OP_WRITE) endpoints_hold(engine, endpoint, request_index);
            if (endpoint.state == EndpointState::Ready)
                endpoints_fail(engine, endpoint, result.status, "");
            if (request.error == TENT_OK && slice.retries < parameters.retries_max) {
                slice.retries++;
                bump(engine.tally.retried);
                bump(endpoint.tally.retried);
                bump(endpoint.rail->tally.retried);
                flow_push_retry(engine, flow_of(request), slice_index);
                return;
            }
        }
        if (request.error == TENT_OK)
            spray_stop(engine, request_index,
                       is_path_error(result.status) ? TENT_E_TRANSPORT : result.status);
    }
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

// Takes stopped requests and their waiting slices out of the flow's queues; linear.
void sweep(Engine &engine, Flow &flow) {
    uint32_t slice_index = flow.retry_head;
    flow.retry_head = flow.retry_tail = NIL;
    flow.waiting_bytes = 0;
    while (slice_index != NIL) {
        uint32_t next = engine.slices[slice_index].next;
        Request &request = engine.requests[engine.slices[slice_index].request];
        if (request.error == TENT_OK) {
            flow_push_retry(engine, flow, slice_index);
        } else {
            request.slices_out--;
            slice_give(engine, slice_index);
        }
        slice_index = next;
    }
    uint32_t index = flow.head;
    flow.head = flow.tail = NIL;
    while (index != NIL) {
        uint32_t next = engine.requests[index].next;
        if (engine.requests[index].error == TENT_OK)
            flow_push(engine, flow, index);
        else
            engine.requests[index].queued = false;
        index = next;
    }
}

void sweep_segment(Engine &engine, Segment &segment) {
    for (Flow &flow : segment.flows)
        sweep(engine, flow);
}

}  // namespace

void spray_stop(Engine &engine, uint32_t index, int32_t error) {
    Request &request = engine.requests[index];
    if (request.error == TENT_OK) request.error = error;
    sweep(engine, flow_of(request));
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

uint32_t spray_stop_pathless(Engine &engine, const Segment &segment) {
    std::vector<uint32_t> indexes;
    for (uint32_t b = 0; b < engine.limits.batches; b++)
        spray_collect(engine, engine.batches[b], &indexes);
    std::erase_if(indexes, [&](uint32_t index) {
        const Request &request = engine.requests[index];
        if (request.segment != &segment || !request.route) return true;
        for (const BoundRung &rung : request.route->rungs)
            for (const BoundRung::Choice &choice : rung.choices)
                if (choice.endpoint->state == EndpointState::Ready) return true;
        return false;
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
