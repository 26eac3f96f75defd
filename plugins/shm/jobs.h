// Slices that are copied here, from or to mapped memory or by cross-memory attach: small ones at
// once, others from a queue that the driver and the helpers empty together.
//
// Leans on state.h. Thread-safety: jobs_work by helpers, everything else by the driver. post and
// poll allocate nothing.
#ifndef TENT_PLUGINS_SHM_JOBS_H
#define TENT_PLUGINS_SHM_JOBS_H

#include "state.h"

namespace tent::shm {

Jobs *jobs_make(uint32_t slices_max, uint32_t helpers);  // nullptr: no memory
// Nobody may be inside jobs_work any more.
void jobs_free(Jobs *jobs);

// Takes a prefix of the slices, all of method MAPPED or ATTACH as method_of says; a run of small
// ones is copied under one lane. Returns its length. The caller adds it to Endpoint::posted.
uint32_t jobs_post(Instance &instance, Endpoint &endpoint, const tent_slice *slices,
                   uint32_t count);
// A slice that ends without a copy (refused, cancelled, of the ring): its result is given to poll.
void jobs_result(Instance &instance, Endpoint &endpoint, uint64_t id, int32_t status);
// The driver's turn: copies up to a budget, at most one piece when helpers are at it, too, and
// calls helpers for what is left. True when something was copied. Never waits for helpers.
bool jobs_run(Instance &instance);
// Finished ones, each once; decrements Endpoint::posted.
uint32_t jobs_collect(Instance &instance, tent_slice_result *results, uint32_t room);
// A helper's turn; see work() of plugin.h.
uint32_t jobs_work(Instance &instance, uint32_t helper);
// Queued or being copied, or finished and not collected?
bool jobs_left(const Instance &instance);
// Nobody copies for the endpoint, and nothing of it is queued: after `stopping` was set. Those not
// begun are finished as CANCELLED by whoever meets them; this meets them itself.
bool jobs_quiet(Instance &instance, Endpoint &endpoint);
// Is a helper at a copy for the endpoint just now (or about to be, or just done)?
bool jobs_moving(const Instance &instance, const Endpoint &endpoint);
// Does a job that has not ended name memory of the region's mapping? While so it stays mapped.
bool jobs_name(const Instance &instance, const RemoteRegion &region);

}  // namespace tent::shm

#endif
