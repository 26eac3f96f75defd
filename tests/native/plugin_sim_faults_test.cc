// The simulated fabric's faults, and that a fence holds against each of them.
//
// Leans on sim_world.h. What may still land after a close, and must not after a retire, is looked
// at byte by byte.
#include "sim_world.h"

using namespace sim_world;

namespace {

RailOptions with(double tent_sim_rail_options::*chance, double value, uint64_t late_ns = 0) {
    RailOptions options;
    options.*chance = value;
    options.late_ns = late_ns;
    return options;
}

bool all(const std::vector<uint8_t> &memory, size_t begin, size_t end, uint8_t value) {
    return std::all_of(memory.begin() + static_cast<ptrdiff_t>(begin),
                       memory.begin() + static_cast<ptrdiff_t>(end),
                       [&](uint8_t byte) { return byte == value; });
}

void link(const World &world, uint32_t rail, bool up, bool blackhole) {
    CHECK_EQ(tent_sim_rail_link(world.sim, rail, up, blackhole), TENT_OK);
}

}  // namespace

// ---- loss, delay, damage

TEST(a_lost_slice_never_completes_until_closed) {
    Simple world(with(&tent_sim_rail_options::loss, 1), RailOptions());
    const uint64_t id = world.write(1000);
    world.run(world.now_ns + 5000 * MS);
    CHECK_EQ(world.status(world.lane, id), TENT_IN_PROGRESS);
    CHECK(all(world.remote, 0, world.remote.size(), 0));
    CHECK_EQ(world.counters(world.rail_a).dropped_slices, 1u);
    CHECK_EQ(world.close(world.lane), TENT_OK);
    world.settle();
    CHECK_EQ(world.status(world.lane, id), TENT_E_CANCELLED);
}

TEST(losses_come_as_often_as_asked) {
    Simple world(RailOptions(), with(&tent_sim_rail_options::loss, 0.25));
    uint64_t lost = 0;
    for (int i = 0; i < 1000; i++) {
        if (i % 100 == 0) world.run(world.now_ns + MS);
        world.write(16);
    }
    world.run(world.now_ns + MS);
    for (const int32_t status : world.from.side.statuses)
        lost += status == TENT_IN_PROGRESS;
    CHECK(lost > 200 && lost < 300);
    CHECK_EQ(world.counters(world.rail_a).dropped_slices, lost);
}

TEST(a_late_slice_lands_and_completes_later) {
    Simple world(RailOptions(), with(&tent_sim_rail_options::late, 1, 700 * US));
    const uint64_t begin_ns = world.now_ns;
    const uint64_t id = world.write(1000);
    world.run(begin_ns + 1000 + 5 * US + 700 * US - 1);
    CHECK(!world.arrived(1000));
    CHECK_EQ(world.end_of(world.lane, id) - begin_ns, 1000 + 10 * US + 700 * US);
    CHECK(world.arrived(1000));
}

TEST(a_duplicate_lands_again_with_the_bytes_of_the_first) {
    Simple world(with(&tent_sim_rail_options::duplicate, 1, 300 * US), RailOptions());
    const std::vector<uint8_t> sent(world.local.begin(), world.local.begin() + 1000);
    CHECK_EQ(world.status(world.lane, world.write(1000)), TENT_IN_PROGRESS);
    world.end_of(world.lane, 0);
    CHECK_EQ(world.status(world.lane, 0), TENT_OK);
    std::fill_n(world.local.begin(), 1000, uint8_t{0});  // ours again: it must not be read
    std::fill_n(world.remote.begin(), 1000, uint8_t{0});
    world.run(world.now_ns + 290 * US);
    CHECK(all(world.remote, 0, 1000, 0));
    world.run(world.now_ns + 10 * US);
    CHECK(memcmp(world.remote.data(), sent.data(), sent.size()) == 0);
    CHECK_EQ(world.from.side.returned, 1u);
    CHECK_EQ(world.counters(world.rail_b).duplicate_slices, 1u);
    CHECK_EQ(world.counters(world.rail_b).landed_bytes, 1000u);
    CHECK_EQ(world.to.side.host.served_write, 1000u);
}

TEST(a_flipped_bit_is_caught_by_the_checksum_alone) {
    Simple world(with(&tent_sim_rail_options::corrupt, 1), RailOptions());
    const uint64_t checked = world.write(1000, 0, TENT_SLICE_INTEGRITY);
    world.end_of(world.lane, checked);
    CHECK_EQ(world.status(world.lane, checked), TENT_E_CORRUPT);
    const uint64_t blind = world.write(1000, 4096);
    world.end_of(world.lane, blind);
    CHECK_EQ(world.status(world.lane, blind), TENT_OK);
    int bits = 0;
    for (size_t i = 4096; i < 5096; i++)
        bits += __builtin_popcount(static_cast<unsigned>(world.local[i] ^ world.remote[i]));
    CHECK_EQ(bits, 1);
    const RailOptions sound;
    CHECK_EQ(tent_sim_rail_set(world.sim, world.rail_a, &sound), TENT_OK);
    const uint64_t again = world.write(1000, 0, TENT_SLICE_INTEGRITY);
    world.end_of(world.lane, again);
    CHECK_EQ(world.status(world.lane, again), TENT_OK);
    CHECK(world.arrived(1000));
}

// ---- links

TEST(a_black_hole_swallows_without_a_word_and_forgets_what_it_swallowed) {
    Simple world;
    link(world, world.rail_b, true, true);
    const uint64_t swallowed = world.write(1000);
    world.run(world.now_ns + 100 * MS);
    CHECK_EQ(world.lane.state(), TENT_OK);
    link(world, world.rail_b, true, false);
    const uint64_t id = world.write(1000, 4096);
    world.end_of(world.lane, id);
    CHECK_EQ(world.status(world.lane, id), TENT_OK);
    CHECK_EQ(world.status(world.lane, swallowed), TENT_IN_PROGRESS);
    CHECK(all(world.remote, 0, 1000, 0));
}

TEST(a_black_hole_swallows_acknowledgements) {
    Simple world;
    const uint64_t begin_ns = world.now_ns;
    const uint64_t id = world.write(1000);
    world.run(begin_ns + 1000 + 5 * US);
    CHECK(world.arrived(1000));
    link(world, world.rail_a, true, true);
    world.run(world.now_ns + 100 * MS);
    CHECK_EQ(world.status(world.lane, id), TENT_IN_PROGRESS);
}

TEST(a_link_that_goes_down_fails_its_endpoints_after_a_while) {
    RailOptions options;
    options.down_detect_ns = 500 * US;
    Simple world(options);
    const uint64_t begin_ns = world.now_ns;
    const uint64_t flying = world.write(4000), queued = world.write(4000, 8192);
    world.run(begin_ns + 1000);
    link(world, world.rail_b, false, false);
    const uint64_t later = world.write(100, 16384);
    world.run(begin_ns + 1000 + 500 * US - 1);
    CHECK_EQ(world.from.side.returned, 0u);
    CHECK_EQ(world.lane.state(), TENT_OK);
    link(world, world.rail_b, true, false);  // too late for what was on its way
    world.run(begin_ns + 1000 + 500 * US);
    CHECK_EQ(world.lane.state(), TENT_E_TRANSPORT);
    CHECK(world.from.side.host.news.back().sentence.find("b/0 is down") != std::string::npos);
    for (const uint64_t id : {flying, queued, later})
        CHECK_EQ(world.status(world.lane, id), TENT_E_TRANSPORT);
    CHECK(all(world.remote, 0, world.remote.size(), 0));
    const uint64_t refused = world.write(100);
    world.settle();
    CHECK_EQ(world.status(world.lane, refused), TENT_E_TRANSPORT);
    Lane &fresh = world.join(world.from, world.to);
    const uint64_t id =
        world.post(fresh, TENT_OP_WRITE, world.local.data(), world.remote.data(), 100);
    world.end_of(fresh, id);
    CHECK_EQ(world.status(fresh, id), TENT_OK);
}

TEST(a_rails_own_engine_alone_is_told_of_its_link) {
    RailOptions options;
    options.down_detect_ns = 500 * US;
    Simple world(RailOptions(), options);
    const auto &told = world.to.side.host.rail_news;
    const uint64_t begin_ns = world.now_ns;
    link(world, world.rail_b, false, false);
    world.run(begin_ns + 500 * US - 1);
    CHECK_EQ(told.size(), 0u);
    world.run(begin_ns + 500 * US);
    CHECK_EQ(told.size(), 1u);
    CHECK_EQ(told[0].rail, 0u);
    CHECK_EQ(told[0].status, TENT_E_TRANSPORT);
    CHECK(told[0].sentence.find("b/0 is down") != std::string::npos);
    link(world, world.rail_b, true, false);
    world.settle();
    CHECK_EQ(told.size(), 2u);
    CHECK_EQ(told[1].status, TENT_OK);
    CHECK_EQ(world.from.side.host.rail_news.size(), 0u);
}

TEST(a_link_that_is_back_before_it_was_missed_is_no_news_of_its_rail) {
    RailOptions options;
    options.down_detect_ns = 500 * US;
    Simple world(RailOptions(), options);
    const auto &told = world.to.side.host.rail_news;
    const uint64_t begin_ns = world.now_ns;
    link(world, world.rail_b, false, false);
    world.run(begin_ns + 400 * US);
    link(world, world.rail_b, true, false);
    world.run(begin_ns + 450 * US);
    link(world, world.rail_b, false, false);  // its own 500 us begin here
    world.run(begin_ns + 950 * US - 1);
    CHECK_EQ(told.size(), 0u);
    world.run(begin_ns + 950 * US);
    CHECK_EQ(told.size(), 1u);
}

TEST(a_black_hole_is_no_news_of_its_rail) {
    Simple world;
    link(world, world.rail_b, true, true);
    world.run(world.now_ns + 1000 * MS);
    link(world, world.rail_b, true, false);
    world.run(world.now_ns + 1000 * MS);
    CHECK_EQ(world.to.side.host.rail_news.size(), 0u);
}

TEST(a_rail_opened_while_its_link_is_down_is_told_so_under_its_own_number) {
    Simple world;
    const tent_plugin &plugin = *world.to.side.plugin;
    tent_rail_params params{};
    params.size = sizeof params;
    params.index = 3;
    params.device = "b/0";
    tent_rail_info info{};
    info.size = sizeof info;
    void *second = nullptr;
    link(world, world.rail_b, false, false);
    world.run(world.now_ns + MS);
    CHECK_EQ(plugin.rail_open(world.to.side.instance, &params, &second, &info), TENT_OK);
    world.settle();
    CHECK_EQ(world.to.side.host.rail_news.size(), 2u);
    CHECK_EQ(world.to.side.host.rail_news[1].rail, 3u);
    CHECK_EQ(world.to.side.host.rail_news[1].status, TENT_E_TRANSPORT);
    plugin.rail_close(world.to.side.instance, second);
    link(world, world.rail_b, true, false);
    world.settle();
    CHECK_EQ(world.to.side.host.rail_news.size(), 3u);
    CHECK_EQ(world.to.side.host.rail_news[2].rail, 0u);
}

TEST(a_core_without_rail_news_is_not_called) {
    Simple world;
    world.to.side.host.table.size = offsetof(tent_host, rail_state);
    link(world, world.rail_b, false, false);
    world.run(world.now_ns + MS);
    CHECK_EQ(world.to.side.host.rail_news.size(), 0u);
    CHECK_EQ(world.lane.state(), TENT_E_TRANSPORT);
}

TEST(nothing_is_set_up_over_a_dead_link) {
    Simple world;
    link(world, world.rail_b, false, false);
    const Lane &down = world.begin(world.from, world.to);
    world.run(world.now_ns + 10 * MS);
    CHECK_EQ(down.state(), TENT_E_TRANSPORT);
    link(world, world.rail_b, true, true);
    const Lane &swallowed = world.begin(world.from, world.to);
    world.run(world.now_ns + 10000 * MS);
    CHECK_EQ(swallowed.state(), TENT_IN_PROGRESS);
}

TEST(set_up_takes_one_latency) {
    Simple world;
    const uint64_t begin_ns = world.now_ns;
    const Lane &lane = world.begin(world.from, world.to);
    world.run(begin_ns + 10 * US - 1);
    CHECK_EQ(lane.state(), TENT_IN_PROGRESS);
    world.run(begin_ns + 10 * US);
    CHECK_EQ(lane.state(), TENT_OK);
}

TEST(foreign_offers_and_answers_are_refused) {
    Simple world;
    const tent_plugin &plugin = *world.from.side.plugin;
    void *endpoint = nullptr;
    char answer[TENT_OFFER_MAX], garbage[16] = "not from us";
    uint32_t size = sizeof answer;
    auto params = world.to.side.params(1, false, world.from.side.info.address, "", garbage, 16);
    CHECK_EQ(plugin.endpoint_accept(world.to.side.instance, &params, &endpoint, answer, &size),
             TENT_E_STALE);
    params.blob_size = 3;
    CHECK_EQ(plugin.endpoint_accept(world.to.side.instance, &params, &endpoint, answer, &size),
             TENT_E_STALE);
    params = world.from.side.params(1, true, world.to.side.info.address, "", garbage, 16);
    CHECK_EQ(plugin.endpoint_connect(world.from.side.instance, world.lane.near, &params),
             TENT_E_STALE);
}

// ---- fences

TEST(after_a_close_our_memory_is_not_read_and_the_wire_may_still_land) {
    Simple world;
    const uint64_t begin_ns = world.now_ns;
    const uint64_t gone = world.write(1000);       // left, on the wire
    const uint64_t cut = world.write(1000, 4096);  // half of it left
    const uint64_t unsent = world.write(1000, 8192);
    world.run(begin_ns + 1600);
    const std::vector<uint8_t> before = world.local;
    CHECK_EQ(world.close(world.lane), TENT_OK);
    std::fill(world.local.begin(), world.local.end(), uint8_t{0xee});
    world.settle();
    for (const uint64_t id : {gone, cut, unsent})
        CHECK_EQ(world.status(world.lane, id), TENT_E_CANCELLED);
    CHECK(all(world.remote, 0, world.remote.size(), 0));
    world.run(world.now_ns + MS);
    CHECK(memcmp(world.remote.data(), before.data(), 1000) == 0);
    CHECK(memcmp(world.remote.data() + 4096, before.data() + 4096, 600) == 0);
    CHECK(all(world.remote, 4096 + 600, world.remote.size(), 0));
    CHECK_EQ(world.from.side.returned, 3u);
    CHECK_EQ(world.from.side.returned_twice, 0u);
}

TEST(a_close_frees_the_rail_for_others) {
    Simple world;
    Lane &other = world.join(world.from, world.to);
    world.write(100000);
    world.write(100000, 200000);
    const uint64_t begin_ns = world.now_ns;
    world.run(begin_ns + 500);
    const uint64_t id =
        world.post(other, TENT_OP_WRITE, world.local.data() + 500000, &world.remote[500000], 1000);
    CHECK_EQ(world.close(world.lane), TENT_OK);
    // The receiving rail is still taken by the slice that was cut off, as announced to it.
    CHECK_EQ(world.end_of(other, id) - begin_ns, 100000 + 1000 + 10 * US);
    CHECK(world.arrived(1000, 500000));
}

TEST(after_a_retire_nothing_lands) {
    for (const bool closed_too : {false, true}) {
        Simple world(with(&tent_sim_rail_options::duplicate, 1, 50 * US), RailOptions());
        const uint64_t begin_ns = world.now_ns;
        world.write(1000);
        world.write(1000, 4096);
        world.run(begin_ns + 1000 + 5 * US);  // the first has landed, its twin will
        CHECK(world.arrived(1000));
        if (closed_too) CHECK_EQ(world.close(world.lane), TENT_OK);
        CHECK_EQ(world.retire(world.lane), TENT_OK);
        const uint64_t checks = world.to.side.host.checks;
        std::fill(world.remote.begin(), world.remote.end(), uint8_t{0x77});
        world.run(world.now_ns + 10 * MS);
        CHECK(all(world.remote, 0, world.remote.size(), 0x77));
        CHECK_EQ(world.to.side.host.checks, checks);
        CHECK_EQ(world.counters(world.rail_b).discarded_slices, 2u);
        if (!closed_too) {
            // The first was acknowledged, the second never will be: the core is told otherwise.
            CHECK_EQ(world.from.side.statuses[0], TENT_OK);
            CHECK_EQ(world.from.side.statuses[1], TENT_IN_PROGRESS);
        }
    }
}

TEST(what_landed_but_waits_for_the_targets_poll_is_stopped_by_a_retire) {
    Simple world;
    world.write(1000);
    world.now_ns += 100 * US;
    world.from.side.host.now_ns = world.to.side.host.now_ns = world.now_ns;
    world.from.side.poll();  // moves the clock: the slice now lies in the target's inbox
    CHECK_EQ(world.retire(world.lane), TENT_OK);
    world.run(world.now_ns + MS);
    CHECK(all(world.remote, 0, world.remote.size(), 0));
}

TEST(a_closed_reader_is_not_written_to) {
    Simple world;
    std::fill(world.remote.begin(), world.remote.end(), uint8_t{9});
    const uint64_t begin_ns = world.now_ns;
    const uint64_t id = world.read(1000);
    world.run(begin_ns + 10 * US + 500);  // its bytes are on their way
    CHECK_EQ(world.close(world.lane), TENT_OK);
    std::fill(world.local.begin(), world.local.end(), uint8_t{0xee});
    world.run(world.now_ns + MS);
    CHECK_EQ(world.status(world.lane, id), TENT_E_CANCELLED);
    CHECK(all(world.local, 0, world.local.size(), 0xee));
    CHECK_EQ(world.counters(world.rail_a).discarded_slices, 1u);
}

TEST(a_retired_target_is_not_read) {
    Simple world;
    std::fill(world.remote.begin(), world.remote.end(), uint8_t{9});
    const uint64_t begin_ns = world.now_ns;
    const uint64_t sent = world.read(1000), unsent = world.read(1000, 4096);
    world.run(begin_ns + 5 * US + 1000);  // at the target: the first has just left
    CHECK_EQ(world.retire(world.lane), TENT_OK);
    std::fill(world.remote.begin(), world.remote.end(), uint8_t{0xee});
    const uint64_t asked = world.read(1000, 8192);
    world.run(world.now_ns + MS);
    CHECK_EQ(world.status(world.lane, sent), TENT_OK);
    CHECK(all(world.local, 0, 1000, 9));
    for (const uint64_t id : {unsent, asked})
        CHECK_EQ(world.status(world.lane, id), TENT_IN_PROGRESS);
    CHECK_EQ(world.local[4096], static_cast<uint8_t>(4096 * 7 + 1));
}

TEST(a_read_cut_off_by_a_retire_never_ends_well) {
    Simple world;
    std::fill(world.remote.begin(), world.remote.end(), uint8_t{9});
    const uint64_t begin_ns = world.now_ns;
    const uint64_t id = world.read(1000);
    world.run(begin_ns + 5 * US + 600);  // 600 bytes have left the target
    CHECK_EQ(world.retire(world.lane), TENT_OK);
    world.run(world.now_ns + MS);
    CHECK(all(world.local, 0, 600, 9));
    CHECK_EQ(world.local[600], static_cast<uint8_t>(600 * 7 + 1));
    CHECK_EQ(world.status(world.lane, id), TENT_IN_PROGRESS);
    CHECK_EQ(world.counters(world.rail_a).dropped_slices, 1u);
    CHECK_EQ(world.close(world.lane), TENT_OK);
    world.settle();
    CHECK_EQ(world.status(world.lane, id), TENT_E_CANCELLED);
}

TEST(released_memory_is_not_read_any_more) {
    Simple world;
    const tent_plugin &plugin = *world.to.side.plugin;
    tent_region_params params{};
    params.size = sizeof params;
    params.address = world.remote.data();
    params.length = world.remote.size();
    void *region = nullptr;
    CHECK_EQ(plugin.region_register(world.to.side.instance, &params, &region), TENT_OK);
    std::fill(world.remote.begin(), world.remote.end(), uint8_t{9});
    const uint64_t accepted = world.read(1000);
    world.run(world.now_ns + 5 * US + 10);
    const uint64_t asked = world.read(1000, 4096);
    world.to.side.host.grants.clear();  // as the core does before it releases
    CHECK_EQ(plugin.region_release(world.to.side.instance, region), TENT_OK);
    std::fill(world.remote.begin(), world.remote.end(), uint8_t{0xee});
    world.run(world.now_ns + MS);
    CHECK_EQ(world.status(world.lane, accepted), TENT_OK);
    CHECK(all(world.local, 0, 1000, 9));
    CHECK_EQ(world.status(world.lane, asked), TENT_E_RANGE);
}

TEST(a_late_slice_of_a_closed_endpoint_brings_its_own_bytes) {
    Simple world(with(&tent_sim_rail_options::late, 1, 100 * US), RailOptions());
    const std::vector<uint8_t> before = world.local;
    world.write(1000);
    world.run(world.now_ns + 50 * US);
    CHECK_EQ(world.close(world.lane), TENT_OK);
    std::fill(world.local.begin(), world.local.end(), uint8_t{0xee});
    world.run(world.now_ns + MS);
    CHECK(memcmp(world.remote.data(), before.data(), 1000) == 0);
}

TEST(endings_in_any_order_leave_nothing_behind) {
    for (int order = 0; order < 4; order++) {
        Simple world(with(&tent_sim_rail_options::late, 0.5, 100 * US),
                     with(&tent_sim_rail_options::duplicate, 0.5, 70 * US));
        for (int i = 0; i < 40; i++)
            i % 3 == 0 ? world.read(500) : world.write(500, static_cast<uint64_t>(i) * 512);
        world.run(world.now_ns + 10 * US + static_cast<uint64_t>(order) * 3 * US);
        if (order % 2 == 0) CHECK_EQ(world.retire(world.lane), TENT_OK);
        if (order == 1) link(world, world.rail_a, false, false);
        CHECK_EQ(world.close(world.lane), TENT_OK);
        world.run(world.now_ns + 10 * US);
        if (order % 2 == 1) CHECK_EQ(world.retire(world.lane), TENT_OK);
        world.run(world.now_ns + 10 * MS);
        CHECK_EQ(world.from.side.returned, 40u);
        CHECK_EQ(world.from.side.returned_twice, 0u);
        CHECK_EQ(tent_sim_next_event_ns(world.sim), UINT64_MAX);
        CHECK_EQ(world.counters(world.rail_a).queued_bytes, 0u);
    }
}
