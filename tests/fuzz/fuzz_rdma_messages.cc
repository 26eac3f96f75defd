// Fuzzes what the rdma transport reads of regions and keys from peers: exports, questions and
// answers, first by the readers alone, then by endpoints that stand.
//
// The first byte says what the rest is; messages to an endpoint are cut from it by a length byte
// each. Leans on rdma_memory.h: there is no device.
#define CHECK_NO_MAIN
#include <algorithm>
#include <cstring>

#include "fuzz.h"
#include "plugins/rdma/messages.h"
#include "rdma_memory.h"

using namespace rdma_memory;
using Bytes = std::vector<uint8_t>;

namespace {

enum Kind : uint8_t { EXPORT, TARGET, INITIATOR, KINDS };

constexpr uint64_t BASE = 0x100000;
constexpr uint64_t LENGTH = 3 * 4096;

void append(Bytes *out, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        out->push_back(static_cast<const uint8_t *>(bytes)[i]);
}

template <class T>
void put(Bytes *out, const T &value) {
    append(out, &value, sizeof value);
}

Export export_of(uint64_t number) {
    Export about{};
    about.magic = EXPORT_MAGIC;
    about.version = PROTOCOL_VERSION;
    about.access = TENT_ACCESS_READ | TENT_ACCESS_WRITE;
    memset(about.instance, 7, sizeof about.instance);
    about.number = number;
    about.address = BASE;
    about.length = LENGTH;
    about.piece_size = 4096;
    return about;
}

void fuzz_export(World &world, const uint8_t *data, uint32_t size) {
    void *handle = nullptr;
    if (segment_import(&world.instance, data, size, &handle) != TENT_OK) return;
    const auto *region = static_cast<RemoteRegion *>(handle);
    const Export &about = region->about;
    FUZZ_REQUIRE(region->piece_count >= 1 && region->piece_count <= PIECES_MAX);
    FUZZ_REQUIRE(about.length > 0 && about.address + about.length > about.address);
    // The last piece begins before the end, and there is none behind it.
    FUZZ_REQUIRE((region->piece_count - 1) * about.piece_size < about.length);
    FUZZ_REQUIRE(about.length - (region->piece_count - 1) * about.piece_size <= about.piece_size);
    Endpoint &endpoint = world.endpoint(true);
    endpoint_region(&world.instance, &endpoint, handle);
    segment_forget(&world.instance, handle);
}

// Says the messages; what is told to the peer goes nowhere.
void talk(World &world, Endpoint &endpoint, const uint8_t *data, size_t size) {
    while (size > 0) {
        const size_t length = std::min<size_t>(data[0] * size_t{2}, size - 1);
        endpoint_message(&world.instance, &endpoint, data + 1, static_cast<uint32_t>(length));
        World::sent.clear();
        world.host.logged.clear();
        data += 1 + length;
        size -= 1 + length;
    }
}

void fuzz_target(World &world, const uint8_t *data, size_t size) {
    if (size == 0) return;
    world.instance.options.piece_size = 4096;
    Region *region = world.region(BASE, LENGTH);
    world.host.grant(reinterpret_cast<void *>(BASE), LENGTH);
    Endpoint &endpoint = world.endpoint(false, 1 + data[0] % QPS_MAX);
    endpoint.risen = data[0] < 200;
    talk(world, endpoint, data + 1, size - 1);
    FUZZ_REQUIRE(endpoint.asked.size() <= 64);
    FUZZ_REQUIRE(endpoint.given.size() <= 1);
    FUZZ_REQUIRE(!region->leaving);
}

void fuzz_initiator(World &world, const uint8_t *data, size_t size) {
    if (size == 0) return;
    Endpoint &endpoint = world.endpoint(true, 1 + data[0] % QPS_MAX);
    void *regions[2] = {};
    for (uint64_t i = 0; i < 2; i++) {
        const Export about = export_of(1 + i);
        FUZZ_REQUIRE(segment_import(&world.instance, &about, sizeof about, &regions[i]) == TENT_OK);
        endpoint_region(&world.instance, &endpoint, regions[i]);
    }
    talk(world, endpoint, data + 1, size - 1);
    keys_step(endpoint, world.host.now_ns + 1'000'000'000);
    for (void *handle : regions) {
        auto *region = static_cast<RemoteRegion *>(handle);
        const RemoteKeys *keys = keys_of(endpoint, region);
        // A slice looks there without asking.
        FUZZ_REQUIRE(keys->keys.size() == keys->next * endpoint.qps.size());
        FUZZ_REQUIRE(keys->next <= region->piece_count);
        FUZZ_REQUIRE(keys->known == (keys->next == region->piece_count));
        FUZZ_REQUIRE(keys->status <= TENT_OK);
        segment_forget(&world.instance, handle);
    }
}

Bytes message(const Bytes &body) {
    Bytes out{static_cast<uint8_t>(body.size() / 2)};
    append(&out, body.data(), body.size());
    return out;
}

Bytes keys_message(uint64_t region, int32_t status, uint32_t piece, uint32_t piece_count,
                   uint32_t qp_count) {
    KeysRead keys{};
    keys.head = {Message::KEYS,
                 status,
                 region,
                 piece,
                 piece_count,
                 qp_count,
                 TENT_ACCESS_READ | TENT_ACCESS_WRITE};
    if (status == TENT_OK) keys.count = piece_count * qp_count;
    uint8_t bytes[TENT_OFFER_MAX];
    const uint32_t size = keys_write(keys, bytes);
    return message({bytes, bytes + size});
}

}  // namespace

std::vector<Bytes> fuzz_corpus() {
    Bytes one{EXPORT};
    put(&one, export_of(1));
    Bytes whole{EXPORT};
    Export single = export_of(2);
    single.piece_size = UINT64_MAX;
    put(&whole, single);
    Bytes questions{TARGET, 1};
    for (uint32_t piece = 0; piece < 4; piece++) {
        Bytes want;
        put(&want, Want{Message::WANT, piece, 1 + piece / 3});
        const Bytes said = message(want);
        append(&questions, said.data(), said.size());
    }
    Bytes answers{INITIATOR, 1};
    for (const Bytes &said : {keys_message(1, TENT_OK, 0, 2, 2), keys_message(1, TENT_OK, 2, 1, 2),
                              keys_message(2, TENT_E_DENIED, 0, 0, 0)})
        append(&answers, said.data(), said.size());
    return {one, whole, questions, answers};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const uint8_t *rest = data + 1;
    const auto length = static_cast<uint32_t>(size - 1);
    Export about{};
    Want want{};
    KeysRead keys{};
    uint32_t piece_count = 0;
    export_read(rest, length, &about, &piece_count);
    want_read(rest, length, &want);
    if (keys_read(rest, length, &keys)) FUZZ_REQUIRE(keys.count <= KEYS_PER_MESSAGE);
    World world(1, false);
    switch (data[0] % KINDS) {
        case EXPORT: fuzz_export(world, rest, length); break;
        case TARGET: fuzz_target(world, rest, length); break;
        default: fuzz_initiator(world, rest, length);
    }
    return 0;
}
