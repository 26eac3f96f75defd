// Two engines in one process for native tests through the public C interface: a target with a
// registered buffer and an initiator that imports it. Leans on tent.h only.
#pragma once

#include <tent/tent.h>

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"

// The key of these tests: given explicitly, so that they never touch the user's key file.
inline constexpr char TEST_KEY[] = "0123456789abcdef0123456789abcdef";

#define OK(call)                                                                                   \
    do {                                                                                           \
        int32_t ok_status_ = (call);                                                               \
        if (ok_status_ != TENT_OK) {                                                               \
            printf("%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, tent_status_name(ok_status_), \
                   tent_last_error());                                                             \
            fflush(stdout);                                                                        \
            _exit(1); /* what follows would only hide it */                                        \
        }                                                                                          \
    } while (0)

struct TestEngine {
    tent_engine *engine = nullptr;
    explicit TestEngine(const char *name, const char *plan = nullptr,
                        tent_engine_options options = {}) {
        options.size = sizeof options;
        options.name = name;
        if (plan) options.plan = plan;
        if (!options.plugin_path) options.plugin_path = TENT_TEST_PLUGIN_DIR;
        if (!options.key) {
            options.key = TEST_KEY;
            options.key_size = sizeof TEST_KEY - 1;
        }
        OK(tent_engine_open(&options, &engine));
    }
    ~TestEngine() { close(); }
    void close() {
        if (engine) OK(tent_engine_close(engine));
        engine = nullptr;
    }
    std::string address() const {
        char text[128] = "";
        OK(tent_engine_address(engine, text, sizeof text));
        return text;
    }
    uint64_t add(std::vector<uint8_t> &memory,
                 uint32_t access = TENT_ACCESS_READ | TENT_ACCESS_WRITE) const {
        tent_region_options options{};
        options.size = sizeof options;
        options.access = access;
        uint64_t region = 0;
        OK(tent_region_register(engine, memory.data(), memory.size(), &options, &region));
        return region;
    }
};

struct EnginePair {
    std::vector<uint8_t> remote, local;  // outlive the engines that registered them
    TestEngine target, initiator;
    uint64_t remote_region, local_region, segment = 0;

    explicit EnginePair(size_t size, const char *plan = nullptr)
        : remote(size), local(size), target("target", plan), initiator("initiator", plan) {
        remote_region = target.add(remote);
        local_region = initiator.add(local);
        OK(tent_segment_open(initiator.engine, target.address().c_str(), 5000000000u, &segment));
    }
    tent_request request(uint32_t op, uint64_t offset, uint64_t length,
                         uint64_t user_data = 0) const {
        tent_request r{};
        r.op = op;
        r.segment = segment;
        r.local = reinterpret_cast<uint64_t>(local.data()) + offset;
        r.remote = reinterpret_cast<uint64_t>(remote.data()) + offset;
        r.length = length;
        r.user_data = user_data;
        return r;
    }
    int32_t transfer(uint32_t op, uint64_t offset, uint64_t length,
                     const tent_batch_options *options = nullptr) const {
        tent_request r = request(op, offset, length);
        uint32_t index = 0;
        return tent_transfer(initiator.engine, options, &r, sizeof r, 1, 10000000000u, &index);
    }
};

inline void fill_pattern(std::vector<uint8_t> &memory, uint64_t seed) {
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
    for (uint8_t &byte : memory) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        byte = static_cast<uint8_t>(x);
    }
}

// Two manual engines stepped in turn by the test, in time of its own.
struct ManualPair {
    std::vector<uint8_t> remote, local;
    TestEngine target, initiator;
    uint64_t now_ns, segment = 0;

    static constexpr uint64_t STEP_NS = 10000;

    static tent_engine_options manual(uint64_t seed) {
        tent_engine_options options{};
        options.flags = TENT_ENGINE_MANUAL;
        options.seed = seed;
        return options;
    }
    // plan: of both engines, nullptr: the engine's own; target_plan: of the target alone.
    explicit ManualPair(size_t size, const char *plan = nullptr, const char *target_plan = nullptr,
                        uint64_t begin_ns = 0)
        : remote(size),
          local(size),
          target("target", target_plan ? target_plan : plan, manual(1)),
          initiator("initiator", plan, manual(2)),
          now_ns(begin_ns) {
        target.add(remote);
        initiator.add(local);
        std::string address = target.address();
        CHECK_EQ(tent_segment_open(initiator.engine, address.c_str(), 0, &segment),
                 TENT_IN_PROGRESS);
        CHECK(
            step_until([&] { return tent_segment_wait(initiator.engine, segment, 0) == TENT_OK; }));
    }
    template <class Done>
    bool step_until(Done done) {
        for (int i = 0; i < 200000; i++) {
            if (done()) return true;
            now_ns += STEP_NS;
            CHECK(tent_engine_step(target.engine, now_ns) >= 0);
            CHECK(tent_engine_step(initiator.engine, now_ns) >= 0);
        }
        return false;
    }
};
