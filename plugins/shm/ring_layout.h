// What the shared memory of a ring holds, and what each side keeps of it for itself.
//
// The initiator publishes commands, numbered from 0 on, and the target completes them in that
// order: result number n answers command number n, and both lie in slot n % RING_SLOTS of their
// queues. A slot is used again when the initiator has taken its result, so two counters are all
// that the queues share. The bytes lie in the arena, chunk_count chunks that the initiator hands
// out as one circle: a piece of a large slice takes a chunk, a small slice what it needs.
//
// Leans on ring.h. Thread-safety: as ring.h. Must never hold anything that a side needs to be true:
// the other side can write every byte of it at any time. What a side relies on is its own struct.
#ifndef TENT_PLUGINS_SHM_RING_LAYOUT_H
#define TENT_PLUGINS_SHM_RING_LAYOUT_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ring.h"

namespace tent::shm {

constexpr uint32_t RING_MAGIC = 0x32524853;  // "SHR2"
constexpr uint32_t RING_SLOTS = 1024;        // pieces on their way; a power of two
constexpr uint32_t RING_SLICES_MAX = 1024;   // slices taken and not ended; a power of two
constexpr uint32_t RING_ALIGNMENT = 64;      // of pieces in the arena: no two share a cache line
constexpr uint32_t RING_CHUNK_SIZE_MIN = 4 << 10, RING_CHUNK_SIZE_MAX = 64 << 20;
constexpr uint32_t RING_CHUNK_COUNT_MIN = 2, RING_CHUNK_COUNT_MAX = 4096;
constexpr uint64_t RING_ARENA_SIZE_MAX = 1 << 30;
constexpr uint32_t RING_SLICE_SIZE_MAX = 1 << 30;  // plugin.h: slices are no longer
// One turn of either side copies no more than about this: others wait for the same thread.
constexpr uint64_t RING_TURN_SIZE = 1 << 20;
// Small pieces are published together, but not more bytes than these: the other side could copy
// meanwhile.
constexpr uint64_t RING_PUBLISH_SIZE = 32 << 10;
constexpr uint64_t RING_PREFAULT_SIZE_MAX = 4 << 20;  // at a time: it takes half a millisecond
constexpr uint32_t RING_PIECE_COST = 256;  // what an entry costs beside its copy, in bytes of one

// Beside plugin.h's TENT_SLICE_*: the receiver had better store past the caches. A hint.
constexpr uint16_t RING_STREAMING = 1 << 15;

// One piece of a slice. The whole slice stands in each, so that each is allowed or refused as the
// slice is.
struct RingCommand {
    uint64_t remote;      // where the slice begins in the target's memory
    uint32_t slice_size;  // of the whole slice
    uint32_t slice_from;  // where in the slice the piece begins
    uint32_t size;        // of the piece, at most a chunk's
    uint32_t arena_from;  // where in the arena its bytes are, or are to be put
    uint32_t sum;         // CRC32C of a write's bytes, with TENT_SLICE_INTEGRITY
    uint16_t op, flags;
};
struct RingResult {
    uint32_t number;  // of the command, its low half
    int32_t status;
    uint32_t sum;  // CRC32C of a read's bytes, with TENT_SLICE_INTEGRITY
    uint32_t reserved;
};
static_assert(sizeof(RingCommand) == 32 && sizeof(RingResult) == 16);

struct RingShared {
    uint32_t magic = RING_MAGIC;
    uint32_t chunk_size = 0, chunk_count = 0;
    // Each on lines of its own, with one writer.
    alignas(128) std::atomic<uint64_t> published{0};  // the initiator's: commands so far
    alignas(128) std::atomic<uint64_t> completed{0};  // the target's: results so far
    // Set by the sleeper, taken back by whoever rings or by the sleeper when it is up.
    alignas(128) std::atomic<uint32_t> target_sleeps{0};
    alignas(128) std::atomic<uint32_t> initiator_sleeps{0};
    alignas(128) RingCommand commands[RING_SLOTS];
    alignas(128) RingResult results[RING_SLOTS];
};
// Whole pages, so that the arena begins with one.
constexpr size_t RING_ARENA_FROM = (sizeof(RingShared) + 4095) / 4096 * 4096;

inline uint64_t ring_memory_size(uint32_t chunk_size, uint32_t chunk_count) {
    return RING_ARENA_FROM + uint64_t{chunk_size} * chunk_count;
}
inline char *ring_arena(RingShared *shared) {
    return reinterpret_cast<char *>(shared) + RING_ARENA_FROM;
}
// Can a ring have these sizes?
bool ring_sizes_valid(uint32_t chunk_size, uint32_t chunk_count);
// Maps the memory for one side. nullptr: sentence.
RingShared *ring_memory_map(int fd, uint64_t size, bool prefault, std::string *sentence);
void ring_memory_unmap(RingShared *shared, uint64_t size);  // nullptr: nothing

// Entries cross word by word, each word once: what was looked at is what is used, whatever the
// other side writes there meanwhile. That it is written entirely is what the counters say.
typedef uint64_t __attribute__((may_alias)) RingWord;
template <class Entry>
Entry entry_read(const Entry &shared) {
    constexpr size_t words = sizeof(Entry) / sizeof(RingWord);
    RingWord copy[words];
    const auto *from = reinterpret_cast<const RingWord *>(&shared);
    for (size_t i = 0; i < words; i++)
        copy[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
    Entry entry;
    memcpy(&entry, copy, sizeof entry);
    return entry;
}
template <class Entry>
void entry_write(Entry &shared, const Entry &entry) {
    constexpr size_t words = sizeof(Entry) / sizeof(RingWord);
    RingWord copy[words];
    memcpy(copy, &entry, sizeof entry);
    auto *to = reinterpret_cast<RingWord *>(&shared);
    for (size_t i = 0; i < words; i++)
        __atomic_store_n(to + i, copy[i], __ATOMIC_RELAXED);
}

// One side's counter and the other side's bell.
struct RingPublisher {
    uint64_t count = 0;             // entries written
    uint64_t published = 0;         // of them, those that the other side was shown
    uint64_t unpublished_size = 0;  // bytes of the others
    bool bell_asked = true;         // since the last publication

    void publish(std::atomic<uint64_t> &counter) {
        if (published == count) return;
        // Release: the entries and the bytes in the arena come before it.
        counter.store(count, std::memory_order_release);
        published = count;
        unpublished_size = 0;
        bell_asked = false;
    }
    void add(std::atomic<uint64_t> &counter, uint64_t size) {
        count++;
        unpublished_size += size;
        if (unpublished_size >= RING_PUBLISH_SIZE) publish(counter);
    }
};

// ---- what each side keeps ---------------------------------------------------------------------

struct RingSlice {
    uint64_t id, remote;
    char *local;
    uint32_t size, cut;  // bytes; those of them that became pieces
    uint32_t op, flags;
    uint32_t pieces;  // on their way
    int32_t status;   // the first that was not TENT_OK
};
struct RingPiece {
    uint64_t arena_end;  // the circle's position behind it
    uint32_t slice;      // place in `slices`
    uint32_t slice_from, size, arena_from;
};

struct RingInitiator {
    RingShared *shared = nullptr;
    uint32_t chunk_size = 0, chunk_count = 0;
    bool stopped = false;  // nothing of ours is touched any more
    bool asleep = false;   // we have said so

    // Numbers that only grow; the place is the number modulo the count. Ended slices are those
    // below `first`, and pieces are cut from `next`, which is at most `end`.
    uint64_t first = 0, next = 0, end = 0;
    RingSlice slices[RING_SLICES_MAX];
    uint64_t waiting_size = 0;  // of the slices not ended

    RingPublisher commands;
    uint64_t taken = 0, completed = 0;        // results: taken, and seen to be there
    uint64_t arena_head = 0, arena_tail = 0;  // positions on the circle: handed out, given back
    RingPiece pieces[RING_SLOTS];

    uint64_t arena_size() const { return uint64_t{chunk_size} * chunk_count; }
};

struct RingTarget {
    RingShared *shared = nullptr;
    uint32_t chunk_size = 0, chunk_count = 0;
    bool broken = false;  // the initiator has lied: nothing is served any more
    bool asleep = false;  // we have said so
    RingPublisher results;

    uint64_t arena_size() const { return uint64_t{chunk_size} * chunk_count; }
};

}  // namespace tent::shm

#endif
