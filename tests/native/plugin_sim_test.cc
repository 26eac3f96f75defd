// The simulated fabric by its contract: exact times, queues, cuts, schedules, faults and fences.
//
// Leans on sim_world.h. A rail of 1 GB/s carries one byte per nanosecond, so that every expected
// time can be added up by hand.
#include <atomic>
#include <cstdlib>

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
