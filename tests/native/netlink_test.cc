// News of network interfaces: messages as Linux 6 sent them, messages it would never send, and a
// namespace whose only interface goes down and up.
#include "base/netlink.h"

#include <sys/socket.h>
#include <tent/tent.h>

#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "check.h"
#include "own_network.h"

using namespace tent;

namespace {

using Buffer = std::vector<uint8_t>;

Buffer unhex(const char *text) {
    Buffer bytes;
    for (unsigned value = 0; sscanf(text, "%2x", &value) == 1; text += 2)
        bytes.push_back(static_cast<uint8_t>(value));
    return bytes;
}

// `ip addr add 10.9.0.1/24 dev v0`, where v0 is interface 4; then `del`.
const Buffer ADDRESS = unhex(
    "4c000000140000004ba1016b432d00000218800004000000080001000a090001080002000a090001070003007630"
    "000008000800800000001400"
    "0600ffffffffffffffff521c0300521c0300");
const Buffer ADDRESS_GONE = unhex(
    "4c000000150000004ba1016b4d2d00000218800004000000080001000a090001080002000a090001070003007630"
    "000008000800800000001400"
    "0600ffffffffffffffff521c0300521c0300");
// `ip addr add fd00::7/64 dev v0`, still to be proven unique.
const Buffer TENTATIVE = unhex(
    "480000001400000000000000000000000a40c0000400000014000100fd0000000000000000000000000000071400"
    "0600ffffffffffffffff541c0300541c030008000800c0000000");
// v0 leaves a bridge, and stays an interface.
const Buffer BRIDGE_LEFT = unhex(
    "5400000011000000000000000000000007000100040000004310010000000000070003007630000008000a000200"
    "000008000400dc05000005001000060000000a000100ea4444b6016700000800050003000000");
// v0, the first attributes of 1492 bytes: running; its other end taken down; taken down itself.
const Buffer RUNNING = unhex(
    "3800000010000000000000000000000000000100040000004310010000000000070003007630000008000d00e803"
    "00000500100006000000");
const Buffer NO_CARRIER = unhex(
    "3800000010000000000000000000000000000100040000000310000000000000070003007630000008000d00e803"
    "00000500100003000000");
const Buffer DISABLED = unhex(
    "3800000010000000000000000000000000000100040000000210000001000000070003007630000008000d00e803"
    "00000500100002000000");

Buffer with_type(Buffer message, uint16_t type) {
    memcpy(message.data() + 4, &type, sizeof type);
    return message;
}

const Buffer LINK_GONE = with_type(DISABLED, 17);

Buffer join(std::initializer_list<Buffer> messages) {
    Buffer all;
    for (const Buffer &message : messages)
        all.insert(all.end(), message.begin(), message.end());
    return all;
}

std::vector<NetlinkItem> read_all(const Buffer &bytes) {
    std::vector<NetlinkItem> items;
    std::span<const uint8_t> left(bytes);
    NetlinkItem item;
    while (netlink_next(&left, &item))
        items.push_back(item);
    return items;
}

void feed(AddressWatch &watch, const Buffer &bytes) {
    for (const NetlinkItem &item : read_all(bytes))
        watch.take(item);
}

// Knows where 10.9.0.1 is.
AddressWatch watch_of_v0() {
    AddressWatch watch;
    CHECK(watch.add("10.9.0.1"));
    watch.dump_begin();
    feed(watch, ADDRESS);
    watch.dump_addresses_end();
    CHECK_EQ(watch.link_unknown(), 4u);
    feed(watch, RUNNING);
    CHECK_EQ(watch.link_unknown(), 0u);
    CHECK(!watch.addresses[0].down());
    CHECK(!watch.dump_wanted);
    return watch;
}

}  // namespace

// ---- messages

TEST(recorded_messages_mean_what_was_done) {
    const auto items = read_all(join({ADDRESS, ADDRESS_GONE, TENTATIVE, RUNNING, NO_CARRIER}));
    CHECK_EQ(items.size(), 5u);
    const uint8_t address[4] = {10, 9, 0, 1};
    CHECK(items[0].kind == NetlinkKind::Address);
    CHECK_EQ(items[0].link, 4u);
    CHECK(items[0].usable && !items[0].gone && items[0].family == AF_INET);
    CHECK(memcmp(items[0].address, address, sizeof address) == 0);
    CHECK(items[1].gone);
    CHECK(items[2].family == AF_INET6 && !items[2].usable && items[2].address[15] == 7);
    CHECK(items[3].kind == NetlinkKind::Link && items[3].enabled && items[3].carrier);
    CHECK_EQ(items[3].name, "v0");
    CHECK(items[4].enabled && !items[4].carrier);
    CHECK(!read_all(DISABLED)[0].enabled);
    CHECK(read_all(LINK_GONE)[0].gone);
}

TEST(a_port_that_leaves_its_bridge_is_no_interface_that_goes) {
    CHECK(read_all(BRIDGE_LEFT)[0].kind == NetlinkKind::Other);
}

TEST(of_a_tunnel_the_address_is_our_end) {
    Buffer message = ADDRESS;
    message[24 + 4] = 99;  // IFA_ADDRESS: the other end
    CHECK_EQ(read_all(message)[0].address[0], 10);
    CHECK_EQ(read_all(message)[0].address[3], 1);
}

TEST(messages_cut_anywhere_are_not_read) {
    for (const Buffer &message : {ADDRESS, TENTATIVE, BRIDGE_LEFT, RUNNING})
        for (size_t size = 0; size < message.size(); size++) {
            // A copy of exactly that size: a read past it is a sanitizer's finding.
            const Buffer cut(message.begin(), message.begin() + static_cast<ptrdiff_t>(size));
            CHECK_EQ(read_all(cut).size(), 0u);
        }
}

TEST(a_short_body_under_an_honest_length_says_nothing) {
    for (const Buffer &message : {ADDRESS, RUNNING})
        for (uint32_t size = 16; size < message.size(); size++) {
            Buffer cut(message.begin(), message.begin() + size);
            memcpy(cut.data(), &size, sizeof size);
            const auto items = read_all(cut);
            CHECK_EQ(items.size(), 1u);
            // Its fixed part and the attribute that names the address must be whole.
            if (size < 32) CHECK(items[0].kind == NetlinkKind::Other);
        }
}

TEST(lengths_that_lie_end_the_reading) {
    for (const uint32_t size : {0u, 1u, 15u, 57u, 0xffffffffu}) {
        Buffer message = RUNNING;
        memcpy(message.data(), &size, sizeof size);
        CHECK_EQ(read_all(message).size(), 0u);
    }
    for (const uint16_t size : {uint16_t{0}, uint16_t{3}, uint16_t{29}, uint16_t{0xffff}}) {
        Buffer message = RUNNING;
        memcpy(message.data() + 32, &size, sizeof size);  // the first attribute's: the name
        const auto items = read_all(message);
        CHECK_EQ(items.size(), 1u);
        CHECK_EQ(items[0].name, "");
        CHECK(items[0].carrier);
    }
}

// ---- conclusions

TEST(an_address_is_down_with_its_interface_and_says_why) {
    AddressWatch watch = watch_of_v0();
    const WatchedAddress &address = watch.addresses[0];
    feed(watch, NO_CARRIER);
    CHECK(address.down());
    CHECK_EQ(address.sentence(), "interface v0 has no carrier");
    feed(watch, DISABLED);
    CHECK_EQ(address.sentence(), "interface v0 is down");
    feed(watch, RUNNING);
    CHECK(!address.down());
    CHECK_EQ(address.sentence(), "");
    feed(watch, LINK_GONE);
    CHECK(address.down());
}

TEST(another_interfaces_news_change_nothing) {
    AddressWatch watch = watch_of_v0();
    Buffer other = DISABLED;
    other[20] = 5;
    feed(watch, join({other, with_type(other, 17), BRIDGE_LEFT}));
    CHECK(!watch.addresses[0].down());
}

TEST(an_address_that_goes_is_down_until_it_is_back) {
    AddressWatch watch = watch_of_v0();
    feed(watch, ADDRESS_GONE);
    CHECK(watch.addresses[0].down());
    CHECK(watch.dump_wanted);  // another interface may have it as well
    CHECK_EQ(watch.addresses[0].sentence(), "no interface has address 10.9.0.1 any more");
    feed(watch, ADDRESS);
    CHECK(!watch.addresses[0].down());
}

TEST(an_address_that_is_not_proven_unique_yet_is_down) {
    AddressWatch watch;
    CHECK(watch.add("fd00::7"));
    watch.dump_begin();
    feed(watch, TENTATIVE);
    watch.dump_addresses_end();
    CHECK(watch.addresses[0].down());
    Buffer proven = TENTATIVE;
    proven[18] = proven[proven.size() - 4] = 0x80;
    feed(watch, proven);
    CHECK(!watch.addresses[0].down());
    CHECK(watch.dump_wanted);  // its interface is not known yet
}

TEST(a_dump_finds_what_news_had_missed) {
    AddressWatch watch = watch_of_v0();
    Buffer moved = ADDRESS;
    moved[20] = 9;
    watch.dump_begin();
    feed(watch, moved);
    watch.dump_addresses_end();
    Buffer interface = NO_CARRIER;
    interface[20] = 9;
    CHECK_EQ(watch.link_unknown(), 9u);
    feed(watch, interface);
    CHECK_EQ(watch.link_unknown(), 0u);
    CHECK_EQ(watch.addresses[0].link, 9u);
    CHECK(watch.addresses[0].down());
    watch.dump_begin();
    watch.dump_addresses_end();
    CHECK(!watch.addresses[0].there);
}

TEST(of_two_interfaces_with_the_address_the_known_one_stays) {
    AddressWatch watch = watch_of_v0();
    Buffer other = ADDRESS;
    other[20] = 2;
    watch.dump_begin();
    feed(watch, join({other, ADDRESS}));
    watch.dump_addresses_end();
    CHECK_EQ(watch.addresses[0].link, 4u);
}

TEST(an_address_that_goes_during_a_dump_is_not_found_by_it) {
    AddressWatch watch = watch_of_v0();
    watch.dump_begin();
    feed(watch, join({ADDRESS, ADDRESS_GONE}));
    watch.dump_addresses_end();
    CHECK(watch.addresses[0].down());
    CHECK(watch.dump_wanted);
}

TEST(texts_that_are_no_addresses_are_not_watched) {
    AddressWatch watch;
    for (const char *text : {"", "eth0", "10.0.0", "fabric:a/0", "fe80::1%eth0"})
        CHECK(!watch.add(text));
    CHECK(watch.add("10.0.0.1"));
    CHECK(watch.add("10.0.0.1"));
    CHECK_EQ(watch.addresses.size(), 1u);
}

// ---- the socket

TEST(an_interface_that_goes_down_and_up_is_seen_at_once) {
    own_network::run([] {
        AddressWatch watch;
        CHECK(watch.add("127.0.0.3"));
        CHECK(watch.add("::1"));
        LinkSocket socket;
        if (!CHECK_EQ(socket.open(), TENT_OK)) return;
        const auto down = [&](size_t which) {
            socket.step(watch);
            return watch.addresses[which].down();
        };
        socket.dump(watch);
        CHECK(down(0) && down(1));
        own_network::loopback(true);
        CHECK(!down(0) && !down(1));
        CHECK_EQ(watch.addresses[0].name, "lo");
        own_network::loopback(false);
        CHECK(down(0) && down(1));
        own_network::loopback(true);
        CHECK(!down(0) && !down(1));
    });
}

TEST(what_is_lost_for_want_of_room_is_asked_for_anew) {
    own_network::run([] {
        AddressWatch watch;
        CHECK(watch.add("127.0.0.1"));
        LinkSocket socket;
        if (!CHECK_EQ(socket.open(), TENT_OK)) return;
        const int size = 1;  // the system's least
        CHECK_EQ(setsockopt(socket.fd(), SOL_SOCKET, SO_RCVBUF, &size, sizeof size), 0);
        socket.dump(watch);
        for (const bool up : {true, false}) {
            for (int i = 0; i < 50; i++)
                own_network::loopback(i % 2 == 0);
            own_network::loopback(up);
            for (int i = 0; i < 20; i++)
                socket.step(watch);
            CHECK_EQ(watch.addresses[0].down(), !up);
        }
    });
}
