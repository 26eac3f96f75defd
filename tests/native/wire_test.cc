// The wire layer's building blocks: HMAC, text rules, frames and the messages in them.
//
// Claims about bytes only; no socket, no clock. Randomness is seeded and the same in every run.
#include <array>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "check.h"
#include "wire/codec.h"
#include "wire/crypto.h"
#include "wire/frame.h"
#include "wire/messages.h"

using namespace tent;

namespace {

using Buffer = std::vector<uint8_t>;

Buffer from_text(std::string_view text) {
    return {text.begin(), text.end()};
}

std::string hexadecimal(Bytes bytes) {
    std::string text;
    for (const uint8_t byte : bytes) {
        char digits[3];
        snprintf(digits, sizeof digits, "%02x", byte);
        text += digits;
    }
    return text;
}

std::string mac_text(const Buffer &key, const Buffer &data) {
    uint8_t tag[SHA256_SIZE];
    return hmac_sha256(key, data, tag) ? hexadecimal(tag) : "refused";
}

const std::array<uint8_t, FRAME_KEY_SIZE> KEY = {1, 2, 3, 4, 5};

// Feeds bytes in pieces; the payloads of the frames found, or the error.
struct Fed {
    int32_t status = TENT_IN_PROGRESS;
    std::vector<Buffer> payloads;
    size_t buffered_max = 0;
};

Fed feed_all(FrameParser *parser, const Buffer &bytes, size_t piece) {
    Fed fed;
    for (size_t at = 0; at < bytes.size();) {
        Frame frame;
        size_t used = 0;
        fed.status =
            parser->feed(bytes.data() + at, std::min(piece, bytes.size() - at), &used, &frame);
        fed.buffered_max = std::max(fed.buffered_max, parser->buffered());
        at += used;
        if (fed.status == TENT_OK) {
            fed.payloads.emplace_back(frame.payload.begin(), frame.payload.end());
        } else if (fed.status != TENT_IN_PROGRESS) {
            return fed;
        }
    }
    return fed;
}

// A frame header in front of nothing, to see what the parser does before any payload arrives.
Buffer bare_header(uint32_t length, uint16_t flags, uint64_t sequence) {
    Buffer bytes(FRAME_HEADER_SIZE);
    FrameHeader header;
    header.length = length;
    header.type = static_cast<uint16_t>(MessageType::PING);
    header.flags = flags;
    header.sequence = sequence;
    encode_frame_header(header, bytes.data());
    return bytes;
}

template <class Message>
Buffer payload_of(const Message &message) {
    Buffer bytes(FRAME_PAYLOAD_MAX);
    ByteWriter writer(bytes.data(), bytes.size());
    CHECK_EQ(message.encode(writer), TENT_OK);
    CHECK(writer.ok());
    bytes.resize(writer.size());
    return bytes;
}

template <class Message>
int32_t decode_payload(const Buffer &bytes, size_t size, Message *message) {
    // A copy of exactly that size, so that a sanitizer sees a read past its end.
    const Buffer exact(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    ByteReader reader(exact.data(), exact.size());
    return message->decode(reader);
}

// Every message: what was encoded comes back, and each proper prefix and each longer form is
// refused.
template <class Message>
void check_message(const Message &message) {
    const Buffer bytes = payload_of(message);
    Message copy;
    CHECK_EQ(decode_payload(bytes, bytes.size(), &copy), TENT_OK);
    CHECK(payload_of(copy) == bytes);
    for (size_t size = 0; size < bytes.size(); size++) {
        Message cut;
        if (!CHECK_EQ(decode_payload(bytes, size, &cut), TENT_E_PROTOCOL)) {
            fprintf(stderr, "  %s cut to %zu of %zu bytes\n",
                    message_type_name(static_cast<uint16_t>(Message::TYPE)), size, bytes.size());
            return;
        }
    }
    Buffer longer = bytes;
    longer.push_back(0);
    Message more;
    CHECK_EQ(decode_payload(longer, longer.size(), &more), TENT_E_PROTOCOL);
}

DescriptorRegion some_region(uint64_t number) {
    DescriptorRegion region;
    region.region = number;
    region.address = 0x7f0000000000 + number * 4096;
    region.length = 4096;
    region.access = TENT_ACCESS_READ;
    region.location = "cpu:0";
    region.label = "kv";
    region.exports = {{"rdma", {1, 2, 3, 4}}, {"shm", {}}};
    return region;
}

template <class Message>
int32_t encode_status(const Message &message) {
    Buffer room(FRAME_PAYLOAD_MAX);
    ByteWriter writer(room.data(), room.size());
    return message.encode(writer);
}

}  // namespace

// ---- crypto
// --------------------------------------------------------------------------------------

TEST(hmac_sha256_agrees_with_rfc_4231) {
    if (!CHECK_EQ(crypto_available(), TENT_OK)) return;
    Buffer counting;
    for (uint8_t i = 1; i <= 25; i++)
        counting.push_back(i);
    CHECK_EQ(mac_text(Buffer(20, 0x0b), from_text("Hi There")),
             "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    CHECK_EQ(mac_text(from_text("Jefe"), from_text("what do ya want for nothing?")),
             "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    CHECK_EQ(mac_text(Buffer(20, 0xaa), Buffer(50, 0xdd)),
             "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    CHECK_EQ(mac_text(counting, Buffer(50, 0xcd)),
             "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b");
    CHECK_EQ(mac_text(Buffer(20, 0x0c), from_text("Test With Truncation")).substr(0, 32),
             "a3b6167473100ee06e0c796c2955552b");
    CHECK_EQ(mac_text(Buffer(131, 0xaa),
                      from_text("Test Using Larger Than Block-Size Key - Hash Key First")),
             "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    CHECK_EQ(mac_text(Buffer(131, 0xaa),
                      from_text("This is a test using a larger than block-size key and a larger "
                                "than block-size data. The key needs to be hashed before being "
                                "used by the HMAC algorithm.")),
             "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2");
}

TEST(hmac_of_parts_is_the_hmac_of_their_concatenation) {
    const Buffer key(32, 7);
    const Buffer a = from_text("one"), b, c = from_text("three");
    uint8_t parts[SHA256_SIZE];
    CHECK(hmac_sha256_parts(key, {a, b, c}, parts));
    CHECK_EQ(hexadecimal(parts), mac_text(key, from_text("onethree")));
}

TEST(hmac_of_too_many_bytes_fails_closed) {
    const Buffer key(32, 7), part(HMAC_PARTS_MAX, 1), one(1, 1);
    uint8_t tag[SHA256_SIZE];
    CHECK(hmac_sha256_parts(key, {part}, tag));
    CHECK(!hmac_sha256_parts(key, {part, one}, tag));
    CHECK_EQ(hexadecimal(tag), std::string(64, '0'));
}

TEST(constant_time_comparison_sees_every_byte) {
    const Buffer a(32, 9);
    CHECK(equal_constant_time(a.data(), Buffer(a).data(), a.size()));
    for (size_t i = 0; i < a.size(); i++) {
        Buffer b = a;
        b[i] ^= 1;
        CHECK(!equal_constant_time(a.data(), b.data(), a.size()));
    }
}

// ---- texts
// ---------------------------------------------------------------------------------------

TEST(text_with_control_characters_or_broken_utf8_is_not_valid) {
    CHECK(valid_text("") && valid_text("GPU 3, K\xc3\xb6ln, \xe2\x82\xac, \xf0\x9f\x98\x80"));
    for (const char *bad : {"\n", "a\x1b[31m", "\x7f", "\x80", "\xc2\x9b", "\xc0\x80", "\xc3",
                            "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff"}) {
        if (!CHECK(!valid_text(bad)))
            fprintf(stderr, "  %s\n", hexadecimal(from_text(bad)).c_str());
    }
    CHECK(!valid_text(std::string_view("\0", 1)));
}

TEST(cleaned_text_is_valid_and_cut_at_a_character) {
    CHECK_EQ(clean_text("a\nb\xff", 100), "a?b?");
    CHECK_EQ(clean_text("ab\xe2\x82\xac", 4), "ab");
    CHECK_EQ(clean_text("ab\xe2\x82\xac", 5), "ab\xe2\x82\xac");
}

// ---- frames
// --------------------------------------------------------------------------------------

TEST(connection_kinds_are_told_apart_by_the_first_word) {
    CHECK(classify_connection(FIRST_WORD_CONTROL) == ConnectionKind::CONTROL);
    CHECK(classify_connection(FIRST_WORD_DATA) == ConnectionKind::DATA);
    CHECK(classify_connection(from_text("GET ").data()) == ConnectionKind::UNKNOWN);
}

TEST(frame_header_has_its_documented_bytes) {
    FrameHeader header;
    header.length = 0x01020304;
    header.type = 0x0506;
    header.flags = 0x0708;
    header.sequence = 0x1112131415161718;
    uint8_t bytes[FRAME_HEADER_SIZE];
    encode_frame_header(header, bytes);
    CHECK_EQ(hexadecimal(bytes), "04030201060508071817161514131211");
    CHECK_EQ(decode_frame_header(bytes).sequence, header.sequence);
}

TEST(frames_survive_any_cutting_of_the_stream) {
    for (const bool keyed : {false, true}) {
        FrameWriter writer;
        if (keyed) writer.set_key(KEY.data());
        Buffer stream;
        const std::vector<Buffer> payloads = {{}, {1}, Buffer(512, 2), {}, Buffer(100, 3)};
        for (const Buffer &payload : payloads) {
            CHECK_EQ(writer.append(MessageType::PING, payload, &stream), TENT_OK);
        }
        for (const size_t piece : {1, 2, 15, 16, 17, 33, 100, 100000}) {
            FrameParser parser;
            if (keyed) parser.set_key(KEY.data());
            const Fed fed = feed_all(&parser, stream, piece);
            CHECK_EQ(fed.status, TENT_OK);
            CHECK(fed.payloads == payloads);
        }
    }
}

TEST(frame_over_the_cap_is_refused_by_its_header_alone) {
    FrameParser before;
    Fed fed = feed_all(&before, bare_header(FRAME_PAYLOAD_MAX_HANDSHAKE + 1, 0, 0), 1000);
    CHECK_EQ(fed.status, TENT_E_PROTOCOL);
    CHECK(fed.buffered_max <= FRAME_HEADER_SIZE);
    FrameParser after;
    after.set_key(KEY.data());
    CHECK_EQ(feed_all(&after, bare_header(FRAME_PAYLOAD_MAX + 1, 0, 0), 1000).status,
             TENT_E_PROTOCOL);
    FrameParser largest;
    CHECK_EQ(feed_all(&largest, bare_header(FRAME_PAYLOAD_MAX_HANDSHAKE, 0, 0), 1000).status,
             TENT_IN_PROGRESS);
}

TEST(parser_never_holds_more_than_one_frame) {
    FrameWriter writer;
    Buffer stream;
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(writer.append(MessageType::PING, Buffer(512, 1), &stream), TENT_OK);
    }
    FrameParser parser;
    const Fed fed = feed_all(&parser, stream, stream.size());
    CHECK_EQ(fed.payloads.size(), 100u);
    CHECK_EQ(fed.buffered_max, FRAME_HEADER_SIZE + 512);
}

TEST(writer_refuses_what_the_parser_would_refuse) {
    FrameWriter writer;
    Buffer out(3, 9);
    CHECK_EQ(writer.append(MessageType::PING, Buffer(FRAME_PAYLOAD_MAX_HANDSHAKE + 1), &out),
             TENT_E_INVALID);
    writer.set_key(KEY.data());
    CHECK_EQ(writer.append(MessageType::PING, Buffer(FRAME_PAYLOAD_MAX + 1), &out), TENT_E_INVALID);
    CHECK(out == Buffer(3, 9));
    CHECK_EQ(writer.sequence(), 0u);
    CHECK_EQ(writer.append(MessageType::PING, Buffer(FRAME_PAYLOAD_MAX), &out), TENT_OK);
    CHECK_EQ(writer.sequence(), 1u);
}

TEST(frame_with_flags_is_refused) {
    FrameParser parser;
    CHECK_EQ(feed_all(&parser, bare_header(0, 1, 0), 1000).status, TENT_E_PROTOCOL);
}

TEST(every_flipped_bit_of_an_authenticated_frame_is_found) {
    FrameWriter writer;
    writer.set_key(KEY.data());
    Buffer stream;
    CHECK_EQ(writer.append(MessageType::NOTICE, from_text("payload"), &stream), TENT_OK);
    for (size_t bit = 0; bit < stream.size() * 8; bit++) {
        Buffer damaged = stream;
        damaged[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
        // A larger length is a frame not yet complete: give it what it waits for.
        damaged.resize(damaged.size() + (FRAME_PAYLOAD_MAX >> 1) + 1024);
        FrameParser parser;
        parser.set_key(KEY.data());
        const Fed fed = feed_all(&parser, damaged, damaged.size());
        if (!CHECK(fed.payloads.empty() && fed.status < 0)) return;
    }
}

TEST(replayed_dropped_and_swapped_frames_fail) {
    FrameWriter writer;
    writer.set_key(KEY.data());
    std::array<Buffer, 3> frames;
    for (Buffer &frame : frames) {
        CHECK_EQ(writer.append(MessageType::PING, from_text("x"), &frame), TENT_OK);
    }
    const auto status_of = [&](std::initializer_list<size_t> order) {
        FrameParser parser;
        parser.set_key(KEY.data());
        Buffer stream;
        for (const size_t i : order)
            stream.insert(stream.end(), frames[i].begin(), frames[i].end());
        return feed_all(&parser, stream, stream.size()).status;
    };
    CHECK_EQ(status_of({0, 1, 2}), TENT_OK);
    CHECK_EQ(status_of({0, 0}), TENT_E_AUTH);
    CHECK_EQ(status_of({1}), TENT_E_AUTH);
    CHECK_EQ(status_of({0, 2}), TENT_E_AUTH);
}

TEST(frame_of_the_other_direction_fails) {
    FrameWriter writer;
    writer.set_key(KEY.data());
    Buffer frame;
    CHECK_EQ(writer.append(MessageType::PING, from_text("x"), &frame), TENT_OK);
    std::array<uint8_t, FRAME_KEY_SIZE> other = KEY;
    other[0] ^= 1;
    FrameParser parser;
    parser.set_key(other.data());
    CHECK_EQ(feed_all(&parser, frame, frame.size()).status, TENT_E_AUTH);
}

TEST(broken_parser_stays_broken) {
    FrameParser parser;
    CHECK_EQ(feed_all(&parser, bare_header(0, 1, 0), 1000).status, TENT_E_PROTOCOL);
    CHECK_EQ(feed_all(&parser, bare_header(0, 0, 0), 1000).status, TENT_E_PROTOCOL);
    CHECK_EQ(parser.buffered(), 0u);
}

// ---- messages
// ------------------------------------------------------------------------------------

TEST(every_message_comes_back_and_no_prefix_does) {
    DescribeRequest request;
    request.request = 7;
    request.has_token = true;
    request.grant = 3;
    request.token[15] = 0xee;
    check_message(request);
    Describe part;
    part.request = 7;
    part.total = 100;
    part.offset = 90;
    part.bytes = Buffer(10, 5);
    check_message(part);
    RegionDelta delta;
    delta.grant = 3;
    delta.version_base = 4;
    delta.version = 5;
    delta.added = {some_region(1), some_region(2)};
    delta.removed = {9, 10};
    check_message(delta);
    check_message(GrantRevoked{.grant = 3});
    EndpointOpen open;
    open.endpoint = 11;
    open.grant = 3;
    open.transport = "tcp";
    open.initiator_rail = 1;
    open.target_rail = 2;
    open.initiator_address = "127.0.0.1";
    open.slice_count_max = 64;
    open.offer = {1, 2};
    check_message(open);
    EndpointAnswer answer;
    answer.endpoint = 11;
    answer.status = TENT_E_DENIED;
    answer.sentence = "no";
    answer.answer = Buffer(TENT_OFFER_MAX, 1);
    check_message(answer);
}

TEST(every_small_message_comes_back_and_no_prefix_does) {
    check_message(EndpointRetire{.endpoint = 11});
    EndpointRetired retired;
    retired.endpoint = 11;
    retired.status = TENT_E_DENIED;
    retired.sentence = "revoked";
    check_message(retired);
    PluginMessage plugin;
    plugin.endpoint = 11;
    plugin.number = 1;
    plugin.from_initiator = true;
    plugin.bytes = {1, 2, 3};
    check_message(plugin);
    Notice notice;
    notice.number = 1;
    notice.bytes = from_text("done");
    check_message(notice);
    NoticeAck ack;
    ack.number = 1;
    ack.status = TENT_E_AGAIN;
    check_message(ack);
    check_message(Ping{.number = 5});
    check_message(Pong{.number = 5});
    check_message(Bye{});
    Error error;
    error.status = TENT_E_AUTH;
    error.sentence = "another key";
    check_message(error);
}

TEST(message_goes_through_frames) {
    FrameWriter writer;
    FrameParser parser;
    writer.set_key(KEY.data());
    parser.set_key(KEY.data());
    Notice notice;
    notice.number = 42;
    notice.bytes = Buffer(NOTICE_SIZE_MAX, 0xab);
    Buffer stream;
    CHECK_EQ(append_message(notice, &writer, &stream), TENT_OK);
    Frame frame;
    size_t used = 0;
    CHECK_EQ(parser.feed(stream.data(), stream.size(), &used, &frame), TENT_OK);
    CHECK(frame.type() == MessageType::NOTICE);
    Notice copy;
    CHECK_EQ(decode_message(frame, &copy), TENT_OK);
    CHECK_EQ(copy.number, 42u);
    CHECK(copy.bytes == notice.bytes);
}

TEST(largest_region_delta_fits_a_frame) {
    RegionDelta delta;
    delta.version = 1;
    for (uint64_t i = 1; i <= DELTA_ADDED_MAX; i++) {
        DescriptorRegion region = some_region(i);
        region.location = std::string(LOCATION_SIZE_MAX, 'l');
        region.label = std::string(LABEL_SIZE_MAX, 'l');
        region.exports.clear();
        for (char c = 'a'; region.exports.size() < REGION_EXPORTS_MAX; c++) {
            region.exports.push_back(
                {std::string(TRANSPORT_NAME_SIZE_MAX, c), Buffer(TENT_EXPORT_MAX, 1)});
        }
        delta.added.push_back(region);
    }
    delta.removed.assign(DELTA_REMOVED_MAX, 1);
    FrameWriter writer;
    writer.set_key(KEY.data());
    Buffer stream;
    CHECK_EQ(append_message(delta, &writer, &stream), TENT_OK);
    delta.removed.push_back(1);
    CHECK_EQ(append_message(delta, &writer, &stream), TENT_E_INVALID);
}

TEST(message_over_a_cap_is_neither_encoded_nor_decoded) {
    Notice notice;
    notice.number = 1;
    notice.bytes = Buffer(NOTICE_SIZE_MAX + 1);
    CHECK_EQ(encode_status(notice), TENT_E_INVALID);
    EndpointOpen open;
    open.endpoint = 1;
    open.slice_count_max = 1;
    open.offer = Buffer(TENT_OFFER_MAX + 1);
    CHECK_EQ(encode_status(open), TENT_E_INVALID);
    open.offer.clear();
    open.slice_count_max = SLICE_COUNT_MAX + 1;
    CHECK_EQ(encode_status(open), TENT_E_INVALID);
    open.slice_count_max = 1;
    Buffer bytes = payload_of(open);
    const size_t slice_count_offset = 8 + 8 + 16 + 4 + 4;
    bytes[slice_count_offset] = 0;
    EndpointOpen copy;
    CHECK_EQ(decode_payload(bytes, bytes.size(), &copy), TENT_E_PROTOCOL);
    Ping ping;
    Buffer number = payload_of(ping);
    number.resize(4);
    CHECK_EQ(decode_payload(number, number.size(), &ping), TENT_E_PROTOCOL);
}

TEST(count_that_the_bytes_cannot_hold_takes_no_memory) {
    RegionDelta delta;
    delta.version = 1;
    Buffer bytes = payload_of(delta);
    bytes[24] = DELTA_ADDED_MAX;
    CHECK_EQ(decode_payload(bytes, bytes.size(), &delta), TENT_E_PROTOCOL);
    CHECK(delta.added.empty());
    CHECK(strstr(last_error(), "byte 24") != nullptr);
}

TEST(foreign_status_and_flag_values_are_refused) {
    CHECK(valid_wire_status(TENT_OK) && valid_wire_status(TENT_E_UNSUPPORTED));
    CHECK(!valid_wire_status(TENT_IN_PROGRESS) && !valid_wire_status(TENT_E_UNSUPPORTED - 1));
    NoticeAck ack;
    Buffer bytes = payload_of(ack);
    bytes[8] = 1;  // TENT_IN_PROGRESS
    CHECK_EQ(decode_payload(bytes, bytes.size(), &ack), TENT_E_PROTOCOL);
    DescribeRequest request;
    bytes = payload_of(request);
    bytes[8] = 2;
    CHECK_EQ(decode_payload(bytes, bytes.size(), &request), TENT_E_PROTOCOL);
    Error error;
    CHECK_EQ(encode_status(error), TENT_E_INVALID);
}

TEST(long_sentence_is_cut_and_made_printable) {
    Error error;
    error.status = TENT_E_PEER;
    error.sentence = "line\n" + std::string(1000, 'x');
    const Buffer bytes = payload_of(error);
    CHECK(bytes.size() <= FRAME_PAYLOAD_MAX_HANDSHAKE);
    Error copy;
    CHECK_EQ(decode_payload(bytes, bytes.size(), &copy), TENT_OK);
    CHECK_EQ(copy.sentence, "line?" + std::string(SENTENCE_SIZE_MAX - 5, 'x'));
}

TEST(large_descriptor_is_put_together_from_its_parts) {
    Buffer bytes(2 * DESCRIBE_PART_SIZE_MAX + 1);
    Random random;
    random.fill(bytes.data(), bytes.size());
    DescribeAssembler assembler(7);
    CHECK_EQ(assembler.add(describe_part(8, bytes, 0)), TENT_IN_PROGRESS);  // another request's
    uint32_t offset = 0;
    int32_t status = TENT_IN_PROGRESS;
    for (int parts = 0; status == TENT_IN_PROGRESS && parts < 4; parts++) {
        const Describe part = describe_part(7, bytes, offset);
        offset += static_cast<uint32_t>(part.bytes.size());
        status = assembler.add(part);
    }
    CHECK_EQ(status, TENT_OK);
    CHECK(Buffer(assembler.bytes().begin(), assembler.bytes().end()) == bytes);
}

TEST(of_two_answers_to_one_request_the_one_that_began_last_counts) {
    const Buffer first(2 * DESCRIBE_PART_SIZE_MAX, 1), second(2 * DESCRIBE_PART_SIZE_MAX, 2);
    DescribeAssembler assembler(7);
    CHECK_EQ(assembler.add(describe_part(7, first, 0), 10), TENT_IN_PROGRESS);
    CHECK_EQ(assembler.add(describe_part(7, second, 0), 11), TENT_IN_PROGRESS);
    CHECK_EQ(assembler.add(describe_part(7, first, DESCRIBE_PART_SIZE_MAX), 10), TENT_IN_PROGRESS);
    CHECK_EQ(assembler.add(describe_part(7, second, DESCRIBE_PART_SIZE_MAX), 11), TENT_OK);
    CHECK(Buffer(assembler.bytes().begin(), assembler.bytes().end()) == second);
}

TEST(parts_of_a_descriptor_that_do_not_fit_are_refused) {
    const Buffer bytes(2 * DESCRIBE_PART_SIZE_MAX, 1);
    DescribeAssembler gap(7);
    CHECK_EQ(gap.add(describe_part(7, bytes, 5)), TENT_E_PROTOCOL);
    DescribeAssembler empty(7);
    CHECK_EQ(empty.add(Describe{.request = 7}), TENT_E_PROTOCOL);
    DescribeAssembler changed(7);
    CHECK_EQ(changed.add(describe_part(7, bytes, 0)), TENT_IN_PROGRESS);
    const Buffer longer(2 * DESCRIBE_PART_SIZE_MAX + 1, 1);
    CHECK_EQ(changed.add(describe_part(7, longer, DESCRIBE_PART_SIZE_MAX)), TENT_E_PROTOCOL);
    DescribeAssembler again(7);
    CHECK_EQ(again.add(describe_part(7, bytes, 0)), TENT_IN_PROGRESS);
    CHECK_EQ(again.add(describe_part(7, longer, 0)), TENT_IN_PROGRESS);
    Describe refusal;
    refusal.request = 7;
    refusal.status = TENT_E_DENIED;
    CHECK_EQ(again.add(refusal), TENT_E_DENIED);
}
