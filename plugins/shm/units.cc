// See units.h.
#include "units.h"

#include <algorithm>
#include <cstring>

#include "attach.h"
#include "copy.h"
#include "mutant.h"

namespace tent::shm {

namespace {

// Smaller slices are left in the caches: README.md.
constexpr uint64_t STREAMING_SIZE_MIN = 128 << 10;

bool remote_holds(const Export &about, uint64_t remote, uint64_t length) {
    return remote >= about.address && length <= about.length &&
           remote - about.address <= about.length - length;
}

// Inside the lane: may the unit's bytes be touched? If not, it has ended.
bool may_move(Unit &unit) {
    const Endpoint &endpoint = *unit.endpoint;
    if (endpoint.stopping.load(std::memory_order_relaxed)) {
        unit.status = TENT_E_CANCELLED;
    } else if (endpoint.board->retired.load(std::memory_order_relaxed) != 0 &&
               !mutant(Mutant::shm_retired)) {
        unit.status = TENT_E_TRANSPORT;
    } else if (!region_lives(*endpoint.table, unit.slot, unit.generation) &&
               !mutant(Mutant::shm_generation)) {
        unit.status = TENT_E_RANGE;
    } else {
        unit.status = TENT_OK;
    }
    return unit.status == TENT_OK;
}

void move_mapped(const Mover &mover, Unit &unit) {
    const bool write = unit.op == TENT_OP_WRITE;
    char *to = write ? unit.mapped : unit.local;
    const char *from = write ? unit.local : unit.mapped;
    if (unit.flags & TENT_SLICE_INTEGRITY) {
        const tent_host &host = *unit.endpoint->instance->host;
        const uint32_t before = host.crc32c(0, from, unit.length);
        copy_cached(to, from, unit.length);
        if (host.crc32c(0, to, unit.length) != before) unit.status = TENT_E_CORRUPT;
    } else if (unit.streaming &&
               mover.recent->past_caches(to, unit.length,
                                         unit.endpoint->instance->options.nontemporal_min)) {
        copy_streaming(to, from, unit.length);
    } else {
        copy_cached(to, from, unit.length);
    }
}

// The peer's memory is read twice for a read, and read back for a write.
void move_attached_checked(const Mover &mover, Unit &unit) {
    Endpoint &endpoint = *unit.endpoint;
    const tent_host &host = *endpoint.instance->host;
    uint32_t remote_crc = 0, local_crc = 0;
    const auto read_remote = [&] {
        unit.status = attach_crc32c(endpoint, unit.remote, unit.length, mover.buffer, BUFFER_SIZE,
                                    &remote_crc);
    };
    if (unit.op == TENT_OP_WRITE) {
        local_crc = host.crc32c(0, unit.local, unit.length);
    } else {
        read_remote();
        if (unit.status != TENT_OK) return;
    }
    AttachPart part{unit.local, unit.remote, unit.length, TENT_OK};
    attach_move(endpoint, unit.op, &part, 1);
    unit.status = part.status;
    if (unit.status != TENT_OK) return;
    if (unit.op == TENT_OP_WRITE)
        read_remote();
    else
        local_crc = host.crc32c(0, unit.local, unit.length);
    if (unit.status == TENT_OK && remote_crc != local_crc) unit.status = TENT_E_CORRUPT;
}

// As many from the first on as go in one direction by plain attach. Returns how many it has dealt
// with.
uint32_t move_attached(Unit *units, uint32_t count) {
    AttachPart parts[ATTACH_PARTS_MAX];
    Unit *owners[ATTACH_PARTS_MAX];
    uint32_t part_count = 0, taken = 0;
    for (; taken < count && part_count < ATTACH_PARTS_MAX; taken++) {
        Unit &unit = units[taken];
        if (unit.mapped || unit.op != units->op || (unit.flags & TENT_SLICE_INTEGRITY)) break;
        if (!may_move(unit)) continue;
        parts[part_count] = {unit.local, unit.remote, unit.length, TENT_OK};
        owners[part_count++] = &unit;
    }
    attach_move(*units->endpoint, units->op, parts, part_count);
    for (uint32_t i = 0; i < part_count; i++)
        owners[i]->status = parts[i].status;
    return taken;
}

void add(std::atomic<uint64_t> &sum, uint64_t bytes) {
    if (bytes > 0)  // its one writer is us
        sum.store(sum.load(std::memory_order_relaxed) + bytes, std::memory_order_relaxed);
}

// Units of one endpoint under one hold of its lane.
void run_move(const Mover &mover, Unit *units, uint32_t count) {
    Endpoint &endpoint = *units->endpoint;
    const bool inside =
        endpoint.board && !mutant(Mutant::shm_lane) && lane_enter(*endpoint.board, mover.lane);
    if (!inside && !mutant(Mutant::shm_lane) && !mutant(Mutant::shm_retired)) {
        for (uint32_t i = 0; i < count; i++)
            units[i].status = TENT_E_TRANSPORT;
        return;
    }
    for (uint32_t i = 0; i < count;) {
        Unit &unit = units[i];
        const bool checked = unit.flags & TENT_SLICE_INTEGRITY;
        if (!unit.mapped && !checked) {
            i += move_attached(&unit, count - i);
            continue;
        }
        if (may_move(unit)) {
            if (unit.mapped)
                move_mapped(mover, unit);
            else
                move_attached_checked(mover, unit);
        }
        i++;
    }
    uint64_t written = 0, read = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (units[i].status == TENT_OK)
            (units[i].op == TENT_OP_WRITE ? written : read) += units[i].length;
    }
    Lane &lane = endpoint.board->lanes[mover.lane];
    add(lane.written_bytes, written);
    add(lane.read_bytes, read);
    if (inside) lane_leave(*endpoint.board, mover.lane);
    endpoint.moved_bytes.fetch_add(written + read, std::memory_order_relaxed);
}

}  // namespace

bool Recent::past_caches(const void *to, uint64_t length, uint64_t row_min) {
    const uint64_t begin = reinterpret_cast<uintptr_t>(to);
    const uint64_t first = begin >> GRAIN_BITS;
    // The grain in which the range ends is left to whoever begins there.
    const uint64_t end = std::max((begin + length) >> GRAIN_BITS, first + 1);
    // Time in units of 4 KiB copied, 36 bits of it; above it as much of the grain's number as fits.
    constexpr uint64_t TIME_MASK = (uint64_t{1} << 36) - 1;
    const uint64_t clock_bytes = clock_bytes_.fetch_add(length, std::memory_order_relaxed) + length;
    const uint64_t now = ((clock_bytes >> 12) + 1) & TIME_MASK;
    const uint64_t seen = entries_[first % ENTRY_COUNT].load(std::memory_order_relaxed);
    for (uint64_t grain = first; grain < end; grain++)
        entries_[grain % ENTRY_COUNT].store(grain << 36 | now, std::memory_order_relaxed);
    if (seen != 0 && (seen & ~TIME_MASK) == first << 36 &&
        ((now - seen) & TIME_MASK) <= DISTANCE >> 12) {
        row_bytes_.store(0, std::memory_order_relaxed);
        return false;
    }
    return row_bytes_.fetch_add(length, std::memory_order_relaxed) >= row_min;
}

uint32_t method_of(const Endpoint &endpoint, const RemoteRegion *region) {
    // Without a place in the peer's table it cannot tell us when the region ends: it has to be
    // asked for each piece, as the ring does.
    const bool fenced = region && region->about.slot < REGIONS_MAX;
    if (fenced && region->base) return MAPPED;
    if (fenced && endpoint.fallback == ATTACH &&
        endpoint.attach_errno.load(std::memory_order_relaxed) == 0)
        return ATTACH;
    return endpoint.ring ? uint32_t{RING} : 0;
}

int32_t unit_make(Endpoint &endpoint, const tent_slice &slice, Unit *unit) {
    const auto *region = static_cast<const RemoteRegion *>(slice.remote_region);
    if (!region || region->about.slot >= REGIONS_MAX) return TENT_E_TRANSPORT;
    const Export &about = region->about;
    if (memcmp(about.instance, endpoint.peer.instance, sizeof about.instance) != 0)
        return TENT_E_STALE;
    if (!remote_holds(about, slice.remote, slice.length)) return TENT_E_RANGE;
    const bool write = slice.op == TENT_OP_WRITE;
    unit->endpoint = &endpoint;
    unit->local = static_cast<char *>(slice.local);
    unit->mapped = nullptr;
    if (region->base) {
        if (!(region->access & (write ? TENT_ACCESS_WRITE : TENT_ACCESS_READ)))
            return TENT_E_DENIED;
        unit->mapped = region->base + (slice.remote - about.address);
    }
    unit->remote = slice.remote;
    unit->length = slice.length;
    unit->op = slice.op;
    unit->flags = slice.flags;
    unit->slot = about.slot;
    unit->generation = about.generation;
    unit->streaming = slice.length >= STREAMING_SIZE_MIN && copy_streaming_exists();
    unit->status = TENT_OK;
    return TENT_OK;
}

void units_move(const Mover &mover, Unit *units, uint32_t count) {
    for (uint32_t begin = 0, end; begin < count; begin = end) {
        uint64_t bytes = units[begin].length;
        for (end = begin + 1; end < count; end++) {
            bytes += units[end].length;
            if (units[end].endpoint != units[begin].endpoint || bytes > HOLD_SIZE_MAX) break;
        }
        run_move(mover, units + begin, end - begin);
    }
}

}  // namespace tent::shm
