// See batches.h. Opening, sealing, waiting, cancelling, closing and what is told of a batch.
#include "core/batches.h"

#include <sched.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/futex.h"
#include "base/status.h"
#include "core/batch_find.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/reports.h"
#include "core/segments.h"
#include "core/spray.h"

namespace tent {

namespace {

uint32_t unfinished(const Batch &batch) {
    // Acquire: who sees it 0 sees the statuses and moved bytes of all its requests.
    return batch.remaining.load(std::memory_order_acquire) & ~BATCH_UNSEALED;
}

int32_t first_failure(Engine &engine, const Batch &batch, uint32_t *index) {
    if (batch.failed.load(std::memory_order_relaxed) == 0) return TENT_OK;
    uint32_t at = batch.first;
    int32_t first = TENT_OK;
    for (uint32_t i = 0; i < batch.count && at != NIL; i++, at = engine.request_pool.next(at)) {
        int32_t status = engine.requests[at].status.load(std::memory_order_acquire);
        if (!graver(status, first)) continue;
        *index = i;
        first = status;
    }
    if (first == TENT_OK) return TENT_OK;
    return fail(first, "request %u failed: %s", *index, status_text(first));
}

void complete(Engine &engine, const tent_completion &completion) {
    // A slot was reserved at submit, so there is room.
    bool pushed = engine.completions.try_push(completion);
    TENT_ASSERT(pushed);
    // After the push, in this order for every core: a reader that emptied the ring just before must
    // hear of this one.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (engine.completions.size() <= 1) announce(engine);
}

// Drives the engine until the batch is done, nothing moves for spin_ns, somebody wants the token,
// or the deadline. Token held. True when it stopped because nothing moved.
bool drive(Engine &engine, const Batch &batch, uint64_t deadline_ns) {
    uint64_t moved_ns = engine_now(engine);
    for (;;) {
        uint64_t now_ns = engine_now(engine);
        if (engine_cycle(engine, now_ns)) moved_ns = now_ns;
        if (unfinished(batch) == 0 || engine.driver.wanted() || now_ns >= deadline_ns) return false;
        if (now_ns - moved_ns > engine.spin_ns) return true;
        if (now_ns - moved_ns > SPIN_YIELD_NS) sched_yield();
    }
}

// The sleeping worker goes by what the transports said before it slept. Our polls may have changed
// that, and asking is also what tells them to have themselves woken from now on.
bool transports_due(const Engine &engine) {
    bool due = false;
    for (const auto &transport : engine.transports)
        if (transport->instance && TENT_OFFERS(transport->table, next_ns))
            due |= transport->table->next_ns(transport->instance) != UINT64_MAX;
    return due;
}

void release(Engine &engine) {
    const bool due = transports_due(engine);
    engine.driver.release_as_caller(due || engine_watches_time(engine));
    if (engine.submissions.size() > 0) engine.driver.notify_submit();
}

void sleep_on(Batch &batch, uint64_t deadline_ns) {
    batch.waiters.fetch_add(1, std::memory_order_seq_cst);
    uint32_t seen = batch.remaining.load(std::memory_order_seq_cst);
    uint64_t now_ns = monotonic_ns();
    if ((seen & ~BATCH_UNSEALED) != 0 && now_ns < deadline_ns)
        // Bounded, so that a missed hand-over costs a millisecond and no more.
        futex_wait(batch.remaining, seen, std::min<uint64_t>(deadline_ns - now_ns, 10 * MS));
    batch.waiters.fetch_sub(1, std::memory_order_seq_cst);
}

int32_t seal_with_notice(Engine &engine, Batch &batch, uint64_t segment_handle, const void *bytes,
                         uint32_t size) {
    Segment *segment = segment_find(engine, segment_handle);
    if (!segment)
        return fail(TENT_E_NOT_FOUND,
                    "segment %llu is not open; a notice needs the segment of its receiver",
                    static_cast<unsigned long long>(segment_handle));
    auto notice = std::make_unique<OutgoingNotice>();
    const uint8_t *begin = static_cast<const uint8_t *>(bytes);
    notice->bytes.assign(begin, begin + size);
    Peer &peer = segment->own ? *engine.control->self : *segment->peer;
    if (peer.state == PeerState::Lost)
        return fail(TENT_E_PEER, "the peer is lost: %s", peer.sentence.c_str());
    if (peer.notices.size() >= NOTICES_WAITING_MAX)
        return fail(TENT_E_AGAIN, "%u notices to this peer wait already", NOTICES_WAITING_MAX);
    batch.notice = notice.get();
    peer.notices.push_back(std::move(notice));
    return TENT_OK;
}

// Drops records of closed batches, whose reservations would otherwise wait for a reader.
void purge_completions(Engine &engine) {
    tent_completion completion;
    for (uint32_t left = engine.completions.size(); left > 0; left--) {
        if (!engine.completions.try_pop(completion)) return;
        if (batch_find(engine, completion.batch))
            engine.completions.try_push(completion);  // into the room just made
        else
            engine.completions_reserved.fetch_sub(1, std::memory_order_relaxed);
    }
}

}  // namespace

uint32_t completions_reserve(Engine &engine, uint32_t count) {
    for (int attempt = 0; attempt < 2; attempt++) {
        uint32_t had = engine.completions_reserved.load(std::memory_order_relaxed);
        while (had < engine.limits.completions) {
            uint32_t take = std::min(count, engine.limits.completions - had);
            if (engine.completions_reserved.compare_exchange_weak(had, had + take,
                                                                  std::memory_order_relaxed))
                return take;
        }
        if (attempt == 0) purge_completions(engine);
    }
    return 0;
}

int32_t batch_open(Engine &engine, const tent_batch_options *options, uint64_t *handle) {
    if (engine.closing.load(std::memory_order_acquire))
        return fail(TENT_E_CLOSED, "the engine is closing");
    uint32_t index = engine.batch_pool.take_one();
    if (index == NIL)
        return fail(TENT_E_AGAIN, "%u batches are open, the most there can be; close finished ones",
                    engine.limits.batches);
    Batch &batch = engine.batches[index];
    batch.count = 0;
    batch.first = batch.last = batch.taken_first = NIL;
    batch.taken_count = 0;
    batch.sealed = false;
    batch.notice = nullptr;
    batch.flags = options ? options->flags : 0;
    batch.class_ = options ? options->class_ : 0;
    batch.deadline_ns = options ? options->deadline_ns : 0;
    batch.completions = options ? options->completions : 0;
    snprintf(batch.label, sizeof batch.label, "%s",
             options && options->label ? options->label : "");
    batch.failed.store(0, std::memory_order_relaxed);
    batch.worst.store(0, std::memory_order_relaxed);
    batch.cancelled.store(false, std::memory_order_relaxed);
    if (batch.completions == TENT_COMPLETIONS_BATCH) {
        if (completions_reserve(engine, 1) == 0) {
            engine.batch_pool.give_one(index);
            return fail(TENT_E_AGAIN, "the completion ring is full; read completions");
        }
    }
    batch.remaining.store(BATCH_UNSEALED, std::memory_order_relaxed);
    batch.generation++;
    *handle = static_cast<uint64_t>(batch.generation) << 32 | (index + 1);
    batch.handle.store(*handle, std::memory_order_release);
    return TENT_OK;
}

int32_t batch_seal(Engine &engine, uint64_t handle, uint64_t segment, const void *notice,
                   uint32_t notice_size) {
    Batch *batch = batch_find(engine, handle);
    if (!batch) return batch_missing(handle);
    if (batch->sealed) return fail(TENT_E_CLOSED, "the batch is sealed already");
    if (notice_size > NOTICE_SIZE_MAX)
        return fail(TENT_E_INVALID, "a notice of %u bytes; at most %zu fit", notice_size,
                    NOTICE_SIZE_MAX);
    auto unseal = [&] {
        uint32_t left = batch->remaining.fetch_and(~BATCH_UNSEALED, std::memory_order_seq_cst) &
                        ~BATCH_UNSEALED;
        if (left == 0 && batch->completions == TENT_COMPLETIONS_BATCH) {
            int32_t worst = batch->worst.load(std::memory_order_relaxed);
            complete(engine, {handle, 0, 0, worst, UINT32_MAX});
            announce(engine);  // another pusher may have counted on us
        }
        return left;
    };
    if (notice_size == 0) {
        batch->sealed = true;
        unseal();
        return TENT_OK;
    }
    return with_driver(engine, [&] {
        int32_t status = seal_with_notice(engine, *batch, segment, notice, notice_size);
        if (status != TENT_OK) return status;
        batch->sealed = true;
        if (unseal() == 0) {
            bool ok = batch->failed.load(std::memory_order_relaxed) == 0;
            batch->notice->state =
                ok ? OutgoingNotice::State::Ready : OutgoingNotice::State::Dropped;
            batch->notice = nullptr;
            engine.notices_due = true;
        }
        return TENT_OK;
    });
}

void batches_on_terminal(Engine &engine, Batch &batch, const Request &request, int32_t status) {
    uint64_t handle = batch.handle.load(std::memory_order_relaxed);
    uint32_t completions = batch.completions;
    if (completions == TENT_COMPLETIONS_EACH)
        complete(engine, {handle, request.user_data, request.done, status, request.index});
    OutgoingNotice *notice = batch.notice;
    int32_t whole = batch.worst.load(std::memory_order_relaxed);
    // Last touch of the batch: whoever sees 0 may close and reuse it.
    if (notice && batch.remaining.load(std::memory_order_relaxed) == 1) batch.notice = nullptr;
    uint32_t left = batch.remaining.fetch_sub(1, std::memory_order_seq_cst) - 1;
    if (left == 0 && completions == TENT_COMPLETIONS_BATCH)
        complete(engine, {handle, 0, 0, whole, UINT32_MAX});
    if (left == 0 && notice) {
        notice->state =
            whole == TENT_OK ? OutgoingNotice::State::Ready : OutgoingNotice::State::Dropped;
        engine.notices_due = true;
    }
    if ((left & ~BATCH_UNSEALED) == 0 && batch.waiters.load(std::memory_order_seq_cst) > 0)
        futex_wake(batch.remaining, UINT32_MAX);
}

int32_t batch_poll(Engine &engine, uint64_t handle) {
    Batch *batch = batch_find(engine, handle);
    if (!batch) return batch_missing(handle);
    if (unfinished(*batch) > 0) return TENT_IN_PROGRESS;
    uint32_t index = 0;
    return first_failure(engine, *batch, &index);
}

int32_t batch_wait(Engine &engine, uint64_t handle, uint64_t timeout_ns) {
    Batch *batch = batch_find(engine, handle);
    if (!batch) return batch_missing(handle);
    uint64_t begin_ns = monotonic_ns();
    uint64_t deadline_ns = timeout_ns > UINT64_MAX - begin_ns ? UINT64_MAX : begin_ns + timeout_ns;
    while (unfinished(*batch) > 0) {
        if (batch->handle.load(std::memory_order_acquire) != handle)
            return fail(TENT_E_CLOSED, "the batch was closed by another thread");
        if (engine.manual || monotonic_ns() >= deadline_ns)
            return fail(TENT_E_TIMEOUT, "%u requests of the batch are still in flight",
                        unfinished(*batch));
        bool mine = engine.driver.try_acquire();
        if (!mine && engine.driver.held_by_worker()) {
            engine.driver.acquire();  // the worker hands over after its cycle and parks
            mine = true;
        }
        bool idle = true;
        if (mine) {
            idle = drive(engine, *batch, deadline_ns);
            if (idle)
                engine.driver.release_as_caller(true);  // the worker waits for events from here
            else
                release(engine);
        }
        if (idle && unfinished(*batch) > 0) sleep_on(*batch, deadline_ns);
    }
    uint32_t index = 0;
    return first_failure(engine, *batch, &index);
}

int32_t batch_cancel(Engine &engine, uint64_t handle) {
    Batch *batch = batch_find(engine, handle);
    if (!batch) return batch_missing(handle);
    batch->cancelled.store(true, std::memory_order_relaxed);
    return with_driver(engine, [&] {
        spray_take(engine);
        std::vector<uint32_t> requests;
        spray_collect(engine, *batch, &requests);
        spray_stop_many(engine, requests, TENT_E_CANCELLED);
        bool listed = std::any_of(engine.cancels.begin(), engine.cancels.end(),
                                  [&](const Engine::Cancel &c) { return c.handle == handle; });
        if (unfinished(*batch) > 0 && !listed)
            engine.cancels.push_back(
                {static_cast<uint32_t>(batch - engine.batches.get()), handle,
                 engine.now_ns + engine.plans.back()->plan.parameters.cancel_grace_ns});
        return TENT_OK;
    });
}

void batches_housekeeping(Engine &engine) {
    for (size_t i = engine.cancels.size(); i-- > 0;) {
        const Engine::Cancel cancel = engine.cancels[i];
        Batch &batch = engine.batches[cancel.batch];
        bool over =
            batch.handle.load(std::memory_order_acquire) != cancel.handle || unfinished(batch) == 0;
        if (!over && engine.now_ns >= cancel.force_ns) {
            endpoints_force_cancel(engine, cancel.batch);
            over = true;  // the fences end them
        }
        if (over) engine.cancels.erase(engine.cancels.begin() + static_cast<ptrdiff_t>(i));
    }
}

int32_t batch_close(Engine &engine, uint64_t handle) {
    Batch *batch = batch_find(engine, handle);
    if (!batch) return batch_missing(handle);
    if (unfinished(*batch) > 0) {
        batch_cancel(engine, handle);
        if (engine.manual && unfinished(*batch) > 0)
            return fail(TENT_E_BUSY,
                        "the batch is being cancelled; call tent_engine_step until it is done");
        batch_wait(engine, handle, TENT_FOREVER);
    }
    uint64_t mine = handle;
    if (!batch->handle.compare_exchange_strong(mine, 0, std::memory_order_acq_rel))
        return batch_missing(handle);  // another thread was quicker
    // Unread completions of this handle are recognised as stale and dropped when polled. A batch
    // record that was never written gives its slot back here.
    if (batch->completions == TENT_COMPLETIONS_BATCH && !batch->sealed)
        engine.completions_reserved.fetch_sub(1, std::memory_order_relaxed);
    uint32_t expected_free = static_cast<uint32_t>(batch - engine.batches.get());
    if (batch->count > 0) engine.request_pool.give(batch->first, batch->last, batch->count);
    engine.batch_pool.give_one(expected_free);
    return TENT_OK;
}

int32_t batch_status(Engine &engine, uint64_t handle, uint32_t first, tent_request_status *out,
                     uint32_t stride, uint32_t *count) {
    Batch *batch = batch_find(engine, handle);
    if (!batch) return batch_missing(handle);
    uint32_t room = *count, written = 0, at = batch->first;
    for (uint32_t i = 0; i < batch->count && written < room && at != NIL;
         i++, at = engine.request_pool.next(at)) {
        if (i < first) continue;
        const Request &request = engine.requests[at];
        tent_request_status row{};
        row.status = request.status.load(std::memory_order_acquire);
        row.user_data = request.user_data;
        row.bytes = row.status == TENT_IN_PROGRESS ? 0 : request.done;
        row.rail = row.status == TENT_IN_PROGRESS ? -1 : request.rail;
        memcpy(reinterpret_cast<char *>(out) + static_cast<size_t>(stride) * written++, &row,
               std::min<size_t>(stride, sizeof row));
    }
    *count = written;
    return TENT_OK;
}

int32_t batch_transfer(Engine &engine, const tent_batch_options *options,
                       const tent_request *requests, uint32_t stride, uint32_t count,
                       uint64_t timeout_ns, uint32_t *index) {
    *index = 0;
    if (count > TRANSFER_COUNT_MAX)
        return fail(TENT_E_INVALID, "%u requests in one transfer; at most %u, use a batch", count,
                    TRANSFER_COUNT_MAX);
    if (engine.manual)
        return fail(TENT_E_INVALID,
                    "a manual engine cannot wait: submit a batch and call tent_engine_step");
    uint64_t handle = 0;
    int32_t status = batch_open(engine, options, &handle);
    if (status != TENT_OK) return status;
    status = batch_submit(engine, handle, requests, stride, count, TENT_SUBMIT_NO_WAKE, index);
    bool accepted = *index == count && status == TENT_OK;
    if (accepted) {
        status = batch_wait(engine, handle, timeout_ns);
        if (status == TENT_E_TIMEOUT && batch_poll(engine, handle) == TENT_IN_PROGRESS) {
            batch_cancel(engine, handle);
            batch_wait(engine, handle, TENT_FOREVER);
            Batch &batch = *batch_find(engine, handle);
            int32_t end = first_failure(engine, batch, index);
            // Cancelled because of the timeout: that is what the caller wants to hear, unless it is
            // worse.
            status = end == TENT_E_CANCELLED
                         ? fail(TENT_E_TIMEOUT,
                                "request %u did not finish in time and was cancelled", *index)
                         : end;
        } else if (status != TENT_OK) {
            status = first_failure(engine, *batch_find(engine, handle), index);
        }
    }
    std::string sentence = status == TENT_OK ? "" : last_error();
    batch_close(engine, handle);  // ends a prefix that was accepted, too
    return status == TENT_OK ? TENT_OK : fail(status, "%s", sentence.c_str());
}

uint32_t completions_take(Engine &engine, tent_completion *out, uint32_t stride, uint32_t room) {
    uint32_t count = 0;
    tent_completion completion;
    while (count < room && engine.completions.try_pop(completion)) {
        engine.completions_reserved.fetch_sub(1, std::memory_order_relaxed);
        if (!batch_find(engine, completion.batch))
            continue;  // closed meanwhile: none after the close
        memcpy(reinterpret_cast<char *>(out) + static_cast<size_t>(stride) * count++, &completion,
               std::min<size_t>(stride, sizeof completion));
    }
    return count;
}

}  // namespace tent
