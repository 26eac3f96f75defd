// The fault decorator by its contract, over the real null and tcp transports, on a clock the test
// steps.
//
// Leans on fake_host.h; loads the decorated transports as the core does. Each test is one claim.
#include <algorithm>

#include "check.h"
#include "fake_host.h"
#include "load_plugin.h"

using fake::Pair;
using fake::Side;

namespace {

constexpr uint64_t MS = 1'000'000;

const tent_plugin *fault() {
    return tent_plugin_query(TENT_PLUGIN_ABI);
}

// fault over null with these rail options, one endpoint, the clock at 1 s.
struct Faulty {
    Pair pair;
    char byte = 0;

    Faulty(std::initializer_list<tent_option> rail_options)
        : pair(fault(), "any", {}, 64, load("null"), rail_options) {
        CHECK_EQ(pair.status, TENT_OK);
        pair.initiator.host.now_ns = 1000 * MS;
    }
    bool post(uint64_t length) {
        return pair.initiator.post(pair.from, TENT_OP_WRITE, &byte, 0, length);
    }
    uint32_t returned_at(uint64_t now_ns) {
        pair.initiator.host.now_ns = now_ns;
        for (int i = 0; i < 4; ++i)
            pair.initiator.poll();
        return pair.initiator.returned;
    }
    int32_t state() const { return pair.initiator.host.state_of(Pair::INITIATOR); }
    std::vector<int32_t> &statuses() { return pair.initiator.statuses; }
};

}  // namespace

TEST(without_options_slices_pass_straight_through) {
    Faulty faulty{};
    for (int i = 0; i < 64; ++i)
        CHECK(faulty.post(1 << 20));
    CHECK(!faulty.post(1));
    CHECK_EQ(faulty.returned_at(1000 * MS), 64u);
    CHECK(std::count(faulty.statuses().begin(), faulty.statuses().end(), TENT_OK) == 64);
    CHECK_EQ(fault()->next_ns(faulty.pair.initiator.instance), UINT64_MAX);
}

TEST(a_throttled_rail_is_a_serial_link) {
    Faulty faulty{{"fault.throttle", "8mbit"}};  // 1 byte per us
    CHECK(faulty.post(1000));
    CHECK(faulty.post(3000));
    CHECK_EQ(faulty.returned_at(1000 * MS), 0u);
    CHECK_EQ(fault()->next_ns(faulty.pair.initiator.instance), 1001 * MS);
    CHECK_EQ(faulty.returned_at(1001 * MS - 1), 0u);
    CHECK_EQ(faulty.returned_at(1001 * MS), 1u);
    CHECK_EQ(fault()->next_ns(faulty.pair.initiator.instance), 1004 * MS);
    CHECK_EQ(faulty.returned_at(1004 * MS), 2u);
    CHECK(faulty.post(2000));  // the link was idle: it begins now
    CHECK_EQ(faulty.returned_at(1006 * MS - 1), 2u);
    CHECK_EQ(faulty.returned_at(1006 * MS), 3u);
}

TEST(a_throttled_rail_takes_a_bounded_backlog) {
    Faulty faulty{{"fault.throttle", "1000000"}};
    int taken = 0;
    while (taken < 64 && faulty.post(10000))
        ++taken;  // 10 ms each
    CHECK_EQ(taken, 6);
    CHECK_EQ(faulty.returned_at(1020 * MS), 2u);
    CHECK(faulty.post(10000));
}

TEST(close_hands_back_what_the_link_holds) {
    Faulty faulty{{"fault.throttle", "1000000"}};
    CHECK(faulty.post(10000));
    CHECK(faulty.post(10000));
    CHECK_EQ(faulty.returned_at(1010 * MS), 1u);
    Pair &pair = faulty.pair;
    CHECK_EQ(fault()->endpoint_close(pair.initiator.instance, pair.from), TENT_OK);
    pair.from = nullptr;
    CHECK_EQ(faulty.returned_at(1010 * MS), 2u);
    CHECK_EQ(faulty.statuses()[0], TENT_OK);
    CHECK_EQ(faulty.statuses()[1], TENT_E_CANCELLED);
    CHECK_EQ(pair.initiator.returned_twice, 0u);
}

TEST(a_cut_rail_fails_its_endpoints_and_slices) {
    Faulty faulty{{"fault.cut_after", "3k"}};
    CHECK(faulty.post(1024));
    CHECK_EQ(faulty.returned_at(1000 * MS), 1u);
    CHECK(faulty.post(1024));
    CHECK(faulty.post(1024));
    CHECK(!faulty.post(1024));
    CHECK_EQ(faulty.returned_at(1000 * MS), 3u);
    CHECK_EQ(faulty.statuses()[0], TENT_OK);
    CHECK_EQ(faulty.statuses()[1], TENT_E_TRANSPORT);
    CHECK_EQ(faulty.statuses()[2], TENT_E_TRANSPORT);
    CHECK_EQ(faulty.state(), TENT_E_TRANSPORT);
    CHECK(faulty.pair.initiator.host.news.back().sentence.find("cut by fault") !=
          std::string::npos);
}

TEST(one_post_call_is_cut_at_its_slice) {
    Faulty faulty{{"fault.cut_after", "2k"}};
    tent_slice slices[4];
    for (uint64_t i = 0; i < 4; ++i)
        slices[i] = tent_slice{i, TENT_OP_WRITE, 0, &faulty.byte, 0, 1024, nullptr, nullptr};
    faulty.statuses().assign(4, TENT_IN_PROGRESS);
    CHECK_EQ(fault()->post(faulty.pair.initiator.instance, faulty.pair.from, slices, 4), 2u);
    CHECK_EQ(faulty.returned_at(1000 * MS), 2u);
}

TEST(a_hanging_cut_answers_nothing_until_closed) {
    Faulty faulty{{"fault.cut_after", "2k"}, {"fault.cut", "hang"}};
    for (int i = 0; i < 5; ++i)
        CHECK(faulty.post(1024));
    CHECK_EQ(faulty.returned_at(9000 * MS), 0u);
    CHECK_EQ(faulty.state(), TENT_OK);
    Pair &pair = faulty.pair;
    CHECK_EQ(fault()->endpoint_close(pair.initiator.instance, pair.from), TENT_OK);
    pair.from = nullptr;
    CHECK_EQ(faulty.returned_at(9000 * MS), 5u);
    CHECK(std::count(faulty.statuses().begin(), faulty.statuses().end(), TENT_E_CANCELLED) == 5);
    CHECK_EQ(pair.initiator.returned_twice, 0u);
}

TEST(a_cut_heals_after_its_time_for_new_endpoints) {
    for (const char *kind : {"error", "hang"}) {
        Pair pair(fault(), "any", {}, 64, load("null"),
                  {{"fault.cut_after", "0"}, {"fault.cut_for", "300s"}, {"fault.cut", kind}});
        CHECK_EQ(pair.status, strcmp(kind, "error") == 0 ? TENT_E_TRANSPORT : TENT_IN_PROGRESS);
        fault()->endpoint_retire(pair.target.instance, pair.to);
        fault()->endpoint_close(pair.initiator.instance, pair.from);
        pair.initiator.host.news.clear();
        pair.initiator.host.now_ns = fake::real_now_ns() + 300'000 * MS;
        CHECK_EQ(pair.join(), TENT_OK);
        char byte = 0;
        CHECK(pair.initiator.post(pair.from, TENT_OP_WRITE, &byte, 0, 1 << 20));
        pair.initiator.poll();
        CHECK_EQ(pair.initiator.returned, 1u);
    }
}

TEST(a_cut_in_the_middle_of_tcp_brings_every_slice_back_once) {
    Pair pair(fault(), "lo", {}, 64, load("tcp"), {{"fault.cut_after", "20m"}});
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    std::vector<char> source(64 << 20, 'a');
    std::vector<char> remote(64 << 20);
    pair.target.host.grant(remote.data(), remote.size());
    uint32_t posted = 0;
    while (posted < 64 &&
           pair.initiator.post(pair.from, posted % 2 != 0 ? TENT_OP_READ : TENT_OP_WRITE,
                               source.data() + (static_cast<size_t>(posted) << 20),
                               reinterpret_cast<uintptr_t>(remote.data()) + (posted << 20),
                               1 << 20)) {
        ++posted;
        pair.step();
    }
    CHECK_EQ(posted, 20u);
    const std::vector<char> after_cut = source;
    CHECK(pair.settle());
    CHECK_EQ(pair.initiator.returned_twice, 0u);
    CHECK(source == after_cut);
    for (int32_t status : pair.initiator.statuses)
        CHECK(status == TENT_OK || status == TENT_E_TRANSPORT);
    CHECK_EQ(pair.initiator.statuses.back(), TENT_E_TRANSPORT);
    CHECK_EQ(pair.initiator.host.state_of(Pair::INITIATOR), TENT_E_TRANSPORT);
}

TEST(event_fd_tells_of_the_link_and_of_the_decorated_transport) {
    Pair pair(fault(), "lo", {}, 64, load("tcp"), {{"fault.throttle", "1gbit"}});
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    char source = 'a';
    std::vector<char> remote(1 << 20);
    std::vector<char> local(1 << 20, source);
    pair.target.host.grant(remote.data(), remote.size());
    CHECK(pair.initiator.post(pair.from, TENT_OP_WRITE, local.data(),
                              reinterpret_cast<uintptr_t>(remote.data()), 1 << 20));
    for (int i = 0; i < 100000 && pair.target.host.served_write == 0; ++i)
        pair.step();
    for (int i = 0; i < 10; ++i)
        pair.initiator.poll();
    // Acknowledged or not, 8.4 ms are not over unless this machine stalled; sleeping ends when they
    // are.
    const int fd = fault()->event_fd(pair.initiator.instance);
    while (pair.initiator.returned == 0) {
        pollfd wait{fd, POLLIN, 0};
        if (!CHECK_EQ(poll(&wait, 1, 5000), 1)) return;
        pair.initiator.poll();
    }
    CHECK_EQ(pair.initiator.statuses[0], TENT_OK);
    pollfd wait{fd, POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 0), 0);
}

TEST(wrong_options_are_refused_with_a_sentence) {
    for (const auto &[option, part] : std::vector<std::pair<tent_option, const char *>>{
             {{"fault.colour", "red"}, "colour"},
             {{"fault.throttle", "fast"}, "fault.throttle=fast"},
             {{"fault.throttle", "0"}, "above 0"},
             {{"fault.cut", "gently"}, "error or hang"},
             {{"fault.cut_for", "3"}, "300ms"}}) {
        Side side(fault(), "any", {}, 16, load("null"), {option});
        CHECK_EQ(side.status, TENT_E_INVALID);
        CHECK(side.host.failure.find(part) != std::string::npos);
    }
    Side alone(fault(), "any");
    CHECK_EQ(alone.status, TENT_E_PLAN);
    CHECK(alone.host.failure.find("decorate") != std::string::npos);
}
