// Where the engine's queues, twins and endpoints meet in unusual order: own memory with deadlines,
// twins that end otherwise than by success, requests without a path before others that have one,
// segments that close while an endpoint's slot is used again.
//
// Leans on sim_engines.h. Must never use the real clock.
#include "sim_engines.h"

#include <algorithm>

using namespace sim_engines;

namespace {

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
