// The scheduler inside a whole engine, in virtual time on the simulated fabric: how close a request
// comes to what the rails can do, classes, deadlines, hedging, strategies. Ratios of virtual times,
// the same in every run.
#include "sim_engines.h"

#include <algorithm>

using namespace sim_engines;

TEST(a_request_over_equal_rails_takes_the_time_of_the_wire) {
    Two two(equal_rails(8));
    two.transfer({16 * MIB});
    uint64_t wire_ns = 16 * MIB / 200 + 5 * US;
    uint64_t spent_ns = two.transfer({16 * MIB});
    CHECK(spent_ns >= wire_ns && spent_ns < wire_ns * 103 / 100);
    spent_ns = two.transfer({.length = 16 * MIB, .op = TENT_OP_READ});
    CHECK(spent_ns >= wire_ns && spent_ns < wire_ns * 103 / 100);
    check_at_rest(two);
}

TEST(a_rail_at_a_tenth_of_its_nominal_speed_costs_a_tenth) {
    std::vector<RailSpec> rails = equal_rails(8);
    rails[3].bandwidth = constant(25 * GB_S / 10);
    Two two(rails);
    for (int i = 0; i < 3; i++)
        two.transfer({16 * MIB});
    uint64_t bound_ns = 16 * MIB * 10 / 1775 + 5 * US;
    CHECK(two.transfer({16 * MIB}) < bound_ns * 100 / 90);
    for (const tent_counters &row : two.endpoints())
        if (row.rail == 3)
            CHECK(row.rate_bytes_per_s > 2300000000u && row.rate_bytes_per_s < 2700000000u);
}

TEST(unknown_rates_are_measured) {
    std::vector<RailSpec> rails = equal_rails(4);
    rails[0].bandwidth = constant(5 * GB_S);
    for (RailSpec &spec : rails)
        spec.nominal = 0;
    Two two(rails);
    for (int i = 0; i < 5; i++)
        two.transfer({16 * MIB});
    uint64_t bound_ns = 16 * MIB / 80 + 5 * US;
    CHECK(two.transfer({16 * MIB}) < bound_ns * 100 / 90);
}

TEST(a_rail_that_stands_still_from_the_start_holds_no_more_than_its_window) {
    std::vector<RailSpec> rails = equal_rails(2);
    rails[1].bandwidth = constant(0);
    Two two(rails);
    tent_sim_batch batch = two.submit({16 * MIB});
    CHECK_EQ(two.run(two.now_ns() + 20 * MS, {batch}), TENT_E_TIMEOUT);
    uint64_t moved = two.engine_row().bytes_written;
    CHECK(moved >= 16 * MIB - 4 * 64 * KIB && moved < 16 * MIB);
    tent_sim_rail_options options{};
    options.size = sizeof options;
    tent_sim_bandwidth fast = constant(25 * GB_S);
    options.bandwidth = &fast;
    options.latency_ns = 5 * US;
    CHECK_EQ(SIM(rail_set)(two.sim, static_cast<uint32_t>(two.hosts[0].rails[1]), &options),
             TENT_OK);
    CHECK_EQ(SIM(rail_set)(two.sim, static_cast<uint32_t>(two.hosts[1].rails[1]), &options),
             TENT_OK);
    two.finish(batch);
    check_at_rest(two);
}

TEST(each_strategy_moves_every_byte) {
    for (const char *strategy : {"predictive", "round_robin", "static", "tent_paper"}) {
        std::vector<RailSpec> rails = equal_rails(3);
        rails[1] = rail(5 * GB_S, 20 * US);
        Two two(rails, 4 * MIB + 7,
                std::string("route * : sim[0 1 2] slice=64k strategy=") + strategy);
        for (size_t i = 0; i < two.hosts[0].memory.size(); i++)
            two.hosts[0].memory[i] = static_cast<uint8_t>(i * 31 + (i >> 9));
        two.transfer({4 * MIB + 7});
        CHECK(two.hosts[1].memory == two.hosts[0].memory);
        check_at_rest(two);
    }
}

TEST(static_striping_is_held_up_by_its_slowest_rail_and_predictive_is_not) {
    std::vector<RailSpec> rails = equal_rails(8);
    rails[3].bandwidth = constant(25 * GB_S / 10);
    Two striped(rails, 16 * MIB, "route * : sim[0 1 2 3 4 5 6 7] slice=64k strategy=static");
    Two sprayed(rails);
    for (int i = 0; i < 3; i++) {
        striped.transfer({16 * MIB});
        sprayed.transfer({16 * MIB});
    }
    CHECK(striped.transfer({16 * MIB}) > 7 * sprayed.transfer({16 * MIB}));
}

TEST(slices_of_one_byte_and_of_odd_lengths_arrive) {
    Two two(equal_rails(8), 1 * MIB);
    for (uint64_t length : {1ull, 2ull, 4097ull, 65537ull, 131073ull, 1048575ull}) {
        std::fill(two.hosts[0].memory.begin(), two.hosts[0].memory.end(),
                  static_cast<uint8_t>(length));
        std::fill(two.hosts[1].memory.begin(), two.hosts[1].memory.end(), 0xee);
        two.transfer({length});
        for (size_t i = 0; i < two.hosts[1].memory.size(); i++)
            CHECK_EQ(two.hosts[1].memory[i], i < length ? static_cast<uint8_t>(length) : 0xee);
    }
}

TEST(slices_shrink_so_that_unequal_rails_end_together) {
    std::vector<RailSpec> rails = equal_rails(8);
    for (size_t i = 4; i < 8; i++)
        rails[i] = rail(25 * GB_S / 2);
    const char *route = "route * : sim[0 1 2 3 4 5 6 7] slice=1m";
    Two with(rails, 16 * MIB, route), without(rails, 16 * MIB, route, "set end_game=no\n");
    with.transfer({16 * MIB});
    without.transfer({16 * MIB});
    CHECK(with.transfer({16 * MIB}) * 100 < without.transfer({16 * MIB}) * 97);
}

TEST(high_waits_behind_no_more_than_one_low_slice_per_rail) {
    Two two(equal_rails(2), 64 * MIB, "route * : sim[0 1] slice=1m");
    uint64_t alone_ns = two.transfer({.length = 1 * MIB, .class_ = TENT_CLASS_HIGH});
    tent_sim_batch low = two.submit({.length = 64 * MIB, .class_ = TENT_CLASS_LOW});
    CHECK_EQ(two.run(two.now_ns() + 200 * US), TENT_OK);
    uint64_t busy_ns = two.transfer({.length = 1 * MIB, .class_ = TENT_CLASS_HIGH});
    uint64_t low_slice_ns = 1 * MIB / 25 + 5 * US;
    CHECK(busy_ns <= alone_ns + low_slice_ns);
    two.finish(low);
}

TEST(classes_share_by_weight_while_both_have_work) {
    Two two(equal_rails(2), 64 * MIB);
    two.transfer({16 * MIB});
    uint64_t before = two.class_bytes(TENT_CLASS_NORMAL);
    tent_sim_batch high = two.submit({.length = 48 * MIB, .class_ = TENT_CLASS_HIGH});
    tent_sim_batch normal = two.submit({.length = 48 * MIB, .class_ = TENT_CLASS_NORMAL});
    CHECK_EQ(two.run(two.now_ns() + SECOND, {high, normal}, TENT_SIM_ANY), TENT_OK);
    CHECK_EQ(tent_batch_poll(high.engine, high.batch), TENT_OK);
    uint64_t moved = two.class_bytes(TENT_CLASS_NORMAL) - before;
    CHECK(moved > 7 * MIB && moved < 13 * MIB);  // 4 for each 16, in rounds
    tent_batch_close(high.engine, high.batch);
    two.finish(normal);
    check_at_rest(two);
}

TEST(within_a_class_the_earliest_deadline_is_served_first) {
    Two two(equal_rails(2), 16 * MIB);
    two.transfer({16 * MIB});
    tent_sim_batch none = two.submit({8 * MIB});
    tent_sim_batch later = two.submit({.length = 8 * MIB, .deadline_ns = 10 * MS});
    tent_sim_batch sooner = two.submit({.length = 8 * MIB, .deadline_ns = 1 * MS});
    std::vector<tent_sim_batch> order;
    std::vector<tent_sim_batch> open = {none, later, sooner};
    while (!open.empty()) {
        CHECK_EQ(two.run(two.now_ns() + SECOND, open, TENT_SIM_ANY), TENT_OK);
        for (size_t i = open.size(); i-- > 0;)
            if (tent_batch_poll(open[i].engine, open[i].batch) != TENT_IN_PROGRESS) {
                order.push_back(open[i]);
                open.erase(open.begin() + static_cast<ptrdiff_t>(i));
            }
    }
    CHECK_EQ(order[0].batch, sooner.batch);
    CHECK_EQ(order[1].batch, later.batch);
    CHECK_EQ(order[2].batch, none.batch);
    for (const tent_sim_batch &batch : order)
        tent_batch_close(batch.engine, batch.batch);
    check_at_rest(two);
}

TEST(a_new_plans_window_takes_effect_at_once) {
    std::vector<RailSpec> rails = {rail(25 * GB_S, 200 * US)};
    Two two(rails, 16 * MIB, "", "set window_max=1m\n");
    two.transfer({16 * MIB});
    two.transfer({16 * MIB});
    CHECK_EQ(two.endpoints()[0].window_bytes, 1 * MIB);
    std::string plan =
        "plan 1\nset sim.fabric=" + two.name + "\nrail 0 sim a/0\nroute * : sim[0] slice=64k\n";
    CHECK_EQ(tent_plan_install(two.hosts[0].engine, plan.c_str(), plan.size(), nullptr), TENT_OK);
    CHECK(two.endpoints()[0].window_bytes > 5 * MIB);
}

TEST(a_cancelled_request_with_a_deadline_leaves_the_queue) {
    Two two(equal_rails(1), 16 * MIB);
    tent_sim_batch first = two.submit({.length = 16 * MIB, .deadline_ns = 1 * MS});
    tent_sim_batch second = two.submit({.length = 16 * MIB, .deadline_ns = 2 * MS});
    CHECK_EQ(two.run(two.now_ns() + 20 * US), TENT_OK);
    CHECK_EQ(tent_batch_cancel(second.engine, second.batch), TENT_OK);
    CHECK_EQ(two.run(two.now_ns() + SECOND, {first, second}), TENT_OK);
    CHECK_EQ(tent_batch_poll(first.engine, first.batch), TENT_OK);
    CHECK_EQ(tent_batch_poll(second.engine, second.batch), TENT_E_CANCELLED);
    tent_batch_close(first.engine, first.batch);
    tent_batch_close(second.engine, second.batch);
    two.transfer({.length = 1 * MIB, .deadline_ns = 1 * MS});
    check_at_rest(two);
}

TEST(a_late_last_slice_is_hedged_and_the_loser_fenced) {
    for (uint32_t op : {TENT_OP_WRITE, TENT_OP_READ}) {
        Two two(equal_rails(2), 16 * MIB, "route * : sim[0 1] slice=64k hedge=yes",
                "set hedge_grace=20us\n");
        two.tick_ns = 2 * US;
        two.transfer({.length = 16 * MIB, .op = op});
        CHECK_EQ(two.engine_row().slices_hedged, 0u);
        CHECK_EQ(SIM(rail_link)(two.sim, static_cast<uint32_t>(two.hosts[0].rails[0]), 1, 1),
                 TENT_OK);  // a black hole takes what is posted, silently
        std::fill(two.hosts[0].memory.begin(), two.hosts[0].memory.end(), 0x5a);
        std::fill(two.hosts[1].memory.begin(), two.hosts[1].memory.end(), 0x5a);
        uint64_t spent_ns = two.transfer({.length = 64 * KIB, .op = op});
        uint64_t second_ns = two.transfer({.length = 64 * KIB, .op = op});
        CHECK(two.engine_row().slices_hedged >= 1);
        CHECK(two.engine_row().bytes_hedged >= 64 * KIB);
        CHECK(spent_ns < 200 * US && second_ns < 200 * US);
        check_at_rest(two);
    }
}

TEST(without_hedging_nothing_is_sent_twice) {
    std::vector<RailSpec> rails = equal_rails(4);
    rails[2].bandwidth = flapping(25 * GB_S, 5 * GB_S, 100 * US);
    Two two(rails, 16 * MIB);
    for (int i = 0; i < 20; i++)
        two.transfer({16 * MIB});
    CHECK_EQ(two.engine_row().slices_hedged, 0u);
    CHECK_EQ(two.engine_row().bytes_written, 20 * 16 * MIB);
}

TEST(a_peer_that_is_slow_does_not_slow_another_peer_on_the_same_rail) {
    Fabric fabric;
    fabric.add("a", equal_rails(1), 16 * MIB);
    fabric.add("slow", {rail(GB_S)}, 16 * MIB);
    fabric.add("fast", equal_rails(1), 16 * MIB);
    for (size_t i = 0; i < 3; i++)
        fabric.open(i);
    uint64_t slow = fabric.connect(0, 1), fast = fabric.connect(0, 2);
    uint64_t alone_ns = fabric.transfer(0, 2, fast, {16 * MIB});
    tent_sim_batch batch = fabric.submit(0, 1, slow, {16 * MIB});
    fabric.run(fabric.now_ns() + 2 * MS);
    CHECK(fabric.transfer(0, 2, fast, {16 * MIB}) < alone_ns * 115 / 100);
    CHECK_EQ(fabric.run(fabric.now_ns() + SECOND, {batch}), TENT_OK);
    tent_batch_close(batch.engine, batch.batch);
}

TEST(more_endpoints_than_a_rung_can_choose_from_are_left_out_and_the_rest_works) {
    Fabric fabric;
    fabric.add("few", std::vector<RailSpec>(40, rail(GB_S)), 4 * MIB);
    fabric.add("many", std::vector<RailSpec>(64, rail(GB_S)), 4 * MIB);
    for (size_t i = 0; i < 2; i++)
        fabric.open(i, "", "set peer_rails_max=4\n");
    uint64_t segment = fabric.connect(0, 1);
    fabric.transfer(0, 1, segment, {4 * MIB});
    uint64_t spent_ns = fabric.transfer(0, 1, segment, {4 * MIB});
    // 128 of 160 endpoints: those of 32 local rails.
    CHECK(spent_ns >= 4 * MIB / 40 && spent_ns < 4 * MIB / 32 * 2);
}

TEST(nothing_lands_in_a_region_that_was_released) {
    Two two(equal_rails(2));
    std::fill(two.hosts[0].memory.begin(), two.hosts[0].memory.end(), 0x77);
    tent_sim_batch batch = two.submit({16 * MIB});
    CHECK_EQ(two.run(two.now_ns() + 20 * US), TENT_OK);  // slices of it are under way
    CHECK_EQ(tent_region_release(two.hosts[1].engine, two.hosts[1].segment), TENT_OK);
    std::vector<uint8_t> left = two.hosts[1].memory;
    CHECK_EQ(two.run(two.now_ns() + SECOND, {batch}), TENT_OK);
    CHECK(tent_batch_poll(batch.engine, batch.batch) < 0);
    CHECK(two.hosts[1].memory == left);
    tent_batch_close(batch.engine, batch.batch);
}
