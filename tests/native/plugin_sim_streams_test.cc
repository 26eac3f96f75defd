// The simulated fabric's control streams and its driver loop.
//
// Leans on sim_world.h. The driver loop is given functions that poll plugin instances, in place of
// those that step engines: it knows no more about either.
#include <string>

#include "sim_world.h"

using namespace sim_world;

namespace {

// Two hosts with a rail each, and an instance on each that listens or connects.
struct Talk : World {
    uint32_t a, b, rail_a, rail_b;
    Node &from, &to;
    const tent_plugin &plugin;
    uint16_t port = 0;

    Talk()
        : a(host("a")),
          b(host("b")),
          rail_a(rail(a, "0")),
          rail_b(rail(b, "0")),
          from(node("a/0")),
          to(node("b/0")),
          plugin(*from.side.plugin) {
        CHECK_EQ(plugin.stream_listen(to.side.instance, "10.0.0.2:7000", &port), TENT_OK);
        CHECK_EQ(port, 7000u);
    }
    void *dial(const char *address = "10.0.0.2:7000") {
        from.side.host.now_ns = now_ns;
        void *stream = nullptr;
        CHECK_EQ(plugin.stream_connect(from.side.instance, address, &stream), TENT_OK);
        return stream;
    }
    void *accept() {
        void *stream = nullptr;
        char peer[64] = "";
        if (plugin.stream_accept(to.side.instance, &stream, peer) != TENT_OK) return nullptr;
        CHECK(strncmp(peer, "10.0.0.1:", 9) == 0);
        return stream;
    }
    int32_t state(Node &node, void *stream) const {
        return plugin.stream_state(node.side.instance, stream);
    }
    int64_t send(Node &node, void *stream, const std::string &text) const {
        return plugin.stream_send(node.side.instance, stream, text.data(), text.size());
    }
    std::string receive(Node &node, void *stream, size_t room = 100) const {
        std::string text(room, 0);
        const int64_t got = plugin.stream_receive(node.side.instance, stream, text.data(), room);
        if (got < 0) return "error";
        text.resize(static_cast<size_t>(got));
        return text;
    }
    void hang_up(Node &node, void *stream) const {
        plugin.stream_close(node.side.instance, stream);
    }
    void link(uint32_t rail, bool up, bool blackhole) const {
        CHECK_EQ(tent_sim_rail_link(sim, rail, up, blackhole), TENT_OK);
    }
};

struct Call : Talk {
    void *near, *far;
    Call() : near(dial()) {
        run(now_ns + 5 * US);
        far = accept();
        CHECK(far != nullptr);
        CHECK_EQ(state(from, near), TENT_OK);
    }
};

}  // namespace

TEST(a_stream_stands_after_one_control_latency) {
    Talk talk;
    void *near = talk.dial();
    const uint64_t begin_ns = talk.now_ns;
    CHECK_EQ(talk.state(talk.from, near), TENT_IN_PROGRESS);
    CHECK_EQ(talk.send(talk.from, near, "early"), 0);
    talk.run(begin_ns + 5 * US - 1);
    CHECK_EQ(talk.state(talk.from, near), TENT_IN_PROGRESS);
    CHECK(talk.accept() == nullptr);
    talk.run(begin_ns + 5 * US);
    CHECK_EQ(talk.state(talk.from, near), TENT_OK);
    CHECK(talk.accept() != nullptr);
    CHECK(talk.accept() == nullptr);
}

TEST(nobody_listening_refuses_after_one_latency) {
    Talk talk;
    for (const char *address : {"10.0.0.2:7001", "10.0.0.9:7000", "nonsense"}) {
        void *stream = talk.dial(address);
        const uint64_t begin_ns = talk.now_ns;
        talk.run(begin_ns + 5 * US - 1);
        CHECK_EQ(talk.state(talk.from, stream), TENT_IN_PROGRESS);
        talk.run(begin_ns + 5 * US);
        CHECK_EQ(talk.state(talk.from, stream), TENT_E_PEER);
        CHECK_EQ(talk.send(talk.from, stream, "x"), int64_t{TENT_E_PEER});
        CHECK_EQ(talk.receive(talk.from, stream), std::string("error"));
        talk.hang_up(talk.from, stream);
    }
}

TEST(bytes_arrive_in_order_one_latency_later_both_ways) {
    Call call;
    CHECK_EQ(call.send(call.from, call.near, "one "), 4);
    call.run(call.now_ns + 2 * US);
    call.from.side.host.now_ns = call.now_ns;
    CHECK_EQ(call.send(call.from, call.near, "two"), 3);
    CHECK_EQ(call.send(call.to, call.far, "back"), 4);
    CHECK_EQ(call.receive(call.to, call.far), std::string());
    call.run(call.now_ns + 3 * US);
    CHECK_EQ(call.receive(call.to, call.far, 2), std::string("on"));
    call.run(call.now_ns + 2 * US);
    CHECK_EQ(call.receive(call.to, call.far), std::string("e two"));
    CHECK_EQ(call.receive(call.from, call.near), std::string("back"));
    CHECK_EQ(call.receive(call.to, call.far), std::string());
}

TEST(arriving_bytes_are_news_to_the_receiver_alone) {
    Call call;
    call.settle();
    call.send(call.from, call.near, "x");
    call.now_ns += 5 * US;
    call.from.side.host.now_ns = call.to.side.host.now_ns = call.now_ns;
    call.from.side.busy = call.to.side.busy = 0;
    call.from.side.poll();
    CHECK_EQ(call.from.side.busy, 0u);
    CHECK_EQ(call.plugin.next_ns(call.to.side.instance), 0u);
    call.to.side.poll();
    CHECK_EQ(call.to.side.busy, 1u);
}

TEST(what_was_sent_before_a_close_still_arrives) {
    Call call;
    call.send(call.from, call.near, "last words");
    call.hang_up(call.from, call.near);
    CHECK_EQ(call.state(call.to, call.far), TENT_OK);
    CHECK_EQ(call.send(call.to, call.far, "unheard"), 7);
    call.run(call.now_ns + 5 * US);
    CHECK_EQ(call.state(call.to, call.far), TENT_OK);  // bytes are left to receive
    CHECK_EQ(call.receive(call.to, call.far), std::string("last words"));
    CHECK_EQ(call.state(call.to, call.far), TENT_E_PEER);
    CHECK_EQ(call.receive(call.to, call.far), std::string("error"));
    CHECK_EQ(call.send(call.to, call.far, "x"), int64_t{TENT_E_PEER});
    call.hang_up(call.to, call.far);
}

TEST(an_instance_that_closes_hangs_up) {
    Talk talk;
    talk.rail(talk.host("c"), "0");
    void *stream = nullptr;
    {
        Node guest("c/0", tent_sim_name(talk.sim), talk.now_ns, 16);
        CHECK_EQ(talk.plugin.stream_connect(guest.side.instance, "10.0.0.2:7000", &stream),
                 TENT_OK);
        talk.run(talk.now_ns + 5 * US);
        uint16_t port = 0;
        CHECK_EQ(talk.plugin.stream_listen(guest.side.instance, "10.0.0.3:7000", &port), TENT_OK);
    }
    char peer[64];
    void *far = nullptr;
    CHECK_EQ(talk.plugin.stream_accept(talk.to.side.instance, &far, peer), TENT_OK);
    talk.run(talk.now_ns + 5 * US);
    CHECK_EQ(talk.state(talk.to, far), TENT_E_PEER);
    void *late = talk.dial("10.0.0.3:7000");
    talk.run(talk.now_ns + 5 * US);
    CHECK_EQ(talk.state(talk.from, late), TENT_E_PEER);
}

TEST(a_full_stream_takes_no_more_until_it_is_read) {
    Call call;
    const std::string block(1 << 20, 'x');
    int64_t taken = 0;
    for (int i = 0; i < 8; i++)
        taken += call.send(call.from, call.near, block);
    CHECK_EQ(taken, int64_t{4} << 20);
    CHECK_EQ(call.send(call.from, call.near, "x"), 0);
    call.run(call.now_ns + 5 * US);
    CHECK_EQ(call.receive(call.to, call.far, 1000).size(), 1000u);
    CHECK_EQ(call.plugin.next_ns(call.from.side.instance), 0u);  // writable again is news
    CHECK_EQ(call.send(call.from, call.near, block), 1000);
    size_t got = 1000;
    for (int i = 0; i < 10; i++) {
        call.run(call.now_ns + 5 * US);
        got += call.receive(call.to, call.far, 1 << 20).size();
    }
    CHECK_EQ(got, (size_t{4} << 20) + 1000);
}

TEST(without_a_live_rail_bytes_are_held) {
    Call call;
    call.link(call.rail_b, true, true);
    call.send(call.from, call.near, "held");
    call.run(call.now_ns + 900 * MS);
    CHECK_EQ(call.receive(call.to, call.far), std::string());
    call.link(call.rail_b, true, false);
    call.settle();
    CHECK_EQ(call.receive(call.to, call.far), std::string("held"));
    call.run(call.now_ns + 2000 * MS);  // the time held before is forgotten
    CHECK_EQ(call.state(call.from, call.near), TENT_OK);
}

TEST(a_stream_held_for_too_long_breaks_at_both_ends) {
    Call call;
    call.link(call.rail_a, false, false);
    call.run(call.now_ns + 5000 * MS);
    CHECK_EQ(call.state(call.from, call.near), TENT_OK);  // nobody spoke
    call.send(call.from, call.near, "lost");
    call.run(call.now_ns + 5 * US + 1000 * MS - 1);
    CHECK_EQ(call.state(call.to, call.far), TENT_OK);
    call.run(call.now_ns + 1);
    CHECK_EQ(call.state(call.from, call.near), TENT_E_PEER);
    CHECK_EQ(call.state(call.to, call.far), TENT_E_PEER);
    CHECK_EQ(call.receive(call.to, call.far), std::string("error"));
}

TEST(connecting_without_a_live_rail_ends_otherwise_than_refused) {
    Talk talk;
    talk.link(talk.rail_b, false, false);
    void *stream = talk.dial();
    talk.run(talk.now_ns + 500 * MS);
    CHECK_EQ(talk.state(talk.from, stream), TENT_IN_PROGRESS);
    talk.run(talk.now_ns + 501 * MS);
    CHECK_EQ(talk.state(talk.from, stream), TENT_E_TIMEOUT);
    void *second = talk.dial();
    talk.run(talk.now_ns + 500 * MS);
    talk.link(talk.rail_b, true, false);
    talk.settle();
    CHECK_EQ(talk.state(talk.from, second), TENT_OK);
}

TEST(one_live_rail_of_several_is_enough) {
    Call call;
    call.rail(call.b, "1");
    call.link(call.rail_b, false, false);
    call.send(call.from, call.near, "x");
    call.run(call.now_ns + 5 * US);
    CHECK_EQ(call.receive(call.to, call.far), std::string("x"));
}

TEST(addresses_to_listen_on_are_the_hosts_own) {
    Talk talk;
    uint16_t port = 0;
    void *instance = talk.to.side.instance;
    CHECK_EQ(talk.plugin.stream_listen(instance, "10.0.0.2:7000", &port), TENT_E_BUSY);
    CHECK_EQ(talk.plugin.stream_listen(instance, "10.0.0.2:0", &port), TENT_OK);
    CHECK_EQ(port, 7001u);
    for (const char *bad : {"10.0.0.1:7000", "10.9.9.9:7000", "10.0.0.2", "10.0.0.2:", "10.0.0.2:x",
                            "10.0.0.2:70000"})
        CHECK_EQ(talk.plugin.stream_listen(instance, bad, &port), TENT_E_INVALID);
}

// ---- the driver loop

namespace {

// What tent_engine_step and tent_batch_poll would do, for an "engine" that is a node.
int32_t step(tent_engine *engine, uint64_t now_ns) {
    fake::Side &side = reinterpret_cast<Node *>(engine)->side;
    if (now_ns < side.host.now_ns) return TENT_E_INVALID;
    side.host.now_ns = now_ns;
    side.busy = 0;
    const uint32_t count = side.poll();
    return count > 0 || side.busy != 0 ? TENT_IN_PROGRESS : TENT_OK;
}

int32_t never_idle(tent_engine *, uint64_t) {
    return TENT_IN_PROGRESS;
}

int32_t poll_slice(tent_engine *engine, uint64_t id) {
    return reinterpret_cast<Node *>(engine)->side.statuses.at(id);
}

struct Driven : Simple {
    tent_engine *engines[2];
    tent_sim_run_options options{};
    std::vector<tent_sim_batch> batches;

    Driven()
        : engines{reinterpret_cast<tent_engine *>(&from), reinterpret_cast<tent_engine *>(&to)} {
        options.size = sizeof options;
        options.step = step;
        options.poll = poll_slice;
        options.engines = engines;
        options.engine_count = 2;
        options.until_ns = now_ns + 10 * MS;
    }
    ~Driven() { now_ns = std::max(now_ns, tent_sim_now_ns(sim)); }
    void wait_for(uint64_t id) { batches.push_back({engines[0], id}); }
    int32_t drive(uint32_t mode) {
        options.mode = mode;
        options.batches = batches.data();
        options.batch_count = static_cast<uint32_t>(batches.size());
        return tent_sim_run(sim, &options);
    }
    uint64_t clock() const { return tent_sim_now_ns(sim); }
};

}  // namespace

TEST(the_loop_stops_at_the_very_time_the_batches_end) {
    Driven world;
    const uint64_t begin_ns = world.clock();
    world.wait_for(world.write(5000));
    world.wait_for(world.write(7000, 8192));
    CHECK_EQ(world.drive(TENT_SIM_ANY), TENT_OK);
    CHECK_EQ(world.clock() - begin_ns, 5000 + 10 * US);
    CHECK_EQ(world.drive(TENT_SIM_ALL), TENT_OK);
    CHECK_EQ(world.clock() - begin_ns, 12000 + 10 * US);
    CHECK(world.arrived(5000));
    CHECK_EQ(world.drive(TENT_SIM_ALL), TENT_OK);  // they have ended: no time passes
    CHECK_EQ(world.clock() - begin_ns, 12000 + 10 * US);
}

TEST(the_loop_ends_where_it_is_told_to) {
    Driven world;
    const uint64_t begin_ns = world.clock();
    world.options.until_ns = begin_ns + 1234567;
    CHECK_EQ(world.drive(TENT_SIM_ALL), TENT_OK);
    CHECK_EQ(world.clock() - begin_ns, 1234567u);
    world.wait_for(world.write(5000));
    world.options.until_ns = world.clock() + 100;
    CHECK_EQ(world.drive(TENT_SIM_ALL), TENT_E_TIMEOUT);
    CHECK_EQ(world.clock() - begin_ns, 1234667u);
    CHECK(strlen(tent_sim_last_error()) > 10);
    world.options.until_ns = 5;  // in the past: one look at now
    CHECK_EQ(world.drive(TENT_SIM_ALL), TENT_E_TIMEOUT);
    CHECK_EQ(world.clock() - begin_ns, 1234667u);
}

TEST(without_ticks_the_loop_still_goes_from_event_to_event) {
    Driven world;
    const uint64_t begin_ns = world.clock();
    world.options.tick_ns = UINT64_MAX;
    world.wait_for(world.write(5000));
    CHECK_EQ(world.drive(TENT_SIM_ALL), TENT_OK);
    CHECK_EQ(world.clock() - begin_ns, 5000 + 10 * US);
}

TEST(an_engine_that_never_rests_does_not_stop_the_clock) {
    Driven world;
    world.options.step = never_idle;
    world.options.engine_count = 1;
    world.options.until_ns = world.clock() + MS;
    CHECK_EQ(world.drive(TENT_SIM_ALL), TENT_OK);
    CHECK_EQ(world.clock(), world.options.until_ns);
}

TEST(the_loop_passes_on_what_a_step_failed_with) {
    Driven world;
    world.from.side.host.now_ns = world.clock() + 1;  // its clock is ahead: time would run back
    CHECK_EQ(world.drive(TENT_SIM_ALL), TENT_E_INVALID);
    world.from.side.host.now_ns = world.clock();
}

TEST(the_loop_refuses_what_would_never_end) {
    Driven world;
    world.options.until_ns = UINT64_MAX;
    CHECK_EQ(world.drive(TENT_SIM_ALL), TENT_E_INVALID);
    world.options.until_ns = 0;
    CHECK_EQ(world.drive(2), TENT_E_INVALID);
    world.options.step = nullptr;
    CHECK_EQ(world.drive(TENT_SIM_ALL), TENT_E_INVALID);
    CHECK_EQ(tent_sim_run(world.sim, nullptr), TENT_E_INVALID);
    CHECK_EQ(tent_sim_run(nullptr, &world.options), TENT_E_INVALID);
}
