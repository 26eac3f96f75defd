// Two instances of the rdma transport in one process, joined over libibverbs_loop, and what tests
// need around them: memory, regions told from one to the other, a control channel that may lose.
//
// Leans on fake_host.h, verbs/loop.h and the inside of plugins/rdma. Takes no time of its own: a
// test steps both sides by hand, and the clock with them. Errands run at once, or in threads.
#ifndef TENT_TESTS_RDMA_PAIR_H
#define TENT_TESTS_RDMA_PAIR_H

#include <dlfcn.h>
#include <sched.h>
#include <sys/mman.h>
#include <tent/plugin.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "fake_host.h"
#include "plugins/rdma/state.h"
#include "verbs/loop.h"

namespace rdma_pair {

using Given = std::vector<tent_option>;
constexpr uint64_t MS = 1'000'000, SECOND = 1000 * MS;
constexpr uint32_t READ = TENT_ACCESS_READ, WRITE = TENT_ACCESS_WRITE;

inline const loop_api &loop() {
    static const loop_api *const api = [] {
        setenv("TENT_LIBIBVERBS", TENT_TEST_VERBS, 1);
        void *library = dlopen(TENT_TEST_VERBS, RTLD_NOW | RTLD_LOCAL);
        if (library == nullptr) {
            fprintf(stderr, "%s\n", dlerror());
            abort();
        }
        using Ruler = const loop_api *(*)();
        return reinterpret_cast<Ruler>(dlsym(library, "tent_loop"))();
    }();
    return *api;
}

// What a test wants otherwise than usual.
struct Setup {
    Given initiators{}, targets{}, rail{};
    std::function<void()> devices{};  // is called before they are opened
    uint32_t access = READ | WRITE;   // granted
    bool threads = false;             // errands run in threads
};

// Devices as in the beginning; at its end nothing of the library may be left.
struct Fabric {
    explicit Fabric(const Setup &setup) {
        CHECK_EQ(loop().reset(), 0u);
        if (setup.devices) setup.devices();
    }
    ~Fabric() {
        for (const char *kind : {"context", "pd", "mr", "mw", "cq", "channel", "qp", "list"})
            if (loop().live(kind) != 0)
                check::report(__FILE__, __LINE__,
                              std::to_string(loop().live(kind)) + " leaked: " + kind);
    }
    Fabric(const Fabric &) = delete;
    Fabric &operator=(const Fabric &) = delete;
};

inline uint64_t at(const void *data) {
    return reinterpret_cast<uintptr_t>(data);
}

// Whole pages, in a pattern of its own.
struct Memory {
    uint8_t *data = nullptr;
    size_t size;

    explicit Memory(size_t bytes, uint8_t seed = 0) : size(bytes) {
        void *mapped =
            mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) abort();
        data = static_cast<uint8_t *>(mapped);
        if (seed != 0) pattern(seed);
    }
    ~Memory() { munmap(data, size); }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;

    void pattern(uint8_t seed) {
        uint32_t value = seed * 2654435761u;
        for (size_t i = 0; i < size; i++) {
            value = value * 1664525u + 1013904223u;
            data[i] = static_cast<uint8_t>(value >> 24);
        }
    }
    void clear() { memset(data, 0, size); }
    bool is(const Memory &other, uint64_t begin, uint64_t length) const {
        return memcmp(data + begin, other.data + begin, length) == 0;
    }
    bool is_zero(uint64_t begin, uint64_t length) const {
        return length == 0 ||
               (data[begin] == 0 && memcmp(data + begin, data + begin + 1, length - 1) == 0);
    }
};

inline const tent_plugin *rdma() {
    loop();
    return tent_plugin_query(TENT_PLUGIN_ABI);
}

struct Side : fake::Side {
    std::vector<void *> more_rails;

    Side(const char *device, const Given &options = {}, const Given &rail_options = {})
        : fake::Side(rdma(), device, options, 4096, nullptr, rail_options) {
        host.now_ns = SECOND;
        if (status != TENT_OK) fprintf(stderr, "%s: %s\n", device, host.failure.c_str());
    }
    ~Side() {
        host.errands.join();
        for (void *extra : more_rails)
            plugin->rail_close(instance, extra);
    }
    tent::rdma::Instance &inside() const { return tent::rdma::instance_of(instance); }

    // One more, by the plan's number; nullptr: refused.
    void *open_rail(const char *device, uint32_t index, tent_rail_info *about = nullptr) {
        tent_rail_params params{};
        params.size = sizeof params;
        params.index = index;
        params.device = device;
        tent_rail_info unwanted{};
        void *made = nullptr;
        tent_rail_info *told = about != nullptr ? about : &unwanted;
        told->size = sizeof *told;
        if (plugin->rail_open(instance, &params, &made, told) != TENT_OK) return nullptr;
        more_rails.push_back(made);
        return made;
    }
    void *region(void *data, uint64_t length, uint32_t access = READ | WRITE) {
        tent_region_params params{};
        params.size = sizeof params;
        params.access = access;
        params.address = data;
        params.length = length;
        params.location = "cpu:0";
        params.memory_fd = -1;
        void *made = nullptr;
        return plugin->region_register(instance, &params, &made) == TENT_OK ? made : nullptr;
    }
    std::vector<char> exported(void *region) {
        std::vector<char> bytes(TENT_EXPORT_MAX);
        uint32_t size = TENT_EXPORT_MAX;
        if (plugin->region_export(instance, region, bytes.data(), &size) != TENT_OK) size = 0;
        bytes.resize(size);
        return bytes;
    }
    void *imported(const std::vector<char> &bytes) {
        void *made = nullptr;
        const int32_t got = plugin->segment_import(instance, bytes.data(),
                                                   static_cast<uint32_t>(bytes.size()), &made);
        return got == TENT_OK ? made : nullptr;
    }
    std::string about(void *endpoint, void *remote) {
        char text[400] = "";
        plugin->endpoint_about(instance, endpoint, remote, text, sizeof text);
        return text;
    }
    std::string about(void *region) {
        char text[1000] = "";
        plugin->region_about(instance, region, text, sizeof text);
        return text;
    }
    bool logged(const char *what) const {
        return std::any_of(host.logged.begin(), host.logged.end(), [&](const std::string &line) {
            return line.find(what) != std::string::npos;
        });
    }
    std::string sentence_of(uint64_t endpoint) const {
        std::string found;
        for (const fake::News &item : host.news)
            if (item.endpoint == endpoint) found = item.sentence;
        return found;
    }
    size_t news_of(uint64_t endpoint) const {
        return static_cast<size_t>(
            std::count_if(host.news.begin(), host.news.end(),
                          [&](const fake::News &item) { return item.endpoint == endpoint; }));
    }
};

// How long a test waits for what must come. TENT_TEST_PATIENCE, in seconds, where it is known that
// it will not.
inline uint64_t patience_ns() {
    const char *seconds = getenv("TENT_TEST_PATIENCE");
    return (seconds != nullptr ? strtoull(seconds, nullptr, 10) : 20) * SECOND;
}

// A region of the target as the initiator knows it.
struct Told {
    void *region = nullptr;  // the target's
    void *remote = nullptr;  // the initiator's
};

// An endpoint's two halves. The cores' numbers of it are 100 and 200 more than its place.
struct Joint {
    uint64_t number = 0;
    void *from = nullptr, *to = nullptr;
    std::vector<char> offer, answer;
    void *from_rail = nullptr, *to_rail = nullptr;

    uint64_t initiators() const { return 100 + number; }
    uint64_t targets() const { return 200 + number; }
    tent::rdma::Endpoint &from_inside() const { return *static_cast<tent::rdma::Endpoint *>(from); }
    tent::rdma::Endpoint &to_inside() const { return *static_cast<tent::rdma::Endpoint *>(to); }
};

struct Pair {
    Fabric fabric;
    Side initiator, target;
    std::vector<Told> told;
    std::vector<void *> locals;
    std::vector<std::unique_ptr<Joint>> joints;
    uint64_t tick_ns = 100'000;
    uint32_t lose = 0;  // so many of the next messages

    explicit Pair(const Setup &setup = {})
        : fabric(setup),
          initiator("loop0", setup.initiators, setup.rail),
          target("loop1", setup.targets, setup.rail) {
        // An errand's thread may take longer than steps do.
        if (setup.threads) tick_ns = 1000;
        initiator.host.errands.threaded = target.host.errands.threaded = setup.threads;
        // Nothing of a test can be true then.
        if (initiator.status != TENT_OK || target.status != TENT_OK) abort();
    }
    ~Pair() {
        loop().fail("", 0, 0, 0);
        for (auto &joint : joints)
            CHECK(part(*joint));
        for (const Told &known : told) {
            if (known.remote != nullptr) rdma()->segment_forget(initiator.instance, known.remote);
            if (known.region != nullptr) CHECK(release(target, known.region));
        }
        for (void *region : locals)
            CHECK(release(initiator, region));
    }
    Pair(const Pair &) = delete;
    Pair &operator=(const Pair &) = delete;

    void *local(void *data, uint64_t length, uint32_t access = READ | WRITE) {
        void *made = initiator.region(data, length, access);
        if (made != nullptr) locals.push_back(made);
        return made;
    }
    // Registers it at the target, granted with that access (0: not), and imports it.
    Told &tell(void *data, uint64_t length, uint32_t access = READ | WRITE) {
        if (access != 0) target.host.grant(data, length, TENT_OK, access);
        void *region = target.region(data, length);
        told.push_back(
            {region, region != nullptr ? initiator.imported(target.exported(region)) : nullptr});
        return told.back();
    }
    void hint(const Joint &joint, void *remote) {
        rdma()->endpoint_region(initiator.instance, joint.from, remote);
    }

    // ---- the life of an endpoint -------------------------------------------------------------

    int32_t make_offer(Joint &joint) {
        joint.offer.resize(TENT_OFFER_MAX);
        uint32_t size = TENT_OFFER_MAX;
        tent_endpoint_params params =
            initiator.params(joint.initiators(), true, target.info.address, "", nullptr, 0);
        if (joint.from_rail != nullptr) params.rail = joint.from_rail;
        const int32_t status = rdma()->endpoint_offer(initiator.instance, &params, &joint.from,
                                                      joint.offer.data(), &size);
        if (status != TENT_OK) joint.from = nullptr;
        joint.offer.resize(status == TENT_OK ? size : 0);
        return status;
    }
    int32_t accept(Joint &joint) {
        joint.answer.resize(TENT_OFFER_MAX);
        uint32_t size = TENT_OFFER_MAX;
        tent_endpoint_params params =
            target.params(joint.targets(), false, initiator.info.address, "", joint.offer.data(),
                          static_cast<uint32_t>(joint.offer.size()));
        if (joint.to_rail != nullptr) params.rail = joint.to_rail;
        const int32_t status = rdma()->endpoint_accept(target.instance, &params, &joint.to,
                                                       joint.answer.data(), &size);
        if (status != TENT_OK) joint.to = nullptr;
        joint.answer.resize(status == TENT_OK ? size : 0);
        return status;
    }
    int32_t connect(Joint &joint) {
        tent_endpoint_params params =
            initiator.params(joint.initiators(), true, target.info.address, "", joint.answer.data(),
                             static_cast<uint32_t>(joint.answer.size()));
        if (joint.from_rail != nullptr) params.rail = joint.from_rail;
        return rdma()->endpoint_connect(initiator.instance, joint.from, &params);
    }
    Joint &add(void *from_rail = nullptr, void *to_rail = nullptr) {
        joints.push_back(std::make_unique<Joint>());
        joints.back()->number = joints.size();
        joints.back()->from_rail = from_rail;
        joints.back()->to_rail = to_rail;
        return *joints.back();
    }
    // The handshake with the regions told so far, without waiting for its end.
    int32_t begin(Joint &joint) {
        int32_t status = make_offer(joint);
        if (status == TENT_OK) status = accept(joint);
        if (status != TENT_OK) return status;
        for (const Told &known : told)
            if (known.remote != nullptr) hint(joint, known.remote);
        return connect(joint);
    }
    Joint &join(void *from_rail = nullptr, void *to_rail = nullptr) {
        Joint &joint = add(from_rail, to_rail);
        const int32_t status = begin(joint);
        CHECK_EQ(status, TENT_OK);
        if (status == TENT_OK && !CHECK_EQ(wait(joint), TENT_OK))
            fprintf(stderr, "%s\n", initiator.sentence_of(joint.initiators()).c_str());
        return joint;
    }
    // What the initiator's core heard of it first.
    int32_t wait(const Joint &joint) {
        until([&] { return initiator.host.state_of(joint.initiators()) != TENT_IN_PROGRESS; });
        return initiator.host.state_of(joint.initiators());
    }
    bool close(Joint &joint) {
        return until([&] {
            if (joint.from != nullptr &&
                rdma()->endpoint_close(initiator.instance, joint.from) == TENT_OK)
                joint.from = nullptr;
            return joint.from == nullptr;
        });
    }
    bool retire(Joint &joint) {
        return until([&] {
            if (joint.to != nullptr &&
                rdma()->endpoint_retire(target.instance, joint.to) == TENT_OK)
                joint.to = nullptr;
            return joint.to == nullptr;
        });
    }
    bool part(Joint &joint) {
        const bool closed = close(joint);
        return retire(joint) && closed;
    }
    bool release(Side &side, void *region) {
        return until([&] { return rdma()->region_release(side.instance, region) == TENT_OK; });
    }

    // ---- time ------------------------------------------------------------------------------

    Joint *joint_of(uint64_t number, bool at_target) {
        for (auto &joint : joints)
            if ((at_target ? joint->targets() : joint->initiators()) == number) return joint.get();
        return nullptr;
    }
    void carry(Side &sender, Side &receiver, bool from_target) {
        std::vector<fake::Message> arriving;
        arriving.swap(sender.host.messages);
        for (const fake::Message &message : arriving) {
            if (lose > 0) {
                lose--;
                continue;
            }
            const Joint *joint = joint_of(message.endpoint, from_target);
            void *endpoint = joint == nullptr ? nullptr : from_target ? joint->from : joint->to;
            if (endpoint != nullptr)
                rdma()->endpoint_message(receiver.instance, endpoint, message.bytes.data(),
                                         static_cast<uint32_t>(message.bytes.size()));
        }
    }
    void step(uint32_t count = 1) {
        for (; count > 0; count--) {
            initiator.host.now_ns += tick_ns;
            target.host.now_ns += tick_ns;
            initiator.poll();
            target.poll();
            carry(initiator, target, false);
            carry(target, initiator, true);
        }
    }
    // Steps until it is so; the clock of the test's patience is the real one, for errands may run
    // in threads.
    template <class Done>
    bool until(Done done) {
        const uint64_t end_ns = fake::real_now_ns() + patience_ns();
        for (uint32_t i = 1;; i++) {
            if (done()) return true;
            step();
            if (i % 256 != 0) continue;
            if (fake::real_now_ns() > end_ns) return false;
            sched_yield();
        }
    }
    // So long by the clock of both.
    void pass(uint64_t ns) {
        for (const uint64_t end_ns = initiator.host.now_ns + ns; initiator.host.now_ns < end_ns;)
            step();
    }
    bool settle() {
        return until([&] { return initiator.returned == initiator.statuses.size(); });
    }

    // ---- slices ----------------------------------------------------------------------------

    tent_slice slice(uint32_t op, const void *local, void *local_region, const void *remote,
                     void *remote_region, uint64_t length) const {
        return {initiator.statuses.size(),
                op,
                0,
                const_cast<void *>(local),
                at(remote),
                length,
                local_region,
                remote_region};
    }
    bool post(const Joint &joint, const tent_slice &slice) {
        if (rdma()->post(initiator.instance, joint.from, &slice, 1) == 0) return false;
        initiator.statuses.push_back(TENT_IN_PROGRESS);
        return true;
    }
    // As many as it takes of a batch whose ids follow each other.
    uint32_t post(const Joint &joint, std::vector<tent_slice> slices) {
        for (size_t i = 0; i < slices.size(); i++)
            slices[i].id = initiator.statuses.size() + i;
        const uint32_t taken = rdma()->post(initiator.instance, joint.from, slices.data(),
                                            static_cast<uint32_t>(slices.size()));
        initiator.statuses.resize(initiator.statuses.size() + taken, TENT_IN_PROGRESS);
        return taken;
    }
    // One slice to its end; its status, IN_PROGRESS: it was not taken or never ended.
    int32_t move(const Joint &joint, uint32_t op, const void *local, void *local_region,
                 const void *remote, void *remote_region, uint64_t length) {
        if (!post(joint, slice(op, local, local_region, remote, remote_region, length)))
            return TENT_IN_PROGRESS;
        return settle() ? initiator.statuses.back() : TENT_IN_PROGRESS;
    }
    uint32_t count_of(int32_t status) const {
        return static_cast<uint32_t>(
            std::count(initiator.statuses.begin(), initiator.statuses.end(), status));
    }
};

// A pair with one joint and memory of that size at both ends, all of it told.
struct Ready {
    Memory here, there;
    Pair pair;
    void *region = nullptr;  // the initiator's
    Told told;
    Joint *joint = nullptr;

    explicit Ready(size_t size, const Setup &setup = {}) : here(size, 1), there(size), pair(setup) {
        region = pair.local(here.data, size);
        told = pair.tell(there.data, size, setup.access);
        CHECK(region != nullptr && told.remote != nullptr);
        joint = &pair.join();
    }
    tent_slice slice(uint32_t op, uint64_t offset, uint64_t length) const {
        return pair.slice(op, here.data + offset, region, there.data + offset, told.remote, length);
    }
    bool post(uint32_t op, uint64_t offset, uint64_t length) {
        return pair.post(*joint, slice(op, offset, length));
    }
    int32_t move(uint32_t op, uint64_t offset, uint64_t length) {
        if (!post(op, offset, length)) return TENT_IN_PROGRESS;
        return pair.settle() ? pair.initiator.statuses.back() : TENT_IN_PROGRESS;
    }
    // All of it there is ours, and back again.
    void check_exact() { CHECK(there.is(here, 0, here.size)); }
};

}  // namespace rdma_pair

#endif
