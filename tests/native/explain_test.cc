// tent_explain: each verdict, and that what it says is what the data path then does. Manual engines
// over rails that carry nothing (null), slowed by fault where something has to stay in flight: time
// stands still between steps, so every figure is exact.
#include <cstddef>
#include <memory>

#include "engine_pair.h"

namespace {

constexpr uint64_t MS = 1000000u;
constexpr uint64_t KIB = 1024, MIB = 1024 * 1024;

struct Told {
    tent_explanation head{};
    std::vector<tent_candidate> rows;
    const tent_candidate &row(int32_t rail) const {
        for (const tent_candidate &row : rows)
            if (row.rail == rail) return row;
        printf("no candidate of rail %d\n", rail);
        _exit(1);
    }
    uint32_t verdict(int32_t rail) const { return row(rail).verdict; }
    int32_t winner_rail() const { return rows[static_cast<size_t>(head.winner)].rail; }
};

// Two manual engines, an imported segment, and batches that may stay in flight.
struct Stage : ManualPair {
    explicit Stage(const std::string &plan, const char *target_plan = nullptr)
        : ManualPair(4 * MIB, plan.c_str(), target_plan, MS) {}
    uint64_t submit(uint64_t length, uint32_t class_ = TENT_CLASS_NORMAL) {
        tent_batch_options options{};
        options.size = sizeof options;
        options.class_ = class_;
        tent_request request{};
        request.op = TENT_OP_WRITE;
        request.segment = segment;
        request.local = reinterpret_cast<uint64_t>(local.data());
        request.remote = reinterpret_cast<uint64_t>(remote.data());
        request.length = length;
        uint64_t batch = 0;
        uint32_t index = 0;
        OK(tent_batch_open(initiator.engine, &options, &batch));
        OK(tent_batch_submit(initiator.engine, batch, &request, sizeof request, 1, TENT_SUBMIT_SEAL,
                             &index));
        CHECK(tent_engine_step(initiator.engine, now_ns) >= 0);
        return batch;
    }
    // Local rail of a finished request of one slice.
    int32_t rail_of(uint64_t batch) {
        CHECK(step_until([&] { return tent_batch_poll(initiator.engine, batch) == TENT_OK; }));
        tent_request_status status{};
        uint32_t count = 1;
        OK(tent_batch_status(initiator.engine, batch, 0, &status, sizeof status, &count));
        OK(tent_batch_close(initiator.engine, batch));
        return status.rail;
    }
    tent_explain_query query(uint64_t length) const {
        tent_explain_query query{};
        query.size = sizeof query;
        query.op = TENT_OP_WRITE;
        query.segment = segment;
        query.length = length;
        return query;
    }
    Told explain(const tent_explain_query &query) const {
        Told told;
        told.head.size = sizeof told.head;
        told.rows.resize(16);
        told.rows[0].size = sizeof told.rows[0];
        uint32_t count = 16;
        OK(tent_explain(initiator.engine, &query, &told.head, told.rows.data(), sizeof told.rows[0],
                        &count));
        told.rows.resize(count);
        return told;
    }
    Told explain(uint64_t length, uint32_t class_ = TENT_CLASS_NORMAL) const {
        tent_explain_query asked = query(length);
        asked.class_ = class_;
        return explain(asked);
    }
    int32_t status_of(const tent_explain_query &query) const {
        Told told;
        told.head.size = sizeof told.head;
        uint32_t count = 0;
        return tent_explain(initiator.engine, &query, &told.head, nullptr, 0, &count);
    }
};

// A rail that takes half a second for 64 KiB: for a test it stands still.
constexpr char STUCK[] = " fault.throttle=1mbit";

}  // namespace

TEST(of_two_idle_rails_the_faster_is_chosen_and_the_figures_are_exact) {
    Stage stage(
        "plan 1\nrail 0 null a gbps=4\nrail 1 null b gbps=8\n"
        "route op=read : null[0 1]\nroute op=write local=cpu : null[0 1]\n");
    Told told = stage.explain(16 * MIB);
    CHECK_EQ(told.head.generation, 1u);
    CHECK_EQ(told.head.route, 1);
    CHECK_EQ(told.head.rung, 0);
    CHECK_EQ(told.head.strategy, static_cast<uint32_t>(TENT_STRATEGY_PREDICTIVE));
    CHECK_EQ(told.head.winner, 1);
    CHECK_EQ(told.head.slice_bytes, MIB);
    CHECK_EQ(told.head.backlog_bytes, 16 * MIB);
    CHECK_EQ(told.head.row, "route op=write local=cpu : null[0 1]");
    if (!CHECK_EQ(told.rows.size(), 2u)) return;
    const tent_candidate &fast = told.rows[1], &slow = told.rows[0];
    CHECK_EQ(fast.verdict, static_cast<uint32_t>(TENT_VERDICT_CHOSEN));
    CHECK_EQ(slow.verdict, static_cast<uint32_t>(TENT_VERDICT_SLOWER));
    CHECK_EQ(fast.predicted_ns, MIB);  // 8 Gbit/s: a byte takes a nanosecond
    CHECK_EQ(fast.score_ns, MIB);
    CHECK_EQ(slow.predicted_ns, 2 * MIB);
    CHECK_EQ(fast.window_bytes, 2 * MIB);
    CHECK_EQ(fast.rate_bytes_per_s, 1000000000u);
    CHECK_EQ(fast.nominal_bytes_per_s, 1000000000u);
    CHECK_EQ(fast.rail, 1);
    CHECK_EQ(fast.remote_rail, 1);
    CHECK_EQ(fast.rung, 0);
    CHECK_EQ(fast.tier, 1);
    CHECK_EQ(fast.penalty, 1u);
    CHECK_EQ(fast.state, static_cast<uint32_t>(TENT_STATE_HEALTHY));
    CHECK_EQ(fast.inflight_bytes + fast.inflight_local_bytes + fast.inflight_remote_bytes, 0u);
    CHECK_EQ(fast.transport, "null");
    CHECK_EQ(fast.name, "target: rail 1 -> 1");
    CHECK_EQ(stage.explain(64 * KIB).head.slice_bytes, 64 * KIB);  // no larger than the request
    CHECK_EQ(stage.explain(MIB).head.slice_bytes, 352256u);  // the end game: 2/3 of it, halved
}

TEST(what_is_in_flight_makes_a_rail_slower_and_is_told_of_all_three) {
    Stage stage(std::string("plan 1\ndecorate null fault\nset slice_size=64k\n") +
                "rail 0 null a gbps=8" + STUCK + "\nrail 1 null b gbps=8\nroute * : null[0 1]\n");
    CHECK_EQ(stage.explain(64 * KIB).winner_rail(), 0);
    stage.submit(64 * KIB);
    Told told = stage.explain(64 * KIB);
    CHECK_EQ(told.winner_rail(), 1);
    CHECK_EQ(told.verdict(0), static_cast<uint32_t>(TENT_VERDICT_SLOWER));
    CHECK_EQ(told.row(0).inflight_bytes, 64 * KIB);
    CHECK_EQ(told.row(0).inflight_local_bytes, 64 * KIB);
    CHECK_EQ(told.row(0).inflight_remote_bytes, 64 * KIB);
    CHECK_EQ(told.row(0).predicted_ns, 2 * told.row(1).predicted_ns);
}

TEST(a_full_window_is_waited_for_when_there_is_nothing_else) {
    Stage stage(std::string("plan 1\ndecorate null fault\nset slice_size=64k\nset window_max=64k\n"
                            "rail 0 null a gbps=8") +
                STUCK + "\nroute * : null[0]\n");
    stage.submit(MIB);
    Told told = stage.explain(100);
    CHECK_EQ(told.head.winner, -2);
    CHECK_EQ(told.head.rung, 0);
    CHECK_EQ(told.head.slice_bytes, 100u);
    CHECK_EQ(told.head.backlog_bytes, MIB - 64 * KIB + 100);  // one slice is posted
    CHECK_EQ(told.verdict(0), static_cast<uint32_t>(TENT_VERDICT_FULL));
    CHECK_EQ(told.row(0).inflight_bytes, 64 * KIB);
    CHECK_EQ(told.row(0).window_bytes, 64 * KIB);
    CHECK_EQ(stage.explain(100, TENT_CLASS_HIGH).head.backlog_bytes, 100u);  // another class's
}

TEST(a_fast_full_rail_is_awaited_unless_much_waits) {
    Stage stage(std::string("plan 1\ndecorate null fault\nset slice_size=64k\nset window_max=64k\n"
                            "rail 0 null a gbps=8") +
                STUCK + "\nrail 1 null b gbps=0.5\nroute * : null[0 1]\n");
    stage.submit(64 * KIB);
    Told told = stage.explain(64 * KIB);
    CHECK_EQ(told.head.winner, -2);
    CHECK_EQ(told.verdict(0), static_cast<uint32_t>(TENT_VERDICT_AWAITED));
    CHECK_EQ(told.verdict(1), static_cast<uint32_t>(TENT_VERDICT_PASSED_OVER));
    told = stage.explain(64 * MIB);
    CHECK_EQ(told.winner_rail(), 1);
    CHECK_EQ(told.verdict(0), static_cast<uint32_t>(TENT_VERDICT_FULL));
}

TEST(class_low_is_full_with_its_slice_in_flight_and_others_are_not) {
    Stage stage(std::string("plan 1\ndecorate null fault\nset slice_size=64k\n"
                            "rail 0 null a gbps=8") +
                STUCK + "\nroute * : null[0]\n");
    stage.submit(64 * KIB, TENT_CLASS_LOW);
    CHECK_EQ(stage.explain(64 * KIB, TENT_CLASS_LOW).verdict(0),
             static_cast<uint32_t>(TENT_VERDICT_FULL));
    CHECK_EQ(stage.explain(64 * KIB).verdict(0), static_cast<uint32_t>(TENT_VERDICT_CHOSEN));
}

TEST(a_farther_tier_of_equal_speed_is_left_alone_and_a_quicker_one_pays_its_penalty) {
    Stage stage(
        "plan 1\nrail 0 null a gbps=4\nrail 1 null b gbps=4\nrail 2 null c gbps=8\n"
        "route * : null[0 | 1 | 2]\n");
    Told told = stage.explain(16 * MIB);
    CHECK_EQ(told.winner_rail(), 0);
    CHECK_EQ(told.verdict(1), static_cast<uint32_t>(TENT_VERDICT_FARTHER));
    CHECK_EQ(told.verdict(2), static_cast<uint32_t>(TENT_VERDICT_SLOWER));
    CHECK_EQ(told.row(1).tier, 2);
    CHECK_EQ(told.row(1).penalty, 3u);
    CHECK_EQ(told.row(2).tier, 3);
    CHECK_EQ(told.row(2).predicted_ns, MIB);
    CHECK_EQ(told.row(2).score_ns, 10 * MIB);
}

TEST(a_later_rung_is_told_with_its_own_figures) {
    Stage stage(
        "plan 1\nrail 0 null a gbps=8\nrail 1 null b gbps=8\n"
        "route * : null[0] ; null[1] slice=64k strategy=static\n");
    Told told = stage.explain(16 * MIB);
    CHECK_EQ(told.head.rung, 0);
    CHECK_EQ(told.winner_rail(), 0);
    CHECK_EQ(told.verdict(1), static_cast<uint32_t>(TENT_VERDICT_LATER_RUNG));
    CHECK_EQ(told.row(1).rung, 1);
    CHECK_EQ(told.row(1).predicted_ns, 64 * KIB);
}

TEST(a_rung_without_a_ready_endpoint_is_passed_by) {
    Stage stage(
        "plan 1\nset peer_rails_max=1\ndecorate null fault\nrail 0 null a gbps=8 "
        "fault.cut_after=0\nrail 1 null b "
        "gbps=8\nrail 2 null c gbps=8 fault.cut_after=0\n"
        "route op=write : null[0] ; null[1] strategy=round_robin ; null[2]\n"
        "route op=read : null[0 2]\n");
    Told told = stage.explain(16 * MIB);
    CHECK_EQ(told.head.rung, 1);
    CHECK_EQ(told.head.strategy, static_cast<uint32_t>(TENT_STRATEGY_ROUND_ROBIN));
    CHECK_EQ(told.head.winner, 1);
    for (int32_t rail : {0, 2}) {
        CHECK_EQ(told.verdict(rail), static_cast<uint32_t>(TENT_VERDICT_NOT_READY));
        CHECK(told.row(rail).state != static_cast<uint32_t>(TENT_STATE_HEALTHY));
        CHECK_EQ(told.row(rail).predicted_ns, 0u);
    }
    tent_explain_query query = stage.query(MIB);
    query.op = TENT_OP_READ;
    told = stage.explain(query);  // nothing at all is ready
    CHECK_EQ(told.head.route, 1);
    CHECK_EQ(told.head.rung, -1);
    CHECK_EQ(told.head.winner, -1);
    CHECK_EQ(told.rows.size(), 2u);
}

TEST(a_blocked_endpoint_is_full_for_the_strategies_without_windows) {
    // fault takes 50 ms of work ahead: the slices behind are refused by the transport.
    for (const char *strategy : {"round_robin", "static", "tent_paper", "predictive"}) {
        Stage stage(std::string("plan 1\ndecorate null fault\nset slice_size=64k\n") +
                    "rail 0 null a gbps=8" + STUCK + "\nroute * : null[0] strategy=" + strategy +
                    "\n");
        stage.submit(256 * KIB);
        Told told = stage.explain(64 * KIB);
        CHECK_EQ(told.head.winner, -2);
        CHECK_EQ(told.verdict(0), static_cast<uint32_t>(TENT_VERDICT_FULL));
    }
}

TEST(the_winner_is_where_the_slice_then_goes_and_asking_changes_nothing) {
    for (const char *strategy : {"predictive", "round_robin", "static", "tent_paper"}) {
        Stage stage(
            std::string("plan 1\ndecorate null fault\nset slice_size=64k\n"
                        "rail 0 null a gbps=4 fault.throttle=1gbit\n"
                        "rail 1 null b gbps=2 fault.throttle=2gbit\n"
                        "rail 2 null c gbps=1 fault.throttle=4gbit\nroute * : null[0 1 | 2] "
                        "strategy=") +
            strategy + "\n");
        uint32_t seen = 0;
        for (int i = 0; i < 30; i++) {
            Told told = stage.explain(64 * KIB);
            for (int again = 0; again < 3; again++)
                CHECK_EQ(stage.explain(64 * KIB).head.winner, told.head.winner);
            if (!CHECK(told.head.winner >= 0)) return;
            CHECK_EQ(told.rows[static_cast<size_t>(told.head.winner)].verdict,
                     static_cast<uint32_t>(TENT_VERDICT_CHOSEN));
            CHECK_EQ(stage.rail_of(stage.submit(64 * KIB)), told.winner_rail());
            seen |= 1u << told.winner_rail();
        }
        CHECK((seen & (seen - 1)) != 0);  // the turn, or what was measured, moved it
        tent_counters row{};
        uint32_t count = 1;
        OK(tent_counters_read(stage.initiator.engine, TENT_COUNTERS_ENGINE, &row, sizeof row,
                              &count));
        CHECK_EQ(row.requests, 30u);
        CHECK_EQ(row.charged_bytes, 30 * 64 * KIB);
        CHECK_EQ(row.released_bytes, row.charged_bytes);
    }
}

TEST(locations_label_class_and_size_choose_the_row) {
    Stage stage(
        "plan 1\nrail 0 null a\nroute local=cuda : null[0]\nroute remote=file : null[0]\n"
        "route class=high : null[0]\nroute label=kv : null[0]\nroute size=..4k : null[0]\n"
        "route op=write : null[0]\n");
    auto route = [&](auto change) {
        tent_explain_query query = stage.query(MIB);
        change(query);
        return stage.explain(query).head.route;
    };
    CHECK_EQ(route([](auto &) {}), 5);
    CHECK_EQ(route([](auto &q) { q.local = "cuda:3"; }), 0);
    CHECK_EQ(route([](auto &q) { q.remote = "file"; }), 1);
    CHECK_EQ(route([](auto &q) { q.class_ = TENT_CLASS_HIGH; }), 2);
    CHECK_EQ(route([](auto &q) { q.label = "kv"; }), 3);
    CHECK_EQ(route([](auto &q) { q.length = 4096; }), 4);
    CHECK_EQ(route([](auto &q) { q.local = q.remote = q.label = ""; }), 5);
}

TEST(without_a_route_it_says_why) {
    Stage stage(
        "plan 1\nrail 0 null a\nrail 1 tcp 127.0.0.1\nroute op=read size=..4k : tcp[1]\n"
        "route op=write : null[0]\n",
        "plan 1\nrail 0 null a\nroute * : null[0]\n");
    tent_explain_query query = stage.query(MIB);
    query.op = TENT_OP_READ;
    Told told = stage.explain(query);
    CHECK_EQ(told.head.route, -1);
    CHECK_EQ(told.head.rung, -1);
    CHECK_EQ(told.head.winner, -1);
    CHECK_EQ(told.head.row, "(no row of the plan matches)");
    CHECK_EQ(told.rows.size(), 0u);
    query.length = 4096;
    CHECK(strstr(stage.explain(query).head.row, "none of their rails reaches") != nullptr);
}

TEST(own_memory_needs_no_rail) {
    std::vector<uint8_t> memory(4096);
    TestEngine engine("alone");
    engine.add(memory);
    uint8_t bytes[4096];
    uint64_t size = sizeof bytes, segment = 0;
    OK(tent_segment_export(engine.engine, 0, bytes, &size));
    OK(tent_segment_import(engine.engine, bytes, size, 1000 * MS, &segment));
    tent_explain_query query{};
    query.size = sizeof query;
    query.op = TENT_OP_READ;
    query.segment = segment;
    query.length = 100;
    tent_explanation head{};
    head.size = sizeof head;
    uint32_t count = 0;
    OK(tent_explain(engine.engine, &query, &head, nullptr, 0, &count));
    CHECK_EQ(count, 0u);
    CHECK_EQ(head.route, -1);
    CHECK_EQ(head.winner, -1);
    CHECK_EQ(head.row, "(own memory: a plain copy)");
}

TEST(a_new_plan_is_explained_once_it_is_installed) {
    Stage stage("plan 1\nrail 0 null a\nroute * : null[0]\n");
    const char plan[] = "plan 1\nrail 0 null a\nroute label=x : null[0]\nroute * : null[0]\n";
    uint32_t generation = 0;
    OK(tent_plan_install(stage.initiator.engine, plan, sizeof plan - 1, &generation));
    Told told = stage.explain(MIB);
    CHECK_EQ(told.head.generation, generation);
    CHECK_EQ(told.head.route, 1);
}

TEST(structs_of_an_older_program_are_neither_overread_nor_overwritten) {
    Stage stage(
        "plan 1\nrail 0 null a\nrail 1 null b\nroute local=cuda : null[1 0]\n"
        "route * : null[0 1]\n");
    tent_explain_query query = stage.query(MIB);
    query.size = offsetof(tent_explain_query, local);
    query.local = "cuda:0";  // beyond what such a program has: must not be read
    tent_explanation head;
    memset(&head, 0xee, sizeof head);
    head.size = offsetof(tent_explanation, row);
    constexpr uint32_t STRIDE = offsetof(tent_candidate, transport);
    uint8_t rows[2 * STRIDE + 16];
    memset(rows, 0xee, sizeof rows);
    uint32_t size = STRIDE;
    memcpy(rows, &size, sizeof size);
    uint32_t count = 2;
    OK(tent_explain(stage.initiator.engine, &query, &head, reinterpret_cast<tent_candidate *>(rows),
                    STRIDE, &count));
    CHECK_EQ(count, 2u);
    CHECK_EQ(head.route, 1);
    CHECK_EQ(head.size, offsetof(tent_explanation, row));
    CHECK_EQ(static_cast<unsigned char>(head.row[0]), 0xee);
    for (int32_t i = 0; i < 2; i++) {
        tent_candidate row{};
        memcpy(static_cast<void *>(&row), rows + static_cast<size_t>(i) * STRIDE, STRIDE);
        CHECK_EQ(row.size, STRIDE);
        CHECK_EQ(row.rail, i);
    }
    for (size_t i = 2 * STRIDE; i < sizeof rows; i++)
        CHECK_EQ(rows[i], 0xee);
    // A larger struct in a wider array, and room for fewer than there are.
    struct Newer {
        tent_candidate known;
        uint8_t more[24];
    } newer[2];
    memset(static_cast<void *>(newer), 0xee, sizeof newer);
    newer[0].known.size = sizeof newer[0];
    count = 1;
    query = stage.query(MIB);
    OK(tent_explain(stage.initiator.engine, &query, &head, &newer[0].known, sizeof newer[0],
                    &count));
    CHECK_EQ(count, 2u);
    CHECK_EQ(newer[0].known.name, "target: rail 0 -> 0");
    CHECK_EQ(newer[0].more[0], 0xee);
    CHECK_EQ(newer[1].known.size, 0xeeeeeeeeu);
}

TEST(wrong_arguments_are_refused_with_a_sentence) {
    Stage stage("plan 1\nrail 0 null a\nroute * : null[0]\n");
    auto refused = [&](auto change, int32_t expected, const char *words) {
        tent_explain_query query = stage.query(MIB);
        change(query);
        CHECK_EQ(stage.status_of(query), expected);
        if (!CHECK(strstr(tent_last_error(), words) != nullptr)) puts(tent_last_error());
    };
    const std::string long_text(32, 'x');
    refused([](auto &q) { q.op = 0; }, TENT_E_INVALID, "op 0");
    refused([](auto &q) { q.op = 3; }, TENT_E_INVALID, "op 3");
    refused([](auto &q) { q.length = 0; }, TENT_E_INVALID, "length");
    refused([](auto &q) { q.class_ = 3; }, TENT_E_INVALID, "class 3");
    refused([](auto &q) { q.flags = 1; }, TENT_E_INVALID, "flags 0x1");
    refused([](auto &q) { q.size = 0; }, TENT_E_INVALID, "sizeof(tent_explain_query)");
    refused([&](auto &q) { q.label = long_text.c_str(); }, TENT_E_INVALID, "label");
    refused([&](auto &q) { q.local = long_text.c_str(); }, TENT_E_INVALID, "local");
    refused([&](auto &q) { q.remote = long_text.c_str(); }, TENT_E_INVALID, "remote");
    refused([](auto &q) { q.segment = 12345u << 16; }, TENT_E_NOT_FOUND, "segment");

    tent_engine *engine = stage.initiator.engine;
    tent_explain_query query = stage.query(MIB);
    tent_explanation head{};
    tent_candidate rows[2]{};
    uint32_t count = 0;
    CHECK_EQ(tent_explain(nullptr, &query, &head, nullptr, 0, &count), TENT_E_INVALID);
    CHECK_EQ(tent_explain(engine, nullptr, &head, nullptr, 0, &count), TENT_E_INVALID);
    CHECK_EQ(tent_explain(engine, &query, nullptr, nullptr, 0, &count), TENT_E_INVALID);
    CHECK_EQ(tent_explain(engine, &query, &head, nullptr, 0, &count), TENT_E_INVALID);
    head.size = sizeof head;
    CHECK_EQ(tent_explain(engine, &query, &head, nullptr, 0, nullptr), TENT_E_INVALID);
    count = 2;
    CHECK_EQ(tent_explain(engine, &query, &head, nullptr, sizeof rows[0], &count), TENT_E_INVALID);
    CHECK_EQ(tent_explain(engine, &query, &head, rows, sizeof rows[0], &count), TENT_E_INVALID);
    rows[0].size = sizeof rows[0];
    CHECK_EQ(tent_explain(engine, &query, &head, rows, 8, &count), TENT_E_INVALID);
    CHECK(strstr(tent_last_error(), "stride is 8") != nullptr);
    OK(tent_explain(engine, &query, &head, rows, sizeof rows[0], &count));
}

TEST(a_segment_that_is_not_usable_has_no_explanation) {
    Stage stage("plan 1\nrail 0 null a\nroute * : null[0]\n");
    std::string address = stage.target.address();
    tent_explain_query query = stage.query(MIB);
    CHECK_EQ(tent_segment_open(stage.initiator.engine, address.c_str(), 0, &query.segment),
             TENT_IN_PROGRESS);
    CHECK_EQ(stage.status_of(query), TENT_E_AGAIN);
    CHECK(strstr(tent_last_error(), "tent_segment_wait") != nullptr);
}
