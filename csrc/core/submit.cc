// The submit half of batches.h: checks every request against the local and the segment's tables,
// fills requests from the pool and pushes them to the driver. Runs on the caller's thread, without
// a lock.
#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/status.h"
#include "core/batch_find.h"
#include "core/batches.h"
#include "core/segments.h"

namespace tent {

namespace {

using Ull = unsigned long long;

// Looks requests up; remembers the last segment and ranges, which mostly repeat.
struct Checker {
    Engine &engine;
    const RangeTable &locals;
    uint64_t segment_handle = 0;
    Segment *segment = nullptr;
    const SegmentTable *table = nullptr;
    uint32_t local_hint = 0, remote_hint = 0, own_hint = 0;

    int32_t find_segment(uint32_t index, uint64_t handle) {
        if (segment && handle == segment_handle) return TENT_OK;
        segment = segment_find(engine, handle);
        if (!segment)
            return fail(TENT_E_NOT_FOUND, "request %u: segment %llu is not open", index,
                        (Ull)handle);
        if (!segment->usable.load(std::memory_order_acquire)) {
            segment = nullptr;
            return segment_unusable(index, handle);
        }
        if (segment->expires_unix_ms && realtime_ms() >= segment->expires_unix_ms) {
            segment = nullptr;
            return fail(TENT_E_DENIED, "request %u: the grant of segment %llu has expired", index,
                        (Ull)handle);
        }
        segment_handle = handle;
        table = segment->table.load(std::memory_order_acquire);
        return TENT_OK;
    }

    // Rare: the reason belongs to the driver.
    int32_t segment_unusable(uint32_t index, uint64_t handle) {
        Segment *found = segment_find(engine, handle);
        int32_t error = found ? found->error : TENT_E_NOT_FOUND;
        return fail(error ? error : TENT_E_CLOSED, "request %u: segment %llu cannot be used: %s",
                    index, (Ull)handle,
                    error ? status_text(error) : "it is not ready, or being closed");
    }

    int32_t check(uint32_t index, uint32_t op, uint64_t handle, uint64_t local, uint64_t remote,
                  uint64_t length, Request *out) {
        int32_t status = find_segment(index, handle);
        if (status != TENT_OK) return status;
        if (op != TENT_OP_READ && op != TENT_OP_WRITE)
            return fail(TENT_E_INVALID,
                        "request %u: op %u is neither TENT_OP_READ nor TENT_OP_WRITE", index, op);
        if (length == 0) return fail(TENT_E_INVALID, "request %u: length is 0", index);
        if (local + length < local || remote + length < remote)
            return fail(TENT_E_INVALID,
                        "request %u: length %llu wraps around the address space (local 0x%llx, "
                        "remote 0x%llx)",
                        index, (Ull)length, (Ull)local, (Ull)remote);
        const Range *range = nullptr;
        status = locals.find(local, length, 0, &local_hint, &range);
        if (status != TENT_OK)
            return fail(status, "request %u: local range 0x%llx+%llu lies in no registered region",
                        index, (Ull)local, (Ull)length);
        out->local_region = range->slot;
        uint32_t access = op == TENT_OP_READ ? TENT_ACCESS_READ : TENT_ACCESS_WRITE;
        status = table->ranges.find(remote, length, access, &remote_hint, &range);
        if (status != TENT_OK)
            return fail(status, "request %u: remote range 0x%llx+%llu %s of segment %llu", index,
                        (Ull)remote, (Ull)length,
                        status == TENT_E_RANGE ? "lies in no region"
                        : op == TENT_OP_READ   ? "may not be read in the grant"
                                               : "may not be written in the grant",
                        (Ull)handle);
        out->own_region = NIL;
        if (segment->own) {
            // The remote side is memory of ours, too: it must not be released meanwhile.
            const Range *own = nullptr;
            status = locals.find(remote, length, 0, &own_hint, &own);
            if (status != TENT_OK)
                return fail(status,
                            "request %u: remote range 0x%llx+%llu is not registered any more",
                            index, (Ull)remote, (Ull)length);
            out->own_region = own->slot;
        }
        out->segment_handle = handle;
        out->op = static_cast<uint8_t>(op);
        out->local = local;
        out->remote = remote;
        out->length = length;
        out->segment = segment;
        out->remote_region = table->regions[range->slot];
        return TENT_OK;
    }
};

struct Destination {
    uint64_t space, address, length;
    uint32_t index;
};

int32_t check_overlaps(std::vector<Destination> &destinations, uint32_t *index) {
    std::sort(destinations.begin(), destinations.end(),
              [](const Destination &a, const Destination &b) {
                  return a.space != b.space ? a.space < b.space : a.address < b.address;
              });
    for (size_t i = 1; i < destinations.size(); i++) {
        const Destination &a = destinations[i - 1], &b = destinations[i];
        if (a.space != b.space || b.address - a.address >= a.length) continue;
        *index = std::max(a.index, b.index);
        return fail(TENT_E_OVERLAP,
                    "requests %u and %u of the batch write overlapping bytes at 0x%llx",
                    std::min(a.index, b.index), *index, (Ull)b.address);
    }
    return TENT_OK;
}

// Pins regions and counts requests of a segment in runs, so that the shared counters are touched
// once per run.
struct Runs {
    Engine &engine;
    uint32_t region = NIL, region_count = 0;
    Segment *segment = nullptr;
    uint32_t segment_count = 0;

    void add(const Request &request) {
        if (request.own_region != NIL)
            engine.regions[request.own_region]->pins.fetch_add(1, std::memory_order_relaxed);
        if (request.local_region != region) {
            flush_region();
            region = request.local_region;
        }
        region_count++;
        if (request.segment != segment) {
            flush_segment();
            segment = request.segment;
        }
        segment_count++;
    }
    void flush_region() {
        if (region_count)
            engine.regions[region]->pins.fetch_add(region_count, std::memory_order_relaxed);
        region_count = 0;
    }
    void flush_segment() {
        if (segment_count) segment->requests.fetch_add(segment_count, std::memory_order_relaxed);
        segment_count = 0;
    }
};

// The rest of a request that the checker has filled.
void prepare(Request &request, uint32_t batch_index, const Batch &batch, uint32_t index) {
    request.sliced = request.done = 0;
    request.route = nullptr;
    request.batch = batch_index;
    request.index = index;
    request.next = NIL;
    request.slices_out = request.fences = request.retries = 0;
    request.error = TENT_OK;
    request.rail = -1;
    request.class_ = static_cast<uint8_t>(batch.class_);
    request.deadline_ns = batch.deadline_ns ? batch.deadline_ns : UINT64_MAX;
    request.flags = static_cast<uint8_t>(batch.flags);
    request.queued = request.forced = request.yields = false;
    request.unreaching_count = 0;
    request.pathless_since_ns = 0;
    request.status.store(TENT_IN_PROGRESS, std::memory_order_relaxed);
}

// Request slots taken for a call; given back unless committed.
struct Chain {
    Engine &engine;
    uint32_t first = NIL, last = NIL, count = 0;

    Chain(Engine &e, uint32_t wanted) : engine(e) {
        if (wanted) count = engine.request_pool.take(wanted, &first);
        last = first;
    }
    ~Chain() {
        if (count == 0) return;
        while (engine.request_pool.next(last) != NIL)
            last = engine.request_pool.next(last);
        engine.request_pool.give(first, last, count);
    }
};

// Slots were last written by the driver, so their lines lie in another core's cache: fetching them
// a few requests ahead hides part of the way.
struct Ahead {
    const Engine &engine;
    uint32_t at;

    Ahead(const Engine &e, uint32_t first) : engine(e), at(first) {
        for (int i = 0; i < 6; i++)
            step();
    }
    void step() {
        if (at == NIL) return;
        const char *slot = reinterpret_cast<const char *>(&engine.requests[at]);
        __builtin_prefetch(slot, 1);
        __builtin_prefetch(slot + 64, 1);
        at = engine.request_pool.next(at);
    }
};

Destination destination_of(const Request &request, uint32_t index) {
    bool read = request.op == TENT_OP_READ;
    return {read ? 0 : request.segment_handle, read ? request.local : request.remote,
            request.length, index};
}

// Checks every request of the call, get(i, &request), and fills the chain's slots with the first
// of them.
template <class Get>
int32_t check_and_fill(Engine &engine, Batch &batch, uint32_t count, Chain &chain, uint32_t *index,
                       const Get &get) {
    std::vector<Destination> destinations;
    bool overlap = batch.flags & TENT_BATCH_CHECK_OVERLAP;
    if (overlap) {
        uint32_t at = batch.first;
        for (uint32_t i = 0; i < batch.count; i++, at = engine.request_pool.next(at)) {
            destinations.push_back(destination_of(engine.requests[at], i));
        }
    }
    uint32_t batch_index = static_cast<uint32_t>(&batch - engine.batches.get());
    uint32_t at = chain.first;
    Ahead ahead(engine, chain.first);
    Request beyond;  // a full pool: the rest is checked, but not accepted
    for (uint32_t i = 0; i < count; i++) {
        ahead.step();
        Request &request = i < chain.count ? engine.requests[at] : beyond;
        int32_t status = get(i, &request);
        if (status != TENT_OK) {
            *index = i;
            return status;
        }
        if (overlap) destinations.push_back(destination_of(request, batch.count + i));
        if (i >= chain.count) continue;
        prepare(request, batch_index, batch, batch.count + i);
        chain.last = at;
        at = engine.request_pool.next(at);
    }
    if (!overlap) return TENT_OK;
    uint32_t found = 0;
    int32_t status = check_overlaps(destinations, &found);
    if (status != TENT_OK) *index = found >= batch.count ? found - batch.count : 0;
    return status;
}

// Pins what the requests use, joins them to the batch and hands them to the driver.
void commit(Engine &engine, Batch &batch, Chain &chain, uint32_t flags) {
    Runs runs{engine};
    uint32_t at = chain.first;
    for (uint32_t i = 0; i < chain.count; i++, at = engine.request_pool.next(at))
        runs.add(engine.requests[at]);
    runs.flush_region();
    runs.flush_segment();
    if (batch.last == NIL)
        batch.first = chain.first;
    else
        engine.request_pool.set_next(batch.last, chain.first);
    batch.last = chain.last;
    batch.count += chain.count;
    // Release: whoever sees the batch busy sees this use's fields and chain.
    batch.remaining.fetch_add(chain.count, std::memory_order_release);
    Submission submission{static_cast<uint32_t>(&batch - engine.batches.get()), chain.first,
                          chain.count};
    chain.count = 0;  // the driver's now
    // Never full for long: half of it was free a moment ago and each thread pushes one at a time.
    while (!engine.submissions.try_push(submission)) {
    }
    if (!(flags & TENT_SUBMIT_NO_WAKE) && !engine.manual) engine.driver.notify_submit();
}

template <class Get>
int32_t submit(Engine &engine, Batch &batch, uint32_t count, uint32_t flags, uint32_t *index,
               const Get &get) {
    if (engine.submissions.size() >= SUBMIT_RING_SIZE / 2)
        return fail(TENT_E_AGAIN, "too many submits wait for the worker; try again");
    bool each = batch.completions == TENT_COMPLETIONS_EACH;
    uint32_t room = each ? completions_reserve(engine, count) : count;
    Chain chain(engine, room);
    int32_t status = check_and_fill(engine, batch, count, chain, index, get);
    uint32_t taken = status == TENT_OK ? chain.count : 0;
    if (each && taken < room)
        engine.completions_reserved.fetch_sub(room - taken, std::memory_order_relaxed);
    if (status != TENT_OK) return status;
    if (taken > 0) commit(engine, batch, chain, flags);
    *index = taken;
    if (taken == count) return TENT_OK;
    return fail(TENT_E_AGAIN, "%u of %u requests accepted; %s is full: close finished batches%s",
                taken, count, each && room == taken ? "the completion ring" : "the request pool",
                each ? " and read completions" : "");
}

struct InGate {
    ReadGate &gate;
    uint32_t side;
    explicit InGate(ReadGate &g) : gate(g), side(g.enter()) {}
    ~InGate() { gate.leave(side); }
};

template <class Make>
int32_t submit_with(Engine &engine, uint64_t handle, uint32_t count, uint32_t flags,
                    uint32_t *index, const Make &make_get) {
    *index = 0;
    if (engine.closing.load(std::memory_order_acquire))
        return fail(TENT_E_CLOSED, "the engine is closing");
    if (engine.poisoned.load(std::memory_order_relaxed))
        return fail(TENT_E_INTERNAL, "the engine found a broken invariant and takes no more work");
    if (flags & ~static_cast<uint32_t>(TENT_SUBMIT_SEAL | TENT_SUBMIT_NO_WAKE))
        return fail(TENT_E_INVALID, "submit flags 0x%x are unknown", flags);
    Batch *batch = batch_find(engine, handle);
    if (!batch) return batch_missing(handle);
    if (batch->sealed) return fail(TENT_E_CLOSED, "the batch is sealed: it takes no more requests");
    int32_t status = TENT_OK;
    if (count > 0) {
        InGate gate(engine.gate);
        Checker checker{engine, *engine.local_ranges.load(std::memory_order_acquire)};
        status = submit(engine, *batch, count, flags, index, make_get(checker));
    }
    if (status == TENT_OK && (flags & TENT_SUBMIT_SEAL))
        status = batch_seal(engine, handle, 0, nullptr, 0);
    return status;
}

}  // namespace

int32_t batch_submit(Engine &engine, uint64_t handle, const tent_request *requests, uint32_t stride,
                     uint32_t count, uint32_t flags, uint32_t *index) {
    if (stride < sizeof(tent_request))
        return fail(TENT_E_INVALID, "stride %u is shorter than a tent_request (%zu)", stride,
                    sizeof(tent_request));
    const char *base = reinterpret_cast<const char *>(requests);
    return submit_with(engine, handle, count, flags, index, [&](Checker &checker) {
        return [&checker, base, stride](uint32_t i, Request *out) {
            tent_request request;
            memcpy(&request, base + static_cast<size_t>(stride) * i, sizeof request);
            if (request.flags != 0)
                return fail(TENT_E_INVALID, "request %u: flags 0x%x are unknown", i, request.flags);
            out->user_data = request.user_data;
            return checker.check(i, request.op, request.segment, request.local, request.remote,
                                 request.length, out);
        };
    });
}

int32_t batch_submit_columns(Engine &engine, uint64_t handle, const tent_columns &columns,
                             uint32_t flags, uint32_t *index) {
    if (columns.count > engine.limits.requests && columns.count > UINT32_MAX)
        return fail(TENT_E_INVALID, "%llu requests in one call are too many", (Ull)columns.count);
    const Batch *batch = batch_find(engine, handle);
    uint64_t first = batch ? batch->count : 0;  // user_data is the index in the batch
    return submit_with(
        engine, handle, static_cast<uint32_t>(columns.count), flags, index, [&](Checker &checker) {
            return [&checker, &columns, first](uint32_t i, Request *out) {
                out->user_data = columns.user_data ? columns.user_data[i] : first + i;
                return checker.check(i, columns.op, columns.segment, columns.local[i],
                                     columns.remote[i],
                                     columns.length ? columns.length[i] : columns.length_each, out);
            };
        });
}

}  // namespace tent
