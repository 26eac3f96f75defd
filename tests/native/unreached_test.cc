// Endpoints that say of a slice that they do not reach its memory (TENT_E_NO_PATH): they stay well,
// others carry the request, and where none is left it ends.
//
// The sim plugin, with its table's functions for slices replaced, for it reaches all memory. Leans
// on sim_engines.h. Must never use the real clock.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <set>

#include "load_plugin.h"
#include "sim_engines.h"

using namespace sim_engines;

namespace {

tent_plugin original;
std::map<void *, uint32_t> rails, endpoints;  // by handle: the plan's number
std::map<void *, std::deque<uint64_t>> owed;  // by instance: slices that were not posted
std::set<uint32_t> unreaching;                // rails
uint32_t owed_room = UINT32_MAX;              // results of them that one poll tells

int32_t rail_open(void *instance, const tent_rail_params *params, void **rail,
                  tent_rail_info *info) {
    const int32_t status = original.rail_open(instance, params, rail, info);
    if (status == TENT_OK) rails[*rail] = params->index;
    return status;
}

int32_t endpoint_offer(void *instance, const tent_endpoint_params *params, void **endpoint,
                       void *offer, uint32_t *size) {
    const int32_t status = original.endpoint_offer(instance, params, endpoint, offer, size);
    if (status == TENT_OK) endpoints[*endpoint] = rails.at(params->rail);
    return status;
}

uint32_t post(void *instance, void *endpoint, const tent_slice *slices, uint32_t count) {
    if (!unreaching.contains(endpoints.at(endpoint)))
        return original.post(instance, endpoint, slices, count);
    for (uint32_t i = 0; i < count; i++)
        owed[instance].push_back(slices[i].id);
    return count;
}

uint32_t poll(void *instance, tent_slice_result *results, uint32_t room, uint32_t *busy) {
    std::deque<uint64_t> &queue = owed[instance];
    uint32_t count = 0;
    for (; count < std::min(room, owed_room) && !queue.empty(); count++) {
        results[count] = {queue.front(), TENT_E_NO_PATH, 0};
        queue.pop_front();
    }
    if (count > 0) *busy = 1;
    return count + original.poll(instance, results + count, room - count, busy);
}

// For as long as it stands.
class Replaced {
  public:
    Replaced() : table_(const_cast<tent_plugin *>(load("sim"))) {
        // Constants lie in pages that the loader made read-only.
        const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
        const uintptr_t begin = reinterpret_cast<uintptr_t>(table_) / page * page;
        const uintptr_t end = reinterpret_cast<uintptr_t>(table_ + 1);
        CHECK_EQ(mprotect(reinterpret_cast<void *>(begin), end - begin, PROT_READ | PROT_WRITE), 0);
        original = *table_;
        table_->rail_open = rail_open;
        table_->endpoint_offer = endpoint_offer;
        table_->post = post;
        table_->poll = poll;
    }
    ~Replaced() {
        *table_ = original;
        rails.clear();
        endpoints.clear();
        owed.clear();
        unreaching.clear();
        owed_room = UINT32_MAX;
    }

  private:
    tent_plugin *table_;
};

struct World : Replaced, Two {
    explicit World(const std::string &route = "", const std::string &lines = "",
                   size_t rail_count = 2)
        : Two(equal_rails(rail_count), 16 * MIB, route, lines) {
        for (size_t i = 0; i < 16 * MIB; i++)
            hosts[0].memory[i] = static_cast<uint8_t>(i * 131 + (i >> 12));
    }
    int32_t end(const tent_sim_batch &batch) {
        run(now_ns() + 10 * SECOND, {batch});
        const int32_t status = tent_batch_poll(batch.engine, batch.batch);
        if (status != TENT_IN_PROGRESS)
            CHECK_EQ(tent_batch_close(batch.engine, batch.batch), TENT_OK);
        return status;
    }
    bool arrived(uint64_t length) {
        return memcmp(hosts[0].memory.data(), hosts[1].memory.data(), length) == 0;
    }
    tent_counters row(int32_t rail) {
        for (const tent_counters &each : Two::endpoints())
            if (each.rail == rail) return each;
        CHECK(!"the rail has an endpoint");
        return {};
    }
    bool well(int32_t rail) {
        return row(rail).state == TENT_STATE_HEALTHY && row(rail).slices_failed == 0;
    }
};

}  // namespace

TEST(a_request_that_one_rail_does_not_reach_goes_over_the_other_and_both_stay_well) {
    for (const char *route : {"", "route * : sim[0] slice=64k ; sim[1] slice=64k"})
        for (uint32_t op : {TENT_OP_WRITE, TENT_OP_READ}) {
            World world(route);
            unreaching = {0};
            CHECK_EQ(world.end(world.submit({.length = 4 * MIB, .op = op})), TENT_OK);
            CHECK(world.arrived(4 * MIB));
            CHECK(world.well(0) && world.well(1));
            CHECK_EQ(world.row(0).slices, 0u);
            CHECK_EQ(world.row(1).slices, 64u);
            unreaching.clear();  // other memory, say
            CHECK_EQ(world.end(world.submit({.length = 4 * MIB, .op = op})), TENT_OK);
            CHECK(world.row(0).slices > 0);
            check_at_rest(world);
        }
}

TEST(a_request_that_a_whole_rung_does_not_reach_takes_the_next_however_many_it_asks) {
    World world("route * : sim[0 1 2 3 4 5 6 7 8] slice=64k ; sim[9] slice=64k", "", 10);
    for (uint32_t rail = 0; rail < 9; rail++)
        unreaching.insert(rail);
    CHECK_EQ(world.end(world.submit({4 * MIB})), TENT_OK);
    CHECK(world.arrived(4 * MIB));
    for (const tent_counters &row : world.Two::endpoints()) {
        CHECK_EQ(row.state, static_cast<uint32_t>(TENT_STATE_HEALTHY));
        CHECK(row.rail == 9 || row.slices == 0);
    }
    check_at_rest(world);
}

TEST(a_request_that_no_rail_reaches_ends_and_all_stay_well) {
    for (uint32_t room : {1u, UINT32_MAX}) {  // of its slices some are in flight when it ends
        World world;
        unreaching = {0, 1};
        owed_room = room;
        CHECK_EQ(world.end(world.submit({4 * MIB})), TENT_E_TRANSPORT);
        world.run(world.now_ns() + 1 * MS);
        CHECK(world.well(0) && world.well(1));
        check_at_rest(world);
    }
}

TEST(a_cancelled_request_that_a_rail_does_not_reach_leaves_the_rail_well) {
    World world;
    unreaching = {0, 1};
    owed_room = 0;
    const tent_sim_batch batch = world.submit({4 * MIB});
    world.run(world.now_ns() + 20 * US);
    CHECK_EQ(tent_batch_cancel(batch.engine, batch.batch), TENT_OK);
    world.run(world.now_ns() + 20 * US);
    owed_room = 1;
    CHECK_EQ(world.end(batch), TENT_E_CANCELLED);
    world.run(world.now_ns() + 1 * MS);
    CHECK(world.well(0) && world.well(1));
    check_at_rest(world);
}

TEST(a_request_whose_one_way_is_down_waits_for_it_and_no_longer_than_others_do) {
    for (const bool back : {true, false}) {
        World world("", "set connect_timeout=300ms\n");
        unreaching = {0};
        const tent_sim_batch batch = world.submit({16 * MIB});
        world.run(world.now_ns() + 100 * US);
        const auto link = [&](uint32_t up) {
            CHECK_EQ(
                SIM(rail_link)(world.sim, static_cast<uint32_t>(world.hosts[0].rails[1]), up, 0),
                TENT_OK);
        };
        link(0);
        world.run(world.now_ns() + 20 * MS);
        CHECK_EQ(tent_batch_poll(batch.engine, batch.batch), TENT_IN_PROGRESS);
        if (back) link(1);
        CHECK_EQ(world.end(batch), back ? TENT_OK : TENT_E_TRANSPORT);
        CHECK(!back || world.arrived(16 * MIB));
        CHECK(world.well(0));
    }
}

TEST(a_twin_that_is_not_reached_leaves_the_other_to_end_the_request) {
    for (uint32_t op : {TENT_OP_WRITE, TENT_OP_READ}) {
        World world("route * : sim[0 1] slice=64k hedge=yes");
        world.tick_ns = 2 * US;
        unreaching = {1};
        tent_sim_rail_options slow{};
        slow.size = sizeof slow;
        const tent_sim_bandwidth bandwidth = constant(GB_S / 100);
        slow.bandwidth = &bandwidth;
        slow.latency_ns = 5 * US;
        CHECK_EQ(SIM(rail_set)(world.sim, static_cast<uint32_t>(world.hosts[0].rails[0]), &slow),
                 TENT_OK);
        CHECK_EQ(world.end(world.submit({.length = 64 * KIB, .op = op})), TENT_OK);
        CHECK(world.arrived(64 * KIB));
        CHECK_EQ(world.engine_row().slices_hedged, 1u);
        CHECK_EQ(world.engine_row().slices_retried, 0u);
        CHECK(world.well(0) && world.well(1));
        check_at_rest(world);
    }
}
