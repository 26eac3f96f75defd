// The watch over endpoints: which slice is late, what that says of its endpoint, canaries, slow
// rails, transports that take nothing. Tells health/ what happened and does what it says. Driver
// only. On the slice path only watch_posted and watch_success, which cost a few compares; all else
// runs at looks, at most every WATCH_NS and only while something is in flight, suspect or probing.
// Must never exclude the last usable path of a request, nor show canaries user memory.
#pragma once

#include "core/engine.h"

namespace tent {

constexpr uint64_t WATCH_NS = 1 * MS;       // between looks at least
constexpr uint64_t STALL_NS = 1 * MS;       // a duty cycle later than this was stalled
constexpr uint32_t CANARY_INDEX = NIL - 1;  // lower half of a canary's slice id
constexpr uint32_t CANARIES_MAX = 1024;     // posted at a time

inline void watch_within(Engine &engine, uint64_t at_ns) {
    engine.watch_due_ns = std::min(engine.watch_due_ns, at_ns);
}

// A slice was bound to the endpoint.
inline void watch_posted(Engine &engine, Endpoint &endpoint, const Slice &slice) {
    watch_within(engine, engine.now_ns + slice.allowance_ns / 2);
    if (endpoint.watched) return;
    endpoint.watched = true;
    engine.watched.push_back(&endpoint);  // reserved for all endpoints
}
// From now on the endpoint is looked at until it is healthy and at rest.
void watch_begin(Engine &engine, Endpoint &endpoint);
void watch_forget(Engine &engine, Endpoint &endpoint);
// A slice has completed on it.
void watch_success(Engine &engine, Endpoint &endpoint);
// The receiver refused a slice of the request.
void watch_error(Engine &engine, Endpoint &endpoint, uint32_t request);
// Does what its health has decided.
void watch_act(Engine &engine, Endpoint &endpoint, HealthAction action, const char *why);
// Posts the canary of an endpoint that has just been connected anew.
void watch_probe(Engine &engine, Endpoint &endpoint);
void watch_canary(Engine &engine, uint32_t endpoint_slot, int32_t status);
// One look, if it is time. To be called after results were taken.
void watch_step(Engine &engine);
// Books the time since the last cycle that nobody meant to be away.
void watch_stall(Engine &engine);

}  // namespace tent
