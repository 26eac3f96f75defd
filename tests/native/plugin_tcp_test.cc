// The tcp transport by its contract: two instances in one process, raw sockets where the peer must
// misbehave.
//
// Leans on fake_host.h and the wire format of plugins/tcp/frame.h. Each test is one claim.
#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <random>

#include "check.h"
#include "fake_host.h"
#include "plugins/tcp/frame.h"

using fake::Pair;
using fake::Side;
using namespace tent::tcp;

static std::atomic<uint64_t> allocations{0};

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 1
extern "C" {
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *malloc(size_t size) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __libc_realloc(old, size);
}
}
#endif

namespace {

const tent_plugin *tcp() {
    return tent_plugin_query(TENT_PLUGIN_ABI);
}

uint64_t at(const void *data) {
    return reinterpret_cast<uintptr_t>(data);
}

std::vector<char> pattern(size_t size, uint32_t seed) {
    std::vector<char> bytes(size);
    std::mt19937 random(seed);
    for (char &byte : bytes)
        byte = static_cast<char>(random());
    return bytes;
}

bool all_are(const Side &side, int32_t status) {
    return std::all_of(side.statuses.begin(), side.statuses.end(),
                       [&](int32_t seen) { return seen == status; });
}

bool untouched(const std::vector<char> &bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](char byte) { return byte == 0; });
}

void sizes_arrive(const char *connections, uint32_t flags) {
    Pair pair(tcp(), "lo", {{"connections", connections}});
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    for (size_t size : {size_t{1}, size_t{4095}, size_t{64} << 10, size_t{5} << 20}) {
        const std::vector<char> source = pattern(size, static_cast<uint32_t>(size));
        std::vector<char> remote(size);
        std::vector<char> back(size);
        pair.target.host.grant(remote.data(), size);
        CHECK(pair.initiator.post(pair.from, TENT_OP_WRITE, const_cast<char *>(source.data()),
                                  at(remote.data()), size, flags));
        CHECK(pair.settle());
        CHECK(remote == source);
        CHECK(pair.initiator.post(pair.from, TENT_OP_READ, back.data(), at(remote.data()), size,
                                  flags));
        CHECK(pair.settle());
        CHECK(back == source);
    }
    CHECK(all_are(pair.initiator, TENT_OK));
    CHECK_EQ(pair.target.host.served_write, pair.target.host.served_read);
    CHECK_EQ(pair.target.host.served_write, uint64_t{1 + 4095 + (64 << 10) + (5 << 20)});
}

}  // namespace

TEST(writes_and_reads_of_every_size_arrive) {
    sizes_arrive("1", 0);
}
TEST(writes_and_reads_of_every_size_arrive_over_three_connections) {
    sizes_arrive("3", 0);
}
TEST(checksummed_writes_and_reads_of_every_size_arrive) {
    sizes_arrive("2", TENT_SLICE_INTEGRITY);
}

TEST(thousands_of_mixed_slices_each_come_back_once) {
    const uint32_t seed = 20240611;
    std::mt19937 random(seed);
    Pair pair(tcp(), "lo", {{"connections", "2"}, {"frame_size_max", "64k"}}, 512);
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    constexpr size_t SLOT = 9000;
    constexpr size_t COUNT = 6000;
    const std::vector<char> source = pattern(SLOT * COUNT, seed);
    std::vector<char> remote = pattern(SLOT * COUNT, seed + 1);
    std::vector<char> local(SLOT * COUNT);
    const std::vector<char> remote_before = remote;
    pair.target.host.grant(remote.data(), remote.size());
    std::vector<uint32_t> lengths(COUNT);
    std::vector<uint32_t> ops(COUNT);
    for (size_t i = 0; i < COUNT; ++i) {
        lengths[i] = 1 + static_cast<uint32_t>(random() % (random() % 4 == 0 ? SLOT : 200));
        ops[i] = random() % 2 == 0 ? TENT_OP_WRITE : TENT_OP_READ;
        const uint32_t flags = random() % 3 == 0 ? TENT_SLICE_INTEGRITY : 0;
        char *here = ops[i] == TENT_OP_WRITE ? const_cast<char *>(source.data()) : local.data();
        while (!pair.initiator.post(pair.from, ops[i], here + i * SLOT,
                                    at(remote.data() + i * SLOT), lengths[i], flags)) {
            pair.step();
        }
    }
    CHECK(pair.settle());
    CHECK_EQ(pair.initiator.returned_twice, 0u);
    CHECK(all_are(pair.initiator, TENT_OK));
    size_t wrong = 0;
    for (size_t i = 0; i < COUNT; ++i) {
        const size_t slot = i * SLOT;
        const char *got = ops[i] == TENT_OP_WRITE ? remote.data() : local.data();
        const char *want = ops[i] == TENT_OP_WRITE ? source.data() : remote_before.data();
        wrong += memcmp(got + slot, want + slot, lengths[i]) != 0;
        // Not one byte behind the slice.
        if (ops[i] == TENT_OP_WRITE && lengths[i] < SLOT)
            wrong += remote[slot + lengths[i]] != remote_before[slot + lengths[i]];
    }
    CHECK_EQ(wrong, size_t{0});
}

TEST(refused_slices_leave_memory_alone_and_do_not_disturb_others) {
    Pair pair(tcp(), "lo");
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    constexpr size_t SIZE = 1 << 20;
    std::vector<char> source = pattern(SIZE, 1);
    std::vector<char> allowed(SIZE);
    std::vector<char> denied(SIZE);
    std::vector<char> local(SIZE);
    pair.target.host.grant(allowed.data(), SIZE);
    pair.target.host.grant(denied.data(), SIZE, TENT_E_DENIED);
    Side &side = pair.initiator;
    for (size_t size : {size_t{100}, SIZE}) {
        CHECK(side.post(pair.from, TENT_OP_WRITE, source.data(), at(denied.data()), size,
                        TENT_SLICE_INTEGRITY));
        CHECK(side.post(pair.from, TENT_OP_WRITE, source.data(), at(allowed.data()), size));
        CHECK(side.post(pair.from, TENT_OP_READ, local.data(), at(denied.data()), size));
        CHECK(side.post(pair.from, TENT_OP_WRITE, source.data(), at(allowed.data()) + SIZE, size));
        CHECK(side.post(pair.from, TENT_OP_WRITE, source.data(), UINT64_MAX - 10, size));
    }
    CHECK(pair.settle());
    for (size_t i = 0; i < 10; i += 5) {
        CHECK_EQ(side.statuses[i], TENT_E_DENIED);
        CHECK_EQ(side.statuses[i + 1], TENT_OK);
        CHECK_EQ(side.statuses[i + 2], TENT_E_DENIED);
        CHECK_EQ(side.statuses[i + 3], TENT_E_RANGE);
        CHECK_EQ(side.statuses[i + 4], TENT_E_RANGE);
    }
    CHECK(untouched(denied));
    CHECK(untouched(local));
    CHECK(allowed == source);
}

TEST(wrong_checksums_are_corrupt) {
    Pair pair(tcp(), "lo");
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    std::vector<char> source = pattern(100000, 3);
    std::vector<char> remote(100000);
    pair.target.host.grant(remote.data(), remote.size());
    Side &side = pair.initiator;
    side.host.table.crc32c = fake::crc32c_wrong;
    CHECK(side.post(pair.from, TENT_OP_WRITE, source.data(), at(remote.data()), 100000,
                    TENT_SLICE_INTEGRITY));
    CHECK(side.post(pair.from, TENT_OP_READ, source.data(), at(remote.data()), 70,
                    TENT_SLICE_INTEGRITY));
    CHECK(side.post(pair.from, TENT_OP_READ, source.data(), at(remote.data()), 70));
    CHECK(pair.settle());
    CHECK_EQ(side.statuses[0], TENT_E_CORRUPT);
    CHECK_EQ(side.statuses[1], TENT_E_CORRUPT);
    CHECK_EQ(side.statuses[2], TENT_OK);
    CHECK_EQ(pair.target.host.served_write, uint64_t{0});
}

TEST(the_peers_end_brings_every_slice_back) {
    Pair pair(tcp(), "lo", {{"connections", "2"}});
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    std::vector<char> source(64 << 20);
    std::vector<char> remote(64 << 20);
    pair.target.host.grant(remote.data(), remote.size());
    for (size_t i = 0; i < 64; ++i)
        CHECK(pair.initiator.post(pair.from, TENT_OP_WRITE, source.data() + (i << 20),
                                  at(remote.data()) + (i << 20), 1 << 20));
    for (int i = 0; i < 6; ++i)
        pair.step();
    CHECK_EQ(tcp()->endpoint_retire(pair.target.instance, pair.to), TENT_OK);
    pair.to = nullptr;
    CHECK(pair.settle());
    CHECK_EQ(pair.initiator.returned_twice, 0u);
    CHECK_EQ(pair.initiator.host.state_of(Pair::INITIATOR), TENT_E_PEER);
    CHECK(std::count(pair.initiator.statuses.begin(), pair.initiator.statuses.end(), TENT_E_PEER) >
          0);
    CHECK(!pair.initiator.post(pair.from, TENT_OP_WRITE, source.data(), at(remote.data()), 1));
    CHECK(pair.initiator.host.news.back().sentence.find("lo 127.0.0.1") != std::string::npos);
}

TEST(close_brings_every_slice_back_once_as_cancelled) {
    Pair pair(tcp(), "lo", {{"connections", "2"}});
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    std::vector<char> source = pattern(64 << 20, 5);
    std::vector<char> remote(64 << 20);
    pair.target.host.grant(remote.data(), remote.size());
    Side &side = pair.initiator;
    for (size_t i = 0; i < 64; ++i)
        CHECK(side.post(pair.from, i % 2 == 0 ? TENT_OP_WRITE : TENT_OP_READ,
                        source.data() + (i << 20), at(remote.data()) + (i << 20), 1 << 20));
    for (int i = 0; i < 6; ++i)
        pair.step();
    CHECK_EQ(tcp()->endpoint_close(side.instance, pair.from), TENT_OK);
    pair.from = nullptr;
    const std::vector<char> after_close = source;
    CHECK_EQ(tcp()->next_ns(side.instance), uint64_t{0});
    while (side.poll(3) > 0) {
    }
    CHECK_EQ(side.returned, 64u);
    CHECK_EQ(side.returned_twice, 0u);
    CHECK(std::count(side.statuses.begin(), side.statuses.end(), TENT_E_CANCELLED) > 0);
    for (int i = 0; i < 100; ++i)
        pair.step();
    CHECK(source == after_close);
    CHECK_EQ(pair.target.host.state_of(Pair::TARGET), TENT_E_PEER);
}

TEST(after_retire_the_destination_is_not_written) {
    Pair pair(tcp(), "lo");
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    std::vector<char> source = pattern(32 << 20, 6);
    std::vector<char> remote(32 << 20);
    pair.target.host.grant(remote.data(), remote.size());
    CHECK(
        pair.initiator.post(pair.from, TENT_OP_WRITE, source.data(), at(remote.data()), 32 << 20));
    for (int i = 0; i < 4; ++i)
        pair.step();
    CHECK(!untouched(remote));
    CHECK_EQ(tcp()->endpoint_retire(pair.target.instance, pair.to), TENT_OK);
    pair.to = nullptr;
    std::fill(remote.begin(), remote.end(), 0);
    CHECK(pair.settle());
    CHECK(untouched(remote));
}

TEST(releasing_a_region_diverts_what_is_being_received) {
    Pair pair(tcp(), "lo");
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    std::vector<char> source = pattern(32 << 20, 7);
    std::vector<char> remote(32 << 20);
    std::vector<char> other(1000);
    pair.target.host.grant(remote.data(), remote.size());
    pair.target.host.grant(other.data(), other.size());
    tent_region_params params{sizeof params, TENT_ACCESS_READ | TENT_ACCESS_WRITE, remote.data(),
                              remote.size(), "cpu:0"};
    void *region = nullptr;
    CHECK_EQ(tcp()->region_register(pair.target.instance, &params, &region), TENT_OK);
    CHECK(
        pair.initiator.post(pair.from, TENT_OP_WRITE, source.data(), at(remote.data()), 32 << 20));
    CHECK(pair.initiator.post(pair.from, TENT_OP_WRITE, source.data(), at(other.data()), 1000));
    for (int i = 0; i < 4; ++i)
        pair.step();
    CHECK(!untouched(remote));
    pair.target.host.grants.clear();
    pair.target.host.grant(other.data(), other.size());
    CHECK_EQ(tcp()->region_release(pair.target.instance, region), TENT_OK);
    std::fill(remote.begin(), remote.end(), 0);
    CHECK(pair.settle());
    CHECK(untouched(remote));
    CHECK_EQ(pair.initiator.statuses[0], TENT_E_DENIED);
    CHECK_EQ(pair.initiator.statuses[1], TENT_OK);
    CHECK(memcmp(other.data(), source.data(), 1000) == 0);
}

TEST(releasing_a_region_that_is_being_sent_from_ends_the_endpoint) {
    Pair pair(tcp(), "lo");
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    std::vector<char> local(64 << 20);
    std::vector<char> remote(64 << 20);
    pair.target.host.grant(remote.data(), remote.size());
    tent_region_params params{sizeof params, TENT_ACCESS_READ, remote.data(), remote.size(),
                              "cpu:0"};
    void *region = nullptr;
    CHECK_EQ(tcp()->region_register(pair.target.instance, &params, &region), TENT_OK);
    CHECK(pair.initiator.post(pair.from, TENT_OP_READ, local.data(), at(remote.data()), 64 << 20));
    pair.initiator.flush();
    for (int i = 0; i < 50; ++i)
        pair.target.poll();  // until the sockets are full
    CHECK_EQ(tcp()->region_release(pair.target.instance, region), TENT_OK);
    remote = std::vector<char>();  // a touch from here on is a fault under the sanitizers
    CHECK(pair.settle());
    CHECK_EQ(pair.initiator.statuses[0], TENT_E_PEER);
    CHECK_EQ(pair.target.host.state_of(Pair::TARGET), TENT_E_TRANSPORT);
}

TEST(a_full_pool_accepts_a_prefix) {
    Pair pair(tcp(), "lo", {}, 4);
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    char byte = 1;
    char remote = 0;
    pair.target.host.grant(&remote, 1);
    tent_slice slices[6];
    for (uint64_t i = 0; i < 6; ++i)
        slices[i] = tent_slice{i, TENT_OP_WRITE, 0, &byte, at(&remote), 1, nullptr, nullptr};
    CHECK_EQ(tcp()->post(pair.initiator.instance, pair.from, slices, 6), 4u);
    CHECK_EQ(tcp()->post(pair.initiator.instance, pair.from, slices + 4, 2), 0u);
    pair.initiator.statuses.assign(4, TENT_IN_PROGRESS);
    CHECK(pair.settle());
    CHECK_EQ(tcp()->post(pair.initiator.instance, pair.from, slices + 4, 2), 2u);
    pair.initiator.statuses.resize(6, TENT_IN_PROGRESS);
    CHECK(pair.settle());
}

#ifdef COUNTS_ALLOCATIONS
TEST(post_and_poll_allocate_nothing) {
    Pair pair(tcp(), "lo", {{"connections", "2"}});
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    std::vector<char> source(4 << 20);
    std::vector<char> remote(4 << 20);
    pair.target.host.grant(remote.data(), remote.size());
    pair.initiator.statuses.reserve(20000);
    for (int round = 0; round < 4; ++round) {
        const uint64_t before = allocations.load();
        for (size_t i = 0; i < 1000; ++i)
            CHECK(pair.initiator.post(pair.from, i % 3 == 0 ? TENT_OP_READ : TENT_OP_WRITE,
                                      source.data() + i * 4096, at(remote.data()) + i * 4096, 4096,
                                      i % 2 == 0 ? TENT_SLICE_INTEGRITY : 0));
        CHECK(pair.initiator.post(pair.from, TENT_OP_WRITE, source.data(), at(remote.data()),
                                  4 << 20));
        // settle's acceptor allocates; the plugin alone must not.
        while (pair.initiator.returned < pair.initiator.statuses.size()) {
            pair.initiator.poll();
            pair.target.poll();
        }
        CHECK_EQ(allocations.load() - before, uint64_t{0});
    }
}
#endif

// ---- set-up -------------------------------------------------------------------------------------

TEST(a_refused_connection_fails_with_a_sentence) {
    Side side(tcp(), "127.0.0.1");
    if (!CHECK_EQ(side.status, TENT_OK)) return;
    std::string address;
    {
        fake::Listener gone;
        address = gone.address;
    }
    char offer[TENT_OFFER_MAX];
    uint32_t size = sizeof offer;
    void *endpoint = nullptr;
    tent_endpoint_params params = side.params(1, true, "127.0.0.1", address.c_str(), nullptr, 0);
    CHECK_EQ(tcp()->endpoint_offer(side.instance, &params, &endpoint, offer, &size), TENT_OK);
    params.blob = offer;
    params.blob_size = size;
    CHECK_EQ(tcp()->endpoint_connect(side.instance, endpoint, &params), TENT_OK);
    for (int i = 0; i < 1000 && side.host.news.empty(); ++i)
        side.poll();
    if (!CHECK_EQ(side.host.news.size(), size_t{1})) return;
    CHECK_EQ(side.host.news[0].status, TENT_E_PEER);
    CHECK(side.host.news[0].sentence.find(address) != std::string::npos);
    CHECK(side.host.news[0].sentence.find("Connection refused") != std::string::npos);
    CHECK_EQ(tcp()->endpoint_close(side.instance, endpoint), TENT_OK);
}

TEST(connecting_ends_at_its_timeout) {
    fake::Listener silent;
    Side side(tcp(), "lo", {{"connect_timeout", "50ms"}});
    if (!CHECK_EQ(side.status, TENT_OK)) return;
    side.host.now_ns = 1000;
    char offer[TENT_OFFER_MAX];
    uint32_t size = sizeof offer;
    void *endpoint = nullptr;
    tent_endpoint_params params =
        side.params(1, true, "127.0.0.1", silent.address.c_str(), nullptr, 0);
    CHECK_EQ(tcp()->endpoint_offer(side.instance, &params, &endpoint, offer, &size), TENT_OK);
    params.blob = offer;
    params.blob_size = size;
    CHECK_EQ(tcp()->endpoint_connect(side.instance, endpoint, &params), TENT_OK);
    for (int i = 0; i < 100; ++i)
        side.poll();
    CHECK(side.host.news.empty());
    CHECK_EQ(tcp()->next_ns(side.instance), uint64_t{50001000});
    side.host.now_ns = 50001000;
    side.poll();
    CHECK_EQ(side.host.state_of(1), TENT_E_TIMEOUT);
    CHECK_EQ(tcp()->next_ns(side.instance), UINT64_MAX);
    CHECK_EQ(tcp()->endpoint_close(side.instance, endpoint), TENT_OK);
}

TEST(an_opening_reply_that_is_refused_fails_the_endpoint) {
    Pair pair(tcp(), "lo");
    if (!CHECK_EQ(pair.status, TENT_OK)) return;
    tcp()->endpoint_close(pair.initiator.instance, pair.from);
    tcp()->endpoint_retire(pair.target.instance, pair.to);
    pair.from = pair.to = nullptr;
    pair.initiator.host.news.clear();
    pair.initiator.host.reply_status = TENT_E_AUTH;
    CHECK_EQ(pair.join(), TENT_E_AUTH);
}

TEST(unknown_options_and_devices_are_refused_with_a_sentence) {
    Side unknown(tcp(), "lo", {{"colour", "blue"}});
    CHECK_EQ(unknown.status, TENT_E_INVALID);
    CHECK(unknown.host.failure.find("colour") != std::string::npos);
    Side value(tcp(), "lo", {{"connections", "17"}});
    CHECK_EQ(value.status, TENT_E_INVALID);
    CHECK(value.host.failure.find("1 to 16") != std::string::npos);
    Side device(tcp(), "no-such0");
    CHECK_EQ(device.status, TENT_E_INVALID);
    CHECK(device.host.failure.find("no-such0") != std::string::npos);
    Side address(tcp(), "lo", {}, 16, nullptr, {{"addr", "198.51.100.77"}});
    CHECK_EQ(address.status, TENT_E_INVALID);
    CHECK(address.host.failure.find("198.51.100.77") != std::string::npos);
}

TEST(reach_knows_families_subnets_and_loopback) {
    Side side(tcp(), "127.0.0.5");
    if (!CHECK_EQ(side.status, TENT_OK)) return;
    CHECK_EQ(side.info.address, "127.0.0.5");
    CHECK_EQ(side.info.flags, TENT_RAIL_LISTENS);
    CHECK_EQ(side.info.bandwidth_bytes_per_s, uint64_t{0});
    CHECK_EQ(tcp()->rail_reach(side.instance, side.rail, "127.9.9.9"), 2);
    CHECK_EQ(tcp()->rail_reach(side.instance, side.rail, "10.0.0.1"), 0);
    CHECK_EQ(tcp()->rail_reach(side.instance, side.rail, "::1"), 0);
    CHECK_EQ(tcp()->rail_reach(side.instance, side.rail, "nonsense"), 0);
    tent_rail_info infos[32];
    char devices[32][32];
    const uint32_t count = tcp()->rails(infos, sizeof infos[0], devices, 32);
    bool loopback = false;
    for (uint32_t i = 0; i < count && i < 32; ++i)
        loopback = loopback || strcmp(devices[i], "lo") == 0;
    CHECK(loopback);
}

// ---- peers that misbehave -----------------------------------------------------------------------

namespace {

// A frame of slices as a raw socket sends it.
struct RawFrame {
    FrameHeader header{FRAME_MAGIC, FRAME_DATA, 0, 1, 0};
    std::vector<SliceDescriptor> slices;
    std::vector<char> payload;

    std::vector<char> bytes() const {
        std::vector<char> out(sizeof header + slices.size() * sizeof(SliceDescriptor));
        memcpy(out.data(), &header, sizeof header);
        memcpy(out.data() + sizeof header, slices.data(), slices.size() * sizeof(SliceDescriptor));
        out.insert(out.end(), payload.begin(), payload.end());
        return out;
    }
};

// A serving endpoint whose only connection is held by the test.
struct RawInitiator {
    Side target{tcp(), "lo"};
    void *endpoint = nullptr;
    int fd = -1;
    std::vector<char> memory = std::vector<char>(8192);

    explicit RawInitiator(uint32_t tag_limit = 16) {
        const Offer offer{OFFER_MAGIC, 1, tag_limit, 0};
        char answer[TENT_OFFER_MAX];
        uint32_t size = sizeof answer;
        tent_endpoint_params params =
            target.params(5, false, "127.0.0.1", "", &offer, sizeof offer);
        CHECK_EQ(tcp()->endpoint_accept(target.instance, &params, &endpoint, answer, &size),
                 TENT_OK);
        int pair[2];
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
        CHECK_EQ(tcp()->endpoint_adopt(target.instance, endpoint, 0, pair[0]), TENT_OK);
        fd = pair[1];
        target.host.grant(memory.data(), memory.size());
    }
    ~RawInitiator() {
        tcp()->endpoint_retire(target.instance, endpoint);
        close(fd);
    }
    RawFrame write(uint32_t tag, uint32_t length) const {
        RawFrame frame;
        frame.slices = {{at(memory.data()), length, tag, TENT_OP_WRITE, 0, 0, 0}};
        frame.payload.assign(length, 'x');
        frame.header.payload_size = length;
        return frame;
    }
    int32_t state_after(const std::vector<char> &bytes) {
        CHECK_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL),
                 static_cast<ssize_t>(bytes.size()));
        for (int i = 0; i < 5; ++i)
            target.poll();
        return target.host.state_of(5);
    }
};

void refuses(void (*damage)(RawFrame &)) {
    RawInitiator raw;
    RawFrame frame = raw.write(1, 64);
    damage(frame);
    CHECK_EQ(raw.state_after(frame.bytes()), TENT_E_PROTOCOL);
    CHECK(untouched(raw.memory));
}

}  // namespace

TEST(malformed_frames_fail_the_endpoint_and_write_nothing) {
    refuses([](RawFrame &frame) { frame.header.magic ^= 1; });
    refuses([](RawFrame &frame) { frame.header.zero = 1; });
    refuses([](RawFrame &frame) { frame.header.kind = FRAME_ACK; });
    refuses([](RawFrame &frame) { frame.header.kind = 77; });
    refuses([](RawFrame &frame) { frame.header.count = 0; });
    refuses([](RawFrame &frame) { frame.header.count = FRAME_SLICES_MAX + 1; });
    refuses([](RawFrame &frame) { frame.header.payload_size = 65; });
    refuses([](RawFrame &frame) { frame.header.payload_size = UINT64_MAX; });
    refuses([](RawFrame &frame) { frame.slices[0].op = 3; });
    refuses([](RawFrame &frame) { frame.slices[0].flags = 2; });
    refuses([](RawFrame &frame) { frame.slices[0].zero32 = 9; });
    refuses([](RawFrame &frame) { frame.slices[0].length = 0; });
    refuses([](RawFrame &frame) { frame.slices[0].length = (1u << 30) + 1; });
    refuses([](RawFrame &frame) { frame.slices[0].tag = 16; });
    refuses([](RawFrame &frame) {
        frame.slices.push_back(frame.slices[0]);
        frame.header.count = 2;
        frame.header.payload_size = 128;
    });
}

TEST(a_tag_may_be_used_again_only_after_its_reply) {
    RawInitiator raw;
    CHECK_EQ(raw.state_after(raw.write(1, 64).bytes()), TENT_OK);
    char reply[64];
    CHECK_EQ(recv(raw.fd, reply, sizeof reply, 0), static_cast<ssize_t>(16 + 8));
    CHECK_EQ(raw.state_after(raw.write(1, 64).bytes()), TENT_OK);
    CHECK_EQ(raw.memory[63], 'x');
    CHECK_EQ(raw.memory[64], '\0');
}

TEST(a_frame_in_single_bytes_is_the_same_frame) {
    RawInitiator raw;
    for (char byte : raw.write(3, 100).bytes())
        CHECK_EQ(raw.state_after({byte}), TENT_OK);
    CHECK_EQ(raw.memory[99], 'x');
    char reply[64];
    CHECK_EQ(recv(raw.fd, reply, sizeof reply, 0), static_cast<ssize_t>(16 + 8));
}

TEST(an_initiator_that_reads_no_replies_is_held_back) {
    RawInitiator raw(4096);
    // Small requests, large replies, none taken: the target may remember a bounded number only.
    constexpr uint32_t PER_FRAME = 200;
    constexpr uint64_t REPLY_SIZE = 8192 + sizeof(ReadDescriptor);
    uint64_t asked = 0;
    for (uint32_t first = 0; first < 4000; first += PER_FRAME) {
        RawFrame frame;
        for (uint32_t tag = first; tag < first + PER_FRAME; ++tag)
            frame.slices.push_back({at(raw.memory.data()), 8192, tag, TENT_OP_READ, 0, 0, 0});
        frame.header.count = PER_FRAME;
        const std::vector<char> bytes = frame.bytes();
        CHECK_EQ(send(raw.fd, bytes.data(), bytes.size(), MSG_NOSIGNAL),
                 static_cast<ssize_t>(bytes.size()));
        asked += PER_FRAME;
        raw.target.poll();
    }
    CHECK_EQ(raw.target.host.state_of(5), TENT_OK);
    CHECK(raw.target.host.checks < 1800);
    raw.target.busy = 0;
    raw.target.poll();
    CHECK_EQ(raw.target.busy, 0u);
    std::vector<char> sink(1 << 20);
    uint64_t taken = 0;
    for (int i = 0; i < 100000 && taken < asked * REPLY_SIZE; ++i) {
        raw.target.poll();
        const ssize_t got = recv(raw.fd, sink.data(), sink.size(), 0);
        taken += got > 0 ? static_cast<uint64_t>(got) : 0;
    }
    CHECK(taken >= asked * REPLY_SIZE);
    CHECK_EQ(raw.target.host.checks, asked);
    CHECK_EQ(raw.target.host.state_of(5), TENT_OK);
}

namespace {

// An initiator whose peer is the test itself.
struct RawTarget {
    Side side{tcp(), "lo"};
    fake::Listener listener;
    void *endpoint = nullptr;
    int fd = -1;

    RawTarget() {
        char offer[TENT_OFFER_MAX];
        uint32_t size = sizeof offer;
        const char *address = listener.address.c_str();
        tent_endpoint_params params = side.params(1, true, "127.0.0.1", address, nullptr, 0);
        CHECK_EQ(tcp()->endpoint_offer(side.instance, &params, &endpoint, offer, &size), TENT_OK);
        Offer answer;
        memcpy(&answer, offer, sizeof answer);
        answer.connections = 1;
        params.blob = &answer;
        params.blob_size = sizeof answer;
        CHECK_EQ(tcp()->endpoint_connect(side.instance, endpoint, &params), TENT_OK);
        for (int i = 0; i < 1000 && fd < 0; ++i) {
            side.poll();
            fd = listener.accept_one();
        }
        char opening[TENT_OPENING_SIZE];
        size_t have = 0;
        while (have < sizeof opening) {
            side.poll();
            const ssize_t got = recv(fd, opening + have, sizeof opening - have, 0);
            have += got > 0 ? static_cast<size_t>(got) : 0;
        }
        send(fd, opening, TENT_OPENING_REPLY_SIZE, MSG_NOSIGNAL);
        for (int i = 0; i < 1000 && side.host.news.empty(); ++i)
            side.poll();
        CHECK_EQ(side.host.state_of(1), TENT_OK);
    }
    ~RawTarget() {
        tcp()->endpoint_close(side.instance, endpoint);
        close(fd);
    }
    int32_t state_after(const FrameHeader &header, const void *descriptors, size_t size) {
        std::vector<char> out(sizeof header + size);
        memcpy(out.data(), &header, sizeof header);
        memcpy(out.data() + sizeof header, descriptors, size);
        CHECK_EQ(send(fd, out.data(), out.size(), MSG_NOSIGNAL), static_cast<ssize_t>(out.size()));
        for (int i = 0; i < 20; ++i)
            side.poll();
        return side.host.state_of(1);
    }
    // The tag of the first slice of the frame that waits here.
    uint32_t first_tag() const {
        char head[sizeof(FrameHeader) + sizeof(SliceDescriptor)];
        CHECK_EQ(recv(fd, head, sizeof head, MSG_PEEK), static_cast<ssize_t>(sizeof head));
        SliceDescriptor slice;
        memcpy(&slice, head + sizeof(FrameHeader), sizeof slice);
        return slice.tag;
    }
};

}  // namespace

TEST(replies_to_nothing_fail_the_endpoint) {
    const FrameHeader one{FRAME_MAGIC, FRAME_ACK, 0, 1, 0};
    {
        RawTarget raw;
        const AckDescriptor ack{0, TENT_OK};
        CHECK_EQ(raw.state_after(one, &ack, sizeof ack), TENT_E_PROTOCOL);
    }
    char data[64] = {};
    {
        RawTarget raw;  // the same acknowledgement twice, in one frame
        CHECK(raw.side.post(raw.endpoint, TENT_OP_WRITE, data, 1, 64));
        raw.side.poll();
        const uint32_t tag = raw.first_tag();
        const FrameHeader two{FRAME_MAGIC, FRAME_ACK, 0, 2, 0};
        const AckDescriptor acks[2] = {{tag, TENT_OK}, {tag, TENT_OK}};
        CHECK_EQ(raw.state_after(two, acks, sizeof acks), TENT_E_PROTOCOL);
        CHECK_EQ(raw.side.returned, 1u);
        CHECK_EQ(raw.side.returned_twice, 0u);
    }
    {
        RawTarget raw;  // more data than was asked for
        CHECK(raw.side.post(raw.endpoint, TENT_OP_READ, data, 1, 32));
        raw.side.poll();
        const FrameHeader read{FRAME_MAGIC, FRAME_READ_DATA, 0, 1, 64};
        const ReadDescriptor reply{raw.first_tag(), TENT_OK, 64, 0};
        CHECK_EQ(raw.state_after(read, &reply, sizeof reply), TENT_E_PROTOCOL);
        CHECK_EQ(raw.side.statuses[0], TENT_E_PROTOCOL);
    }
}

TEST(an_acknowledgement_ahead_of_the_payload_fails_the_endpoint) {
    RawTarget raw;
    std::vector<char> data(64 << 20);
    CHECK(raw.side.post(raw.endpoint, TENT_OP_WRITE, data.data(), 1, data.size()));
    for (int i = 0; i < 50; ++i)
        raw.side.poll();  // the sockets are full, most is unsent
    const FrameHeader one{FRAME_MAGIC, FRAME_ACK, 0, 1, 0};
    const AckDescriptor ack{raw.first_tag(), TENT_OK};
    CHECK_EQ(raw.state_after(one, &ack, sizeof ack), TENT_E_PROTOCOL);
    CHECK_EQ(raw.side.statuses[0], TENT_E_PROTOCOL);
}
