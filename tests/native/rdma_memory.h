// An instance of the rdma transport with rails and no device: the library is a table of functions
// made here, which counts and refuses. For tests of memory and keys; queue pairs and windows that
// work are the business of rdma_pair.h.
#ifndef TENT_TESTS_RDMA_MEMORY_H
#define TENT_TESTS_RDMA_MEMORY_H

#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "fake_host.h"
#include "plugins/rdma/state.h"

namespace rdma_memory {

using namespace tent::rdma;

constexpr uint64_t MIB = 1 << 20;
constexpr uint64_t GIB = 1 << 30;
constexpr uint32_t ALL = TENT_ACCESS_READ | TENT_ACCESS_WRITE;

// What the library is asked for. One at a time: the tests' World empties it.
struct Library {
    struct Asked {
        uint64_t address, length;
        int access;
        ibv_pd *pd;
    };
    std::mutex mutex;
    std::vector<Asked> asked;
    int live = 0;
    uint32_t key = 100;
    std::function<int(const Asked &)> refuse;  // an errno, 0: fine; not under the mutex
    int dereg_error = 0;
    std::function<void()> ending;  // a registration is about to; not under the mutex
};
inline Library library;

inline ibv_mr *reg_mr(ibv_pd *pd, void *address, size_t length, int access) {
    const Library::Asked asked{reinterpret_cast<uintptr_t>(address), length, access, pd};
    if (library.refuse) {
        const int error = library.refuse(asked);
        if (error != 0) {
            errno = error;
            return nullptr;
        }
    }
    const std::lock_guard lock(library.mutex);
    library.asked.push_back(asked);
    library.live++;
    auto *mr = new ibv_mr{};
    mr->addr = address;
    mr->length = length;
    mr->lkey = library.key++;
    mr->rkey = library.key++;
    return mr;
}

inline int dereg_mr(ibv_mr *mr) {
    if (library.ending) library.ending();
    const std::lock_guard lock(library.mutex);
    if (library.dereg_error != 0) return library.dereg_error;
    library.live--;
    delete mr;
    return 0;
}

struct Sent {
    uint64_t endpoint;
    std::vector<uint8_t> bytes;
};

// An instance with two rails, without a device.
struct World {
    fake::Host host;
    Verbs verbs;
    Instance instance;
    Rail rails[2];
    ibv_pd pds[2] = {};
    static inline std::vector<std::thread> threads;
    static inline std::vector<Sent> sent;
    static inline int32_t channel = TENT_OK;

    explicit World(uint32_t rail_count = 2, bool windows = true) {
        library.refuse = nullptr;
        library.ending = nullptr;
        library.asked.clear();
        library.live = 0;
        library.dereg_error = 0;
        sent.clear();
        channel = TENT_OK;
        verbs.reg_mr = reg_mr;
        verbs.dereg_mr = dereg_mr;
        host.now_ns = 1'000'000'000;
        host.table.errand = [](void *, void (*run)(void *), void *argument) { run(argument); };
        host.table.control_send = [](void *, uint64_t endpoint, const void *bytes, uint32_t size) {
            const auto *begin = static_cast<const uint8_t *>(bytes);
            if (channel == TENT_OK) sent.push_back({endpoint, {begin, begin + size}});
            return channel;
        };
        instance.host = &host.table;
        instance.verbs = &verbs;
        memset(instance.id, 7, sizeof instance.id);
        for (uint32_t slot = 0; slot < 2; slot++) {
            Rail &rail = rails[slot];
            rail.instance = &instance;
            rail.slot = rail.index = slot;
            rail.device = slot == 0 ? "one" : "two";
            rail.generation = 1;
            rail.windows = windows;
            rail.pd = &pds[slot];
            if (slot < rail_count) CHECK(join(slot));
        }
    }
    ~World() {
        for (std::thread &thread : threads)
            thread.join();
        threads.clear();
        while (!instance.regions.empty())
            CHECK_EQ(region_release(&instance, instance.regions.back()), TENT_OK);
        CHECK(instance.registrations.empty());
        CHECK_EQ(library.live, 0);
        for (const Rail &rail : rails)
            CHECK_EQ(rail.registering.load(), 0u);
    }
    bool join(uint32_t slot) {
        instance.rails[slot] = &rails[slot];
        std::string why;
        return regions_join(rails[slot], &why);
    }
    int32_t add(uint64_t address, uint64_t length, uint32_t access, Region **out,
                const char *location = "cpu:0") {
        tent_region_params params{};
        params.size = sizeof params;
        params.address = reinterpret_cast<void *>(address);
        params.length = length;
        params.access = access;
        params.location = location;
        void *handle = nullptr;
        const int32_t status = region_register(&instance, &params, &handle);
        *out = static_cast<Region *>(handle);
        return status;
    }
    Region *region(uint64_t address, uint64_t length, uint32_t access = ALL) {
        Region *made = nullptr;
        CHECK_EQ(add(address, length, access, &made), TENT_OK);
        return made;
    }
    std::string about(Region *region) {
        char text[1024];
        region_about(&instance, region, text, sizeof text);
        return text;
    }
    // An endpoint as it is when it stands.
    Endpoint &endpoint(bool initiator, uint32_t qp_count = 2) {
        auto made = std::make_unique<Endpoint>();
        made->instance = &instance;
        made->rail = &rails[0];
        made->number = 40 + instance.endpoints.size();
        made->initiator = initiator;
        made->risen = true;
        made->state = EndpointState::READY;
        memset(made->peer.instance, 7, sizeof made->peer.instance);
        for (uint32_t i = 0; i < qp_count; i++)
            made->qps.push_back(std::make_unique<Qp>());
        instance.endpoints.push_back(std::move(made));
        return *instance.endpoints.back();
    }
};

}  // namespace rdma_memory

#endif
