// Fuzzes all that the shm transport reads from peers: offers, answers, exports, addresses of rails,
// and messages over the socket to either end.
//
// The first byte says what the rest is; messages are cut from it by a length byte each, so that a
// case holds several. Leans on shm_pair.h.
#define CHECK_NO_MAIN
#include <algorithm>
#include <cstring>
#include <memory>

#include "fuzz.h"
#include "shm_pair.h"

using namespace tent::shm;
using shm_pair::Folder;
using shm_pair::Memory;
using shm_pair::Side;
using Bytes = std::vector<uint8_t>;

namespace {

enum Kind : uint8_t { OFFER, ANSWER, EXPORT, RAIL, TARGET, INITIATOR, KINDS };

struct World {
    Folder folder;
    Side side{folder};
    Memory board{sizeof(Board)}, table{sizeof(RegionTable)}, memory{8192};
    void *region = nullptr;

    World() {
        side.host.grant(memory.data, memory.size);
        region = side.register_region(memory.data, memory.size, memory.fd);
        new (board.data) Board;
        reinterpret_cast<Board *>(board.data)->size = sizeof(Board);
        auto *regions = reinterpret_cast<RegionTable *>(table.data);
        regions->magic = TABLE_MAGIC;
        regions->size = sizeof(RegionTable);
    }
};

World &world() {
    static World made;
    return made;
}

Offer offer_of(World &here) {
    char bytes[TENT_OFFER_MAX];
    uint32_t size = sizeof bytes;
    void *endpoint = nullptr;
    Offer offer{};
    const tent_endpoint_params params = here.side.params(1, true, "", "", nullptr, 0);
    FUZZ_REQUIRE(shm_pair::shm()->endpoint_offer(here.side.instance, &params, &endpoint, bytes,
                                                 &size) == TENT_OK);
    memcpy(&offer, bytes, sizeof offer);
    shm_pair::shm()->endpoint_close(here.side.instance, endpoint);
    return offer;
}

template <class T>
void put(Bytes *out, const T &value, bool length = true) {
    const auto *bytes = reinterpret_cast<const uint8_t *>(&value);
    // In units of four bytes: a message has at most 1020 then.
    if (length) out->push_back(static_cast<uint8_t>(sizeof value / 4));
    out->insert(out->end(), bytes, bytes + sizeof value);
}

template <class T>
Bytes blob(Kind kind, const T &value) {
    Bytes out{kind};
    put(&out, value, false);
    return out;
}

// Says the messages, each with the descriptors that its length byte's top bits choose.
void talk(World &here, int fd, const uint8_t *data, size_t size) {
    const int choices[] = {here.memory.fd, here.board.fd, here.table.fd, 0};
    for (int turns = 0; size > 0 && turns < 24; turns++) {
        const size_t length = std::min<size_t>(data[0] % 64 * size_t{4}, size - 1);
        const uint32_t fd_count = data[0] / 64;
        const int fds[] = {fd_count == 1 ? choices[0] : choices[1], choices[2], choices[3]};
        if (message_send(fd, data + 1, length, fds, fd_count > 2 ? 0 : fd_count) != 0) return;
        here.side.poll();
        data += 1 + length;
        size -= 1 + length;
    }
    here.side.poll();
}

void fuzz_target(World &here, const uint8_t *data, size_t size) {
    const Offer offer = offer_of(here);
    char bytes[TENT_OFFER_MAX];
    uint32_t answer_size = sizeof bytes;
    void *endpoint = nullptr;
    Answer answer{};
    const tent_endpoint_params params = here.side.params(2, false, "", "", &offer, sizeof offer);
    FUZZ_REQUIRE(shm_pair::shm()->endpoint_accept(here.side.instance, &params, &endpoint, bytes,
                                                  &answer_size) == TENT_OK);
    memcpy(&answer, bytes, sizeof answer);
    const int fd = shm_pair::raw_connect(answer.path);
    FUZZ_REQUIRE(fd >= 0);
    // An even first byte: past the Hello, which nobody can guess.
    if (size > 0 && data[0] % 2 == 0) {
        Hello hello = message_make<Hello>(MessageType::HELLO);
        hello.version = VERSION;
        hello.endpoint = answer.endpoint;
        memcpy(hello.secret, answer.secret, sizeof hello.secret);
        FUZZ_REQUIRE(message_send(fd, hello) == 0);
    }
    here.side.poll();
    here.side.poll();
    if (size > 0) talk(here, fd, data + 1, size - 1);
    close(fd);
    here.side.poll();
    FUZZ_REQUIRE(shm_pair::shm()->endpoint_retire(here.side.instance, endpoint) == TENT_OK);
}

void fuzz_initiator(World &here, const uint8_t *data, size_t size) {
    shm_pair::Host peer(here.folder, here.side);
    RemoteRegion *region = peer.tell(here.memory.data, here.memory.size);
    if (peer.connect() != TENT_OK) return;
    if (size > 0 && data[0] % 2 == 0) peer.say(peer.welcome(), {here.board.fd, here.table.fd});
    if (size > 0) talk(here, peer.fd, data + 1, size - 1);
    FUZZ_REQUIRE(region->base == nullptr || region->about.length <= region->mapping_size);
}

}  // namespace

std::vector<Bytes> fuzz_corpus() {
    World &here = world();
    const Offer offer = offer_of(here);
    Answer answer{};
    answer.target = offer;
    memcpy(answer.path, "/nowhere", 9);
    Export about{};
    memcpy(&about, here.side.exported(here.region).data(), sizeof about);
    Want want = message_make<Want>(MessageType::WANT);
    want.slot = about.slot;
    want.generation = about.generation;
    RingWant ring_want = message_make<RingWant>(MessageType::RING_WANT);
    ring_want.chunk_size = 4096;
    ring_want.chunk_count = 4;
    Bytes questions{TARGET, 0};
    put(&questions, want);
    put(&questions, ring_want);
    put(&questions, message_make<Stands>(MessageType::STANDS));
    put(&questions, message_make<Bell>(MessageType::BELL));
    Bytes stranger{TARGET, 1};
    Hello hello = message_make<Hello>(MessageType::HELLO);
    hello.version = VERSION;
    put(&stranger, hello);
    Give give = message_make<Give>(MessageType::GIVE);
    give.slot = 3;
    give.generation = 1;
    give.access = TENT_ACCESS_READ | TENT_ACCESS_WRITE;
    give.address = shm_pair::at(here.memory.data);
    give.length = here.memory.size;
    Bytes gifts{INITIATOR, 0};
    put(&gifts, give);
    gifts[2] = static_cast<uint8_t>(gifts[2] + 64);  // with one descriptor
    put(&gifts, message_make<Bell>(MessageType::BELL));
    Bytes welcome{INITIATOR, 1};
    put(&welcome, message_make<Welcome>(MessageType::WELCOME));
    welcome[2] = static_cast<uint8_t>(welcome[2] + 128);
    Bytes rail{RAIL};
    for (const char letter : place_text(offer.place, true))
        rail.push_back(static_cast<uint8_t>(letter));
    return {blob(OFFER, offer),
            blob(ANSWER, answer),
            blob(EXPORT, about),
            rail,
            questions,
            stranger,
            gifts,
            welcome};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    World &here = world();
    const tent_plugin *plugin = shm_pair::shm();
    const uint8_t kind = data[0] % KINDS;
    const uint8_t *rest = data + 1;
    const auto length = static_cast<uint32_t>(size - 1);
    void *handle = nullptr;
    char bytes[TENT_OFFER_MAX];
    uint32_t room = sizeof bytes;
    here.side.host.news.clear();
    here.side.host.logged.clear();
    if (kind == OFFER) {
        const tent_endpoint_params params = here.side.params(3, false, "", "", rest, length);
        if (plugin->endpoint_accept(here.side.instance, &params, &handle, bytes, &room) == TENT_OK)
            FUZZ_REQUIRE(plugin->endpoint_retire(here.side.instance, handle) == TENT_OK);
    } else if (kind == ANSWER) {
        tent_endpoint_params params = here.side.params(4, true, "", "", nullptr, 0);
        plugin->endpoint_offer(here.side.instance, &params, &handle, bytes, &room);
        params.blob = rest;
        params.blob_size = length;
        plugin->endpoint_connect(here.side.instance, handle, &params);
        here.side.poll();
        FUZZ_REQUIRE(plugin->endpoint_close(here.side.instance, handle) == TENT_OK);
    } else if (kind == EXPORT) {
        if (plugin->segment_import(here.side.instance, rest, length, &handle) == TENT_OK)
            plugin->segment_forget(here.side.instance, handle);
    } else if (kind == RAIL) {
        const std::string text(reinterpret_cast<const char *>(rest), length);
        const int32_t reach = plugin->rail_reach(here.side.instance, here.side.rail, text.c_str());
        FUZZ_REQUIRE(reach >= 0 && reach <= 2);
    } else if (kind == TARGET) {
        fuzz_target(here, rest, length);
    } else {
        fuzz_initiator(here, rest, length);
    }
    FUZZ_REQUIRE(here.side.inside().endpoints.empty());
    return 0;
}
