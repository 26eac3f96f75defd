// The rdma transport's data path: bytes, boundaries, full queues, doorbells, signals, settling.
//
// Leans on rdma_pair.h. Each test is one claim.
#include "check.h"
#include "rdma_pair.h"

using namespace rdma_pair;

namespace {

constexpr uint64_t KIB = 1024, MIB = KIB * KIB;

uint64_t doorbells() {
    return loop().calls("post_send");
}

// Of every length and offset that stands beside a boundary, both ways, in one region.
void check_around(Ready &ready, const std::vector<uint64_t> &boundaries) {
    const uint64_t size = ready.here.size;
    std::vector<uint64_t> places = {0, 1, 63, 64, 65, size - 1, size};
    for (const uint64_t boundary : boundaries)
        for (const uint64_t place : {boundary - 1, boundary, boundary + 1})
            if (place <= size) places.push_back(place);
    for (const uint64_t begin : places)
        for (const uint64_t end : places) {
            if (begin >= end) continue;
            ready.there.clear();
            CHECK_EQ(ready.move(TENT_OP_WRITE, begin, end - begin), TENT_OK);
            CHECK(ready.there.is(ready.here, begin, end - begin));
            CHECK(ready.there.is_zero(0, begin) && ready.there.is_zero(end, size - end));
        }
    ready.there.pattern(9);
    for (const uint64_t begin : places)
        for (const uint64_t end : places) {
            if (begin >= end) continue;
            ready.here.clear();
            CHECK_EQ(ready.move(TENT_OP_READ, begin, end - begin), TENT_OK);
            CHECK(ready.here.is(ready.there, begin, end - begin));
            CHECK(ready.here.is_zero(0, begin) && ready.here.is_zero(end, size - end));
        }
}

}  // namespace

TEST(bytes_are_exact_around_the_boundaries_of_pieces) {
    Ready ready(3 * MIB,
                {.initiators = {{"piece_size", "1m"}}, .targets = {{"piece_size", "1280k"}}});
    check_around(ready, {MIB, 1280 * KIB, 2 * MIB, 2560 * KIB});
}

TEST(bytes_are_exact_around_the_longest_message) {
    Ready ready(64 * KIB, {.devices = [] {
                    for (const uint32_t device : {0u, 1u})
                        loop().limits(device)->max_msg_sz = 10000;
                }});
    check_around(ready, {10000, 20000, 60000});
}

TEST(bytes_are_exact_around_a_packet_and_the_longest_inline_write) {
    Ready ready(8 * KIB);
    check_around(ready, {220, 1024, 2048, 4096});
}

TEST(a_slice_longer_than_the_send_queue_is_deep_goes_bit_by_bit) {
    Ready ready(MIB, {.initiators = {{"send_depth", "16"}},
                      .devices = [] { loop().limits(0)->max_msg_sz = 4096; }});
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, MIB), TENT_OK);
    ready.check_exact();
}

TEST(more_slices_than_the_send_queue_holds_all_come_back_once) {
    Ready ready(256 * KIB, {.initiators = {{"send_depth", "8"}}});
    std::vector<tent_slice> slices;
    for (uint64_t i = 0; i < 256; i++)
        slices.push_back(ready.slice(TENT_OP_WRITE, i * KIB, KIB));
    CHECK_EQ(ready.pair.post(*ready.joint, slices), 256u);
    CHECK(ready.pair.settle());
    CHECK_EQ(ready.pair.count_of(TENT_OK), 256u);
    CHECK_EQ(ready.pair.initiator.returned, 256u);
    CHECK_EQ(ready.pair.initiator.returned_twice, 0u);
    ready.check_exact();
}

TEST(one_post_rings_one_doorbell_for_each_queue_pair) {
    Ready ready(256 * KIB, {.rail = {{"queue_pairs", "2"}}});
    const uint64_t before = doorbells();
    std::vector<tent_slice> slices;
    for (uint64_t i = 0; i < 64; i++)
        slices.push_back(ready.slice(TENT_OP_WRITE, i * 4 * KIB, 4 * KIB));
    CHECK_EQ(ready.pair.post(*ready.joint, slices), 64u);
    CHECK_EQ(doorbells() - before, 2u);
    CHECK(ready.pair.settle());
    ready.check_exact();
}

TEST(queue_pairs_of_an_endpoint_share_its_bytes) {
    Ready ready(MIB, {.rail = {{"queue_pairs", "4"}}});
    CHECK_EQ(ready.joint->from_inside().qps.size(), 4u);
    std::vector<tent_slice> slices;
    for (uint64_t i = 0; i < 16; i++)
        slices.push_back(ready.slice(TENT_OP_WRITE, i * 64 * KIB, 64 * KIB));
    CHECK_EQ(ready.pair.post(*ready.joint, slices), 16u);
    for (const auto &qp : ready.joint->from_inside().qps)
        CHECK_EQ(qp->bytes, 256 * KIB);
    CHECK(ready.pair.settle());
    for (const auto &qp : ready.joint->from_inside().qps)
        CHECK_EQ(qp->bytes, 0u);
    ready.check_exact();
}

TEST(small_writes_need_few_completions_and_none_is_lost) {
    Ready ready(64 * KIB,
                {.initiators = {{"signal_interval", "16"}}, .rail = {{"queue_pairs", "1"}}});
    loop().mode(0, LOOP_HOLD_ACK);
    std::vector<tent_slice> slices;
    for (uint64_t i = 0; i < 100; i++)
        slices.push_back(ready.slice(TENT_OP_WRITE, i * 256, 256));
    CHECK_EQ(ready.pair.post(*ready.joint, slices), 100u);
    const auto &requests = ready.joint->from_inside().qps[0]->requests;
    uint32_t signalled = 0;
    for (uint32_t i = 0; i < 100; i++)
        signalled += requests[i].signalled;
    CHECK_EQ(signalled, 7u);  // 16, 32, ... 96, and the last
    ready.pair.step(10);
    CHECK_EQ(ready.pair.initiator.returned, 0u);
    loop().mode(0, LOOP_PASS);
    CHECK(ready.pair.settle());
    CHECK_EQ(ready.pair.count_of(TENT_OK), 100u);
    CHECK(ready.there.is(ready.here, 0, 100 * 256));
}

TEST(slices_one_by_one_come_back_without_another_behind_them) {
    Ready ready(8 * KIB);
    for (uint64_t i = 0; i < 40; i++)
        CHECK_EQ(ready.move(i % 2 ? TENT_OP_READ : TENT_OP_WRITE, i * 64, 64), TENT_OK);
}

TEST(small_writes_take_their_bytes_with_them) {
    Ready ready(8 * KIB);
    loop().mode(0, LOOP_DROP);  // nothing has left when the memory changes
    CHECK(ready.post(TENT_OP_WRITE, 0, 200));
    CHECK(ready.post(TENT_OP_WRITE, 4 * KIB, 4 * KIB));
    Memory kept(8 * KIB, 1);
    ready.here.pattern(7);
    loop().mode(0, LOOP_PASS);
    CHECK(ready.pair.settle());
    CHECK(ready.there.is(kept, 0, 200));
    CHECK(ready.there.is(ready.here, 4 * KIB, 4 * KIB));
}

TEST(devices_that_take_nothing_inline_carry_small_writes_too) {
    Ready ready(8 * KIB, {.devices = [] { loop().limits(0)->max_inline = 0; }});
    CHECK_EQ(ready.move(TENT_OP_WRITE, 3, 100), TENT_OK);
    CHECK(ready.there.is(ready.here, 3, 100));
}

TEST(ports_of_unequal_mtu_meet_at_the_smaller) {
    Ready ready(64 * KIB, {.devices = [] { loop().limits(1)->active_mtu = IBV_MTU_256; }});
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
    CHECK_EQ(ready.move(TENT_OP_READ, 0, 64 * KIB), TENT_OK);
    ready.check_exact();
}

TEST(devices_that_serve_few_reads_are_asked_for_few) {
    Ready ready(64 * KIB, {.devices = [] { loop().limits(1)->max_rd_atomic = 1; }});
    CHECK_EQ(ready.move(TENT_OP_READ, 0, 64 * KIB), TENT_OK);
    CHECK(ready.here.is(ready.there, 0, 64 * KIB));
}

TEST(completion_queues_are_shared_out_and_never_overrun) {
    // 16 endpoints' worth of send queues do not fit: the last ones are shallow or refused.
    Pair pair({.initiators = {{"send_depth", "256"}},
               .devices = [] { loop().limits(0)->max_cqe = 512; }});
    Memory here(64 * KIB, 1), there(64 * KIB);
    void *region = pair.local(here.data, here.size);
    const Told told = pair.tell(there.data, there.size);
    uint32_t joined = 0;
    for (int i = 0; i < 8; i++) {
        Joint &joint = pair.add();
        if (pair.begin(joint) != TENT_OK) {
            CHECK(!pair.initiator.host.failure.empty());
            continue;
        }
        joined += pair.wait(joint) == TENT_OK;
    }
    CHECK(joined >= 4);
    loop().mode(0, LOOP_DROP);
    for (auto &joint : pair.joints)
        for (uint64_t i = 0; joint->from != nullptr && i < 400; i++)
            pair.post(*joint, pair.slice(TENT_OP_WRITE, here.data + i * 64, region,
                                         there.data + i * 64, told.remote, 64));
    loop().mode(0, LOOP_PASS);
    CHECK(pair.settle());
    CHECK_EQ(pair.count_of(TENT_OK), joined * 400);
    loop().mode(0, LOOP_DROP);
    for (auto &joint : pair.joints)
        for (uint64_t i = 0; joint->from != nullptr && i < 400; i++)
            pair.post(*joint, pair.slice(TENT_OP_WRITE, here.data + i * 64, region,
                                         there.data + i * 64, told.remote, 64));
    // All of them are flushed at once.
    loop().limits(0)->flush_held = 1;
    for (auto &joint : pair.joints)
        if (joint->from != nullptr && joint->from_inside().slices > 0)
            CHECK_EQ(rdma()->endpoint_close(pair.initiator.instance, joint->from),
                     TENT_IN_PROGRESS);
    loop().limits(0)->flush_held = 0;
    for (auto &joint : pair.joints)
        CHECK(pair.close(*joint));
    CHECK(pair.settle());
    CHECK_EQ(pair.count_of(TENT_E_CANCELLED), joined * 400);
}

namespace {

// Ten writes in one chain, of which the device refuses one; what became of them before the close.
struct Refused {
    Ready ready{64 * KIB, {.rail = {{"queue_pairs", "1"}}}};

    Refused(const char *what, uint64_t nth, loop_mode mode) {
        loop().mode(0, mode);
        loop().fail(what, nth, EIO, 0);
        std::vector<tent_slice> slices;
        for (uint64_t i = 0; i < 10; i++)
            slices.push_back(ready.slice(TENT_OP_WRITE, i * KIB, KIB));
        CHECK_EQ(ready.pair.post(*ready.joint, slices), 10u);
        ready.pair.pass(5 * MS);
        CHECK(ready.pair.initiator.host.state_of(ready.joint->initiators()) < 0);
        CHECK_EQ(ready.pair.initiator.returned, 10u);
        CHECK_EQ(ready.pair.initiator.returned_twice, 0u);
    }
};

}  // namespace

TEST(what_the_device_took_of_a_chain_that_it_refused_comes_back_without_the_fence) {
    for (const uint64_t taken : {0u, 1u, 5u, 9u}) {
        for (const loop_mode mode : {LOOP_PASS, LOOP_DROP}) {
            const Refused refused("request", taken + 1, mode);
            const Ready &ready = refused.ready;
            const uint64_t landed = mode == LOOP_PASS ? taken : 0;
            for (uint64_t i = 0; i < 10; i++)
                CHECK_EQ(ready.pair.initiator.statuses[i], i < landed ? TENT_OK : TENT_E_TRANSPORT);
            CHECK(ready.there.is(ready.here, 0, landed * KIB));
            CHECK(ready.there.is_zero(landed * KIB, (10 - landed) * KIB));
        }
    }
}

TEST(a_chain_of_whose_doorbell_nobody_knows_comes_back_by_its_completions) {
    const Refused refused("doorbell", 1, LOOP_PASS);
    CHECK_EQ(refused.ready.pair.count_of(TENT_E_TRANSPORT), 10u);
    CHECK(refused.ready.there.is_zero(0, 10 * KIB));
}

TEST(a_chain_of_whose_doorbell_nobody_knows_is_under_way_until_it_is_given_back) {
    Ready ready(64 * KIB, {.rail = {{"queue_pairs", "1"}}});
    loop().limits(0)->flush_held = 1;
    loop().fail("doorbell", 1, EIO, 0);
    CHECK(ready.post(TENT_OP_WRITE, 0, KIB));
    ready.pair.pass(5 * MS);
    CHECK_EQ(ready.pair.initiator.returned, 0u);
    loop().limits(0)->flush_held = 0;
    CHECK(ready.pair.settle());
    CHECK_EQ(ready.pair.initiator.statuses[0], TENT_E_TRANSPORT);
}

TEST(a_read_is_not_believed_that_comes_back_with_the_end_of_its_queue_pair) {
    for (const uint32_t op : {TENT_OP_READ, TENT_OP_WRITE}) {
        Ready ready(64 * KIB, {.rail = {{"queue_pairs", "1"}}});
        CHECK(ready.post(op, 0, KIB));
        loop().step();  // done, and its completion not yet taken
        loop().mode(0, LOOP_DROP);
        CHECK(ready.post(op, KIB, KIB));
        loop().expire(0);
        ready.pair.pass(5 * MS);
        CHECK_EQ(ready.pair.initiator.returned, 2u);
        CHECK_EQ(ready.pair.initiator.statuses[0], op == TENT_OP_READ ? TENT_E_TRANSPORT : TENT_OK);
        CHECK_EQ(ready.pair.initiator.statuses[1], TENT_E_TRANSPORT);
    }
}

TEST(a_full_pool_of_slices_takes_a_prefix) {
    Ready ready(64 * KIB);
    loop().mode(0, LOOP_DROP);
    std::vector<tent_slice> slices(5000, ready.slice(TENT_OP_WRITE, 0, 64));
    CHECK_EQ(ready.pair.post(*ready.joint, slices), 4096u);
    CHECK_EQ(ready.pair.post(*ready.joint, slices), 0u);
    loop().mode(0, LOOP_PASS);
    CHECK(ready.pair.settle());
    CHECK_EQ(ready.pair.count_of(TENT_OK), 4096u);
}

TEST(a_driver_that_sleeps_is_woken_by_the_completion) {
    Ready ready(64 * KIB);
    Pair &pair = ready.pair;
    CHECK(ready.post(TENT_OP_WRITE, 0, 64 * KIB));
    loop().mode(0, LOOP_HOLD_ACK);
    pair.initiator.poll();
    CHECK(rdma()->next_ns(pair.initiator.instance) > pair.initiator.host.now_ns);
    pollfd waits{rdma()->event_fd(pair.initiator.instance), POLLIN, 0};
    CHECK_EQ(::poll(&waits, 1, 0), 0);
    loop().mode(0, LOOP_PASS);
    CHECK_EQ(::poll(&waits, 1, 0), 1);
    pair.initiator.poll();
    CHECK_EQ(pair.initiator.returned, 1u);
}

TEST(a_completion_just_before_going_to_sleep_is_not_slept_over) {
    Ready ready(64 * KIB);
    Pair &pair = ready.pair;
    CHECK(ready.post(TENT_OP_WRITE, 0, 64 * KIB));
    loop().step();  // it is in the queue, and nobody was told
    CHECK_EQ(rdma()->next_ns(pair.initiator.instance), 0u);
    pair.initiator.poll();
    CHECK_EQ(pair.initiator.returned, 1u);
}

TEST(idle_completion_queues_are_left_alone) {
    Ready ready(64 * KIB);
    const uint64_t polls = loop().calls("poll_cq"), arms = loop().calls("req_notify_cq");
    for (int i = 0; i < 10; i++) {
        ready.pair.initiator.poll();
        rdma()->next_ns(ready.pair.initiator.instance);
    }
    CHECK_EQ(loop().calls("poll_cq") - polls, 0u);
    CHECK_EQ(loop().calls("req_notify_cq") - arms, 0u);
}

TEST(settling_waits_for_a_read_behind_every_acknowledged_write) {
    Ready ready(64 * KIB);
    Pair &pair = ready.pair;
    uint64_t mark = 0;
    const auto settle = [&] {
        return rdma()->endpoint_settle(pair.initiator.instance, ready.joint->from, &mark);
    };
    CHECK_EQ(settle(), TENT_OK);  // nothing was written
    for (uint64_t i = 0; i < 8; i++)
        CHECK_EQ(ready.move(TENT_OP_WRITE, i * KIB, KIB), TENT_OK);
    mark = 0;
    loop().mode(0, LOOP_DROP);
    CHECK_EQ(settle(), TENT_IN_PROGRESS);
    const uint64_t asked = doorbells();
    CHECK_EQ(settle(), TENT_IN_PROGRESS);
    CHECK_EQ(doorbells(), asked);  // once
    pair.step(50);
    CHECK_EQ(settle(), TENT_IN_PROGRESS);
    loop().mode(0, LOOP_PASS);
    CHECK(pair.until([&] { return settle() == TENT_OK; }));
    // No write since: nothing more to ask.
    mark = 0;
    CHECK_EQ(settle(), TENT_OK);
}

TEST(settling_needs_no_right_to_read) {
    Ready ready(64 * KIB, {.access = WRITE});
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
    uint64_t mark = 0;
    CHECK(ready.pair.until([&] {
        return rdma()->endpoint_settle(ready.pair.initiator.instance, ready.joint->from, &mark) ==
               TENT_OK;
    }));
    CHECK_EQ(ready.pair.initiator.news_of(ready.joint->initiators()), 1u);  // READY alone
}

TEST(writes_after_the_first_question_do_not_delay_settling) {
    Ready ready(64 * KIB);
    Pair &pair = ready.pair;
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, KIB), TENT_OK);
    uint64_t mark = 0;
    const auto settle = [&] {
        return rdma()->endpoint_settle(pair.initiator.instance, ready.joint->from, &mark);
    };
    CHECK_EQ(settle(), TENT_IN_PROGRESS);
    bool settled = false;
    for (uint64_t i = 0; i < 20 && !settled; i++) {
        CHECK_EQ(ready.move(TENT_OP_WRITE, i * KIB, KIB), TENT_OK);
        settled = settle() == TENT_OK;
    }
    CHECK(settled);
}

TEST(a_failed_endpoint_cannot_tell_whether_writes_have_settled) {
    Ready ready(64 * KIB);
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, KIB), TENT_OK);
    CHECK(ready.post(TENT_OP_WRITE, 0, KIB));
    loop().mode(0, LOOP_DROP);
    loop().expire(0);
    CHECK(ready.pair.settle());
    uint64_t mark = 0;
    CHECK(rdma()->endpoint_settle(ready.pair.initiator.instance, ready.joint->from, &mark) < 0);
}
