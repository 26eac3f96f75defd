// Regions of the shm transport: mapped as the grant allows, ended so that nobody copies after it,
// never mistaken for those of another run; and that endpoints wait for who copies.
//
// Leans on shm_pair.h. Each test is one claim.
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "check.h"
#include "shm_pair.h"

using namespace shm_pair;
using namespace tent::shm;

namespace {

bool says(const std::string &text, const char *words) {
    return text.find(words) != std::string::npos;
}

Board &board_of(const Pair &pair) {
    return *pair.initiators().board;
}

int32_t released(Pair &pair, size_t index) {
    const int32_t status = shm()->region_release(pair.target.instance, pair.told[index].region);
    if (status == TENT_OK) pair.told[index].region = nullptr;
    return status;
}

// A line of /proc/self/maps that holds the address; "": not mapped.
std::string mapping_of(const void *address) {
    std::ifstream maps("/proc/self/maps");
    std::string line;
    while (std::getline(maps, line)) {
        unsigned long begin = 0, end = 0;
        if (sscanf(line.c_str(), "%lx-%lx", &begin, &end) == 2 && at(address) >= begin &&
            at(address) < end)
            return line;
    }
    return "";
}

}  // namespace

TEST(a_read_only_grant_is_mapped_read_only_by_the_kernel) {
    Pair pair;
    Memory memory(8192);
    memcpy(memory.data, "to be read", 10);
    pair.target.host.grant(memory.data, 8192, TENT_OK, TENT_ACCESS_READ);
    Told &told = pair.tell(memory.data, 8192, memory.fd, 0, false);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK_EQ(pair.about(told.remote), "mapped read-only");
    auto *region = static_cast<RemoteRegion *>(told.remote);
    CHECK(says(mapping_of(region->base), " r--s "));
    CHECK(mprotect(region->mapping, region->mapping_size, PROT_READ | PROT_WRITE) != 0);
    char bytes[10] = {};
    CHECK(pair.move(TENT_OP_READ, bytes, told.remote, at(memory.data), 10));
    CHECK_EQ(memcmp(bytes, "to be read", 10), 0);
    CHECK(!pair.move(TENT_OP_WRITE, bytes, told.remote, at(memory.data) + 20, 10));
    CHECK_EQ(pair.initiator.statuses.back(), TENT_E_DENIED);
    CHECK_EQ(memory.data[20], '\0');
}

TEST(a_grant_to_write_alone_is_not_mapped) {
    Pair pair;
    Memory memory(8192);
    pair.target.host.grant(memory.data, 8192, TENT_OK, TENT_ACCESS_WRITE);
    Told &told = pair.tell(memory.data, 8192, memory.fd, 0, false);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK(says(pair.about(told.remote), "process_vm (cross-memory attach); not mapped: refused: "));
    CHECK(says(pair.about(told.remote), "could be read"));
}

TEST(either_side_may_refuse_to_map) {
    for (const bool own : {true, false}) {
        const Given no = {{"mapped", "no"}};
        Pair pair(own ? no : Given{}, own ? Given{} : no);
        Memory memory(8192);
        Told &told = pair.tell(memory.data, 8192, memory.fd);
        if (!CHECK_EQ(pair.join(), TENT_OK)) return;
        CHECK(says(pair.about(told.remote), "process_vm"));
        char byte = 'x';
        CHECK(pair.move(TENT_OP_WRITE, &byte, told.remote, at(memory.data), 1));
        CHECK_EQ(memory.data[0], 'x');
    }
}

TEST(a_region_that_comes_later_goes_otherwise_until_it_is_mapped) {
    Pair pair;
    Memory memory(8192);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    Told &told = pair.tell(memory.data, 8192, memory.fd);
    shm()->endpoint_region(pair.initiator.instance, pair.from, told.remote);
    CHECK(says(pair.about(told.remote), "process_vm (cross-memory attach); not mapped: asked for"));
    char byte = 'x';
    CHECK(pair.initiator.post_to(pair.from, TENT_OP_WRITE, &byte, told.remote, at(memory.data), 1));
    pair.initiator.poll();  // the target does nothing for it
    CHECK_EQ(memory.data[0], 'x');
    pair.step(4);
    CHECK_EQ(pair.about(told.remote), "mapped");
    byte = 'y';
    CHECK(pair.move(TENT_OP_WRITE, &byte, told.remote, at(memory.data), 1));
    CHECK_EQ(memory.data[0], 'y');
}

TEST(hundreds_of_regions_are_mapped_before_the_endpoint_is_ready) {
    Pair pair;
    constexpr size_t COUNT = 300, STEP = 4096;
    Memory memory(COUNT * STEP);
    for (size_t i = 0; i < COUNT; i++)
        pair.tell(memory.data + i * STEP, STEP, memory.fd, i * STEP);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK(std::all_of(pair.told.begin(), pair.told.end(),
                      [&](const Told &told) { return pair.about(told.remote) == "mapped"; }));
}

TEST(a_released_region_is_out_of_range_and_never_read_as_data) {
    for (const int way : {0, 1, 2}) {
        Pair pair(way == 2 ? Given{{"attach", "no"}} : Given{});
        Memory memory(8192);
        Told &told = pair.tell(memory.data, 8192, way == 0 ? memory.fd : -1);
        if (!CHECK_EQ(pair.join(), TENT_OK)) return;
        CHECK_EQ(released(pair, 0), TENT_OK);
        pair.target.host.grants.clear();
        char bytes[4] = {'a', 'b', 'c', 'd'};
        CHECK(!pair.move(TENT_OP_READ, bytes, told.remote, at(memory.data), 4));
        CHECK_EQ(pair.initiator.statuses.back(), TENT_E_RANGE);
        CHECK_EQ(memcmp(bytes, "abcd", 4), 0);
    }
}

TEST(a_release_waits_for_who_copies_and_for_nobody_else) {
    Pair pair;
    Memory memory(8192);
    pair.tell(memory.data, 8192, memory.fd);
    pair.tell(memory.data, 4096, memory.fd);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK(lane_enter(board_of(pair), 3));
    CHECK_EQ(released(pair, 0), TENT_IN_PROGRESS);
    CHECK_EQ(released(pair, 0), TENT_IN_PROGRESS);
    lane_leave(board_of(pair), 3);
    CHECK(lane_enter(board_of(pair), 4));  // it began when the generation had ended
    CHECK_EQ(released(pair, 0), TENT_OK);
    lane_leave(board_of(pair), 4);
    CHECK_EQ(released(pair, 1), TENT_OK);
}

TEST(a_slot_that_serves_another_region_has_another_generation) {
    Pair pair;
    Memory memory(8192);
    pair.tell(memory.data, 4096, memory.fd);
    const Export first = static_cast<RemoteRegion *>(pair.told[0].remote)->about;
    CHECK_EQ(released(pair, 0), TENT_OK);
    pair.tell(memory.data, 4096, memory.fd);
    const Export second = static_cast<RemoteRegion *>(pair.told[1].remote)->about;
    CHECK_EQ(first.slot, second.slot);
    CHECK(first.generation != second.generation);
}

TEST(a_retired_endpoint_waits_for_who_copies_and_lets_nobody_begin) {
    Pair pair;
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK(lane_enter(board_of(pair), 0));
    CHECK_EQ(shm()->endpoint_retire(pair.target.instance, pair.to), TENT_IN_PROGRESS);
    CHECK(!lane_enter(board_of(pair), 1));
    CHECK_EQ(shm()->endpoint_retire(pair.target.instance, pair.to), TENT_IN_PROGRESS);
    lane_leave(board_of(pair), 0);
    CHECK_EQ(shm()->endpoint_retire(pair.target.instance, pair.to), TENT_OK);
    pair.to = nullptr;
}

TEST(slices_on_a_retired_endpoint_go_elsewhere_and_write_nothing) {
    Pair pair;
    Memory memory(8192);
    Told &told = pair.tell(memory.data, 8192, memory.fd);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK_EQ(shm()->endpoint_retire(pair.target.instance, pair.to), TENT_OK);
    pair.to = nullptr;
    char byte = 'x';
    CHECK(pair.initiator.post_to(pair.from, TENT_OP_WRITE, &byte, told.remote, at(memory.data), 1));
    CHECK(pair.settle());
    const int32_t status = pair.initiator.statuses.back();
    CHECK(status == TENT_E_TRANSPORT || status == TENT_E_PEER || status == TENT_E_CANCELLED);
    CHECK_EQ(memory.data[0], '\0');
    // The slice may be back before the socket was looked at.
    pair.until([&] { return pair.initiator.host.state_of(Pair::INITIATOR) != TENT_OK; });
    CHECK_EQ(pair.initiator.host.state_of(Pair::INITIATOR), TENT_E_PEER);
}

TEST(regions_of_another_run_of_the_peer_are_stale) {
    Pair before, pair;
    Memory memory(8192);
    before.target.host.grant(memory.data, 8192);
    void *region = before.target.register_region(memory.data, 8192, memory.fd);
    void *remote = pair.initiator.imported(before.target.exported(region));
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    shm()->endpoint_region(pair.initiator.instance, pair.from, remote);
    pair.step(4);
    char byte = 'x';
    CHECK(!pair.move(TENT_OP_WRITE, &byte, remote, at(memory.data), 1));
    CHECK_EQ(pair.initiator.statuses.back(), TENT_E_STALE);
    CHECK_EQ(memory.data[0], '\0');
    shm()->segment_forget(pair.initiator.instance, remote);
    CHECK_EQ(shm()->region_release(before.target.instance, region), TENT_OK);
}

TEST(a_forgotten_region_is_unmapped) {
    Pair pair;
    Memory memory(8192);
    Told &told = pair.tell(memory.data, 8192, memory.fd);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    const void *base = static_cast<RemoteRegion *>(told.remote)->base;
    CHECK(!mapping_of(base).empty());
    shm()->segment_forget(pair.initiator.instance, told.remote);
    told.remote = nullptr;
    CHECK(!says(mapping_of(base), "tent-test"));
}

TEST(what_one_endpoint_asked_for_and_did_not_get_another_gets) {
    Pair pair;
    Memory memory(8192);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    void *first_from = pair.from, *first_to = pair.to;
    if (!CHECK_EQ(pair.make_offer(12), TENT_OK) || !CHECK_EQ(pair.accept(23), TENT_OK)) return;
    if (!CHECK_EQ(pair.connect(12), TENT_OK) || !CHECK_EQ(pair.wait(12), TENT_OK)) return;
    Told &told = pair.tell(memory.data, 8192, memory.fd);
    shm()->endpoint_region(pair.initiator.instance, first_from, told.remote);
    shm()->endpoint_region(pair.initiator.instance, pair.from, told.remote);
    CHECK_EQ(shm()->endpoint_retire(pair.target.instance, first_to), TENT_OK);
    CHECK_EQ(shm()->endpoint_close(pair.initiator.instance, first_from), TENT_OK);
    pair.step(6);
    CHECK_EQ(pair.about(told.remote), "mapped");
}

TEST(an_endpoint_stands_though_another_dropped_its_questions_meanwhile) {
    Pair pair(Given{{"attach", "no"}});
    Memory memory(8192);
    std::vector<char> other(4096);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    void *first_from = pair.from, *first_to = pair.to;
    Told plain = pair.tell(other.data(), other.size());
    if (!CHECK_EQ(pair.make_offer(12), TENT_OK) || !CHECK_EQ(pair.accept(23), TENT_OK)) return;
    shm()->endpoint_region(pair.initiator.instance, pair.from, plain.remote);
    if (!CHECK_EQ(pair.connect(12), TENT_OK)) return;
    for (int i = 0; i < 100 && !pair.initiators().ring_asked; i++)
        pair.step();
    for (int i = 0; i < 3; i++)
        pair.target.poll();  // it has given the ring
    const Told &told = pair.tell(memory.data, 8192, memory.fd);
    shm()->endpoint_region(pair.initiator.instance, first_from, told.remote);
    CHECK_EQ(shm()->endpoint_close(pair.initiator.instance, first_from), TENT_OK);
    CHECK_EQ(pair.wait(12), TENT_OK);
    while (shm()->endpoint_retire(pair.target.instance, first_to) != TENT_OK)
        pair.step();
}

TEST(many_regions_of_one_allocation_need_one_descriptor) {
    Pair pair;
    Memory memory(64 * 4096);
    const size_t before = open_descriptors();
    for (uint64_t i = 0; i < 64; i++)
        pair.tell(memory.data + i * 4096, 4096, memory.fd, i * 4096);
    CHECK_EQ(open_descriptors(), before + 1);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    for (const Told &told : pair.told)
        CHECK_EQ(pair.about(told.remote), "mapped");
    pair.close();
    Memory another(4096);
    void *last = pair.target.register_region(another.data, 4096, another.fd);
    for (Told &told : pair.told) {
        CHECK_EQ(shm()->region_release(pair.target.instance, told.region), TENT_OK);
        told.region = nullptr;
    }
    CHECK_EQ(pair.target.inside().files.size(), size_t{1});
    CHECK_EQ(shm()->region_release(pair.target.instance, last), TENT_OK);
    CHECK_EQ(pair.target.inside().files.size(), size_t{0});
}

TEST(with_too_many_mappings_a_region_goes_otherwise_and_says_so) {
    Pair pair;
    Memory memory(4096);
    const Told told = pair.tell(memory.data, 4096, memory.fd);
    uint32_t &count = pair.initiator.inside().mapping_count;
    count = 16384;
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK(says(pair.about(told.remote), "process_vm"));
    CHECK(says(pair.about(told.remote), "not mapped: 16384 regions"));
    CHECK_EQ(count, 16384u);
    count = 0;
}

TEST(bytes_that_peers_copy_are_counted_at_the_target) {
    Pair pair;
    Memory memory(8192);
    std::vector<char> heap(5000), bytes(5000);
    Told mapped = pair.tell(memory.data, 8192, memory.fd);
    Told other = pair.tell(heap.data(), heap.size());
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    CHECK(pair.move(TENT_OP_WRITE, bytes.data(), mapped.remote, at(memory.data), 5000));
    CHECK(pair.move(TENT_OP_WRITE, bytes.data(), other.remote, at(heap.data()), 5000));
    CHECK(pair.move(TENT_OP_READ, bytes.data(), other.remote, at(heap.data()), 700));
    pair.close();
    CHECK_EQ(pair.target.host.served_write, uint64_t{10000});
    CHECK_EQ(pair.target.host.served_read, uint64_t{700});
}

TEST(only_pages_that_the_peer_has_are_filled_ahead) {
    Pair pair;
    constexpr size_t SIZE = 32 << 20;
    Memory memory(SIZE);
    memset(memory.data + (8 << 20), 1, 1 << 20);
    Told &told = pair.tell(memory.data, SIZE, memory.fd);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    for (int i = 0; i < 200 && !pair.initiator.inside().populating.empty(); i++)
        pair.step();
    CHECK(pair.initiator.inside().populating.empty());
    struct stat about{};
    CHECK_EQ(fstat(memory.fd, &about), 0);
    CHECK(static_cast<size_t>(about.st_blocks) * 512 <= size_t{4} << 20);  // nothing was allocated
    CHECK_EQ(pair.about(told.remote), "mapped");
}

TEST(a_table_that_is_full_leaves_the_region_to_others) {
    Pair pair;
    std::vector<char> memory(64);
    Instance &target = pair.target.inside();
    target.regions.resize(REGIONS_MAX);  // as if all were taken
    Told &told = pair.tell(memory.data(), memory.size());
    if (!CHECK(told.remote != nullptr)) return;
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    char byte = 'x';
    CHECK(!pair.move(TENT_OP_WRITE, &byte, told.remote, at(memory.data()), 1));
    CHECK_EQ(pair.initiator.statuses.back(), TENT_E_NO_PATH);
    CHECK_EQ(pair.initiator.host.logged.size(), size_t{1});
    CHECK(says(pair.initiator.host.logged[0], "unreachable"));
}
