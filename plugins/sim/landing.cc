// The only code of the fabric that touches the engines' memory: landing, and what a fence does.
//
// Bytes are taken straight from their source when they land, so that they are copied once. Where
// the source may change earlier (its side is closed, or the bytes land twice) they are captured
// from it first. A side that is closed is neither read nor written afterwards. See fabric.h.
#include <algorithm>
#include <cstring>

#include "fabric.h"

namespace tent::sim {

namespace {

uint8_t *remote_of(const Slice &slice) {
    return reinterpret_cast<uint8_t *>(static_cast<uintptr_t>(slice.remote));
}

const uint8_t *source_of(const Slice &slice) {
    if (slice.copied) return slice.copy.bytes.get();
    return slice.op == TENT_OP_WRITE ? slice.local : remote_of(slice);
}

// From now on the slice's bytes are its own.
void capture(Fabric &fabric, Slice &slice) {
    if (slice.copied || !fabric.carries()) return;
    if (!fabric.buffers_free.empty()) {
        slice.copy = std::move(fabric.buffers_free.back());
        fabric.buffers_free.pop_back();
    }
    if (slice.copy.room < slice.wire_bytes) {
        slice.copy.bytes.reset(new uint8_t[slice.wire_bytes]);
        slice.copy.room = slice.wire_bytes;
    }
    memcpy(slice.copy.bytes.get(), source_of(slice), slice.wire_bytes);
    slice.copied = true;
}

// Puts the bytes in their place. CORRUPT: the checksum found the flipped bit.
int32_t deposit(Fabric &fabric, const tent_host &host, const Slice &slice) {
    const bool checked = (slice.flags & TENT_SLICE_INTEGRITY) != 0;
    // A second landing brings the bytes that came the first time: nobody would check it again.
    const bool corrupt = !slice.duplicate && path_chance(fabric, slice, &Faults::corrupt);
    if (!fabric.carries()) return corrupt && checked ? TENT_E_CORRUPT : TENT_OK;
    uint8_t *target = slice.op == TENT_OP_WRITE ? remote_of(slice) : slice.local;
    const uint8_t *source = source_of(slice);
    // Within one process both may be the same memory.
    memmove(target, source, slice.wire_bytes);
    if (corrupt) {
        const uint64_t bit = random_u64(fabric) % (slice.wire_bytes * 8);
        target[bit / 8] = static_cast<uint8_t>(target[bit / 8] ^ (1u << (bit % 8)));
    }
    if (!checked || target == source) return TENT_OK;
    const bool equal =
        host.crc32c(0, source, slice.wire_bytes) == host.crc32c(0, target, slice.wire_bytes);
    return equal ? TENT_OK : TENT_E_CORRUPT;
}

void acknowledge_later(Fabric &fabric, Slice &slice, int32_t status) {
    slice.status = status;
    slice.refs++;
    event_push(fabric, fabric.now_ns + slice.ack_ns, EventType::Ack, &slice);
}

void duplicate(Fabric &fabric, Slice &slice) {
    Slice &twin = slice_make(fabric, *slice.from);
    twin.id = slice.id;
    twin.op = slice.op;
    twin.flags = slice.flags;
    twin.local = slice.local;
    twin.remote = slice.remote;
    twin.length = slice.length;
    twin.wire_bytes = slice.wire_bytes;
    twin.stage_count = slice.stage_count;
    twin.duplicate = true;
    capture(fabric, slice);
    twin.copy = std::move(slice.copy);
    twin.copied = slice.copied;
    slice.copied = false;
    twin.refs = 1;
    const uint64_t late_ns = std::max(slice.from->rail->late_ns, slice.to->rail->late_ns);
    event_push(fabric, fabric.now_ns + late_ns, EventType::Land, &twin);
}

void land_write(Instance &instance, Slice &slice) {
    Fabric &fabric = *instance.fabric;
    const tent_host &host = *instance.host;
    Endpoint &target = *slice.to;
    int32_t status = host.grant_check(host.ctx, target.grant, slice.op, slice.remote, slice.length);
    if (status == TENT_OK) {
        status = deposit(fabric, host, slice);
        tent_sim_counters &counters = target.rail->counters;
        (slice.duplicate ? counters.duplicate_slices : counters.landed_bytes) +=
            slice.duplicate ? 1 : slice.wire_bytes;
        if (!slice.duplicate) {
            host.served(host.ctx, target.number, slice.op, slice.wire_bytes);
            if (path_chance(fabric, slice, &Faults::duplicate)) duplicate(fabric, slice);
        }
    }
    slice.landed = true;
    record(fabric, TENT_SIM_TRACE_LAND, slice, status);
    if (!slice.duplicate) acknowledge_later(fabric, slice, status);
}

void land_read(Instance &instance, Slice &slice) {
    Fabric &fabric = *instance.fabric;
    const int32_t status = deposit(fabric, *instance.host, slice);
    slice.landed = true;
    slice.from->rail->counters.landed_bytes += slice.wire_bytes;
    record(fabric, TENT_SIM_TRACE_LAND, slice, status);
    // Cut off by a retire: the rest never comes, and so neither does its end.
    if (slice.wire_bytes < slice.length)
        slice_drop(fabric, slice, TENT_SIM_TRACE_DROP);
    else
        slice_finish(fabric, slice, status);
}

void serve(Instance &instance, Slice &slice) {
    Fabric &fabric = *instance.fabric;
    const tent_host &host = *instance.host;
    const int32_t status =
        host.grant_check(host.ctx, slice.to->grant, slice.op, slice.remote, slice.length);
    if (status != TENT_OK) {
        acknowledge_later(fabric, slice, status);
        return;
    }
    // Counted where it is accepted: the target does not hear of its bytes' arrival.
    host.served(host.ctx, slice.to->number, slice.op, slice.length);
    slice_depart(fabric, slice);
}

bool leaving(const Slice &slice) {
    return slice.jobs[0].server != nullptr && slice.jobs[0].server->serving == &slice.jobs[0];
}

bool overlaps(const Slice &slice, uint64_t begin, uint64_t length) {
    return slice.remote < begin + length && begin < slice.remote + slice.length;
}

}  // namespace

void inbox_work(Instance &instance) {
    Fabric &fabric = *instance.fabric;
    while (instance.inbox_head != nullptr) {
        Slice &slice = *instance.inbox_head;
        instance.inbox_head = slice.inbox_next;
        if (instance.inbox_head == nullptr) instance.inbox_tail = nullptr;
        const bool at_target = slice.action == Action::Serve || slice.op == TENT_OP_WRITE;
        if (!slice.dead) {
            if ((at_target ? slice.to : slice.from)->closed)
                slice_drop(fabric, slice, TENT_SIM_TRACE_DISCARD);
            else if (slice.action == Action::Serve)
                serve(instance, slice);
            else if (at_target)
                land_write(instance, slice);
            else
                land_read(instance, slice);
        }
        slice_release(fabric, slice);
    }
}

void endpoint_quiet(Fabric &fabric, Endpoint &endpoint) {
    endpoint.closed = true;
    const int list = endpoint.initiator ? 0 : 1;
    Slice *in_service = nullptr;  // one tx serves one slice
    for (Slice *slice = endpoint.slices; slice != nullptr; slice = slice->next[list]) {
        const bool source = (slice->op == TENT_OP_WRITE) == endpoint.initiator;
        // stage_count 0: a read's request is still on its way and will find us closed.
        if (!source || slice->dead || slice->landed || slice->copied || slice->stage_count == 0)
            continue;
        if (leaving(*slice))
            in_service = slice;
        else if (slice->departing)
            capture(fabric, *slice);
        else
            slice_drop(fabric, *slice, TENT_SIM_TRACE_DROP);
    }
    if (in_service == nullptr) return;
    // Cut off in the middle: what has left may still land.
    in_service->refs++;
    const Work done = server_abort(fabric, *in_service->jobs[0].server);
    in_service->wire_bytes = static_cast<uint64_t>(done / UNITS_PER_BYTE);
    if (in_service->wire_bytes == 0)
        slice_drop(fabric, *in_service, TENT_SIM_TRACE_DROP);
    else
        capture(fabric, *in_service);
    slice_release(fabric, *in_service);
}

void memory_quiet(Fabric &fabric, const Instance &instance, uint64_t begin, uint64_t length) {
    for (Endpoint *endpoint = fabric.endpoints; endpoint != nullptr; endpoint = endpoint->next) {
        if (endpoint->instance != &instance || endpoint->initiator) continue;
        for (Slice *slice = endpoint->slices; slice != nullptr; slice = slice->next[1])
            if (slice->op == TENT_OP_READ && slice->stage_count > 0 && !slice->dead &&
                !slice->landed && overlaps(*slice, begin, length))
                capture(fabric, *slice);
    }
}

}  // namespace tent::sim
