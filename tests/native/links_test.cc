// Links of rails: an interface that goes down or comes up is an event of each rail on it, however
// the engine is driven.
//
// Leans on own_network.h; rails are on the loopback interface of a namespace of the test's own.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>

#include "engine_pair.h"
#include "own_network.h"
#include "sim_engines.h"

namespace {

constexpr uint64_t MS = 1000000u;
const char PLAN[] = "plan 1\nrail 0 tcp 127.0.0.1\nrail 1 tcp 127.0.0.2\nroute * : tcp[0 1]\n";

struct Seen {
    std::vector<tent_event> downs, ups, logs;
    uint32_t failures = 0;  // of endpoints
};

void look(tent_engine *engine, Seen *seen) {
    tent_event events[64];
    uint32_t count = 64;
    OK(tent_events_poll(engine, events, sizeof events[0], &count));
    for (uint32_t i = 0; i < count; i++) {
        if (events[i].type == TENT_EVENT_RAIL_DOWN) seen->downs.push_back(events[i]);
        if (events[i].type == TENT_EVENT_RAIL_UP) seen->ups.push_back(events[i]);
        seen->failures += events[i].type == TENT_EVENT_ENDPOINT_FAILED;
        if (events[i].type == TENT_EVENT_LOG) seen->logs.push_back(events[i]);
    }
}

void install(tent_engine *engine, const char *plan) {
    uint32_t generation = 0;
    OK(tent_plan_install(engine, plan, strlen(plan), &generation));
}

// From here on this thread gets no netlink socket that does not block, as in a sandbox; the one
// that lists interfaces blocks.
void refuse_news() {
    const auto argument = [](int i) {
        return static_cast<uint32_t>(offsetof(seccomp_data, args) + sizeof(uint64_t) * i);
    };
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument(0)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_NETLINK, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument(1)),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, SOCK_NONBLOCK, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{sizeof code / sizeof code[0], code};
    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

struct Manual : TestEngine {
    uint64_t now_ns = MS;
    Seen seen;
    explicit Manual(const char *plan = PLAN)
        : TestEngine("manual", plan, [] {
              tent_engine_options options{};
              options.flags = TENT_ENGINE_MANUAL;
              return options;
          }()) {}
    // What is known is acted upon within a few cycles, whatever the time.
    void step() {
        for (int i = 0; i < 5; i++)
            CHECK(tent_engine_step(engine, now_ns += MS) >= 0);
        look(engine, &seen);
    }
};

}  // namespace

TEST(every_rail_of_an_interface_goes_down_and_comes_up_with_it) {
    own_network::run([] {
        own_network::loopback(true);
        Manual manual;
        manual.step();
        CHECK_EQ(manual.seen.downs.size(), 0u);
        own_network::loopback(false);
        manual.step();
        if (!CHECK_EQ(manual.seen.downs.size(), 2u)) return;
        CHECK_EQ(manual.seen.downs[1].rail, 1);
        CHECK_EQ(manual.seen.downs[1].status, TENT_E_TRANSPORT);
        CHECK(strstr(manual.seen.downs[0].text, "rail 0 (tcp 127.0.0.1) is down: ") != nullptr);
        CHECK_EQ(manual.seen.ups.size(), 0u);
        own_network::loopback(true);
        manual.step();
        CHECK_EQ(manual.seen.ups.size(), 2u);
        CHECK_EQ(manual.seen.downs.size(), 2u);
    });
}

TEST(a_rail_that_a_later_plan_puts_on_a_dead_interface_is_down_at_once) {
    own_network::run([] {
        own_network::loopback(true);
        Manual manual("plan 1\nrail 0 tcp 127.0.0.1\nroute * : tcp[0]\n");
        manual.step();
        own_network::loopback(false);
        manual.step();
        CHECK_EQ(manual.seen.downs.size(), 1u);
        // The same address under another number: another rail.
        install(manual.engine, "plan 1\nrail 4 tcp 127.0.0.1\nroute * : tcp[4]\n");
        manual.step();
        if (!CHECK_EQ(manual.seen.downs.size(), 2u)) return;
        CHECK_EQ(manual.seen.downs[1].rail, 4);
        own_network::loopback(true);
        manual.step();
        CHECK_EQ(manual.seen.ups.back().rail, 4);
    });
}

TEST(a_sleeping_worker_wakes_for_a_link) {
    own_network::run([] {
        own_network::loopback(true);
        TestEngine threaded("threaded", PLAN);
        Seen seen;
        pollfd wait{-1, POLLIN, 0};
        OK(tent_engine_event_fd(threaded.engine, &wait.fd));
        own_network::loopback(false);
        // The events' descriptor, no time of ours: a worker that never wakes fails by the limit.
        while (seen.downs.size() < 2 && ::poll(&wait, 1, 5000) == 1) {
            uint64_t times = 0;
            CHECK_EQ(read(wait.fd, &times, sizeof times), 8);
            look(threaded.engine, &seen);
        }
        CHECK_EQ(seen.downs.size(), 2u);
    });
}

TEST(where_the_system_tells_no_news_the_engine_says_so_once_and_works) {
    own_network::run([] {
        own_network::loopback(true);
        refuse_news();
        Manual manual;
        install(manual.engine, "plan 1\nrail 4 tcp 127.0.0.4\nroute * : tcp[4]\n");
        own_network::loopback(false);
        manual.step();
        CHECK_EQ(manual.seen.downs.size(), 0u);
        if (!CHECK_EQ(manual.seen.logs.size(), 1u)) return;
        CHECK(strstr(manual.seen.logs[0].text, "news of network interfaces") != nullptr);
        own_network::loopback(true);
        EnginePair pair(1 << 20, PLAN);
        fill_pattern(pair.local, 3);
        OK(pair.transfer(TENT_OP_WRITE, 0, pair.local.size()));
        CHECK(pair.remote == pair.local);
    });
}

TEST(a_simulated_rail_needs_no_news_of_the_system) {
    own_network::run([] {
        refuse_news();
        Manual manual("plan 1\nrail 0 null 0\nroute * : null[0]\n");
        manual.step();
        CHECK_EQ(manual.seen.logs.size(), 0u);
    });
}

TEST(a_simulated_link_is_an_event_of_its_own_engine) {
    using namespace sim_engines;
    Fabric fabric;
    size_t near = fabric.add("a", {rail(GB_S), rail(GB_S)}, MIB);
    size_t far = fabric.add("b", {rail(GB_S), rail(GB_S)}, MIB);
    fabric.open(near);
    fabric.open(far);
    fabric.connect(near, far);
    Seen at_near, at_far;
    const auto link = [&](uint32_t up) {
        CHECK_EQ(
            SIM(rail_link)(fabric.sim, static_cast<uint32_t>(fabric.hosts[far].rails[1]), up, 0),
            TENT_OK);
        CHECK_EQ(fabric.run(fabric.now_ns() + sim_engines::MS), TENT_OK);
        look(fabric.hosts[near].engine, &at_near);
        look(fabric.hosts[far].engine, &at_far);
    };
    link(0);
    if (!CHECK_EQ(at_far.downs.size(), 1u)) return;
    CHECK_EQ(at_far.downs[0].rail, 1);
    CHECK(strstr(at_far.downs[0].text, "the link of b/1 is down") != nullptr);
    CHECK_EQ(at_near.downs.size(), 0u);
    CHECK(at_near.failures >= 1);
    link(1);
    CHECK_EQ(at_far.ups.size(), 1u);
}
