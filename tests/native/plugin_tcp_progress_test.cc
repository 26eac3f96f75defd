// endpoint_progress of the tcp transport: what tells a slow path from a dead one.
//
// Leans on fake_host.h. Small socket buffers, so that most of a transfer is neither in ours nor in
// the peer's.
#include <utility>

#include "check.h"
#include "fake_host.h"

using fake::Pair;
using fake::Side;

namespace {

const tent_plugin *tcp() {
    return tent_plugin_query(TENT_PLUGIN_ABI);
}

// A pair of engines, 8 MiB here, and room for them there.
struct Transfer {
    Pair pair;
    std::vector<char> source = std::vector<char>(8 << 20, 'x');
    std::vector<char> remote = std::vector<char>(source.size());

    explicit Transfer(const char *connections)
        : pair(tcp(), "lo",
               {{"rcvbuf", "65536"}, {"sndbuf", "65536"}, {"connections", connections}}) {
        CHECK_EQ(pair.status, TENT_OK);
        pair.target.host.grant(remote.data(), remote.size());
    }
    void post(uint32_t op) {
        CHECK(pair.initiator.post(pair.from, op, source.data(),
                                  reinterpret_cast<uintptr_t>(remote.data()), source.size()));
    }
    uint64_t progress() { return tcp()->endpoint_progress(pair.initiator.instance, pair.from); }
};

}  // namespace

TEST(progress_grows_while_bytes_move_and_counts_each_once) {
    Transfer transfer("2");
    Pair &pair = transfer.pair;
    const uint64_t size = transfer.source.size();
    CHECK_EQ(transfer.progress(), 0u);
    transfer.post(TENT_OP_WRITE);
    uint64_t seen = 0;
    uint32_t grown = 0;
    for (uint32_t i = 0; i < 1000000 && pair.initiator.returned == 0; ++i) {
        pair.step();
        const uint64_t now = transfer.progress();
        CHECK(now >= seen);
        grown += now > seen;
        seen = now;
    }
    CHECK_EQ(pair.initiator.statuses[0], TENT_OK);
    CHECK(grown >= 10);
    CHECK(seen >= size);  // the payload, its head and the reply
    CHECK(seen < size + 4096);
    transfer.post(TENT_OP_READ);
    CHECK(pair.settle());
    CHECK(transfer.progress() >= 2 * size);
    CHECK(tcp()->endpoint_progress(pair.target.instance, pair.to) >= 2 * size);
}

TEST(progress_stands_still_when_the_peer_does_not_read) {
    Transfer transfer("1");
    transfer.post(TENT_OP_WRITE);
    // The peer's system takes what its buffers hold (and may wait 40 ms before it says so), then
    // nothing.
    uint64_t seen = 0;
    uint32_t still = 0;
    for (uint32_t i = 0; i < 10000000 && (seen == 0 || still < 20000); ++i) {
        transfer.pair.initiator.flush();
        transfer.pair.initiator.poll();
        const uint64_t now = transfer.progress();
        still = now == seen ? still + 1 : 0;
        seen = now;
    }
    CHECK(seen > 0);
    CHECK(still >= 20000);
    CHECK(seen < transfer.source.size());
    CHECK(transfer.pair.settle());
    CHECK(transfer.progress() > seen);
}

TEST(progress_of_a_failed_endpoint_does_not_fall) {
    Transfer transfer("2");
    Pair &pair = transfer.pair;
    transfer.post(TENT_OP_WRITE);
    CHECK(pair.settle());
    const uint64_t seen = transfer.progress();
    CHECK(seen >= transfer.source.size());
    CHECK_EQ(tcp()->endpoint_retire(pair.target.instance, std::exchange(pair.to, nullptr)),
             TENT_OK);
    for (int i = 0; i < 10000 && pair.initiator.host.state_of(Pair::INITIATOR) == TENT_OK; ++i)
        pair.initiator.poll();
    CHECK(pair.initiator.host.state_of(Pair::INITIATOR) < 0);
    CHECK_EQ(transfer.progress(), seen);
}
