// The ring of the shm transport against a peer that lies: each lie fails the endpoint, or hurts the
// liar alone, and touches no memory that was not granted.
//
// Leans on shm_ring_world.h. The lies are written into the shared memory by hand.
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "check.h"
#include "shm_ring_world.h"

using namespace shm_ring;
using namespace tent::shm;

namespace {

constexpr uint32_t SIZE = 1000;

// A ring whose initiator does not use its own half: commands are written by hand.
struct Liar {
    World world;
    std::vector<uint8_t> memory = std::vector<uint8_t>(SIZE, 2);  // the target's, all of it granted
    uint64_t count = 0;

    Liar() {
        world.target_host.grant(memory.data(), SIZE);
        memset(ring_arena(&world.shared()), 1, size_t{CHUNK_SIZE} * CHUNK_COUNT);
    }
    RingCommand honest() const {
        return {.remote = reinterpret_cast<uintptr_t>(memory.data()),
                .slice_size = SIZE,
                .slice_from = 0,
                .size = SIZE,
                .arena_from = 0,
                .sum = 0,
                .op = TENT_OP_WRITE,
                .flags = 0};
    }
    void publish(const RingCommand &command) {
        entry_write(world.shared().commands[count++ % RING_SLOTS], command);
        world.shared().published.store(count);
    }
    bool untouched() const { return memory == std::vector<uint8_t>(SIZE, 2); }
    bool failed(const char *word) const {
        return world.to.state == EndpointState::FAILED && world.to.status == TENT_E_PROTOCOL &&
               CHECK(world.to.sentence.find(word) != std::string::npos);
    }
};

// The target has failed the endpoint, served nothing and will not begin again.
void check_lie(const char *word, const std::function<void(RingCommand &)> &lie) {
    Liar liar;
    RingCommand command = liar.honest();
    lie(command);
    liar.publish(command);
    ring_serve(liar.world.to);
    if (!CHECK(liar.failed(word))) fprintf(stderr, "  the lie about: %s\n", word);
    CHECK(liar.untouched());
    liar.publish(liar.honest());
    CHECK(!ring_serve(liar.world.to));
    CHECK(liar.untouched());
}

}  // namespace

// ---- a hostile initiator ------------------------------------------------------------------------

TEST(an_honest_command_is_served) {
    Liar liar;
    liar.publish(liar.honest());
    CHECK(ring_serve(liar.world.to));
    CHECK(liar.memory == std::vector<uint8_t>(SIZE, 1));
    CHECK_EQ(liar.world.shared().completed.load(), 1u);
}

TEST(each_lie_in_a_command_fails_the_endpoint) {
    check_lie("operation", [](RingCommand &lie) { lie.op = 0; });
    check_lie("operation", [](RingCommand &lie) { lie.op = 3; });
    check_lie("operation", [](RingCommand &lie) { lie.op = 0x102; });
    check_lie("flags", [](RingCommand &lie) { lie.flags = 2; });
    check_lie("slice's length", [](RingCommand &lie) { lie.slice_size = 0; });
    check_lie("slice's length", [](RingCommand &lie) { lie.slice_size = RING_SLICE_SIZE_MAX + 1; });
    check_lie("its length", [](RingCommand &lie) { lie.size = 0; });
    check_lie("its length", [](RingCommand &lie) { lie.size = CHUNK_SIZE + 1; });
    check_lie("its length", [](RingCommand &lie) { lie.size = UINT32_MAX; });
    check_lie("place in the slice", [](RingCommand &lie) { lie.size = SIZE + 1; });
    check_lie("place in the slice", [](RingCommand &lie) { lie.slice_from = 1; });
    check_lie("place in the slice", [](RingCommand &lie) { lie.slice_from = SIZE; });
    check_lie("place in the slice", [](RingCommand &lie) { lie.slice_from = UINT32_MAX; });
    check_lie("place in the ring",
              [](RingCommand &lie) { lie.arena_from = CHUNK_SIZE * CHUNK_COUNT; });
    check_lie("place in the ring",
              [](RingCommand &lie) { lie.arena_from = CHUNK_SIZE * CHUNK_COUNT - SIZE + 1; });
    check_lie("place in the ring", [](RingCommand &lie) { lie.arena_from = UINT32_MAX; });
}

TEST(the_last_bytes_of_the_arena_may_be_used) {
    Liar liar;
    RingCommand command = liar.honest();
    command.arena_from = CHUNK_SIZE * CHUNK_COUNT - SIZE;
    liar.publish(command);
    ring_serve(liar.world.to);
    CHECK(liar.memory == std::vector<uint8_t>(SIZE, 1));
}

TEST(a_counter_that_runs_ahead_or_back_fails_the_endpoint) {
    for (const uint64_t count : {uint64_t{RING_SLOTS} + 2, UINT64_MAX, uint64_t{0}}) {
        Liar liar;
        liar.publish(liar.honest());
        ring_serve(liar.world.to);
        std::fill(liar.memory.begin(), liar.memory.end(), 2);
        liar.world.shared().published.store(count);
        ring_serve(liar.world.to);
        CHECK(liar.failed("pieces"));
        CHECK(liar.untouched());
        CHECK(!ring_serve(liar.world.to));
    }
}

TEST(every_piece_is_asked_for_and_a_foreign_range_is_refused) {
    Liar liar;
    RingCommand command = liar.honest();
    liar.publish(command);
    command.remote++;  // one byte beyond
    liar.publish(command);
    command.remote = 64;
    liar.publish(command);
    command.remote = UINT64_MAX;
    liar.publish(command);
    ring_serve(liar.world.to);
    CHECK(liar.world.to.state == EndpointState::READY);
    CHECK_EQ(liar.world.target_host.checks, 3u);  // the last one ends before it begins
    const int32_t wanted[] = {TENT_OK, TENT_E_RANGE, TENT_E_RANGE, TENT_E_RANGE};
    for (uint32_t i = 0; i < 4; i++)
        CHECK_EQ(liar.world.shared().results[i].status, wanted[i]);
    CHECK_EQ(liar.world.target_host.served_write, SIZE);
}

TEST(a_refused_read_shows_nothing_of_our_memory) {
    Liar liar;
    RingCommand command = liar.honest();
    command.op = TENT_OP_READ;
    command.flags = TENT_SLICE_INTEGRITY;
    liar.world.target_host.grants.clear();
    liar.publish(command);
    ring_serve(liar.world.to);
    const char *arena = ring_arena(&liar.world.shared());
    CHECK(std::all_of(arena, arena + SIZE, [](char byte) { return byte == 1; }));
    CHECK_EQ(liar.world.shared().results[0].sum, 0u);
    CHECK_EQ(liar.world.shared().results[0].status, TENT_E_RANGE);
}

TEST(what_the_initiator_writes_elsewhere_is_not_believed) {
    Liar liar;
    RingShared &shared = liar.world.shared();
    shared.magic = 0;
    shared.chunk_size = shared.chunk_count = UINT32_MAX;
    shared.completed.store(77);
    memset(static_cast<void *>(shared.results), 0xff, sizeof shared.results);
    liar.publish(liar.honest());
    CHECK(ring_serve(liar.world.to));
    CHECK_EQ(shared.completed.load(), 1u);
    RingCommand command = liar.honest();
    command.arena_from = CHUNK_SIZE * CHUNK_COUNT;
    liar.publish(command);
    ring_serve(liar.world.to);
    CHECK(liar.failed("place in the ring"));
}

TEST(what_was_served_before_a_lie_is_counted) {
    Liar liar;
    liar.publish(liar.honest());
    RingCommand command = liar.honest();
    command.op = 9;
    liar.publish(command);
    ring_serve(liar.world.to);
    CHECK(liar.failed("operation"));
    CHECK_EQ(liar.world.target_host.served_write, SIZE);
}

TEST(a_ring_out_of_bounds_is_not_made) {
    World world;
    world.target.options.ring_chunk_size = world.target.options.ring_chunk_count = UINT32_MAX;
    const uint32_t asked[][2] = {{0, 8},
                                 {RING_CHUNK_SIZE_MIN - 1, 8},
                                 {RING_CHUNK_SIZE_MAX + RING_ALIGNMENT, 8},
                                 {CHUNK_SIZE, 0},
                                 {CHUNK_SIZE, 1},
                                 {CHUNK_SIZE, RING_CHUNK_COUNT_MAX + 1}};
    for (const auto &[chunk_size, chunk_count] : asked) {
        int fd = -1;
        world.sentence.clear();
        CHECK(ring_target_make(world.to, chunk_size, chunk_count, &fd, &world.sentence) == nullptr);
        CHECK(world.sentence.find("out of bounds") != std::string::npos);
        CHECK_EQ(fd, -1);
    }
}

// ---- a hostile target ---------------------------------------------------------------------------

namespace {

// Two writes are under way, and the target's half is played by hand.
struct Believer {
    World world;
    std::vector<uint8_t> local = std::vector<uint8_t>(2 * SIZE, 1);

    explicit Believer(uint32_t op = TENT_OP_WRITE, uint32_t flags = 0) {
        for (uint64_t i = 0; i < 2; i++)
            world.post(op, &local[i * SIZE], &local[i * SIZE], SIZE, flags);
        ring_step(world.from);
    }
    void complete(uint64_t count, const RingResult &result) {
        entry_write(world.shared().results[(count - 1) % RING_SLOTS], result);
        world.shared().completed.store(count);
        ring_step(world.from);
        world.collect();
    }
    // Both slices are back, with an error, once.
    bool failed(const char *word) const {
        return world.from.state == EndpointState::FAILED && world.from.status == TENT_E_PROTOCOL &&
               CHECK(world.from.sentence.find(word) != std::string::npos) &&
               world.log.returned == 2 && world.log.returned_twice == 0 &&
               std::all_of(world.log.statuses.begin(), world.log.statuses.end(),
                           [](int32_t status) { return status < 0 && status != TENT_IN_PROGRESS; });
    }
};

}  // namespace

TEST(an_honest_result_ends_its_slice) {
    Believer believer;
    believer.complete(1, {.number = 0, .status = TENT_OK, .sum = 0, .reserved = 0});
    CHECK_EQ(believer.world.log.statuses[0], TENT_OK);
    CHECK_EQ(believer.world.log.statuses[1], TENT_IN_PROGRESS);
}

TEST(more_results_than_pieces_fail_the_endpoint) {
    for (const uint64_t count : {uint64_t{3}, UINT64_MAX}) {
        Believer believer;
        believer.world.shared().completed.store(count);
        CHECK(ring_step(believer.world.from));
        believer.world.collect();
        CHECK(believer.failed("pieces"));
        CHECK(!ring_step(believer.world.from));
    }
}

TEST(results_that_are_taken_back_fail_the_endpoint) {
    Believer believer;
    believer.complete(1, {.number = 0, .status = TENT_OK, .sum = 0, .reserved = 0});
    believer.world.shared().completed.store(0);
    ring_step(believer.world.from);
    CHECK(believer.world.from.state == EndpointState::FAILED);
    CHECK_EQ(believer.world.from.status, TENT_E_PROTOCOL);
}

TEST(a_result_of_another_piece_fails_the_endpoint) {
    Believer believer;
    believer.complete(1, {.number = 1, .status = TENT_OK, .sum = 0, .reserved = 0});
    CHECK(believer.failed("number 1"));
}

TEST(a_status_that_is_none_fails_the_endpoint) {
    Believer believer;
    believer.complete(1, {.number = 0, .status = TENT_IN_PROGRESS, .sum = 0, .reserved = 0});
    CHECK(believer.failed("status 1"));
}

TEST(nothing_is_read_from_the_commands_that_the_target_can_change) {
    Believer believer(TENT_OP_READ);
    RingShared &shared = believer.world.shared();
    memset(static_cast<void *>(shared.commands), 0xff, sizeof shared.commands);
    shared.published.store(99);
    shared.chunk_size = shared.chunk_count = UINT32_MAX;
    memset(ring_arena(&shared), 7, 2 * CHUNK_SIZE);
    believer.complete(1, {.number = 0, .status = TENT_OK, .sum = 0, .reserved = 0});
    believer.complete(2, {.number = 1, .status = TENT_OK, .sum = 0, .reserved = 0});
    CHECK(believer.local == std::vector<uint8_t>(2 * SIZE, 7));
    CHECK_EQ(believer.world.log.returned, 2u);
    CHECK(believer.world.from.state == EndpointState::READY);
}

TEST(a_read_with_a_wrong_sum_is_corrupt) {
    Believer believer(TENT_OP_READ, TENT_SLICE_INTEGRITY);
    believer.complete(1, {.number = 0, .status = TENT_OK, .sum = 5, .reserved = 0});
    CHECK_EQ(believer.world.log.statuses[0], TENT_E_CORRUPT);
    CHECK_EQ(believer.world.log.statuses[1], TENT_IN_PROGRESS);
}

// ---- memory that is not what it should be -------------------------------------------------------

namespace {

// A memfd that a peer could give.
struct Given {
    int fd = memfd_create("given", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    explicit Given(uint64_t size, int seals, uint32_t chunk_size = CHUNK_SIZE,
                   uint32_t chunk_count = CHUNK_COUNT, uint32_t magic = RING_MAGIC) {
        CHECK_EQ(ftruncate(fd, static_cast<off_t>(size)), 0);
        const uint32_t head[] = {magic, chunk_size, chunk_count};
        if (size >= sizeof head) CHECK(pwrite(fd, head, sizeof head, 0) == sizeof head);
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
    }
    ~Given() { close(fd); }
};

void check_refused(World &world, int fd, const char *word) {
    world.sentence.clear();
    CHECK(ring_map(world.from, fd, CHUNK_SIZE, CHUNK_COUNT, &world.sentence) == nullptr);
    if (!CHECK(world.sentence.find(word) != std::string::npos))
        fprintf(stderr, "  but: %s\n", world.sentence.c_str());
}

}  // namespace

TEST(memory_that_can_shrink_or_is_no_ring_is_not_mapped) {
    World world;
    constexpr int SEALS = F_SEAL_SHRINK | F_SEAL_GROW;
    const uint64_t size = ring_memory_size(CHUNK_SIZE, CHUNK_COUNT);
    check_refused(world, Given(size, 0).fd, "sealed");
    check_refused(world, Given(size, F_SEAL_GROW).fd, "sealed");
    check_refused(world, Given(0, SEALS).fd, "bytes");
    check_refused(world, Given(RING_ARENA_FROM - 1, SEALS).fd, "bytes");
    check_refused(world, Given(size + 1, SEALS).fd, "bytes");
    check_refused(world, Given(size - 1, SEALS).fd, "does not say");
    check_refused(world, Given(size, SEALS, CHUNK_SIZE, CHUNK_COUNT, 1).fd, "does not say");
    check_refused(world, Given(size, SEALS, 0, 0).fd, "does not say");
    check_refused(world, Given(size, SEALS, 2 * CHUNK_SIZE, CHUNK_COUNT).fd, "does not say");
    check_refused(world, Given(size, SEALS, UINT32_MAX, UINT32_MAX).fd, "does not say");
    const int file = open("/dev/null", O_RDWR | O_CLOEXEC);
    check_refused(world, file, "sealed");
    close(file);
    check_refused(world, -1, "sealed");
    world.sentence.clear();
    RingInitiator *ring =
        ring_map(world.from, Given(size, SEALS).fd, CHUNK_SIZE, CHUNK_COUNT, &world.sentence);
    CHECK(ring != nullptr);
    ring_free(ring);
}
