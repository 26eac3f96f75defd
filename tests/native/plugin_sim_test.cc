// The simulated fabric by its contract: exact times, queues, cuts, schedules, faults and fences.
//
// Leans on sim_world.h. A rail of 1 GB/s carries one byte per nanosecond, so that every expected
// time can be added up by hand.
#include "sim_world.h"

using namespace sim_world;

TEST(a_lone_write_takes_its_bytes_and_the_latency) {
    Simple world;
    const uint64_t begin_ns = world.now_ns;
    const uint64_t id = world.write(64 * 1024);
    CHECK_EQ(world.end_of(world.lane, id) - begin_ns, 64u * 1024 + 10 * US);
    CHECK_EQ(world.status(world.lane, id), TENT_OK);
    CHECK(world.arrived(64 * 1024));
    CHECK_EQ(world.to.side.host.served_write, 64u * 1024);
    CHECK_EQ(world.counters(world.rail_b).landed_bytes, 64u * 1024);
}

TEST(a_lone_read_takes_the_same) {
    Simple world;
    world.remote.assign(world.remote.size(), 9);
    const uint64_t begin_ns = world.now_ns;
    const uint64_t id = world.read(1000);
    CHECK_EQ(world.end_of(world.lane, id) - begin_ns, 1000u + 10 * US);
    CHECK(world.arrived(1000));
    CHECK_EQ(world.local[1000], static_cast<uint8_t>(1000 * 7 + 1));
    CHECK_EQ(world.to.side.host.served_read, 1000u);
    CHECK_EQ(world.counters(world.rail_a).landed_bytes, 1000u);
}

TEST(a_write_lands_half_a_latency_before_its_end) {
    Simple world;
    const uint64_t begin_ns = world.now_ns;
    world.write(1000);
    world.run(begin_ns + 1000 + 5 * US - 1);
    CHECK(!world.arrived(1000));
    world.run(begin_ns + 1000 + 5 * US);
    CHECK(world.arrived(1000));
    CHECK_EQ(world.from.side.returned, 0u);
}

TEST(slices_of_one_rail_queue_in_order) {
    Simple world;
    const uint64_t begin_ns = world.now_ns;
    const uint64_t first = world.write(3000), second = world.write(1000, 4096);
    CHECK_EQ(world.end_of(world.lane, first) - begin_ns, 3000 + 10 * US);
    CHECK_EQ(world.end_of(world.lane, second) - begin_ns, 4000 + 10 * US);
}

TEST(a_slow_receiver_sets_the_time) {
    RailOptions slow;
    slow.rate = constant(GB / 4);
    Simple world({}, slow);
    const uint64_t begin_ns = world.now_ns;
    CHECK_EQ(world.end_of(world.lane, world.write(1000)) - begin_ns, 4000 + 10 * US);
}

TEST(a_path_has_the_larger_latency_of_its_rails) {
    RailOptions far;
    far.latency_ns = 31 * US + 1;
    Simple world({}, far);
    const uint64_t begin_ns = world.now_ns;
    CHECK_EQ(world.end_of(world.lane, world.write(1000)) - begin_ns, 1000 + 31 * US + 1);
    const uint64_t again_ns = world.now_ns;
    CHECK_EQ(world.end_of(world.lane, world.read(1000)) - again_ns, 1000 + 31 * US + 1);
}

TEST(rails_are_full_duplex) {
    Simple world;
    Lane &back = world.join(world.to, world.from);
    world.from.side.host.grant(world.local.data(), world.local.size());
    const uint64_t begin_ns = world.now_ns;
    const uint64_t there = world.write(50000);
    const uint64_t here =
        world.post(back, TENT_OP_WRITE, world.remote.data() + 65536, &world.local[65536], 50000);
    CHECK_EQ(world.end_of(world.lane, there) - begin_ns, 50000 + 10 * US);
    CHECK_EQ(world.end_of(back, here) - begin_ns, 50000 + 10 * US);
}

TEST(incast_queues_at_the_receiver) {
    Simple world;
    world.rail(world.host("c"), "0");
    Node &other = world.node("c/0");
    Lane &lane = world.join(other, world.to);
    const uint64_t begin_ns = world.now_ns;
    const uint64_t first = world.write(20000);
    const uint64_t second =
        world.post(lane, TENT_OP_WRITE, world.local.data(), &world.remote[65536], 20000);
    CHECK_EQ(world.end_of(world.lane, first) - begin_ns, 20000 + 10 * US);
    CHECK_EQ(world.end_of(lane, second) - begin_ns, 40000 + 10 * US);
}

TEST(a_slow_sender_does_not_hold_up_the_receiving_rail) {
    Simple world;
    RailOptions slow;
    slow.rate = constant(GB / 100);
    world.rail(world.host("c"), "0", slow);
    Node &other = world.node("c/0");
    Lane &lane = world.join(other, world.to);
    const uint64_t begin_ns = world.now_ns;
    const uint64_t slower =
        world.post(lane, TENT_OP_WRITE, world.local.data(), &world.remote[65536], 10000);
    world.run(begin_ns + 20 * US);  // its 10 us at rx are over, its bytes are not there
    CHECK_EQ(world.end_of(world.lane, world.write(10000)) - begin_ns, 20 * US + 10000 + 10 * US);
    CHECK_EQ(world.end_of(lane, slower) - begin_ns, 100 * 10000 + 10 * US);
}

namespace {

// Two rails on a and two on b, an endpoint each, and a cut over both rails of a.
struct TwoRails : Simple {
    uint32_t rails[2];
    Node &second_from, &second_to;
    Lane &second;
    int32_t cut;

    explicit TwoRails(uint64_t cut_bytes_per_s, uint32_t flags = 0)
        : rails{rail_a, rail(a, "1")},
          second_from((rail(b, "1"), node("a/1"))),
          second_to(node("b/1")),
          second(join(second_from, second_to)) {
        const tent_sim_bandwidth rate = constant(cut_bytes_per_s);
        cut = tent_sim_cut(sim, rails, 2, flags, &rate);
        CHECK_EQ(cut, 0);
        second_to.side.host.grant(remote.data(), remote.size());
    }
};

}  // namespace

TEST(rails_share_a_cut) {
    TwoRails world(GB);
    const uint64_t begin_ns = world.now_ns;
    const uint64_t first = world.write(8000);
    const uint64_t second = world.post(world.second, TENT_OP_WRITE, world.local.data() + 8000,
                                       &world.remote[8000], 8000);
    CHECK_EQ(world.end_of(world.lane, first) - begin_ns, 8000 + 10 * US);
    CHECK_EQ(world.end_of(world.second, second) - begin_ns, 16000 + 10 * US);
    CHECK(world.arrived(16000));
    CHECK_EQ(tent_sim_cut_capacity(world.sim, 0, 5, 105), 100u);
}

TEST(the_directions_of_a_cut_are_apart_unless_it_is_shared) {
    for (const uint32_t flags : {0u, uint32_t{TENT_SIM_CUT_SHARED}}) {
        TwoRails world(GB / 10, flags);
        const uint64_t begin_ns = world.now_ns;
        const uint64_t out = world.write(1000);
        const uint64_t in = world.post(world.second, TENT_OP_READ, world.local.data() + 8000,
                                       &world.remote[8000], 1000);
        CHECK_EQ(world.end_of(world.lane, out) - begin_ns, 10000 + 10 * US);
        // The read's bytes reach the cut after 10 us, when the write has just left it.
        CHECK_EQ(world.end_of(world.second, in) - begin_ns, 10000 + 10 * US);
    }
    TwoRails world(GB / 20, TENT_SIM_CUT_SHARED);
    const uint64_t begin_ns = world.now_ns;
    world.write(1000);  // in the shared cut until 20 us
    const uint64_t in = world.post(world.second, TENT_OP_READ, world.local.data() + 8000,
                                   &world.remote[8000], 1000);
    CHECK_EQ(world.end_of(world.second, in) - begin_ns, 40 * US);
}

TEST(a_cut_can_be_changed_and_stand_still) {
    TwoRails world(0);
    const uint64_t id = world.write(1000);
    world.run(world.now_ns + 10 * MS);
    CHECK_EQ(world.status(world.lane, id), TENT_IN_PROGRESS);
    const tent_sim_bandwidth rate = constant(GB);
    CHECK_EQ(tent_sim_cut_set(world.sim, 0, &rate), TENT_OK);
    const uint64_t begin_ns = world.now_ns;
    CHECK_EQ(world.end_of(world.lane, id) - begin_ns, 1000 + 10 * US);
}

TEST(no_time_is_lost_between_slices_of_one_byte) {
    RailOptions fast;
    fast.rate = constant(25 * GB);
    Simple world(fast);
    const uint64_t begin_ns = world.now_ns;
    uint64_t last = 0;
    for (uint64_t i = 0; i < 250; i++)
        last = world.write(1, i);
    CHECK_EQ(world.end_of(world.lane, last) - begin_ns, 10 + 10 * US);
    CHECK(world.arrived(250));
}

TEST(changing_a_rate_retimes_the_slice_in_service) {
    Simple world;
    const uint64_t begin_ns = world.now_ns;
    const uint64_t id = world.write(10000);
    world.run(begin_ns + 4000);
    RailOptions slow;
    slow.rate = constant(GB / 10);
    CHECK_EQ(tent_sim_rail_set(world.sim, world.rail_a, &slow), TENT_OK);
    CHECK_EQ(world.end_of(world.lane, id) - begin_ns, 4000 + 60000 + 10 * US);
    CHECK_EQ(tent_sim_rail_capacity(world.sim, world.rail_a, begin_ns, begin_ns + 64000), 10000u);
}

TEST(a_rail_without_bandwidth_holds_what_is_queued) {
    RailOptions still;
    still.rate = constant(0);
    Simple world(still, RailOptions());
    const uint64_t id = world.write(1000);
    world.run(world.now_ns + 100 * MS);
    CHECK_EQ(world.status(world.lane, id), TENT_IN_PROGRESS);
    CHECK_EQ(world.counters(world.rail_a).queued_bytes, 1000u);
    CHECK_EQ(tent_sim_next_event_ns(world.sim), UINT64_MAX);
    const RailOptions going;
    CHECK_EQ(tent_sim_rail_set(world.sim, world.rail_a, &going), TENT_OK);
    const uint64_t begin_ns = world.now_ns;
    CHECK_EQ(world.end_of(world.lane, id) - begin_ns, 1000 + 10 * US);
    CHECK_EQ(world.counters(world.rail_a).queued_bytes, 0u);
}

TEST(a_slice_passes_the_phases_of_a_flapping_rail) {
    RailOptions flaps;
    flaps.rate = flapping(GB, GB / 10, 2000, T0 % 2000);
    Simple world(flaps, RailOptions());
    world.run((world.now_ns / 2000 + 1) * 2000);  // a period begins
    const uint64_t begin_ns = world.now_ns;
    // 1100 bytes a period; the 2900 left after two of them need 1000 + 1000 * 0.1 + 1000 more.
    const uint64_t id = world.write(2200 + 1000 + 100 + 500);
    CHECK_EQ(world.end_of(world.lane, id) - begin_ns, 3 * 2000 + 500 + 10 * US);
}

TEST(capacities_are_the_integrals_of_bandwidths) {
    World world;
    RailOptions options;
    options.rate = flapping(GB, GB / 5, 1000, 300);
    const uint32_t flaps = world.rail(world.host("a"), "0", options);
    const std::vector<tent_sim_point> points{{100, GB}, {200, 0}, {250, 3 * GB}};
    options.rate = piecewise(points);
    const uint32_t steps = world.rail(world.host("b"), "0", options);
    auto rate_at = [&](uint32_t rail, uint64_t t) {  // bytes per ns times 5
        if (rail == flaps) return (t + 300) % 1000 < 500 ? 5u : 1u;
        return t < 200 ? 5u : t < 250 ? 0u : 15u;
    };
    uint64_t seed = 7;
    for (int i = 0; i < 200; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const uint64_t begin = (seed >> 33) % 3000, end = begin + (seed >> 50) % 2500;
        for (const uint32_t rail : {flaps, steps}) {
            uint64_t sum = 0;
            for (uint64_t t = begin; t < end; t++)
                sum += rate_at(rail, t);
            CHECK_EQ(tent_sim_rail_capacity(world.sim, rail, begin, end), sum / 5);
        }
    }
    CHECK_EQ(tent_sim_rail_capacity(world.sim, flaps, 10, 10), 0u);
    CHECK_EQ(tent_sim_rail_capacity(world.sim, flaps, 20, 10), 0u);
    CHECK_EQ(tent_sim_rail_capacity(world.sim, 99, 0, 10), 0u);
    // Far away and all of time: no loop over the periods, no overflow into nonsense.
    CHECK_EQ(tent_sim_rail_capacity(world.sim, flaps, 1ull << 62, (1ull << 62) + 1000), 600u);
    CHECK_EQ(tent_sim_rail_capacity(world.sim, steps, 0, UINT64_MAX), UINT64_MAX);
}

TEST(time_may_jump_far_ahead) {
    RailOptions flaps;
    flaps.rate = flapping(GB, 0, 1000);
    Simple world(flaps);
    const uint64_t id = world.write(100000);
    world.now_ns += 1ull << 60;
    world.settle();                    // it lands in this poll
    world.run(world.now_ns + 5 * US);  // and is acknowledged from there
    CHECK_EQ(world.status(world.lane, id), TENT_OK);
    CHECK(world.arrived(100000));
}

TEST(time_that_stands_still_ends_nothing_and_hangs_nothing) {
    RailOptions quick;
    quick.latency_ns = 0;
    Simple world(quick);
    for (int i = 0; i < 100; i++)
        world.write(64);
    for (int i = 0; i < 1000; i++)
        world.settle();
    CHECK_EQ(world.from.side.returned, 0u);
    world.run(world.now_ns + 6400);
    CHECK_EQ(world.from.side.returned, 100u);
}

TEST(post_takes_what_there_is_room_for) {
    World world;
    world.rail(world.host("a"), "0");
    world.rail(world.host("b"), "0");
    Node &from = world.node("a/0", 4), &to = world.node("b/0", 4);
    Lane &lane = world.join(from, to);
    char bytes[8] = {};
    to.side.host.grant(bytes, sizeof bytes);
    for (int i = 0; i < 4; i++)
        CHECK(
            from.side.post(lane.near, TENT_OP_WRITE, bytes, reinterpret_cast<uintptr_t>(bytes), 1));
    CHECK(!from.side.post(lane.near, TENT_OP_WRITE, bytes, reinterpret_cast<uintptr_t>(bytes), 1));
    world.run(world.now_ns + MS);
    CHECK_EQ(from.side.returned, 4u);
    CHECK(from.side.post(lane.near, TENT_OP_WRITE, bytes, reinterpret_cast<uintptr_t>(bytes), 1));
    world.run(world.now_ns + MS);
    CHECK_EQ(from.side.returned, 5u);
    CHECK_EQ(from.side.returned_twice, 0u);
}

TEST(refused_accesses_move_no_byte) {
    Simple world;
    std::vector<uint8_t> forbidden(1000, 3);
    world.to.side.host.grant(forbidden.data(), 500, TENT_E_DENIED);
    uint64_t begin_ns = world.now_ns;
    uint64_t id = world.post(world.lane, TENT_OP_WRITE, world.local.data(), forbidden.data(), 500);
    CHECK_EQ(world.end_of(world.lane, id) - begin_ns, 500 + 10 * US);
    CHECK_EQ(world.status(world.lane, id), TENT_E_DENIED);
    begin_ns = world.now_ns;
    id = world.post(world.lane, TENT_OP_READ, world.local.data(), forbidden.data(), 1000);
    CHECK_EQ(world.end_of(world.lane, id) - begin_ns, 10 * US);
    CHECK_EQ(world.status(world.lane, id), TENT_E_RANGE);
    CHECK(forbidden == std::vector<uint8_t>(1000, 3));
    CHECK_EQ(world.local[5], static_cast<uint8_t>(5 * 7 + 1));
    CHECK_EQ(world.to.side.host.served_write + world.to.side.host.served_read, 0u);
}

TEST(without_bytes_only_times_are_simulated) {
    Simple world({}, 1, TENT_SIM_NO_BYTES);
    const uint64_t begin_ns = world.now_ns;
    CHECK_EQ(world.end_of(world.lane, world.write(64)) - begin_ns, 64 + 10 * US);
    CHECK_EQ(world.to.side.host.served_write, 64u);
    CHECK(world.remote == std::vector<uint8_t>(world.remote.size()));
}

namespace {

std::vector<uint64_t> jittered(uint64_t seed) {
    RailOptions options;
    options.jitter_ns = 3 * US;
    Simple world(options, seed);
    std::vector<uint64_t> times;
    for (int i = 0; i < 20; i++) {
        const uint64_t begin_ns = world.now_ns;
        times.push_back(world.end_of(world.lane, world.write(1000)) - begin_ns);
        CHECK(times.back() >= 1000 + 10 * US && times.back() <= 1000 + 13 * US);
    }
    return times;
}

}  // namespace

TEST(chance_comes_from_the_seed_alone) {
    const std::vector<uint64_t> times = jittered(3);
    CHECK(times == jittered(3));
    CHECK(times != jittered(4));
    CHECK(*std::max_element(times.begin(), times.end()) - times[0] > 0);
}

TEST(the_trace_tells_a_slices_life) {
    Simple world;
    const uint64_t begin_ns = world.now_ns;
    const uint64_t id = world.write(1000);
    world.end_of(world.lane, id);
    tent_sim_record records[4];
    uint64_t lost = 9;
    CHECK_EQ(tent_sim_trace(world.sim, 0, records, 4, &lost), 3u);
    CHECK_EQ(lost, 0u);
    const uint32_t kinds[] = {TENT_SIM_TRACE_POST, TENT_SIM_TRACE_LAND, TENT_SIM_TRACE_COMPLETE};
    const uint64_t times[] = {0, 1000 + 5 * US, 1000 + 10 * US};
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(records[i].kind, kinds[i]);
        CHECK_EQ(records[i].time_ns - begin_ns, times[i]);
        CHECK_EQ(records[i].bytes, 1000u);
        CHECK_EQ(records[i].rail, world.rail_a);
        CHECK_EQ(records[i].peer_rail, world.rail_b);
        CHECK_EQ(records[i].op, uint32_t{TENT_OP_WRITE});
    }
    CHECK_EQ(tent_sim_trace(world.sim, 2, records, 1, nullptr), 3u);
    CHECK_EQ(records[0].kind, uint32_t{TENT_SIM_TRACE_COMPLETE});
}
