// Queue pairs and what is under way on them: how they are made and moved, and how slices become
// work requests of them and end.
//
// Leans on state.h. Driver only, but for the errand inside pairs.cc. No function here that post or
// poll calls allocates.
#ifndef TENT_PLUGINS_RDMA_PAIRS_H
#define TENT_PLUGINS_RDMA_PAIRS_H

#include <cstdint>
#include <string>

#include "state.h"

namespace tent::rdma {

// Request::kind
enum RequestKind : uint8_t { MOVE, BIND, SETTLE };

// wr_id: number of the request (its low bits) below Qp::tag, which is the generation above the
// slot. A completion of a queue pair that is gone names a generation that is, and is passed over.
constexpr uint32_t REQUEST_BITS = 24, SLOT_BITS = 20, GENERATION_BITS = 20;
constexpr uint32_t DEPTH_MAX = 1u << 16;  // numbers under way differ in REQUEST_BITS

// ---- pairs.cc -----------------------------------------------------------------------------------

// Makes `count` queue pairs in INIT. On failure none is left and *why says what refused.
int32_t pairs_make(Endpoint &endpoint, uint32_t count, std::string *why);
// Moves them into error: what is posted is flushed, what arrives is dropped. They keep what they
// have posted until its completions were seen.
void pairs_error(Endpoint &endpoint);
// Destroys them; requests without completion end with `status`. False: the device refuses, again.
bool pairs_destroy(Endpoint &endpoint, int32_t status);
// Those from `count` on, of which nothing was posted.
void pairs_trim(Endpoint &endpoint, uint32_t count);
// All that was posted has been seen to end.
bool pairs_quiet(const Endpoint &endpoint);

// An errand moves them to RTS, for Endpoint::peer is known. ascent_take: TENT_IN_PROGRESS while it
// is under way; then once how it ended.
void ascent_begin(Endpoint &endpoint);
int32_t ascent_take(Endpoint &endpoint, std::string *why);

// What we tell a peer of ourselves, and what a peer tells: foreign bytes. False: *why.
void offer_write(const Endpoint &endpoint, Offer *offer);
bool offer_read(const void *blob, uint32_t size, Offer *offer, std::string *why);

// ---- post.cc ------------------------------------------------------------------------------------

inline uint32_t pair_room(const Qp &qp) {
    return qp.qp == nullptr || qp.failed ? 0
                                         : qp.depth - static_cast<uint32_t>(qp.posted - qp.done);
}
inline Request &request_at(Qp &qp, uint64_t number) {
    return qp.requests[number & (qp.requests.size() - 1)];
}
// Waiting slices become work requests as far as the send queue has room; one doorbell.
void pump(Qp &qp);
// One work request that is no slice's, signalled. False: no room, or refused.
bool request_post(Qp &qp, const Request &request, ibv_send_wr &wr);

// ---- completions.cc -----------------------------------------------------------------------------

// Takes what the completion queue of the rail holds. True: there was something.
bool completions_take(Rail &rail);
// Reads the notifications that the completion channel of the rail holds.
void notifications_take(Rail &rail);
// A slice ends when all of it was posted and no request of it is under way.
void slice_try_end(Instance &instance, uint32_t index);
void result_push(Instance &instance, uint64_t id, int32_t status);
// Slices that wait for room on the queue pair end (as far as they were posted: with their
// requests).
void waiting_abandon(Qp &qp, int32_t status);
// The queue pair is destroyed: requests whose completion was not seen end.
void requests_abandon(Qp &qp, int32_t status);

// ---- endpoint.cc --------------------------------------------------------------------------------

// Set-ups go on, keys are asked for and given, what was closed goes.
void endpoints_step(Instance &instance, uint64_t now_ns);
void endpoints_report(Instance &instance);
uint64_t endpoints_due_ns(const Instance &instance, uint64_t now_ns);
void endpoint_free(Endpoint &endpoint);
void endpoint_enter(Endpoint &endpoint, EndpointState state);

// How long a fence waits for the flush before the queue pairs are destroyed without it.
constexpr uint64_t FENCE_DRAIN_NS = 200'000'000;

}  // namespace tent::rdma

#endif
