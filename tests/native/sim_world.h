// A simulated fabric with plugin instances on it, stepped from event to event by the test: what the
// tests of plugins/sim start from.
//
// Leans on fake_host.h and sim.h; no engine is involved, so every time is the fabric's own. Time
// begins at T0, because a fake host takes 0 for the real clock.
#ifndef TENT_TESTS_SIM_WORLD_H
#define TENT_TESTS_SIM_WORLD_H

#include <algorithm>
#include <memory>
#include <utility>

#include "check.h"
#include "fake_host.h"
#include "sim_bandwidth.h"

namespace sim_world {

constexpr uint64_t US = 1000;
constexpr uint64_t MS = 1'000'000;
constexpr uint64_t T0 = MS;
constexpr uint64_t GB = 1'000'000'000;  // bytes per second: 1 byte per ns

using namespace sim_bandwidth;

// 1 GB/s and 10 us unless said.
struct RailOptions : tent_sim_rail_options {
    tent_sim_bandwidth rate = constant(GB);
    RailOptions() : tent_sim_rail_options{} {
        size = sizeof(tent_sim_rail_options);
        latency_ns = 10 * US;
        numa = -1;
        bandwidth = &rate;
    }
    RailOptions(const RailOptions &other) : tent_sim_rail_options(other), rate(other.rate) {
        bandwidth = &rate;
    }
    RailOptions &operator=(const RailOptions &) = delete;
};

// One engine's place on the fabric: a plugin instance with one rail.
struct Node {
    fake::Side side;
    explicit Node(const char *device, const char *fabric, uint64_t now_ns, uint32_t slices_max)
        : side(tent_plugin_query(TENT_PLUGIN_ABI), device, {{"fabric", fabric}}, slices_max) {
        CHECK_EQ(side.status, TENT_OK);
        side.host.now_ns = now_ns;
    }
};

// An endpoint between two nodes.
struct Lane {
    Node *from = nullptr;
    Node *to = nullptr;
    void *near = nullptr;
    void *far = nullptr;
    uint64_t number = 0;
    int32_t state() const { return from->side.host.state_of(number); }
};

struct World {
    tent_sim *sim = nullptr;
    std::vector<std::unique_ptr<Node>> nodes;
    std::vector<std::unique_ptr<Lane>> lanes;
    uint64_t now_ns = T0;
    std::vector<uint8_t> local, remote;  // here, so that endpoints end before their memory

    explicit World(uint64_t seed = 1, uint32_t flags = 0) {
        tent_sim_options options{};
        options.size = sizeof options;
        options.flags = flags;
        options.seed = seed;
        options.control_latency_ns = 5 * US;
        options.trace_room = 1 << 16;
        CHECK_EQ(tent_sim_create(&options, &sim), TENT_OK);
    }
    ~World() {
        for (auto &lane : lanes) {
            if (lane->near != nullptr) close(*lane);
            if (lane->far != nullptr) retire(*lane);
        }
        nodes.clear();
        CHECK_EQ(tent_sim_destroy(sim), TENT_OK);
    }
    World(const World &) = delete;
    World &operator=(const World &) = delete;

    uint32_t host(const char *name) {
        const int32_t index = tent_sim_host(sim, name, nullptr);
        CHECK(index >= 0);
        return static_cast<uint32_t>(index);
    }
    uint32_t rail(uint32_t host, const char *name, const RailOptions &options = {}) {
        const int32_t index = tent_sim_rail(sim, host, name, &options);
        CHECK(index >= 0);
        return static_cast<uint32_t>(index);
    }
    Node &node(const char *device, uint32_t slices_max = 4096) {
        nodes.push_back(std::make_unique<Node>(device, tent_sim_name(sim), now_ns, slices_max));
        return *nodes.back();
    }
    // Begins to set up an endpoint; run until it is ready.
    Lane &begin(Node &from, Node &to) {
        lanes.push_back(std::make_unique<Lane>());
        Lane &lane = *lanes.back();
        lane.from = &from;
        lane.to = &to;
        lane.number = 100 + lanes.size();
        const tent_plugin *plugin = from.side.plugin;
        char offer[TENT_OFFER_MAX], answer[TENT_OFFER_MAX];
        uint32_t offer_size = sizeof offer, answer_size = sizeof answer;
        CHECK(plugin->rail_reach(from.side.instance, from.side.rail, to.side.info.address) > 0);
        auto params = from.side.params(lane.number, true, to.side.info.address, "", nullptr, 0);
        CHECK_EQ(
            plugin->endpoint_offer(from.side.instance, &params, &lane.near, offer, &offer_size),
            TENT_OK);
        params = to.side.params(lane.number, false, from.side.info.address, "", offer, offer_size);
        CHECK_EQ(
            plugin->endpoint_accept(to.side.instance, &params, &lane.far, answer, &answer_size),
            TENT_OK);
        params = from.side.params(lane.number, true, to.side.info.address, "", answer, answer_size);
        CHECK_EQ(plugin->endpoint_connect(from.side.instance, lane.near, &params), TENT_OK);
        return lane;
    }
    Lane &join(Node &from, Node &to) {
        Lane &lane = begin(from, to);
        run(now_ns + MS);
        CHECK_EQ(lane.state(), TENT_OK);
        return lane;
    }
    int32_t close(Lane &lane) {
        Node &node = *lane.from;
        return node.side.plugin->endpoint_close(node.side.instance,
                                                std::exchange(lane.near, nullptr));
    }
    int32_t retire(Lane &lane) {
        Node &node = *lane.to;
        return node.side.plugin->endpoint_retire(node.side.instance,
                                                 std::exchange(lane.far, nullptr));
    }
    // Ids count per node: fake::Side keeps the statuses by id.
    uint64_t post(Lane &lane, uint32_t op, void *local, const void *remote, uint64_t length,
                  uint32_t flags = 0) {
        const uint64_t id = lane.from->side.statuses.size();
        CHECK(lane.from->side.post(lane.near, op, local, reinterpret_cast<uintptr_t>(remote),
                                   length, flags));
        return id;
    }
    // Every node polls at now_ns until none has anything to do.
    void settle() {
        bool moved = true;
        while (moved) {
            moved = false;
            for (auto &node : nodes) {
                node->side.host.now_ns = now_ns;
                node->side.busy = 0;
                const uint32_t count = node->side.poll();
                moved |= count > 0 || node->side.busy != 0;
            }
        }
    }
    // From event to event until `until_ns`, or until node's slice has come back.
    void run(uint64_t until_ns, const Node *node = nullptr, uint64_t id = 0) {
        for (;;) {
            settle();
            if (node != nullptr && node->side.statuses.at(id) != TENT_IN_PROGRESS) return;
            if (now_ns >= until_ns) return;
            now_ns = std::max(now_ns, std::min(until_ns, tent_sim_next_event_ns(sim)));
        }
    }
    // When the slice came back; NEVER (UINT64_MAX) if not within a second.
    uint64_t end_of(const Lane &lane, uint64_t id) {
        run(now_ns + 1000 * MS, lane.from, id);
        return lane.from->side.statuses[id] == TENT_IN_PROGRESS ? UINT64_MAX : now_ns;
    }
    int32_t status(const Lane &lane, uint64_t id) const { return lane.from->side.statuses.at(id); }
    tent_sim_counters counters(uint32_t rail) const {
        tent_sim_counters read{};
        CHECK_EQ(tent_sim_rail_counters(sim, rail, &read, sizeof read), TENT_OK);
        return read;
    }
};

// Two hosts, a rail each, one endpoint from a to b, memory that b grants.
struct Simple : World {
    uint32_t a, b, rail_a, rail_b;
    Node &from, &to;
    Lane &lane;

    explicit Simple(const RailOptions &options = {}, uint64_t seed = 1, uint32_t flags = 0)
        : Simple(options, options, seed, flags) {}
    Simple(const RailOptions &near, const RailOptions &far, uint64_t seed = 1, uint32_t flags = 0)
        : World(seed, flags),
          a(host("a")),
          b(host("b")),
          rail_a(rail(a, "0", near)),
          rail_b(rail(b, "0", far)),
          from(node("a/0")),
          to(node("b/0")),
          lane(join(from, to)) {
        local.resize(1 << 20);
        remote.resize(1 << 20);
        to.side.host.grant(remote.data(), remote.size());
        for (size_t i = 0; i < local.size(); i++)
            local[i] = static_cast<uint8_t>(i * 7 + 1);
    }
    uint64_t write(uint64_t length, uint64_t offset = 0, uint32_t flags = 0) {
        return post(lane, TENT_OP_WRITE, local.data() + offset, remote.data() + offset, length,
                    flags);
    }
    uint64_t read(uint64_t length, uint64_t offset = 0) {
        return post(lane, TENT_OP_READ, local.data() + offset, remote.data() + offset, length);
    }
    bool arrived(uint64_t length, uint64_t offset = 0) const {
        return memcmp(remote.data() + offset, local.data() + offset, length) == 0;
    }
};

}  // namespace sim_world

#endif
