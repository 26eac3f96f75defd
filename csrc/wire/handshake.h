// handshake.h - who may talk: the mutual proof that both engines hold the same key, and the session
// it yields.
//
//   client                                            server
//   "TNTC" HELLO{version, id, epoch, name, nonce}  ->
//                            <- CHALLENGE{server mac, version, id, epoch, name, nonce}
//   PROOF{client mac}                              ->
//                            <- ACCEPT{session id, mac}        from here on frames carry tags
//
//   mac = HMAC-SHA256(key, label, HELLO payload, CHALLENGE payload without its mac), each part
//   length-prefixed, so both roles, nonces, ids, epochs, names and versions are bound, and a proof
//   of one role is none of the other.
//
// Leans on wire/frame.h and wire/crypto.h. Pure: no socket, no clock (the caller enforces
// HANDSHAKE_TIMEOUT_NS), no randomness of its own (the caller gives nonces, which must never
// repeat). Must never reveal which part of a proof was wrong, nor act on anything a peer said
// before its proof was checked.
//
// Thread-safety: one object belongs to one connection and is used by one thread at a time.
#ifndef TENT_WIRE_HANDSHAKE_H
#define TENT_WIRE_HANDSHAKE_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "wire/crypto.h"
#include "wire/frame.h"

namespace tent {

inline constexpr uint16_t WIRE_VERSION_MAJOR = 1;  // another major: refused with a sentence
inline constexpr uint16_t WIRE_VERSION_MINOR = 0;  // the smaller of both holds; see peer_minor()
inline constexpr size_t ENGINE_ID_SIZE = 16;
inline constexpr size_t ENGINE_NAME_SIZE_MAX = 63;
inline constexpr size_t NONCE_SIZE = 32;

struct EngineIdentity {
    uint8_t engine_id[ENGINE_ID_SIZE] = {};
    uint64_t epoch = 0;     // differs after every restart
    std::string name = {};  // at most ENGINE_NAME_SIZE_MAX bytes, no control characters
};

// What a descriptor promised about the engine to be met.
struct PeerExpectation {
    uint8_t engine_id[ENGINE_ID_SIZE] = {};
    uint64_t epoch = 0;
};

// The secrets of one session, equal on both sides; each key serves one purpose.
struct SessionKey {
    uint8_t to_server[FRAME_KEY_SIZE] = {};  // tags of control frames client -> server
    uint8_t to_client[FRAME_KEY_SIZE] = {};  // tags of control frames server -> client
    uint8_t data[SHA256_SIZE] = {};          // openings of data connections, either way
};

// The side that connected. Fill in `own` and the rest, then start(); feed every received frame to
// on_frame() until it returns something other than TENT_IN_PROGRESS.
class ClientHandshake {
  public:
    ClientHandshake() = default;
    ~ClientHandshake();
    ClientHandshake(const ClientHandshake &) = delete;
    ClientHandshake &operator=(const ClientHandshake &) = delete;

    // Appends the connection's first word and HELLO to *out. expectation may be NULL. Everything is
    // copied. Returns TENT_IN_PROGRESS. Errors: INVALID (name, key size), SYSTEM (libcrypto).
    [[nodiscard]] int32_t start(const EngineIdentity &own, Bytes key,
                                const uint8_t nonce[NONCE_SIZE], const PeerExpectation *expectation,
                                FrameWriter *writer, std::vector<uint8_t> *out);
    // TENT_IN_PROGRESS: send *out and go on. TENT_OK: done; parser and writer are keyed, the peer
    // is authentic. Errors: AUTH (another key, reflected or forged messages), STALE (authentic, but
    // not the engine or epoch expected), PROTOCOL (malformed, out of order, another version), or
    // what the peer's ERROR frame said. *out may then hold an ERROR frame: send it if that does not
    // block, then drop the connection.
    [[nodiscard]] int32_t on_frame(const Frame &frame, FrameParser *parser, FrameWriter *writer,
                                   std::vector<uint8_t> *out);

    // Valid after TENT_OK.
    [[nodiscard]] const EngineIdentity &peer() const { return peer_; }
    [[nodiscard]] uint16_t peer_minor() const { return minor_; }  // smaller of both sides
    [[nodiscard]] uint64_t session_id() const { return session_id_; }
    [[nodiscard]] const SessionKey &keys() const { return keys_; }
    [[nodiscard]] bool done() const { return state_ == State::DONE; }
    // The peer is this very engine (same id and epoch), reached over its own listener.
    [[nodiscard]] bool peer_is_self() const;

  private:
    enum class State : uint8_t { IDLE, HELLO_SENT, PROOF_SENT, DONE, FAILED };
    int32_t on_challenge(Bytes payload, FrameWriter *writer, std::vector<uint8_t> *out);
    int32_t on_accept(Bytes payload, FrameParser *parser, FrameWriter *writer);

    State state_ = State::IDLE;
    bool expects_ = false;
    uint16_t minor_ = 0;
    uint64_t session_id_ = 0;
    EngineIdentity own_;
    EngineIdentity peer_;
    PeerExpectation expectation_;
    uint8_t nonce_[NONCE_SIZE] = {};
    std::vector<uint8_t> key_;
    std::vector<uint8_t> transcript_;
    SessionKey keys_;
};

// The side that accepted; the first word has been read by the listener.
class ServerHandshake {
  public:
    ServerHandshake() = default;
    ~ServerHandshake();
    ServerHandshake(const ServerHandshake &) = delete;
    ServerHandshake &operator=(const ServerHandshake &) = delete;

    // session_id: not 0, never used before in this epoch; told to the client at the end. Returns
    // TENT_IN_PROGRESS. Errors as ClientHandshake::start.
    [[nodiscard]] int32_t start(const EngineIdentity &own, Bytes key,
                                const uint8_t nonce[NONCE_SIZE], uint64_t session_id);
    // As ClientHandshake::on_frame. On TENT_OK *out holds ACCEPT, which must be sent before any
    // other frame.
    [[nodiscard]] int32_t on_frame(const Frame &frame, FrameParser *parser, FrameWriter *writer,
                                   std::vector<uint8_t> *out);

    [[nodiscard]] const EngineIdentity &peer() const { return peer_; }
    [[nodiscard]] uint16_t peer_minor() const { return minor_; }
    [[nodiscard]] uint64_t session_id() const { return session_id_; }
    [[nodiscard]] const SessionKey &keys() const { return keys_; }
    [[nodiscard]] bool done() const { return state_ == State::DONE; }
    [[nodiscard]] bool peer_is_self() const;

  private:
    enum class State : uint8_t { IDLE, WAIT_HELLO, WAIT_PROOF, DONE, FAILED };
    int32_t on_hello(Bytes payload, FrameWriter *writer, std::vector<uint8_t> *out);
    int32_t on_proof(Bytes payload, FrameParser *parser, FrameWriter *writer,
                     std::vector<uint8_t> *out);

    State state_ = State::IDLE;
    uint16_t minor_ = 0;
    uint64_t session_id_ = 0;
    EngineIdentity own_;
    EngineIdentity peer_;
    uint8_t nonce_[NONCE_SIZE] = {};
    std::vector<uint8_t> key_;
    std::vector<uint8_t> transcript_;
    SessionKey keys_;
};

}  // namespace tent
#endif
