// What the scheduler learns from completions, and what the classes share: rates, base latency,
// decay, deficits, the heap of deadlines; also under a clock that stands still or jumps.
#include "sched/estimator.h"

#include <algorithm>
#include <random>
#include <vector>

#include "check.h"
#include "sched/heap.h"
#include "sched/path.h"
#include "sched/share.h"

using namespace tent;

namespace {

constexpr uint64_t GB_S = 1000000000u;

// An endpoint over an ideal wire: `depth` slices in flight, FIFO, then the latency.
void drive(Path &path, const Parameters &parameters, uint64_t rate, uint64_t latency_ns, int slices,
           uint64_t *now_ns, int depth = 4, uint64_t size = 65536) {
    std::vector<std::pair<uint64_t, uint64_t>> posted;  // post, done
    uint64_t wire_free_ns = *now_ns;
    size_t done = 0;
    for (int i = 0; i < slices; i++) {
        if (posted.size() - done == static_cast<size_t>(depth)) {
            *now_ns = posted[done].second;
            path.release(size, false);
            path.complete(size, posted[done].first, *now_ns, parameters);
            done++;
        }
        wire_free_ns = std::max(wire_free_ns, *now_ns) + scale(size, NS_PER_S, rate);
        posted.push_back({*now_ns, wire_free_ns + latency_ns});
        path.charge(size, *now_ns, false);
    }
    for (; done < posted.size(); done++) {
        *now_ns = posted[done].second;
        path.release(size, false);
        path.complete(size, posted[done].first, *now_ns, parameters);
    }
}

struct One {
    Path path;
    Lane local, remote;
    Parameters parameters;
    explicit One(uint64_t nominal, uint64_t prior = GB_S) {
        local.rate.init(nominal, prior);
        remote.rate.init(nominal, prior);
        path.init(local, remote, nominal, prior);
        path.ready = true;
    }
    uint64_t rate() const { return path.own.rate.bytes_per_s(); }
};

bool within(uint64_t value, uint64_t expected, uint64_t percent) {
    return value * 100 >= expected * (100 - percent) && value * 100 <= expected * (100 + percent);
}

}  // namespace

TEST(the_wire_rate_is_found_without_queue_and_latency) {
    for (uint64_t nominal : {uint64_t{0}, 25 * GB_S, 2 * GB_S})
        for (int depth : {5, 16}) {
            One one(nominal);
            uint64_t now_ns = 0;
            drive(one.path, one.parameters, 10 * GB_S, 20000, 2000, &now_ns, depth);
            CHECK(within(one.rate(), 10 * GB_S, 3));
            CHECK(within(one.path.base.ns(), 20000, 10));
        }
}

// Slices that never queue on the wire cannot tell rate from latency; what they do tell is kept.
TEST(lone_slices_are_predicted_right_whatever_the_rate_is_believed_to_be) {
    for (uint64_t nominal : {uint64_t{0}, 100 * GB_S, 10 * GB_S, GB_S}) {
        One one(nominal);
        uint64_t now_ns = 0;
        drive(one.path, one.parameters, 10 * GB_S, 20000, 2000, &now_ns, 1);
        CHECK(within(one.path.predict_ns(65536), 26553, 2));
    }
}

TEST(the_first_slices_of_an_endpoint_do_not_count_latency_as_wire_time) {
    One one(25 * GB_S);
    uint64_t now_ns = 0;
    drive(one.path, one.parameters, 25 * GB_S, 5000, 16, &now_ns);
    CHECK(within(one.rate(), 25 * GB_S, 2));
    CHECK(within(one.path.base.ns(), 5000, 5));
}

TEST(a_drop_is_followed_faster_than_a_rise) {
    One one(25 * GB_S);
    uint64_t now_ns = 0;
    drive(one.path, one.parameters, 25 * GB_S, 5000, 200, &now_ns);
    CHECK(within(one.rate(), 25 * GB_S, 3));
    drive(one.path, one.parameters, 5 * GB_S, 5000, 8, &now_ns);
    CHECK(one.rate() < 9 * GB_S);
    drive(one.path, one.parameters, 5 * GB_S, 5000, 20, &now_ns);
    uint64_t low = one.rate();
    CHECK(within(low, 5 * GB_S, 5));
    drive(one.path, one.parameters, 25 * GB_S, 5000, 8, &now_ns);
    CHECK(one.rate() > low && one.rate() < 15 * GB_S);
    drive(one.path, one.parameters, 25 * GB_S, 5000, 200, &now_ns);
    CHECK(within(one.rate(), 25 * GB_S, 5));
}

TEST(an_idle_endpoint_returns_to_its_nominal_rate) {
    One one(25 * GB_S);
    uint64_t now_ns = 0;
    drive(one.path, one.parameters, GB_S, 5000, 50, &now_ns);
    uint64_t before = one.rate();
    CHECK(within(before, GB_S, 10));
    one.path.refresh(now_ns + NS_PER_S, one.parameters);  // the half-life
    CHECK(within(one.rate(), (before + 25 * GB_S) / 2, 2));
    one.path.refresh(now_ns + 1000 * NS_PER_S, one.parameters);
    CHECK(within(one.rate(), 25 * GB_S, 1));
    One never(25 * GB_S);
    never.parameters.idle_half_life_ns = 0;
    now_ns = 0;
    drive(never.path, never.parameters, GB_S, 5000, 50, &now_ns);
    before = never.rate();
    never.path.refresh(now_ns + 1000 * NS_PER_S, never.parameters);
    CHECK_EQ(never.rate(), before);
}

TEST(a_rail_that_was_slow_once_is_tried_again_after_idling) {
    One one(25 * GB_S);
    uint64_t now_ns = 0;
    drive(one.path, one.parameters, 5 * GB_S / 2, 5000, 2, &now_ns, 1);  // two lone slices
    CHECK(one.path.predict_ns(65536) > 25000);
    one.path.refresh(now_ns + NS_PER_S / 2, one.parameters);
    CHECK(one.path.predict_ns(65536) > 15000);
    one.path.refresh(now_ns + 2 * NS_PER_S, one.parameters);
    CHECK(one.path.predict_ns(65536) < 5000);
}

TEST(an_unknown_rate_is_measured_from_the_first_sample_and_decays_to_the_best_seen) {
    One one(0, 1000 * GB_S);
    uint64_t now_ns = 0;
    CHECK_EQ(one.rate(), 1000 * GB_S);
    drive(one.path, one.parameters, 3 * GB_S, 5000, 50, &now_ns);
    CHECK(within(one.rate(), 3 * GB_S, 5));
    uint64_t best = one.rate();
    drive(one.path, one.parameters, GB_S, 5000, 50, &now_ns);
    one.path.refresh(now_ns + 1000 * NS_PER_S, one.parameters);
    CHECK(one.rate() >= best && one.rate() < 5 * GB_S);
}

TEST(a_switched_off_estimator_believes_the_nominal_rate) {
    One one(25 * GB_S);
    one.parameters.estimator = 0;
    uint64_t now_ns = 0;
    drive(one.path, one.parameters, GB_S, 5000, 50, &now_ns);
    CHECK_EQ(one.rate(), 25 * GB_S);
}

TEST(the_base_latency_follows_a_longer_path_after_its_window) {
    One one(10 * GB_S);
    uint64_t now_ns = 0;
    drive(one.path, one.parameters, 10 * GB_S, 5000, 100, &now_ns);
    CHECK(within(one.path.base.ns(), 5000, 5));
    drive(one.path, one.parameters, 10 * GB_S, 50000, 10, &now_ns);
    CHECK(one.path.base.ns() <= 5250);
    for (int i = 0; i < 5; i++) {
        now_ns += NS_PER_S / 2;
        drive(one.path, one.parameters, 10 * GB_S, 50000, 10, &now_ns);
    }
    CHECK(within(one.path.base.ns(), 50000, 5));
}

TEST(a_clock_that_stands_still_or_jumps_teaches_nothing_wrong) {
    One one(10 * GB_S);
    for (int i = 0; i < 100; i++) {
        one.path.charge(65536, 7, false);
        one.path.release(65536, false);
        one.path.complete(65536, 7, 7, one.parameters);
    }
    CHECK_EQ(one.rate(), 10 * GB_S);
    CHECK_EQ(one.path.base.ns(), 0u);
    one.path.complete(65536, UINT64_MAX / 4, UINT64_MAX / 4 + 10000, one.parameters);
    one.path.complete(1, UINT64_MAX / 4, UINT64_MAX / 2, one.parameters);
    one.path.complete(1, UINT64_MAX / 2, UINT64_MAX / 2 + 1, one.parameters);
    CHECK(one.rate() >= 1);
    one.path.complete(65536, 5, 3, one.parameters);  // back
    CHECK(one.rate() >= 1 && one.path.predict_ns(1) <= 2 * TIME_NS_MAX);
}

TEST(charges_are_released_on_all_three_lanes) {
    One one(GB_S);
    std::mt19937_64 random(3);
    std::vector<std::pair<uint64_t, bool>> open;
    for (int i = 0; i < 10000; i++) {
        if (open.empty() || random() % 2) {
            open.push_back({random() % MIB + 1, random() % 2});
            one.path.charge(open.back().first, 0, open.back().second);
        } else {
            one.path.release(open.back().first, open.back().second);
            open.pop_back();
        }
    }
    for (auto [bytes, low] : open)
        one.path.release(bytes, low);
    for (const Lane *lane : {&one.path.own, &one.local, &one.remote}) {
        CHECK_EQ(lane->inflight_bytes, 0u);
        CHECK_EQ(lane->inflight_slices, 0u);
        CHECK_EQ(lane->low_slices, 0u);
    }
}

TEST(classes_share_bytes_by_weight_and_lend_what_they_do_not_use) {
    Parameters parameters;
    ClassShare share;
    for (uint32_t c : CLASS_ORDER)
        share.arrive(c, parameters);
    uint64_t bytes[3] = {};
    for (int i = 0; i < 21 * 1000; i++) {
        int c = share.next(7, 7, parameters);
        bytes[c] += MIB;
        share.spend(static_cast<uint32_t>(c), MIB, parameters);
    }
    CHECK_EQ(bytes[TENT_CLASS_HIGH], 16000 * MIB);
    CHECK_EQ(bytes[TENT_CLASS_NORMAL], 4000 * MIB);
    CHECK_EQ(bytes[TENT_CLASS_LOW], 1000 * MIB);
    for (int i = 0; i < 1000; i++) {  // only low has room
        CHECK_EQ(share.next(1 << TENT_CLASS_LOW, 7, parameters), TENT_CLASS_LOW);
        share.spend(TENT_CLASS_LOW, MIB, parameters);
    }
    uint64_t high = 0;  // what high did not use then is not saved up
    while (share.next(7, 7, parameters) == TENT_CLASS_HIGH) {
        share.spend(TENT_CLASS_HIGH, MIB, parameters);
        high++;
    }
    CHECK(high <= 16);
    CHECK_EQ(share.next(0, 7, parameters), -1);
}

TEST(the_heap_gives_the_earliest_first_and_equals_in_order) {
    struct Node {
        uint32_t heap_child, heap_next;
        uint64_t key;
    };
    std::mt19937_64 random(5);
    std::vector<Node> nodes(2000);
    PairingHeap heap([&](uint32_t i) -> Node & { return nodes[i]; },
                     [&](uint32_t a, uint32_t b) {
                         return nodes[a].key != nodes[b].key ? nodes[a].key < nodes[b].key : a < b;
                     });
    uint32_t root = UINT32_MAX;
    std::vector<uint32_t> inside;
    uint32_t fresh = 0;
    while (fresh < nodes.size() || !inside.empty()) {
        if (fresh < nodes.size() && (inside.empty() || random() % 3)) {
            nodes[fresh].key = random() % 50;
            heap.push(&root, fresh);
            inside.push_back(fresh++);
        } else {
            auto least =
                std::min_element(inside.begin(), inside.end(), [&](uint32_t a, uint32_t b) {
                    return nodes[a].key != nodes[b].key ? nodes[a].key < nodes[b].key : a < b;
                });
            CHECK_EQ(root, *least);
            inside.erase(least);
            heap.pop(&root);
        }
    }
    CHECK_EQ(root, UINT32_MAX);
}
