// Self-healing in a whole engine, in virtual time on the simulated fabric: what is late is found,
// re-sent and fenced, and comes back; the last path stays; requests end at their deadline. Times
// are virtual, the same in every run.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "sim_engines.h"

using namespace sim_engines;

namespace {

struct Healing : Two {
    std::vector<tent_event> events;

    explicit Healing(size_t rails = 2, const std::string &route = "")
        : Two(std::vector<RailSpec>(rails, rail(GB_S)), 16 * MIB, route) {
        for (size_t host = 0; host < 2; host++)
            for (size_t i = 0; i < hosts[host].memory.size(); i++)
                hosts[host].memory[i] = static_cast<uint8_t>(host ? 0xee : i * 131 + (i >> 12));
        transfer({4 * MIB});  // rates and deviations are measured
    }
    void link(size_t rail, uint32_t up, uint32_t blackhole, size_t host = 0) {
        CHECK_EQ(SIM(rail_link)(sim, static_cast<uint32_t>(hosts[host].rails[rail]), up, blackhole),
                 TENT_OK);
    }
    // The time of the first event of the type at or after since_ns; 0: there is none.
    uint64_t event_ns(uint32_t type, uint64_t since_ns) {
        tent_event fresh[64];
        for (uint32_t count = 64; count == 64;) {
            CHECK_EQ(tent_events_poll(hosts[0].engine, fresh, sizeof fresh[0], &count), TENT_OK);
            events.insert(events.end(), fresh, fresh + count);
        }
        for (const tent_event &event : events)
            if (event.type == type && event.time_ns >= since_ns) return event.time_ns;
        return 0;
    }
    int32_t end(const tent_sim_batch &batch, uint64_t patience_ns = 10 * SECOND) {
        CHECK_EQ(run(now_ns() + patience_ns, {batch}), TENT_OK);
        int32_t status = tent_batch_poll(batch.engine, batch.batch);
        CHECK_EQ(tent_batch_close(batch.engine, batch.batch), TENT_OK);
        return status;
    }
    bool arrived(uint64_t length) {
        return memcmp(hosts[0].memory.data(), hosts[1].memory.data(), length) == 0;
    }
    std::vector<tent_unfenced_range> unfenced(uint32_t flags = 0) {
        std::vector<tent_unfenced_range> ranges(64);
        uint32_t count = 64;
        CHECK_EQ(
            tent_unfenced_read(hosts[0].engine, flags, ranges.data(), sizeof ranges[0], &count),
            TENT_OK);
        ranges.resize(count);
        return ranges;
    }
    uint32_t state(size_t rail) {
        for (const tent_counters &row : endpoints())
            if (row.rail == static_cast<int32_t>(rail)) return row.state;
        return UINT32_MAX;
    }
};

// Two transports over one fabric: the sim plugin under a second name. Rung one is rail 0, rung two
// rail 1.
struct Ladder : Fabric {
    std::string folder;
    uint64_t segment = 0;

    Ladder() : Fabric(1, 0, 1 << 20) {
        char name[] = "/tmp/tent-heal-XXXXXX";
        CHECK(mkdtemp(name) != nullptr);
        folder = name;
        CHECK_EQ(symlink(TENT_TEST_PLUGIN_DIR "/libtent_plugin_sim.so",
                         (folder + "/libtent_plugin_simb.so").c_str()),
                 0);
        for (const char *host : {"a", "b"}) {
            size_t index = add(host, {rail(GB_S), rail(GB_S)}, 16 * MIB);
            open(index);
        }
        segment = connect(0, 1);
    }
    ~Ladder() {
        unlink((folder + "/libtent_plugin_simb.so").c_str());
        rmdir(folder.c_str());
    }
    void open(size_t index) {
        Host &host = hosts[index];
        std::string plan = "plan 1\nset sim.fabric=" + this->name +
                           "\nset simb.fabric=" + this->name + "\nrail 0 sim " +
                           host.device_prefix + "0\nrail 1 simb " + host.device_prefix +
                           "1\nroute * : sim[0] slice=64k ; simb[1] slice=64k\n";
        open_plan(index, plan, TENT_TEST_PLUGIN_DIR ":" + folder);
    }
};

}  // namespace

TEST(a_rail_that_goes_silent_is_found_and_its_slices_go_over_the_other) {
    for (uint32_t op : {TENT_OP_WRITE, TENT_OP_READ}) {
        Healing two;
        tent_sim_batch batch = two.submit({.length = 16 * MIB, .op = op});
        two.run(two.now_ns() + 3 * MS);
        uint64_t cut_ns = two.now_ns();
        two.link(1, 1, 1);
        CHECK_EQ(two.end(batch), TENT_OK);
        CHECK(op == TENT_OP_READ || two.arrived(16 * MIB));
        uint64_t suspect_ns = two.event_ns(TENT_EVENT_ENDPOINT_SUSPECT, cut_ns);
        uint64_t failed_ns = two.event_ns(TENT_EVENT_ENDPOINT_FAILED, cut_ns);
        CHECK(suspect_ns > cut_ns && failed_ns > suspect_ns && failed_ns < cut_ns + 20 * MS);
        CHECK(two.now_ns() < cut_ns + 40 * MS);
        CHECK(two.engine_row().slices_retried > 0);
        CHECK_EQ(two.state(0), static_cast<uint32_t>(TENT_STATE_HEALTHY));
        check_at_rest(two);
    }
}

TEST(a_healed_rail_comes_back_by_a_canary_and_carries_its_share_again) {
    Healing two;
    two.link(1, 1, 1);
    CHECK_EQ(two.end(two.submit({16 * MIB})), TENT_OK);
    CHECK(two.state(1) != TENT_STATE_HEALTHY);
    tent_sim_batch batch = two.submit({16 * MIB});
    two.link(1, 1, 0);
    uint64_t healed_ns = two.now_ns();
    while (tent_batch_poll(batch.engine, batch.batch) == TENT_IN_PROGRESS) {
        CHECK_EQ(two.end(batch), TENT_OK);
        batch = two.submit({16 * MIB});
        if (two.state(1) == TENT_STATE_HEALTHY) break;
        CHECK(two.now_ns() < healed_ns + SECOND);
    }
    CHECK_EQ(two.end(batch), TENT_OK);
    uint64_t back_ns = two.event_ns(TENT_EVENT_ENDPOINT_HEALED, healed_ns);
    CHECK(back_ns != 0 && back_ns < healed_ns + 600 * MS);
    uint64_t spent_ns = two.transfer({16 * MIB});
    CHECK(spent_ns < 16 * MIB / 2 * 11 / 10);  // of 2 GB/s together
    CHECK(two.arrived(16 * MIB));
    check_at_rest(two);
}

TEST(the_last_path_is_not_excluded_however_late_it_is) {
    Healing two(1);
    tent_sim_batch batch = two.submit({16 * MIB});
    two.run(two.now_ns() + 3 * MS);
    tent_sim_rail_options slow{};
    slow.size = sizeof slow;
    tent_sim_bandwidth still = constant(0);
    slow.bandwidth = &still;
    slow.latency_ns = 5 * US;
    CHECK_EQ(SIM(rail_set)(two.sim, static_cast<uint32_t>(two.hosts[0].rails[0]), &slow), TENT_OK);
    uint64_t since_ns = two.now_ns();
    two.run(since_ns + 100 * MS);
    CHECK_EQ(two.event_ns(TENT_EVENT_ENDPOINT_SUSPECT, since_ns), 0u);
    CHECK_EQ(two.event_ns(TENT_EVENT_ENDPOINT_FAILED, since_ns), 0u);
    tent_sim_bandwidth again = constant(GB_S);
    slow.bandwidth = &again;
    CHECK_EQ(SIM(rail_set)(two.sim, static_cast<uint32_t>(two.hosts[0].rails[0]), &slow), TENT_OK);
    CHECK_EQ(two.end(batch), TENT_OK);
    CHECK(two.arrived(16 * MIB));
    check_at_rest(two);
}

TEST(a_last_path_that_stays_silent_while_the_peer_lives_is_connected_anew) {
    Healing two(2, "route * : sim[0] slice=64k");  // the other rail carries control messages
    tent_sim_batch batch = two.submit({16 * MIB});
    two.run(two.now_ns() + 3 * MS);
    two.link(0, 1, 1);
    uint64_t since_ns = two.now_ns();
    two.run(since_ns + 800 * MS);
    uint64_t failed_ns = two.event_ns(TENT_EVENT_ENDPOINT_FAILED, since_ns);
    CHECK(failed_ns > since_ns + 250 * MS && failed_ns < since_ns + 500 * MS);
    two.link(0, 1, 0);
    CHECK_EQ(two.end(batch), TENT_OK);
    CHECK(two.arrived(16 * MIB));
    check_at_rest(two);
}

TEST(when_all_rails_fall_silent_together_one_stays_open_and_nothing_fails) {
    Healing two(4);
    tent_sim_batch batch = two.submit({16 * MIB});
    two.run(two.now_ns() + 1 * MS);
    for (size_t rail = 0; rail < 4; rail++) {
        tent_sim_rail_options still{};
        still.size = sizeof still;
        tent_sim_bandwidth none = constant(0);
        still.bandwidth = &none;
        still.latency_ns = 5 * US;
        CHECK_EQ(SIM(rail_set)(two.sim, static_cast<uint32_t>(two.hosts[1].rails[rail]), &still),
                 TENT_OK);
    }
    uint64_t since_ns = two.now_ns();
    two.run(since_ns + 50 * MS);
    size_t open = 0;
    for (size_t rail = 0; rail < 4; rail++)
        open += two.state(rail) == TENT_STATE_HEALTHY;
    CHECK(open >= 1);
    for (size_t rail = 0; rail < 4; rail++) {
        tent_sim_rail_options fine{};
        fine.size = sizeof fine;
        tent_sim_bandwidth full = constant(GB_S);
        fine.bandwidth = &full;
        fine.latency_ns = 5 * US;
        CHECK_EQ(SIM(rail_set)(two.sim, static_cast<uint32_t>(two.hosts[1].rails[rail]), &fine),
                 TENT_OK);
    }
    CHECK_EQ(two.end(batch), TENT_OK);
    CHECK(two.arrived(16 * MIB));
    check_at_rest(two);
}

TEST(a_request_against_silence_ends_at_its_deadline_and_names_what_is_unfenced) {
    for (uint32_t op : {TENT_OP_WRITE, TENT_OP_READ}) {
        Healing two(2);
        two.engines = {two.hosts[0].engine};  // the target has stopped
        uint64_t begin_ns = two.now_ns();
        for (size_t rail = 0; rail < 2; rail++)
            two.link(rail, 1, 1);
        tent_sim_batch batch = two.submit({.length = 16 * MIB, .deadline_ns = 100 * MS, .op = op});
        int32_t status = two.end(batch);
        uint64_t spent_ns = two.now_ns() - begin_ns;
        CHECK(spent_ns >= 80 * MS && spent_ns <= 102 * MS);
        if (op == TENT_OP_READ) {
            CHECK_EQ(status, TENT_E_TIMEOUT);
            CHECK(two.unfenced().empty());
        } else {
            CHECK_EQ(status, TENT_E_UNFENCED);
            uint64_t begin = reinterpret_cast<uint64_t>(two.hosts[1].memory.data());
            CHECK(!two.unfenced().empty());
            for (const tent_unfenced_range &range : two.unfenced()) {
                CHECK(range.remote >= begin && range.remote + range.length <= begin + 16 * MIB);
                CHECK_EQ(range.batch, batch.batch);
                CHECK_EQ(range.proven, 0u);
            }
        }
        // The peer goes on, and says that it has retired what was open.
        two.engines = {two.hosts[0].engine, two.hosts[1].engine};
        for (size_t rail = 0; rail < 2; rail++)
            two.link(rail, 1, 0);
        two.run(two.now_ns() + SECOND);
        for (const tent_unfenced_range &range : two.unfenced(TENT_UNFENCED_FORGET_PROVEN))
            CHECK_EQ(range.proven, 1u);
        CHECK(two.unfenced().empty());
        CHECK_EQ(two.end(two.submit({.length = 16 * MIB, .op = op})), TENT_OK);
        check_at_rest(two);
    }
}

TEST(a_deadline_that_is_met_costs_nothing) {
    Healing two(2);
    uint64_t plain_ns = two.transfer({16 * MIB});
    uint64_t begin_ns = two.now_ns();
    CHECK_EQ(two.end(two.submit({.length = 16 * MIB, .deadline_ns = 100 * MS})), TENT_OK);
    CHECK(two.now_ns() - begin_ns < plain_ns * 11 / 10);
    CHECK_EQ(two.event_ns(TENT_EVENT_ENDPOINT_FAILED, 0), 0u);
}

TEST(a_deadline_too_short_for_the_wire_ends_the_request_alone) {
    Healing two(2);
    tent_sim_batch hurried = two.submit({.length = 16 * MIB, .deadline_ns = 2 * MS});
    tent_sim_batch patient = two.submit({.length = 16 * MIB, .op = TENT_OP_READ});
    CHECK_EQ(two.end(hurried), TENT_E_TIMEOUT);
    CHECK_EQ(two.end(patient), TENT_OK);
    check_at_rest(two);
}

TEST(a_link_that_goes_down_is_told_and_takes_its_endpoints_with_it_at_once) {
    Healing two(2);
    tent_sim_batch batch = two.submit({16 * MIB});
    two.run(two.now_ns() + 3 * MS);
    two.link(1, 0, 0);
    uint64_t cut_ns = two.now_ns();
    CHECK_EQ(two.end(batch), TENT_OK);
    CHECK(two.arrived(16 * MIB));
    uint64_t failed_ns = two.event_ns(TENT_EVENT_ENDPOINT_FAILED, cut_ns);
    CHECK(failed_ns != 0 && failed_ns < cut_ns + 2 * MS);
    check_at_rest(two);
}

TEST(a_late_delivery_does_not_land_after_the_end_of_its_request) {
    Healing two(2);
    tent_sim_rail_options late{};
    late.size = sizeof late;
    late.latency_ns = 5 * US;
    late.late = 0.05;
    late.late_ns = 60 * MS;
    CHECK_EQ(SIM(rail_set)(two.sim, static_cast<uint32_t>(two.hosts[0].rails[1]), &late), TENT_OK);
    for (int round = 0; round < 10; round++) {
        CHECK_EQ(two.end(two.submit({4 * MIB})), TENT_OK);
        CHECK(two.arrived(4 * MIB));
        // At once the buffers serve another purpose.
        std::fill(two.hosts[1].memory.begin(), two.hosts[1].memory.end(), uint8_t{0xcc});
        two.run(two.now_ns() + 100 * MS);
        CHECK(std::all_of(two.hosts[1].memory.begin(), two.hosts[1].memory.end(),
                          [](uint8_t byte) { return byte == 0xcc; }));
    }
    CHECK(two.event_ns(TENT_EVENT_FENCED, 0) != 0);
    check_at_rest(two);
}

TEST(a_corrupt_slice_is_sent_again) {
    Healing two(2);
    tent_sim_rail_options bad{};
    bad.size = sizeof bad;
    bad.latency_ns = 5 * US;
    bad.corrupt = 0.05;
    CHECK_EQ(SIM(rail_set)(two.sim, static_cast<uint32_t>(two.hosts[0].rails[1]), &bad), TENT_OK);
    tent_batch_options options{};
    options.size = sizeof options;
    options.flags = TENT_BATCH_INTEGRITY;
    tent_sim_batch batch{two.hosts[0].engine, 0};
    CHECK_EQ(tent_batch_open(batch.engine, &options, &batch.batch), TENT_OK);
    tent_request request{};
    request.op = TENT_OP_WRITE;
    request.segment = two.segment;
    request.local = reinterpret_cast<uint64_t>(two.hosts[0].memory.data());
    request.remote = reinterpret_cast<uint64_t>(two.hosts[1].memory.data());
    request.length = 16 * MIB;
    uint32_t index = 0;
    CHECK_EQ(tent_batch_submit(batch.engine, batch.batch, &request, sizeof request, 1,
                               TENT_SUBMIT_SEAL, &index),
             TENT_OK);
    CHECK_EQ(two.end(batch), TENT_OK);
    CHECK(two.arrived(16 * MIB));
    CHECK(two.event_ns(TENT_EVENT_ENDPOINT_SUSPECT, 0) != 0);
    check_at_rest(two);
}

TEST(a_write_goes_to_the_next_rung_only_after_the_first_one_is_fenced_and_comes_back) {
    Ladder ladder;
    for (size_t i = 0; i < 16 * MIB; i++)
        ladder.hosts[0].memory[i] = static_cast<uint8_t>(i * 7);
    ladder.transfer(0, 1, ladder.segment, {4 * MIB});
    tent_sim_batch batch = ladder.submit(0, 1, ladder.segment, {16 * MIB});
    ladder.run(ladder.now_ns() + 3 * MS);
    uint64_t cut_ns = ladder.now_ns();
    CHECK_EQ(SIM(rail_link)(ladder.sim, static_cast<uint32_t>(ladder.hosts[0].rails[0]), 1, 1),
             TENT_OK);
    CHECK_EQ(ladder.run(ladder.now_ns() + SECOND, {batch}), TENT_OK);
    CHECK_EQ(tent_batch_poll(batch.engine, batch.batch), TENT_OK);
    CHECK_EQ(tent_batch_close(batch.engine, batch.batch), TENT_OK);
    CHECK(ladder.hosts[0].memory == ladder.hosts[1].memory);
    uint64_t fenced_ns = 0;
    tent_event events[64];
    uint32_t count = 64;
    CHECK_EQ(tent_events_poll(ladder.hosts[0].engine, events, sizeof events[0], &count), TENT_OK);
    for (uint32_t i = 0; i < count; i++)
        if (events[i].type == TENT_EVENT_FENCED && fenced_ns == 0) fenced_ns = events[i].time_ns;
    CHECK(fenced_ns > cut_ns);
    // Bytes that may still have landed over rail 0 were sent over rail 1 after its fence.
    std::vector<tent_sim_record> records(SIM(trace)(ladder.sim, 0, nullptr, 0, nullptr));
    SIM(trace)(ladder.sim, 0, records.data(), records.size(), nullptr);
    uint64_t over_second = 0, again = 0;
    std::vector<uint64_t> first;  // slices posted over rail 0; a retry keeps its number
    for (const tent_sim_record &record : records) {
        if (record.kind != TENT_SIM_TRACE_POST) continue;
        if (record.rail == static_cast<uint32_t>(ladder.hosts[0].rails[0])) {
            first.push_back(record.slice);
            continue;
        }
        over_second += record.bytes;
        if (std::find(first.begin(), first.end(), record.slice) == first.end()) continue;
        again++;
        CHECK(record.time_ns >= fenced_ns);
    }
    CHECK(again > 0);
    CHECK(over_second > 8 * MIB);
    CHECK_EQ(SIM(rail_link)(ladder.sim, static_cast<uint32_t>(ladder.hosts[0].rails[0]), 1, 0),
             TENT_OK);
    ladder.run(ladder.now_ns() + 6 * SECOND);  // idle rails are probed every 5 s
    size_t before = records.size();
    ladder.transfer(0, 1, ladder.segment, {4 * MIB});
    records.resize(SIM(trace)(ladder.sim, 0, nullptr, 0, nullptr));
    SIM(trace)(ladder.sim, 0, records.data(), records.size(), nullptr);
    for (size_t i = before; i < records.size(); i++)
        if (records[i].kind == TENT_SIM_TRACE_POST)
            CHECK_EQ(records[i].rail, static_cast<uint32_t>(ladder.hosts[0].rails[0]));
}

TEST(a_segment_is_usable_while_one_of_the_rails_is_silent) {
    Healing two(2);
    two.link(1, 1, 1);
    uint64_t begin_ns = two.now_ns();
    uint64_t again = two.connect(0, 1);
    CHECK(two.now_ns() < begin_ns + 100 * MS);
    two.Fabric::transfer(0, 1, again, {4 * MIB});
    CHECK(two.arrived(4 * MIB));
}

TEST(a_rail_that_loses_single_slices_is_not_waited_for_while_others_come_through) {
    for (const char *route : {"", "route * : sim[1] slice=64k"}) {
        Healing two(2, route);
        tent_sim_rail_options lossy{};
        lossy.size = sizeof lossy;
        lossy.latency_ns = 5 * US;
        lossy.loss = 0.01;
        CHECK_EQ(SIM(rail_set)(two.sim, static_cast<uint32_t>(two.hosts[0].rails[1]), &lossy),
                 TENT_OK);
        std::vector<tent_sim_batch> batches;
        for (int i = 0; i < 8; i++)
            batches.push_back(two.submit({.length = 2 * MIB, .offset = i * 2 * MIB}));
        for (const tent_sim_batch &batch : batches)
            CHECK_EQ(two.end(batch), TENT_OK);
        CHECK(two.arrived(16 * MIB));
        check_at_rest(two);
    }
}

TEST(with_checksums_a_write_is_sent_again_only_after_its_fence) {
    Fabric fabric(1, 0, 1 << 20);
    for (const char *host : {"a", "b"})
        fabric.open(fabric.add(host, {rail(GB_S), rail(GB_S)}, 16 * MIB));
    uint64_t segment = fabric.connect(0, 1);
    fabric.transfer(0, 1, segment, {4 * MIB});
    tent_sim_batch batch =
        fabric.submit(0, 1, segment, {.length = 16 * MIB, .flags = TENT_BATCH_INTEGRITY});
    fabric.run(fabric.now_ns() + 3 * MS);
    uint32_t cut = static_cast<uint32_t>(fabric.hosts[0].rails[1]);
    CHECK_EQ(SIM(rail_link)(fabric.sim, cut, 1, 1), TENT_OK);
    CHECK_EQ(fabric.run(fabric.now_ns() + SECOND, {batch}), TENT_OK);
    CHECK_EQ(tent_batch_poll(batch.engine, batch.batch), TENT_OK);
    CHECK_EQ(tent_batch_close(batch.engine, batch.batch), TENT_OK);
    uint64_t fenced_ns = 0, again = 0;
    tent_event events[64];
    uint32_t count = 64;
    CHECK_EQ(tent_events_poll(fabric.hosts[0].engine, events, sizeof events[0], &count), TENT_OK);
    for (uint32_t i = 0; i < count; i++)
        if (events[i].type == TENT_EVENT_FENCED && fenced_ns == 0) fenced_ns = events[i].time_ns;
    CHECK(fenced_ns > 0);
    std::vector<tent_sim_record> records(SIM(trace)(fabric.sim, 0, nullptr, 0, nullptr));
    SIM(trace)(fabric.sim, 0, records.data(), records.size(), nullptr);
    std::vector<uint64_t> first;
    for (const tent_sim_record &record : records) {
        if (record.kind != TENT_SIM_TRACE_POST) continue;
        bool known = std::find(first.begin(), first.end(), record.slice) != first.end();
        if (record.rail == cut)
            first.push_back(record.slice);
        else if (known) {
            again++;
            CHECK(record.time_ns >= fenced_ns);
        }
    }
    CHECK(again > 0);
}
