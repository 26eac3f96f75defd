// The simulated fabric under threaded engines: every instance polled by a thread of its own, in
// real time, while a third changes rails.
//
// Leans on sim_world.h. Run under the thread sanitizer it shows that the one mutex is enough.
#include <atomic>
#include <thread>

#include "sim_world.h"

using namespace sim_world;

TEST(instances_of_one_fabric_run_in_threads_of_their_own) {
    constexpr uint32_t SLICES = 2000;
    Simple world;
    Lane &back = world.join(world.to, world.from);
    world.from.side.host.grant(world.local.data(), world.local.size());
    // The real clock from here on; it is ahead of the virtual one.
    world.from.side.host.now_ns = world.to.side.host.now_ns = 0;
    std::atomic<uint32_t> running{2};
    auto drive = [&](Node &node, Lane &lane, uint8_t *ours, uint8_t *theirs) {
        uint32_t posted = 0;
        while (node.side.returned < SLICES || running > 0) {
            while (posted < SLICES && posted - node.side.returned < 8)
                world.post(lane, posted++ % 2 == 0 ? TENT_OP_WRITE : TENT_OP_READ, ours, theirs,
                           512);
            const bool unfinished = node.side.returned < SLICES;
            node.side.poll();
            if (unfinished && node.side.returned == SLICES) running--;
        }
    };
    uint8_t *local = world.local.data(), *remote = world.remote.data();
    std::thread first(drive, std::ref(world.from), std::ref(world.lane), local, remote);
    std::thread second(drive, std::ref(world.to), std::ref(back), remote + 4096, local + 4096);
    const RailOptions options;
    for (int i = 0; i < 1000 && running > 0; i++) {
        CHECK_EQ(tent_sim_rail_set(world.sim, world.rail_a, &options), TENT_OK);
        CHECK(tent_sim_next_event_ns(world.sim) > 0);
        std::this_thread::yield();
    }
    first.join();
    second.join();
    world.now_ns = tent_sim_now_ns(world.sim);
    for (Node *node : {&world.from, &world.to})
        for (const int32_t status : node->side.statuses)
            CHECK_EQ(status, TENT_OK);
    CHECK_EQ(world.from.side.returned_twice + world.to.side.returned_twice, 0u);
}
