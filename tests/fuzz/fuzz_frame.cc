// Fuzzes what a foreign connection can reach: the frame parser, the handshake, openings, and every
// message's decoder.
//
// The first byte of an input chooses the target, the rest is what the peer sent.
#include <algorithm>
#include <cstring>
#include <vector>

#include <tent/tent.h>

#include "fuzz.h"
#include "wire/handshake.h"
#include "wire/messages.h"
#include "wire/opening.h"

using namespace tent;

namespace {

using Buffer = std::vector<uint8_t>;

constexpr uint8_t TARGET_PARSER = 0;
constexpr uint8_t TARGET_SERVER = 1;
constexpr uint8_t TARGET_CLIENT = 2;
constexpr uint8_t TARGET_OPENING = 3;
constexpr uint8_t TARGET_MESSAGE = 4;  // and up: the message's place in decode_any
constexpr uint8_t TARGET_COUNT = TARGET_MESSAGE + 15;

const Buffer KEY(32, 1);

// What decodes must encode to the same bytes: no two forms of one message.
template <class Message>
void decode_one(Bytes payload) {
    Message message;
    ByteReader reader(payload);
    if (message.decode(reader) != TENT_OK) {
        return;
    }
    Buffer again(payload.size());
    ByteWriter writer(again.data(), again.size());
    FUZZ_REQUIRE(message.encode(writer) == TENT_OK);
    FUZZ_REQUIRE(writer.ok() && writer.size() == payload.size());
    FUZZ_REQUIRE(std::equal(again.begin(), again.end(), payload.begin()));
}

void decode_any(uint8_t which, Bytes payload) {
    switch (which) {
        case 0: return decode_one<DescribeRequest>(payload);
        case 1: return decode_one<Describe>(payload);
        case 2: return decode_one<RegionDelta>(payload);
        case 3: return decode_one<GrantRevoked>(payload);
        case 4: return decode_one<EndpointOpen>(payload);
        case 5: return decode_one<EndpointAnswer>(payload);
        case 6: return decode_one<EndpointRetire>(payload);
        case 7: return decode_one<EndpointRetired>(payload);
        case 8: return decode_one<PluginMessage>(payload);
        case 9: return decode_one<Notice>(payload);
        case 10: return decode_one<NoticeAck>(payload);
        case 11: return decode_one<Ping>(payload);
        case 12: return decode_one<Pong>(payload);
        case 13: return decode_one<Bye>(payload);
        case 14: return decode_one<Error>(payload);
        default: FUZZ_REQUIRE(!"a target without a decoder");
    }
}

// Cuts the stream into pieces of changing size and hands each frame on; what stays buffered is
// bounded.
template <class OnFrame>
void parse(Bytes stream, FrameParser *parser, OnFrame on_frame) {
    size_t piece = 1;
    while (!stream.empty()) {
        Frame frame;
        size_t used = 0;
        const size_t offered = std::min(piece, stream.size());
        const int32_t status = parser->feed(stream.data(), offered, &used, &frame);
        FUZZ_REQUIRE(used <= offered);
        FUZZ_REQUIRE(parser->buffered() <= FRAME_HEADER_SIZE + FRAME_PAYLOAD_MAX_HANDSHAKE);
        if (status == TENT_OK) {
            if (!on_frame(frame)) return;
        } else if (status != TENT_IN_PROGRESS) {
            return;
        } else {
            FUZZ_REQUIRE(used == offered);
        }
        stream = stream.subspan(used);
        piece = piece * 2 % 61 + 1;
    }
}

void start_server(ServerHandshake *server) {
    const uint8_t nonce[NONCE_SIZE] = {2};
    EngineIdentity own;
    own.name = "server";
    FUZZ_REQUIRE(server->start(own, KEY, nonce, 9) == TENT_IN_PROGRESS);
}

void start_client(ClientHandshake *client, FrameWriter *writer, Buffer *out) {
    const uint8_t nonce[NONCE_SIZE] = {1};
    EngineIdentity own;
    own.name = "client";
    FUZZ_REQUIRE(client->start(own, KEY, nonce, nullptr, writer, out) == TENT_IN_PROGRESS);
}

// The corpus holds the one true exchange; whatever else completes a handshake is a finding.
struct Exchange {
    Buffer from_client;  // HELLO, PROOF
    Buffer from_server;  // CHALLENGE, ACCEPT
};

Exchange true_exchange() {
    ClientHandshake client;
    ServerHandshake server;
    FrameParser client_parser, server_parser;
    FrameWriter client_writer, server_writer;
    Buffer to_server, to_client;
    Exchange exchange;
    start_client(&client, &client_writer, &to_server);
    to_server.erase(to_server.begin(), to_server.begin() + FIRST_WORD_SIZE);
    start_server(&server);
    while (!to_server.empty() || !to_client.empty()) {
        Frame frame;
        size_t used = 0;
        if (!to_server.empty()) {
            exchange.from_client.insert(exchange.from_client.end(), to_server.begin(),
                                        to_server.end());
            FUZZ_REQUIRE(server_parser.feed(to_server.data(), to_server.size(), &used, &frame) ==
                         TENT_OK);
            to_server.clear();
            FUZZ_REQUIRE(server.on_frame(frame, &server_parser, &server_writer, &to_client) >= 0);
        } else {
            exchange.from_server.insert(exchange.from_server.end(), to_client.begin(),
                                        to_client.end());
            FUZZ_REQUIRE(client_parser.feed(to_client.data(), to_client.size(), &used, &frame) ==
                         TENT_OK);
            to_client.clear();
            FUZZ_REQUIRE(client.on_frame(frame, &client_parser, &client_writer, &to_server) >= 0);
        }
    }
    FUZZ_REQUIRE(client.done() && server.done());
    return exchange;
}

bool begins_with(Bytes bytes, const Buffer &start) {
    return bytes.size() >= start.size() && std::equal(start.begin(), start.end(), bytes.begin());
}

void fuzz_handshake(uint8_t target, Bytes stream) {
    static const Exchange exchange = true_exchange();
    FrameParser parser;
    FrameWriter writer;
    Buffer out;
    ServerHandshake server;
    ClientHandshake client;
    start_server(&server);
    if (target == TARGET_CLIENT) {
        start_client(&client, &writer, &out);
    }
    parse(stream, &parser, [&](const Frame &frame) {
        const int32_t status = target == TARGET_SERVER
                                   ? server.on_frame(frame, &parser, &writer, &out)
                                   : client.on_frame(frame, &parser, &writer, &out);
        if (status == TENT_OK) {
            FUZZ_REQUIRE(begins_with(
                stream, target == TARGET_SERVER ? exchange.from_client : exchange.from_server));
        }
        return status == TENT_IN_PROGRESS;
    });
    FUZZ_REQUIRE(out.size() <= 4096);
}

Opening true_opening() {
    Opening opening;
    opening.session_id = 1;
    opening.endpoint = 2;
    opening.connection = 3;
    opening.target_epoch = 4;
    return opening;
}

void fuzz_opening(Bytes bytes) {
    if (bytes.size() < TENT_OPENING_SIZE) {
        return;
    }
    const SessionKey key;
    uint8_t expected[TENT_OPENING_SIZE];
    FUZZ_REQUIRE(make_opening(key, true_opening(), expected) == TENT_OK);
    Opening opening;
    (void)parse_opening(bytes.data(), &opening);
    if (verify_opening(key, bytes.data(), 4) == TENT_OK) {
        FUZZ_REQUIRE(memcmp(bytes.data(), expected, sizeof expected) == 0);
    }
    FUZZ_REQUIRE(check_reply(key, true_opening(), bytes.data()) != TENT_OK);
}

Buffer tagged(uint8_t target, const Buffer &bytes) {
    Buffer input(1 + bytes.size(), target);
    std::copy(bytes.begin(), bytes.end(), input.begin() + 1);
    return input;
}

template <class Message>
Buffer payload_of(const Message &message) {
    Buffer bytes(4096);
    ByteWriter writer(bytes.data(), bytes.size());
    FUZZ_REQUIRE(message.encode(writer) == TENT_OK && writer.ok());
    bytes.resize(writer.size());
    return bytes;
}

void add_messages(std::vector<Buffer> *corpus) {
    const auto add = [&](uint8_t which, const Buffer &payload) {
        corpus->push_back(tagged(static_cast<uint8_t>(TARGET_MESSAGE + which), payload));
    };
    add(0, payload_of(DescribeRequest{.request = 1, .has_token = true}));
    add(1, payload_of(Describe{.request = 1, .total = 3, .bytes = {1, 2, 3}}));
    RegionDelta delta;
    delta.version = 1;
    delta.added = {{1, 4096, 4096, 1, "cpu:0", "kv", {{"rdma", {1, 2}}}}};
    delta.removed = {7};
    add(2, payload_of(delta));
    add(3, payload_of(GrantRevoked{.grant = 1}));
    EndpointOpen open;
    open.endpoint = 1;
    open.transport = "tcp";
    open.initiator_address = "127.0.0.1";
    open.slice_count_max = 64;
    open.offer = {1, 2, 3};
    add(4, payload_of(open));
    add(5, payload_of(EndpointAnswer{.endpoint = 1, .sentence = "no", .answer = {1}}));
    add(6, payload_of(EndpointRetire{.endpoint = 1}));
    add(7, payload_of(EndpointRetired{.endpoint = 1, .sentence = "revoked"}));
    add(8, payload_of(PluginMessage{.endpoint = 1, .number = 1, .bytes = {1}}));
    add(9, payload_of(Notice{.number = 1, .bytes = {1, 2}}));
    add(10, payload_of(NoticeAck{.number = 1, .status = TENT_E_AGAIN}));
    add(11, payload_of(Ping{.number = 1}));
    add(12, payload_of(Pong{.number = 1}));
    add(13, payload_of(Bye{}));
    add(14, payload_of(Error{.status = TENT_E_AUTH, .sentence = "another key"}));
}

}  // namespace

std::vector<std::vector<uint8_t>> fuzz_corpus() {
    const Exchange exchange = true_exchange();
    uint8_t opening[TENT_OPENING_SIZE];
    FUZZ_REQUIRE(make_opening(SessionKey{}, true_opening(), opening) == TENT_OK);
    std::vector<Buffer> corpus = {
        tagged(TARGET_PARSER, exchange.from_client),
        tagged(TARGET_SERVER, exchange.from_client),
        tagged(TARGET_CLIENT, exchange.from_server),
        tagged(TARGET_OPENING, Buffer(opening, opening + sizeof opening)),
    };
    add_messages(&corpus);
    return corpus;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    const Bytes rest(data + 1, size - 1);
    const auto target = static_cast<uint8_t>(data[0] % TARGET_COUNT);
    if (target == TARGET_PARSER) {
        FrameParser parser;
        parse(rest, &parser, [](const Frame &) { return true; });
    } else if (target == TARGET_OPENING) {
        fuzz_opening(rest);
    } else if (target >= TARGET_MESSAGE) {
        decode_any(static_cast<uint8_t>(target - TARGET_MESSAGE), rest);
    } else {
        fuzz_handshake(target, rest);
    }
    return 0;
}
