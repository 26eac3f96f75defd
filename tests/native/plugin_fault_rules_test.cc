// The fault decorator's rules by its contract: what fails by chance, by count, by schedule, and
// how, over the real null and tcp transports, on a clock the test steps.
//
// Leans on fake_host.h; loads the decorated transports as the core does. Each test is one claim.
#include <algorithm>

#include "check.h"
#include "fake_host.h"
#include "load_plugin.h"
#include "plugins/fault/fault.h"

using fake::Pair;
using fake::Side;

namespace {

constexpr uint64_t MS = 1'000'000;
using Options = std::vector<tent_option>;

const tent_plugin *fault() {
    return tent_plugin_query(TENT_PLUGIN_ABI);
}

// fault over null, one endpoint, the clock stepped from 1 s on. Schedules count from `begin_ns`.
struct Faulty {
    Pair pair;
    char byte = 0;
    uint64_t begin_ns = 0;

    explicit Faulty(const Options &rail_options, const Options &options = {}, bool joined = true)
        : pair(fault(), "any", options, 64, load("null"), rail_options) {
        if (joined) CHECK_EQ(pair.status, TENT_OK);
    }
    Side &side() { return pair.initiator; }
    const std::vector<int32_t> &statuses() const { return pair.initiator.statuses; }
    // The rail was opened on the real clock, which the test leaves behind.
    void at(uint64_t since_ns) {
        if (begin_ns == 0) begin_ns = fake::real_now_ns() + 1000 * MS;
        side().host.now_ns = begin_ns + since_ns;
        for (int i = 0; i < 4; ++i)
            side().poll();
    }
    bool post(uint64_t length = 1) {
        return side().post(pair.from, TENT_OP_WRITE, &byte, 0, length);
    }
    // How many of `count` slices, posted one by one, have come back with `status`.
    uint32_t with(int32_t status, uint32_t count) {
        for (uint32_t i = 0; i < count; ++i)
            post();
        for (int i = 0; i < 4; ++i)
            side().poll();
        return static_cast<uint32_t>(std::count(statuses().begin(), statuses().end(), status));
    }
    int32_t close() {
        const int32_t status = fault()->endpoint_close(side().instance, pair.from);
        if (status == TENT_OK) pair.from = nullptr;
        for (int i = 0; i < 4; ++i)
            side().poll();
        return status;
    }
    int32_t state() const { return pair.initiator.host.state_of(Pair::INITIATOR); }
};

}  // namespace

TEST(the_third_slice_fails_and_no_other) {
    Faulty faulty(Options{{"fault.fail", "slice:3"}});
    CHECK_EQ(faulty.with(TENT_OK, 6), 5u);
    CHECK_EQ(faulty.statuses()[2], TENT_E_TRANSPORT);
    CHECK_EQ(faulty.state(), TENT_OK);  // a slice's failure is not the endpoint's
}

TEST(slices_fail_for_good_from_their_number_on) {
    Faulty faulty(Options{{"fault.fail", "corrupt:3"}, {"fault.fail_for", "good"}});
    CHECK_EQ(faulty.with(TENT_E_CORRUPT, 6), 4u);
    CHECK_EQ(faulty.statuses()[1], TENT_OK);
}

TEST(slices_fail_for_a_time_from_their_number_on) {
    Faulty faulty(Options{{"fault.fail", "slice:2"}, {"fault.fail_for", "10ms"}});
    faulty.at(0);
    CHECK_EQ(faulty.with(TENT_E_TRANSPORT, 3), 2u);
    faulty.at(10 * MS - 1);
    CHECK_EQ(faulty.with(TENT_E_TRANSPORT, 1), 3u);
    faulty.at(10 * MS);
    CHECK_EQ(faulty.with(TENT_E_TRANSPORT, 5), 3u);
}

TEST(a_transports_count_goes_over_all_operations) {
    // open, rail_open, offer, connect on the initiator; its first post is the fifth.
    Faulty faulty({}, {{"fault.fail", "any:5"}}, false);
    CHECK(!faulty.post());
    faulty.side().poll();
    CHECK_EQ(faulty.state(), TENT_E_TRANSPORT);
    CHECK(faulty.side().host.news.back().sentence.find("a post was failed") != std::string::npos);
}

TEST(dropped_slices_come_back_when_their_endpoint_closes) {
    for (const char *failure : {"drop", "drop_result"}) {
        const std::string rule = std::string(failure) + ":2;" + failure + ":4";
        Faulty faulty(Options{{"fault.fail", rule.c_str()}});
        CHECK_EQ(faulty.with(TENT_OK, 5), 3u);
        faulty.at(3'600'000 * MS);
        CHECK_EQ(faulty.side().returned, 3u);
        CHECK_EQ(faulty.statuses()[1], TENT_IN_PROGRESS);
        CHECK_EQ(faulty.close(), TENT_OK);
        CHECK_EQ(faulty.side().returned, 5u);
        CHECK_EQ(faulty.statuses()[1], TENT_E_CANCELLED);
        CHECK_EQ(faulty.statuses()[3], TENT_E_CANCELLED);
        CHECK_EQ(faulty.side().returned_twice, 0u);
    }
}

TEST(a_dropped_slice_moves_nothing_and_a_dropped_result_everything) {
    for (const char *failure : {"drop", "drop_result"}) {
        const std::string rule = std::string(failure) + ":1";
        Pair pair(fault(), "lo", {}, 64, load("tcp"), {{"fault.fail", rule.c_str()}});
        if (!CHECK_EQ(pair.status, TENT_OK)) return;
        char source[8] = "seven b";
        char remote[8] = "";
        pair.target.host.grant(remote, sizeof remote);
        const auto at = reinterpret_cast<uintptr_t>(remote);
        CHECK(pair.initiator.post(pair.from, TENT_OP_WRITE, source, at, sizeof source));
        CHECK(pair.initiator.post(pair.from, TENT_OP_READ, source, at, 1));
        for (int i = 0; i < 1'000'000 && pair.initiator.returned == 0; ++i)
            pair.step();
        CHECK_EQ(pair.initiator.returned, 1u);  // the read; the write is lost
        CHECK_EQ(pair.target.host.served_write, strcmp(failure, "drop") == 0 ? 0u : sizeof source);
    }
}

TEST(a_failed_endpoint_brings_back_what_was_dropped) {
    Pair pair(fault(), "lo", {}, 64, load("tcp"), {{"fault.drop", "1"}});
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    char byte = 0;
    CHECK(pair.initiator.post(pair.from, TENT_OP_WRITE, &byte, 0, 1));
    fault()->endpoint_retire(pair.target.instance, pair.to);
    pair.to = nullptr;
    for (int i = 0; i < 1'000'000 && pair.initiator.returned == 0; ++i)
        pair.step();
    CHECK_EQ(pair.initiator.host.state_of(Pair::INITIATOR), TENT_E_PEER);
    CHECK_EQ(pair.initiator.statuses[0], TENT_E_PEER);
}

TEST(nothing_is_heard_over_a_cable_that_hangs) {
    Pair pair(fault(), "lo", {}, 64, load("tcp"),
              {{"fault.cut_after", "1"}, {"fault.cut", "hang"}});
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    char byte = 0;
    pair.target.host.grant(&byte, 1);
    CHECK(pair.initiator.post(pair.from, TENT_OP_WRITE, &byte, reinterpret_cast<uintptr_t>(&byte),
                              1));
    fault()->endpoint_retire(pair.target.instance, pair.to);
    pair.to = nullptr;
    for (int i = 0; i < 10'000; ++i)
        pair.step();
    CHECK_EQ(pair.initiator.host.state_of(Pair::INITIATOR), TENT_OK);
    CHECK_EQ(pair.initiator.returned, 0u);
}

TEST(results_are_delayed_in_the_order_of_their_times) {
    Faulty faulty(Options{{"fault.delay", "1ms..5ms"}});
    faulty.at(0);
    CHECK_EQ(faulty.with(TENT_OK, 32), 0u);
    faulty.at(1 * MS - 1);
    CHECK_EQ(faulty.side().returned, 0u);
    faulty.at(3 * MS);
    CHECK(faulty.side().returned > 0 && faulty.side().returned < 32);
    CHECK(fault()->next_ns(faulty.side().instance) > faulty.begin_ns + 3 * MS);
    faulty.at(5 * MS);
    CHECK_EQ(faulty.side().returned, 32u);
}

TEST(a_delay_comes_on_top_of_the_link) {
    Faulty faulty(Options{{"fault.delay", "2ms"}, {"fault.throttle", "8mbit"}});  // 1 byte per us
    faulty.at(0);
    CHECK(faulty.post(1000));
    CHECK(faulty.post(1000));
    faulty.at(0);  // null is done with both
    faulty.at(3 * MS - 1);
    CHECK_EQ(faulty.side().returned, 0u);
    faulty.at(3 * MS);
    CHECK_EQ(faulty.side().returned, 1u);
    faulty.at(4 * MS);
    CHECK_EQ(faulty.side().returned, 2u);
}

TEST(a_throttled_link_tells_its_progress) {
    Faulty faulty(Options{{"fault.throttle", "8mbit"}});
    faulty.at(0);
    CHECK(faulty.post(4000));
    auto progress = [&] {
        return fault()->endpoint_progress(faulty.side().instance, faulty.pair.from);
    };
    CHECK_EQ(progress(), 0u);
    faulty.at(1 * MS);
    CHECK_EQ(progress(), 1000u);
    faulty.at(4 * MS);
    CHECK_EQ(progress(), 4000u);
    CHECK(faulty.post(1000));
    CHECK_EQ(progress(), 4000u);
}

TEST(a_full_post_takes_nothing_and_a_partial_one_a_prefix) {
    Faulty faulty(Options{{"fault.fail", "full:1;partial:2"}});
    tent_slice slices[32];
    for (uint64_t i = 0; i < 32; ++i)
        slices[i] = tent_slice{i, TENT_OP_WRITE, 0, &faulty.byte, 0, 1, nullptr, nullptr};
    faulty.side().statuses.assign(32, TENT_IN_PROGRESS);
    const auto take = [&](uint32_t from) {
        return fault()->post(faulty.side().instance, faulty.pair.from, slices + from, 32 - from);
    };
    CHECK_EQ(take(0), 0u);
    const uint32_t taken = take(0);
    CHECK(taken < 32);
    CHECK_EQ(take(taken), 32 - taken);
    faulty.at(0);
    CHECK_EQ(faulty.side().returned, 32u);
    CHECK_EQ(faulty.state(), TENT_OK);
}

TEST(a_failing_post_fails_its_endpoint) {
    Faulty faulty(Options{{"fault.fail", "post:3"}});
    CHECK(faulty.post());
    CHECK(faulty.post());
    CHECK(!faulty.post());
    faulty.at(0);
    CHECK_EQ(faulty.state(), TENT_E_TRANSPORT);
    CHECK_EQ(faulty.side().returned, 2u);  // each at once, with whatever status
    CHECK_EQ(faulty.close(), TENT_OK);
}

TEST(a_close_that_hangs_keeps_the_results) {
    Faulty faulty(Options{{"fault.fail", "endpoint_close:1"}, {"fault.fail_for", "10ms"}});
    faulty.at(0);
    CHECK(faulty.post());
    CHECK_EQ(faulty.close(), TENT_IN_PROGRESS);
    CHECK_EQ(faulty.side().returned, 0u);
    faulty.at(10 * MS - 1);
    CHECK_EQ(faulty.close(), TENT_IN_PROGRESS);
    faulty.at(10 * MS);
    CHECK_EQ(faulty.side().returned, 0u);
    CHECK_EQ(faulty.close(), TENT_OK);
    CHECK_EQ(faulty.side().returned, 1u);
    CHECK_EQ(faulty.statuses()[0], TENT_E_CANCELLED);
}

TEST(a_retire_hangs_at_the_target) {
    Faulty faulty({}, {{"fault.fail", "endpoint_retire:1"}});
    Pair &pair = faulty.pair;
    CHECK_EQ(fault()->endpoint_retire(pair.target.instance, pair.to), TENT_IN_PROGRESS);
    CHECK_EQ(fault()->endpoint_retire(pair.target.instance, pair.to), TENT_OK);
    pair.to = nullptr;
}

// The address sanitizer finds what is left over.
TEST(endpoints_that_never_close_end_with_their_rail) {
    for (const char *inner : {"null", "tcp"}) {
        Pair pair(
            fault(), "lo",
            {{"fault.fail", "endpoint_close:1;endpoint_retire:1"}, {"fault.fail_for", "good"}}, 64,
            load(inner));
        if (!CHECK_EQ(pair.status, TENT_OK)) return;
        char byte = 0;
        for (int i = 0; i < 8; ++i)
            CHECK(pair.initiator.post(pair.from, TENT_OP_WRITE, &byte, 0, 1));
        CHECK_EQ(fault()->endpoint_close(pair.initiator.instance, pair.from), TENT_IN_PROGRESS);
        CHECK_EQ(fault()->endpoint_retire(pair.target.instance, pair.to), TENT_IN_PROGRESS);
        pair.from = pair.to = nullptr;
    }
}

TEST(a_registration_fails_or_its_release_hangs) {
    Side side(fault(), "lo", {{"fault.fail", "region_register:2;region_release:1;region_export:1"}},
              16, load("tcp"));
    char memory[64];
    tent_region_params params{};
    params.size = sizeof params;
    params.address = memory;
    params.length = sizeof memory;
    void *region = nullptr;
    CHECK_EQ(fault()->region_register(side.instance, &params, &region), TENT_OK);
    void *second = nullptr;
    CHECK_EQ(fault()->region_register(side.instance, &params, &second), TENT_E_TRANSPORT);
    CHECK(side.host.failure.find("region_register") != std::string::npos);
    uint32_t size = 0;
    CHECK_EQ(fault()->region_export(side.instance, region, memory, &size), TENT_E_TRANSPORT);
    CHECK_EQ(fault()->region_release(side.instance, region), TENT_IN_PROGRESS);
    CHECK_EQ(fault()->region_release(side.instance, region), TENT_OK);
}

TEST(setting_up_an_endpoint_fails_where_it_is_told) {
    for (const char *step : {"endpoint_offer:1", "endpoint_accept:1", "endpoint_connect:1"}) {
        Faulty faulty({}, {{"fault.fail", step}}, false);
        CHECK_EQ(faulty.pair.status, TENT_E_TRANSPORT);
    }
    Faulty rail(Options{{"fault.fail", "rail_open:1"}}, {}, false);
    CHECK_EQ(rail.pair.status, TENT_E_TRANSPORT);
    Side closed(fault(), "any", {{"fault.open", "1"}}, 16, load("null"));
    CHECK_EQ(closed.status, TENT_E_TRANSPORT);
}

TEST(chance_follows_the_seed) {
    auto pattern = [](const char *seed) {
        Faulty faulty(Options{{"fault.slice", "0.3"}}, {{"fault.seed", seed}});
        for (int i = 0; i < 4; ++i)  // 64 at a time
            faulty.with(TENT_OK, 64);
        return faulty.statuses();
    };
    const std::vector<int32_t> first = pattern("7");
    CHECK(first == pattern("7"));
    CHECK(first != pattern("8"));
    const auto failed = std::count(first.begin(), first.end(), TENT_E_TRANSPORT);
    CHECK(failed > 50 && failed < 105);  // 77 of 256, four deviations around it
}

TEST(a_schedule_cuts_slows_and_fails_in_its_time) {
    // Times count from the rail's opening, on the real clock here; hence the long ones.
    Faulty faulty(Options{{"fault.at",
                           "3600s:slice,for=3600s;10800s:delay=5ms,for=3600s;"
                           "18000s:cut=hang,for=3600s;25200s:throttle=8mbit"}});
    auto hour = [&](uint64_t hours) { faulty.at(hours * 3'600'000 * MS); };
    hour(0);
    CHECK_EQ(faulty.with(TENT_OK, 1), 1u);
    hour(1);
    CHECK_EQ(faulty.with(TENT_E_TRANSPORT, 1), 1u);
    hour(2);
    CHECK_EQ(faulty.with(TENT_OK, 1), 2u);
    hour(3);
    CHECK_EQ(faulty.with(TENT_OK, 1), 2u);
    faulty.at(3 * 3'600'000 * MS + 5 * MS);
    CHECK_EQ(faulty.with(TENT_OK, 0), 3u);
    hour(5);
    CHECK_EQ(faulty.with(TENT_OK, 1), 3u);
    const uint64_t next_ns = fault()->next_ns(faulty.side().instance);
    CHECK(next_ns > faulty.begin_ns && next_ns <= faulty.begin_ns + 6 * 3'600'000 * MS);
    hour(6);
    CHECK_EQ(faulty.with(TENT_OK, 1), 3u);  // the endpoint was cut; new ones work
    CHECK_EQ(faulty.close(), TENT_OK);
    CHECK_EQ(faulty.pair.join(), TENT_OK);
    CHECK_EQ(faulty.with(TENT_OK, 1), 4u);
    hour(7);
    CHECK(faulty.post(1000));
    CHECK_EQ(faulty.with(TENT_OK, 0), 4u);
}

TEST(a_flapping_rail_is_told_down_and_up) {
    Faulty faulty(Options{{"fault.flap", "7200s,down=3600s"}, {"fault.cut", "down"}});
    static std::vector<int32_t> told;
    told.clear();
    faulty.side().host.table.rail_state = [](void *, uint32_t, int32_t status, const char *) {
        told.push_back(status);
    };
    auto hour = [&](uint64_t hours) { faulty.at(hours * 3'600'000 * MS); };
    hour(0);
    CHECK(told.empty());
    hour(1);
    CHECK_EQ(faulty.state(), TENT_E_TRANSPORT);
    hour(2);
    hour(3);
    CHECK((told == std::vector<int32_t>{TENT_E_TRANSPORT, TENT_OK, TENT_E_TRANSPORT}));
}

TEST(figures_count_what_was_asked_and_what_failed) {
    const uint64_t slices = tent_fault_operations("slice");
    const uint64_t all = tent_fault_operations("any");
    const uint64_t dropped = tent_fault_strikes("drop");
    const uint64_t struck = tent_fault_strikes("any");
    Faulty faulty(Options{{"fault.fail", "drop:2;corrupt:3"}});
    const uint64_t posts = tent_fault_operations("post");
    faulty.with(TENT_OK, 5);
    CHECK_EQ(tent_fault_operations("slice") - slices, 5u);
    CHECK_EQ(tent_fault_operations("drop"), tent_fault_operations("slice"));
    CHECK_EQ(tent_fault_operations("post") - posts, 5u);
    CHECK_EQ(tent_fault_strikes("drop") - dropped, 1u);
    CHECK_EQ(tent_fault_strikes("any") - struck, 2u);
    // open and rail_open on either side, offer, accept, connect; posts and slices
    CHECK_EQ(tent_fault_operations("any") - all, 2u + 2 + 3 + 5 + 5);
    uint32_t count = 0;
    while (tent_fault_name(count) != nullptr)
        ++count;
    CHECK(count > 20);
    CHECK_EQ(tent_fault_name(0), "open");
}

TEST(wrong_rules_are_refused_with_a_sentence) {
    for (const auto &[option, part] : std::vector<std::pair<tent_option, const char *>>{
             {{"fault.drop", "1.5"}, "a chance from 0 to 1"},
             {{"fault.drop", "-0.1"}, "a chance"},
             {{"fault.drop", ""}, "a chance"},
             {{"fault.fail", "post"}, "post:3"},
             {{"fault.fail", "post:0"}, "post:3"},
             {{"fault.fail", "post:1x"}, "post:3"},
             {{"fault.fail", "pots:1"}, "the name of a failure"},
             {{"fault.fail", "region_register:1"}, "a set line"},
             {{"fault.stream_send", "1"}, "a set line"},
             {{"fault.fail_for", "ever"}, "once, good or a time"},
             {{"fault.at", "5:cut"}, "time:what"},
             {{"fault.at", "5ms"}, "time:what"},
             {{"fault.at", "5ms:cut=softly"}, "error or hang or down"},
             {{"fault.at", "5ms:cut,until=3ms"}, "for=time"},
             {{"fault.at", "5ms:throttle"}, "a rate"},
             {{"fault.at", "5ms:seed=1"}, "the name of a failure"},
             {{"fault.delay", "5ms..1ms"}, "1ms..5ms"},
             {{"fault.flap", "10ms,down=10ms"}, "down=20ms"},
             {{"fault.seed", "7"}, "no rail option 'seed'"}}) {
        Side side(fault(), "any", {}, 16, load("null"), {option});
        CHECK_EQ(side.status, TENT_E_INVALID);
        if (!CHECK(side.host.failure.find(part) != std::string::npos))
            printf("%s=%s: %s\n", option.name, option.value, side.host.failure.c_str());
    }
    for (const auto &[option, part] : std::vector<std::pair<tent_option, const char *>>{
             {{"fault.seed", "x"}, "a number"},
             {{"fault.throttle", "1gbit"}, "no transport option 'throttle'"},
             {{"fault.at", "5ms:cut"}, "the name of a failure"}}) {
        Side side(fault(), "any", {option}, 16, load("null"));
        CHECK_EQ(side.status, TENT_E_INVALID);
        if (!CHECK(side.host.failure.find(part) != std::string::npos))
            printf("%s=%s: %s\n", option.name, option.value, side.host.failure.c_str());
    }
}
