// Binding: which flow is served next, which endpoint carries its next slice, and handing slices to
// the plugins. See spray.h. The decisions themselves are sched/'s.
#include <algorithm>
#include <cstring>

#include "base/mutant.h"
#include "base/status.h"
#include "core/endpoints.h"
#include "core/flows.h"
#include "core/hedge.h"
#include "core/routes.h"
#include "core/spray.h"
#include "core/watch.h"

namespace tent {

namespace {

constexpr uint64_t SELF_SLICE =
    1 << 20;  // plain copies: bytes per step, so that cancel and others get in
constexpr uint64_t TURN_SIZE = 1 << 20;     // bytes of one flow before the next one's turn
constexpr uint32_t PATHLESS_TRIES = 16;     // requests of a flow looked at for one with a path
constexpr uint64_t CYCLE_SIZE = 64u << 20;  // bound per cycle: results must be seen in between

void charge(Engine &engine, Endpoint &endpoint, const Request &request, uint64_t bytes) {
    endpoint.path.charge(bytes, engine.now_ns, request.class_ == TENT_CLASS_LOW);
    bump(endpoint.tally.charged, bytes);
    bump(endpoint.rail->tally.charged, bytes);
    bump(engine.tally.charged, bytes);
}

// Those that do not reach the request's memory are for the moment not ready.
class Barred {
  public:
    Barred(const BoundRung &rung, const Request &request) {
        if (request.unreaching_count == 0) return;
        for (Endpoint *endpoint : rung.endpoints)
            if (endpoint->path.ready && request_bars(request, *endpoint)) {
                endpoint->path.ready = false;
                barred_[count_++] = endpoint;
            }
    }
    ~Barred() {
        for (uint32_t i = 0; i < count_; i++)
            barred_[i]->path.ready = true;
    }
    Barred(const Barred &) = delete;
    Barred &operator=(const Barred &) = delete;

  private:
    Endpoint *barred_[UNREACHING_MAX];
    uint32_t count_ = 0;
};

// The endpoint for the next slice, nullptr to wait. *none is set when no rung has a ready one,
// *barred when some were not asked. only: the transport that may carry it for now, nullptr: any.
Endpoint *choose(const Engine &engine, const Request &request, PickQuery query,
                 const Transport *only, uint64_t *size, bool *none, bool *barred) {
    for (const BoundRung &rung : request.route->rungs) {
        if (only && rung.transport != only) {
            *barred = true;
            continue;
        }
        query.slice_size = rung.slice_size;
        query.slice_size_min = rung.slice_size_min;
        query.window_size_max = rung.window_size_max;
        if (!query.fixed) query.size = std::min(rung.slice_size, query.remaining);
        Barred aside(rung, request);
        Picked picked =
            pick(rung.strategy, rung.choices, query, parameters(engine), rung.stripe.get());
        if (picked.index == PICK_NONE) continue;
        *size = picked.size;
        return picked.index < 0 ? nullptr : rung.endpoints[static_cast<size_t>(picked.index)];
    }
    *none = true;
    return nullptr;
}

// A write that may still land over one transport goes over no other until that one is fenced: their
// order would be anybody's guess. On a sibling rail of the same it carries the same bytes to the
// same place.
const Transport *bound_to(const Request &request, const Slice &slice) {
    bool free = request.fences == 0 || request.op == TENT_OP_READ || mutant(Mutant::fence_order);
    return free ? nullptr : slice.tried;
}

// With checksums a retry waits for the fence on any rail: the abandoned attempt may still land with
// a flipped bit, after the good bytes, and nobody would check those again.
bool waits_for_fence(const Request &request, const Slice &slice) {
    return (request.flags & TENT_BATCH_INTEGRITY) && request.op == TENT_OP_WRITE &&
           request.fences > 0 && slice.tried && !mutant(Mutant::fence_order);
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
    if (taken > 0) endpoint.refusing_since_ns = 0;
    if (taken >= count) {
        endpoint.staged_count = 0;
        return;
    }
    if (!endpoint.path.blocked) engine.blocked.push_back(&endpoint);
    endpoint.path.blocked = true;
    memmove(endpoint.staged.data(), endpoint.staged.data() + taken,
            (count - taken) * sizeof endpoint.staged[0]);
    endpoint.staged_count = count - taken;
    // What it gives back waits for a result or the next look, not for the next cycle: a transport
    // that takes nothing must not keep the driver spinning.
    bool due = engine.schedule_due;
    spray_unstage(engine, endpoint);
    engine.schedule_due = due;
    if (endpoint.path.own.inflight_slices == 0 && endpoint.refusing_since_ns == 0)
        endpoint.refusing_since_ns = std::max<uint64_t>(engine.now_ns, 1);
    watch_within(engine, engine.now_ns + WATCH_NS);
}

// The segment is this engine's own: slices are copied on the spot. Returns bytes copied.
uint64_t copy_own(Engine &engine, Flow &flow) {
    uint32_t index = flow_front(flow);
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

bool any_ready(const Segment &segment) {
    return std::any_of(segment.endpoints.begin(), segment.endpoints.end(),
                       [](const Endpoint *endpoint) { return endpoint->path.ready; });
}

// Some do not reach the request's memory: is nothing else left, or was none of that ready for too
// long? Its route does not tell, for other requests find a path there.
bool forsaken(const Engine &engine, Request &request) {
    if (!routes_reach(*request.route, request)) return true;
    if (request.pathless_since_ns == 0)
        request.pathless_since_ns = std::max<uint64_t>(engine.now_ns, 1);
    return engine.now_ns - request.pathless_since_ns >= parameters(engine).connect_timeout_ns;
}

// Binds one slice of the flow: a retry, or of the request in front. Returns its bytes, 0 when it
// has to wait; *none is set when that is for want of a path, or of the fence of one.
uint64_t bind_front(Engine &engine, Flow &flow, bool retry, bool *none) {
    uint32_t slice_index = retry ? flow.retry_head : NIL;
    uint32_t index = retry ? engine.slices[slice_index].request : flow_front(flow);
    Request &request = engine.requests[index];
    // Before the pick, which counts as a turn where the strategy takes turns.
    if (!retry && engine.slices_used == engine.limits.slices) return 0;
    PickQuery query{};
    query.fixed = retry;
    query.size = retry ? engine.slices[slice_index].length : 0;
    query.remaining = retry ? query.size : request.length - request.sliced;
    query.backlog = flow.waiting_bytes;
    query.now_ns = engine.now_ns;
    query.low = flow.class_ == TENT_CLASS_LOW;
    uint64_t size = 0;
    bool barred = false;
    const Transport *only = retry ? bound_to(request, engine.slices[slice_index]) : nullptr;
    Endpoint *endpoint = nullptr;
    if (retry && waits_for_fence(request, engine.slices[slice_index]))
        *none = barred = true;
    else
        endpoint = choose(engine, request, query, only, &size, none, &barred);
    if (*none) {
        if (!barred && request.unreaching_count > 0 && forsaken(engine, request)) {
            spray_stop(engine, index, TENT_E_TRANSPORT);
            spray_try_finish(engine, index);
            return 0;
        }
        if (!barred) routes_pathless(engine, *flow.segment, *request.route);
        // With nothing ready at all the order is kept: it will do when something is.
        if (any_ready(*flow.segment)) flow_rotate(engine, flow, retry);
    } else if (request.pathless_since_ns != 0) {
        request.pathless_since_ns = 0;
    }
    if (!endpoint) return 0;
    if (request.route->pathless_since_ns != 0) request.route->pathless_since_ns = 0;
    if (retry) {
        flow.retry_head = engine.slices[slice_index].next;
        if (flow.retry_head == NIL) flow.retry_tail = NIL;
    } else {
        slice_index = slice_take(engine);
        Slice &slice = engine.slices[slice_index];
        slice.request = index;
        slice.offset = request.sliced;
        slice.length = size;
        if (mutant(Mutant::slice_overlap) && slice.offset > 0) slice.offset--;
        slice.retries = 0;
        slice.tried = nullptr;
        slice.twin = NIL;
        slice.hedged = slice.lost = false;
        request.sliced += size;
        request.slices_out++;
        if (request.sliced == request.length) {
            flow_pop(engine, flow);
            hedge_watch(engine, index, slice_index);
        }
    }
    flow.waiting_bytes -= size;
    spray_stage(engine, *endpoint, slice_index);
    return size;
}

// Binds one slice of the flow. Returns its bytes, 0 when it has to wait (or nothing is left).
uint64_t bind_one(Engine &engine, Flow &flow) {
    if (flow_empty(flow)) return 0;
    if (flow.segment->own) return copy_own(engine, flow);
    // What has no path, or must not use it yet, holds up nothing of the flow that has one.
    for (uint32_t tries = 0; tries < PATHLESS_TRIES && flow.retry_head != NIL; tries++) {
        bool none = false, only = flow.retry_head == flow.retry_tail;
        uint64_t bound = bind_front(engine, flow, true, &none);
        if (!none || !any_ready(*flow.segment)) return bound;
        if (only) break;
    }
    for (uint32_t tries = 0; tries < PATHLESS_TRIES && flow_front(flow) != NIL; tries++) {
        bool none = false;
        uint64_t bound = bind_front(engine, flow, false, &none);
        if (!none || !any_ready(*flow.segment)) return bound;
    }
    return 0;
}

// The flow of a class to serve next: the earliest deadline, then each in turn. nullptr: all wait.
Flow *next_flow(Engine &engine, uint32_t class_) {
    Flow *tail = engine.active[class_], *found = nullptr;
    uint64_t deadline_ns = UINT64_MAX;
    for (Flow *flow = tail->next;; flow = flow->next) {
        if (flow->stuck != engine.pass) {
            if (engine.urgent_count[class_] == 0) return flow;
            uint64_t own_ns =
                flow->urgent == NIL ? UINT64_MAX : engine.requests[flow->urgent].deadline_ns;
            if (!found || own_ns < deadline_ns) {
                found = flow;
                deadline_ns = own_ns;
            }
        }
        if (flow == tail) return found;
    }
}

// One flow's turn. Returns the bytes bound.
uint64_t serve(Engine &engine, Flow &flow) {
    uint64_t turn = 0;
    while (turn < TURN_SIZE) {
        uint64_t bound = bind_one(engine, flow);
        if (bound == 0) {
            if (!flow_empty(flow)) flow.stuck = engine.pass;
            break;
        }
        turn += bound;
    }
    engine.share.spend(flow.class_, turn, parameters(engine));
    if (flow_empty(flow))
        flow_deactivate(engine, flow);
    else
        while (engine.active[flow.class_] != &flow)  // the next one's turn
            engine.active[flow.class_] = engine.active[flow.class_]->next;
    return turn;
}

// Binds until every flow waits. False when the cycle's share is used up before.
bool serve_all(Engine &engine) {
    engine.pass++;
    uint64_t bound = 0;
    uint32_t waiting = 0;  // classes of which every flow waits
    while (bound < CYCLE_SIZE) {
        uint32_t active = 0;
        for (uint32_t class_ : CLASS_ORDER)
            if (engine.active_count[class_] > 0) active |= 1u << class_;
        int class_ = engine.share.next(active & ~waiting, active, parameters(engine));
        if (class_ < 0) return true;
        Flow *flow = next_flow(engine, static_cast<uint32_t>(class_));
        if (flow)
            bound += serve(engine, *flow);
        else
            waiting |= 1u << class_;
    }
    return false;
}

}  // namespace

void flight_join(Engine &engine, Endpoint &endpoint, uint32_t index) {
    Slice &slice = engine.slices[index];
    slice.next = NIL;
    slice.previous = endpoint.flight_tail;
    if (endpoint.flight_tail == NIL)
        endpoint.flight_head = index;
    else
        engine.slices[endpoint.flight_tail].next = index;
    endpoint.flight_tail = index;
}

void flight_leave(Engine &engine, Endpoint &endpoint, uint32_t index) {
    const Slice &slice = engine.slices[index];
    if (slice.previous == NIL)
        endpoint.flight_head = slice.next;
    else
        engine.slices[slice.previous].next = slice.next;
    if (slice.next == NIL)
        endpoint.flight_tail = slice.previous;
    else
        engine.slices[slice.next].previous = slice.previous;
}

void spray_stage(Engine &engine, Endpoint &endpoint, uint32_t slice_index) {
    Slice &slice = engine.slices[slice_index];
    Request &request = engine.requests[slice.request];
    request.rail = static_cast<int32_t>(endpoint.rail->plan.index);
    slice.endpoint = endpoint.slot;
    slice.posted_ns = engine.now_ns;
    slice.predicted_ns = endpoint.path.predict_ns(slice.length);
    slice.allowance_ns =
        endpoint.health.allowance_ns(slice.predicted_ns, slice.retries, parameters(engine));
    slice.stalled_ns = engine.stalled_ns;
    slice.low = request.class_ == TENT_CLASS_LOW;
    charge(engine, endpoint, request, slice.length);
    flight_join(engine, endpoint, slice_index);
    watch_posted(engine, endpoint, slice);
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

void spray_schedule(Engine &engine) {
    if (!engine.schedule_due && engine.hedge_watched.empty() && engine.hedge_losers.empty()) return;
    bool due = engine.schedule_due;
    engine.schedule_due = false;
    if (due) {
        for (Endpoint *endpoint : engine.blocked)
            endpoint->path.blocked = false;
        engine.blocked.clear();
        // Own copies and long queues go on in the next cycle.
        if (!serve_all(engine)) engine.schedule_due = true;
    }
    hedge_step(engine);
    for (Endpoint *endpoint : engine.staged) {
        endpoint->listed = false;
        post_staged(engine, *endpoint);
    }
    engine.staged.clear();
}

}  // namespace tent
