// The scheduler's pure decisions: prediction, argmin, earliest completion first, windows, the rate
// meter.
#include "sched/pick.h"
#include "sched/rate.h"

#include "check.h"

using namespace tent;

namespace {

constexpr uint64_t MIB = 1 << 20;
constexpr uint64_t GB_S = 1000000000u;

Candidate candidate(uint64_t rate, uint64_t inflight = 0, bool open = true, uint32_t penalty = 1,
                    uint64_t latency = 0) {
    return {inflight, rate, latency, penalty, open};
}

}  // namespace

TEST(prediction_is_queue_plus_slice_over_rate_plus_base) {
    CHECK_EQ(predict_ns(candidate(GB_S, 1000, true, 1, 50), 500), 1550u);
    CHECK_EQ(predict_ns(candidate(GB_S, 1000, true, 3, 50), 500), 2550u);
    // Beyond 64 bits: 1 TB queued, 100 TB/s.
    CHECK_EQ(predict_ns(candidate(100000 * GB_S, 1ull << 50), 0), (1ull << 50) / 100000);
    CHECK_EQ(predict_ns(candidate(1, UINT64_MAX), UINT64_MAX), UINT64_MAX);
    CHECK_EQ(predict_ns(candidate(0, 1), 0), GB_S);  // a rate of 0 is taken as 1 byte/s
}

TEST(the_soonest_open_candidate_wins_and_the_first_of_equals) {
    Candidate three[] = {candidate(GB_S, 3 * MIB), candidate(GB_S, MIB), candidate(GB_S, MIB)};
    CHECK_EQ(pick(three, MIB, MIB), 1);
    three[1].penalty = 10;
    CHECK_EQ(pick(three, MIB, MIB), 2);
    CHECK_EQ(pick({}, MIB, MIB), PICK_NONE);
    for (Candidate &c : three)
        c.open = false;
    CHECK_EQ(pick(three, MIB, MIB), PICK_WAIT);
}

TEST(a_slow_rail_is_left_out_of_the_last_slices_only) {
    Candidate rails[] = {candidate(8 * GB_S, 2 * MIB, false), candidate(GB_S / 2)};
    CHECK_EQ(pick(rails, MIB, MIB), PICK_WAIT);  // the fast one is done long before
    CHECK_EQ(pick(rails, MIB, 100 * MIB), 1);    // much waits: the slow one helps
    rails[0].open = true;
    CHECK_EQ(pick(rails, MIB, 100 * MIB), 0);
}

TEST(a_penalised_full_rail_is_not_waited_for) {
    Candidate rails[] = {candidate(8 * GB_S, 2 * MIB, false, UINT32_MAX), candidate(GB_S / 2)};
    CHECK_EQ(pick(rails, MIB, MIB), 1);
}

TEST(windows_follow_rate_and_latency_between_floor_and_cap) {
    CHECK_EQ(window_bytes(GB_S, 8000000, MIB, 2, 64 * MIB), 10000000u);
    CHECK_EQ(window_bytes(GB_S, 0, MIB, 2, 64 * MIB), 2 * MIB);
    CHECK_EQ(window_bytes(100 * GB_S, GB_S, MIB, 2, 64 * MIB), 64 * MIB);
    CHECK_EQ(window_bytes(GB_S, 0, 64 * MIB, 2, 16 * MIB), 16 * MIB);
}

TEST(the_meter_keeps_a_nominal_rate_and_learns_an_unknown_one) {
    RateMeter nominal, unknown;
    nominal.init(5 * GB_S, GB_S);
    unknown.init(0, GB_S);
    for (uint64_t i = 0; i < 100; i++) {
        for (RateMeter *meter : {&nominal, &unknown}) {
            meter->on_busy(i * 10000000);
            meter->on_settled(4 * MIB, i * 10000000 + 1000000, true);  // 4.19 GB/s while busy
        }
    }
    CHECK_EQ(nominal.bytes_per_s(), 5 * GB_S);
    CHECK(unknown.bytes_per_s() > 4100000000u && unknown.bytes_per_s() <= 4194304000u);
    uint64_t before = unknown.bytes_per_s();
    unknown.on_busy(2000000000);
    unknown.on_settled(MIB, 2010000000, true);  // a tenth of that: half the way at once
    CHECK(unknown.bytes_per_s() < before * 6 / 10);
}
