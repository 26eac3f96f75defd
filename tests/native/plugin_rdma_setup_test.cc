// How endpoints of the rdma transport come to be: offers, answers, keys, errands; and that nothing
// foreign that a peer says does any harm.
//
// Leans on rdma_pair.h. Each test is one claim. Random ones print nothing: their seed is fixed.
#include <random>
#include <thread>

#include "check.h"
#include "rdma_pair.h"

using namespace rdma_pair;
using tent::rdma::Export;
using tent::rdma::Keys;
using tent::rdma::Message;
using tent::rdma::Offer;
using tent::rdma::Want;

namespace {

constexpr uint64_t KIB = 1024;

// Memory told and a joint that has not begun.
struct Prepared {
    Memory here{64 * KIB, 1}, there{64 * KIB};
    Pair pair;
    void *region = nullptr;
    Told told;
    Joint *joint = nullptr;

    explicit Prepared(const Setup &setup = {}) : pair(setup) {
        region = pair.local(here.data, here.size);
        told = pair.tell(there.data, there.size, setup.access);
        joint = &pair.add();
    }
    int32_t write() {
        return pair.move(*joint, TENT_OP_WRITE, here.data, region, there.data, told.remote,
                         here.size);
    }
    int32_t state() const { return pair.initiator.host.state_of(joint->initiators()); }
};

bool says(const Side &side, uint64_t endpoint, const char *what) {
    return side.sentence_of(endpoint).find(what) != std::string::npos;
}

}  // namespace

TEST(an_endpoint_is_ready_when_its_keys_have_come) {
    Prepared prepared;
    CHECK_EQ(prepared.pair.begin(*prepared.joint), TENT_OK);
    prepared.pair.initiator.poll();
    CHECK_EQ(prepared.state(), TENT_IN_PROGRESS);
    CHECK_EQ(prepared.pair.wait(*prepared.joint), TENT_OK);
    CHECK_EQ(prepared.write(), TENT_OK);
}

TEST(lost_questions_and_answers_are_repeated) {
    for (const uint32_t lost : {1u, 2u, 5u}) {
        Prepared prepared;
        prepared.pair.lose = lost;
        CHECK_EQ(prepared.pair.begin(*prepared.joint), TENT_OK);
        prepared.pair.pass(10 * MS);
        CHECK_EQ(prepared.state(), TENT_IN_PROGRESS);
        CHECK_EQ(prepared.pair.wait(*prepared.joint), TENT_OK);
        CHECK_EQ(prepared.write(), TENT_OK);
        CHECK_EQ(loop().live("mw"), 2u);  // what was asked twice was given once
    }
}

TEST(a_full_control_channel_is_tried_again) {
    for (const bool at_target : {false, true}) {
        Prepared prepared;
        Side &side = at_target ? prepared.pair.target : prepared.pair.initiator;
        side.host.message_status = TENT_E_AGAIN;
        CHECK_EQ(prepared.pair.begin(*prepared.joint), TENT_OK);
        prepared.pair.pass(30 * MS);
        CHECK_EQ(prepared.state(), TENT_IN_PROGRESS);
        side.host.message_status = TENT_OK;
        CHECK_EQ(prepared.pair.wait(*prepared.joint), TENT_OK);
    }
}

TEST(a_peer_that_never_tells_its_keys_is_given_up) {
    Prepared prepared;
    prepared.pair.lose = UINT32_MAX;
    CHECK_EQ(prepared.pair.begin(*prepared.joint), TENT_OK);
    prepared.pair.pass(1900 * MS);
    CHECK_EQ(prepared.state(), TENT_IN_PROGRESS);
    prepared.pair.pass(200 * MS);
    CHECK_EQ(prepared.state(), TENT_E_TIMEOUT);
    CHECK(says(prepared.pair.initiator, prepared.joint->initiators(), "keys"));
}

TEST(memory_that_is_not_granted_keeps_nobody_from_being_ready) {
    Prepared prepared({.access = 0});
    CHECK_EQ(prepared.pair.begin(*prepared.joint), TENT_OK);
    CHECK_EQ(prepared.pair.wait(*prepared.joint), TENT_OK);
    CHECK_EQ(loop().live("mw"), 0u);
    CHECK_EQ(prepared.write(), TENT_E_DENIED);
    CHECK(prepared.there.is_zero(0, prepared.there.size));
}

TEST(a_region_told_later_takes_slices_when_its_keys_have_come) {
    Prepared prepared;
    CHECK_EQ(prepared.pair.begin(*prepared.joint), TENT_OK);
    CHECK_EQ(prepared.pair.wait(*prepared.joint), TENT_OK);
    Memory more(64 * KIB);
    const Told later = prepared.pair.tell(more.data, more.size);
    const auto slice = [&] {
        return prepared.pair.slice(TENT_OP_WRITE, prepared.here.data, prepared.region, more.data,
                                   later.remote, KIB);
    };
    CHECK(!prepared.pair.post(*prepared.joint, slice()));  // nobody was told of it
    prepared.pair.lose = 1;
    prepared.pair.hint(*prepared.joint, later.remote);
    CHECK(!prepared.pair.post(*prepared.joint, slice()));
    prepared.pair.pass(5 * MS);
    CHECK(!prepared.pair.post(*prepared.joint, slice()));
    CHECK_EQ(prepared.write(), TENT_OK);  // others go on
    CHECK(prepared.pair.until([&] { return prepared.pair.post(*prepared.joint, slice()); }));
    CHECK(prepared.pair.settle());
    CHECK(more.is(prepared.here, 0, KIB));
}

TEST(many_regions_and_pieces_are_told_in_many_messages) {
    Setup setup{.targets = {{"piece_size", "1m"}}, .rail = {{"queue_pairs", "3"}}};
    Pair pair(setup);
    Memory here(64 * KIB, 1), there(90 << 20);
    void *region = pair.local(here.data, here.size);
    const Told big = pair.tell(there.data, there.size);
    Memory small(40 * 8 * KIB);
    for (uint64_t i = 0; i < 40; i++)
        pair.tell(small.data + i * 8 * KIB, 4 * KIB);
    Joint &joint = pair.join();
    CHECK_EQ(loop().live("mw"), 3u * (90 + 40));
    const uint64_t last = there.size - 64 * KIB;
    CHECK_EQ(
        pair.move(joint, TENT_OP_WRITE, here.data, region, there.data + last, big.remote, 64 * KIB),
        TENT_OK);
    CHECK_EQ(memcmp(there.data + last, here.data, 64 * KIB), 0);
}

TEST(the_end_with_fewer_queue_pairs_decides) {
    Prepared prepared({.initiators = {{"queue_pairs", "5"}}, .targets = {{"queue_pairs", "3"}}});
    CHECK_EQ(prepared.pair.begin(*prepared.joint), TENT_OK);
    CHECK_EQ(prepared.pair.wait(*prepared.joint), TENT_OK);
    CHECK_EQ(loop().qps(0, nullptr, 0), 3u);
    CHECK_EQ(loop().qps(1, nullptr, 0), 3u);
    CHECK_EQ(prepared.write(), TENT_OK);
}

TEST(endpoints_beyond_the_engines_number_are_refused) {
    Pair pair;
    for (int i = 0; i < 8; i++)
        CHECK_EQ(pair.make_offer(pair.add()), TENT_OK);
    CHECK_EQ(pair.make_offer(pair.add()), TENT_E_AGAIN);
    CHECK_EQ(loop().qps(0, nullptr, 0), 16u);
}

// ---- errands ------------------------------------------------------------------------------------

TEST(a_peer_that_is_slow_to_be_found_holds_up_nobody_else) {
    Prepared prepared({.threads = true});
    CHECK_EQ(prepared.pair.begin(*prepared.joint), TENT_OK);
    CHECK_EQ(prepared.pair.wait(*prepared.joint), TENT_OK);
    loop().block_rtr(1);
    Joint &slow = prepared.pair.add();
    CHECK_EQ(prepared.pair.begin(slow), TENT_OK);
    CHECK(prepared.pair.until([] { return loop().block_rtr(1) == 2; }));  // one at each end
    for (int i = 0; i < 10; i++)
        CHECK_EQ(prepared.write(), TENT_OK);
    CHECK_EQ(prepared.pair.initiator.host.state_of(slow.initiators()), TENT_IN_PROGRESS);
    loop().block_rtr(0);
    CHECK_EQ(prepared.pair.wait(slow), TENT_OK);
}

TEST(an_endpoint_that_is_still_being_set_up_can_be_closed_and_retired) {
    Prepared prepared({.threads = true});
    Pair &pair = prepared.pair;
    Joint &joint = *prepared.joint;
    loop().block_rtr(1);
    CHECK_EQ(pair.begin(joint), TENT_OK);
    CHECK(pair.until([] { return loop().block_rtr(1) == 2; }));
    // Nothing was posted: it is quiet at once.
    CHECK_EQ(rdma()->endpoint_close(pair.initiator.instance, joint.from), TENT_OK);
    joint.from = nullptr;
    CHECK_EQ(rdma()->endpoint_retire(pair.target.instance, joint.to), TENT_IN_PROGRESS);
    pair.step(100);
    CHECK_EQ(loop().live("qp"), 4u);
    loop().block_rtr(0);
    CHECK(pair.retire(joint));
    CHECK(pair.until([] { return loop().live("qp") == 0; }));
    CHECK_EQ(pair.initiator.news_of(joint.initiators()), 0u);
}

TEST(a_peer_that_is_never_found_is_given_up_in_time) {
    Prepared prepared({.threads = true});
    Pair &pair = prepared.pair;
    loop().block_rtr(1);
    CHECK_EQ(pair.begin(*prepared.joint), TENT_OK);
    pair.tick_ns = 10 * MS;
    CHECK_EQ(pair.wait(*prepared.joint), TENT_E_TIMEOUT);
    CHECK(says(pair.initiator, prepared.joint->initiators(), "ip neigh"));
    CHECK_EQ(pair.target.host.state_of(prepared.joint->targets()), TENT_E_TIMEOUT);
    loop().block_rtr(0);
}

TEST(a_queue_pair_that_cannot_be_moved_says_which_step_and_why) {
    for (const int error : {ETIMEDOUT, ENETUNREACH, EINVAL}) {
        Prepared prepared;
        Joint &joint = *prepared.joint;
        CHECK_EQ(prepared.pair.make_offer(joint), TENT_OK);
        CHECK_EQ(prepared.pair.accept(joint), TENT_OK);
        loop().fail("modify_qp", 1, error, 0);
        CHECK_EQ(prepared.pair.connect(joint), TENT_OK);
        CHECK_EQ(prepared.pair.wait(joint), TENT_E_TRANSPORT);
        CHECK(says(prepared.pair.initiator, joint.initiators(), "RTR"));
        CHECK(says(prepared.pair.initiator, joint.initiators(), strerrordesc_np(error)));
        CHECK_EQ(prepared.pair.initiator.news_of(joint.initiators()), 1u);
    }
}

TEST(regions_are_registered_beside_a_driver_at_work) {
    Prepared prepared({.threads = true});
    CHECK_EQ(prepared.pair.begin(*prepared.joint), TENT_OK);
    CHECK_EQ(prepared.pair.wait(*prepared.joint), TENT_OK);
    Memory more(8 << 20);
    std::atomic<void *> made[4] = {};
    std::vector<std::thread> threads;
    for (auto &one : made)
        threads.emplace_back([&] { one = prepared.pair.initiator.region(more.data, more.size); });
    for (int i = 0; i < 50; i++)
        CHECK_EQ(prepared.write(), TENT_OK);
    for (std::thread &thread : threads)
        thread.join();
    for (auto &one : made)
        if (CHECK(one != nullptr)) CHECK(prepared.pair.release(prepared.pair.initiator, one));
}

// ---- foreign words ------------------------------------------------------------------------------

TEST(malformed_offers_and_answers_are_refused) {
    const std::function<void(Offer &)> changes[] = {
        [](Offer &offer) { offer.magic ^= 1; },
        [](Offer &offer) { offer.version++; },
        [](Offer &offer) { offer.qp_count = 0; },
        [](Offer &offer) { offer.qp_count = 17; },
        [](Offer &offer) { offer.qp_count = UINT16_MAX; },
        [](Offer &offer) { offer.link = static_cast<tent::rdma::Link>(0); },
        [](Offer &offer) { offer.link = static_cast<tent::rdma::Link>(200); },
        [](Offer &offer) { offer.mtu = 0; },
        [](Offer &offer) { offer.mtu = 6; },
        [](Offer &offer) { offer.rd_atomic = 0; },
        [](Offer &offer) { offer.qps[0].number = 1 << 24; },
        [](Offer &offer) { offer.qps[1].psn = UINT32_MAX; },
    };
    for (const auto &change : changes) {
        Prepared prepared;
        Joint &joint = *prepared.joint;
        CHECK_EQ(prepared.pair.make_offer(joint), TENT_OK);
        const std::vector<char> honest = joint.offer;
        change(*reinterpret_cast<Offer *>(joint.offer.data()));
        CHECK_EQ(prepared.pair.accept(joint), TENT_E_PROTOCOL);
        CHECK(!prepared.pair.target.host.failure.empty());
        CHECK_EQ(loop().qps(1, nullptr, 0), 0u);
        joint.offer = honest;
        CHECK_EQ(prepared.pair.accept(joint), TENT_OK);
        change(*reinterpret_cast<Offer *>(joint.answer.data()));
        CHECK_EQ(prepared.pair.connect(joint), TENT_E_PROTOCOL);
    }
}

TEST(offers_of_any_other_length_are_refused) {
    Prepared prepared;
    Joint &joint = *prepared.joint;
    CHECK_EQ(prepared.pair.make_offer(joint), TENT_OK);
    const std::vector<char> honest = joint.offer;
    for (size_t size = 0; size < 2 * honest.size(); size++) {
        if (size == honest.size()) continue;
        joint.offer = honest;
        joint.offer.resize(size);
        CHECK_EQ(prepared.pair.accept(joint), TENT_E_PROTOCOL);
    }
}

TEST(an_answer_with_more_queue_pairs_than_were_offered_is_refused) {
    Prepared prepared;
    Joint &joint = *prepared.joint;
    CHECK_EQ(prepared.pair.make_offer(joint), TENT_OK);
    CHECK_EQ(prepared.pair.accept(joint), TENT_OK);
    reinterpret_cast<Offer *>(joint.answer.data())->qp_count = 3;
    CHECK_EQ(prepared.pair.connect(joint), TENT_E_PROTOCOL);
}

TEST(a_port_of_another_kind_is_refused_with_what_to_do) {
    Prepared prepared;
    Joint &joint = *prepared.joint;
    CHECK_EQ(prepared.pair.make_offer(joint), TENT_OK);
    reinterpret_cast<Offer *>(joint.offer.data())->link = tent::rdma::Link::ROCE_V1;
    CHECK_EQ(prepared.pair.accept(joint), TENT_E_NO_PATH);
    CHECK(prepared.pair.target.host.failure.find("gid=") != std::string::npos);
}

TEST(offers_with_any_byte_changed_do_no_harm) {
    Prepared prepared;
    Joint &joint = *prepared.joint;
    CHECK_EQ(prepared.pair.make_offer(joint), TENT_OK);
    const std::vector<char> honest = joint.offer;
    for (size_t i = 0; i < honest.size(); i++) {
        joint.offer = honest;
        joint.offer[i] = static_cast<char>(joint.offer[i] ^ 0x55);
        if (prepared.pair.accept(joint) != TENT_OK) continue;
        prepared.pair.step(3);
        CHECK(prepared.pair.retire(joint));
    }
    CHECK_EQ(loop().qps(1, nullptr, 0), 0u);
    joint.offer = honest;
    CHECK_EQ(prepared.pair.accept(joint), TENT_OK);
    CHECK_EQ(prepared.pair.connect(joint), TENT_OK);
    CHECK_EQ(prepared.pair.wait(joint), TENT_OK);
}

TEST(descriptions_of_regions_with_any_byte_changed_do_no_harm) {
    Prepared prepared;
    CHECK_EQ(prepared.pair.begin(*prepared.joint), TENT_OK);
    CHECK_EQ(prepared.pair.wait(*prepared.joint), TENT_OK);
    Pair &pair = prepared.pair;
    const std::vector<char> honest = pair.target.exported(prepared.told.region);
    for (size_t i = 0; i < 2 * honest.size(); i++) {
        std::vector<char> bytes = honest;
        if (i < bytes.size())
            bytes[i] = static_cast<char>(bytes[i] ^ 0x81);
        else
            bytes.resize(i - honest.size());
        void *remote = pair.initiator.imported(bytes);
        if (remote == nullptr) continue;
        pair.hint(*prepared.joint, remote);
        pair.pass(2 * MS);
        const tent_slice slice = pair.slice(TENT_OP_WRITE, prepared.here.data, prepared.region,
                                            prepared.there.data, remote, KIB);
        if (pair.post(*prepared.joint, slice)) CHECK(pair.settle());
        rdma()->segment_forget(pair.initiator.instance, remote);
        if (prepared.state() == TENT_OK) continue;
        // The device refused it: once more, from the start.
        CHECK(pair.part(*prepared.joint));
        prepared.joint = &pair.add();
        CHECK_EQ(pair.begin(*prepared.joint), TENT_OK);
        CHECK_EQ(pair.wait(*prepared.joint), TENT_OK);
    }
    CHECK_EQ(prepared.write(), TENT_OK);
}

namespace {

// Well-formed and nonsense in turns, from a fixed seed.
std::vector<uint8_t> foreign_message(std::mt19937 &random, uint64_t region) {
    std::vector<uint8_t> bytes;
    const auto put = [&](auto value) {
        const auto *from = reinterpret_cast<const uint8_t *>(&value);
        bytes.insert(bytes.end(), from, from + sizeof value);
    };
    const auto small = [&] { return static_cast<uint32_t>(random() % 4); };
    switch (random() % 4) {
        case 0:
            put(Want{Message::WANT, small() == 0 ? static_cast<uint32_t>(random()) : small(),
                     region + small()});
            break;
        case 1:
            put(Keys{Message::KEYS, small() == 0 ? TENT_E_DENIED : TENT_OK, region + small(),
                     small(), small(), small(), small()});
            for (uint32_t count = small() * small(); count > 0; count--)
                put(static_cast<uint32_t>(random()));
            break;
        default:
            for (uint32_t size = random() % TENT_OFFER_MAX; size > 0; size--)
                put(static_cast<uint8_t>(random()));
    }
    if (!bytes.empty() && small() == 0) bytes.pop_back();
    return bytes;
}

}  // namespace

TEST(foreign_messages_do_no_harm_to_a_target) {
    Prepared prepared;
    Pair &pair = prepared.pair;
    Memory secret(64 * KIB);
    void *ungranted = pair.target.region(secret.data, secret.size);
    CHECK_EQ(pair.begin(*prepared.joint), TENT_OK);
    CHECK_EQ(pair.wait(*prepared.joint), TENT_OK);
    std::mt19937 random{1};
    for (int i = 0; i < 5000; i++) {
        const std::vector<uint8_t> bytes = foreign_message(random, 1);
        rdma()->endpoint_message(pair.target.instance, prepared.joint->to, bytes.data(),
                                 static_cast<uint32_t>(bytes.size()));
        if (i % 16 == 0) pair.step();
    }
    pair.pass(10 * MS);
    CHECK_EQ(loop().live("mw"), 2u);
    CHECK_EQ(prepared.write(), TENT_OK);
    CHECK(pair.release(pair.target, ungranted));
}

TEST(foreign_messages_do_no_harm_to_an_initiator) {
    Prepared prepared;
    Pair &pair = prepared.pair;
    pair.lose = UINT32_MAX;  // it keeps asking, and hears these alone
    CHECK_EQ(pair.begin(*prepared.joint), TENT_OK);
    std::mt19937 random{2};
    for (int i = 0; i < 5000; i++) {
        const std::vector<uint8_t> bytes = foreign_message(random, 1);
        rdma()->endpoint_message(pair.initiator.instance, prepared.joint->from, bytes.data(),
                                 static_cast<uint32_t>(bytes.size()));
        if (i % 16 == 0) pair.step();
        if (prepared.state() != TENT_OK) continue;
        const tent_slice slice = pair.slice(TENT_OP_WRITE, prepared.here.data, prepared.region,
                                            prepared.there.data, prepared.told.remote, KIB);
        if (pair.post(*prepared.joint, slice)) CHECK(pair.settle());
    }
    CHECK(prepared.there.is_zero(0, prepared.there.size));
}

TEST(a_region_of_somebody_elses_is_not_to_be_had_by_its_number) {
    Prepared prepared;
    Pair &pair = prepared.pair;
    Memory secret(64 * KIB);
    void *ungranted = pair.target.region(secret.data, secret.size);
    CHECK_EQ(pair.begin(*prepared.joint), TENT_OK);
    CHECK_EQ(pair.wait(*prepared.joint), TENT_OK);
    void *remote = pair.initiator.imported(pair.target.exported(ungranted));
    pair.hint(*prepared.joint, remote);
    CHECK(pair.until([&] {
        return pair.post(*prepared.joint, pair.slice(TENT_OP_READ, prepared.here.data,
                                                     prepared.region, secret.data, remote, KIB));
    }));
    CHECK(pair.settle());
    CHECK_EQ(pair.initiator.statuses.back(), TENT_E_DENIED);
    CHECK_EQ(loop().live("mw"), 2u);
    rdma()->segment_forget(pair.initiator.instance, remote);
    CHECK(pair.release(pair.target, ungranted));
}
