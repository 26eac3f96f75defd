// The ring's memory, the initiator's half of it, and who wakes whom.
//
// Leans on ring_layout.h. Must never believe a counter or a result that it has not checked, and
// touches no memory of the application after ring_stop.
#include "ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "copy.h"
#include "jobs.h"
#include "mutant.h"
#include "ring_layout.h"

namespace tent::shm {

// ---- memory ----------------------------------------------------------------------------------

bool ring_sizes_valid(uint32_t chunk_size, uint32_t chunk_count) {
    return chunk_size >= RING_CHUNK_SIZE_MIN && chunk_size <= RING_CHUNK_SIZE_MAX &&
           chunk_size % RING_ALIGNMENT == 0 && chunk_count >= RING_CHUNK_COUNT_MIN &&
           chunk_count <= RING_CHUNK_COUNT_MAX &&
           uint64_t{chunk_size} * chunk_count <= RING_ARENA_SIZE_MAX;
}

RingShared *ring_memory_map(int fd, uint64_t size, bool prefault, std::string *sentence) {
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        *sentence = "the ring's " + std::to_string(size) + " bytes cannot be mapped: errno " +
                    std::to_string(errno);
        return nullptr;
    }
    // All three only help: a child has no use for it, and pages are filled one by one otherwise.
    madvise(memory, size, MADV_DONTFORK);
    madvise(memory, size, MADV_HUGEPAGE);
    if (prefault)
        madvise(memory, std::min(size, RING_PREFAULT_SIZE_MAX) / 4096 * 4096, MADV_POPULATE_WRITE);
    return static_cast<RingShared *>(memory);
}

void ring_memory_unmap(RingShared *shared, uint64_t size) {
    if (shared != nullptr) munmap(static_cast<void *>(shared), size);
}

RingInitiator *ring_map(Endpoint &endpoint, int fd, uint32_t chunk_size, uint32_t chunk_count,
                        std::string *sentence) {
    struct stat about{};
    const int seals = fcntl(fd, F_GET_SEALS);
    // Without that seal the target could shrink it, and our next access would be a SIGBUS.
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd, &about) != 0) {
        *sentence = "the peer's ring is no sealed memory";
        return nullptr;
    }
    const auto size = static_cast<uint64_t>(about.st_size);
    if (size < RING_ARENA_FROM || size > ring_memory_size(chunk_size, chunk_count)) {
        *sentence = "the peer's ring has " + std::to_string(size) + " bytes, which are not those " +
                    "of " + std::to_string(chunk_count) + " chunks of " +
                    std::to_string(chunk_size) + " or less";
        return nullptr;
    }
    const bool prefault = endpoint.instance->options.prefault;
    RingShared *shared = ring_memory_map(fd, size, prefault, sentence);
    if (shared == nullptr) return nullptr;
    // The target may have made it smaller than was asked for; it says so in there.
    chunk_size = __atomic_load_n(&shared->chunk_size, __ATOMIC_RELAXED);
    chunk_count = __atomic_load_n(&shared->chunk_count, __ATOMIC_RELAXED);
    auto *ring = new (std::nothrow) RingInitiator;
    if (ring == nullptr || __atomic_load_n(&shared->magic, __ATOMIC_RELAXED) != RING_MAGIC ||
        !ring_sizes_valid(chunk_size, chunk_count) ||
        size != ring_memory_size(chunk_size, chunk_count)) {
        *sentence = ring == nullptr ? "no memory for the ring's records"
                                    : "the peer's ring does not say what it is";
        ring_memory_unmap(shared, size);
        delete ring;
        return nullptr;
    }
    ring->shared = shared;
    ring->chunk_size = chunk_size;
    ring->chunk_count = chunk_count;
    return ring;
}

void ring_free(RingInitiator *ring) {
    if (ring == nullptr) return;
    ring_memory_unmap(ring->shared, ring_memory_size(ring->chunk_size, ring->chunk_count));
    delete ring;
}

// ---- slices ------------------------------------------------------------------------------------

namespace {

RingSlice &slice_at(RingInitiator &ring, uint64_t number) {
    return ring.slices[number % RING_SLICES_MAX];
}
RingPiece &piece_at(RingInitiator &ring, uint64_t number) {
    return ring.pieces[number % RING_SLOTS];
}

// The oldest slices, as far as nothing of them is left to do. Pieces come back in the order in
// which they were cut, so slices end in the order in which they were posted.
void end_slices(Endpoint &endpoint, RingInitiator &ring) {
    while (ring.first < ring.end) {
        const RingSlice &slice = slice_at(ring, ring.first);
        const bool cut = slice.cut == slice.size || slice.status != TENT_OK;
        if (!cut || slice.pieces != 0) return;
        ring.first++;
        ring.next = std::max(ring.next, ring.first);
        ring.waiting_size -= slice.size;
        jobs_result(*endpoint.instance, endpoint, slice.id, slice.status);
    }
}

// ---- from slices to pieces ---------------------------------------------------------------------

// The slice that is to be cut next, nullptr: none.
RingSlice *slice_to_cut(RingInitiator &ring) {
    for (; ring.next < ring.end; ring.next++) {
        RingSlice &slice = slice_at(ring, ring.next);
        if (slice.cut < slice.size && slice.status == TENT_OK) return &slice;
    }
    return nullptr;
}

// A place for a piece on the circle; it does not reach over the end. False: full.
bool arena_place(RingInitiator &ring, uint32_t size, RingPiece *piece) {
    const uint64_t arena_size = ring.arena_size();
    if (ring.taken == ring.commands.count) {
        // Nothing is in there: the lines used last are those that the caches have.
        ring.arena_head = ring.arena_tail = 0;
    }
    const uint64_t rounded = (size + RING_ALIGNMENT - 1) / RING_ALIGNMENT * RING_ALIGNMENT;
    uint64_t head = ring.arena_head, from = head % arena_size;
    if (from + rounded > arena_size) {
        head += arena_size - from;
        from = 0;
    }
    if (head + rounded - ring.arena_tail > arena_size) return false;
    piece->arena_from = static_cast<uint32_t>(from);
    piece->arena_end = head + rounded;
    return true;
}

// The next piece, if there is a place for it. nullptr: none.
RingSlice *piece_place(RingInitiator &ring, RingPiece *piece) {
    if (ring.commands.count - ring.taken >= RING_SLOTS) return nullptr;
    RingSlice *slice = slice_to_cut(ring);
    if (slice == nullptr) return nullptr;
    piece->size = std::min(slice->size - slice->cut, ring.chunk_size);
    return arena_place(ring, piece->size, piece) ? slice : nullptr;
}

// Cuts one piece. Returns its bytes, 0: nothing to cut, or no place.
uint32_t cut_piece(Endpoint &endpoint, RingInitiator &ring) {
    RingPiece piece{};
    RingSlice *slice = piece_place(ring, &piece);
    if (slice == nullptr) return 0;
    const Instance &instance = *endpoint.instance;
    piece.slice = static_cast<uint32_t>(ring.next % RING_SLICES_MAX);
    piece.slice_from = slice->cut;
    RingCommand command{};
    command.remote = slice->remote;
    command.slice_size = slice->size;
    command.slice_from = piece.slice_from;
    command.size = piece.size;
    command.arena_from = piece.arena_from;
    command.op = static_cast<uint16_t>(slice->op);
    command.flags = static_cast<uint16_t>(slice->flags);
    if (ring.waiting_size >= instance.options.nontemporal_min) command.flags |= RING_STREAMING;
    if (slice->op == TENT_OP_WRITE) {
        const char *from = slice->local + piece.slice_from;
        if ((slice->flags & TENT_SLICE_INTEGRITY) != 0)
            command.sum = instance.host->crc32c(0, from, piece.size);
        copy_cached(ring_arena(ring.shared) + piece.arena_from, from, piece.size);
    }
    ring.arena_head = piece.arena_end;
    slice->cut += piece.size;
    slice->pieces++;
    piece_at(ring, ring.commands.count) = piece;
    entry_write(ring.shared->commands[ring.commands.count % RING_SLOTS], command);
    ring.commands.add(ring.shared->published, piece.size);
    return piece.size;
}

// ---- results -----------------------------------------------------------------------------------

// A read's bytes out of the arena, where the target may still write: what counts is what has come
// to us.
int32_t read_take(const Instance &instance, const RingInitiator &ring, const RingSlice &slice,
                  const RingPiece &piece, uint32_t sum) {
    char *to = slice.local + piece.slice_from;
    const char *from = ring_arena(ring.shared) + piece.arena_from;
    if ((slice.flags & TENT_SLICE_INTEGRITY) != 0) {
        copy_cached(to, from, piece.size);
        return instance.host->crc32c(0, to, piece.size) == sum ? TENT_OK : TENT_E_CORRUPT;
    }
    if (ring.waiting_size >= instance.options.nontemporal_min)
        copy_streaming(to, from, piece.size);
    else
        copy_cached(to, from, piece.size);
    return TENT_OK;
}

// Takes one result. Returns the bytes copied for it or about what looking at it costs, 0: there is
// none, or the endpoint has failed.
uint32_t take_result(Endpoint &endpoint, RingInitiator &ring) {
    if (ring.taken == ring.completed) {
        const uint64_t completed = ring.shared->completed.load(std::memory_order_acquire);
        if (completed - ring.taken > ring.commands.published - ring.taken) {
            endpoint_fail(endpoint, TENT_E_PROTOCOL,
                          "the peer's ring has completed %llu pieces, but %llu were given to it",
                          static_cast<unsigned long long>(completed),
                          static_cast<unsigned long long>(ring.commands.published));
            return 0;
        }
        ring.completed = completed;
        if (ring.taken == completed) return 0;
    }
    const RingResult result = entry_read(ring.shared->results[ring.taken % RING_SLOTS]);
    if (result.number != static_cast<uint32_t>(ring.taken) || result.status > TENT_OK) {
        endpoint_fail(endpoint, TENT_E_PROTOCOL,
                      "the peer's ring answers piece %u with number %u and status %d",
                      static_cast<uint32_t>(ring.taken), result.number, result.status);
        return 0;
    }
    const RingPiece &piece = piece_at(ring, ring.taken);
    RingSlice &slice = ring.slices[piece.slice];
    uint32_t cost = RING_PIECE_COST;
    int32_t status = result.status;
    // Once a slice has failed, the rest of it is not worth copying.
    if (slice.op == TENT_OP_READ && status == TENT_OK && slice.status == TENT_OK) {
        status = read_take(*endpoint.instance, ring, slice, piece, result.sum);
        cost = piece.size;
    }
    if (slice.status == TENT_OK) slice.status = status;
    if (status == TENT_OK) endpoint.moved_bytes.fetch_add(piece.size, std::memory_order_relaxed);
    slice.pieces--;
    ring.arena_tail = piece.arena_end;
    ring.taken++;
    end_slices(endpoint, ring);
    return cost;
}

}  // namespace

// ---- the initiator's turn ----------------------------------------------------------------------

uint32_t ring_post(Endpoint &endpoint, const tent_slice *slices, uint32_t count) {
    RingInitiator *ring = endpoint.ring;
    if (ring == nullptr || ring->stopped) return 0;
    const uint64_t room = RING_SLICES_MAX - (ring->end - ring->first);
    count = static_cast<uint32_t>(std::min<uint64_t>(count, room));
    for (uint32_t i = 0; i < count; i++) {
        const tent_slice &slice = slices[i];
        slice_at(*ring, ring->end++) = {.id = slice.id,
                                        .remote = slice.remote,
                                        .local = static_cast<char *>(slice.local),
                                        .size = static_cast<uint32_t>(slice.length),
                                        .cut = 0,
                                        .op = slice.op,
                                        .flags = slice.flags & TENT_SLICE_INTEGRITY,
                                        .pieces = 0,
                                        .status = TENT_OK};
        ring->waiting_size += slice.length;
    }
    return count;
}

bool ring_step(Endpoint &endpoint) {
    RingInitiator *ring = endpoint.ring;
    if (ring == nullptr || ring->stopped) return false;
    if (ring->asleep) {
        ring->asleep = false;
        ring->shared->initiator_sleeps.store(0, std::memory_order_relaxed);
    }
    // By turns, one piece each: the target gets new work while we copy what it has done.
    uint64_t size = 0;
    while (size < RING_TURN_SIZE) {
        const uint32_t taken = take_result(endpoint, *ring);
        if (ring->stopped) return true;  // it has failed
        const uint32_t cut = cut_piece(endpoint, *ring);
        if (taken == 0 && cut == 0) break;
        size += taken + cut;
    }
    ring->commands.publish(ring->shared->published);
    return size != 0;
}

void ring_stop(Endpoint &endpoint, int32_t status) {
    RingInitiator *ring = endpoint.ring;
    if (ring == nullptr || ring->stopped) return;
    ring->stopped = true;
    for (; ring->first < ring->end; ring->first++)
        jobs_result(*endpoint.instance, endpoint, slice_at(*ring, ring->first).id, status);
    ring->next = ring->end;
    ring->waiting_size = 0;
}

bool ring_left(const Endpoint &endpoint) {
    return endpoint.ring != nullptr && endpoint.ring->first < endpoint.ring->end;
}

// ---- who wakes whom ---------------------------------------------------------------------------

// The sleeper stores "I sleep", then looks at the counter; who publishes stores the counter, then
// looks whether somebody sleeps. Between the two each has a full fence, so at least one of them
// sees what the other has stored: either the sleeper stays up, or it is rung for.
bool ring_sleep(Endpoint &endpoint) {
    bool waiting = false;
    if (RingInitiator *ring = endpoint.ring; ring != nullptr && !ring->stopped) {
        RingShared &shared = *ring->shared;
        RingPiece piece;
        ring->asleep = true;
        shared.initiator_sleeps.store(1, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        // Of what has happened here, only a piece that could be cut keeps us up.
        if (shared.completed.load(std::memory_order_relaxed) != ring->taken ||
            piece_place(*ring, &piece) != nullptr) {
            ring->asleep = false;
            shared.initiator_sleeps.store(0, std::memory_order_relaxed);
            waiting = true;
        }
    }
    if (RingTarget *ring = endpoint.ring_target; ring != nullptr && !ring->broken) {
        RingShared &shared = *ring->shared;
        ring->asleep = true;
        shared.target_sleeps.store(1, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (shared.published.load(std::memory_order_relaxed) != ring->results.count) {
            ring->asleep = false;
            shared.target_sleeps.store(0, std::memory_order_relaxed);
            waiting = true;
        }
    }
    return waiting;
}

namespace {

bool bell_due(RingPublisher &publisher, std::atomic<uint32_t> &sleeps) {
    if (publisher.bell_asked) return false;
    publisher.bell_asked = true;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return sleeps.load(std::memory_order_relaxed) != 0 &&
           sleeps.exchange(0, std::memory_order_relaxed) != 0;
}

}  // namespace

bool ring_bell_due(Endpoint &endpoint) {
    bool due = false;
    if (mutant(Mutant::shm_ring_bell)) return false;
    if (RingInitiator *ring = endpoint.ring; ring != nullptr)
        due = bell_due(ring->commands, ring->shared->target_sleeps);
    if (RingTarget *ring = endpoint.ring_target; ring != nullptr)
        due = bell_due(ring->results, ring->shared->initiator_sleeps) || due;
    return due;
}

}  // namespace tent::shm
