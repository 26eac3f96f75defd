// See flows.h.
#include "core/flows.h"

#include "sched/heap.h"

namespace tent {

namespace {

auto deadlines(Engine &engine) {
    Request *requests = engine.requests;
    return PairingHeap([requests](uint32_t i) -> Request & { return requests[i]; },
                       [requests](uint32_t a, uint32_t b) {
                           const Request &x = requests[a], &y = requests[b];
                           return x.deadline_ns != y.deadline_ns ? x.deadline_ns < y.deadline_ns
                                                                 : x.order < y.order;
                       });
}

}  // namespace

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
    if (engine.active_count[flow.class_]++ == 0)
        engine.share.arrive(flow.class_, parameters(engine));
    Flow *&tail = engine.active[flow.class_];
    if (tail) {
        flow.next = tail->next;
        tail->next = &flow;
    } else {
        flow.next = &flow;
    }
    tail = &flow;
}

void flow_deactivate(Engine &engine, Flow &flow) {
    if (!flow.active) return;
    Flow *&tail = engine.active[flow.class_];
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
    engine.active_count[flow.class_]--;
}

void flow_push(Engine &engine, Flow &flow, uint32_t index) {
    Request &request = engine.requests[index];
    request.queued = true;
    if (request.deadline_ns != UINT64_MAX && !request.yields) {
        engine.urgent_count[flow.class_]++;
        deadlines(engine).push(&flow.urgent, index);
    } else {
        request.next = NIL;
        if (flow.tail == NIL)
            flow.head = index;
        else
            engine.requests[flow.tail].next = index;
        flow.tail = index;
    }
    flow.waiting_bytes += request.length - request.sliced;
    flow_activate(engine, flow);
}

void flow_pop(Engine &engine, Flow &flow) {
    if (flow.urgent != NIL) {
        engine.requests[flow.urgent].queued = false;
        engine.urgent_count[flow.class_]--;
        deadlines(engine).pop(&flow.urgent);
        return;
    }
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

void flow_rotate(Engine &engine, Flow &flow, bool retry) {
    if (retry) {
        if (flow.retry_head == flow.retry_tail) return;
        uint32_t head = flow.retry_head;
        flow.retry_head = engine.slices[head].next;
        engine.slices[head].next = NIL;
        engine.slices[flow.retry_tail].next = head;
        flow.retry_tail = head;
    } else if (flow.urgent != NIL) {
        uint32_t front = flow.urgent;
        flow_pop(engine, flow);
        engine.requests[front].yields = true;
        flow.waiting_bytes -= engine.requests[front].length - engine.requests[front].sliced;
        flow_push(engine, flow, front);
    } else if (flow.head != flow.tail) {
        uint32_t head = flow.head;
        flow.head = engine.requests[head].next;
        engine.requests[head].next = NIL;
        engine.requests[flow.tail].next = head;
        flow.tail = head;
    }
}

void flow_sweep(Engine &engine, Flow &flow) {
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
    uint32_t urgent = NIL;
    while (flow.urgent != NIL) {
        uint32_t index = flow.urgent;
        deadlines(engine).pop(&flow.urgent);
        if (engine.requests[index].error == TENT_OK) {
            flow.waiting_bytes += engine.requests[index].length - engine.requests[index].sliced;
            deadlines(engine).push(&urgent, index);
        } else {
            engine.requests[index].queued = false;
            engine.urgent_count[flow.class_]--;
        }
    }
    flow.urgent = urgent;
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

}  // namespace tent
