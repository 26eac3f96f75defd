// The mutual challenge-response of the control channel: see handshake.h.
//
// The transcript is HELLO's payload and CHALLENGE's payload without its mac, each after its u16
// length. Every mac and every key is HMAC-SHA256(shared key, label with its NUL, transcript, ...):
// labels separate the purposes and roles.
#include "wire/handshake.h"

#include <algorithm>
#include <cstring>

#include <tent/tent.h>

#include "base/bytes.h"
#include "base/status.h"
#include "wire/codec.h"
#include "wire/key.h"
#include "wire/messages.h"

namespace tent {
namespace {

constexpr char LABEL_SERVER[] = "tent server proof 1";
constexpr char LABEL_CLIENT[] = "tent client proof 1";
constexpr char LABEL_ACCEPT[] = "tent accept 1";
constexpr char LABEL_TO_SERVER[] = "tent key to server 1";
constexpr char LABEL_TO_CLIENT[] = "tent key to client 1";
constexpr char LABEL_DATA[] = "tent key data 1";

template <size_t N>
Bytes label_bytes(const char (&label)[N]) {
    return {reinterpret_cast<const uint8_t *>(label), N};
}

int32_t crypto_refused() {
    return fail(TENT_E_SYSTEM, "libcrypto refused to compute a handshake's HMAC-SHA256");
}

struct Greeting {
    uint16_t minor = 0;
    EngineIdentity identity;
    uint8_t nonce[NONCE_SIZE] = {};
};

// What HELLO and CHALLENGE share: version, id, epoch, name, nonce.
int32_t write_greeting(const EngineIdentity &identity, const uint8_t nonce[NONCE_SIZE],
                       ByteWriter &writer) {
    writer.u16(WIRE_VERSION_MAJOR);
    writer.u16(WIRE_VERSION_MINOR);
    writer.bytes(identity.engine_id, ENGINE_ID_SIZE);
    writer.u64(identity.epoch);
    writer.bytes(nonce, NONCE_SIZE);
    return write_text(writer, identity.name, ENGINE_NAME_SIZE_MAX, "the engine's name");
}

int32_t read_greeting(ByteReader &reader, const char *what, Greeting *greeting) {
    const uint16_t major = reader.u16();
    greeting->minor = reader.u16();
    if (reader.ok() && major != WIRE_VERSION_MAJOR) {
        return fail(
            TENT_E_PROTOCOL,
            "the peer speaks wire version %u.%u, we speak %u.%u: update the older of the two",
            static_cast<unsigned>(major), static_cast<unsigned>(greeting->minor),
            static_cast<unsigned>(WIRE_VERSION_MAJOR), static_cast<unsigned>(WIRE_VERSION_MINOR));
    }
    reader.bytes(greeting->identity.engine_id, ENGINE_ID_SIZE);
    greeting->identity.epoch = reader.u64();
    reader.bytes(greeting->nonce, NONCE_SIZE);
    if (const int32_t status =
            read_text(reader, ENGINE_NAME_SIZE_MAX, "the peer's name", &greeting->identity.name);
        status != TENT_OK) {
        return status;
    }
    return finish(reader, what);
}

void add_to_transcript(Bytes payload, std::vector<uint8_t> *transcript) {
    uint8_t length[2];
    ByteWriter(length, sizeof(length)).u16(static_cast<uint16_t>(payload.size()));
    transcript->insert(transcript->end(), length, length + sizeof(length));
    transcript->insert(transcript->end(), payload.begin(), payload.end());
}

bool accept_mac(Bytes key, Bytes transcript, uint64_t session_id, uint8_t out[SHA256_SIZE]) {
    uint8_t id[8];
    ByteWriter(id, sizeof(id)).u64(session_id);
    return hmac_sha256_parts(key, {label_bytes(LABEL_ACCEPT), transcript, Bytes(id, sizeof(id))},
                             out);
}

int32_t derive_keys(Bytes key, Bytes transcript, SessionKey *keys) {
    if (hmac_sha256_parts(key, {label_bytes(LABEL_TO_SERVER), transcript}, keys->to_server) &&
        hmac_sha256_parts(key, {label_bytes(LABEL_TO_CLIENT), transcript}, keys->to_client) &&
        hmac_sha256_parts(key, {label_bytes(LABEL_DATA), transcript}, keys->data)) {
        return TENT_OK;
    }
    return crypto_refused();
}

int32_t check_start(const EngineIdentity &own, Bytes key) {
    if (key.size() < KEY_SIZE_MIN || key.size() > KEY_SIZE_MAX) {
        return fail(TENT_E_INVALID, "a handshake's key has %zu bytes, it must have %zu to %zu",
                    key.size(), KEY_SIZE_MIN, KEY_SIZE_MAX);
    }
    if (own.name.size() > ENGINE_NAME_SIZE_MAX || !valid_text(own.name)) {
        return fail(TENT_E_INVALID,
                    "the engine's name must be UTF-8 text of at most %zu bytes "
                    "without control characters",
                    ENGINE_NAME_SIZE_MAX);
    }
    return crypto_available();
}

// The peer gave up. Its word is not authentic, so it only ends the connection and serves the
// reader.
int32_t on_error(const Frame &frame) {
    Error error;
    if (const int32_t status = decode_message(frame, &error); status != TENT_OK) {
        return status;
    }
    return fail(error.status, "the peer refused the connection: %s", error.sentence.c_str());
}

// Tells the peer why, if that can be said; keeps the sentence of the calling thread.
void append_error(int32_t status, FrameWriter *writer, std::vector<uint8_t> *out) {
    Error error;
    error.status = status;
    error.sentence = last_error();
    const std::string sentence = error.sentence;
    if (append_message(error, writer, out) != TENT_OK) {
        // The frame is a courtesy: without it the peer sees a closed connection.
        (void)fail(status, "%s", sentence.c_str());
    }
}

int32_t unexpected(const Frame &frame) {
    return fail(TENT_E_PROTOCOL, "the peer sent %s (type %u) out of order in the handshake",
                message_type_name(frame.header.type), static_cast<unsigned>(frame.header.type));
}

bool same_engine(const EngineIdentity &a, const EngineIdentity &b) {
    return std::memcmp(a.engine_id, b.engine_id, ENGINE_ID_SIZE) == 0 && a.epoch == b.epoch;
}

void wipe(std::vector<uint8_t> *secret) {
    if (!secret->empty()) {
        explicit_bzero(secret->data(), secret->size());
    }
}

}  // namespace

// ---- client -----------------------------------------------------------------------------------

ClientHandshake::~ClientHandshake() {
    wipe(&key_);
    explicit_bzero(&keys_, sizeof(keys_));
}

bool ClientHandshake::peer_is_self() const {
    return done() && same_engine(own_, peer_);
}

int32_t ClientHandshake::start(const EngineIdentity &own, Bytes key,
                               const uint8_t nonce[NONCE_SIZE], const PeerExpectation *expectation,
                               FrameWriter *writer, std::vector<uint8_t> *out) {
    if (const int32_t status = check_start(own, key); status != TENT_OK) {
        return status;
    }
    own_ = own;
    key_.assign(key.begin(), key.end());
    std::memcpy(nonce_, nonce, NONCE_SIZE);
    expects_ = expectation != nullptr;
    if (expects_) {
        expectation_ = *expectation;
    }
    uint8_t payload[FRAME_PAYLOAD_MAX_HANDSHAKE];
    ByteWriter bytes(payload, sizeof(payload));
    if (const int32_t status = write_greeting(own, nonce, bytes); status != TENT_OK) {
        return status;
    }
    TENT_ASSERT(bytes.ok());
    const Bytes hello(payload, bytes.size());
    transcript_.clear();
    add_to_transcript(hello, &transcript_);
    const size_t start = out->size();
    out->insert(out->end(), FIRST_WORD_CONTROL, FIRST_WORD_CONTROL + FIRST_WORD_SIZE);
    if (const int32_t status = writer->append(MessageType::HELLO, hello, out); status != TENT_OK) {
        out->resize(start);
        return status;
    }
    state_ = State::HELLO_SENT;
    return TENT_IN_PROGRESS;
}

int32_t ClientHandshake::on_frame(const Frame &frame, FrameParser *parser, FrameWriter *writer,
                                  std::vector<uint8_t> *out) {
    int32_t status = TENT_OK;
    const bool refused = frame.type() == MessageType::ERROR && state_ != State::IDLE;
    if (refused) {
        status = on_error(frame);
    } else if (state_ == State::HELLO_SENT && frame.type() == MessageType::CHALLENGE) {
        status = on_challenge(frame.payload, writer, out);
    } else if (state_ == State::PROOF_SENT && frame.type() == MessageType::ACCEPT) {
        status = on_accept(frame.payload, parser, writer);
    } else {
        status = unexpected(frame);
    }
    if (status < 0) {
        state_ = State::FAILED;
        if (!refused) {
            append_error(status, writer, out);
        }
    }
    return status;
}

int32_t ClientHandshake::on_challenge(Bytes payload, FrameWriter *writer,
                                      std::vector<uint8_t> *out) {
    if (payload.size() < SHA256_SIZE) {
        return fail(TENT_E_PROTOCOL, "the peer's CHALLENGE has %zu bytes, too few for its proof",
                    payload.size());
    }
    const Bytes greeting_bytes = payload.subspan(SHA256_SIZE);
    ByteReader reader(greeting_bytes);
    Greeting greeting;
    if (const int32_t status = read_greeting(reader, "CHALLENGE", &greeting); status != TENT_OK) {
        return status;
    }
    add_to_transcript(greeting_bytes, &transcript_);
    uint8_t mac[SHA256_SIZE];
    if (!hmac_sha256_parts(key_, {label_bytes(LABEL_SERVER), transcript_}, mac)) {
        return crypto_refused();
    }
    // An equal nonce is our own HELLO coming back; no honest peer draws the same 256 bits.
    if (!equal_constant_time(mac, payload.data(), SHA256_SIZE) ||
        std::memcmp(greeting.nonce, nonce_, NONCE_SIZE) == 0) {
        return fail(TENT_E_AUTH,
                    "the peer did not prove that it holds our key: give both engines "
                    "the same key or key file");
    }
    peer_ = greeting.identity;
    minor_ = std::min(greeting.minor, WIRE_VERSION_MINOR);
    if (expects_ && std::memcmp(peer_.engine_id, expectation_.engine_id, ENGINE_ID_SIZE) != 0) {
        return fail(TENT_E_STALE,
                    "another engine (\"%s\") listens at this address now: fetch a new "
                    "descriptor",
                    peer_.name.c_str());
    }
    if (expects_ && peer_.epoch != expectation_.epoch) {
        return fail(TENT_E_STALE,
                    "engine \"%s\" was restarted (epoch %llx, the descriptor is of %llx): "
                    "fetch a new descriptor",
                    peer_.name.c_str(), static_cast<unsigned long long>(peer_.epoch),
                    static_cast<unsigned long long>(expectation_.epoch));
    }
    if (!hmac_sha256_parts(key_, {label_bytes(LABEL_CLIENT), transcript_}, mac)) {
        return crypto_refused();
    }
    if (const int32_t status = writer->append(MessageType::PROOF, Bytes(mac, sizeof(mac)), out);
        status != TENT_OK) {
        return status;
    }
    state_ = State::PROOF_SENT;
    return TENT_IN_PROGRESS;
}

int32_t ClientHandshake::on_accept(Bytes payload, FrameParser *parser, FrameWriter *writer) {
    ByteReader reader(payload);
    session_id_ = reader.u64();
    uint8_t theirs[SHA256_SIZE];
    reader.bytes(theirs, sizeof(theirs));
    if (const int32_t status = finish(reader, "ACCEPT"); status != TENT_OK) {
        return status;
    }
    uint8_t mac[SHA256_SIZE];
    if (!accept_mac(key_, transcript_, session_id_, mac)) {
        return crypto_refused();
    }
    if (!equal_constant_time(mac, theirs, sizeof(mac)) || session_id_ == 0) {
        return fail(TENT_E_AUTH, "the peer's ACCEPT is not authentic");
    }
    if (const int32_t status = derive_keys(key_, transcript_, &keys_); status != TENT_OK) {
        return status;
    }
    writer->set_key(keys_.to_server);
    parser->set_key(keys_.to_client);
    state_ = State::DONE;
    return TENT_OK;
}

// ---- server -----------------------------------------------------------------------------------

ServerHandshake::~ServerHandshake() {
    wipe(&key_);
    explicit_bzero(&keys_, sizeof(keys_));
}

bool ServerHandshake::peer_is_self() const {
    return done() && same_engine(own_, peer_);
}

int32_t ServerHandshake::start(const EngineIdentity &own, Bytes key,
                               const uint8_t nonce[NONCE_SIZE], uint64_t session_id) {
    if (const int32_t status = check_start(own, key); status != TENT_OK) {
        return status;
    }
    if (session_id == 0) {
        return fail(TENT_E_INVALID, "a session id must not be 0");
    }
    own_ = own;
    key_.assign(key.begin(), key.end());
    std::memcpy(nonce_, nonce, NONCE_SIZE);
    session_id_ = session_id;
    transcript_.clear();
    state_ = State::WAIT_HELLO;
    return TENT_IN_PROGRESS;
}

int32_t ServerHandshake::on_frame(const Frame &frame, FrameParser *parser, FrameWriter *writer,
                                  std::vector<uint8_t> *out) {
    int32_t status = TENT_OK;
    const bool refused = frame.type() == MessageType::ERROR && state_ != State::IDLE;
    if (refused) {
        status = on_error(frame);
    } else if (state_ == State::WAIT_HELLO && frame.type() == MessageType::HELLO) {
        status = on_hello(frame.payload, writer, out);
    } else if (state_ == State::WAIT_PROOF && frame.type() == MessageType::PROOF) {
        status = on_proof(frame.payload, parser, writer, out);
    } else {
        status = unexpected(frame);
    }
    if (status < 0) {
        state_ = State::FAILED;
        if (!refused) {
            append_error(status, writer, out);
        }
    }
    return status;
}

int32_t ServerHandshake::on_hello(Bytes payload, FrameWriter *writer, std::vector<uint8_t> *out) {
    ByteReader reader(payload);
    Greeting greeting;
    if (const int32_t status = read_greeting(reader, "HELLO", &greeting); status != TENT_OK) {
        return status;
    }
    if (std::memcmp(greeting.nonce, nonce_, NONCE_SIZE) == 0) {
        return fail(TENT_E_AUTH, "the peer's HELLO carries our own nonce: a reflected message");
    }
    peer_ = greeting.identity;
    minor_ = std::min(greeting.minor, WIRE_VERSION_MINOR);
    add_to_transcript(payload, &transcript_);
    uint8_t challenge[FRAME_PAYLOAD_MAX_HANDSHAKE];
    ByteWriter bytes(challenge + SHA256_SIZE, sizeof(challenge) - SHA256_SIZE);
    if (const int32_t status = write_greeting(own_, nonce_, bytes); status != TENT_OK) {
        return status;
    }
    TENT_ASSERT(bytes.ok());
    add_to_transcript(Bytes(challenge + SHA256_SIZE, bytes.size()), &transcript_);
    if (!hmac_sha256_parts(key_, {label_bytes(LABEL_SERVER), transcript_}, challenge)) {
        return crypto_refused();
    }
    if (const int32_t status = writer->append(MessageType::CHALLENGE,
                                              Bytes(challenge, SHA256_SIZE + bytes.size()), out);
        status != TENT_OK) {
        return status;
    }
    state_ = State::WAIT_PROOF;
    return TENT_IN_PROGRESS;
}

int32_t ServerHandshake::on_proof(Bytes payload, FrameParser *parser, FrameWriter *writer,
                                  std::vector<uint8_t> *out) {
    uint8_t mac[SHA256_SIZE];
    if (!hmac_sha256_parts(key_, {label_bytes(LABEL_CLIENT), transcript_}, mac)) {
        return crypto_refused();
    }
    if (payload.size() != SHA256_SIZE || !equal_constant_time(mac, payload.data(), SHA256_SIZE)) {
        return fail(TENT_E_AUTH,
                    "the peer did not prove that it holds our key: give both engines "
                    "the same key or key file");
    }
    uint8_t accept[8 + SHA256_SIZE];
    ByteWriter(accept, 8).u64(session_id_);
    if (!accept_mac(key_, transcript_, session_id_, accept + 8)) {
        return crypto_refused();
    }
    if (const int32_t status = derive_keys(key_, transcript_, &keys_); status != TENT_OK) {
        return status;
    }
    if (const int32_t status =
            writer->append(MessageType::ACCEPT, Bytes(accept, sizeof(accept)), out);
        status != TENT_OK) {
        return status;
    }
    writer->set_key(keys_.to_client);
    parser->set_key(keys_.to_server);
    state_ = State::DONE;
    return TENT_OK;
}

}  // namespace tent
