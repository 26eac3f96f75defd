// The rdma transport's fences and keys: what has ended, was revoked or was never granted touches no
// memory, however late it arrives.
//
// Leans on rdma_pair.h. Each test is one claim. Where a test says that nothing lands, another shows
// that without the fence it would.
#include "check.h"
#include "rdma_pair.h"

using namespace rdma_pair;

namespace {

constexpr uint64_t KIB = 1024;

// A write that has left the initiator's device and not arrived.
struct Late {
    Ready ready;

    explicit Late(const Setup &setup = {}, uint32_t op = TENT_OP_WRITE) : ready(64 * KIB, setup) {
        ready.there.clear();
        if (op == TENT_OP_READ) ready.there.pattern(5);
        loop().mode(0, LOOP_HOLD);
        CHECK(ready.post(op, 0, 64 * KIB));
        ready.pair.step(5);
        CHECK_EQ(ready.pair.initiator.returned, 0u);
    }
    Pair &pair() { return ready.pair; }
    void arrives() {
        loop().mode(0, LOOP_PASS);
        pair().step(5);
    }
};

void check_numbers_differ(const tent::rdma::Endpoint &a, const tent::rdma::Endpoint &b) {
    for (const auto &one : a.qps)
        for (const auto &other : b.qps) {
            CHECK(one->qp->qp_num != other->qp->qp_num);
            CHECK(one->psn != other->psn);
        }
}

}  // namespace

TEST(a_late_write_lands_before_the_target_has_retired) {
    Late late;
    CHECK(late.pair().close(*late.ready.joint));
    late.arrives();
    late.ready.check_exact();
}

TEST(a_late_write_does_not_land_once_the_target_has_retired) {
    Late late;
    CHECK(late.pair().close(*late.ready.joint));
    CHECK(late.pair().retire(*late.ready.joint));
    late.arrives();
    CHECK(late.ready.there.is_zero(0, late.ready.there.size));
    CHECK_EQ(loop().landed(), 0u);
}

TEST(a_late_write_does_not_land_through_an_endpoint_made_anew) {
    Late late;
    Joint &old = *late.ready.joint;
    CHECK(late.pair().close(old));
    CHECK(late.pair().retire(old));
    Joint &fresh = late.pair().add();
    CHECK_EQ(late.pair().begin(fresh), TENT_OK);
    late.arrives();
    CHECK_EQ(late.pair().wait(fresh), TENT_OK);
    CHECK(late.ready.there.is_zero(0, late.ready.there.size));
    late.ready.joint = &fresh;
    CHECK_EQ(late.ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
}

TEST(a_late_write_does_not_land_in_a_region_that_was_released) {
    for (const char *windows : {"yes", "no"}) {
        Late late({.targets = {{"windows", windows}}});
        CHECK(late.pair().release(late.pair().target, late.ready.told.region));
        late.pair().told[0].region = nullptr;
        late.arrives();
        CHECK(late.ready.there.is_zero(0, late.ready.there.size));
        CHECK(late.pair().settle());
        CHECK_EQ(late.pair().initiator.statuses[0], TENT_E_DENIED);
    }
}

TEST(a_late_answer_to_a_read_does_not_touch_memory_after_the_close) {
    Late late({}, TENT_OP_READ);
    CHECK(late.pair().close(*late.ready.joint));
    late.ready.here.clear();
    late.arrives();
    CHECK(late.ready.here.is_zero(0, late.ready.here.size));
}

TEST(endpoints_made_anew_have_other_numbers_and_sequences) {
    Ready ready(64 * KIB);
    Joint &second = ready.pair.join(), &third = ready.pair.join();
    check_numbers_differ(ready.joint->from_inside(), second.from_inside());
    check_numbers_differ(second.from_inside(), third.from_inside());
    check_numbers_differ(ready.joint->to_inside(), second.to_inside());
    check_numbers_differ(second.to_inside(), third.to_inside());
}

TEST(closing_returns_every_slice_once_as_cancelled) {
    Ready ready(64 * KIB, {.initiators = {{"send_depth", "16"}}});
    loop().mode(0, LOOP_DROP);
    std::vector<tent_slice> slices;
    for (uint64_t i = 0; i < 200; i++)
        slices.push_back(ready.slice(i % 3 ? TENT_OP_WRITE : TENT_OP_READ, i * 64, 64));
    CHECK_EQ(ready.pair.post(*ready.joint, slices), 200u);
    CHECK(ready.pair.close(*ready.joint));
    CHECK(ready.pair.settle());
    CHECK_EQ(ready.pair.count_of(TENT_E_CANCELLED), 200u);
    ready.pair.step(20);
    CHECK_EQ(ready.pair.initiator.returned, 200u);
    CHECK_EQ(ready.pair.initiator.returned_twice, 0u);
}

TEST(a_close_waits_until_the_device_has_given_everything_back) {
    Late late;
    loop().limits(0)->flush_held = 1;
    void *from = late.ready.joint->from;
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(rdma()->endpoint_close(late.pair().initiator.instance, from), TENT_IN_PROGRESS);
        late.pair().step();
    }
    CHECK_EQ(late.pair().initiator.returned, 0u);
    loop().limits(0)->flush_held = 0;
    CHECK(late.pair().close(*late.ready.joint));
    CHECK(late.pair().settle());
    CHECK_EQ(late.pair().initiator.statuses[0], TENT_E_CANCELLED);
}

TEST(a_device_that_never_gives_back_loses_its_queue_pairs) {
    Late late;
    loop().limits(0)->flush_held = 1;
    const uint64_t begin_ns = late.pair().initiator.host.now_ns;
    CHECK(late.pair().close(*late.ready.joint));
    const uint64_t took_ns = late.pair().initiator.host.now_ns - begin_ns;
    CHECK(took_ns >= 200 * MS && took_ns <= 250 * MS);
    CHECK(late.pair().settle());
    CHECK_EQ(late.pair().initiator.statuses[0], TENT_E_CANCELLED);
    CHECK_EQ(loop().qps(0, nullptr, 0), 0u);
}

TEST(queue_pairs_that_cannot_be_destroyed_yet_keep_the_fence_waiting) {
    Late late;
    Joint &joint = *late.ready.joint;
    CHECK(late.pair().close(joint));
    loop().fail("destroy_qp", 1, EBUSY, 1);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(rdma()->endpoint_retire(late.pair().target.instance, joint.to), TENT_IN_PROGRESS);
        late.pair().step();
    }
    loop().fail("", 0, 0, 0);
    CHECK(late.pair().retire(joint));
    late.arrives();
    CHECK(late.ready.there.is_zero(0, late.ready.there.size));
}

TEST(a_silent_path_ends_in_the_devices_patience_and_says_so) {
    Ready ready(64 * KIB);
    loop().mode(0, LOOP_DROP);
    for (uint64_t i = 0; i < 8; i++)
        CHECK(ready.post(TENT_OP_WRITE, i * KIB, KIB));
    ready.pair.step(20);
    CHECK_EQ(ready.pair.initiator.returned, 0u);
    loop().expire(0);
    CHECK(ready.pair.settle());
    CHECK_EQ(ready.pair.count_of(TENT_E_TRANSPORT), 8u);
    const uint64_t number = ready.joint->initiators();
    CHECK(ready.pair.until([&] { return ready.pair.initiator.host.state_of(number) < 0; }));
    CHECK_EQ(ready.pair.initiator.host.state_of(number), TENT_E_TRANSPORT);
    CHECK(ready.pair.initiator.sentence_of(number).find("no acknowledgement") != std::string::npos);
    CHECK_EQ(ready.pair.initiator.news_of(number), 2u);  // READY, and that
    CHECK_EQ(rdma()->post(ready.pair.initiator.instance, ready.joint->from, nullptr, 0), 0u);
    CHECK(!ready.post(TENT_OP_WRITE, 0, KIB));
}

TEST(a_lost_message_is_sent_again_by_the_device) {
    Ready ready(64 * KIB);
    loop().mode(0, LOOP_DROP);
    CHECK(ready.post(TENT_OP_WRITE, 0, 64 * KIB));
    ready.pair.step(20);
    loop().mode(0, LOOP_PASS);
    CHECK(ready.pair.settle());
    CHECK_EQ(ready.pair.count_of(TENT_OK), 1u);
    ready.check_exact();
}

TEST(what_succeeded_before_a_failure_is_not_done_again) {
    Ready ready(64 * KIB, {.rail = {{"queue_pairs", "1"}}});
    std::vector<tent_slice> slices;
    for (uint64_t i = 0; i < 10; i++)
        slices.push_back(ready.slice(TENT_OP_WRITE, i * KIB, KIB));
    // The sixth is refused; the five before it have no completions of their own.
    static_cast<tent::rdma::RemoteRegion *>(ready.told.remote)->about.length += 64 * KIB;
    slices[5].remote = at(ready.there.data) + 64 * KIB;
    CHECK_EQ(ready.pair.post(*ready.joint, slices), 10u);
    CHECK(ready.pair.settle());
    for (uint64_t i = 0; i < 10; i++)
        CHECK_EQ(ready.pair.initiator.statuses[i], i < 5    ? TENT_OK
                                                   : i == 5 ? TENT_E_DENIED
                                                            : TENT_E_TRANSPORT);
    CHECK(ready.there.is(ready.here, 0, 5 * KIB));
    CHECK(ready.there.is_zero(5 * KIB, 59 * KIB));
    CHECK_EQ(loop().refused(), 1u);
}

// ---- keys ---------------------------------------------------------------------------------------

namespace {

tent::rdma::RemoteKeys &keys_at(const Ready &ready) {
    const auto *remote = static_cast<tent::rdma::RemoteRegion *>(ready.told.remote);
    return *ready.joint->from_inside().keys[remote->index];
}

}  // namespace

TEST(a_key_works_on_its_own_queue_pair_alone) {
    Ready ready(64 * KIB, {.rail = {{"queue_pairs", "2"}}});
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, KIB), TENT_OK);
    std::vector<uint32_t> &keys = keys_at(ready).keys;
    if (!CHECK_EQ(keys.size(), 2u)) return;
    std::swap(keys[0], keys[1]);
    CHECK_EQ(ready.move(TENT_OP_WRITE, KIB, KIB), TENT_E_DENIED);
    CHECK(ready.there.is_zero(KIB, KIB));
}

TEST(a_key_of_one_endpoint_is_of_no_use_on_another) {
    Ready ready(64 * KIB);
    Joint &second = ready.pair.join();
    const auto *remote = static_cast<tent::rdma::RemoteRegion *>(ready.told.remote);
    second.from_inside().keys[remote->index]->keys = keys_at(ready).keys;
    ready.joint = &second;
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, KIB), TENT_E_DENIED);
    CHECK(ready.there.is_zero(0, KIB));
}

TEST(the_device_refuses_what_the_grant_does_not_allow) {
    for (const uint32_t allowed : {READ, WRITE}) {
        Ready ready(64 * KIB, {.access = allowed});
        const uint32_t op = allowed == READ ? TENT_OP_WRITE : TENT_OP_READ;
        // The plugin knows, and does not ask the device.
        CHECK_EQ(ready.move(op, 0, KIB), TENT_E_DENIED);
        CHECK_EQ(loop().refused(), 0u);
        CHECK_EQ(ready.move(allowed == READ ? TENT_OP_READ : TENT_OP_WRITE, 0, KIB), TENT_OK);
        // One that pretends not to know is refused all the same.
        ready.there.clear();
        keys_at(ready).access = READ | WRITE;
        CHECK_EQ(ready.move(op, KIB, KIB), TENT_E_DENIED);
        CHECK_EQ(loop().refused(), 1u);
        CHECK(ready.there.is_zero(0, 64 * KIB));
    }
}

TEST(the_device_refuses_what_lies_outside_of_the_region) {
    for (const bool behind : {false, true}) {
        Ready ready(64 * KIB);
        Memory whole(192 * KIB);
        // All of it is registered, and may be reached by others.
        void *all = ready.pair.target.region(whole.data, whole.size);
        const Told middle = ready.pair.tell(whole.data + 64 * KIB, 64 * KIB);
        ready.pair.hint(*ready.joint, middle.remote);
        const uint8_t *outside = behind ? whole.data + 128 * KIB : whole.data + 63 * KIB;
        CHECK(ready.pair.until([&] {
            const tent_slice slice = ready.pair.slice(TENT_OP_WRITE, ready.here.data, ready.region,
                                                      whole.data + 64 * KIB, middle.remote, KIB);
            return ready.pair.post(*ready.joint, slice);
        }));
        CHECK(ready.pair.settle());
        auto &about = static_cast<tent::rdma::RemoteRegion *>(middle.remote)->about;
        const tent::rdma::Export honest = about;
        CHECK_EQ(ready.pair.move(*ready.joint, TENT_OP_WRITE, ready.here.data, ready.region,
                                 outside, middle.remote, KIB),
                 TENT_E_RANGE);
        about.address -= 64 * KIB;
        about.length += 128 * KIB;
        about.piece_size = about.length;
        CHECK_EQ(ready.pair.move(*ready.joint, TENT_OP_WRITE, ready.here.data, ready.region,
                                 outside, middle.remote, KIB),
                 TENT_E_DENIED);
        about = honest;
        CHECK(whole.is_zero(0, 64 * KIB) && whole.is_zero(65 * KIB, 127 * KIB));
        CHECK(ready.pair.part(*ready.joint));
        CHECK(ready.pair.release(ready.pair.target, all));
    }
}

TEST(without_windows_keys_serve_until_the_region_is_released) {
    Ready ready(64 * KIB, {.devices = [] { loop().limits(1)->windows = 0; }});
    CHECK_EQ(loop().live("mw"), 0u);
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
    CHECK(ready.pair.release(ready.pair.target, ready.told.region));
    ready.pair.told[0].region = nullptr;
    ready.there.clear();
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, KIB), TENT_E_DENIED);
    CHECK(ready.there.is_zero(0, 64 * KIB));
}

TEST(a_region_that_is_released_takes_its_windows_alone) {
    Ready ready(64 * KIB);
    Memory more(64 * KIB);
    const Told other = ready.pair.tell(more.data, more.size);
    ready.pair.hint(*ready.joint, other.remote);
    CHECK(ready.pair.until([&] { return loop().live("mw") == 4; }));
    CHECK(ready.pair.release(ready.pair.target, other.region));
    ready.pair.told[1].region = nullptr;
    CHECK_EQ(loop().live("mw"), 2u);
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
}

TEST(a_retired_endpoint_leaves_no_window) {
    Ready ready(64 * KIB);
    CHECK_EQ(loop().live("mw"), 2u);
    CHECK(ready.pair.close(*ready.joint));
    CHECK(ready.pair.retire(*ready.joint));
    CHECK_EQ(loop().live("mw"), 0u);
}

TEST(slices_to_a_region_of_another_run_of_the_peer_are_stale) {
    Ready ready(64 * KIB);
    std::vector<char> bytes = ready.pair.target.exported(ready.told.region);
    tent::rdma::Export about{};
    memcpy(&about, bytes.data(), sizeof about);
    about.instance[0] ^= 1;
    memcpy(bytes.data(), &about, sizeof about);
    void *stale = ready.pair.initiator.imported(bytes);
    if (!CHECK(stale != nullptr)) return;
    ready.pair.hint(*ready.joint, stale);
    CHECK_EQ(ready.pair.move(*ready.joint, TENT_OP_WRITE, ready.here.data, ready.region,
                             ready.there.data, stale, KIB),
             TENT_E_STALE);
    CHECK(ready.there.is_zero(0, KIB));
    rdma()->segment_forget(ready.pair.initiator.instance, stale);
}

TEST(forgetting_a_segment_does_not_disturb_slices_under_way) {
    Ready ready(64 * KIB, {.initiators = {{"send_depth", "16"}}});
    loop().mode(0, LOOP_DROP);
    std::vector<tent_slice> slices;
    for (uint64_t i = 0; i < 64; i++)
        slices.push_back(ready.slice(TENT_OP_WRITE, i * KIB, KIB));
    CHECK_EQ(ready.pair.post(*ready.joint, slices), 64u);
    rdma()->segment_forget(ready.pair.initiator.instance, ready.told.remote);
    ready.pair.told[0].remote = nullptr;
    loop().mode(0, LOOP_PASS);
    CHECK(ready.pair.settle());
    CHECK_EQ(ready.pair.count_of(TENT_OK) + ready.pair.count_of(TENT_E_TRANSPORT), 64u);
    for (uint64_t i = 0; i < 64; i++)
        CHECK(ready.pair.initiator.statuses[i] != TENT_OK ||
              ready.there.is(ready.here, i * KIB, KIB));
}
