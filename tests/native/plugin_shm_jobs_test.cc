// The shm transport's jobs: every slice ends once and as it should, whoever copies it; fences hold
// while copies are under way.
#include "plugins/shm/jobs.h"

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "shm_endpoints.h"

using namespace shm_test;

namespace {

constexpr uint32_t WRITE = TENT_OP_WRITE, READ = TENT_OP_READ;

std::vector<char> filled(uint64_t size, int byte) {
    return std::vector<char>(size, static_cast<char>(byte));
}

// A place where copies stop: the checksum of a slice with integrity is taken inside the lane.
struct Gate {
    std::binary_semaphore reached{0}, open{0};
    std::atomic<bool> closed{true};
};
Gate *gate = nullptr;

uint32_t crc32c_at_gate(uint32_t crc, const void *data, uint64_t size) {
    if (gate->closed.exchange(false)) {
        gate->reached.release();
        gate->open.acquire();
    }
    return fake::crc32c(crc, data, size);
}

TEST(small_slices_are_finished_when_post_returns) {
    Engine engine(64, 0, 0);
    Peer peer(engine.instance, 1);
    std::vector<char> local = filled(64 * KIB, 'l'), remote = filled(64 * KIB, 'r');
    for (bool mapped : {true, false}) {
        auto region = peer.region(remote.data(), remote.size(), mapped);
        std::vector<tent_slice> slices;
        for (uint64_t i = 0; i < 16; i++)
            slices.push_back({engine.statuses.size() + i, i < 8 ? WRITE : READ, 0,
                              local.data() + i * 4096, address_of(remote.data() + i * 4096), 4096,
                              nullptr, region.get()});
        CHECK_EQ(engine.post_slices(peer, slices.data(), 16), 16u);
        CHECK(std::string(remote.data(), 32768) == std::string(32768, 'l'));
        CHECK(std::string(local.data() + 32768, 32768) == std::string(32768, 'r'));
        CHECK(!jobs_run(engine.instance));
        CHECK_EQ(engine.collect(5), 5u);
        CHECK_EQ(peer.endpoint.posted, 11u);
        CHECK_EQ(engine.collect(), 11u);
        CHECK(!jobs_left(engine.instance));
        std::fill(remote.begin(), remote.end(), 'r');
    }
    for (int32_t status : engine.statuses)
        CHECK_EQ(status, TENT_OK);
    CHECK_EQ(peer.endpoint.posted, 0u);
    CHECK_EQ(peer.endpoint.moved_bytes.load(), 2u * 16 * 4096);
    CHECK_EQ(peer.board->lanes[0].written_bytes.load(), 2u * 8 * 4096);
    CHECK_EQ(peer.board->lanes[0].read_bytes.load(), 2u * 8 * 4096);
    CHECK_EQ(peer.board->lanes[0].sequence.load() % 2, 0u);
}

TEST(a_slice_that_may_not_be_copied_ends_with_its_reason_and_moves_nothing) {
    Engine engine(64, 0, 0);
    Peer peer(engine.instance, 1);
    std::vector<char> local = filled(256 * KIB, 'l'), remote = filled(256 * KIB, 'r');
    auto region = peer.region(remote.data(), 128 * KIB, true);
    auto read_only = peer.region(remote.data(), 128 * KIB, true, TENT_ACCESS_READ);
    auto foreign = peer.region(remote.data(), 128 * KIB, true);
    foreign->about.instance[3] ^= 1;
    auto outdated = peer.region(remote.data(), 128 * KIB, true);
    outdated->about.generation = GENERATION - 2;
    auto nowhere = peer.region(remote.data(), 128 * KIB, true);
    nowhere->about.slot = NONE;
    for (uint64_t size : {4 * KIB, 128 * KIB}) {
        const size_t first = engine.statuses.size();
        char *from = local.data(), *to = remote.data();
        engine.post(peer, WRITE, from, to, size, *read_only);
        engine.post(peer, WRITE, from, to + 1, 128 * KIB, *region);
        engine.post(peer, WRITE, from, to - 1, size, *region);
        engine.post(peer, WRITE, from, to + 64, UINT64_MAX - 8, *region);
        engine.post(peer, WRITE, from, to, size, *foreign);
        engine.post(peer, WRITE, from, to, size, *outdated);
        engine.post(peer, WRITE, from, to, size, *nowhere);
        peer.board->retired = 1;
        engine.post(peer, WRITE, from, to, size, *region);
        engine.settle();
        peer.board->retired = 0;
        const int32_t wanted[] = {TENT_E_DENIED, TENT_E_RANGE, TENT_E_RANGE,     TENT_E_RANGE,
                                  TENT_E_STALE,  TENT_E_RANGE, TENT_E_TRANSPORT, TENT_E_TRANSPORT};
        for (size_t i = 0; i < 8; i++) {
            // What is queued meets the retired board, too.
            const bool late = i == 5 && size > 64 * KIB;
            CHECK_EQ(engine.statuses[first + i], late ? TENT_E_TRANSPORT : wanted[i]);
        }
    }
    CHECK(remote == filled(256 * KIB, 'r'));
    CHECK_EQ(peer.endpoint.moved_bytes.load(), 0u);
    CHECK_EQ(peer.board->lanes[0].written_bytes.load(), 0u);
}

TEST(a_full_queue_takes_a_prefix_and_more_when_results_were_collected) {
    Engine engine(4, 0, 0);
    Peer peer(engine.instance, 1);
    std::vector<char> local = filled(2 * MIB, 'l'), remote = filled(2 * MIB, 'r');
    auto region = peer.region(remote.data(), remote.size(), true);
    std::vector<tent_slice> slices;
    for (uint64_t i = 0; i < 8; i++)
        slices.push_back({i, WRITE, 0, local.data() + i * 200000,
                          address_of(remote.data() + i * 200000), 200000, nullptr, region.get()});
    CHECK_EQ(engine.post_slices(peer, slices.data(), 8), 4u);
    CHECK_EQ(engine.post_slices(peer, slices.data() + 4, 4), 0u);
    while (jobs_run(engine.instance))
        continue;
    CHECK_EQ(engine.post_slices(peer, slices.data() + 4, 4), 0u);
    CHECK_EQ(engine.collect(1), 1u);
    CHECK_EQ(engine.post_slices(peer, slices.data() + 4, 4), 1u);
    engine.settle();
    CHECK_EQ(engine.returned, 5u);
    CHECK_EQ(engine.returned_twice, 0u);
    CHECK(std::string(remote.data(), 1000000) == std::string(1000000, 'l'));
    CHECK_EQ(remote[1000000], 'r');
}

TEST(a_wrong_checksum_ends_the_slice_as_corrupt) {
    Engine engine(64, 0, 0);
    Peer peer(engine.instance, 1);
    static std::atomic<uint32_t> calls;
    calls = 0;
    engine.host.table.crc32c = [](uint32_t crc, const void *data, uint64_t size) {
        return fake::crc32c(crc, data, size) ^ (++calls > 8 ? calls.load() : 0);
    };
    std::vector<char> local = filled(300 * KIB, 'l'), remote = filled(300 * KIB, 'r');
    for (int round = 0; round < 2; round++)
        for (bool mapped : {true, false}) {
            auto region = peer.region(remote.data(), remote.size(), mapped);
            for (uint32_t op : {WRITE, READ})
                engine.post(peer, op, local.data(), remote.data(), 5000, *region,
                            TENT_SLICE_INTEGRITY);
            engine.settle();
        }
    for (size_t i = 0; i < 8; i++)
        CHECK_EQ(engine.statuses[i], i < 4 ? TENT_OK : TENT_E_CORRUPT);
    // In pieces, and by more than one buffer.
    calls = 9;
    auto region = peer.region(remote.data(), remote.size(), false);
    engine.post(peer, READ, local.data(), remote.data(), 300 * KIB, *region, TENT_SLICE_INTEGRITY);
    engine.settle();
    CHECK_EQ(engine.statuses.back(), TENT_E_CORRUPT);
}

TEST(helpers_are_called_for_what_the_driver_cannot_take_next_and_not_twice) {
    Engine engine(64, 3, 0);
    Peer peer(engine.instance, 1);
    std::vector<char> local = filled(4 * MIB, 'l'), remote = filled(4 * MIB, 'r');
    auto region = peer.region(remote.data(), remote.size(), true);
    engine.post(peer, WRITE, local.data(), remote.data(), 256 * KIB, *region);
    CHECK_EQ(engine.called.load(), 0u);
    engine.post(peer, WRITE, local.data(), remote.data(), 1 * MIB, *region);
    CHECK_EQ(engine.called.load(), 1u);
    engine.post(peer, WRITE, local.data(), remote.data(), 4 * MIB, *region);
    CHECK_EQ(engine.called.load(), 3u);
    engine.post(peer, WRITE, local.data(), remote.data(), 1 * MIB, *region);
    CHECK_EQ(engine.called.load(), 3u);
    CHECK_EQ(jobs_work(engine.instance, 0), 1u);
    CHECK_EQ(jobs_work(engine.instance, 2), 1u);
    CHECK(jobs_run(engine.instance));
    CHECK_EQ(engine.called.load(), 3u);
    while (jobs_work(engine.instance, 0) != 0)
        continue;
    // One has gone to sleep, one was called and has not come, one goes on.
    engine.post(peer, WRITE, local.data(), remote.data(), 4 * MIB, *region);
    CHECK_EQ(engine.called.load(), 4u);
    engine.settle();
    CHECK_EQ(jobs_work(engine.instance, 2), 0u);
    CHECK_EQ(jobs_work(engine.instance, 3), 0u);
    CHECK_EQ(engine.returned, 5u);
}

TEST(a_stopped_endpoint_is_quiet_at_once_when_nobody_copies) {
    Engine engine(64, 1, 0);
    Peer peer(engine.instance, 1), other(engine.instance, 2);
    std::vector<char> local = filled(2 * MIB, 'l'), remote = filled(4 * MIB, 'r');
    auto region = peer.region(remote.data(), 2 * MIB, true);
    auto others = other.region(remote.data() + 2 * MIB, 2 * MIB, true);
    for (int i = 0; i < 3; i++) {
        engine.post(peer, WRITE, local.data(), remote.data(), 2 * MIB, *region);
        engine.post(other, WRITE, local.data(), remote.data() + 2 * MIB, 2 * MIB, *others);
    }
    CHECK(jobs_name(engine.instance, *region));
    peer.endpoint.stopping = true;
    CHECK(jobs_quiet(engine.instance, peer.endpoint));
    CHECK(!jobs_name(engine.instance, *region));
    CHECK(jobs_name(engine.instance, *others));
    engine.settle();
    for (size_t i = 0; i < 6; i++)
        CHECK_EQ(engine.statuses[i], i % 2 == 0 ? TENT_E_CANCELLED : TENT_OK);
    CHECK(std::string(remote.data(), 2 * MIB) == std::string(2 * MIB, 'r'));
    CHECK(std::string(remote.data() + 2 * MIB, 2 * MIB) == std::string(2 * MIB, 'l'));
    CHECK_EQ(peer.endpoint.posted + other.endpoint.posted, 0u);
}

TEST(a_stopped_endpoint_waits_for_the_helper_that_copies_and_for_no_other_piece) {
    Engine engine(64, 1, 1);
    Peer peer(engine.instance, 1);
    Gate here;
    gate = &here;
    engine.host.table.crc32c = crc32c_at_gate;
    std::vector<char> local = filled(2 * MIB, 'l'), remote = filled(2 * MIB, 'r');
    auto region = peer.region(remote.data(), remote.size(), true);
    engine.post(peer, WRITE, local.data(), remote.data(), 2 * MIB, *region, TENT_SLICE_INTEGRITY);
    here.reached.acquire();
    peer.endpoint.stopping = true;
    CHECK(!jobs_quiet(engine.instance, peer.endpoint));
    CHECK(!jobs_quiet(engine.instance, peer.endpoint));
    here.open.release();
    while (!jobs_quiet(engine.instance, peer.endpoint))
        std::this_thread::yield();
    // Quiet means that what we see now is all there will be.
    const std::vector<char> then = remote;
    CHECK_EQ(then[0], 'l');
    CHECK_EQ(then[256 * KIB], 'r');
    engine.settle();
    CHECK_EQ(engine.statuses[0], TENT_E_CANCELLED);
    CHECK_EQ(engine.returned, 1u);
    CHECK(remote == then);
}

TEST(a_copy_under_way_counts_as_progress_and_a_slice_that_waits_does_not) {
    Engine engine(64, 1, 0);
    Peer peer(engine.instance, 1);
    Gate here;
    gate = &here;
    engine.host.table.crc32c = crc32c_at_gate;
    std::vector<char> local = filled(200 * KIB, 'l'), remote = filled(200 * KIB, 'r');
    auto region = peer.region(remote.data(), remote.size(), true);
    engine.post(peer, WRITE, local.data(), remote.data(), 200 * KIB, *region, TENT_SLICE_INTEGRITY);
    const auto progress = [&] { return endpoint_progress(&engine.instance, &peer.endpoint); };
    CHECK_EQ(progress(), uint64_t{0});
    CHECK_EQ(progress(), uint64_t{0});
    std::thread helper([&] { jobs_work(engine.instance, 0); });
    here.reached.acquire();
    uint64_t before = 0;
    for (int i = 0; i < 3; i++) {
        const uint64_t now = progress();
        CHECK(now > before);
        before = now;
    }
    here.open.release();
    helper.join();
    engine.settle();
    CHECK(progress() >= before + 200 * KIB);
    CHECK_EQ(progress(), progress());
}

TEST(results_of_a_helper_come_back_though_the_driver_fills_the_room) {
    Engine engine(64, 1, 0);
    Peer peer(engine.instance, 1);
    std::vector<char> local = filled(200 * KIB, 'l'), remote = filled(200 * KIB, 'r');
    auto region = peer.region(remote.data(), remote.size(), true);
    engine.post(peer, WRITE, local.data(), remote.data(), 200 * KIB, *region);
    CHECK_EQ(jobs_work(engine.instance, 0), 1u);
    for (int i = 0; i < 4; i++) {
        engine.post(peer, WRITE, local.data(), remote.data(), 4096, *region);
        engine.collect(1);
    }
    CHECK_EQ(engine.statuses[0], TENT_OK);
    engine.settle();
}

TEST(a_retiring_target_waits_for_the_copy_that_is_under_way_and_sees_no_later_one) {
    Engine engine(64, 1, 1);
    Peer peer(engine.instance, 1);
    Gate here;
    gate = &here;
    engine.host.table.crc32c = crc32c_at_gate;
    std::vector<char> local = filled(2 * MIB, 'l'), remote = filled(2 * MIB, 'r');
    auto region = peer.region(remote.data(), remote.size(), true);
    engine.post(peer, WRITE, local.data(), remote.data(), 2 * MIB, *region, TENT_SLICE_INTEGRITY);
    here.reached.acquire();
    peer.board->retired = 1;
    LaneView view;
    lanes_note(*peer.board, &view);
    CHECK(!lanes_quiet(*peer.board, view));
    here.open.release();
    while (!lanes_quiet(*peer.board, view))
        std::this_thread::yield();
    std::fill(remote.begin(), remote.end(), 'p');
    engine.settle();
    CHECK_EQ(engine.statuses[0], TENT_E_TRANSPORT);
    CHECK(remote == filled(2 * MIB, 'p'));
}

TEST(what_a_helper_has_claimed_but_not_begun_ends_with_the_endpoint) {
    for (bool stopped : {true, false}) {
        Engine engine(64, 1, 0);
        Peer peer(engine.instance, 1);
        Gate here;
        gate = &here;
        engine.host.table.crc32c = crc32c_at_gate;
        std::vector<char> local = filled(300 * KIB, 'l'), remote = filled(300 * KIB, 'r');
        auto region = peer.region(remote.data(), remote.size(), true);
        for (uint64_t i = 0; i < 3; i++)
            engine.post(peer, WRITE, &local[i * 100 * KIB], &remote[i * 100 * KIB], 100 * KIB,
                        *region, TENT_SLICE_INTEGRITY);
        std::thread helper([&] { jobs_work(engine.instance, 0); });
        here.reached.acquire();
        if (stopped)
            peer.endpoint.stopping = true;
        else
            peer.board->retired = 1;
        here.open.release();
        helper.join();
        CHECK_EQ(engine.collect(), 3u);
        const int32_t wanted = stopped ? TENT_E_CANCELLED : TENT_E_TRANSPORT;
        CHECK_EQ(engine.statuses[0], TENT_OK);
        CHECK_EQ(engine.statuses[1], wanted);
        CHECK_EQ(engine.statuses[2], wanted);
        CHECK_EQ(remote[100 * KIB - 1], 'l');
        CHECK_EQ(remote[100 * KIB], 'r');
    }
}

uint64_t written(const Board &board) {
    uint64_t sum = 0;
    for (const Lane &lane : board.lanes)
        sum += lane.written_bytes.load(std::memory_order_relaxed);
    return sum;
}

// The target ends the region after so many bytes, waits, and uses its memory for something else.
void poison_when(Peer &peer, uint64_t after_bytes, std::vector<char> &memory,
                 std::atomic<bool> &ended) {
    while (written(*peer.board) < after_bytes)
        std::this_thread::yield();
    peer.table->generations[PLACE].fetch_add(1);
    ended = true;
    LaneView view;
    lanes_note(*peer.board, &view);
    while (!lanes_quiet(*peer.board, view))
        std::this_thread::yield();
    std::fill(memory.begin(), memory.end(), 'p');
}

TEST(no_byte_arrives_after_the_fence_of_a_region_that_ended_in_mid_copy) {
    const uint64_t seed = std::random_device{}();
    printf("seed %llu ", static_cast<unsigned long long>(seed));
    std::mt19937_64 random(seed);
    constexpr uint32_t COUNT = 100, LATE = 5;
    for (int round = 0; round < 36; round++) {
        Engine engine(64, 2, 2);
        Peer peer(engine.instance, 1);
        engine.instance.options.nontemporal_min = round % 2 == 0 ? 0 : UINT64_MAX;
        const uint64_t size = (round % 3 == 0 ? 16 : 130) * KIB, whole = COUNT * size;
        std::vector<char> local = filled(size, 'l'), remote = filled(whole, 'r');
        auto region = peer.region(remote.data(), remote.size(), round % 4 != 3);
        std::atomic<bool> ended{false};
        std::thread target([&, after = 1 + random() % (whole - LATE * size)] {
            poison_when(peer, after, remote, ended);
        });
        for (uint32_t i = 0; i < COUNT; i++) {
            // Most race with the target; the last ones are late for certain.
            while (i >= COUNT - LATE && !ended) {
                if (!jobs_run(engine.instance) && engine.collect() == 0) std::this_thread::yield();
            }
            while (!engine.post(peer, WRITE, local.data(), &remote[i * size], size, *region)) {
                jobs_run(engine.instance);
                engine.collect();
            }
        }
        engine.settle();
        target.join();
        CHECK_EQ(engine.returned, COUNT);
        uint32_t late = 0;
        for (int32_t status : engine.statuses) {
            CHECK(status == TENT_OK || status == TENT_E_RANGE);
            late += status == TENT_E_RANGE;
        }
        CHECK(late >= LATE && late < COUNT);
        if (!CHECK(remote == filled(whole, 'p'))) return;
    }
}

// A slice of the random test, and what it has to do to a model of both memories.
struct Planned {
    uint32_t op;
    uint64_t at, length;
};

void random_posts(uint64_t seed, uint32_t helpers, bool mapped, uint64_t nontemporal_min) {
    std::mt19937_64 random(seed);
    Engine engine(32, helpers, helpers);
    engine.instance.options.nontemporal_min = nontemporal_min;
    Peer peers[2] = {{engine.instance, 1}, {engine.instance, 2}};
    constexpr uint64_t SIZE = 12 * MIB;
    std::vector<char> local(SIZE), remote(SIZE);
    for (uint64_t i = 0; i < SIZE; i += 8) {
        const uint64_t a = random(), b = random();
        memcpy(&local[i], &a, 8);
        memcpy(&remote[i], &b, 8);
    }
    std::vector<char> local_wanted = local, remote_wanted = remote;
    auto region = peers[0].region(remote.data(), SIZE, mapped);
    // Ranges do not overlap: slices end in any order.
    std::vector<tent_slice> slices;
    for (uint64_t at = 0;;) {
        const uint64_t most = uint64_t{1} << (random() % 22);
        const Planned next{random() % 2 == 0 ? WRITE : READ, at + random() % 300,
                           1 + random() % most};
        if (next.at + next.length > SIZE) break;
        auto &to = next.op == WRITE ? remote_wanted : local_wanted;
        const auto &from = next.op == WRITE ? local : remote;
        memcpy(&to[next.at], &from[next.at], next.length);
        slices.push_back({slices.size(), next.op, random() % 8 == 0 ? TENT_SLICE_INTEGRITY : 0,
                          &local[next.at], address_of(&remote[next.at]), next.length, nullptr,
                          region.get()});
        at = next.at + next.length;
    }
    for (size_t begin = 0; begin < slices.size();) {
        const size_t most = std::min<size_t>(1 + random() % 20, slices.size() - begin);
        begin +=
            engine.post_slices(peers[random() % 2], &slices[begin], static_cast<uint32_t>(most));
        if (random() % 4 == 0) jobs_run(engine.instance);
        engine.collect(static_cast<uint32_t>(random() % 10));
    }
    engine.settle();
    CHECK_EQ(engine.returned, slices.size());
    CHECK_EQ(engine.returned_twice, 0u);
    for (int32_t status : engine.statuses)
        CHECK_EQ(status, TENT_OK);
    CHECK(local == local_wanted);
    CHECK(remote == remote_wanted);
    CHECK_EQ(peers[0].endpoint.posted + peers[1].endpoint.posted, 0u);
}

TEST(random_posts_end_once_each_and_move_what_a_model_says) {
    const uint64_t seed = std::random_device{}();
    printf("seed %llu ", static_cast<unsigned long long>(seed));
    for (uint32_t helpers : {0, 1, 3})
        for (bool mapped : {true, false})
            random_posts(seed + helpers, helpers, mapped, mapped ? 0 : MIB);
}

}  // namespace
