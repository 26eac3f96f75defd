// Fuzzes what a hostile initiator can do to the target's half of the shm transport's ring: it
// writes to all of the shared memory, before and between the target's turns.
//
// An input is a list of steps: a byte that says what is written, then the bytes. Beside the
// sanitizers, what must hold: memory outside of the grants is as it was, and what could not be read
// has not come into the arena.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "fuzz.h"
#include "shm_ring_world.h"

using namespace shm_ring;
using namespace tent::shm;

namespace {

constexpr uint32_t TURNS_MAX = 64;
constexpr size_t MARGIN = 1 << 20;  // around the target's mapping
constexpr uint32_t MEMORY_SIZE = 3 * CHUNK_SIZE, GRANT_FROM = CHUNK_SIZE, GRANT_SIZE = CHUNK_SIZE;
constexpr uint8_t SECRET = 0xa5;  // what fills memory that is not granted

enum Step : uint8_t { COMMAND, PUBLISH_MORE, PUBLISH, SERVE, ARENA, HEAD, RESULTS, STEP_COUNT };

// Commands name memory by this base, so that an input means the same in every run.
uint8_t *memory() {
    alignas(64) static uint8_t bytes[MEMORY_SIZE];
    return bytes;
}

class Input {
  public:
    Input(const uint8_t *data, size_t size) : at_(data), end_(data + size) {}
    bool more() const { return at_ != end_; }
    template <class Value>
    Value take() {
        Value value{};
        const size_t size = std::min(sizeof value, static_cast<size_t>(end_ - at_));
        memcpy(&value, at_, size);
        at_ += size;
        return value;
    }

  private:
    const uint8_t *at_, *end_;
};

// Somewhere in there. Never the secret: who finds it in the arena knows that it was read.
void scribble(void *to, size_t size, Input &input) {
    const size_t at = input.take<uint16_t>() % size;
    for (size_t i = at; i < size && i < at + sizeof(uint64_t); i++) {
        const auto byte = input.take<uint8_t>();
        static_cast<uint8_t *>(to)[i] = byte == SECRET ? 0 : byte;
    }
}

// Moves the target's mapping to where nothing else is near: an access beyond it is a fault.
void isolate(World &world) {
    RingTarget &ring = *world.to.ring_target;
    const size_t size = ring_memory_size(ring.chunk_size, ring.chunk_count);
    void *room = mmap(nullptr, size + 2 * MARGIN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FUZZ_REQUIRE(room != MAP_FAILED);
    void *moved = mremap(static_cast<void *>(ring.shared), size, size,
                         MREMAP_MAYMOVE | MREMAP_FIXED, static_cast<char *>(room) + MARGIN);
    FUZZ_REQUIRE(moved != MAP_FAILED);
    ring.shared = static_cast<RingShared *>(moved);
}
void release(World &world) {
    RingTarget &ring = *world.to.ring_target;
    const size_t size = ring_memory_size(ring.chunk_size, ring.chunk_count);
    munmap(reinterpret_cast<char *>(ring.shared) - MARGIN, size + 2 * MARGIN);
    ring.shared = nullptr;
}

void play(World &world, Input &input) {
    RingShared &shared = world.shared();
    uint64_t number = 0;
    for (uint32_t turns = 0; input.more() && turns < TURNS_MAX;) {
        switch (input.take<uint8_t>() % STEP_COUNT) {
            case COMMAND: {
                auto command = input.take<RingCommand>();
                command.remote += reinterpret_cast<uintptr_t>(memory());
                entry_write(shared.commands[number++ % RING_SLOTS], command);
                break;
            }
            case PUBLISH_MORE: shared.published.store(number); break;
            case PUBLISH: shared.published.store(input.take<uint64_t>()); break;
            case ARENA: scribble(ring_arena(&shared), CHUNK_SIZE * CHUNK_COUNT, input); break;
            case HEAD: scribble(&shared, offsetof(RingShared, commands), input); break;
            case RESULTS: scribble(shared.results, sizeof shared.results, input); break;
            default:
                turns++;
                ring_serve(world.to);
                (void)ring_bell_due(world.to);
                (void)ring_sleep(world.to);
                break;
        }
    }
    ring_serve(world.to);
}

void append(std::vector<uint8_t> &to, const void *bytes, size_t size) {
    const auto *from = static_cast<const uint8_t *>(bytes);
    to.insert(to.end(), from, from + size);
}

void append_command(std::vector<uint8_t> &to, RingCommand command) {
    to.push_back(COMMAND);
    append(to, &command, sizeof command);
}

}  // namespace

std::vector<std::vector<uint8_t>> fuzz_corpus() {
    RingCommand write{.remote = GRANT_FROM,
                      .slice_size = 1000,
                      .slice_from = 0,
                      .size = 1000,
                      .arena_from = 4096,
                      .sum = 0,
                      .op = TENT_OP_WRITE,
                      .flags = 0};
    RingCommand read = write;
    read.op = TENT_OP_READ;
    read.flags = TENT_SLICE_INTEGRITY;
    std::vector<uint8_t> one, several, scribbles;
    append_command(one, write);
    one.insert(one.end(), {PUBLISH_MORE, SERVE});
    // A slice in two pieces with a sum, then one out of the grant, then one in its last bytes.
    write.flags = static_cast<uint16_t>(TENT_SLICE_INTEGRITY | RING_STREAMING);
    write.slice_size = GRANT_SIZE;
    append_command(several, write);
    write.slice_from = 1000;
    write.size = GRANT_SIZE - 1000;
    append_command(several, write);
    several.insert(several.end(), {PUBLISH_MORE, SERVE});
    append_command(several, read);
    read.remote = GRANT_FROM - 1;
    append_command(several, read);
    read.remote = GRANT_FROM + GRANT_SIZE - 1000;
    read.arena_from = CHUNK_SIZE * CHUNK_COUNT - 1000;
    append_command(several, read);
    several.insert(several.end(), {PUBLISH_MORE, SERVE, SERVE});
    const uint8_t bytes[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    for (const uint8_t step : {HEAD, RESULTS, ARENA, PUBLISH}) {
        scribbles.push_back(step);
        append(scribbles, bytes, step == PUBLISH ? 8 : 10);
        append(scribbles, one.data(), one.size());
    }
    return {one, several, scribbles};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *bytes = memory();
    memset(bytes, SECRET, MEMORY_SIZE);
    memset(bytes + GRANT_FROM, 0, GRANT_SIZE);
    Input input(data, size);
    World world;
    FUZZ_REQUIRE(world.stands());
    world.target_host.grant(bytes + GRANT_FROM, GRANT_SIZE);
    isolate(world);
    play(world, input);
    const auto foreign = [](uint8_t byte) { return byte != SECRET; };
    FUZZ_REQUIRE(std::none_of(bytes, bytes + GRANT_FROM, foreign));
    FUZZ_REQUIRE(std::none_of(bytes + GRANT_FROM + GRANT_SIZE, bytes + MEMORY_SIZE, foreign));
    const char *arena = ring_arena(&world.shared());
    FUZZ_REQUIRE(std::none_of(arena, arena + size_t{CHUNK_SIZE} * CHUNK_COUNT,
                              [](char byte) { return static_cast<uint8_t>(byte) == SECRET; }));
    release(world);
    return 0;
}
