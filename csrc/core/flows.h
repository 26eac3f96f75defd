// Flows: the requests and retries of one segment and class that wait for an endpoint, and the rings
// of those that have any. Driver only. Leans on sched/heap.h for deadlines. Must never allocate:
// all links live in the requests and slices.
#pragma once

#include "core/engine.h"

namespace tent {

inline Flow &flow_of(const Request &request) {
    return request.segment->flows[request.class_];
}

inline bool flow_empty(const Flow &flow) {
    return flow.head == NIL && flow.urgent == NIL && flow.retry_head == NIL;
}

// The request to slice next: the earliest deadline, then the first come. NIL: only retries wait.
inline uint32_t flow_front(const Flow &flow) {
    return flow.urgent != NIL ? flow.urgent : flow.head;
}

void flow_push(Engine &engine, Flow &flow, uint32_t request);
// Takes out flow_front.
void flow_pop(Engine &engine, Flow &flow);
void flow_push_retry(Engine &engine, Flow &flow, uint32_t slice);
// The front has no path now: it goes behind the others, which may have one. A request with a
// deadline loses its place among those: an earlier one without a path would hold them all up.
void flow_rotate(Engine &engine, Flow &flow, bool retry);
// Takes stopped requests (error set) and their waiting slices out of the queues; linear.
void flow_sweep(Engine &engine, Flow &flow);

// Rings of flows with something to do, by class.
void flow_activate(Engine &engine, Flow &flow);
void flow_deactivate(Engine &engine, Flow &flow);

// Slices.
uint32_t slice_take(Engine &engine);
void slice_give(Engine &engine, uint32_t index);

}  // namespace tent
