// The keys that two rdma plugins ask each other for: who asks, who answers, and what a peer cannot
// make them do.
#include <algorithm>
#include <cstring>

#include "check.h"
#include "plugins/rdma/messages.h"
#include "rdma_memory.h"

using namespace rdma_memory;

namespace {

Export export_of(uint64_t number = 5, uint64_t length = 8192, uint64_t piece_size = 8192) {
    Export about{};
    about.magic = EXPORT_MAGIC;
    about.version = PROTOCOL_VERSION;
    about.access = ALL;
    memset(about.instance, 7, sizeof about.instance);
    about.number = number;
    about.address = 0x10000;
    about.length = length;
    about.piece_size = piece_size;
    return about;
}

RemoteRegion *imported(World &world, const Export &about) {
    void *handle = nullptr;
    CHECK_EQ(segment_import(&world.instance, &about, sizeof about, &handle), TENT_OK);
    return static_cast<RemoteRegion *>(handle);
}

void answer(Endpoint &endpoint, uint64_t region, int32_t status, uint32_t piece = 0,
            uint32_t piece_count = 1, uint32_t qp_count = 2, uint32_t access = ALL) {
    KeysRead keys{};
    keys.head = {Message::KEYS, status, region, piece, piece_count, qp_count, access};
    if (status == TENT_OK) keys.count = piece_count * qp_count;
    for (uint32_t i = 0; i < keys.count; i++)
        keys.numbers[i] = 1000 * (piece + 1) + i;
    uint8_t bytes[TENT_OFFER_MAX];
    const uint32_t size = keys_write(keys, bytes);
    endpoint_message(endpoint.instance, &endpoint, bytes, size);
}

Want last_want() {
    Want want{};
    CHECK(!World::sent.empty());
    if (!World::sent.empty())
        CHECK(want_read(World::sent.back().bytes.data(),
                        static_cast<uint32_t>(World::sent.back().bytes.size()), &want));
    return want;
}

// What the target answers to a question.
KeysRead asked(World &world, Endpoint &endpoint, uint64_t region, uint32_t piece = 0) {
    const Want want{Message::WANT, piece, region};
    World::sent.clear();
    endpoint_message(&world.instance, &endpoint, &want, sizeof want);
    KeysRead read{};
    CHECK_EQ(World::sent.size(), size_t{1});
    if (World::sent.size() == 1)
        CHECK(keys_read(World::sent[0].bytes.data(),
                        static_cast<uint32_t>(World::sent[0].bytes.size()), &read));
    return read;
}

}  // namespace

// ---- exports ----------------------------------------------------------------------------------

TEST(an_export_tells_what_a_peer_needs_and_no_key) {
    World world(1, false);
    world.instance.options.piece_size = MIB;
    Region *region = world.region(0x100000, 3 * MIB, TENT_ACCESS_READ);
    uint8_t bytes[TENT_EXPORT_MAX];
    uint32_t size = sizeof bytes;
    CHECK_EQ(region_export(&world.instance, region, bytes, &size), TENT_OK);
    Export about{};
    uint32_t piece_count = 0;
    CHECK(export_read(bytes, size, &about, &piece_count));
    CHECK_EQ(piece_count, 3u);
    CHECK_EQ(about.access, TENT_ACCESS_READ);
    CHECK_EQ(about.number, region->number);
    for (const Piece &piece : registration_on(*region, world.rails[0])->pieces)
        CHECK(std::search(bytes, bytes + size, reinterpret_cast<const uint8_t *>(&piece.rkey),
                          reinterpret_cast<const uint8_t *>(&piece.rkey) + 4) == bytes + size);
}

TEST(exports_that_contradict_themselves_are_refused) {
    World world(0);
    const auto refused = [&](const Export &about, uint32_t size = sizeof(Export)) {
        void *handle = nullptr;
        return segment_import(&world.instance, &about, size, &handle) == TENT_E_PROTOCOL;
    };
    Export about = export_of();
    CHECK(refused(about, sizeof about - 1));
    CHECK(refused(about, 0));
    about.magic++;
    CHECK(refused(about));
    about = export_of();
    about.version++;
    CHECK(refused(about));
    about = export_of();
    about.access = 0x8000;
    CHECK(refused(about));
    about = export_of();
    about.length = 0;
    CHECK(refused(about));
    about = export_of();
    about.address = UINT64_MAX - 100;
    CHECK(refused(about));
    about = export_of();
    about.piece_size = 0;
    CHECK(refused(about));
    about = export_of(5, 8192, 100);
    CHECK(refused(about));
    about = export_of(5, (uint64_t{PIECES_MAX} + 1) * 4096, 4096);
    CHECK(refused(about));
    CHECK(world.instance.remote_regions.empty());
}

// ---- keys: who asks ---------------------------------------------------------------------------

TEST(regions_told_before_connect_delay_ready_and_later_ones_do_not) {
    World world(1);
    Endpoint &endpoint = world.endpoint(true);
    RemoteRegion *early = imported(world, export_of(5));
    RemoteRegion *late = imported(world, export_of(6));
    endpoint.state = EndpointState::OFFERED;
    endpoint.risen = false;
    endpoint_region(&world.instance, &endpoint, early);
    CHECK(World::sent.empty());
    endpoint.state = EndpointState::CONNECTING;
    endpoint.risen = true;
    CHECK(!keys_step(endpoint, world.host.now_ns));
    CHECK_EQ(last_want().region, 5u);
    endpoint_region(&world.instance, &endpoint, late);
    CHECK_EQ(last_want().region, 6u);
    answer(endpoint, 5, TENT_OK);
    CHECK(keys_step(endpoint, world.host.now_ns));
    CHECK(keys_of(endpoint, early)->known);
    CHECK(!keys_of(endpoint, late)->known);
    segment_forget(&world.instance, early);
    segment_forget(&world.instance, late);
}

TEST(a_question_is_asked_again_after_20_ms_doubling_to_250) {
    World world(1);
    Endpoint &endpoint = world.endpoint(true);
    RemoteRegion *region = imported(world, export_of());
    endpoint_region(&world.instance, &endpoint, region);
    const uint64_t begin = world.host.now_ns;
    std::vector<uint64_t> asked_ms;
    size_t before = World::sent.size();
    CHECK_EQ(before, size_t{1});
    for (uint64_t ms = 0; ms < 1000; ms++) {
        keys_step(endpoint, begin + ms * 1'000'000);
        if (World::sent.size() != before) asked_ms.push_back(ms);
        before = World::sent.size();
    }
    CHECK(asked_ms == (std::vector<uint64_t>{20, 60, 140, 300, 550, 800}));
    CHECK_EQ(endpoint.keys_due_ns, begin + 1'050'000'000u);
    answer(endpoint, 5, TENT_OK);
    CHECK_EQ(endpoint.keys_due_ns, UINT64_MAX);
    segment_forget(&world.instance, region);
}

TEST(a_full_control_channel_is_tried_again) {
    World world(1);
    Endpoint &endpoint = world.endpoint(true);
    RemoteRegion *region = imported(world, export_of());
    World::channel = TENT_E_AGAIN;
    endpoint_region(&world.instance, &endpoint, region);
    CHECK(World::sent.empty());
    CHECK(endpoint.keys_due_ns > world.host.now_ns);
    World::channel = TENT_OK;
    keys_step(endpoint, endpoint.keys_due_ns);
    CHECK_EQ(World::sent.size(), size_t{1});
    segment_forget(&world.instance, region);
}

TEST(keys_come_piece_by_piece_and_each_answer_counts_once) {
    World world(1);
    Endpoint &endpoint = world.endpoint(true);
    RemoteRegion *region = imported(world, export_of(5, 3 * 4096, 4096));
    endpoint_region(&world.instance, &endpoint, region);
    answer(endpoint, 5, TENT_OK, 1);  // not what was asked for
    answer(endpoint, 5, TENT_OK, 0, 2);
    answer(endpoint, 5, TENT_OK, 0, 2);  // once more
    RemoteKeys *keys = keys_of(endpoint, region);
    CHECK_EQ(keys->next, 2u);
    CHECK(!keys->known);
    CHECK_EQ(last_want().piece, 2u);
    answer(endpoint, 5, TENT_OK, 2, 1, 2, TENT_ACCESS_READ);
    CHECK(keys->known);
    CHECK(keys->keys == (std::vector<uint32_t>{1000, 1001, 1002, 1003, 3000, 3001}));
    CHECK_EQ(keys->access, uint32_t{TENT_ACCESS_READ});
    segment_forget(&world.instance, region);
}

TEST(answers_that_fit_no_question_change_nothing) {
    World world(1);
    Endpoint &endpoint = world.endpoint(true);
    RemoteRegion *region = imported(world, export_of());
    endpoint_region(&world.instance, &endpoint, region);
    answer(endpoint, 99, TENT_OK);
    answer(endpoint, 5, TENT_E_AGAIN);
    CHECK_EQ(keys_of(endpoint, region)->status, TENT_OK);
    answer(endpoint, 5, TENT_OK, 0, 2);  // more pieces than it has
    CHECK_EQ(keys_of(endpoint, region)->status, TENT_E_TRANSPORT);
    CHECK(keys_of(endpoint, region)->keys.empty());
    segment_forget(&world.instance, region);
}

TEST(refusals_are_kept_until_the_region_is_told_again) {
    World world(1);
    Endpoint &endpoint = world.endpoint(true);
    RemoteRegion *region = imported(world, export_of());
    endpoint_region(&world.instance, &endpoint, region);
    answer(endpoint, 5, TENT_E_DENIED);
    RemoteKeys *keys = keys_of(endpoint, region);
    CHECK_EQ(keys->status, TENT_E_DENIED);
    CHECK(keys_step(endpoint, world.host.now_ns + 1'000'000'000));
    CHECK_EQ(World::sent.size(), size_t{1});
    char text[256];
    endpoint_about(&world.instance, &endpoint, region, text, sizeof text);
    CHECK_EQ(text, "unreachable: its grant does not hold all of it");
    endpoint_region(&world.instance, &endpoint, region);
    answer(endpoint, 5, TENT_OK, 0, 1, 2, ALL | KEYS_OF_WINDOWS);
    CHECK(keys->known);
    endpoint_about(&world.instance, &endpoint, region, text, sizeof text);
    CHECK_EQ(text, "rdma write/read, 2 queue pairs, a key per queue pair (memory windows)");
    segment_forget(&world.instance, region);
}

TEST(a_peer_cannot_end_slices_with_any_status_it_likes) {
    World world(1);
    Endpoint &endpoint = world.endpoint(true);
    RemoteRegion *region = imported(world, export_of());
    for (const int32_t status : {1, TENT_IN_PROGRESS, INT32_MIN, TENT_E_UNFENCED_LOCAL}) {
        endpoint_region(&world.instance, &endpoint, region);
        answer(endpoint, 5, status);
        CHECK_EQ(keys_of(endpoint, region)->status, TENT_E_TRANSPORT);
    }
    segment_forget(&world.instance, region);
}

TEST(a_region_of_an_earlier_run_of_the_peer_is_not_asked_for) {
    World world(1);
    Endpoint &endpoint = world.endpoint(true);
    Export about = export_of();
    about.instance[3] ^= 1;
    RemoteRegion *region = imported(world, about);
    endpoint_region(&world.instance, &endpoint, region);
    CHECK(World::sent.empty());
    CHECK_EQ(keys_of(endpoint, region)->status, TENT_E_STALE);
    segment_forget(&world.instance, region);
}

TEST(a_forgotten_region_stays_for_the_slices_that_name_it) {
    World world(1);
    Endpoint &endpoint = world.endpoint(true);
    RemoteRegion *region = imported(world, export_of());
    endpoint_region(&world.instance, &endpoint, region);
    answer(endpoint, 5, TENT_OK);
    RemoteKeys *keys = keys_of(endpoint, region);
    world.instance.slices.resize(4);
    world.instance.slices[2].endpoint = &endpoint;
    world.instance.slices[2].keys = keys;
    endpoint.slices = 1;
    segment_forget(&world.instance, region);
    CHECK_EQ(endpoint.keys_forgotten.size(), size_t{1});
    CHECK_EQ(keys->region->about.number, 5u);  // as the slice would look
    // Its index is another's at once.
    RemoteRegion *next = imported(world, export_of(6));
    CHECK_EQ(next->index, 0u);
    CHECK(keys_of(endpoint, next) == nullptr);
    world.instance.slices[2].endpoint = nullptr;
    endpoint.slices = 0;
    segment_forget(&world.instance, next);
    CHECK(endpoint.keys_forgotten.empty());
}

// ---- keys: who is asked -----------------------------------------------------------------------

TEST(without_windows_the_registrations_keys_are_given_for_each_queue_pair) {
    World world(1, false);
    world.instance.options.piece_size = MIB;
    Endpoint &endpoint = world.endpoint(false);
    Region *region = world.region(0x100000, 3 * MIB);
    world.host.grant(reinterpret_cast<void *>(0x100000), 3 * MIB);
    const KeysRead read = asked(world, endpoint, region->number, 1);
    const Registration *registration = registration_on(*region, world.rails[0]);
    CHECK_EQ(read.head.status, TENT_OK);
    CHECK_EQ(read.head.piece, 1u);
    CHECK_EQ(read.head.piece_count, 2u);
    CHECK_EQ(read.head.access, ALL);
    CHECK_EQ(read.count, 4u);
    for (uint32_t i = 0; i < 4; i++)
        CHECK_EQ(read.numbers[i], registration->pieces[1 + i / 2].rkey);
}

TEST(what_no_grant_holds_is_denied) {
    World world(1, false);
    Endpoint &endpoint = world.endpoint(false);
    Region *region = world.region(0x100000, MIB);
    CHECK_EQ(asked(world, endpoint, region->number).head.status, TENT_E_DENIED);
    // A part of it is not enough: a key reaches all of it.
    world.host.grant(reinterpret_cast<void *>(0x100000), MIB - 1);
    CHECK_EQ(asked(world, endpoint, region->number).head.status, TENT_E_DENIED);
}

TEST(a_key_that_allows_more_than_its_grant_is_given_only_where_windows_are_not_wanted) {
    World world(1, false);
    Endpoint &endpoint = world.endpoint(false);
    Region *region = world.region(0x100000, MIB, ALL);
    world.host.grant(reinterpret_cast<void *>(0x100000), MIB, TENT_OK, TENT_ACCESS_READ);
    const KeysRead refused = asked(world, endpoint, region->number);
    CHECK_EQ(refused.head.status, TENT_E_TRANSPORT);
    CHECK_EQ(refused.count, 0u);
    CHECK_EQ(world.host.logged.size(), size_t{1});
    CHECK(world.host.logged[0].find("rdma.windows=no") != std::string::npos);
    world.instance.options.windows = false;
    const KeysRead read = asked(world, endpoint, region->number);
    CHECK_EQ(read.head.status, TENT_OK);
    CHECK_EQ(read.head.access, uint32_t{TENT_ACCESS_READ});
}

TEST(unknown_and_released_regions_and_pieces_are_out_of_range) {
    World world(1, false);
    Endpoint &endpoint = world.endpoint(false);
    Region *region = world.region(0x100000, MIB);
    world.host.grant(reinterpret_cast<void *>(0x100000), MIB);
    const uint64_t number = region->number;
    CHECK_EQ(asked(world, endpoint, number, 1).head.status, TENT_E_RANGE);
    CHECK_EQ(asked(world, endpoint, number + 1).head.status, TENT_E_RANGE);
    library.dereg_error = EBUSY;
    CHECK_EQ(region_release(&world.instance, region), TENT_IN_PROGRESS);
    CHECK_EQ(asked(world, endpoint, number).head.status, TENT_E_RANGE);
    library.dereg_error = 0;
    CHECK_EQ(region_release(&world.instance, region), TENT_OK);
    CHECK_EQ(asked(world, endpoint, number).head.status, TENT_E_RANGE);
}

TEST(a_region_that_the_rail_cannot_reach_goes_another_way) {
    World world(1, false);
    Endpoint &endpoint = world.endpoint(false);
    library.refuse = [](const Library::Asked &) { return ENOMEM; };
    Region *region = world.region(0x100000, MIB);
    world.host.grant(reinterpret_cast<void *>(0x100000), MIB);
    CHECK_EQ(asked(world, endpoint, region->number).head.status, TENT_E_TRANSPORT);
}

TEST(questions_wait_until_the_queue_pairs_stand_and_no_more_than_64_of_them) {
    World world(1, false);
    Endpoint &endpoint = world.endpoint(false);
    endpoint.risen = false;
    for (uint64_t number = 1; number <= 1000; number++) {
        const Want want{Message::WANT, 0, number};
        endpoint_message(&world.instance, &endpoint, &want, sizeof want);
        endpoint_message(&world.instance, &endpoint, &want, sizeof want);
    }
    CHECK(World::sent.empty());
    CHECK_EQ(endpoint.asked.size(), size_t{64});
    endpoint.risen = true;
    keys_serve(endpoint);
    CHECK_EQ(World::sent.size(), size_t{64});
    CHECK(endpoint.asked.empty());
}
