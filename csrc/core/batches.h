// Batches: checks and submits requests without a lock, waits (driving the engine where the worker
// does not), cancels, tells statuses and completions. Any thread, except where marked "driver".
// Leans on the lock-free pools and rings of base. Must never allocate per request, except for the
// overlap check.
#pragma once

#include "core/engine.h"

namespace tent {

int32_t batch_open(Engine &engine, const tent_batch_options *options, uint64_t *handle);
int32_t batch_submit(Engine &engine, uint64_t handle, const tent_request *requests, uint32_t stride,
                     uint32_t count, uint32_t flags, uint32_t *index);
int32_t batch_submit_columns(Engine &engine, uint64_t handle, const tent_columns &columns,
                             uint32_t flags, uint32_t *index);
int32_t batch_seal(Engine &engine, uint64_t handle, uint64_t segment, const void *notice,
                   uint32_t notice_size);
int32_t batch_poll(Engine &engine, uint64_t handle);
int32_t batch_wait(Engine &engine, uint64_t handle, uint64_t timeout_ns);
int32_t batch_cancel(Engine &engine, uint64_t handle);
int32_t batch_close(Engine &engine, uint64_t handle);
int32_t batch_status(Engine &engine, uint64_t handle, uint32_t first, tent_request_status *out,
                     uint32_t stride, uint32_t *count);
int32_t batch_transfer(Engine &engine, const tent_batch_options *options,
                       const tent_request *requests, uint32_t stride, uint32_t count,
                       uint64_t timeout_ns, uint32_t *index);
// Is `status` a graver end than `than`? An unfenced one must not hide behind another's failure: its
// memory is still in use.
inline bool graver(int32_t status, int32_t than) {
    auto rank = [](int32_t s) {
        return s == TENT_E_UNFENCED_LOCAL ? 3 : s == TENT_E_UNFENCED ? 2 : s < 0 ? 1 : 0;
    };
    return rank(status) > rank(than);
}
// Gives completion slots to up to `count` records; returns how many got one.
uint32_t completions_reserve(Engine &engine, uint32_t count);
uint32_t completions_take(Engine &engine, tent_completion *out, uint32_t stride, uint32_t room);

// Driver: a request has become terminal.
void batches_on_terminal(Engine &engine, Batch &batch, const Request &request, int32_t status);
// Driver: fences what cancelled batches still have in flight after their grace.
void batches_housekeeping(Engine &engine);

}  // namespace tent
