// How endpoints of the shm transport come up, which way slices then go, and how they end: two
// instances in one process.
//
// Leans on shm_pair.h. Each test is one claim.
#include <sys/wait.h>

#include <algorithm>

#include "check.h"
#include "plugins/shm/jobs.h"
#include "shm_pair.h"

using namespace shm_pair;
using namespace tent::shm;

namespace {

constexpr size_t SIZE = 300000;

// Writes one pattern there and reads it back.
void moves_both_ways(Pair &pair, void *remote, char *theirs, size_t size) {
    std::vector<char> source(size), back(size);
    for (size_t i = 0; i < size; i++)
        source[i] = static_cast<char>(i * 7 + i / 251);
    CHECK(pair.move(TENT_OP_WRITE, source.data(), remote, at(theirs), size));
    CHECK_EQ(memcmp(theirs, source.data(), size), 0);
    CHECK(pair.move(TENT_OP_READ, back.data(), remote, at(theirs), size));
    CHECK(back == source);
}

}  // namespace

TEST(memory_of_the_engine_is_mapped_and_moves_both_ways) {
    Pair pair;
    Memory memory(SIZE);
    Told &told = pair.tell(memory.data, SIZE, memory.fd);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK_EQ(pair.about(told.remote), "mapped");
    moves_both_ways(pair, told.remote, memory.data, SIZE);
}

TEST(a_region_within_an_allocation_is_mapped_where_it_lies) {
    Pair pair;
    Memory memory(1 << 20);
    Told &told = pair.tell(memory.data + 5000, SIZE, memory.fd, 5000);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK_EQ(pair.about(told.remote), "mapped");
    // Its pages alone.
    CHECK(static_cast<RemoteRegion *>(told.remote)->mapping_size <= SIZE + 2 * 4096);
    moves_both_ways(pair, told.remote, memory.data + 5000, SIZE);
}

TEST(other_memory_goes_by_cross_memory_attach) {
    Pair pair;
    std::vector<char> memory(SIZE);
    Told &told = pair.tell(memory.data(), SIZE);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK_EQ(pair.about(told.remote), "process_vm (cross-memory attach)");
    CHECK_EQ(pair.about(nullptr), "process_vm (cross-memory attach)");
    moves_both_ways(pair, told.remote, memory.data(), SIZE);
}

TEST(without_attach_a_ring_serves_and_says_why) {
    Pair pair(Given{{"attach", "no"}});
    std::vector<char> memory(SIZE);
    Told &told = pair.tell(memory.data(), SIZE);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK_EQ(pair.about(told.remote), "ring (two copies): shm.attach=no");
    moves_both_ways(pair, told.remote, memory.data(), SIZE);
}

TEST(the_targets_word_on_attach_counts_too) {
    Pair pair({}, Given{{"attach", "no"}});
    std::vector<char> memory(SIZE);
    Told &told = pair.tell(memory.data(), SIZE);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK_EQ(pair.about(told.remote), "ring (two copies): the peer has shm.attach=no");
    moves_both_ways(pair, told.remote, memory.data(), SIZE);
}

TEST(with_no_way_left_the_endpoint_fails_and_says_all_reasons) {
    Pair pair(Given{{"attach", "no"}, {"mapped", "no"}}, Given{{"ring", "no"}});
    CHECK_EQ(pair.join(), TENT_E_TRANSPORT);
    const std::string &sentence = pair.initiator.host.news.back().sentence;
    CHECK(sentence.find("process_vm: shm.attach=no") != std::string::npos);
    CHECK(sentence.find("ring: the peer has shm.ring=no") != std::string::npos);
}

TEST(with_mapping_alone_other_memory_is_unreachable_and_mapped_memory_is_not) {
    Pair pair(Given{{"attach", "no"}, {"ring", "no"}});
    Memory memory(4096);
    std::vector<char> heap(100);
    void *mapped = pair.tell(memory.data, 4096, memory.fd).remote;
    void *other = pair.tell(heap.data(), heap.size()).remote;
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK_EQ(pair.about(other),
             "unreachable: not mapped: its memory was not allocated by the engine; process_vm: "
             "shm.attach=no; ring: shm.ring=no");
    char byte = 'x';
    CHECK(!pair.move(TENT_OP_WRITE, &byte, other, at(heap.data()), 1));
    CHECK_EQ(pair.initiator.statuses.back(), TENT_E_NO_PATH);
    CHECK(!pair.move(TENT_OP_WRITE, &byte, other, at(heap.data()), 1));
    CHECK_EQ(pair.initiator.host.logged.size(), size_t{1});  // once
    CHECK(pair.move(TENT_OP_WRITE, &byte, mapped, at(memory.data), 1));
}

TEST(every_reason_against_attach_says_what_to_change) {
    const auto has = [](const std::string &text, const char *words) {
        return text.find(words) != std::string::npos;
    };
    CHECK(has(attach_forbidden(EPERM, 1, 0, 0), "kernel.yama.ptrace_scope=1"));
    CHECK(has(attach_forbidden(EPERM, 2, 0, 0), "CAP_SYS_PTRACE"));
    CHECK(has(attach_forbidden(EPERM, 3, 0, 0), "next boot"));
    CHECK(has(attach_forbidden(EPERM, -1, 1000, 1001), "the peer is user 1001, we are 1000"));
    CHECK(has(attach_forbidden(EPERM, 0, 5, 5), "not dumpable"));
    CHECK(has(attach_forbidden(ENOSYS, 0, 5, 5), "seccomp"));
    CHECK(has(attach_forbidden(ESRCH, 0, 5, 5), "No such process"));
}

TEST(places_tell_machines_namespaces_and_users_apart) {
    Place own{};
    if (!CHECK(place_read(&own))) return;
    const auto reach = [&](const Place &peer, bool open = false) {
        return place_reach(own, place_text(peer, open).c_str());
    };
    CHECK_EQ(reach(own), 2);
    Place other = own;
    other.boot[15] ^= 1;
    CHECK_EQ(reach(other), 0);
    other = own;
    other.pid_namespace += 1;
    CHECK_EQ(reach(other), 1);
    other = own;
    other.ipc_namespace += 1;
    CHECK_EQ(reach(other), 1);
    other = own;
    other.uid += 1;
    CHECK_EQ(reach(other), 0);
    CHECK_EQ(reach(other, true), 1);  // it lets others in
    for (const char *foreign : {"", "10.0.0.1", "0123456789abcdef0123456789abcdef", "-", "fe80::1"})
        CHECK_EQ(place_reach(own, foreign), 0);
}

TEST(the_longest_place_fits_into_an_address) {
    Place place{};
    memset(&place, 0xff, sizeof place);
    CHECK(place_text(place, true).size() < size_t{TENT_RAIL_ADDRESS_MAX});
}

TEST(options_are_read_and_bad_ones_named) {
    const auto failure = [](const char *name, const char *value) {
        Folder folder;
        Side side(folder, {{name, value}});
        return side.status == TENT_OK ? std::string() : side.host.failure;
    };
    CHECK_EQ(failure("mapped", "maybe"), "shm option mapped=maybe: expected yes or no");
    CHECK_EQ(failure("ring_chunk", "1k"),
             "shm option ring_chunk=1k: expected a size from 4k to 16m");
    CHECK_EQ(failure("users", "12,x"),
             "shm option users=12,x: expected at most 64 user numbers, separated by commas: "
             "1000,1001");
    CHECK(!failure("users", "12,").empty() && !failure("users", ",").empty());
    CHECK(failure("users", "12,13").empty());
    CHECK(failure("chunks", "3").find("shm has no option 'chunks'; it knows mapped, attach") == 0);
    CHECK(failure("directory", "relative").find("expected an absolute path") != std::string::npos);
    Folder folder;
    Side none(folder, {{"mapped", "no"}, {"attach", "no"}, {"ring", "no"}});
    CHECK_EQ(none.status, TENT_E_INVALID);
    Options preset;
    char sentence[200];
    for (uint32_t i = 0; i < OPTION_COUNT; i++) {
        const tent_option option{OPTION_INFOS[i].name, OPTION_INFOS[i].preset};
        CHECK_EQ(option_read(option, &preset, sentence, sizeof sentence), TENT_OK);
    }
    const Options fresh;  // the list's presets are the struct's
    CHECK(preset.mapped == fresh.mapped && preset.attach == fresh.attach &&
          preset.ring == fresh.ring && preset.prefault == fresh.prefault &&
          preset.nontemporal_min == fresh.nontemporal_min &&
          preset.inline_max == fresh.inline_max &&
          preset.ring_chunk_size == fresh.ring_chunk_size &&
          preset.ring_chunk_count == fresh.ring_chunk_count &&
          preset.connect_timeout_ns == fresh.connect_timeout_ns);
}

TEST(a_rail_is_the_host_and_nothing_else) {
    Folder folder;
    Side side(folder);
    void *rail = nullptr;
    tent_rail_info info{};
    tent_rail_params params{};
    params.device = "eth0";
    CHECK_EQ(shm()->rail_open(side.instance, &params, &rail, &info), TENT_E_INVALID);
    CHECK_EQ(side.host.failure, "shm has no device 'eth0'; its one device is 'host'");
    const tent_option option{"gbps", "4"};
    params.device = "host";
    params.options = &option;
    params.option_count = 1;
    CHECK_EQ(shm()->rail_open(side.instance, &params, &rail, &info), TENT_E_INVALID);
}

// ---- an end ----------------------------------------------------------------------------------

TEST(results_that_were_not_polled_outlive_the_close) {
    Pair pair(Given{{"attach", "no"}});
    std::vector<char> memory(SIZE), bytes(SIZE);
    Told &told = pair.tell(memory.data(), SIZE);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    for (int i = 0; i < 8; i++)
        CHECK(pair.initiator.post_to(pair.from, TENT_OP_WRITE, bytes.data(), told.remote,
                                     at(memory.data()), SIZE));
    CHECK_EQ(shm()->endpoint_close(pair.initiator.instance, pair.from), TENT_OK);
    pair.from = nullptr;
    for (int i = 0; i < 10; i++)
        pair.initiator.poll();
    CHECK_EQ(pair.initiator.returned, 8u);
    CHECK_EQ(pair.initiator.returned_twice, 0u);
    CHECK(std::all_of(pair.initiator.statuses.begin(), pair.initiator.statuses.end(),
                      [](int32_t status) { return status == TENT_E_CANCELLED; }));
    CHECK(pair.initiator.inside().endpoints.empty());
}

TEST(every_call_bears_an_endpoint_in_any_state) {
    for (const int stage : {0, 1, 2, 3}) {
        Pair pair;
        std::vector<char> memory(100);
        Told &told = pair.tell(memory.data(), 100);
        CHECK_EQ(pair.make_offer(), TENT_OK);
        if (stage > 0) CHECK_EQ(pair.accept(), TENT_OK);
        if (stage > 1) CHECK_EQ(pair.connect(), TENT_OK);
        if (stage > 2) CHECK_EQ(pair.wait(), TENT_OK);
        if (stage > 2) endpoint_fail(pair.initiators(), TENT_E_TRANSPORT, "for the test");
        shm()->endpoint_region(pair.initiator.instance, pair.from, told.remote);
        CHECK(pair.about(told.remote).find("unreachable: ") == 0 || stage > 2);
        char byte = 'x';
        CHECK(!pair.initiator.post_to(pair.from, TENT_OP_WRITE, &byte, told.remote,
                                      at(memory.data()), 1));
        CHECK_EQ(shm()->endpoint_progress(pair.initiator.instance, pair.from), uint64_t{0});
        pair.step(3);
    }
}

TEST(an_engine_that_closes_takes_its_peers_endpoints_down) {
    Pair pair;
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK_EQ(shm()->endpoint_retire(pair.target.instance, pair.to), TENT_OK);
    pair.to = nullptr;
    for (int i = 0; i < 100 && pair.initiator.host.news.size() < 2; i++)
        pair.initiator.poll();
    CHECK_EQ(pair.initiator.host.state_of(Pair::INITIATOR), TENT_E_PEER);
}

TEST(an_idle_engine_may_sleep_and_is_woken) {
    Pair pair;
    Memory memory(4096);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    pair.step(8);
    const auto sleeps = [](Side &side) { return shm()->next_ns(side.instance) == UINT64_MAX; };
    pollfd wait{shm()->event_fd(pair.target.instance), POLLIN, 0};
    CHECK(sleeps(pair.initiator) && sleeps(pair.target));
    CHECK_EQ(poll(&wait, 1, 0), 0);
    Told &told = pair.tell(memory.data, 4096, memory.fd);
    shm()->endpoint_region(pair.initiator.instance, pair.from, told.remote);
    CHECK_EQ(poll(&wait, 1, 0), 1);
}

TEST(a_sleeping_target_of_a_ring_is_rung_for) {
    Pair pair(Given{{"attach", "no"}});
    std::vector<char> memory(100);
    Told &told = pair.tell(memory.data(), 100);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    pair.step(8);
    CHECK_EQ(shm()->next_ns(pair.target.instance), UINT64_MAX);
    pollfd wait{shm()->event_fd(pair.target.instance), POLLIN, 0};
    CHECK_EQ(poll(&wait, 1, 0), 0);
    char byte = 'x';
    CHECK(
        pair.initiator.post_to(pair.from, TENT_OP_WRITE, &byte, told.remote, at(memory.data()), 1));
    pair.initiator.poll();
    CHECK_EQ(poll(&wait, 1, 0), 1);
    CHECK(pair.settle());
    CHECK_EQ(memory[0], 'x');
}
