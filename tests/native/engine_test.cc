// The engine end to end through the public C interface, over real TCP rails on loopback: claims
// about data, statuses, limits and ends. One process holds both engines.
#include <sched.h>

#include <thread>

#include "base/numa.h"
#include "engine_pair.h"

namespace {

constexpr uint64_t SECOND = 1000000000u;
constexpr char FOUR_RAILS[] =
    "plan 1\nrail 0 tcp 127.0.0.1\nrail 1 tcp 127.0.0.2\nrail 2 tcp 127.0.0.3\nrail 3 tcp "
    "127.0.0.4\n"
    "set slice_size=64k\nroute * : tcp[0 1 2 3]\n";

tent_counters engine_counters(tent_engine *engine) {
    tent_counters row{};
    uint32_t count = 1;
    OK(tent_counters_read(engine, TENT_COUNTERS_ENGINE, &row, sizeof row, &count));
    return row;
}

}  // namespace

TEST(write_and_read_back_one_request) {
    EnginePair pair(1 << 20);
    fill_pattern(pair.local, 1);
    std::vector<uint8_t> sent = pair.local;
    OK(pair.transfer(TENT_OP_WRITE, 0, 1 << 20));
    CHECK(pair.remote == sent);
    memset(pair.local.data(), 0, pair.local.size());
    OK(pair.transfer(TENT_OP_READ, 0, 1 << 20));
    CHECK(pair.local == sent);
}

TEST(odd_sizes_touch_nothing_else) {
    EnginePair pair(3 << 20);
    for (uint64_t size : {1u, 7u, 4095u, 65537u, 1048577u}) {
        fill_pattern(pair.local, size);
        memset(pair.remote.data(), 0xee, pair.remote.size());
        OK(pair.transfer(TENT_OP_WRITE, 3, size));
        CHECK(memcmp(pair.remote.data() + 3, pair.local.data() + 3, size) == 0);
        CHECK_EQ(pair.remote[2], 0xee);
        CHECK_EQ(pair.remote[3 + size], 0xee);
    }
}

TEST(four_rails_share_a_large_transfer) {
    EnginePair pair(16 << 20, FOUR_RAILS);
    fill_pattern(pair.local, 4);
    OK(pair.transfer(TENT_OP_WRITE, 0, 16 << 20));
    CHECK(pair.remote == pair.local);
    tent_counters rows[4];
    uint32_t count = 4;
    OK(tent_counters_read(pair.initiator.engine, TENT_COUNTERS_RAIL, rows, sizeof rows[0], &count));
    CHECK_EQ(count, 4u);
    uint64_t sum = 0;
    for (const tent_counters &row : rows) {
        CHECK(row.bytes_written > 0);
        CHECK_EQ(row.charged_bytes, row.released_bytes);
        sum += row.bytes_written;
    }
    CHECK_EQ(sum, 16u << 20);
}

TEST(thousands_of_small_requests_each_complete_once) {
    EnginePair pair(8 << 20, FOUR_RAILS);
    fill_pattern(pair.local, 5);
    constexpr uint32_t COUNT = 2000;
    std::vector<tent_request> requests;
    for (uint32_t i = 0; i < COUNT; i++)
        requests.push_back(pair.request(TENT_OP_WRITE, i * 4096ull, 4096, i + 100));
    tent_batch_options options{};
    options.size = sizeof options;
    options.completions = TENT_COMPLETIONS_EACH;
    uint64_t batch = 0;
    OK(tent_batch_open(pair.initiator.engine, &options, &batch));
    uint32_t index = 0;
    OK(tent_batch_submit(pair.initiator.engine, batch, requests.data(), sizeof requests[0], COUNT,
                         0, &index));
    CHECK_EQ(index, COUNT);
    OK(tent_batch_wait(pair.initiator.engine, batch, 10 * SECOND));
    std::vector<uint32_t> seen(COUNT);
    tent_completion completions[128];
    for (;;) {
        uint32_t count = 128;
        OK(tent_completions_poll(pair.initiator.engine, completions, sizeof completions[0],
                                 &count));
        if (count == 0) break;
        for (uint32_t i = 0; i < count; i++) {
            CHECK_EQ(completions[i].status, TENT_OK);
            CHECK_EQ(completions[i].bytes, 4096u);
            CHECK_EQ(completions[i].user_data, completions[i].index + 100u);
            seen[completions[i].index]++;
        }
    }
    for (uint32_t times : seen)
        CHECK_EQ(times, 1u);
    OK(tent_batch_close(pair.initiator.engine, batch));
    CHECK(memcmp(pair.remote.data(), pair.local.data(), COUNT * 4096ull) == 0);
}

TEST(invalid_requests_refuse_the_whole_call_and_name_the_index) {
    EnginePair pair(1 << 20);
    uint64_t batch = 0;
    OK(tent_batch_open(pair.initiator.engine, nullptr, &batch));
    auto submit = [&](tent_request bad, int32_t expected) {
        tent_request both[2] = {pair.request(TENT_OP_WRITE, 0, 4096), bad};
        uint32_t index = 99;
        int32_t status =
            tent_batch_submit(pair.initiator.engine, batch, both, sizeof both[0], 2, 0, &index);
        CHECK_EQ(status, expected);
        CHECK_EQ(index, 1u);
        CHECK(strstr(tent_last_error(), "request 1") != nullptr);
    };
    submit(pair.request(TENT_OP_WRITE, 0, 0), TENT_E_INVALID);
    submit(pair.request(TENT_OP_WRITE, 1, 1 << 20), TENT_E_RANGE);
    submit(pair.request(TENT_OP_WRITE, 0, UINT64_MAX), TENT_E_INVALID);
    submit(pair.request(7, 0, 1), TENT_E_INVALID);
    tent_request r = pair.request(TENT_OP_WRITE, 0, 16);
    r.remote = 64;
    submit(r, TENT_E_RANGE);
    r = pair.request(TENT_OP_WRITE, 0, 16);
    r.segment += 12345u << 16;
    submit(r, TENT_E_NOT_FOUND);
    CHECK_EQ(tent_batch_poll(pair.initiator.engine, batch), TENT_OK);
    OK(tent_batch_close(pair.initiator.engine, batch));
    CHECK_EQ(engine_counters(pair.initiator.engine).requests, 0u);
}

TEST(overlaps_are_refused_on_request) {
    EnginePair pair(1 << 20);
    tent_batch_options options{};
    options.size = sizeof options;
    options.flags = TENT_BATCH_CHECK_OVERLAP;
    uint64_t batch = 0;
    OK(tent_batch_open(pair.initiator.engine, &options, &batch));
    tent_request requests[2] = {pair.request(TENT_OP_WRITE, 0, 4096),
                                pair.request(TENT_OP_WRITE, 4095, 10)};
    uint32_t index = 0;
    CHECK_EQ(
        tent_batch_submit(pair.initiator.engine, batch, requests, sizeof requests[0], 2, 0, &index),
        TENT_E_OVERLAP);
    requests[1] = pair.request(TENT_OP_WRITE, 4096, 10);
    OK(tent_batch_submit(pair.initiator.engine, batch, requests, sizeof requests[0], 2, 0, &index));
    requests[0] = pair.request(TENT_OP_WRITE, 4100, 1);
    CHECK_EQ(
        tent_batch_submit(pair.initiator.engine, batch, requests, sizeof requests[0], 1, 0, &index),
        TENT_E_OVERLAP);
    OK(tent_batch_close(pair.initiator.engine, batch));
}

TEST(direction_is_checked_at_both_ends) {
    std::vector<uint8_t> memory(8192), local(8192);
    TestEngine target("target"), initiator("initiator");
    target.add(memory, TENT_ACCESS_READ);
    initiator.add(local);
    uint64_t segment = 0;
    OK(tent_segment_open(initiator.engine, target.address().c_str(), 5 * SECOND, &segment));
    tent_request r{};
    r.op = TENT_OP_WRITE;
    r.segment = segment;
    r.local = reinterpret_cast<uint64_t>(local.data());
    r.remote = reinterpret_cast<uint64_t>(memory.data());
    r.length = 4096;
    uint32_t index = 0;
    CHECK_EQ(tent_transfer(initiator.engine, nullptr, &r, sizeof r, 1, SECOND, &index),
             TENT_E_DENIED);
    r.op = TENT_OP_READ;
    OK(tent_transfer(initiator.engine, nullptr, &r, sizeof r, 1, 5 * SECOND, &index));
}

TEST(new_regions_reach_connected_peers_and_released_ones_leave) {
    std::vector<uint8_t> late(65536);
    EnginePair pair(4096);
    uint64_t region = pair.target.add(late);
    OK(tent_segment_refresh(pair.initiator.engine, pair.segment, 5 * SECOND));
    tent_request r = pair.request(TENT_OP_WRITE, 0, 4096);
    r.remote = reinterpret_cast<uint64_t>(late.data());
    uint32_t index = 0;
    OK(tent_transfer(pair.initiator.engine, nullptr, &r, sizeof r, 1, 5 * SECOND, &index));
    OK(tent_region_release(pair.target.engine, region));
    memset(late.data(), 7, late.size());
    int32_t status =
        tent_transfer(pair.initiator.engine, nullptr, &r, sizeof r, 1, 5 * SECOND, &index);
    CHECK(status == TENT_E_RANGE || status == TENT_E_DENIED);
    for (uint8_t byte : late)
        CHECK_EQ(byte, 7);
}

TEST(a_grant_limits_and_its_revocation_ends_access) {
    std::vector<uint8_t> a(8192), b(8192), local(8192);
    TestEngine target("target"), initiator("initiator");
    uint64_t region_a = target.add(a);
    target.add(b);
    initiator.add(local);
    tent_grant_options options{};
    options.size = sizeof options;
    options.access = TENT_ACCESS_WRITE;
    options.regions = &region_a;
    options.region_count = 1;
    uint64_t grant = 0;
    OK(tent_grant_create(target.engine, &options, &grant));
    uint8_t bytes[4096];
    uint64_t size = sizeof bytes;
    OK(tent_segment_export(target.engine, grant, bytes, &size));
    uint64_t segment = 0;
    OK(tent_segment_import(initiator.engine, bytes, size, 5 * SECOND, &segment));
    tent_request r{};
    r.op = TENT_OP_WRITE;
    r.segment = segment;
    r.local = reinterpret_cast<uint64_t>(local.data());
    r.remote = reinterpret_cast<uint64_t>(a.data());
    r.length = 8192;
    uint32_t index = 0;
    OK(tent_transfer(initiator.engine, nullptr, &r, sizeof r, 1, 5 * SECOND, &index));
    r.op = TENT_OP_READ;
    CHECK_EQ(tent_transfer(initiator.engine, nullptr, &r, sizeof r, 1, 5 * SECOND, &index),
             TENT_E_DENIED);
    r.op = TENT_OP_WRITE;
    r.remote = reinterpret_cast<uint64_t>(b.data());
    CHECK_EQ(tent_transfer(initiator.engine, nullptr, &r, sizeof r, 1, 5 * SECOND, &index),
             TENT_E_RANGE);
    OK(tent_grant_revoke(target.engine, grant));
    r.remote = reinterpret_cast<uint64_t>(a.data());
    memset(a.data(), 9, a.size());
    CHECK(tent_transfer(initiator.engine, nullptr, &r, sizeof r, 1, 5 * SECOND, &index) < 0);
    for (uint8_t byte : a)
        CHECK_EQ(byte, 9);
    uint64_t again = 0;
    CHECK_EQ(tent_segment_import(initiator.engine, bytes, size, 5 * SECOND, &again), TENT_E_DENIED);
    CHECK_EQ(again, 0u);
}

TEST(a_forged_token_and_damaged_descriptors_are_refused) {
    std::vector<uint8_t> memory(4096);
    TestEngine target("target"), initiator("initiator");
    target.add(memory);
    std::vector<uint8_t> bytes(4096);
    uint64_t size = bytes.size(), segment = 0;
    OK(tent_segment_export(target.engine, 0, bytes.data(), &size));
    for (uint64_t cut = 0; cut < size; cut += 7)
        CHECK_EQ(tent_segment_import(initiator.engine, bytes.data(), cut, SECOND, &segment),
                 TENT_E_PROTOCOL);
    for (uint64_t at = 0; at < size; at += 5) {
        bytes[at] ^= 0x40;
        CHECK_EQ(tent_segment_import(initiator.engine, bytes.data(), size, SECOND, &segment),
                 TENT_E_PROTOCOL);
        bytes[at] ^= 0x40;
    }
    OK(tent_segment_import(initiator.engine, bytes.data(), size, 5 * SECOND, &segment));
}

TEST(another_key_is_refused) {
    TestEngine target("target");
    tent_engine_options options{};
    options.key = "another key, another group of engines";
    options.key_size = 37;
    TestEngine stranger("stranger", nullptr, options);
    uint64_t segment = 0;
    CHECK_EQ(tent_segment_open(stranger.engine, target.address().c_str(), 3 * SECOND, &segment),
             TENT_E_AUTH);
    CHECK_EQ(segment, 0u);
    // The target hears of it when the stranger hangs up.
    uint64_t deadline = tent_now_ns() + 5 * SECOND;
    while (engine_counters(target.engine).refused == 0 && tent_now_ns() < deadline)
        sched_yield();
    CHECK_EQ(engine_counters(target.engine).refused, 1u);
}

TEST(a_restarted_peer_is_stale_for_an_old_descriptor) {
    std::vector<uint8_t> memory(4096), bytes(4096);
    TestEngine initiator("initiator");
    uint64_t size = bytes.size(), segment = 0;
    std::string address;
    {
        TestEngine target("target");
        target.add(memory);
        address = target.address();
        OK(tent_segment_export(target.engine, 0, bytes.data(), &size));
    }
    tent_engine_options options{};
    options.listen = address.c_str();
    TestEngine again("target", nullptr, options);
    again.add(memory);
    CHECK_EQ(tent_segment_import(initiator.engine, bytes.data(), size, 5 * SECOND, &segment),
             TENT_E_STALE);
    OK(tent_segment_open(initiator.engine, address.c_str(), 5 * SECOND, &segment));
}

TEST(nobody_listening_is_a_quick_error) {
    TestEngine initiator("initiator");
    std::string address;
    {
        TestEngine target("target");
        address = target.address();
    }
    uint64_t segment = 0;
    CHECK_EQ(tent_segment_open(initiator.engine, address.c_str(), 30 * SECOND, &segment),
             TENT_E_PEER);
}

TEST(own_segment_is_a_plain_copy) {
    std::vector<uint8_t> a(5 << 20), b(5 << 20);
    TestEngine engine("alone");
    fill_pattern(a, 3);
    engine.add(a);
    engine.add(b);
    uint64_t segment = 0;
    OK(tent_segment_open(engine.engine, engine.address().c_str(), 5 * SECOND, &segment));
    tent_request r{};
    r.op = TENT_OP_WRITE;
    r.segment = segment;
    r.local = reinterpret_cast<uint64_t>(a.data());
    r.remote = reinterpret_cast<uint64_t>(b.data());
    r.length = a.size();
    uint32_t index = 0;
    OK(tent_transfer(engine.engine, nullptr, &r, sizeof r, 1, 5 * SECOND, &index));
    CHECK(a == b);
}

TEST(closing_with_transfers_in_flight_ends_each_once) {
    EnginePair pair(32 << 20, FOUR_RAILS);
    uint64_t batch = 0;
    tent_batch_options options{};
    options.size = sizeof options;
    OK(tent_batch_open(pair.initiator.engine, &options, &batch));
    std::vector<tent_request> requests;
    for (uint32_t i = 0; i < 32; i++)
        requests.push_back(pair.request(TENT_OP_WRITE, uint64_t{i} << 20, 1 << 20));
    uint32_t index = 0;
    OK(tent_batch_submit(pair.initiator.engine, batch, requests.data(), sizeof requests[0], 32, 0,
                         &index));
    pair.initiator.close();
    memset(pair.remote.data(), 0x5a, pair.remote.size());  // quiescent: nobody writes here any more
    pair.target.close();
    for (uint8_t byte : pair.remote)
        if (byte != 0x5a) {
            CHECK(!"late write");
            break;
        }
}

TEST(cancel_is_quiescent_and_buffers_can_be_reused) {
    EnginePair pair(64 << 20, FOUR_RAILS);
    fill_pattern(pair.local, 8);
    for (int round = 0; round < 5; round++) {
        uint64_t batch = 0;
        OK(tent_batch_open(pair.initiator.engine, nullptr, &batch));
        tent_request r = pair.request(round % 2 ? TENT_OP_READ : TENT_OP_WRITE, 0, 64 << 20);
        uint32_t index = 0;
        OK(tent_batch_submit(pair.initiator.engine, batch, &r, sizeof r, 1, 0, &index));
        OK(tent_batch_cancel(pair.initiator.engine, batch));
        int32_t status = tent_batch_wait(pair.initiator.engine, batch, 10 * SECOND);
        CHECK(status == TENT_E_CANCELLED || status == TENT_OK);
        engine_counters(pair.target.engine);
        std::vector<uint8_t> &destination = round % 2 ? pair.local : pair.remote;
        memset(destination.data(), 0x77, destination.size());
        OK(tent_batch_close(pair.initiator.engine, batch));
        OK(pair.transfer(TENT_OP_READ, 0, 1));  // what was in the pipe before is through
        // The peer's reads of its memory are over, but only the sockets know: tell the race
        // detector.
        engine_counters(pair.target.engine);
        destination[0] = 0x77;
        for (uint8_t byte : destination)
            if (byte != 0x77) {
                CHECK(!"late write");
                break;
            }
    }
}

TEST(notices_arrive_after_the_data_in_order_once) {
    EnginePair pair(4 << 20, FOUR_RAILS);
    fill_pattern(pair.local, 11);
    std::vector<uint64_t> batches(8);
    for (uint32_t i = 0; i < 8; i++) {
        OK(tent_batch_open(pair.initiator.engine, nullptr, &batches[i]));
        tent_request r = pair.request(TENT_OP_WRITE, i * (512u << 10), i == 0 ? 512 << 10 : 64);
        uint32_t index = 0;
        OK(tent_batch_submit(pair.initiator.engine, batches[i], &r, sizeof r, 1, 0, &index));
        OK(tent_batch_seal(pair.initiator.engine, batches[i], pair.segment, &i, sizeof i));
    }
    uint64_t deadline = tent_now_ns() + 10 * SECOND;
    for (uint32_t expected = 0; expected < 8 && tent_now_ns() < deadline;) {
        uint32_t got = 0, size = sizeof got;
        char from[64];
        if (tent_notice_poll(pair.target.engine, &got, &size, from) != TENT_OK) continue;
        CHECK_EQ(got, expected);
        CHECK(strcmp(from, "initiator") == 0);
        uint64_t at = expected * (512u << 10), length = expected == 0 ? 512 << 10 : 64;
        CHECK(memcmp(pair.remote.data() + at, pair.local.data() + at, length) == 0);
        expected++;
    }
    for (uint64_t batch : batches)
        OK(tent_batch_close(pair.initiator.engine, batch));
}

TEST(notices_go_on_when_a_segment_is_closed_and_opened_again) {
    EnginePair pair(65536);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 2; i++) {
            uint64_t batch = 0;
            uint32_t text = round * 2 + i;
            OK(tent_batch_open(pair.initiator.engine, nullptr, &batch));
            OK(tent_batch_seal(pair.initiator.engine, batch, pair.segment, &text, sizeof text));
            OK(tent_batch_close(pair.initiator.engine, batch));
            uint32_t got = 99, size = sizeof got;
            uint64_t deadline = tent_now_ns() + 5 * SECOND;
            while (tent_notice_poll(pair.target.engine, &got, &size, nullptr) != TENT_OK &&
                   tent_now_ns() < deadline) {
                size = sizeof got;
                sched_yield();
            }
            CHECK_EQ(got, text);
        }
        OK(tent_segment_close(pair.initiator.engine, pair.segment));
        OK(tent_segment_open(pair.initiator.engine, pair.target.address().c_str(), 5 * SECOND,
                             &pair.segment));
    }
}

TEST(both_sides_of_an_own_transfer_are_held) {
    std::vector<uint8_t> a(64 << 20), b(64 << 20);
    TestEngine engine("alone");
    engine.add(a);
    uint64_t region = engine.add(b), segment = 0, batch = 0;
    OK(tent_segment_open(engine.engine, engine.address().c_str(), 5 * SECOND, &segment));
    tent_request r{};
    r.op = TENT_OP_WRITE;
    r.segment = segment;
    r.local = reinterpret_cast<uint64_t>(a.data());
    r.remote = reinterpret_cast<uint64_t>(b.data());
    r.length = a.size();
    uint32_t index = 0;
    OK(tent_batch_open(engine.engine, nullptr, &batch));
    OK(tent_batch_submit(engine.engine, batch, &r, sizeof r, 1, TENT_SUBMIT_NO_WAKE, &index));
    int32_t status = tent_region_release(engine.engine, region);
    bool done = tent_batch_poll(engine.engine, batch) != TENT_IN_PROGRESS;
    CHECK(status == TENT_E_BUSY || (status == TENT_OK && done));
    OK(tent_batch_wait(engine.engine, batch, 10 * SECOND));
    OK(tent_batch_close(engine.engine, batch));
    if (status == TENT_E_BUSY) OK(tent_region_release(engine.engine, region));
}

TEST(the_overlap_check_outlives_a_closed_segment) {
    EnginePair pair(65536);
    tent_batch_options options{};
    options.size = sizeof options;
    options.flags = TENT_BATCH_CHECK_OVERLAP;
    uint64_t batch = 0;
    OK(tent_batch_open(pair.initiator.engine, &options, &batch));
    tent_request r = pair.request(TENT_OP_WRITE, 0, 4096);
    uint32_t index = 0;
    OK(tent_batch_submit(pair.initiator.engine, batch, &r, sizeof r, 1, 0, &index));
    OK(tent_batch_wait(pair.initiator.engine, batch, 5 * SECOND));
    OK(tent_segment_close(pair.initiator.engine, pair.segment));
    OK(tent_segment_open(pair.initiator.engine, pair.target.address().c_str(), 5 * SECOND,
                         &pair.segment));
    r = pair.request(TENT_OP_WRITE, 8192, 4096);
    OK(tent_batch_submit(pair.initiator.engine, batch, &r, sizeof r, 1, 0, &index));
    OK(tent_batch_wait(pair.initiator.engine, batch, 5 * SECOND));
    OK(tent_batch_close(pair.initiator.engine, batch));
}

TEST(two_threads_that_close_one_batch_close_it_once) {
    EnginePair pair(65536);
    for (int round = 0; round < 200; round++) {
        uint64_t batch = 0;
        OK(tent_batch_open(pair.initiator.engine, nullptr, &batch));
        tent_request r = pair.request(TENT_OP_WRITE, 0, 64);
        uint32_t index = 0;
        OK(tent_batch_submit(pair.initiator.engine, batch, &r, sizeof r, 1, 0, &index));
        OK(tent_batch_wait(pair.initiator.engine, batch, 5 * SECOND));
        int32_t other = 0;
        std::thread thread([&] { other = tent_batch_close(pair.initiator.engine, batch); });
        int32_t mine = tent_batch_close(pair.initiator.engine, batch);
        thread.join();
        CHECK((mine == TENT_OK) != (other == TENT_OK));
        CHECK(mine == TENT_E_NOT_FOUND || other == TENT_E_NOT_FOUND);
    }
}

TEST(integrity_is_checked_end_to_end) {
    EnginePair pair(2 << 20, FOUR_RAILS);
    fill_pattern(pair.local, 12);
    tent_batch_options options{};
    options.size = sizeof options;
    options.flags = TENT_BATCH_INTEGRITY;
    OK(pair.transfer(TENT_OP_WRITE, 0, 2 << 20, &options));
    CHECK(pair.remote == pair.local);
    OK(pair.transfer(TENT_OP_READ, 0, 2 << 20, &options));
}

TEST(full_pools_accept_a_prefix) {
    std::vector<uint8_t> memory(65536), local(65536);
    tent_engine_options options{};
    options.requests_max = 8;
    TestEngine target("target"), initiator("initiator", nullptr, options);
    target.add(memory);
    initiator.add(local);
    uint64_t segment = 0, batch = 0;
    OK(tent_segment_open(initiator.engine, target.address().c_str(), 5 * SECOND, &segment));
    OK(tent_batch_open(initiator.engine, nullptr, &batch));
    std::vector<tent_request> requests(12);
    for (uint32_t i = 0; i < 12; i++) {
        requests[i].op = TENT_OP_WRITE;
        requests[i].segment = segment;
        requests[i].local = reinterpret_cast<uint64_t>(local.data()) + i * 64;
        requests[i].remote = reinterpret_cast<uint64_t>(memory.data()) + i * 64;
        requests[i].length = 64;
    }
    uint32_t index = 0;
    CHECK_EQ(tent_batch_submit(initiator.engine, batch, requests.data(), sizeof requests[0], 12, 0,
                               &index),
             TENT_E_AGAIN);
    CHECK_EQ(index, 8u);
    OK(tent_batch_wait(initiator.engine, batch, 5 * SECOND));
    OK(tent_batch_close(initiator.engine, batch));
    OK(tent_batch_open(initiator.engine, nullptr, &batch));
    OK(tent_batch_submit(initiator.engine, batch, requests.data() + 8, sizeof requests[0], 4, 0,
                         &index));
    OK(tent_batch_wait(initiator.engine, batch, 5 * SECOND));
    OK(tent_batch_close(initiator.engine, batch));
}

TEST(a_new_plan_takes_over_without_losing_a_transfer) {
    EnginePair pair(32 << 20, FOUR_RAILS);
    fill_pattern(pair.local, 13);
    uint64_t batch = 0;
    OK(tent_batch_open(pair.initiator.engine, nullptr, &batch));
    tent_request r = pair.request(TENT_OP_WRITE, 0, 32 << 20);
    uint32_t index = 0, generation = 0;
    OK(tent_batch_submit(pair.initiator.engine, batch, &r, sizeof r, 1, 0, &index));
    const char two[] = "plan 1\nrail 0 tcp 127.0.0.1\nrail 1 tcp 127.0.0.2\nroute * : tcp[0 1]\n";
    OK(tent_plan_install(pair.initiator.engine, two, sizeof two - 1, &generation));
    CHECK_EQ(generation, 2u);
    CHECK_EQ(tent_plan_install(pair.initiator.engine, "plan 1\nrail x\n", 14, &generation),
             TENT_E_PLAN);
    OK(tent_batch_wait(pair.initiator.engine, batch, 10 * SECOND));
    OK(tent_batch_close(pair.initiator.engine, batch));
    CHECK(pair.remote == pair.local);
    OK(pair.transfer(TENT_OP_READ, 0, 1 << 20));
}

TEST(the_address_of_a_rail_that_left_is_listened_on_no_more) {
    std::vector<uint8_t> memory(4096);
    TestEngine engine("moving"), peer("peer");
    engine.add(memory);
    const std::string own = engine.address();
    const std::string port = own.substr(own.rfind(':'));
    const auto answers = [&](const std::string &address) {
        uint64_t segment = 0;
        const int32_t status =
            tent_segment_open(peer.engine, (address + port).c_str(), SECOND, &segment);
        if (segment) OK(tent_segment_close(peer.engine, segment));
        return status == TENT_OK;
    };
    const auto install = [&](const std::string &address) {
        const std::string plan = "plan 1\nrail 0 tcp " + address + "\nroute * : tcp[0]\n";
        return tent_plan_install(engine.engine, plan.c_str(), plan.size(), nullptr);
    };
    // As many as a long life brings: more than may be listened on at once.
    for (int i = 2; i < 100; i++)
        if (!CHECK_EQ(install("127.0.0." + std::to_string(i)), TENT_OK)) break;
    CHECK(answers("127.0.0.99"));
    OK(install("127.0.0.1"));
    // The rail stays until the peer's endpoint on it has been retired, which that asks for.
    bool gone = false;
    for (int i = 0; i < 50 && !gone; i++)
        gone = !answers("127.0.0.99");
    CHECK(gone);
    CHECK(answers("127.0.0.1"));
    // Nor is that of a plan that was refused.
    const std::string plan =
        "plan 1\nrail 0 tcp 127.0.0.1\nrail 1 tcp 127.0.0.98\nrail 2 tcp 203.0.113.1\n"
        "route * : tcp[0 1 2]\n";
    CHECK(tent_plan_install(engine.engine, plan.c_str(), plan.size(), nullptr) != TENT_OK);
    CHECK(!answers("127.0.0.98"));
}

TEST(an_engine_of_as_many_rails_as_there_may_be_is_reached) {
    std::string plan = "plan 1\n", tiers;
    for (int i = 0; i < 64; i++) {
        plan += "rail " + std::to_string(i) + " tcp 127.0.1." + std::to_string(i + 1) + "\n";
        tiers += (i ? " " : "") + std::to_string(i);
    }
    plan += "route * : tcp[" + tiers + "]\n";
    std::vector<uint8_t> memory(4096);
    TestEngine engine("wide", plan.c_str()), peer("peer");
    engine.add(memory);
    uint64_t segment = 0;
    OK(tent_segment_open(peer.engine, engine.address().c_str(), 5 * SECOND, &segment));
}

TEST(many_threads_transfer_at_once) {
    EnginePair pair(8 << 20, FOUR_RAILS);
    fill_pattern(pair.local, 14);
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++)
        threads.emplace_back([&, t] {
            for (uint64_t i = 0; i < 200; i++)
                OK(pair.transfer(TENT_OP_WRITE, (t << 21) + i * 8192, 8192));
        });
    for (std::thread &thread : threads)
        thread.join();
    for (uint64_t t = 0; t < 4; t++)
        CHECK(memcmp(pair.remote.data() + (t << 21), pair.local.data() + (t << 21), 200 * 8192) ==
              0);
    tent_counters row = engine_counters(pair.initiator.engine);
    CHECK_EQ(row.requests, 800u);
    CHECK_EQ(row.charged_bytes, row.released_bytes);
}

TEST(a_region_in_use_cannot_be_released) {
    EnginePair pair(64 << 20);
    uint64_t batch = 0;
    OK(tent_batch_open(pair.initiator.engine, nullptr, &batch));
    tent_request r = pair.request(TENT_OP_WRITE, 0, 64 << 20);
    uint32_t index = 0;
    OK(tent_batch_submit(pair.initiator.engine, batch, &r, sizeof r, 1, TENT_SUBMIT_NO_WAKE,
                         &index));
    CHECK_EQ(tent_region_release(pair.initiator.engine, pair.local_region), TENT_E_BUSY);
    OK(tent_batch_wait(pair.initiator.engine, batch, 10 * SECOND));
    OK(tent_batch_close(pair.initiator.engine, batch));
    OK(tent_region_release(pair.initiator.engine, pair.local_region));
    CHECK_EQ(tent_region_release(pair.initiator.engine, pair.local_region), TENT_E_NOT_FOUND);
}

TEST(a_region_without_a_location_is_on_the_node_of_its_first_page) {
    std::vector<uint8_t> memory(1 << 20, 1);
    TestEngine engine("places");
    uint64_t region = engine.add(memory);
    char text[32] = "";
    OK(tent_region_location(engine.engine, region, text, sizeof text));
    CHECK_EQ(text, "cpu:" + std::to_string(
                                tent::numa_node_of(reinterpret_cast<uint64_t>(memory.data()))));
    tent_region_options options{};
    options.size = sizeof options;
    options.location = "cuda:3";
    uint64_t second = 0;
    OK(tent_region_register(engine.engine, memory.data(), 4096, &options, &second));
    OK(tent_region_location(engine.engine, second, text, sizeof text));
    CHECK_EQ(text, "cuda:3");
    CHECK_EQ(tent_region_location(engine.engine, second, text, 6), TENT_E_INVALID);
    CHECK_EQ(tent_region_location(engine.engine, second, nullptr, 32), TENT_E_INVALID);
    OK(tent_region_release(engine.engine, second));
    CHECK_EQ(tent_region_location(engine.engine, second, text, sizeof text), TENT_E_NOT_FOUND);
}
