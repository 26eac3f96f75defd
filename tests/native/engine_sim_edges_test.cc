// Where the engine's queues, twins and endpoints meet in unusual order: own memory with deadlines,
// twins that end otherwise than by success, requests without a path before others that have one,
// segments that close while an endpoint's slot is used again.
//
// Leans on sim_engines.h. Must never use the real clock.
#include "sim_engines.h"

#include <algorithm>

using namespace sim_engines;

namespace {

void link(Fabric &fabric, size_t host, size_t rail, uint32_t up, uint32_t blackhole = 0) {
    CHECK_EQ(SIM(rail_link)(fabric.sim, static_cast<uint32_t>(fabric.hosts[host].rails[rail]), up,
                            blackhole),
             TENT_OK);
}

void change(Fabric &fabric, size_t host, size_t rail, uint64_t bytes_per_s, double corrupt = 0) {
    tent_sim_rail_options options{};
    options.size = sizeof options;
    tent_sim_bandwidth bandwidth = constant(bytes_per_s);
    options.bandwidth = &bandwidth;
    options.latency_ns = 5 * US;
    options.corrupt = corrupt;
    CHECK_EQ(
        SIM(rail_set)(fabric.sim, static_cast<uint32_t>(fabric.hosts[host].rails[rail]), &options),
        TENT_OK);
}

// Runs until the batch is terminal or `for_ns` have passed; its status, and closes it.
int32_t end_of(Fabric &fabric, const tent_sim_batch &batch, uint64_t for_ns = SECOND) {
    fabric.run(fabric.now_ns() + for_ns, {batch});
    int32_t status = tent_batch_poll(batch.engine, batch.batch);
    if (status != TENT_IN_PROGRESS) CHECK_EQ(tent_batch_close(batch.engine, batch.batch), TENT_OK);
    return status;
}

}  // namespace

TEST(own_memory_is_copied_in_the_order_of_deadlines) {
    Fabric fabric;
    size_t host = fabric.add("a", {rail(GB_S)}, 8 * MIB);
    fabric.open(host);
    tent_engine *engine = fabric.hosts[host].engine;
    uint8_t descriptor[4096];
    uint64_t size = sizeof descriptor, segment = 0;
    CHECK_EQ(tent_segment_export(engine, 0, descriptor, &size), TENT_OK);
    CHECK_EQ(tent_segment_import(engine, descriptor, size, 0, &segment), TENT_OK);
    std::fill_n(fabric.hosts[host].memory.begin(), 4 * MIB, 0x5a);
    tent_batch_options options{};
    options.size = sizeof options;
    tent_sim_batch none{engine, 0}, urgent{engine, 0};
    CHECK_EQ(tent_batch_open(engine, &options, &none.batch), TENT_OK);
    options.deadline_ns = 1 * MS;
    CHECK_EQ(tent_batch_open(engine, &options, &urgent.batch), TENT_OK);
    for (const tent_sim_batch &batch : {none, urgent}) {
        tent_request request{};
        request.op = TENT_OP_WRITE;
        request.segment = segment;
        request.local = reinterpret_cast<uint64_t>(fabric.hosts[host].memory.data());
        request.remote = request.local + 4 * MIB;
        request.length = 4 * MIB;
        uint32_t index = 0;
        CHECK_EQ(tent_batch_submit(engine, batch.batch, &request, sizeof request, 1,
                                   TENT_SUBMIT_SEAL, &index),
                 TENT_OK);
    }
    CHECK_EQ(end_of(fabric, urgent), TENT_OK);
    CHECK_EQ(end_of(fabric, none), TENT_OK);
    for (size_t i = 4 * MIB; i < 8 * MIB; i++)
        if (fabric.hosts[host].memory[i] != 0x5a) {
            CHECK_EQ(i, SIZE_MAX);
            break;
        }
}

TEST(a_twin_that_ends_with_an_error_of_its_request_lets_go_of_the_other) {
    Fabric fabric;
    for (const char *name : {"a", "b"})
        fabric.add(name, {rail(25 * GB_S), rail(25 * GB_S)}, 16 * MIB);
    const char *hedged = "route label=h : sim[0 1] slice=64k hedge=yes\nroute * : sim[1] slice=64k";
    for (size_t host : {0, 1})
        fabric.open(host, hedged, "set hedge_grace=60s\n");
    fabric.tick_ns = 2 * US;
    uint64_t segment = fabric.connect(0, 1);
    change(fabric, 0, 0, GB_S / 100);  // the original is slow, ...
    change(fabric, 0, 1, GB_S, 1);     // ... its twin's checksum does not match
    tent_batch_options options{};
    options.size = sizeof options;
    options.flags = TENT_BATCH_INTEGRITY;
    options.label = "h";
    tent_sim_batch first{fabric.hosts[0].engine, 0};
    CHECK_EQ(tent_batch_open(first.engine, &options, &first.batch), TENT_OK);
    tent_request request{};
    request.op = TENT_OP_READ;  // a write with checksums has no twin
    request.segment = segment;
    request.local = reinterpret_cast<uint64_t>(fabric.hosts[0].memory.data());
    request.remote = reinterpret_cast<uint64_t>(fabric.hosts[1].memory.data());
    request.length = 64 * KIB;
    uint32_t index = 0;
    CHECK_EQ(tent_batch_submit(first.engine, first.batch, &request, sizeof request, 1,
                               TENT_SUBMIT_SEAL, &index),
             TENT_OK);
    fabric.run(fabric.now_ns() + 1 * MS);
    tent_counters row{};
    uint32_t count = 1;
    CHECK_EQ(tent_counters_read(first.engine, TENT_COUNTERS_ENGINE, &row, sizeof row, &count),
             TENT_OK);
    CHECK_EQ(row.slices_hedged, 1u);
    CHECK_EQ(row.slices_failed, 1u);
    // One of its slices takes the slot of the twin that is gone, and outlasts the original.
    change(fabric, 0, 1, GB_S / 200);
    tent_sim_batch second = fabric.submit(0, 1, segment, {16 * MIB});
    CHECK_EQ(end_of(fabric, first), TENT_E_CORRUPT);
    change(fabric, 0, 1, 25 * GB_S);
    CHECK_EQ(end_of(fabric, second), TENT_OK);
}

TEST(requests_without_a_path_hold_up_none_that_have_one) {
    for (uint64_t deadline_ns : {uint64_t{0}, 9 * SECOND})
        for (uint32_t count : {1, 12}) {
            Fabric fabric;
            for (const char *name : {"a", "b"})
                fabric.add(name, {rail(25 * GB_S), rail(25 * GB_S)}, 16 * MIB);
            for (size_t host : {0, 1})
                fabric.open(host, "route op=write : sim[0]\nroute op=read : sim[1]");
            uint64_t segment = fabric.connect(0, 1);
            // The first is cut while it is posted and waits for a retry, the others are never.
            std::vector<tent_sim_batch> lost;
            lost.push_back(
                fabric.submit(0, 1, segment, {16 * MIB, TENT_CLASS_NORMAL, deadline_ns}));
            fabric.run(fabric.now_ns() + 100 * US);
            link(fabric, 0, 0, 0);
            fabric.run(fabric.now_ns() + 10 * MS);
            for (uint32_t i = 0; i < count; i++)
                lost.push_back(
                    fabric.submit(0, 1, segment, {64 * KIB, TENT_CLASS_NORMAL, deadline_ns}));
            for (uint64_t own_deadline_ns : {uint64_t{0}, 10 * SECOND}) {
                tent_sim_batch read = fabric.submit(
                    0, 1, segment, {64 * KIB, TENT_CLASS_NORMAL, own_deadline_ns, TENT_OP_READ});
                CHECK_EQ(end_of(fabric, read, 50 * MS), TENT_OK);
            }
            for (const tent_sim_batch &batch : lost)
                CHECK_EQ(end_of(fabric, batch, 10 * SECOND), TENT_E_TRANSPORT);
        }
}

TEST(a_closing_segment_names_no_endpoint_whose_slot_is_used_again) {
    Fabric fabric;
    for (const char *name : {"a", "b", "c"})
        fabric.add(name, {rail(25 * GB_S), rail(25 * GB_S)}, 16 * MIB);
    for (size_t host : {0, 1, 2})
        fabric.open(host, "", "set fence_timeout=10s\nset connect_timeout=300ms\n");
    uint64_t segment = fabric.connect(0, 1);
    link(fabric, 1, 1, 0);
    fabric.run(fabric.now_ns() + 10 * MS);
    tent_sim_batch batch = fabric.submit(0, 1, segment, {64 * KIB});
    fabric.run(fabric.now_ns() + 1 * US);
    link(fabric, 1, 0, 0);
    fabric.run(fabric.now_ns() + 10 * MS);
    for (int i = 0; i < 2; i++) {  // the idle endpoint ends, the other one's fence is awaited
        CHECK_EQ(tent_segment_close(fabric.hosts[0].engine, segment), TENT_E_BUSY);
        fabric.run(fabric.now_ns() + 20 * MS);
    }
    uint64_t other = fabric.connect(0, 2);
    // connect_timeout after the path was lost the waiting requests' routes are looked at.
    CHECK_EQ(end_of(fabric, batch, 30 * SECOND), TENT_E_UNFENCED);
    fabric.transfer(0, 2, other, {64 * KIB});
}
