// Fuzzes the reading of the system's news of interfaces, and what is concluded from them.
//
// The system does not lie; a sandbox's imitation of it may be careless.
#include <cstring>
#include <vector>

#include "base/netlink.h"
#include "fuzz.h"

using namespace tent;

namespace {

using Buffer = std::vector<uint8_t>;

void put_u16(Buffer &out, size_t value) {
    out.push_back(static_cast<uint8_t>(value));
    out.push_back(static_cast<uint8_t>(value >> 8));
}

void put_u32(Buffer &out, size_t value) {
    put_u16(out, value & 0xffff);
    put_u16(out, value >> 16);
}

// A message of that type: body, then one attribute.
Buffer message(uint16_t type, const Buffer &body, uint16_t attribute, const Buffer &value) {
    Buffer out;
    put_u32(out, 16 + body.size() + 4 + value.size());
    put_u16(out, type);
    put_u16(out, 0);
    put_u32(out, 1);
    put_u32(out, 0);
    out.insert(out.end(), body.begin(), body.end());
    put_u16(out, 4 + value.size());
    put_u16(out, attribute);
    out.insert(out.end(), value.begin(), value.end());
    return out;
}

Buffer add(Buffer a, const Buffer &b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

}  // namespace

std::vector<std::vector<uint8_t>> fuzz_corpus() {
    const Buffer up =
        message(16, {0, 0, 1, 0, 4, 0, 0, 0, 0x43, 0, 1, 0, 0, 0, 0, 0}, 3, {'e', 't', 'h', 0});
    const Buffer gone =
        message(17, {0, 0, 1, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}, 3, {'e', 't', 'h', 0});
    const Buffer v4 = message(20, {2, 24, 0, 0, 4, 0, 0, 0}, 2, {10, 9, 0, 1});
    const Buffer v6 = message(20, {10, 64, 0, 0, 4, 0, 0, 0}, 1,
                              {0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7});
    const Buffer v4_gone = message(21, {2, 24, 0, 0, 4, 0, 0, 0}, 2, {10, 9, 0, 1});
    const Buffer error = message(2, {0xff, 0xff, 0xff, 0xff}, 0, {});
    const Buffer done = message(3, {0, 0, 0, 0}, 0, {});
    return {up, add(v4, up), add(add(v6, up), gone), add(add(v4, v4_gone), done), error, {}};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    AddressWatch watch;
    for (const char *text : {"10.9.0.1", "fd00::7", "127.0.0.1"})
        FUZZ_REQUIRE(watch.add(text));
    watch.dump_begin();
    std::span<const uint8_t> left(data, size);
    NetlinkItem item;
    for (size_t before = left.size(); netlink_next(&left, &item); before = left.size()) {
        FUZZ_REQUIRE(left.size() < before);
        FUZZ_REQUIRE(memchr(item.name, 0, sizeof item.name) != nullptr);
        FUZZ_REQUIRE(item.error >= 0);
        watch.take(item);
        if (item.kind == NetlinkKind::Done) watch.dump_addresses_end();
    }
    for (const WatchedAddress &address : watch.addresses)
        FUZZ_REQUIRE(address.down() != address.sentence().empty());
    return 0;
}
