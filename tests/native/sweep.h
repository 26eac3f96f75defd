// A scenario for sweeps: it runs again and again, and each time one operation of the transport
// below fails that has not failed before, once or from then on, until a run passes clean because it
// has no operation of that number.
//
// The scenario is two engines, on the simulated fabric, over sockets on loopback or over shared
// memory: import, write, read, notice, cancel, revoke, release, close. Whatever fails, it must end
// in bounded virtual time with every request terminal exactly once, the bytes right where it says
// OK, nothing written afterwards, all charges released, and nothing leaked (address sanitizer).
// TENT_SWEEP="drop:17" picks the faults whose title begins so, and shows what came of them;
// TENT_SWEEP_ALL=1 goes on after a failure.
//
// Leans on sim_engines.h and on fault's C interface. Must never use the real clock.
#pragma once

#include "sim_engines.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <memory>

#include "plugins/fault/fault.h"

namespace sweeping {

using namespace sim_engines;

template <class F>
F *fault_function(const char *symbol) {
    static void *library =
        dlopen(TENT_TEST_PLUGIN_DIR "/libtent_plugin_fault.so", RTLD_NOW | RTLD_LOCAL);
    CHECK(library != nullptr);
    return reinterpret_cast<F *>(dlsym(library, symbol));
}
#define FAULT(name) fault_function<decltype(tent_fault_##name)>("tent_fault_" #name)

constexpr uint64_t PART = 512 * KIB;  // of a host's memory, by what it is for
enum Part : uint64_t { WRITTEN, READ, CANCELLED, GRANTED, PARTS };
constexpr uint64_t BYTES_PER_S = 20'000'000;  // a part takes longer than a housekeeping
constexpr uint64_t LATENCY_NS = 8 * US;
constexpr uint64_t NUMBER_MAX = 5000;
constexpr uint32_t IDLE_STEPS = 3;             // in which nothing moved until the system is asked
constexpr uint32_t STANDSTILL_MAX = 10000;     // steps in a row for which it holds up time
constexpr uint8_t SYN_SENT = 2, SYN_RECV = 3;  // of a TCP socket; linux/tcp.h names no states
constexpr int DESCRIPTORS = 128;               // more than a scenario ever has open
constexpr uint64_t LIMIT_NS = 10 * SECOND;     // of any one thing the scenario waits for

// What the engines meet over. Of shared memory each way: mapped, reached into, through the ring.
enum class Over : uint8_t { FABRIC, TCP, MAPPED, ATTACH, RING };
inline bool is_shm(Over over) {
    return over >= Over::MAPPED;
}
inline const char *transport_of(Over over) {
    return over == Over::FABRIC ? "sim" : over == Over::TCP ? "tcp" : "shm";
}

// Which operation fails, on which host, and for how long.
struct Plan {
    size_t host = 0;
    std::string failure;  // "": none
    uint64_t number = 0;
    const char *lasts = "once";
    Over over = Over::FABRIC;
    bool ladder = false;  // with tcp behind it

    bool once() const { return strcmp(lasts, "once") == 0; }
    bool good() const { return strcmp(lasts, "good") == 0; }
    // A transport that never lets go keeps what it has, segments and regions, until the engine
    // closes.
    bool keeps(size_t of) const {
        return host == of && good() &&
               (failure == "any" || failure == "endpoint_close" || failure == "endpoint_retire" ||
                failure == "region_release");
    }
    std::string lines(size_t of, const std::string &transport) const {
        std::string text =
            "set slice_size=64k\nset connect_timeout=300ms\nset fence_timeout=100ms\n"
            "set cancel_grace=0\nset peer_timeout=1s\n";
        // These run in the machine's own time, on however busy a machine.
        if (over == Over::MAPPED || over == Over::ATTACH || over == Over::RING)
            text += "set last_path_patience=5s\nset deadline_floor=50ms\nset probe_timeout=1s\n";
        // Both are decorated, so that what needs both sides (segment_import) is asked for.
        text += "decorate " + transport + " fault\nset fault.seed=1\n";
        if (over == Over::ATTACH || over == Over::RING) text += "set shm.mapped=no\n";
        if (over == Over::RING)
            text += "set shm.attach=no\nset shm.ring_chunk=16k\nset shm.ring_chunks=4\n";
        if (of != host || failure.empty() || failure == "none") return text;
        return text + "set fault.fail=" + failure + ":" + std::to_string(number) +
               "\nset fault.fail_for=" + lasts + "\n";
    }
    std::string title() const {
        return failure + ":" + std::to_string(number) + " " + lasts + " on host " +
               std::to_string(host) + " over " + ways[static_cast<size_t>(over)] +
               (ladder ? " and tcp" : "");
    }
    static constexpr const char *ways[] = {"sim", "tcp", "mapped", "attach", "ring"};
};

// Has the system something of this process's to deliver on loopback? It mostly does so within the
// call that sends; on a busy machine a thread of its own does, whenever it gets to run. Looks at
// what was received, and not at what was acknowledged, which may take 40 ms more.
inline bool under_way() {
    struct End {
        uint16_t port, peer_port;
        uint64_t sent, received;
    };
    End ends[DESCRIPTORS];
    size_t count = 0;
    for (int fd = 0; fd < DESCRIPTORS; fd++) {
        struct tcp_info info{};
        socklen_t size = sizeof info;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) continue;
        if (info.tcpi_state == SYN_SENT || info.tcpi_state == SYN_RECV) return true;
        sockaddr_in own{}, peer{};
        socklen_t own_size = sizeof own, peer_size = sizeof peer;
        if (getsockname(fd, reinterpret_cast<sockaddr *>(&own), &own_size) != 0 ||
            getpeername(fd, reinterpret_cast<sockaddr *>(&peer), &peer_size) != 0)
            continue;
        ends[count++] = {own.sin_port, peer.sin_port,
                         info.tcpi_bytes_sent - info.tcpi_bytes_retrans, info.tcpi_bytes_received};
    }
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++)
            if (ends[i].port == ends[j].peer_port && ends[i].peer_port == ends[j].port &&
                ends[i].sent > ends[j].received)
                return true;
    return false;
}

// What a host's memory holds at first; made once, for there are thousands of scenarios.
inline const std::vector<uint8_t> &pattern(size_t host) {
    static const auto made = [] {
        std::array<std::vector<uint8_t>, 2> both;
        for (size_t of : {0, 1})
            for (uint64_t at = 0; at < PARTS * PART; at++)
                both[of].push_back(static_cast<uint8_t>((at * 2654435761u >> 13) + of * 91 + 1));
        return both;
    }();
    return made[host];
}

// Two hosts with two rails each on the simulated fabric or on loopback with real sockets, or with
// the one rail of shared memory, which fault makes as slow as the fabric. Time is stepped in all;
// what sockets and memory do takes none of it.
struct World {
    struct Host {
        tent_engine *engine = nullptr;
        uint8_t *memory = nullptr;
        std::vector<uint8_t> owned;  // or of the keeper
        std::string name, rails, listen;
    };
    const Over over;
    std::unique_ptr<Fabric> fabric;
    tent_engine *keeper = nullptr;  // of memory that can be mapped; outlives the engines
    Host hosts[2];
    std::vector<tent_engine *> engines;
    uint64_t stepped_ns = 0;

    explicit World(Over given) : over(given) {
        if (over == Over::FABRIC) {
            fabric = std::make_unique<Fabric>();
            fabric->tick_ns = 200 * US;
        }
        if (over == Over::MAPPED) keep();
        for (size_t host : {0, 1}) {
            Host &h = hosts[host];
            h.name = host == 0 ? "a" : "b";
            if (h.memory == nullptr) {
                h.owned.resize(PARTS * PART);
                h.memory = h.owned.data();
            }
            if (over == Over::FABRIC) {
                on_fabric(host);
                continue;
            }
            h.listen = "127.0.0.1:0";
            h.rails = is_shm(over)
                          ? "rail 0 shm host fault.throttle=" + std::to_string(BYTES_PER_S) + "\n"
                          : "rail 0 tcp 127.0.0.1\nrail 1 tcp 127.0.0.2\n";
        }
    }
    ~World() {
        if (keeper != nullptr) CHECK_EQ(tent_engine_close(keeper), TENT_OK);
    }
    World(const World &) = delete;
    World &operator=(const World &) = delete;

    void on_fabric(size_t host) {
        Host &h = hosts[host];
        const size_t index = fabric->add(
            h.name.c_str(), {rail(BYTES_PER_S, LATENCY_NS), rail(BYTES_PER_S, LATENCY_NS)}, 1);
        for (const char *number : {"0", "1"})
            h.rails += std::string("rail ") + number + " sim " +
                       fabric->hosts[index].device_prefix + number + "\n";
        h.listen = "sim://" + fabric->hosts[index].address;
    }
    void keep() {
        tent_engine_options options{};
        options.size = sizeof options;
        options.flags = TENT_ENGINE_MANUAL;
        options.listen = "none";
        options.plan = "plan 1\nrail 0 tcp 127.0.0.1\nroute * : tcp[0]\n";
        options.plugin_path = TENT_TEST_PLUGIN_DIR;
        options.key = "a key for tests of engines";
        options.key_size = 26;
        CHECK_EQ(tent_engine_open(&options, &keeper), TENT_OK);
        for (Host &host : hosts) {
            void *made = nullptr;
            CHECK_EQ(tent_memory_alloc(keeper, PARTS * PART, &made), TENT_OK);
            host.memory = static_cast<uint8_t *>(made);
        }
    }
    const char *transport() const { return transport_of(over); }
    const char *rails() const { return is_shm(over) ? "[0]" : "[0 1]"; }
    uint64_t now_ns() const { return fabric ? fabric->now_ns() : stepped_ns; }
    // Until the batch is terminal, to the very moment, or for so long.
    void run(uint64_t for_ns, const tent_sim_batch *batch = nullptr) {
        const uint64_t end_ns = now_ns() + for_ns;
        if (fabric) {
            fabric->engines = engines;
            fabric->run(end_ns, batch ? std::vector{*batch} : std::vector<tent_sim_batch>{});
            fabric->engines.clear();
            return;
        }
        // Time stands still for what the system is about to deliver: how soon it does is no matter
        // of the engines, and would make of every run another one.
        uint32_t idle = 0;
        bool quiet = false;  // and has been since something moved
        for (uint64_t pace_ns = 10 * US; stepped_ns < end_ns;) {
            if (batch && tent_batch_poll(batch->engine, batch->batch) != TENT_IN_PROGRESS) return;
            if (idle == 0) quiet = false;
            if (idle >= IDLE_STEPS && !quiet) quiet = idle > STANDSTILL_MAX || !under_way();
            if (idle >= IDLE_STEPS && !quiet)
                sched_yield();
            else
                stepped_ns = std::min(stepped_ns + pace_ns, end_ns);
            bool moved = false;
            for (tent_engine *engine : engines)
                moved |= tent_engine_step(engine, stepped_ns) == TENT_IN_PROGRESS;
            idle = moved ? 0 : idle + 1;
            pace_ns = moved ? 10 * US : std::min(2 * pace_ns, 500 * US);
        }
    }
};

struct Scenario {
    World world;
    Plan plan;
    std::vector<tent_sim_batch> open_batches;
    std::map<uint64_t, std::vector<int32_t>> completions;  // of host 0, by batch
    std::map<uint64_t, uint64_t> requests;                 // submitted, by batch
    std::vector<uint8_t *> canaries;                       // parts that nobody may write any more
    std::string trouble;                                   // the first call that failed
    bool written = false;                                  // the batch with the notice
    bool pinned = false;  // the transport has kept memory: it is charged as long as it does
    uint64_t regions[2] = {};

    explicit Scenario(const Plan &given) : world(given.over), plan(given) {
        for (size_t host : {0, 1})
            memcpy(world.hosts[host].memory, pattern(host).data(), PARTS * PART);
    }
    tent_engine *engine(size_t host) const { return world.hosts[host].engine; }
    uint8_t *part(size_t host, Part which) { return &world.hosts[host].memory[which * PART]; }

    // A call of the interface may fail only because of the fault.
    bool ok(int32_t status, const char *what) {
        if (status == TENT_OK) return true;
        if (trouble.empty()) trouble = std::string(what) + ": " + tent_last_error();
        return false;
    }

    bool open(size_t host) {
        World::Host &h = world.hosts[host];
        const std::string transport = world.transport();
        std::string text = "plan 1\n" + plan.lines(host, transport) + h.rails;
        if (world.fabric) text += "set sim.fabric=" + world.fabric->name + "\n";
        if (plan.ladder) text += "rail 1 tcp 127.0.0.1\n";
        text += "route * : " + transport + world.rails() + (plan.ladder ? " ; tcp[1]\n" : "\n");
        tent_engine_options options{};
        options.size = sizeof options;
        options.flags = TENT_ENGINE_MANUAL;
        options.name = h.name.c_str();
        options.listen = h.listen.c_str();
        options.plan = text.c_str();
        options.plugin_path = TENT_TEST_PLUGIN_DIR;
        options.key = "a key for tests of engines";
        options.key_size = 26;
        options.seed = host + 1;
        options.slices_max = 256;
        if (!ok(tent_engine_open(&options, &h.engine), "open")) return false;
        world.engines.push_back(h.engine);
        return ok(tent_region_register(h.engine, h.memory, PARTS * PART, nullptr, &regions[host]),
                  "register");
    }

    void collect() {
        for (;;) {
            tent_completion rows[16];
            uint32_t count = 16;
            CHECK_EQ(tent_completions_poll(engine(0), rows, sizeof rows[0], &count), TENT_OK);
            for (uint32_t i = 0; i < count; i++)
                completions[rows[i].batch].push_back(rows[i].status);
            if (count < 16) return;
        }
    }

    template <class Done>
    bool run_until(Done done, uint64_t limit_ns = LIMIT_NS) {
        const uint64_t end_ns = world.now_ns() + limit_ns;
        while (!done()) {
            if (world.now_ns() >= end_ns) return false;
            world.run(500 * US);
        }
        return true;
    }

    uint64_t usable(int32_t status, uint64_t segment, const char *what) {
        if (status == TENT_IN_PROGRESS) {
            CHECK(run_until([&] {
                return (status = tent_segment_wait(engine(0), segment, 0)) != TENT_IN_PROGRESS;
            }));
        }
        if (ok(status, what)) return segment;
        if (status < 0) close_segment(segment);
        return 0;
    }

    // A call that says BUSY until it is through. forever: it may stay so.
    template <class Call>
    void while_busy(Call call, bool forever) {
        int32_t status = TENT_OK;
        const bool through = run_until(
            [&] {
                status = call();
                return status != TENT_E_BUSY;
            },
            forever ? SECOND : LIMIT_NS);
        CHECK(through || forever);
        CHECK(!through || status == TENT_OK || status == TENT_E_NOT_FOUND);
    }

    void close_segment(uint64_t segment) {
        while_busy([&] { return tent_segment_close(engine(0), segment); }, plan.keeps(0));
    }

    tent_sim_batch submit(uint64_t segment, uint32_t op, Part which, const char *notice = nullptr) {
        tent_batch_options options{};
        options.size = sizeof options;
        options.completions = TENT_COMPLETIONS_EACH;
        // Without a path there is no other end; with one there must be.
        options.deadline_ns = plan.good() ? 500 * MS : 0;
        tent_sim_batch batch{engine(0), 0};
        CHECK_EQ(tent_batch_open(batch.engine, &options, &batch.batch), TENT_OK);
        open_batches.push_back(batch);
        tent_request rows[2] = {};
        for (int i = 0; i < 2; i++) {
            rows[i].op = op;
            rows[i].segment = segment;
            rows[i].local = reinterpret_cast<uint64_t>(part(0, which) + i * PART / 2);
            rows[i].remote = reinterpret_cast<uint64_t>(part(1, which) + i * PART / 2);
            rows[i].length = PART / 2;
        }
        uint32_t index = 0;
        if (ok(tent_batch_submit(batch.engine, batch.batch, rows, sizeof rows[0], 2, 0, &index),
               "submit"))
            requests[batch.batch] = 2;
        ok(tent_batch_seal(batch.engine, batch.batch, notice ? segment : 0, notice,
                           notice ? static_cast<uint32_t>(strlen(notice)) : 0),
           "seal");
        return batch;
    }

    // What may still be written of the request lies in it, and is said.
    bool named_unfenced(uint64_t batch, uint32_t index, const uint8_t *target) const {
        tent_unfenced_range rows[64];
        uint32_t count = 64, named = 0;
        CHECK_EQ(tent_unfenced_read(engine(0), 0, rows, sizeof rows[0], &count), TENT_OK);
        const auto begin = reinterpret_cast<uint64_t>(target);
        for (uint32_t i = 0; i < std::min(count, 64u); i++) {
            if (rows[i].batch != batch || rows[i].index != index) continue;
            CHECK(rows[i].remote >= begin && rows[i].length > 0 &&
                  rows[i].remote + rows[i].length <= begin + PART / 2);
            named++;
        }
        return named > 0;
    }

    // Runs to its end; its requests' one end each, and the bytes where that is OK. At once what it
    // had to write is used anew, and nothing may touch it, unless that was said.
    int32_t end(const tent_sim_batch &batch, uint32_t op, Part which) {
        world.run(LIMIT_NS, &batch);
        CHECK(tent_batch_poll(batch.engine, batch.batch) != TENT_IN_PROGRESS);
        const size_t source = op == TENT_OP_WRITE ? 0 : 1;
        tent_request_status rows[2] = {};
        uint32_t count = 2;
        CHECK_EQ(tent_batch_status(batch.engine, batch.batch, 0, rows, sizeof rows[0], &count),
                 TENT_OK);
        for (uint32_t i = 0; i < count; i++) {
            uint8_t *target = part(1 - source, which) + i * PART / 2;
            if (rows[i].status == TENT_OK)
                CHECK(memcmp(part(source, which) + i * PART / 2, target, PART / 2) == 0);
            pinned |= rows[i].status == TENT_E_UNFENCED_LOCAL;
            if (rows[i].status == TENT_E_UNFENCED) CHECK(named_unfenced(batch.batch, i, target));
            if (rows[i].status == TENT_E_UNFENCED || rows[i].status == TENT_E_UNFENCED_LOCAL)
                continue;
            std::fill_n(target, PART / 2, 0xc5);
            canaries.push_back(target);
        }
        collect();
        CHECK_EQ(completions[batch.batch].size(), requests[batch.batch]);
        return tent_batch_poll(batch.engine, batch.batch);
    }

    // The whole scenario; what a caller would do gives up at the first call that fails.
    void act() {
        if (!open(0) || !open(1)) return;
        uint64_t segment = 0;
        char address[128] = "";
        CHECK_EQ(tent_engine_address(engine(1), address, sizeof address), TENT_OK);
        int32_t status = tent_segment_open(engine(0), address, 0, &segment);
        segment = usable(status, segment, "segment_open");
        if (segment == 0) return;
        tent_sim_batch write = submit(segment, TENT_OP_WRITE, WRITTEN, "written");
        tent_sim_batch read = submit(segment, TENT_OP_READ, READ);
        written = ok(end(write, TENT_OP_WRITE, WRITTEN), "write");
        ok(end(read, TENT_OP_READ, READ), "read");
        tent_sim_batch cancelled = submit(segment, TENT_OP_WRITE, CANCELLED);
        world.run(50 * US);
        tent_batch_cancel(cancelled.engine, cancelled.batch);
        status = end(cancelled, TENT_OP_WRITE, CANCELLED);
        if (status != TENT_E_CANCELLED) ok(status, "cancel");
        revoke();
        release();
        close_segment(segment);
    }

    // A segment of a grant that ends in the middle of a write.
    void revoke() {
        uint64_t grant = 0, segment = 0;
        if (!ok(tent_grant_create(engine(1), nullptr, &grant), "grant")) return;
        uint8_t descriptor[4096];
        uint64_t size = sizeof descriptor;
        CHECK_EQ(tent_segment_export(engine(1), grant, descriptor, &size), TENT_OK);
        int32_t status = tent_segment_import(engine(0), descriptor, size, 0, &segment);
        segment = usable(status, segment, "segment_import");
        if (segment == 0) return;
        tent_sim_batch batch = submit(segment, TENT_OP_WRITE, GRANTED);
        world.run(50 * US);
        while_busy([&] { return tent_grant_revoke(engine(1), grant); }, plan.keeps(1));
        status = end(batch, TENT_OP_WRITE, GRANTED);
        if (status != TENT_E_DENIED) ok(status, "revoked write");
        close_segment(segment);
    }

    void release() {
        while_busy([&] { return tent_region_release(engine(1), regions[1]); }, plan.keeps(1));
    }

    uint32_t notices() {
        uint32_t count = 0;
        if (engine(1) == nullptr) return 0;
        for (;; count++) {
            char bytes[64], from[64];
            uint32_t size = sizeof bytes;
            if (tent_notice_poll(engine(1), bytes, &size, from) != TENT_OK) return count;
        }
    }

    void check_charges(tent_engine *of) {
        tent_counters row{};
        uint32_t count = 1;
        CHECK_EQ(tent_counters_read(of, TENT_COUNTERS_ENGINE, &row, sizeof row, &count), TENT_OK);
        if (!pinned) CHECK_EQ(row.charged_bytes, row.released_bytes);
    }

    // Closes what is open; after a while more nothing has been touched that was quiet.
    void finish() {
        if (engine(0) != nullptr) {
            for (const tent_sim_batch &batch : open_batches)
                CHECK(run_until(
                    [&] { return tent_batch_close(batch.engine, batch.batch) != TENT_E_BUSY; }));
            collect();
            for (const auto &[batch, statuses] : completions)
                CHECK_EQ(statuses.size(), requests[batch]);
        }
        if (!world.engines.empty()) world.run(50 * MS);
        const uint32_t received = notices();
        CHECK(received <= 1);
        if (written && !plan.good()) CHECK_EQ(received, 1u);
        for (tent_engine *one : world.engines)
            check_charges(one);
        for (size_t i = 0; i < world.engines.size(); i++) {
            const int32_t status = tent_engine_close(world.engines[i]);
            CHECK(status == TENT_OK || (status == TENT_E_UNFENCED_LOCAL && plan.keeps(i)));
        }
        world.engines.clear();
        for (const uint8_t *canary : canaries)
            CHECK(std::count(canary, canary + PART / 2, 0xc5) == static_cast<long>(PART / 2));
    }
};

// Runs the scenario with this fault; *trouble: the first call that failed. True: nothing was made
// to fail, the sweep is over.
inline bool clean(const Plan &plan, std::string *trouble) {
    const uint64_t strikes = FAULT(strikes)("any");
    const int before = check::failure_count.load();
    {
        Scenario scenario(plan);
        scenario.act();
        scenario.finish();
        *trouble = scenario.trouble;
    }
    if (check::failure_count.load() != before)
        printf("with %s (%s)\n", plan.title().c_str(), trouble->c_str());
    return FAULT(strikes)("any") == strikes;
}

inline void sweep(size_t host, const std::string &failure, const char *lasts,
                  Over over = Over::FABRIC, bool ladder = false) {
    const char *only = getenv("TENT_SWEEP");  // "drop:17": this one alone
    for (uint64_t number = 1;; number++) {
        const Plan plan{host, failure, number, lasts, over, ladder};
        if (only != nullptr && plan.title().find(only) != 0) {
            if (number == NUMBER_MAX) return;
            continue;
        }
        std::string trouble;
        const int before = check::failure_count.load();
        const bool finished = clean(plan, &trouble);
        if (only != nullptr) printf("%s: %s\n", plan.title().c_str(), trouble.c_str());
        // What does not last is healed; but setting up may say so, if it does not pass at once.
        bool own = trouble.find("open: ") == 0 || trouble.find("register: ") == 0;
        // And so may the only pair of rails there is.
        const bool lone = is_shm(over) && !ladder;
        own |= (!plan.once() || lone) && trouble.find("segment_") == 0;
        if (!plan.good() && !finished && !own && !CHECK_EQ(trouble, ""))
            printf("not healed, %s\n", plan.title().c_str());
        if (finished) {
            if (!CHECK_EQ(trouble, "")) printf("in the clean run, %s\n", plan.title().c_str());
            printf("%llu x %s ", static_cast<unsigned long long>(number - 1), failure.c_str());
            return;
        }
        if (getenv("TENT_SWEEP_ALL") == nullptr && check::failure_count.load() != before) return;
        if (!CHECK(number < NUMBER_MAX)) return;
    }
}

}  // namespace sweeping
