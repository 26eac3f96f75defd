// See jobs.h.
#include "jobs.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "queue.h"

namespace tent::shm {

namespace {

constexpr uint32_t UNITS_MAX = 64;
// What a helper, or a driver whom helpers help, takes at a time; of attached memory twice that, as
// each system call costs something of its own.
constexpr uint64_t TURN_SIZE = 256 << 10;
// For each so much beside the driver's turn one helper is called: to wake it for less costs more
// than it brings (README.md).
constexpr uint64_t CALL_SIZE = 1 << 20;

}  // namespace

struct Jobs {
    Queue queue;
    Results results[LANE_COUNT];  // by lane
    Mover movers[LANE_COUNT];
    Recent recent;
    std::unique_ptr<char[]> buffers;
    uint32_t helpers = 0;
    uint32_t outstanding = 0;  // taken, not collected: the driver's
    uint32_t collected = 0;    // the lane whose results come first next time: the driver's
    // Helpers that go on until nothing is left, and those called that have not come yet. Guesses:
    // they decide whether to call more.
    std::atomic<uint32_t> awake{0}, called{0};
    struct alignas(64) Helper {
        bool awake = false;
    } helper_states[HELPERS_MAX];
};

namespace {

// A claimed piece as a unit, with the job it belongs to.
struct Claimed {
    Job *job;
    Unit unit;
};

void end_pieces(Jobs &jobs, uint32_t lane, Job &job, uint32_t count, int32_t status) {
    int32_t good = TENT_OK;
    if (status != TENT_OK)
        job.status.compare_exchange_strong(good, status, std::memory_order_relaxed);
    // Acquire-release: who ends the last one sees the status of all, and their copies are over.
    if (job.left.fetch_sub(count, std::memory_order_acq_rel) != count) return;
    jobs.results[lane].push(
        {job.whole.endpoint, job.id, job.status.load(std::memory_order_relaxed)});
    job.used.store(false, std::memory_order_release);
}

// Claims up to `bytes_max` (and a piece), copies, ends. Returns how many pieces.
uint32_t turn(Jobs &jobs, uint32_t lane, uint64_t bytes_max) {
    Job *owners[UNITS_MAX];
    Unit units[UNITS_MAX];
    uint32_t count = 0, claimed = 0;
    for (uint64_t bytes = 0; bytes < bytes_max && count < UNITS_MAX && claimed < 4 * UNITS_MAX;) {
        uint32_t piece;
        Job *job = jobs.queue.claim(&piece);
        if (!job) break;
        claimed++;
        // A slice that has failed is not copied any further.
        const int32_t status = job->status.load(std::memory_order_relaxed);
        if (status != TENT_OK) {
            end_pieces(jobs, lane, *job, 1, status);
            continue;
        }
        Unit &unit = units[count];
        unit = job->whole;
        const uint64_t offset = piece * PIECE_SIZE;
        unit.local += offset;
        if (unit.mapped) unit.mapped += offset;
        unit.remote += offset;
        unit.length = piece_length(*job, piece);
        owners[count++] = job;
        bytes += unit.mapped ? unit.length : unit.length / 2;
    }
    units_move(jobs.movers[lane], units, count);
    for (uint32_t i = 0; i < count; i++)
        end_pieces(jobs, lane, *owners[i], 1, units[i].status);
    return claimed;
}

// Calls helpers when more waits than the driver takes next.
void call_helpers(Instance &instance) {
    Jobs &jobs = *instance.jobs;
    const uint64_t waiting = jobs.queue.waiting();
    if (waiting < TURN_SIZE + CALL_SIZE) return;
    const uint64_t useful = std::min<uint64_t>((waiting - TURN_SIZE) / CALL_SIZE, jobs.helpers);
    const uint64_t coming = uint64_t{jobs.awake.load(std::memory_order_relaxed)} +
                            jobs.called.load(std::memory_order_relaxed);
    if (coming >= useful || !instance.host->work_ready) return;
    const uint32_t count = static_cast<uint32_t>(useful - coming);
    jobs.called.fetch_add(count, std::memory_order_relaxed);
    instance.host->work_ready(instance.host->ctx, count);
}

void wake_up(Jobs &jobs, uint32_t helper) {
    jobs.helper_states[helper].awake = true;
    jobs.awake.fetch_add(1, std::memory_order_relaxed);
    uint32_t called = jobs.called.load(std::memory_order_relaxed);
    while (called > 0 && !jobs.called.compare_exchange_weak(called, called - 1))
        continue;
}

// Small slices that are copied at once.
struct Inline {
    Unit units[UNITS_MAX];
    uint64_t ids[UNITS_MAX];
    uint32_t count = 0;
};

void inline_move(Instance &instance, Inline &batch) {
    Jobs &jobs = *instance.jobs;
    units_move(jobs.movers[0], batch.units, batch.count);
    for (uint32_t i = 0; i < batch.count; i++)
        jobs.results[0].push({batch.units[i].endpoint, batch.ids[i], batch.units[i].status});
    batch.count = 0;
}

}  // namespace

Jobs *jobs_make(uint32_t slices_max, uint32_t helpers) {
    auto *jobs = new (std::nothrow) Jobs;
    if (!jobs) return nullptr;
    jobs->helpers = std::min(helpers, HELPERS_MAX);
    const uint32_t lanes = jobs->helpers + 1;
    // Not touched before a checksum needs them.
    jobs->buffers.reset(new (std::nothrow) char[lanes * BUFFER_SIZE]);
    bool made = jobs->buffers && jobs->queue.init(std::max(slices_max, 2u));
    for (uint32_t lane = 0; made && lane < lanes; lane++) {
        made = jobs->results[lane].init(jobs->queue.capacity());
        jobs->movers[lane] = {lane, jobs->buffers.get() + lane * BUFFER_SIZE, &jobs->recent};
    }
    if (made) return jobs;
    delete jobs;
    return nullptr;
}

void jobs_free(Jobs *jobs) {
    delete jobs;
}

uint32_t jobs_post(Instance &instance, Endpoint &endpoint, const tent_slice *slices,
                   uint32_t count) {
    Jobs &jobs = *instance.jobs;
    Inline batch;
    uint64_t inline_left = jobs.helpers > 0 ? TURN_SIZE : HOLD_SIZE_MAX;
    bool queued = false;
    uint32_t taken = 0;
    for (; taken < count && jobs.outstanding < jobs.queue.capacity(); taken++) {
        const tent_slice &slice = slices[taken];
        Unit &unit = batch.units[batch.count];
        const int32_t status = unit_make(endpoint, slice, &unit);
        if (status != TENT_OK) {
            jobs_result(instance, endpoint, slice.id, status);
            continue;
        }
        if (slice.length <= instance.options.inline_max && slice.length <= inline_left) {
            inline_left -= slice.length;
            batch.ids[batch.count++] = slice.id;
            if (batch.count == UNITS_MAX) inline_move(instance, batch);
        } else {
            Job *job = jobs.queue.next();
            if (!job) break;
            job->id = slice.id;
            job->region = static_cast<const RemoteRegion *>(slice.remote_region);
            job->whole = unit;
            jobs.queue.push(*job);
            queued = true;
        }
        jobs.outstanding++;
    }
    // First the helpers, then our own: both go on at the same time.
    if (queued) call_helpers(instance);
    inline_move(instance, batch);
    return taken;
}

void jobs_result(Instance &instance, Endpoint &endpoint, uint64_t id, int32_t status) {
    Jobs &jobs = *instance.jobs;
    assert(jobs.outstanding < jobs.queue.capacity());
    jobs.outstanding++;
    jobs.results[0].push({&endpoint, id, status});
}

bool jobs_run(Instance &instance) {
    Jobs &jobs = *instance.jobs;
    if (jobs.queue.waiting() == 0) return false;
    call_helpers(instance);
    const bool helped = jobs.awake.load(std::memory_order_relaxed) > 0 ||
                        jobs.called.load(std::memory_order_relaxed) > 0;
    const uint64_t alone = HOLD_SIZE_MAX - PIECE_SIZE;  // with the last piece, one hold of a lane
    if (turn(jobs, 0, helped ? TURN_SIZE : alone) == 0) return false;
    // Those who were called and have not come yet are late or lost: the next ones are called anew.
    if (jobs.queue.waiting() == 0) jobs.called.store(0, std::memory_order_relaxed);
    return true;
}

uint32_t jobs_collect(Instance &instance, tent_slice_result *results, uint32_t room) {
    Jobs &jobs = *instance.jobs;
    uint32_t count = 0;
    if (jobs.outstanding == 0) return 0;
    const uint32_t lanes = jobs.helpers + 1;
    for (uint32_t i = 0; i < lanes; i++) {
        Results::Entry entry;
        while (count < room && jobs.results[(jobs.collected + i) % lanes].pop(&entry)) {
            entry.endpoint->posted--;
            results[count++] = {entry.id, entry.status, 0};
        }
    }
    // One who fills the room each time must not keep the others' results back.
    if (count == room) jobs.collected = (jobs.collected + 1) % lanes;
    jobs.outstanding -= count;
    return count;
}

uint32_t jobs_work(Instance &instance, uint32_t helper) {
    Jobs &jobs = *instance.jobs;
    if (helper >= jobs.helpers) return 0;
    if (!jobs.helper_states[helper].awake) wake_up(jobs, helper);
    if (turn(jobs, helper + 1, TURN_SIZE) > 0) return 1;
    jobs.helper_states[helper].awake = false;
    jobs.awake.fetch_sub(1, std::memory_order_relaxed);
    return 0;
}

bool jobs_left(const Instance &instance) {
    return instance.jobs->outstanding > 0;
}

bool jobs_quiet(Instance &instance, Endpoint &endpoint) {
    Jobs &jobs = *instance.jobs;
    bool quiet = true;
    if (endpoint.posted == 0) return true;  // all results were collected
    for (uint32_t i = 0; i < jobs.queue.capacity(); i++) {
        Job &job = jobs.queue.at(i);
        // Acquire: the copy is over, and its bytes are seen.
        if (!job.used.load(std::memory_order_acquire) || job.whole.endpoint != &endpoint) continue;
        const uint32_t count = Queue::claim_all(job);
        if (count > 0) {
            jobs.queue.unclaimed_ended(job, count);
            end_pieces(jobs, 0, job, count, TENT_E_CANCELLED);
        }
        if (job.used.load(std::memory_order_acquire)) quiet = false;
    }
    return quiet;
}

bool jobs_moving(const Instance &instance, const Endpoint &endpoint) {
    const Jobs &jobs = *instance.jobs;
    if (jobs.helpers == 0 || endpoint.posted == 0) return false;
    for (uint32_t i = 0; i < jobs.queue.capacity(); i++) {
        const Job &job = jobs.queue.at(i);
        if (!job.used.load(std::memory_order_acquire) || job.whole.endpoint != &endpoint) continue;
        // In this order: a piece is claimed before it ends.
        const auto unclaimed = static_cast<uint32_t>(job.claim.load(std::memory_order_acquire));
        if (unclaimed == 0 || unclaimed < job.left.load(std::memory_order_relaxed)) return true;
    }
    return false;
}

bool jobs_name(const Instance &instance, const RemoteRegion &region) {
    const Queue &queue = instance.jobs->queue;
    if (instance.jobs->outstanding == 0) return false;
    for (uint32_t i = 0; i < queue.capacity(); i++) {
        const Job &job = queue.at(i);
        if (job.used.load(std::memory_order_acquire) && job.region == &region) return true;
    }
    return false;
}

}  // namespace tent::shm
