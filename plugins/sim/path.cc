// A slice's way through the fabric, event by event: posted, sent, arriving, landing, acknowledged.
//
// tx of the sender's rail, the cuts on its side, half the latency, the cuts on the receiver's side,
// rx of the receiver's rail. Cut-through: it queues at a stage when the stage before begins, and is
// there when all have served it. A read begins at the target half a latency after its post and ends
// when it lands; a write ends half a latency after that. No memory is touched here. See fabric.h.
#include <algorithm>

#include "fabric.h"

namespace tent::sim {

namespace {

Slice &slice_take(Fabric &fabric) {
    if (fabric.slices_free.empty()) {
        fabric.slices.emplace_back();
        // Room for all to come back: giving back must not allocate.
        fabric.slices_free.reserve(fabric.slices.size());
        return fabric.slices.back();
    }
    Slice &slice = *fabric.slices_free.back();
    fabric.slices_free.pop_back();
    slice = Slice{};
    return slice;
}

void list_join(Slice &slice, Endpoint *endpoint, int list) {
    if (endpoint == nullptr) return;
    slice.next[list] = endpoint->slices;
    if (endpoint->slices != nullptr) endpoint->slices->previous[list] = &slice;
    endpoint->slices = &slice;
    endpoint->refs++;
}

void list_leave(Fabric &fabric, Slice &slice, Endpoint *endpoint, int list) {
    if (endpoint == nullptr) return;
    if (slice.next[list] != nullptr) slice.next[list]->previous[list] = slice.previous[list];
    (slice.previous[list] != nullptr ? slice.previous[list]->next[list] : endpoint->slices) =
        slice.next[list];
    endpoint_release(fabric, *endpoint);
}

void slice_give(Fabric &fabric, Slice &slice) {
    list_leave(fabric, slice, slice.from, 0);
    list_leave(fabric, slice, slice.to, 1);
    if (slice.copy.bytes) fabric.buffers_free.push_back(std::move(slice.copy));
    fabric.slices_free.push_back(&slice);
}

bool path_alive(const Slice &slice) {
    return slice.from->rail->alive() && slice.to->rail->alive() && !slice.from->broken;
}

void inbox_push(Instance &instance, Slice &slice, Action action) {
    slice.refs++;
    slice.action = action;
    slice.inbox_next = nullptr;
    (instance.inbox_tail != nullptr ? instance.inbox_tail->inbox_next : instance.inbox_head) =
        &slice;
    instance.inbox_tail = &slice;
}

// A slice has come to where memory is touched: in the engine's poll, or by the card of a host whose
// engine is stopped.
void reach(Instance &instance, Slice &slice, Action action) {
    inbox_push(instance, slice, action);
    if (instance.place != nullptr && instance.place->state == TENT_SIM_HOST_FROZEN_CARD)
        inbox_work(instance);
}

}  // namespace

Slice &slice_make(Fabric &fabric, Endpoint &from) {
    Slice &slice = slice_take(fabric);
    slice.from = &from;
    slice.to = from.peer;
    list_join(slice, slice.from, 0);
    list_join(slice, slice.to, 1);
    return slice;
}

bool path_chance(Fabric &fabric, const Slice &slice, double Faults::*fault) {
    const bool near = chance(fabric, slice.from->rail->faults.*fault);
    return chance(fabric, slice.to->rail->faults.*fault) || near;
}

uint64_t path_latency_ns(const Endpoint &endpoint) {
    return std::max(endpoint.rail->latency_ns, endpoint.peer->rail->latency_ns);
}

void slice_depart(Fabric &fabric, Slice &slice) {
    const bool write = slice.op == TENT_OP_WRITE;
    Rail &source = *(write ? slice.from : slice.to)->rail;
    Rail &sink = *(write ? slice.to : slice.from)->rail;
    uint32_t count = 0;
    auto stage = [&](Server *server) {
        slice.jobs[count].slice = &slice;
        slice.jobs[count++].server = server;
    };
    stage(&source.tx);
    for (Cut *cut : source.cuts)
        stage(cut->out.get());
    slice.hop_stage = count;
    for (Cut *cut : sink.cuts) {
        const bool passed =
            std::find(source.cuts.begin(), source.cuts.end(), cut) != source.cuts.end();
        if (cut->in != nullptr || !passed) stage(cut->in ? cut->in.get() : cut->out.get());
    }
    stage(&sink.rx);
    slice.stage_count = slice.stages_left = count;
    server_enqueue(fabric, slice.jobs[0]);
}

namespace {

void slice_begin(Fabric &fabric, Endpoint &endpoint, const tent_slice &given, bool owed) {
    Slice &slice = slice_make(fabric, endpoint);
    slice.refs = 1;  // ours, until the end of this function
    slice.id = given.id;
    slice.op = given.op;
    slice.flags = given.flags;
    slice.local = static_cast<uint8_t *>(given.local);
    slice.remote = given.remote;
    slice.length = slice.wire_bytes = given.length;
    slice.owed = owed;
    if (!endpoint.orphan) record(fabric, TENT_SIM_TRACE_POST, slice, TENT_OK);
    if (endpoint.failed) {
        slice_finish(fabric, slice, TENT_E_TRANSPORT);
    } else if (slice.to == nullptr || endpoint.broken) {
        slice_drop(fabric, slice, TENT_SIM_TRACE_DROP);
    } else {
        const uint64_t latency_ns = path_latency_ns(endpoint);
        const uint64_t jitter_ns = std::max(slice.from->rail->jitter_ns, slice.to->rail->jitter_ns);
        slice.hop_ns = latency_ns / 2;
        if (jitter_ns > 0) slice.hop_ns += random_u64(fabric) % (jitter_ns + 1);
        slice.ack_ns = latency_ns - latency_ns / 2;
        if (slice.op == TENT_OP_WRITE) {
            slice_depart(fabric, slice);
        } else {
            slice.refs++;
            event_push(fabric, fabric.now_ns + slice.ack_ns, EventType::Request, &slice);
        }
    }
    slice_release(fabric, slice);
}

}  // namespace

void slice_post(Fabric &fabric, Endpoint &endpoint, const tent_slice &given) {
    endpoint.instance->posted++;
    slice_begin(fabric, endpoint, given, true);
}

void slice_forge(Fabric &fabric, Endpoint &endpoint, const tent_slice &given) {
    slice_begin(fabric, endpoint, given, false);
}

void slice_release(Fabric &fabric, Slice &slice) {
    if (--slice.refs == 0 && !slice.owed) slice_give(fabric, slice);
}

void slice_begins(Fabric &fabric, Job &job) {
    Slice &slice = *job.slice;
    const auto stage = static_cast<uint32_t>(&job - slice.jobs);
    slice.departing = true;
    const uint32_t next = stage + 1;
    if (next == slice.hop_stage) {
        slice.refs++;
        event_push(fabric, fabric.now_ns + slice.hop_ns, EventType::Arrive, &slice);
    } else if (next < slice.stage_count) {
        server_enqueue(fabric, slice.jobs[next]);
    }
}

void slice_served(Fabric &fabric, Job &job) {
    Slice &slice = *job.slice;
    const auto stage = static_cast<uint32_t>(&job - slice.jobs);
    const uint64_t there_ns = fabric.now_ns + (stage < slice.hop_stage ? slice.hop_ns : 0);
    slice.arrival_ns = std::max(slice.arrival_ns, there_ns);
    if (--slice.stages_left > 0 || slice.dead) return;
    if (path_chance(fabric, slice, &Faults::late))
        slice.arrival_ns += std::max(slice.from->rail->late_ns, slice.to->rail->late_ns);
    slice.refs++;
    event_push(fabric, slice.arrival_ns, EventType::Land, &slice);
}

void slice_arrives(Fabric &fabric, Slice &slice) {
    if (slice.dead) return;
    if (!path_alive(slice) || path_chance(fabric, slice, &Faults::loss))
        slice_drop(fabric, slice, TENT_SIM_TRACE_DROP);
    else
        server_enqueue(fabric, slice.jobs[slice.hop_stage]);
}

void slice_lands(Fabric &fabric, Slice &slice) {
    if (slice.dead) return;
    const Endpoint &sink = *(slice.op == TENT_OP_WRITE ? slice.to : slice.from);
    if (!path_alive(slice))
        slice_drop(fabric, slice, TENT_SIM_TRACE_DROP);
    else if (sink.closed)
        slice_drop(fabric, slice, TENT_SIM_TRACE_DISCARD);
    else
        reach(*sink.instance, slice, Action::Land);
}

void slice_requested(Fabric &fabric, Slice &slice) {
    if (slice.dead) return;
    if (!path_alive(slice))
        slice_drop(fabric, slice, TENT_SIM_TRACE_DROP);
    else if (slice.to->closed)
        slice_drop(fabric, slice, TENT_SIM_TRACE_DISCARD);
    else
        reach(*slice.to->instance, slice, Action::Serve);
}

void slice_acknowledged(Fabric &fabric, Slice &slice) {
    if (slice.dead) return;
    if (path_alive(slice))
        slice_finish(fabric, slice, slice.status);
    else
        slice_drop(fabric, slice, TENT_SIM_TRACE_DROP);
}

void slice_drop(Fabric &fabric, Slice &slice, uint32_t kind) {
    slice.dead = true;
    record(fabric, kind, slice, TENT_OK);
    if (kind == TENT_SIM_TRACE_DROP) {
        slice.from->rail->counters.dropped_slices++;
    } else {
        // A read's request dies at the target, its bytes and those of a write at their sink.
        const bool at_target = slice.op == TENT_OP_WRITE || slice.stage_count == 0;
        (at_target ? slice.to : slice.from)->rail->counters.discarded_slices++;
    }
}

void slice_finish(Fabric &fabric, Slice &slice, int32_t status) {
    if (!slice.owed) return;
    slice.owed = false;
    Instance &instance = *slice.from->instance;
    const uint32_t at = (instance.results_first + instance.results_count++) % instance.slices_max;
    instance.results[at] = {slice.id, status, 0};
    if (!slice.from->orphan) record(fabric, TENT_SIM_TRACE_COMPLETE, slice, status);
    if (slice.refs == 0) slice_give(fabric, slice);
}

}  // namespace tent::sim
