// Engines whose control channel is carried by a transport's streams instead of sockets: the `tube`
// of tests/native/carriers, which queues in memory. Leans on engine_pair.h. What the messages mean
// is engine_test.cc's; here it is that they come through, in their own time, and end well.
#include <dirent.h>
#include <dlfcn.h>

#include <memory>

#include "carriers/tube.h"
#include "engine_pair.h"

namespace {

constexpr uint64_t US = 1000, MS = 1000 * US, SECOND = 1000 * MS;
constexpr char PLAN[] = "plan 1\nrail 0 tube a\nroute * : tube[0]\n";
constexpr char PLUGINS[] = TENT_TEST_PLUGIN_DIR ":" TENT_TEST_CARRIER_DIR;

// The plugin's own world, put back to its defaults.
TubeWorld &tube() {
    void *library = dlopen(TENT_TEST_CARRIER_DIR "/libtent_plugin_tube.so", RTLD_NOW | RTLD_LOCAL);
    CHECK(library != nullptr);
    auto find = reinterpret_cast<TubeWorld *(*)()>(dlsym(library, "tube_world"));
    TubeWorld &world = *find();
    CHECK_EQ(world.streams_open, 0u);  // the test before has left nothing behind
    world = TubeWorld();
    return world;
}

tent_engine_options carried(const char *listen, uint64_t seed = 1) {
    tent_engine_options options{};
    options.flags = seed ? TENT_ENGINE_MANUAL : 0;
    options.seed = seed;
    options.listen = listen;
    options.plugin_path = PLUGINS;
    return options;
}

// Two manual engines. Time passes between the rounds of steps only, by `tick_ns`.
struct Fabric {
    std::vector<uint8_t> remote, local;
    TestEngine target, initiator;
    uint64_t now_ns = 0, tick_ns = 10 * US, remote_region, segment = 0;
    bool target_steps = true;

    explicit Fabric(const char *plan = PLAN)
        : remote(65536),
          local(65536),
          target("target", plan, carried("tube://10.0.0.1:7000", 1)),
          initiator("initiator", plan, carried("tube://10.0.0.2:0", 2)) {
        remote_region = target.add(remote);
        initiator.add(local);
    }
    // Until neither has anything left to do at this time.
    void settle() {
        for (int turn = 0; turn < 10000; turn++) {
            int32_t a = target_steps ? tent_engine_step(target.engine, now_ns) : TENT_OK;
            int32_t b = tent_engine_step(initiator.engine, now_ns);
            CHECK(a >= 0 && b >= 0);
            if (a == TENT_OK && b == TENT_OK) return;
        }
        CHECK(!"the engines come to rest");
    }
    template <class Done>
    bool step_until(Done done, uint64_t limit_ns = 20 * SECOND) {
        for (uint64_t end_ns = now_ns + limit_ns; now_ns < end_ns; now_ns += tick_ns) {
            settle();
            if (done()) return true;
        }
        return false;
    }
    int32_t import_end(uint64_t handle) {
        int32_t status = TENT_IN_PROGRESS;
        CHECK(step_until([&] {
            return (status = tent_segment_wait(initiator.engine, handle, 0)) != TENT_IN_PROGRESS;
        }));
        return status;
    }
    void open() {
        CHECK_EQ(tent_segment_open(initiator.engine, "10.0.0.1:7000", 0, &segment),
                 TENT_IN_PROGRESS);
        OK(import_end(segment));
    }
    uint64_t submit(uint32_t op, uint64_t length, const char *notice = nullptr) const {
        uint64_t batch = 0;
        OK(tent_batch_open(initiator.engine, nullptr, &batch));
        tent_request r{};
        r.op = op;
        r.segment = segment;
        r.local = reinterpret_cast<uint64_t>(local.data());
        r.remote = reinterpret_cast<uint64_t>(remote.data());
        r.length = length;
        uint32_t index = 0;
        OK(tent_batch_submit(initiator.engine, batch, &r, sizeof r, 1, 0, &index));
        if (notice)
            OK(tent_batch_seal(initiator.engine, batch, segment, notice,
                               static_cast<uint32_t>(strlen(notice))));
        return batch;
    }
    void write_all() {
        fill_pattern(local, now_ns);
        uint64_t batch = submit(TENT_OP_WRITE, local.size());
        CHECK(step_until([&] { return tent_batch_poll(initiator.engine, batch) == TENT_OK; }));
        CHECK(remote == local);
        OK(tent_batch_close(initiator.engine, batch));
    }
    uint32_t regions() const {
        uint32_t count = 0;
        OK(tent_segment_regions(initiator.engine, segment, nullptr, 0, &count));
        return count;
    }
};

std::string notice_of(tent_engine *engine) {
    char bytes[64];
    uint32_t size = sizeof bytes;
    return tent_notice_poll(engine, bytes, &size, nullptr) == TENT_OK ? std::string(bytes, size)
                                                                      : "";
}

bool has_event(tent_engine *engine, uint32_t type, const char *part) {
    tent_event event{};
    for (uint32_t count = 1;
         tent_events_poll(engine, &event, sizeof event, &count) == TENT_OK && count == 1;)
        if (event.type == type && strstr(event.text, part)) return true;
    return false;
}

int sockets_open() {
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (const dirent *entry = readdir(folder)) {
        char path[300], target[64] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        if (readlink(path, target, sizeof target - 1) > 0)
            count += strncmp(target, "socket:", 7) == 0;
    }
    closedir(folder);
    return count;
}

struct OpenEnd {
    int32_t status;
    std::string sentence;
};

OpenEnd open_with(const char *listen, const char *plan) {
    tent_engine_options options = carried(listen);
    options.size = sizeof options;
    options.plan = plan;
    options.key = TEST_KEY;
    options.key_size = sizeof TEST_KEY - 1;
    tent_engine *engine = nullptr;
    OpenEnd end{tent_engine_open(&options, &engine), ""};
    if (end.status != TENT_OK) end.sentence = tent_last_error();
    CHECK_EQ(engine != nullptr, end.status == TENT_OK);
    if (engine) OK(tent_engine_close(engine));
    return end;
}

bool says(const OpenEnd &end, int32_t status, const char *part) {
    if (end.status == status && end.sentence.find(part) != std::string::npos) return true;
    printf("%s: %s\n", tent_status_name(end.status), end.sentence.c_str());
    return false;
}

}  // namespace

TEST(engines_meet_over_a_carrier_without_any_socket) {
    tube();
    int before = sockets_open();
    Fabric fabric;
    CHECK_EQ(fabric.target.address(), "10.0.0.1:7000");
    std::string address = fabric.initiator.address();
    CHECK(address.starts_with("10.0.0.2:") && !address.ends_with(":0"));
    fabric.open();
    fabric.write_all();
    CHECK_EQ(sockets_open(), before);
}

TEST(a_descriptor_leads_over_the_carrier_too) {
    tube();
    Fabric fabric;
    uint64_t grant = 0;
    OK(tent_grant_create(fabric.target.engine, nullptr, &grant));
    uint8_t bytes[4096];
    uint64_t size = sizeof bytes;
    OK(tent_segment_export(fabric.target.engine, grant, bytes, &size));
    CHECK_EQ(tent_segment_import(fabric.initiator.engine, bytes, size, 0, &fabric.segment),
             TENT_IN_PROGRESS);
    OK(fabric.import_end(fabric.segment));
    fabric.write_all();
    OK(tent_grant_revoke(fabric.target.engine, grant));
    int32_t status = TENT_OK;
    CHECK(fabric.step_until([&] {
        return (status = tent_segment_wait(fabric.initiator.engine, fabric.segment, 0)) != TENT_OK;
    }));
    CHECK_EQ(status, TENT_E_DENIED);
}

TEST(streams_that_take_little_at_a_time_carry_everything) {
    TubeWorld &world = tube();
    world.capacity = 7;
    Fabric fabric;
    fabric.open();
    fabric.write_all();
    CHECK(world.partial_sends > 20);
}

TEST(control_messages_take_their_trips_and_no_time_besides) {
    TubeWorld &world = tube();
    world.capacity = 1 << 20;
    Fabric fabric;
    // Less than the interval at which a busy driver looks at sockets.
    world.latency_ns = fabric.tick_ns = 3 * US;
    fabric.open();
    // Two to connect, two round trips of handshake, one each to describe and to open the endpoint.
    CHECK_EQ(fabric.now_ns, 10 * world.latency_ns);
    uint64_t begin_ns = fabric.now_ns;
    uint64_t batch = fabric.submit(TENT_OP_WRITE, 4096, "done");
    CHECK(fabric.step_until([&] { return notice_of(fabric.target.engine) == "done"; }));
    CHECK_EQ(fabric.now_ns - begin_ns, world.latency_ns);
    OK(tent_batch_close(fabric.initiator.engine, batch));
}

TEST(region_deltas_arrive_over_the_carrier) {
    tube();
    Fabric fabric;
    fabric.open();
    CHECK_EQ(fabric.regions(), 1u);
    std::vector<uint8_t> more(4096);
    uint64_t added = fabric.target.add(more);
    CHECK(fabric.step_until([&] { return fabric.regions() == 2; }));
    OK(tent_region_release(fabric.target.engine, added));
    CHECK(fabric.step_until([&] { return fabric.regions() == 1; }));
}

TEST(a_closed_peer_says_goodbye_over_the_carrier) {
    TubeWorld &world = tube();
    Fabric fabric;
    fabric.open();
    fabric.target_steps = false;
    fabric.target.close();
    uint64_t begin_ns = fabric.now_ns;
    CHECK(fabric.step_until([&] {
        return tent_segment_wait(fabric.initiator.engine, fabric.segment, 0) == TENT_E_PEER;
    }));
    CHECK(fabric.now_ns - begin_ns <= MS);  // told, not found out
    CHECK(has_event(fabric.initiator.engine, TENT_EVENT_PEER_LOST, "was closed"));
    CHECK_EQ(world.streams_open, 0u);
}

TEST(a_broken_stream_is_replaced_and_nothing_is_lost) {
    TubeWorld &world = tube();
    Fabric fabric;
    fabric.open();
    CHECK_EQ(world.streams_made, 2u);
    world.breaks_due = true;
    CHECK(fabric.step_until([&] { return world.streams_made == 4; }));
    uint64_t batch = fabric.submit(TENT_OP_WRITE, 4096, "after the break");
    CHECK(fabric.step_until([&] { return notice_of(fabric.target.engine) == "after the break"; }));
    OK(tent_batch_close(fabric.initiator.engine, batch));
    CHECK_EQ(world.streams_open, 2u);
}

TEST(an_address_where_nobody_listens_is_refused_at_once) {
    TubeWorld &world = tube();
    Fabric fabric;
    uint64_t segment = 0;
    CHECK_EQ(tent_segment_open(fabric.initiator.engine, "10.0.0.9:7000", 0, &segment),
             TENT_IN_PROGRESS);
    CHECK_EQ(fabric.import_end(segment), TENT_E_PEER);
    CHECK(strstr(tent_last_error(), "refuses connections") != nullptr);
    CHECK(fabric.now_ns <= 5 * MS);
    CHECK_EQ(world.streams_open, 0u);
}

TEST(a_peer_with_another_key_is_refused_over_the_carrier) {
    tube();
    Fabric fabric;
    tent_engine_options options = carried("tube://10.0.0.3:0", 3);
    options.key = "another secret of 32 bytes length";
    options.key_size = 32;
    TestEngine stranger("stranger", PLAN, options);
    uint64_t segment = 0;
    CHECK_EQ(tent_segment_open(stranger.engine, "10.0.0.1:7000", 0, &segment), TENT_IN_PROGRESS);
    CHECK(fabric.step_until([&] {
        tent_engine_step(stranger.engine, fabric.now_ns);
        return tent_segment_wait(stranger.engine, segment, 0) == TENT_E_AUTH;
    }));
    CHECK(fabric.step_until([&] {
        return has_event(fabric.target.engine, TENT_EVENT_CONNECTION_REFUSED, "from 10.0.0.3:");
    }));
}

TEST(a_silent_fabric_ends_an_import_at_its_time_limit) {
    TubeWorld &world = tube();
    world.silent = true;
    Fabric fabric("plan 1\nset connect_timeout=50ms\nrail 0 tube a\nroute * : tube[0]\n");
    fabric.tick_ns = MS;
    uint64_t segment = 0;
    CHECK_EQ(tent_segment_open(fabric.initiator.engine, "10.0.0.1:7000", 0, &segment),
             TENT_IN_PROGRESS);
    CHECK_EQ(fabric.import_end(segment), TENT_E_TIMEOUT);
    CHECK(fabric.now_ns >= 50 * MS && fabric.now_ns <= 60 * MS);
}

TEST(a_listen_text_that_names_no_usable_carrier_is_refused_with_a_sentence) {
    tube();
    CHECK(says(open_with("smoke://10.0.0.1:1", PLAN), TENT_E_INVALID, "smoke"));
    CHECK(says(open_with("://10.0.0.1:1", PLAN), TENT_E_INVALID, "names no transport"));
    CHECK(says(open_with("tube://10.0.0.1", PLAN), TENT_E_INVALID, "10.0.0.1"));
    CHECK(says(open_with("tube://0.0.0.0:7", PLAN), TENT_E_INVALID, "one address"));
    CHECK(says(open_with("tube://10.0.0.1:7", nullptr), TENT_E_INVALID, "no rail of it"));
    CHECK(says(open_with("null://10.0.0.1:7", "plan 1\nrail 0 null a\nroute * : null[0]\n"),
               TENT_E_UNSUPPORTED, "cannot carry control messages"));
    CHECK(says(open_with("null://10.0.0.1:7",
                         "plan 1\ndecorate null fault\nrail 0 null a\nroute * : null[0]\n"),
               TENT_E_UNSUPPORTED, "which fault decorates"));
    CHECK(says(open_with("tube://10.0.0.1:7",
                         "plan 1\nrail 0 tube a\nrail 1 tube sockets\n"
                         "route * : tube[0]\n"),
               TENT_E_UNSUPPORTED, "takes sockets"));
    TestEngine first("first", PLAN, carried("tube://10.0.0.1:7"));
    CHECK(says(open_with("tube://10.0.0.1:7", PLAN), TENT_E_BUSY, "10.0.0.1:7 through tube"));
}

TEST(a_carrier_stays_in_every_later_plan) {
    tube();
    Fabric fabric;
    const std::string without = "plan 1\nrail 0 null a\nroute * : null[0]\n";
    CHECK_EQ(tent_plan_install(fabric.target.engine, without.data(), without.size(), nullptr),
             TENT_E_INVALID);
    CHECK(strstr(tent_last_error(), "through transport tube") != nullptr);
    const std::string both = "plan 1\nrail 0 null a\nrail 1 tube a\nroute * : tube[1]\n";
    OK(tent_plan_install(fabric.target.engine, both.data(), both.size(), nullptr));
    fabric.open();
    fabric.write_all();
}

TEST(plugins_messages_travel_and_their_table_is_not_entered_twice) {
    TubeWorld &world = tube();
    Fabric fabric;
    fabric.open();
    CHECK(fabric.step_until([&] { return world.messages > 0; }));
    CHECK_EQ(world.reentries, 0u);
}

// Every limit of a close is the engine's time: a minute of it passes in a moment of the caller's.
TEST(a_manual_engine_closes_quickly_though_its_peer_never_answers) {
    TubeWorld &world = tube();
    for (int stuck = 0; stuck < 4; stuck++) {
        Fabric fabric("plan 1\nset fence_timeout=60s\nrail 0 tube a\nroute * : tube[0]\n");
        fabric.open();
        world.slices_stuck = stuck & 1;
        world.endpoints_stuck = stuck & 2;
        fabric.target_steps = false;
        fabric.submit(TENT_OP_WRITE, 4096, "never acknowledged");
        fabric.settle();
        uint64_t begin_ns = tent_now_ns();
        fabric.initiator.close();
        CHECK(tent_now_ns() - begin_ns < 20 * SECOND);  // the fences alone are 60 and more
        world.slices_stuck = world.endpoints_stuck = false;
    }
}

TEST(an_engine_with_a_worker_lives_over_a_carrier) {
    tube();
    std::vector<uint8_t> remote(65536), local(65536);
    TestEngine target("target", PLAN, carried("tube://10.0.0.1:0", 0));
    TestEngine initiator("initiator", PLAN, carried("tube://10.0.0.2:0", 0));
    target.add(remote);
    initiator.add(local);
    uint64_t segment = 0;
    OK(tent_segment_open(initiator.engine, target.address().c_str(), 10 * SECOND, &segment));
    fill_pattern(local, 5);
    tent_request r{};
    r.op = TENT_OP_WRITE;
    r.segment = segment;
    r.local = reinterpret_cast<uint64_t>(local.data());
    r.remote = reinterpret_cast<uint64_t>(remote.data());
    r.length = local.size();
    uint32_t index = 0;
    OK(tent_transfer(initiator.engine, nullptr, &r, sizeof r, 1, 10 * SECOND, &index));
    CHECK(remote == local);
    std::vector<uint8_t> more(4096);
    target.add(more);
    OK(tent_segment_refresh(initiator.engine, segment, 10 * SECOND));
    uint32_t count = 0;
    OK(tent_segment_regions(initiator.engine, segment, nullptr, 0, &count));
    CHECK_EQ(count, 2u);
    target.close();
    for (uint64_t end_ns = tent_now_ns() + 10 * SECOND; tent_now_ns() < end_ns;)
        if (tent_segment_wait(initiator.engine, segment, 0) == TENT_E_PEER) break;
    CHECK_EQ(tent_segment_wait(initiator.engine, segment, 0), TENT_E_PEER);
}
