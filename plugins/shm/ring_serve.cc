// The target's half of the ring: makes its memory, moves bytes between the arena and our memory.
//
// Leans on ring_layout.h. The initiator may be hostile: it writes to all of the shared memory
// whenever it likes. Must never touch our memory for a piece that grant_check has not allowed, nor
// the arena outside of its bounds.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "copy.h"
#include "mutant.h"
#include "ring.h"
#include "ring_layout.h"

namespace tent::shm {
namespace {

// Memory that nobody can shrink or grow any more. -1: sentence.
int sealed_memory(uint64_t size, std::string *sentence) {
    const int fd = memfd_create("tent-shm-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && ftruncate(fd, static_cast<off_t>(size)) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    *sentence = "the ring's " + std::to_string(size) +
                " bytes of shared memory cannot be had: " + "errno " + std::to_string(errno);
    if (fd >= 0) close(fd);
    return -1;
}

// nullptr: nothing is wrong with it.
const char *command_fault(const RingTarget &ring, const RingCommand &command) {
    if (command.op != TENT_OP_READ && command.op != TENT_OP_WRITE) return "its operation";
    if ((command.flags & ~(TENT_SLICE_INTEGRITY | RING_STREAMING)) != 0) return "its flags";
    if (command.slice_size == 0 || command.slice_size > RING_SLICE_SIZE_MAX)
        return "its slice's length";
    if (command.size == 0 || command.size > ring.chunk_size) return "its length";
    if (command.slice_from >= command.slice_size ||
        command.size > command.slice_size - command.slice_from)
        return "its place in the slice";
    if (command.arena_from >= ring.arena_size() ||
        command.size > ring.arena_size() - command.arena_from)
        return "its place in the ring";
    return nullptr;
}

int32_t access_check(const Endpoint &endpoint, const RingCommand &command) {
    if (mutant(Mutant::shm_ring_grant)) return TENT_OK;
    if (command.remote + command.slice_size < command.remote) return TENT_E_RANGE;
    const tent_host *host = endpoint.instance->host;
    return host->grant_check(host->ctx, endpoint.grant, command.op, command.remote,
                             command.slice_size);
}

// Of a piece that is checked and allowed.
void piece_copy(const Endpoint &endpoint, const RingTarget &ring, const RingCommand &command,
                RingResult *result) {
    const tent_host *host = endpoint.instance->host;
    const uint64_t address = command.remote + command.slice_from;
    char *ours = reinterpret_cast<char *>(address);  // NOLINT(performance-no-int-to-ptr)
    char *shared = ring_arena(ring.shared) + command.arena_from;
    const bool integrity = (command.flags & TENT_SLICE_INTEGRITY) != 0;
    if (command.op == TENT_OP_READ) {
        if (integrity) result->sum = host->crc32c(0, ours, command.size);
        copy_cached(shared, ours, command.size);
        return;
    }
    if ((command.flags & RING_STREAMING) != 0 && !integrity)
        copy_streaming(ours, shared, command.size);
    else
        copy_cached(ours, shared, command.size);
    // Of our memory, not of the arena: there the bytes could be others a moment later.
    if (integrity && host->crc32c(0, ours, command.size) != command.sum)
        result->status = TENT_E_CORRUPT;
}

// What a turn has served, for the counters.
struct Served {
    uint64_t written = 0, read = 0;
};

void serve_piece(const Endpoint &endpoint, RingTarget &ring, const RingCommand &command,
                 Served *served) {
    RingResult result{};
    result.number = static_cast<uint32_t>(ring.results.count);
    result.status = access_check(endpoint, command);
    if (result.status == TENT_OK) {
        piece_copy(endpoint, ring, command, &result);
        (command.op == TENT_OP_WRITE ? served->written : served->read) += command.size;
    }
    entry_write(ring.shared->results[ring.results.count % RING_SLOTS], result);
    ring.results.add(ring.shared->completed, command.size);
}

void tell_served(Endpoint &endpoint, const Served &served) {
    const tent_host *host = endpoint.instance->host;
    if (served.written != 0)
        host->served(host->ctx, endpoint.number, TENT_OP_WRITE, served.written);
    if (served.read != 0) host->served(host->ctx, endpoint.number, TENT_OP_READ, served.read);
    endpoint.moved_bytes.fetch_add(served.written + served.read, std::memory_order_relaxed);
}

}  // namespace

RingTarget *ring_target_make(Endpoint &endpoint, uint32_t chunk_size, uint32_t chunk_count, int *fd,
                             std::string *sentence) {
    const Options &options = endpoint.instance->options;
    chunk_size = std::min(chunk_size, options.ring_chunk_size) / RING_ALIGNMENT * RING_ALIGNMENT;
    chunk_count = std::min(chunk_count, options.ring_chunk_count);
    if (chunk_size != 0)
        chunk_count = static_cast<uint32_t>(
            std::min<uint64_t>(chunk_count, RING_ARENA_SIZE_MAX / chunk_size));
    if (!ring_sizes_valid(chunk_size, chunk_count)) {
        *sentence = "a ring of " + std::to_string(chunk_count) + " chunks of " +
                    std::to_string(chunk_size) + " bytes is out of bounds";
        return nullptr;
    }
    const uint64_t size = ring_memory_size(chunk_size, chunk_count);
    const int memory_fd = sealed_memory(size, sentence);
    if (memory_fd < 0) return nullptr;
    RingShared *shared = ring_memory_map(memory_fd, size, options.prefault, sentence);
    auto *ring = shared != nullptr ? new (std::nothrow) RingTarget : nullptr;
    if (ring == nullptr) {
        if (shared != nullptr) *sentence = "no memory for the ring's records";
        ring_memory_unmap(shared, size);
        close(memory_fd);
        return nullptr;
    }
    new (shared) RingShared;
    shared->chunk_size = ring->chunk_size = chunk_size;
    shared->chunk_count = ring->chunk_count = chunk_count;
    ring->shared = shared;
    *fd = memory_fd;
    return ring;
}

void ring_target_free(RingTarget *ring) {
    if (ring == nullptr) return;
    ring_memory_unmap(ring->shared, ring_memory_size(ring->chunk_size, ring->chunk_count));
    delete ring;
}

bool ring_serve(Endpoint &endpoint) {
    RingTarget *ring = endpoint.ring_target;
    if (ring == nullptr || ring->broken) return false;
    RingShared &shared = *ring->shared;
    if (ring->asleep) {
        ring->asleep = false;
        shared.target_sleeps.store(0, std::memory_order_relaxed);
    }
    const uint64_t published = shared.published.load(std::memory_order_acquire);
    const uint64_t count = published - ring->results.count;
    if (count == 0) return false;
    if (count > RING_SLOTS) {
        ring->broken = true;
        endpoint_fail(endpoint, TENT_E_PROTOCOL,
                      "the peer's ring claims %llu pieces on their way, at most %u can be",
                      static_cast<unsigned long long>(count), RING_SLOTS);
        return true;
    }
    const char *fault = nullptr;
    Served served;
    uint64_t size = 0;
    while (size < RING_TURN_SIZE && ring->results.count != published) {
        const RingCommand command = entry_read(shared.commands[ring->results.count % RING_SLOTS]);
        fault = command_fault(*ring, command);
        if (fault != nullptr) break;
        serve_piece(endpoint, *ring, command, &served);
        size += command.size + RING_PIECE_COST;
    }
    ring->results.publish(shared.completed);
    tell_served(endpoint, served);
    if (fault != nullptr) {
        ring->broken = true;
        endpoint_fail(endpoint, TENT_E_PROTOCOL, "piece %llu of the peer's ring is malformed: %s",
                      static_cast<unsigned long long>(ring->results.count), fault);
    }
    return true;
}

}  // namespace tent::shm
