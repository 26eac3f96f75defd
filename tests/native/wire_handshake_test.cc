// Who may talk: the control channel's handshake and the openings of data connections.
//
// Both state machines run against each other over byte buffers; an attacker is whoever edits those.
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "check.h"
#include "wire/handshake.h"
#include "wire/messages.h"
#include "wire/opening.h"

using namespace tent;

namespace {

using Buffer = std::vector<uint8_t>;

const Buffer KEY(32, 0x11);
const Buffer OTHER_KEY(32, 0x12);

EngineIdentity identity(uint8_t id, uint64_t epoch, const char *name) {
    EngineIdentity engine;
    engine.engine_id[0] = id;
    engine.epoch = epoch;
    engine.name = name;
    return engine;
}

// One side of a connection; what it has sent and not yet been delivered lies in out.
template <class Handshake>
struct Side {
    Handshake handshake;
    FrameParser parser;
    FrameWriter writer;
    Buffer out;
    int32_t status = TENT_IN_PROGRESS;

    // Delivers bytes; stops at the first frame that does not leave the handshake going on.
    void receive(const Buffer &bytes) {
        size_t at = 0;
        while (at < bytes.size() && status == TENT_IN_PROGRESS) {
            Frame frame;
            size_t used = 0;
            const int32_t got = parser.feed(bytes.data() + at, bytes.size() - at, &used, &frame);
            at += used;
            if (got == TENT_OK) {
                status = handshake.on_frame(frame, &parser, &writer, &out);
            } else if (got != TENT_IN_PROGRESS) {
                status = got;
            }
        }
    }

    Buffer take() {
        Buffer sent;
        sent.swap(out);
        return sent;
    }
};

struct Setup {
    EngineIdentity client = identity(1, 100, "client");
    EngineIdentity server = identity(2, 200, "server");
    Buffer client_key = KEY;
    Buffer server_key = KEY;
    const PeerExpectation *expectation = nullptr;
    uint8_t client_nonce = 0xc1;
    uint8_t server_nonce = 0x51;
    // Edits message number i (0 HELLO, 1 CHALLENGE, 2 PROOF, 3 ACCEPT) on its way.
    std::function<void(int, Buffer *)> attack = [](int, Buffer *) {};
};

struct Pair {
    Side<ClientHandshake> client;
    Side<ServerHandshake> server;

    explicit Pair(const Setup &setup) {
        uint8_t nonce[NONCE_SIZE];
        memset(nonce, setup.client_nonce, sizeof nonce);
        client.status = client.handshake.start(setup.client, setup.client_key, nonce,
                                               setup.expectation, &client.writer, &client.out);
        memset(nonce, setup.server_nonce, sizeof nonce);
        server.status = server.handshake.start(setup.server, setup.server_key, nonce, 77);
        for (int message = 0; message < 4; message++) {
            Buffer bytes = message % 2 == 0 ? client.take() : server.take();
            if (message == 0 && bytes.size() >= FIRST_WORD_SIZE) {
                CHECK(classify_connection(bytes.data()) == ConnectionKind::CONTROL);
                bytes.erase(bytes.begin(), bytes.begin() + FIRST_WORD_SIZE);
            }
            setup.attack(message, &bytes);
            message % 2 == 0 ? server.receive(bytes) : client.receive(bytes);
        }
    }
};

bool same_keys(const SessionKey &a, const SessionKey &b) {
    return memcmp(&a, &b, sizeof a) == 0;
}

SessionKey session_key(uint8_t fill) {
    SessionKey key;
    memset(key.data, fill, sizeof key.data);
    return key;
}

Opening some_opening() {
    Opening opening;
    opening.session_id = 77;
    opening.endpoint = 5;
    opening.connection = 3;
    opening.target_epoch = 200;
    opening.nonce[0] = 9;
    return opening;
}

// A frame's bytes with its type and sequence replaced: what an attacker without the key can do.
Buffer relabelled(Buffer frame, MessageType type, uint64_t sequence) {
    FrameHeader header = decode_frame_header(frame.data());
    header.type = static_cast<uint16_t>(type);
    header.sequence = sequence;
    encode_frame_header(header, frame.data());
    return frame;
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

}  // namespace

// The expected values were computed from docs/wire-protocol.md by another implementation (Python's
// hmac): they hold page and code together, and the wire of this version still.
TEST(handshake_has_its_documented_bytes) {
    Setup setup;
    std::vector<Buffer> sent;
    setup.attack = [&](int, Buffer *bytes) { sent.push_back(*bytes); };
    Pair pair{setup};
    if (!CHECK_EQ(pair.client.status, TENT_OK)) return;
    const auto payload = [&](size_t i) { return Bytes(sent[i]).subspan(FRAME_HEADER_SIZE); };
    CHECK_EQ(hexadecimal(payload(1).first(SHA256_SIZE)),
             "9dbd1fba3380d9c3d25b8b55f8ba7b2e06fb7a895b69a6fd3ea9e1eac3508306");
    CHECK_EQ(hexadecimal(payload(2)),
             "db37f27ae91e5db7e229fc3197cb0f1c5202d79e941afc4356cbe46627e65741");
    CHECK_EQ(hexadecimal(payload(3)),
             "4d00000000000000fc4439053e5a9d8edb444eba2da62c8db2de3b1d14763ddf99718479a32f8291");
    const SessionKey &keys = pair.client.handshake.keys();
    CHECK_EQ(hexadecimal(keys.to_server),
             "34700f31f7c2d252ae671bf37b38ce6fb544d17fd4b2c5b8e1868a8470062d9d");
    CHECK_EQ(hexadecimal(keys.to_client),
             "326304488e8abc6d666fabfc37e5a85c1f4eea32bf1f91f33e13a7e99d1553ba");
    CHECK_EQ(hexadecimal(keys.data),
             "ffbe3978cec4777b9fd8cd6c737f915f060a093811951f17b6064ae9e155deda");
    Buffer ping;
    CHECK_EQ(append_message(Ping{.number = 1}, &pair.client.writer, &ping), TENT_OK);
    CHECK_EQ(hexadecimal(ping),
             "080000001000000002000000000000000100000000000000"
             "039c789e738d4e34bf45e27415e182ec");
}

TEST(engines_with_the_same_key_agree) {
    const Pair pair{Setup{}};
    CHECK_EQ(pair.client.status, TENT_OK);
    CHECK_EQ(pair.server.status, TENT_OK);
    CHECK_EQ(pair.client.handshake.peer().name, "server");
    CHECK_EQ(pair.client.handshake.peer().epoch, 200u);
    CHECK_EQ(pair.server.handshake.peer().name, "client");
    CHECK_EQ(pair.client.handshake.session_id(), 77u);
    CHECK(same_keys(pair.client.handshake.keys(), pair.server.handshake.keys()));
    CHECK(!pair.client.handshake.peer_is_self());
}

TEST(session_carries_messages_both_ways_after_the_handshake) {
    Pair pair{Setup{}};
    Buffer there, back;
    CHECK_EQ(append_message(Ping{.number = 1}, &pair.client.writer, &there), TENT_OK);
    CHECK_EQ(append_message(Pong{.number = 1}, &pair.server.writer, &back), TENT_OK);
    Frame frame;
    size_t used = 0;
    CHECK_EQ(pair.server.parser.feed(there.data(), there.size(), &used, &frame), TENT_OK);
    CHECK(frame.type() == MessageType::PING);
    CHECK_EQ(pair.client.parser.feed(back.data(), back.size(), &used, &frame), TENT_OK);
    CHECK(frame.type() == MessageType::PONG);
}

TEST(own_frame_sent_back_after_the_handshake_fails) {
    Pair pair{Setup{}};
    Buffer there;
    CHECK_EQ(append_message(Ping{.number = 1}, &pair.client.writer, &there), TENT_OK);
    Frame frame;
    size_t used = 0;
    // Both sides are at sequence 2, so only the direction's key tells them apart.
    CHECK_EQ(pair.client.parser.feed(there.data(), there.size(), &used, &frame), TENT_E_AUTH);
}

TEST(frames_of_one_session_fail_in_another) {
    Pair first{Setup{}};
    Setup setup;
    setup.server_nonce = 0x52;
    Pair second{setup};
    CHECK(!same_keys(first.client.handshake.keys(), second.client.handshake.keys()));
    Buffer recorded;
    CHECK_EQ(append_message(Bye{}, &first.client.writer, &recorded), TENT_OK);
    Frame frame;
    size_t used = 0;
    CHECK_EQ(second.server.parser.feed(recorded.data(), recorded.size(), &used, &frame),
             TENT_E_AUTH);
}

TEST(client_finds_out_the_wrong_key_before_it_proves_anything) {
    Setup setup;
    setup.server_key = OTHER_KEY;
    bool proof_seen = false;
    setup.attack = [&](int message, Buffer *bytes) {
        if (message == 2) {
            proof_seen = decode_frame_header(bytes->data()).type ==
                         static_cast<uint16_t>(MessageType::PROOF);
        }
    };
    const Pair pair{setup};
    CHECK_EQ(pair.client.status, TENT_E_AUTH);
    CHECK(!proof_seen);
    // The server learns it from the client's ERROR frame.
    CHECK_EQ(pair.server.status, TENT_E_AUTH);
    CHECK(!pair.server.handshake.done() && !pair.server.writer.authenticated());
}

TEST(server_refuses_a_forged_proof) {
    Setup setup;
    setup.attack = [](int message, Buffer *bytes) {
        if (message == 2) bytes->back() ^= 1;
    };
    const Pair pair{setup};
    CHECK_EQ(pair.server.status, TENT_E_AUTH);
    CHECK_EQ(pair.client.status, TENT_E_AUTH);
}

TEST(every_flipped_byte_of_the_handshake_fails) {
    for (int target = 0; target < 4; target++) {
        for (size_t at = 0; at < 200; at++) {
            Setup setup;
            bool reached = false;
            setup.attack = [&](int message, Buffer *bytes) {
                if (message == target && at < bytes->size()) {
                    (*bytes)[at] ^= 0x40;
                    reached = true;
                }
            };
            const Pair pair{setup};
            // ACCEPT is the server's last word: it cannot know that the client did not believe it.
            const bool both = pair.client.status == TENT_OK && pair.server.status == TENT_OK;
            if (reached && !CHECK(pair.client.status != TENT_OK && !both)) {
                fprintf(stderr, "  message %d, byte %zu\n", target, at);
                return;
            }
        }
    }
}

TEST(own_messages_reflected_by_a_peer_without_the_key_fail) {
    Setup setup;
    Buffer hello;
    // The client's HELLO comes back as it is.
    setup.attack = [&](int message, Buffer *bytes) {
        if (message == 0) hello = *bytes;
        if (message == 1) *bytes = hello;
    };
    CHECK_EQ(Pair{setup}.client.status, TENT_E_PROTOCOL);
    // The client's HELLO comes back as a CHALLENGE with some mac in front.
    setup.attack = [&](int message, Buffer *bytes) {
        if (message == 0) hello = *bytes;
        if (message != 1) return;
        Buffer payload(SHA256_SIZE, 0);
        payload.insert(payload.end(), hello.begin() + FRAME_HEADER_SIZE, hello.end());
        FrameWriter writer;
        bytes->clear();
        CHECK_EQ(writer.append(MessageType::CHALLENGE, payload, bytes), TENT_OK);
    };
    CHECK_EQ(Pair{setup}.client.status, TENT_E_AUTH);
    // The server's own proof comes back as the client's.
    Buffer challenge;
    setup.attack = [&](int message, Buffer *bytes) {
        if (message == 1) challenge = *bytes;
        if (message != 2) return;
        const Bytes mac = Bytes(challenge).subspan(FRAME_HEADER_SIZE, SHA256_SIZE);
        FrameWriter writer;
        Buffer ignored;
        CHECK_EQ(writer.append(MessageType::PING, {}, &ignored), TENT_OK);
        bytes->clear();
        CHECK_EQ(writer.append(MessageType::PROOF, mac, bytes), TENT_OK);
    };
    CHECK_EQ(Pair{setup}.server.status, TENT_E_AUTH);
}

TEST(peer_with_our_own_nonce_is_refused) {
    Setup setup;
    setup.client_nonce = setup.server_nonce;
    const Pair pair{setup};
    CHECK_EQ(pair.server.status, TENT_E_AUTH);
    CHECK_EQ(pair.client.status, TENT_E_AUTH);
}

TEST(proof_recorded_from_an_earlier_connection_fails) {
    Setup setup;
    Buffer recorded;
    setup.attack = [&](int message, Buffer *bytes) {
        if (message == 2) recorded = *bytes;
    };
    const Pair first{setup};
    CHECK_EQ(first.server.status, TENT_OK);
    setup.server_nonce = 0x52;
    setup.attack = [&](int message, Buffer *bytes) {
        if (message == 2) *bytes = recorded;
    };
    const Pair second{setup};
    CHECK_EQ(second.server.status, TENT_E_AUTH);
}

TEST(expected_engine_and_epoch_are_accepted_others_are_stale) {
    Setup setup;
    PeerExpectation expectation;
    memcpy(expectation.engine_id, setup.server.engine_id, ENGINE_ID_SIZE);
    expectation.epoch = setup.server.epoch;
    setup.expectation = &expectation;
    CHECK_EQ(Pair{setup}.client.status, TENT_OK);
    expectation.epoch--;
    const Pair restarted{setup};
    CHECK_EQ(restarted.client.status, TENT_E_STALE);
    CHECK_EQ(restarted.server.status, TENT_E_STALE);
    expectation.epoch++;
    expectation.engine_id[5] = 1;
    CHECK_EQ(Pair{setup}.client.status, TENT_E_STALE);
    // What an engine without the key claims is not believed far enough to be called stale.
    setup.server_key = OTHER_KEY;
    CHECK_EQ(Pair{setup}.client.status, TENT_E_AUTH);
}

TEST(another_major_version_is_refused_with_both_versions_named) {
    for (const int target : {0, 1}) {
        Setup setup;
        setup.attack = [target](int message, Buffer *bytes) {
            const size_t version = FRAME_HEADER_SIZE + (target == 1 ? SHA256_SIZE : 0);
            if (message == target) (*bytes)[version] = 9;
        };
        const Pair pair{setup};
        CHECK_EQ(pair.client.status, TENT_E_PROTOCOL);
        CHECK(strstr(last_error(), "wire version 9.0, we speak 1.0") != nullptr);
        CHECK_EQ(pair.server.status, TENT_E_PROTOCOL);
    }
}

TEST(messages_out_of_order_are_refused) {
    for (const MessageType type : {MessageType::PROOF, MessageType::ACCEPT, MessageType::PING,
                                   MessageType::ENDPOINT_OPEN, MessageType::NOTICE}) {
        Setup setup;
        setup.attack = [type](int message, Buffer *bytes) {
            if (message == 0) *bytes = relabelled(*bytes, type, 0);
        };
        const Pair pair{setup};
        CHECK_EQ(pair.server.status, TENT_E_PROTOCOL);
        CHECK_EQ(pair.client.status, TENT_E_PROTOCOL);
    }
}

TEST(engine_that_reaches_itself_knows_it) {
    Setup setup;
    setup.server = setup.client;
    const Pair pair{setup};
    CHECK_EQ(pair.client.status, TENT_OK);
    CHECK(pair.client.handshake.peer_is_self() && pair.server.handshake.peer_is_self());
}

TEST(handshake_refuses_a_short_key_and_a_bad_name) {
    FrameWriter writer;
    Buffer out;
    const uint8_t nonce[NONCE_SIZE] = {};
    ClientHandshake client;
    CHECK_EQ(client.start(identity(1, 1, "a"), Buffer(15, 1), nonce, nullptr, &writer, &out),
             TENT_E_INVALID);
    CHECK_EQ(client.start(identity(1, 1, "a\nb"), KEY, nonce, nullptr, &writer, &out),
             TENT_E_INVALID);
    CHECK_EQ(client.start(identity(1, 1, std::string(64, 'n').c_str()), KEY, nonce, nullptr,
                          &writer, &out),
             TENT_E_INVALID);
    ServerHandshake server;
    CHECK_EQ(server.start(identity(1, 1, "a"), KEY, nonce, 0), TENT_E_INVALID);
    CHECK(out.empty());
}

TEST(longest_names_fit_the_frames_before_authentication) {
    Setup setup;
    setup.client.name = setup.server.name = std::string(ENGINE_NAME_SIZE_MAX, 'n');
    CHECK_EQ(Pair{setup}.client.status, TENT_OK);
}

// ---- data connections
// ----------------------------------------------------------------------------

TEST(opening_comes_back_and_verifies) {
    const SessionKey key = session_key(1);
    const Opening opening = some_opening();
    uint8_t bytes[TENT_OPENING_SIZE];
    CHECK_EQ(make_opening(key, opening, bytes), TENT_OK);
    CHECK(classify_connection(bytes) == ConnectionKind::DATA);
    Opening parsed;
    CHECK_EQ(parse_opening(bytes, &parsed), TENT_OK);
    CHECK_EQ(parsed.session_id, opening.session_id);
    CHECK_EQ(parsed.endpoint, opening.endpoint);
    CHECK_EQ(parsed.connection, opening.connection);
    CHECK_EQ(parsed.target_epoch, opening.target_epoch);
    CHECK_EQ(verify_opening(key, bytes, 200), TENT_OK);
}

TEST(opening_and_reply_have_their_documented_bytes) {
    uint8_t bytes[TENT_OPENING_SIZE];
    CHECK_EQ(make_opening(session_key(1), some_opening(), bytes), TENT_OK);
    CHECK_EQ(hexadecimal(bytes),
             "544e5444010000004d0000000000000005000000000000000300000000000000"
             "c800000000000000090000000000000000000000000000000000000000000000"
             "0000000000000000000000000000000000000000000000000000000000000000"
             "e94d3b2d8de7b2d76f22151762ac679b703f310e36e3592122cce3e324b00d0b");
    uint8_t reply[TENT_OPENING_REPLY_SIZE];
    CHECK_EQ(make_reply(session_key(1), some_opening(), TENT_OK, reply), TENT_OK);
    CHECK_EQ(hexadecimal(reply),
             "544e5452000000004d0000000000000005000000000000000300000000000000"
             "4b8e6eb32c0c4b30051d6da3f827877f881de1752c8cf3bc76035076053cad3c");
}

TEST(opening_for_an_earlier_epoch_is_stale_and_of_another_key_is_refused) {
    uint8_t bytes[TENT_OPENING_SIZE];
    CHECK_EQ(make_opening(session_key(1), some_opening(), bytes), TENT_OK);
    CHECK_EQ(verify_opening(session_key(1), bytes, 201), TENT_E_STALE);
    CHECK_EQ(verify_opening(session_key(2), bytes, 200), TENT_E_AUTH);
    CHECK_EQ(verify_opening(session_key(2), bytes, 201), TENT_E_AUTH);
}

TEST(every_flipped_byte_of_an_opening_and_its_reply_is_found) {
    const SessionKey key = session_key(1);
    uint8_t bytes[TENT_OPENING_SIZE];
    CHECK_EQ(make_opening(key, some_opening(), bytes), TENT_OK);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] ^= 1;
        if (!CHECK(verify_opening(key, bytes, 200) < 0)) return;
        bytes[i] ^= 1;
    }
    uint8_t reply[TENT_OPENING_REPLY_SIZE];
    CHECK_EQ(make_reply(key, some_opening(), TENT_OK, reply), TENT_OK);
    CHECK_EQ(check_reply(key, some_opening(), reply), TENT_OK);
    for (size_t i = 0; i < sizeof reply; i++) {
        reply[i] ^= 1;
        if (!CHECK(check_reply(key, some_opening(), reply) < 0)) return;
        reply[i] ^= 1;
    }
}

TEST(opening_with_reserved_bytes_or_another_version_is_refused) {
    uint8_t bytes[TENT_OPENING_SIZE];
    CHECK_EQ(make_opening(session_key(1), some_opening(), bytes), TENT_OK);
    Opening parsed;
    for (const size_t at : {size_t{0}, size_t{4}, size_t{6}, size_t{28}, size_t{56}, size_t{95}}) {
        bytes[at] ^= 1;
        CHECK_EQ(parse_opening(bytes, &parsed), TENT_E_PROTOCOL);
        bytes[at] ^= 1;
    }
    Opening opening = some_opening();
    opening.connection = CONNECTIONS_PER_ENDPOINT_MAX;
    CHECK_EQ(make_opening(session_key(1), opening, bytes), TENT_E_INVALID);
}

TEST(reply_answers_only_its_own_opening) {
    const SessionKey key = session_key(1);
    uint8_t reply[TENT_OPENING_REPLY_SIZE];
    CHECK_EQ(make_reply(key, some_opening(), TENT_OK, reply), TENT_OK);
    const auto with = [](auto change) {
        Opening opening = some_opening();
        change(opening);
        return opening;
    };
    for (const Opening &other :
         {with([](Opening &o) { o.session_id++; }), with([](Opening &o) { o.endpoint++; }),
          with([](Opening &o) { o.connection++; }), with([](Opening &o) { o.target_epoch++; }),
          with([](Opening &o) { o.nonce[15]++; })}) {
        CHECK_EQ(check_reply(key, other, reply), TENT_E_AUTH);
    }
    CHECK_EQ(check_reply(session_key(2), some_opening(), reply), TENT_E_AUTH);
}

TEST(opening_sent_back_as_a_reply_fails) {
    uint8_t bytes[TENT_OPENING_SIZE];
    CHECK_EQ(make_opening(session_key(1), some_opening(), bytes), TENT_OK);
    CHECK(check_reply(session_key(1), some_opening(), bytes) < 0);
}

TEST(refusal_in_a_reply_is_authentic_too) {
    const SessionKey key = session_key(1);
    uint8_t reply[TENT_OPENING_REPLY_SIZE];
    CHECK_EQ(make_reply(key, some_opening(), TENT_E_DENIED, reply), TENT_OK);
    CHECK_EQ(check_reply(key, some_opening(), reply), TENT_E_DENIED);
    CHECK_EQ(make_reply(key, some_opening(), TENT_IN_PROGRESS, reply), TENT_OK);
    CHECK_EQ(check_reply(key, some_opening(), reply), TENT_E_PROTOCOL);
}

TEST(connection_number_is_taken_once) {
    uint64_t seen = 0;
    for (uint32_t i = 0; i < CONNECTIONS_PER_ENDPOINT_MAX; i++) {
        CHECK_EQ(claim_connection(&seen, i), TENT_OK);
        CHECK_EQ(claim_connection(&seen, i), TENT_E_AUTH);
    }
    CHECK_EQ(claim_connection(&seen, CONNECTIONS_PER_ENDPOINT_MAX), TENT_E_PROTOCOL);
}
