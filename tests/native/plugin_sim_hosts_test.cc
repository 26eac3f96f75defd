// What becomes of a host's processes on the simulated fabric: frozen, killed, without power; and
// accesses that no engine would post.
//
// Leans on sim_world.h. A process that stands still is one that nobody polls.
#include "sim_world.h"

using namespace sim_world;

namespace {

struct Hosts : Simple {
    Hosts() : Simple() {}
    void set(uint32_t host, uint32_t state, uint32_t flags = 0) {
        CHECK_EQ(tent_sim_host_state(sim, host, state, flags), TENT_OK);
    }
    // Only the initiator is polled.
    void run_alone(uint64_t until_ns) {
        while (now_ns < until_ns) {
            now_ns = std::min(until_ns, std::max(now_ns + 1, now_ns + US));
            from.side.host.now_ns = now_ns;
            from.side.poll();
        }
    }
};

}  // namespace

TEST(a_frozen_process_lets_nothing_land_until_it_runs_again) {
    Hosts world;
    world.set(world.b, TENT_SIM_HOST_FROZEN);
    const uint64_t id = world.write(4096);
    world.run_alone(world.now_ns + MS);
    CHECK(!world.arrived(4096));
    CHECK_EQ(world.status(world.lane, id), TENT_IN_PROGRESS);
    world.set(world.b, TENT_SIM_HOST_RUNS);
    world.run(world.now_ns + MS);
    CHECK(world.arrived(4096));
    CHECK_EQ(world.status(world.lane, id), TENT_OK);
}

TEST(the_card_of_a_frozen_process_lets_everything_land) {
    Hosts world;
    world.set(world.b, TENT_SIM_HOST_FROZEN);
    const uint64_t first = world.write(4096);
    world.run_alone(world.now_ns + MS);
    CHECK(!world.arrived(4096));
    world.set(world.b, TENT_SIM_HOST_FROZEN_CARD);
    CHECK(world.arrived(4096));
    const uint64_t second = world.write(4096, 8192);
    world.run_alone(world.now_ns + MS);
    CHECK(world.arrived(4096, 8192));
    CHECK_EQ(world.status(world.lane, first), TENT_OK);
    CHECK_EQ(world.status(world.lane, second), TENT_OK);
}

TEST(nothing_reaches_a_killed_process) {
    for (uint32_t state : {TENT_SIM_HOST_KILLED, TENT_SIM_HOST_DARK}) {
        Hosts world;
        const uint64_t id = world.write(4096);
        world.set(world.b, state);
        world.run(world.now_ns + MS);
        CHECK(!world.arrived(4096));
        CHECK_EQ(world.status(world.lane, id), TENT_IN_PROGRESS);
        const uint64_t later = world.write(4096, 8192);
        world.run(world.now_ns + MS);
        CHECK(!world.arrived(4096, 8192));
        CHECK_EQ(world.status(world.lane, later), TENT_IN_PROGRESS);
    }
}

TEST(what_a_killed_process_had_on_the_wire_lands_and_the_rest_does_not) {
    Hosts world;
    // The first byte of the second one leaves when the first has left.
    world.write(4096);
    world.write(4096, 8192);
    world.run_alone(world.now_ns + 4096);
    world.set(world.a, TENT_SIM_HOST_KILLED);
    const std::vector<uint8_t> sent(world.local.begin(), world.local.begin() + 4096);
    std::fill(world.local.begin(), world.local.end(), 0xee);
    world.run(world.now_ns + MS);
    CHECK(memcmp(world.remote.data(), sent.data(), sent.size()) == 0);
    CHECK_EQ(world.remote[8192 + 4095], 0);
}

TEST(a_killed_process_is_told_that_all_has_failed_and_moves_no_clock) {
    Hosts world;
    const uint64_t id = world.write(4096);
    world.set(world.a, TENT_SIM_HOST_KILLED);
    const uint64_t now_ns = tent_sim_now_ns(world.sim);
    world.from.side.host.now_ns = now_ns + 1000 * MS;
    world.from.side.poll();
    CHECK_EQ(world.status(world.lane, id), TENT_E_TRANSPORT);
    const uint64_t later = world.write(4096);
    world.from.side.poll();
    CHECK_EQ(world.status(world.lane, later), TENT_E_TRANSPORT);
    CHECK_EQ(tent_sim_now_ns(world.sim), now_ns);
}

TEST(a_killed_process_s_ends_may_be_closed_in_any_order) {
    for (bool near_first : {true, false}) {
        Hosts world;
        world.write(4096);
        world.read(4096, 8192);
        world.set(world.a, TENT_SIM_HOST_KILLED);
        if (near_first) world.close(world.lane);
        world.retire(world.lane);
        world.run(world.now_ns + MS);
        if (!near_first) world.close(world.lane);
    }
}

TEST(a_host_without_power_answers_nothing_until_it_is_back) {
    Hosts world;
    world.set(world.b, TENT_SIM_HOST_DARK);
    Lane &lane = world.begin(world.from, world.node("b/0"));
    world.run(world.now_ns + MS);
    CHECK_EQ(lane.state(), TENT_IN_PROGRESS);
    world.set(world.b, TENT_SIM_HOST_RUNS);
    Lane &again = world.begin(world.from, *world.nodes.back());
    world.run(world.now_ns + MS);
    CHECK_EQ(again.state(), TENT_OK);
    world.post(again, TENT_OP_WRITE, world.local.data(), world.remote.data(), 1);
    CHECK(!world.arrived(4096));
}

TEST(a_forged_access_is_the_target_s_to_refuse) {
    Hosts world;
    std::vector<uint8_t> other(4096, 0);
    const auto forge = [&](const void *remote) {
        CHECK_EQ(tent_sim_forge(world.sim, world.a, world.lane.number, TENT_OP_WRITE,
                                world.local.data(), reinterpret_cast<uintptr_t>(remote), 4096),
                 TENT_OK);
        world.run(world.now_ns + MS);
    };
    forge(other.data());
    CHECK_EQ(other[0], 0);
    forge(world.remote.data());
    CHECK(world.arrived(4096));
    tent_sim_record records[16];
    const uint64_t count = tent_sim_trace(world.sim, 0, records, 16, nullptr);
    int refused = 0, let_in = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (records[i].slice != UINT64_MAX || records[i].kind != TENT_SIM_TRACE_LAND) continue;
        (records[i].status < 0 ? refused : let_in)++;
        CHECK_EQ(records[i].endpoint, world.lane.number);
    }
    CHECK_EQ(refused, 1);
    CHECK_EQ(let_in, 1);
    CHECK_EQ(world.from.side.returned, 0u);  // nobody asked for its end
}

TEST(wrong_hosts_states_and_endpoints_are_refused) {
    Hosts world;
    CHECK_EQ(tent_sim_host_state(world.sim, 99, TENT_SIM_HOST_RUNS, 0), TENT_E_NOT_FOUND);
    CHECK_EQ(tent_sim_host_state(world.sim, world.a, TENT_SIM_HOST_DARK + 1, 0), TENT_E_INVALID);
    CHECK_EQ(tent_sim_host_state(world.sim, world.a, TENT_SIM_HOST_RUNS, 2), TENT_E_INVALID);
    CHECK_EQ(tent_sim_forge(world.sim, world.a, 12345, TENT_OP_WRITE, world.local.data(), 1, 1),
             TENT_E_NOT_FOUND);
    CHECK_EQ(tent_sim_forge(world.sim, world.a, world.lane.number, 7, world.local.data(), 1, 1),
             TENT_E_INVALID);
}
