// The rdma transport's rails and what is registered on them: ports that go down, devices that go
// and come back, regions that not every rail can have.
//
// Leans on rdma_pair.h. Each test is one claim.
#include <thread>

#include <poll.h>

#include "check.h"
#include "rdma_pair.h"

using namespace rdma_pair;

namespace {

constexpr uint64_t KIB = 1024, MIB = KIB * KIB;

// What the core heard of a rail: "down up down".
std::string heard(const Side &side, uint32_t rail = 0) {
    std::string text;
    for (const fake::RailNews &news : side.host.rail_news)
        if (news.rail == rail)
            text += std::string(text.empty() ? "" : " ") + (news.status < 0 ? "down" : "up");
    return text;
}

bool last_says(const Side &side, const char *what) {
    return !side.host.rail_news.empty() &&
           side.host.rail_news.back().sentence.find(what) != std::string::npos;
}

}  // namespace

// ---- ports --------------------------------------------------------------------------------------

TEST(a_port_that_goes_down_and_up_is_told_once_each) {
    Ready ready(64 * KIB);
    Pair &pair = ready.pair;
    loop().port(0, 0);
    pair.pass(600 * MS);
    CHECK_EQ(heard(pair.initiator), "down");
    CHECK(last_says(pair.initiator, "loop0"));
    CHECK_EQ(heard(pair.target), "");
    loop().port(0, 1);
    pair.pass(600 * MS);
    CHECK_EQ(heard(pair.initiator), "down up");
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
}

TEST(a_port_that_goes_down_is_told_at_once) {
    Ready ready(64 * KIB);
    loop().port(0, 0);
    ready.pair.pass(2 * MS);
    CHECK_EQ(heard(ready.pair.initiator), "down");
}

TEST(a_port_that_flaps_unseen_is_not_told) {
    Ready ready(64 * KIB);
    loop().port(0, 0);
    loop().port(0, 1);
    ready.pair.pass(300 * MS);
    CHECK(heard(ready.pair.initiator) == "" || heard(ready.pair.initiator) == "down up");
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
}

TEST(a_rail_whose_port_is_down_opens_and_comes_up_later) {
    Pair pair({.devices = [] { loop().port(0, 0); }});
    Memory here(64 * KIB, 1), there(64 * KIB);
    void *region = pair.local(here.data, here.size);
    const Told told = pair.tell(there.data, there.size);
    pair.pass(5 * MS);
    CHECK_EQ(heard(pair.initiator), "down");
    Joint &early = pair.add();
    CHECK(pair.make_offer(early) < 0);
    CHECK(pair.initiator.host.failure.find("down") != std::string::npos);
    loop().port(0, 1);
    pair.pass(300 * MS);
    CHECK_EQ(heard(pair.initiator), "down up");
    Joint &joint = pair.join();
    CHECK_EQ(pair.move(joint, TENT_OP_WRITE, here.data, region, there.data, told.remote, 64 * KIB),
             TENT_OK);
}

TEST(a_rail_without_its_address_is_down_until_it_has_it_again) {
    Ready ready(64 * KIB);
    Pair &pair = ready.pair;
    const std::string address = pair.initiator.info.address;
    CHECK(address.find("10.99.0.1") != std::string::npos);
    uint8_t gid[16] = {};
    gid[10] = gid[11] = 0xff;
    gid[12] = 10;
    gid[13] = 99;
    gid[15] = 1;
    loop().gid(0, nullptr);
    pair.pass(300 * MS);
    CHECK_EQ(heard(pair.initiator), "down");
    loop().gid(0, gid);
    pair.pass(300 * MS);
    CHECK_EQ(heard(pair.initiator), "down up");
    CHECK(pair.part(*ready.joint));
    ready.joint = &pair.join();
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
}

TEST(a_queue_pair_that_fails_by_itself_fails_its_endpoint_alone) {
    Ready ready(64 * KIB);
    Pair &pair = ready.pair;
    Joint &other = pair.join();
    loop().mode(0, LOOP_DROP);
    for (uint64_t i = 0; i < 10; i++)
        CHECK(ready.post(TENT_OP_WRITE, i * KIB, KIB));
    loop().qp_fatal(ready.joint->from_inside().qps[0]->qp->qp_num);
    loop().mode(0, LOOP_PASS);
    CHECK(pair.settle());
    pair.pass(2 * MS);
    CHECK_EQ(pair.initiator.host.state_of(ready.joint->initiators()), TENT_E_TRANSPORT);
    CHECK_EQ(pair.initiator.news_of(ready.joint->initiators()), 2u);
    CHECK_EQ(pair.initiator.host.state_of(other.initiators()), TENT_OK);
    CHECK_EQ(pair.count_of(TENT_OK) + pair.count_of(TENT_E_TRANSPORT), 10u);
    ready.joint = &other;
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, KIB), TENT_OK);
}

TEST(a_refused_access_fails_the_targets_half_too) {
    Ready ready(64 * KIB);
    static_cast<tent::rdma::RemoteRegion *>(ready.told.remote)->about.length += 64 * KIB;
    tent_slice slice = ready.slice(TENT_OP_WRITE, 0, KIB);
    slice.remote += 64 * KIB;
    CHECK(ready.pair.post(*ready.joint, slice));
    CHECK(ready.pair.settle());
    ready.pair.pass(2 * MS);
    CHECK(ready.pair.target.host.state_of(ready.joint->targets()) < 0);
    CHECK_EQ(ready.pair.target.news_of(ready.joint->targets()), 2u);
}

// ---- devices that go and come -------------------------------------------------------------------

namespace {

// The initiator's device goes with slices under way, and comes back.
void check_removal(uint32_t device, bool tell) {
    Ready ready(64 * KIB);
    Pair &pair = ready.pair;
    Side &side = device == 0 ? pair.initiator : pair.target;
    loop().mode(0, LOOP_DROP);
    for (uint64_t i = 0; i < 10; i++)
        CHECK(ready.post(TENT_OP_WRITE, i * KIB, KIB));
    loop().remove(device, tell);
    // Whoever removes it waits until it is let go.
    CHECK(pair.until([&] { return loop().contexts(device) == 0; }));
    CHECK_EQ(heard(side), "down");
    CHECK(last_says(side, device == 0 ? "loop0" : "loop1"));
    loop().mode(0, LOOP_PASS);
    if (device == 1) {
        pair.step(5);
        loop().expire(0);
    }
    CHECK(pair.settle());
    CHECK_EQ(pair.count_of(TENT_E_TRANSPORT), 10u);
    CHECK_EQ(pair.initiator.returned_twice, 0u);
    CHECK(pair.part(*ready.joint));
    pair.pass(600 * MS);
    CHECK_EQ(heard(side), "down");
    loop().bring_back(device);
    pair.pass(600 * MS);
    CHECK_EQ(heard(side), "down up");
    // With the regions there were.
    ready.joint = &pair.join();
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
    CHECK_EQ(ready.move(TENT_OP_READ, 0, 64 * KIB), TENT_OK);
    ready.check_exact();
}

}  // namespace

TEST(a_device_that_goes_is_let_go_and_its_return_revives_the_rail) {
    check_removal(0, true);
    check_removal(0, false);
}

TEST(a_targets_device_that_goes_is_let_go_and_its_return_revives_the_rail) {
    check_removal(1, true);
    check_removal(1, false);
}

TEST(a_device_that_goes_while_a_peer_is_looked_for_is_let_go_after_that) {
    Pair pair({.threads = true});
    loop().block_rtr(1);
    Joint &joint = pair.add();
    CHECK_EQ(pair.begin(joint), TENT_OK);
    CHECK(pair.until([] { return loop().block_rtr(1) == 2; }));
    loop().remove(0, 1);
    pair.tick_ns = MS;
    pair.pass(50 * MS);
    CHECK_EQ(heard(pair.initiator), "down");
    CHECK_EQ(loop().contexts(0), 1u);
    loop().block_rtr(0);
    CHECK(pair.until([] { return loop().contexts(0) == 0; }));
    CHECK(pair.initiator.host.state_of(joint.initiators()) < 0);
}

TEST(regions_can_be_released_while_their_device_is_away) {
    Ready ready(64 * KIB);
    loop().remove(1, 1);
    CHECK(ready.pair.until([] { return loop().contexts(1) == 0; }));
    CHECK(ready.pair.release(ready.pair.target, ready.told.region));
    ready.pair.told[0].region = nullptr;
    loop().bring_back(1);
    ready.pair.pass(600 * MS);
    CHECK_EQ(heard(ready.pair.target), "down up");
}

namespace {

struct Errand {
    void (*run)(void *) = nullptr;
    void *argument = nullptr;
};

// The target's device is back, and the errand that registers its regions there has not begun.
struct Returning {
    static inline Errand held;
    Ready ready{64 * KIB};

    Returning() {
        held = {};
        Side &target = ready.pair.target;
        loop().remove(1, 1);
        CHECK(ready.pair.until([] { return loop().contexts(1) == 0; }));
        const auto errand = target.host.table.errand;
        target.host.table.errand = [](void *, void (*run)(void *), void *argument) {
            held = {run, argument};
        };
        loop().bring_back(1);
        CHECK(ready.pair.until([] { return held.run != nullptr; }));
        target.host.table.errand = errand;
    }
    static void registers() { held.run(held.argument); }
};

}  // namespace

TEST(no_region_is_released_while_an_errand_registers_it_on_a_device_that_is_back) {
    Returning returning;
    Ready &ready = returning.ready;
    Side &target = ready.pair.target;
    CHECK_EQ(target.plugin->region_release(target.instance, ready.told.region), TENT_IN_PROGRESS);
    CHECK_EQ(heard(target), "down");
    Returning::registers();
    ready.pair.pass(2 * MS);
    CHECK_EQ(heard(target), "down up");
    CHECK(ready.pair.release(target, ready.told.region));
    ready.pair.told[0].region = nullptr;
}

TEST(the_end_of_an_errand_is_seen_by_the_poll_that_it_wakes) {
    Returning returning;
    Ready &ready = returning.ready;
    Side &target = ready.pair.target;
    // The driver has slept and been woken, by something else and by this, within a millisecond.
    ready.pair.pass(2 * MS);
    target.poll();
    Returning::registers();
    target.poll();
    CHECK_EQ(heard(target), "down up");
}

TEST(events_while_regions_are_registered_anew_wake_once_and_are_not_lost) {
    for (const int type : {IBV_EVENT_PORT_ACTIVE, IBV_EVENT_DEVICE_FATAL}) {
        Returning returning;
        Side &target = returning.ready.pair.target;
        pollfd waits{rdma()->event_fd(target.instance), POLLIN, 0};
        loop().event(1, type);
        CHECK_EQ(::poll(&waits, 1, 0), 1);
        target.poll();
        CHECK_EQ(::poll(&waits, 1, 0), 0);
        Returning::registers();
        target.poll();
        const bool fatal = type == IBV_EVENT_DEVICE_FATAL;
        CHECK_EQ(heard(target), fatal ? "down" : "down up");
        CHECK_EQ(loop().contexts(1), fatal ? 0u : 1u);
        CHECK(returning.ready.pair.until([&] { return heard(target) == "down up"; }));
    }
}

TEST(a_device_that_never_returns_does_not_keep_the_instance) {
    Ready ready(64 * KIB);
    loop().remove(0, 1);
    loop().remove(1, 1);
    CHECK(ready.pair.until([] { return loop().contexts(0) + loop().contexts(1) == 0; }));
}

// ---- regions on rails ---------------------------------------------------------------------------

namespace {

// The second rail of both ends can register nothing.
Setup second_rail_full(bool strict) {
    const Given options = {{"strict", strict ? "yes" : "no"}};
    return {
        .initiators = options, .targets = options, .devices = [] { loop().limits(2)->max_mr = 0; }};
}

}  // namespace

TEST(a_region_that_one_rail_cannot_have_goes_over_the_other) {
    Pair pair(second_rail_full(false));
    void *full = pair.initiator.open_rail("loop2", 1);
    if (!CHECK(full != nullptr)) return;
    Memory here(64 * KIB, 1), there(64 * KIB);
    void *region = pair.local(here.data, here.size);
    if (!CHECK(region != nullptr)) return;
    const std::string about = pair.initiator.about(region);
    CHECK(about.find("loop0: registered") != std::string::npos);
    CHECK(about.find("loop2: not registered") != std::string::npos);
    CHECK(pair.initiator.logged("loop2"));
    const Told told = pair.tell(there.data, there.size);
    Joint &good = pair.join(), &bad = pair.join(full);
    CHECK_EQ(pair.move(good, TENT_OP_WRITE, here.data, region, there.data, told.remote, KIB),
             TENT_OK);
    const size_t said = pair.initiator.host.logged.size();
    for (int i = 0; i < 5; i++)
        CHECK_EQ(pair.move(bad, TENT_OP_WRITE, here.data, region, there.data, told.remote, KIB),
                 TENT_E_NO_PATH);
    CHECK_EQ(pair.initiator.host.logged.size(), said + 1);   // once
    CHECK_EQ(pair.initiator.news_of(bad.initiators()), 1u);  // the endpoint is well
}

TEST(strict_engines_refuse_a_region_that_one_rail_cannot_have) {
    Pair pair(second_rail_full(true));
    CHECK(pair.initiator.open_rail("loop2", 1) != nullptr);
    Memory here(64 * KIB, 1);
    CHECK(pair.initiator.region(here.data, here.size) == nullptr);
    CHECK(pair.initiator.host.failure.find("loop2") != std::string::npos);
    CHECK_EQ(loop().live("mr"), 0u);
}

TEST(strict_engines_refuse_a_rail_that_cannot_have_their_regions) {
    Pair pair(second_rail_full(true));
    Memory here(64 * KIB, 1);
    CHECK(pair.local(here.data, here.size) != nullptr);
    CHECK(pair.initiator.open_rail("loop2", 1) == nullptr);
    CHECK(pair.initiator.host.failure.find("loop2") != std::string::npos);
    CHECK_EQ(loop().contexts(2), 0u);
    CHECK_EQ(loop().live("mr"), 1u);
}

TEST(a_machine_whose_devices_cannot_be_listed_does_not_say_that_there_is_none) {
    Pair pair;
    loop().fail("get_device_list", 1, EPERM, 0);
    CHECK(pair.initiator.open_rail("loop2", 1) == nullptr);
    CHECK(pair.initiator.host.failure.find("cannot be listed") != std::string::npos);
    CHECK(pair.initiator.open_rail("loop9", 1) == nullptr);
    CHECK(pair.initiator.host.failure.find("no RDMA device loop9") != std::string::npos);
}

TEST(a_rail_that_is_opened_later_has_all_regions) {
    Pair pair;
    Memory here(64 * KIB, 1), there(64 * KIB);
    void *region = pair.local(here.data, here.size);
    const Told told = pair.tell(there.data, there.size);
    void *late_from = pair.initiator.open_rail("loop2", 1);
    void *late_to = pair.target.open_rail("loop3", 1);
    CHECK_EQ(loop().live("mr"), 4u);
    Joint &joint = pair.join(late_from, late_to);
    CHECK_EQ(pair.move(joint, TENT_OP_WRITE, here.data, region, there.data, told.remote, 64 * KIB),
             TENT_OK);
    CHECK(there.is(here, 0, 64 * KIB));
}

TEST(a_rail_that_is_closed_leaves_the_others_their_regions) {
    Ready ready(64 * KIB);
    Pair &pair = ready.pair;
    void *extra = pair.initiator.open_rail("loop2", 1);
    CHECK_EQ(loop().live("mr"), 3u);
    pair.initiator.more_rails.clear();
    rdma()->rail_close(pair.initiator.instance, extra);
    pair.pass(5 * MS);
    CHECK_EQ(loop().live("mr"), 2u);
    CHECK_EQ(loop().contexts(2), 0u);
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
}

TEST(the_same_memory_is_registered_once_and_let_go_with_its_last_region) {
    Pair pair;
    Memory memory(64 * KIB);
    void *first = pair.initiator.region(memory.data, memory.size);
    CHECK_EQ(loop().live("mr"), 1u);
    void *second = pair.initiator.region(memory.data, memory.size);
    void *inside = pair.initiator.region(memory.data + 4 * KIB, 8 * KIB);
    CHECK_EQ(loop().live("mr"), 1u);
    CHECK(pair.release(pair.initiator, first));
    CHECK(pair.release(pair.initiator, inside));
    CHECK_EQ(loop().live("mr"), 1u);
    CHECK(pair.release(pair.initiator, second));
    CHECK_EQ(loop().live("mr"), 0u);
}

TEST(without_windows_each_region_has_a_key_of_its_own) {
    Pair pair({.initiators = {{"windows", "no"}}});
    Memory memory(64 * KIB);
    void *first = pair.local(memory.data, memory.size);
    void *second = pair.local(memory.data, memory.size);
    CHECK(first != nullptr && second != nullptr);
    CHECK_EQ(loop().live("mr"), 2u);
}

TEST(a_region_larger_than_a_registration_may_be_is_cut) {
    Ready ready(5 * MIB, {.devices = [] {
                    for (const uint32_t device : {0u, 1u})
                        loop().limits(device)->max_mr_size = 2 * MIB;
                }});
    CHECK_EQ(loop().live("mr"), 6u);
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 5 * MIB), TENT_OK);
    ready.check_exact();
}

TEST(a_device_without_enough_windows_says_so_and_is_gone_around) {
    Ready ready(64 * KIB, {.devices = [] { loop().limits(1)->max_mw = 1; }});
    CHECK(ready.pair.target.logged("memory windows"));
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, KIB), TENT_E_NO_PATH);
    CHECK(ready.there.is_zero(0, 64 * KIB));
}

TEST(without_windows_a_grant_of_less_than_the_region_allows_gets_no_key) {
    Ready ready(64 * KIB, {.devices = [] { loop().limits(1)->windows = 0; }, .access = READ});
    CHECK_EQ(ready.move(TENT_OP_READ, 0, KIB), TENT_E_NO_PATH);
    CHECK(ready.pair.target.logged("windows"));
}

TEST(paging_on_demand_is_refused_by_devices_that_cannot) {
    Pair pair({.initiators = {{"on_demand", "yes"}, {"strict", "yes"}}});
    Memory memory(64 * KIB);
    CHECK(pair.initiator.region(memory.data, memory.size) == nullptr);
    CHECK(pair.initiator.host.failure.find("on_demand") != std::string::npos);
}

TEST(paging_on_demand_works_where_devices_can) {
    Ready ready(64 * KIB, {.initiators = {{"on_demand", "yes"}, {"strict", "yes"}},
                           .devices = [] { loop().limits(0)->on_demand = 1; }});
    CHECK_EQ(ready.move(TENT_OP_WRITE, 0, 64 * KIB), TENT_OK);
    ready.check_exact();
}

TEST(memory_that_may_only_be_read_is_registered_for_reading) {
    Pair pair;
    Memory memory(64 * KIB, 3);
    mprotect(memory.data, memory.size, PROT_READ);
    void *region = pair.initiator.region(memory.data, memory.size, READ);
    if (CHECK(region != nullptr)) {
        CHECK(pair.initiator.about(region).find("loop0: registered") != std::string::npos);
        pair.locals.push_back(region);
    }
    void *writable = pair.initiator.region(memory.data, memory.size, READ | WRITE);
    if (CHECK(writable != nullptr)) {
        CHECK(pair.initiator.about(writable).find("not registered") != std::string::npos);
        pair.locals.push_back(writable);
    }
}

TEST(reading_into_memory_that_may_only_be_read_is_refused_and_the_endpoint_stays) {
    Memory memory(64 * KIB, 3);
    Ready ready(64 * KIB);
    mprotect(memory.data, memory.size, PROT_READ);
    void *region = ready.pair.local(memory.data, memory.size, READ);
    if (!CHECK(region != nullptr)) return;
    const auto move = [&](uint32_t op) {
        CHECK(ready.pair.post(*ready.joint,
                              ready.pair.slice(op, memory.data, region, ready.there.data,
                                               ready.told.remote, memory.size)));
        CHECK(ready.pair.settle());
        return ready.pair.initiator.statuses.back();
    };
    CHECK_EQ(move(TENT_OP_READ), TENT_E_INVALID);
    CHECK_EQ(move(TENT_OP_WRITE), TENT_OK);
    CHECK(ready.there.is(memory, 0, memory.size));
}

// ---- what a plan may say ------------------------------------------------------------------------

TEST(devices_that_are_not_there_are_refused_with_those_that_are) {
    Pair pair;
    CHECK(pair.initiator.open_rail("mlx5_7", 1) == nullptr);
    CHECK(pair.initiator.host.failure.find("loop3") != std::string::npos);
    CHECK(pair.initiator.open_rail("loop2:2", 1) == nullptr);
    CHECK(pair.initiator.open_rail("loop2:x", 1) == nullptr);
    CHECK_EQ(loop().contexts(2), 0u);
}

TEST(devices_that_connect_otherwise_are_refused) {
    Pair pair({.devices = [] { loop().limits(2)->iwarp = 1; }});
    CHECK(pair.initiator.open_rail("loop2", 1) == nullptr);
    CHECK(pair.initiator.host.failure.find("rdma_cm") != std::string::npos);
}

TEST(rails_reach_each_other_and_nothing_else) {
    Pair pair;
    const auto reach = [&](const char *peer) {
        return rdma()->rail_reach(pair.initiator.instance, pair.initiator.rail, peer);
    };
    CHECK(reach(pair.target.info.address) > 0);
    for (const char *foreign : {"", "127.0.0.1", "roce2 ", "roce2 10.99.0.1/99", "ib fe80::1/64",
                                "roce1 fe80::1/64", "roce2 %s%n", "host"})
        CHECK_EQ(reach(foreign), 0);
}

TEST(a_machine_without_devices_says_what_is_missing) {
    const Fabric fabric({});
    char reason[400] = "";
    CHECK_EQ(rdma()->available(reason, sizeof reason), TENT_OK);
    for (uint32_t device = 0; device < LOOP_DEVICES; device++)
        loop().remove(device, 1);
    CHECK_EQ(rdma()->available(reason, sizeof reason), TENT_E_PLUGIN);
    CHECK(strlen(reason) > 20);
}
