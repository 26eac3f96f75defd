// Real engines in manual mode on the simulated fabric, driven through virtual time: what tests of
// the scheduler's behaviour in a whole engine start from.
//
// Leans on the sim plugin's C interface by dlsym, from the very file the engines load. Must never
// use the real clock.
#pragma once

#include <dlfcn.h>
#include <tent/tent.h>

#include <string>
#include <vector>

#include "check.h"
#include "sim_bandwidth.h"

namespace sim_engines {

constexpr uint64_t US = 1000, MS = 1000 * US, SECOND = 1000 * MS;
constexpr uint64_t KIB = 1024, MIB = 1024 * KIB;
constexpr uint64_t GB_S = 1000000000u;

template <class F>
F *sim_function(const char *symbol) {
    static void *library =
        dlopen(TENT_TEST_PLUGIN_DIR "/libtent_plugin_sim.so", RTLD_NOW | RTLD_LOCAL);
    CHECK(library != nullptr);
    return reinterpret_cast<F *>(dlsym(library, symbol));
}
#define SIM(name) sim_engines::sim_function<decltype(tent_sim_##name)>("tent_sim_" #name)

using namespace sim_bandwidth;

struct RailSpec {
    tent_sim_bandwidth bandwidth;
    uint64_t nominal, latency_ns;
};

inline RailSpec rail(uint64_t bytes_per_s, uint64_t latency_ns = 5 * US) {
    return {constant(bytes_per_s), bytes_per_s, latency_ns};
}

struct Fabric {
    struct Host {
        tent_engine *engine = nullptr;
        std::vector<int32_t> rails;
        std::string address, device_prefix;
        std::vector<uint8_t> memory;
        uint64_t segment = 0;
    };
    tent_sim *sim = nullptr;
    std::string name;
    std::vector<Host> hosts;
    std::vector<tent_engine *> engines;
    uint64_t tick_ns = 0;

    explicit Fabric(uint64_t seed = 1, uint32_t flags = 0, uint64_t trace_room = 0) {
        tent_sim_options options{};
        options.size = sizeof options;
        options.flags = flags;
        options.seed = seed;
        options.control_latency_ns = 5 * US;
        options.trace_room = trace_room;
        CHECK_EQ(SIM(create)(&options, &sim), TENT_OK);
        name = SIM(name)(sim);
    }
    ~Fabric() {
        for (tent_engine *engine : engines)
            tent_engine_close(engine);
        CHECK_EQ(SIM(destroy)(sim), TENT_OK);
    }
    // A host with these rails and `memory` bytes, its engine not yet open.
    size_t add(const char *host, const std::vector<RailSpec> &rails, size_t memory) {
        Host made;
        int32_t index = SIM(host)(sim, host, nullptr);
        CHECK(index >= 0);
        for (size_t i = 0; i < rails.size(); i++) {
            tent_sim_rail_options options{};
            options.size = sizeof options;
            options.bandwidth = &rails[i].bandwidth;
            options.nominal_bytes_per_s = rails[i].nominal;
            options.latency_ns = rails[i].latency_ns;
            options.numa = -1;
            made.rails.push_back(
                SIM(rail)(sim, static_cast<uint32_t>(index), std::to_string(i).c_str(), &options));
            CHECK(made.rails.back() >= 0);
        }
        char address[64];
        CHECK_EQ(SIM(host_address)(sim, static_cast<uint32_t>(index), address, sizeof address),
                 TENT_OK);
        made.address = address;
        made.device_prefix = std::string(host) + "/";
        made.memory.resize(memory);
        hosts.push_back(std::move(made));
        return hosts.size() - 1;
    }
    std::string all_rails(size_t host) const {
        std::string text;
        for (size_t i = 0; i < hosts[host].rails.size(); i++)
            text += (i ? " " : "") + std::to_string(i);
        return text;
    }
    // lines: more of the plan; route: its row, "" for all rails in one tier.
    void open(size_t host, const std::string &route = "", const std::string &lines = "",
              uint32_t slices_max = 0) {
        Host &h = hosts[host];
        std::string plan = "plan 1\nset sim.fabric=" + name + "\n" + lines;
        for (size_t i = 0; i < h.rails.size(); i++)
            plan +=
                "rail " + std::to_string(i) + " sim " + h.device_prefix + std::to_string(i) + "\n";
        plan += route.empty() ? "route * : sim[" + all_rails(host) + "] slice=64k\n" : route + "\n";
        open_plan(host, plan, TENT_TEST_PLUGIN_DIR, slices_max);
    }
    void open_plan(size_t host, const std::string &plan, const std::string &plugin_path,
                   uint32_t slices_max = 0) {
        Host &h = hosts[host];
        tent_engine_options options{};
        options.size = sizeof options;
        options.flags = TENT_ENGINE_MANUAL;
        options.name = h.device_prefix.c_str();
        std::string listen = "sim://" + h.address;
        options.listen = listen.c_str();
        options.plan = plan.c_str();
        options.plugin_path = plugin_path.c_str();
        options.key = "a key for tests of engines";
        options.key_size = 26;
        options.seed = host + 1;
        options.slices_max = slices_max;
        int32_t status = tent_engine_open(&options, &h.engine);
        if (status != TENT_OK) printf("%s\n", tent_last_error());
        CHECK_EQ(status, TENT_OK);
        CHECK_EQ(
            tent_region_register(h.engine, h.memory.data(), h.memory.size(), nullptr, &h.segment),
            TENT_OK);
        engines.push_back(h.engine);
    }
    uint64_t now_ns() const { return SIM(now_ns)(sim); }
    int32_t run(uint64_t until_ns, const std::vector<tent_sim_batch> &batches = {},
                uint32_t mode = TENT_SIM_ALL) {
        tent_sim_run_options options{};
        options.size = sizeof options;
        options.mode = mode;
        options.step = tent_engine_step;
        options.poll = tent_batch_poll;
        options.engines = engines.data();
        options.engine_count = static_cast<uint32_t>(engines.size());
        options.batches = batches.data();
        options.batch_count = static_cast<uint32_t>(batches.size());
        options.until_ns = until_ns;
        options.tick_ns = tick_ns;
        return SIM(run)(sim, &options);
    }
    uint64_t connect(size_t from, size_t to) {
        uint64_t segment = 0;
        CHECK_EQ(tent_segment_open(hosts[from].engine, hosts[to].address.c_str(), 0, &segment),
                 TENT_IN_PROGRESS);
        for (int i = 0; i < 1000; i++) {
            int32_t status = tent_segment_wait(hosts[from].engine, segment, 0);
            if (status == TENT_OK) return segment;
            CHECK_EQ(status, TENT_IN_PROGRESS);
            run(now_ns() + 100 * US);
        }
        CHECK(!"the segment never became usable");
        return 0;
    }
    struct Ask {
        uint64_t length;
        uint32_t class_ = TENT_CLASS_NORMAL;
        uint64_t deadline_ns = 0;
        uint32_t op = TENT_OP_WRITE;
        const char *label = nullptr;
        uint64_t offset = 0;
        uint32_t flags = 0;
    };
    tent_sim_batch submit(size_t from, size_t to, uint64_t segment, const Ask &ask) {
        tent_batch_options options{};
        options.size = sizeof options;
        options.class_ = ask.class_;
        options.deadline_ns = ask.deadline_ns;
        options.flags = ask.flags;
        options.label = ask.label;
        tent_sim_batch batch{hosts[from].engine, 0};
        CHECK_EQ(tent_batch_open(batch.engine, &options, &batch.batch), TENT_OK);
        tent_request request{};
        request.op = ask.op;
        request.segment = segment;
        request.local = reinterpret_cast<uint64_t>(hosts[from].memory.data()) + ask.offset;
        request.remote = reinterpret_cast<uint64_t>(hosts[to].memory.data()) + ask.offset;
        request.length = ask.length;
        uint32_t index = 0;
        int32_t status = tent_batch_submit(batch.engine, batch.batch, &request, sizeof request, 1,
                                           TENT_SUBMIT_SEAL, &index);
        if (status != TENT_OK) printf("%s\n", tent_last_error());
        CHECK_EQ(status, TENT_OK);
        return batch;
    }
    // Virtual time the request took.
    uint64_t transfer(size_t from, size_t to, uint64_t segment, const Ask &ask) {
        uint64_t begin_ns = now_ns();
        tent_sim_batch batch = submit(from, to, segment, ask);
        CHECK_EQ(run(begin_ns + 60 * SECOND, {batch}), TENT_OK);
        CHECK_EQ(tent_batch_poll(batch.engine, batch.batch), TENT_OK);
        CHECK_EQ(tent_batch_close(batch.engine, batch.batch), TENT_OK);
        return now_ns() - begin_ns;
    }
};

// Two hosts of equal rails; host 0 writes to host 1.
struct Two : Fabric {
    uint64_t segment = 0;
    explicit Two(const std::vector<RailSpec> &rails, size_t memory = 16 * MIB,
                 const std::string &route = "", const std::string &lines = "") {
        add("a", rails, memory);
        add("b", rails, memory);
        open(0, route, lines);
        open(1, route, lines);
        segment = connect(0, 1);
    }
    uint64_t transfer(const Ask &ask) { return Fabric::transfer(0, 1, segment, ask); }
    tent_sim_batch submit(const Ask &ask) { return Fabric::submit(0, 1, segment, ask); }
    void finish(const tent_sim_batch &batch) {
        CHECK_EQ(run(now_ns() + SECOND, {batch}), TENT_OK);
        CHECK_EQ(tent_batch_poll(batch.engine, batch.batch), TENT_OK);
        CHECK_EQ(tent_batch_close(batch.engine, batch.batch), TENT_OK);
    }
    tent_counters engine_row() {
        tent_counters row{};
        uint32_t count = 1;
        CHECK_EQ(
            tent_counters_read(hosts[0].engine, TENT_COUNTERS_ENGINE, &row, sizeof row, &count),
            TENT_OK);
        return row;
    }
    uint64_t class_bytes(uint64_t class_) {
        tent_counters rows[3] = {};
        uint32_t count = 3;
        CHECK_EQ(
            tent_counters_read(hosts[0].engine, TENT_COUNTERS_CLASS, rows, sizeof rows[0], &count),
            TENT_OK);
        return rows[class_].id == class_ ? rows[class_].bytes_written : UINT64_MAX;
    }
    std::vector<tent_counters> endpoints() {
        std::vector<tent_counters> rows(64);
        uint32_t count = 64;
        CHECK_EQ(tent_counters_read(hosts[0].engine, TENT_COUNTERS_ENDPOINT, rows.data(),
                                    sizeof rows[0], &count),
                 TENT_OK);
        rows.resize(count);
        return rows;
    }
};

inline std::vector<RailSpec> equal_rails(size_t count) {
    return std::vector<RailSpec>(count, rail(25 * GB_S));
}

// Everything charged was released, on every row.
inline void check_at_rest(Two &two) {
    for (const tent_counters &row : two.endpoints()) {
        CHECK_EQ(row.charged_bytes, row.released_bytes);
        CHECK_EQ(row.inflight_slices, 0u);
    }
    CHECK_EQ(two.engine_row().inflight_slices, 0u);
}

}  // namespace sim_engines
