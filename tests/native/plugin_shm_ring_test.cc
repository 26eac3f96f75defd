// The ring of the shm transport: bytes in both directions, refusals, ends, and who wakes whom.
//
// Leans on shm_ring_world.h. Random tests print their seed.
#include <semaphore.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "shm_ring_world.h"

using namespace shm_ring;
using namespace tent::shm;

namespace {

using Memory = std::vector<uint8_t>;

Memory bytes_of(size_t size, uint64_t seed) {
    tent::Random random;
    random.seed(seed);
    Memory memory(size);
    random.fill(memory.data(), size);
    return memory;
}

uint64_t new_seed() {
    tent::Random random;
    random.seed_from_system();
    const uint64_t seed = random.u64() >> 32;
    printf("(seed %llu) ", static_cast<unsigned long long>(seed));
    fflush(stdout);
    return seed;
}

uint32_t count_of(const World &world, int32_t status) {
    return static_cast<uint32_t>(
        std::count(world.log.statuses.begin(), world.log.statuses.end(), status));
}

// Sizes around everything that has an edge.
constexpr uint32_t SIZES[] = {1,
                              63,
                              64,
                              65,
                              CHUNK_SIZE - 1,
                              CHUNK_SIZE,
                              CHUNK_SIZE + 1,
                              CHUNK_SIZE * CHUNK_COUNT,
                              CHUNK_SIZE * CHUNK_COUNT + 1,
                              CHUNK_SIZE * CHUNK_COUNT * 5 + 77};

}  // namespace

TEST(bytes_arrive_in_both_directions_at_every_edge) {
    World world;
    if (!CHECK(world.stands())) return;
    for (const uint32_t size : SIZES) {
        for (const uint32_t flags : {0u, TENT_SLICE_INTEGRITY}) {
            const Memory source = bytes_of(size, size + flags);
            Memory remote(size + 2, 0xee), back(size + 2, 0xdd);
            world.target_host.grants.clear();
            world.target_host.grant(remote.data() + 1, size);
            Memory local = source;
            CHECK_EQ(world.move(TENT_OP_WRITE, local.data(), remote.data() + 1, size, flags),
                     TENT_OK);
            CHECK(std::equal(source.begin(), source.end(), remote.begin() + 1));
            CHECK(remote.front() == 0xee && remote.back() == 0xee);
            CHECK_EQ(world.move(TENT_OP_READ, back.data() + 1, remote.data() + 1, size, flags),
                     TENT_OK);
            CHECK(std::equal(source.begin(), source.end(), back.begin() + 1));
            CHECK(back.front() == 0xdd && back.back() == 0xdd);
        }
    }
}

TEST(bytes_are_the_same_past_the_caches) {
    World world;
    world.initiator.options.nontemporal_min = 0;
    const size_t size = 300'001;
    Memory local = bytes_of(size, 1), remote(size), back(size);
    world.target_host.grant(remote.data(), size);
    CHECK_EQ(world.move(TENT_OP_WRITE, local.data(), remote.data(), size), TENT_OK);
    CHECK_EQ(world.move(TENT_OP_READ, back.data(), remote.data(), size), TENT_OK);
    CHECK(local == remote && local == back);
}

TEST(what_moves_is_counted_on_both_sides) {
    World world;
    Memory local(10'000), remote(10'000);
    world.target_host.grant(remote.data(), remote.size());
    CHECK_EQ(world.move(TENT_OP_WRITE, local.data(), remote.data(), 10'000), TENT_OK);
    CHECK_EQ(world.move(TENT_OP_READ, local.data(), remote.data(), 6'000), TENT_OK);
    CHECK_EQ(world.target_host.served_write, 10'000u);
    CHECK_EQ(world.target_host.served_read, 6'000u);
    CHECK_EQ(world.from.moved_bytes.load(), 16'000u);
    CHECK_EQ(world.to.moved_bytes.load(), 16'000u);
}

// ---- against a model ----------------------------------------------------------------------------

namespace {

// Slices of random sizes on random places; those under way at a time have places of their own, as
// nothing is promised about others.
class Model {
  public:
    static constexpr uint32_t PLACES = 40, PLACE_SIZE = 3 * CHUNK_SIZE + 100;

    Model(World &world, uint64_t seed)
        : world_(world),
          local_(bytes_of(size_t{PLACES} * PLACE_SIZE, seed)),
          remote_(bytes_of(size_t{PLACES} * PLACE_SIZE, seed + 1)),
          local_wanted_(local_),
          remote_wanted_(remote_) {
        random_.seed(seed);
        world.target_host.grant(remote_.data(), remote_.size());
        for (uint32_t place = 0; place < PLACES; place++)
            free_.push_back(place);
    }

    void post_some() {
        for (uint64_t left = random_.below(8); left > 0 && !free_.empty(); left--) {
            std::swap(free_[random_.below(free_.size())], free_.back());
            const size_t begin = size_t{free_.back()} * PLACE_SIZE;
            const bool small = random_.below(3) != 0;
            const size_t size = 1 + random_.below(small ? 300 : PLACE_SIZE);
            const size_t from = begin + random_.below(PLACE_SIZE - size + 1);
            const size_t to = begin + random_.below(PLACE_SIZE - size + 1);
            const bool write = random_.below(2) == 0;
            const uint32_t flags = random_.below(4) == 0 ? TENT_SLICE_INTEGRITY : 0;
            if (!world_.post(write ? TENT_OP_WRITE : TENT_OP_READ, &local_[from], &remote_[to],
                             size, flags))
                return;
            const Memory &source = write ? local_wanted_ : remote_wanted_;
            Memory &destination = write ? remote_wanted_ : local_wanted_;
            const size_t source_from = write ? from : to, destination_from = write ? to : from;
            memcpy(&destination[destination_from], &source[source_from], size);
            place_of_.push_back(free_.back());
            free_.pop_back();
        }
    }
    void look_at_results() {
        for (; seen_ < world_.log.statuses.size(); seen_++) {
            if (world_.log.statuses[seen_] == TENT_IN_PROGRESS) return;
            CHECK_EQ(world_.log.statuses[seen_], TENT_OK);
            free_.push_back(place_of_[seen_]);
        }
    }
    void check() const {
        CHECK(local_ == local_wanted_);
        CHECK(remote_ == remote_wanted_);
    }
    tent::Random &random() { return random_; }

  private:
    World &world_;
    tent::Random random_;
    Memory local_, remote_, local_wanted_, remote_wanted_;
    std::vector<uint32_t> free_, place_of_;
    size_t seen_ = 0;
};

}  // namespace

TEST(random_slices_in_random_turns_leave_what_a_model_says) {
    const uint64_t seed = new_seed();
    World world;
    if (!CHECK(world.stands())) return;
    Model model(world, seed);
    for (uint32_t turn = 0; turn < 4000; turn++) {
        switch (model.random().below(3)) {
            case 0: model.post_some(); break;
            case 1: ring_step(world.from); break;
            default: ring_serve(world.to); break;
        }
        world.collect();
        model.look_at_results();
    }
    CHECK(world.settle());
    CHECK(world.log.returned > 1000);
    model.look_at_results();
    model.check();
}

TEST(random_slices_between_two_threads_leave_what_a_model_says) {
    const uint64_t seed = new_seed();
    World world;
    if (!CHECK(world.stands())) return;
    world.share_mapping();
    Model model(world, seed);
    std::atomic<bool> over{false};
    std::thread target([&] {
        while (!over.load(std::memory_order_acquire)) {
            if (!ring_serve(world.to)) std::this_thread::yield();
        }
    });
    while (world.log.statuses.size() < 3000) {
        model.post_some();
        if (!ring_step(world.from)) std::this_thread::yield();
        world.collect();
        model.look_at_results();
    }
    while (ring_left(world.from)) {
        if (!ring_step(world.from)) std::this_thread::yield();
    }
    world.collect();
    over.store(true, std::memory_order_release);
    target.join();
    CHECK_EQ(world.log.returned, static_cast<uint32_t>(world.log.statuses.size()));
    CHECK_EQ(world.log.returned_twice, 0u);
    model.look_at_results();
    model.check();
}

// ---- bounds -------------------------------------------------------------------------------------

TEST(a_full_ring_takes_a_prefix_and_the_rest_later) {
    World world;
    Memory local(8), remote(8);
    world.target_host.grant(remote.data(), remote.size());
    std::vector<tent_slice> slices(RING_SLICES_MAX + 5);
    for (uint64_t id = 0; id < slices.size(); id++)
        slices[id] = {
            id, TENT_OP_WRITE, 0,      local.data(), reinterpret_cast<uintptr_t>(&remote[0]),
            8,  nullptr,       nullptr};
    CHECK_EQ(ring_post(world.from, slices.data(), slices.size()), RING_SLICES_MAX);
    CHECK_EQ(ring_post(world.from, slices.data(), 1), 0u);
    world.from.posted = RING_SLICES_MAX;
    world.log.statuses.assign(RING_SLICES_MAX, TENT_IN_PROGRESS);
    CHECK(world.settle());
    CHECK(!ring_left(world.from));
    CHECK_EQ(ring_post(world.from, &slices[RING_SLICES_MAX], 5), 5u);
    CHECK(ring_left(world.from));
}

TEST(a_turn_of_the_target_is_bounded) {
    World world(64 << 10, 64);  // four turns' worth
    if (!CHECK(world.stands())) return;
    const size_t size = 4 << 20;
    Memory local(size), remote(size);
    world.target_host.grant(remote.data(), size);
    CHECK(world.post(TENT_OP_WRITE, local.data(), remote.data(), size));
    for (int i = 0; i < 4; i++)
        ring_step(world.from);
    CHECK(ring_serve(world.to));
    CHECK(world.target_host.served_write >= RING_TURN_SIZE / 2);
    CHECK(world.target_host.served_write <= RING_TURN_SIZE + (64 << 10));
    CHECK(world.settle());
    CHECK_EQ(count_of(world, TENT_OK), 1u);
}

TEST(the_targets_own_options_bound_the_ring) {
    World world;
    int fd = -1;
    world.target.options.ring_chunk_size = 8192;
    world.target.options.ring_chunk_count = 4;
    RingTarget *ring = ring_target_make(world.to, 1 << 20, 1000, &fd, &world.sentence);
    if (!CHECK(ring != nullptr)) return;
    CHECK_EQ(ring->chunk_size, 8192u);
    CHECK_EQ(ring->chunk_count, 4u);
    RingInitiator *mapped = ring_map(world.from, fd, 1 << 20, 1000, &world.sentence);
    if (CHECK(mapped != nullptr)) CHECK_EQ(mapped->chunk_size, 8192u);
    ring_free(mapped);
    ring_target_free(ring);
    close(fd);
}

TEST(sizes_that_do_not_fit_are_made_smaller_and_the_initiator_takes_them) {
    World world;
    world.target.options.ring_chunk_size = world.target.options.ring_chunk_count = UINT32_MAX;
    const uint32_t cases[][4] = {                                 // asked for, made
                                 {100'000, 8, 99'968, 8},         // whole cache lines
                                 {16 << 20, 1024, 16 << 20, 64},  // the whole arena is bounded
                                 {RING_CHUNK_SIZE_MAX, 4096, 64 << 20, 16}};
    for (const auto &[asked_size, asked_count, size, count] : cases) {
        int fd = -1;
        RingTarget *ring =
            ring_target_make(world.to, asked_size, asked_count, &fd, &world.sentence);
        if (!CHECK(ring != nullptr)) return;
        CHECK_EQ(ring->chunk_size, size);
        CHECK_EQ(ring->chunk_count, count);
        RingInitiator *mapped = ring_map(world.from, fd, asked_size, asked_count, &world.sentence);
        CHECK(mapped != nullptr);
        ring_free(mapped);
        ring_target_free(ring);
        close(fd);
    }
}

// ---- slices that fail ---------------------------------------------------------------------------

TEST(a_refused_slice_ends_with_that_status_and_moves_no_byte) {
    World world;
    const size_t size = 5 * CHUNK_SIZE;
    for (const int32_t status : {TENT_E_DENIED, TENT_E_STALE, TENT_E_RANGE}) {
        for (const uint32_t op : {TENT_OP_WRITE, TENT_OP_READ}) {
            Memory local(size, 1), remote(size, 2);
            world.target_host.grants.clear();
            world.target_host.grant(remote.data(), size, status);
            CHECK_EQ(world.move(op, local.data(), remote.data(), size), status);
            CHECK(local == Memory(size, 1));
            CHECK(remote == Memory(size, 2));
        }
    }
    CHECK_EQ(world.from.moved_bytes.load(), 0u);
}

TEST(a_slice_that_leaves_the_granted_range_is_refused_from_its_first_byte) {
    World world;
    const size_t size = 5 * CHUNK_SIZE;
    Memory local(size, 1), remote(size, 2);
    world.target_host.grant(remote.data(), size - 1);
    CHECK_EQ(world.move(TENT_OP_WRITE, local.data(), remote.data(), size), TENT_E_RANGE);
    CHECK(remote == Memory(size, 2));
}

TEST(a_refused_slice_does_not_touch_its_neighbours) {
    World world;
    Memory local(3 * CHUNK_SIZE, 1), remote(3 * CHUNK_SIZE, 2);
    world.target_host.grant(&remote[CHUNK_SIZE], CHUNK_SIZE, TENT_E_DENIED);
    world.target_host.grant(remote.data(), remote.size());
    for (size_t i = 0; i < 3; i++)
        CHECK(
            world.post(TENT_OP_WRITE, &local[i * CHUNK_SIZE], &remote[i * CHUNK_SIZE], CHUNK_SIZE));
    CHECK(world.settle());
    CHECK_EQ(world.log.statuses[0], TENT_OK);
    CHECK_EQ(world.log.statuses[1], TENT_E_DENIED);
    CHECK_EQ(world.log.statuses[2], TENT_OK);
    Memory wanted(3 * CHUNK_SIZE, 1);
    std::fill_n(wanted.begin() + CHUNK_SIZE, CHUNK_SIZE, 2);
    CHECK(remote == wanted);
}

TEST(a_range_that_ends_before_it_begins_is_refused) {
    World world;
    Memory local(64, 1);
    const auto *top = reinterpret_cast<const void *>(UINTPTR_MAX - 10);
    CHECK_EQ(world.move(TENT_OP_WRITE, local.data(), top, 64), TENT_E_RANGE);
    CHECK_EQ(world.target_host.checks, 0u);
}

TEST(bytes_that_changed_on_the_way_end_as_corrupt) {
    for (const uint32_t op : {TENT_OP_WRITE, TENT_OP_READ}) {
        World world;
        Memory local(3 * CHUNK_SIZE), remote(3 * CHUNK_SIZE);
        world.target_host.grant(remote.data(), remote.size());
        CHECK(world.post(op, local.data(), remote.data(), local.size(), TENT_SLICE_INTEGRITY));
        ring_step(world.from);
        if (op == TENT_OP_WRITE) {
            ring_arena(&world.shared())[CHUNK_SIZE + 5] ^= 1;
        } else {
            ring_serve(world.to);
            ring_arena(&world.shared())[CHUNK_SIZE + 5] ^= 1;
        }
        CHECK(world.settle());
        CHECK_EQ(world.log.statuses[0], TENT_E_CORRUPT);
        CHECK_EQ(world.move(op, local.data(), remote.data(), 100, TENT_SLICE_INTEGRITY), TENT_OK);
    }
}

// ---- ends ---------------------------------------------------------------------------------------

TEST(stopping_ends_every_slice_once_and_leaves_our_memory_alone) {
    World world;
    const size_t size = 2 * CHUNK_SIZE;
    Memory local(4 * size, 1), remote(4 * size, 2);
    world.target_host.grant(remote.data(), remote.size());
    for (size_t i = 0; i < 4; i++)
        CHECK(world.post(TENT_OP_READ, &local[i * size], &remote[i * size], size));
    ring_step(world.from);
    ring_serve(world.to);  // the results are there, nobody has taken them
    ring_stop(world.from, TENT_E_CANCELLED);
    ring_stop(world.from, TENT_E_PEER);
    CHECK(!ring_left(world.from));
    CHECK(!ring_step(world.from));
    CHECK(!world.post(TENT_OP_READ, local.data(), remote.data(), size));
    CHECK(world.settle());
    CHECK_EQ(count_of(world, TENT_E_CANCELLED), 4u);
    CHECK(local == Memory(4 * size, 1));
}

TEST(after_the_target_let_go_nothing_lands) {
    World world;
    Memory local(CHUNK_SIZE, 1), remote(CHUNK_SIZE, 2);
    world.target_host.grant(remote.data(), remote.size());
    CHECK(world.post(TENT_OP_WRITE, local.data(), remote.data(), local.size()));
    ring_step(world.from);
    ring_target_free(world.to.ring_target);
    world.to.ring_target = nullptr;
    CHECK(!ring_serve(world.to));
    CHECK(!ring_step(world.from));
    CHECK(ring_left(world.from));
    CHECK(remote == Memory(CHUNK_SIZE, 2));
}

// ---- who wakes whom -----------------------------------------------------------------------------

TEST(a_bell_is_due_to_a_sleeper_alone_and_once) {
    World world;
    Memory local(8), remote(8);
    world.target_host.grant(remote.data(), 8);
    CHECK(world.post(TENT_OP_WRITE, local.data(), remote.data(), 8));
    ring_step(world.from);
    CHECK(!ring_bell_due(world.from));  // nobody sleeps
    ring_serve(world.to);
    CHECK(!ring_bell_due(world.to));
    ring_step(world.from);
    world.collect();

    CHECK(!ring_sleep(world.to));
    CHECK(!ring_sleep(world.from));
    CHECK(!ring_bell_due(world.from));  // nothing waits for it
    CHECK(world.post(TENT_OP_WRITE, local.data(), remote.data(), 8));
    ring_step(world.from);
    CHECK(ring_bell_due(world.from));
    CHECK(!ring_bell_due(world.from));
    CHECK(!ring_sleep(world.from));
    ring_serve(world.to);
    CHECK(ring_bell_due(world.to));
    CHECK(!ring_bell_due(world.to));
    ring_step(world.from);
    CHECK(world.settle());
}

TEST(who_has_something_to_do_does_not_sleep) {
    World world;
    Memory local(8), remote(8);
    world.target_host.grant(remote.data(), 8);
    CHECK(world.post(TENT_OP_WRITE, local.data(), remote.data(), 8));
    CHECK(ring_sleep(world.from));  // a slice that has not left
    ring_step(world.from);
    CHECK(!ring_sleep(world.from));
    CHECK(ring_sleep(world.to));  // a piece to serve
    ring_serve(world.to);
    CHECK(!ring_sleep(world.to));
    CHECK(ring_sleep(world.from));  // a result to take
    CHECK(world.settle());
    CHECK(!ring_sleep(world.from));
}

namespace {

// A side that sleeps as soon as it may, and is woken by the other side's bell alone: a lost one
// hangs the test.
struct Bells {
    sem_t target, initiator;
    Bells() {
        sem_init(&target, 0, 0);
        sem_init(&initiator, 0, 0);
    }
    ~Bells() {
        sem_destroy(&target);
        sem_destroy(&initiator);
    }
};

// So that the moments at which one side publishes and the other lies down meet in all ways.
void idle_for(uint64_t turns) {
    for (std::atomic<uint64_t> left = turns; left.load() > 0; left.fetch_sub(1)) {
    }
}

// A bell that was rung for an earlier sleep must not make up for one that is missing now.
void lie_down(Endpoint &endpoint, sem_t &bell, const std::atomic<bool> &over) {
    while (sem_trywait(&bell) == 0) {
    }
    if (!ring_sleep(endpoint) && !over.load()) sem_wait(&bell);
}

}  // namespace

TEST(no_wake_up_is_lost_between_two_sides_that_sleep_whenever_they_can) {
    constexpr uint32_t ROUNDS = 30'000;
    World world;
    if (!CHECK(world.stands())) return;
    world.share_mapping();
    Memory local(4 * CHUNK_SIZE), remote(4 * CHUNK_SIZE);
    world.target_host.grant(remote.data(), remote.size());
    Bells bells;
    std::atomic<bool> over{false};
    const uint64_t seed = new_seed();
    std::thread target([&] {
        tent::Random random;
        random.seed(seed + 1);
        while (!over.load(std::memory_order_acquire)) {
            const bool moved = ring_serve(world.to);
            if (ring_bell_due(world.to)) sem_post(&bells.initiator);
            if (moved) continue;
            idle_for(random.below(400));
            lie_down(world.to, bells.target, over);
        }
    });
    tent::Random random;
    random.seed(seed);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const bool sleeps = random.below(16) == 0;
        for (uint64_t count = 1 + random.below(3); count > 0; count--)
            world.post(TENT_OP_WRITE, local.data(), remote.data(),
                       random.below(50) == 0 ? local.size() : 8);
        while (ring_left(world.from)) {
            const bool moved = ring_step(world.from);
            if (ring_bell_due(world.from)) sem_post(&bells.target);
            if (sleeps && !moved && ring_left(world.from))
                lie_down(world.from, bells.initiator, over);
        }
        world.collect();
    }
    over.store(true, std::memory_order_release);
    sem_post(&bells.target);
    target.join();
    CHECK_EQ(world.log.returned, static_cast<uint32_t>(world.log.statuses.size()));
    CHECK_EQ(count_of(world, TENT_OK), world.log.returned);
}
