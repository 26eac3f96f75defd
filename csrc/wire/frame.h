// frame.h - the control channel's frames: how they are cut out of a byte stream, capped and
// authenticated.
//
//   connection := first word (4 bytes) frame*
//   frame      := header payload[length] tag
//   header     := u32 length, u16 type, u16 flags, u64 sequence (16 bytes, little-endian)
//   tag        := nothing before authentication, afterwards the first 16 bytes of
//                 HMAC-SHA256(key of this direction, header payload)
//
// The direction is bound by the key: each direction has its own, derived from the session's secret
// (handshake.h). Sequences count 0, 1, 2, ... per direction and connection, so a replayed, dropped
// or reordered frame fails.
//
// Leans on wire/crypto.h and base/status.h. Must never see a socket: bytes in, bytes out. Must
// never buffer more than one frame, nor any frame whose announced length is over the cap of the
// moment.
//
// Thread-safety: one object belongs to one connection and is used by one thread at a time.
#ifndef TENT_WIRE_FRAME_H
#define TENT_WIRE_FRAME_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "wire/crypto.h"

namespace tent {

inline constexpr size_t FIRST_WORD_SIZE = 4;
inline constexpr uint8_t FIRST_WORD_CONTROL[FIRST_WORD_SIZE] = {'T', 'N', 'T', 'C'};
inline constexpr uint8_t FIRST_WORD_DATA[FIRST_WORD_SIZE] = {'T', 'N', 'T', 'D'};

inline constexpr size_t FRAME_HEADER_SIZE = 16;
inline constexpr size_t FRAME_TAG_SIZE = 16;
inline constexpr size_t FRAME_KEY_SIZE = SHA256_SIZE;
inline constexpr uint32_t FRAME_PAYLOAD_MAX = 1u << 20;       // after authentication
inline constexpr uint32_t FRAME_PAYLOAD_MAX_HANDSHAKE = 512;  // before it
// Both enforced by the listener: time from accept() to ACCEPT, connections not yet authenticated.
inline constexpr uint64_t HANDSHAKE_TIMEOUT_NS = 5'000'000'000;
inline constexpr uint32_t HANDSHAKES_MAX = 64;

// Fixed for ever; a retired value is not given out again.
enum class MessageType : uint16_t {
    NONE = 0,
    // handshake.h
    HELLO = 1,
    CHALLENGE = 2,
    PROOF = 3,
    ACCEPT = 4,
    // messages.h; ERROR is also the only other type allowed before authentication
    ERROR = 5,
    PING = 16,
    PONG = 17,
    BYE = 18,
    DESCRIBE_REQUEST = 32,
    DESCRIBE = 33,
    REGION_DELTA = 34,
    GRANT_REVOKED = 35,
    ENDPOINT_OPEN = 48,
    ENDPOINT_ANSWER = 49,
    ENDPOINT_RETIRE = 50,
    ENDPOINT_RETIRED = 51,
    PLUGIN_MESSAGE = 52,
    NOTICE = 64,
    NOTICE_ACK = 65,
};

// Short upper-case name for sentences and events ("HELLO"; "type 777" is "?"). Static storage.
const char *message_type_name(uint16_t type);

enum class ConnectionKind : uint8_t { UNKNOWN, CONTROL, DATA };

// What kind of connection begins with these four bytes. The word of a control connection is not
// part of its first frame; that of a data connection is part of its opening.
[[nodiscard]] ConnectionKind classify_connection(const uint8_t word[FIRST_WORD_SIZE]);

struct FrameHeader {
    uint32_t length = 0;  // of the payload
    uint16_t type = 0;    // MessageType, not yet checked to be a known one
    uint16_t flags = 0;   // 0 in this version
    uint64_t sequence = 0;
};

void encode_frame_header(const FrameHeader &header, uint8_t out[FRAME_HEADER_SIZE]);
[[nodiscard, gnu::nonnull]] FrameHeader decode_frame_header(const uint8_t bytes[FRAME_HEADER_SIZE]);

// One received frame. The payload lies in the parser and is valid until its next feed().
struct Frame {
    FrameHeader header;
    Bytes payload;
    [[nodiscard]] MessageType type() const { return static_cast<MessageType>(header.type); }
};

// Numbers and tags the frames of one direction.
class FrameWriter {
  public:
    FrameWriter() = default;
    ~FrameWriter();
    FrameWriter(const FrameWriter &) = delete;
    FrameWriter &operator=(const FrameWriter &) = delete;

    // From now on frames carry tags under this key and may be FRAME_PAYLOAD_MAX long.
    void set_key(const uint8_t key[FRAME_KEY_SIZE]);
    // Appends one frame to *out (which may hold earlier ones not yet sent). Errors: INVALID
    // (payload over the cap of the moment), SYSTEM (libcrypto); *out is then as it was and the
    // sequence is not used up.
    [[nodiscard]] int32_t append(MessageType type, Bytes payload, std::vector<uint8_t> *out);

    [[nodiscard]] bool authenticated() const { return keyed_; }
    [[nodiscard]] uint64_t sequence() const { return sequence_; }  // of the next frame

  private:
    uint64_t sequence_ = 0;
    bool keyed_ = false;
    uint8_t key_[FRAME_KEY_SIZE] = {};
};

// Cuts the other direction's bytes into frames and checks each.
//
//   while (size > 0) {
//       size_t used;
//       int32_t status = parser.feed(bytes, size, &used, &frame);
//       bytes += used; size -= used;
//       if (status == TENT_OK) handle(frame);            // may call set_key: it holds from the
//       next frame on else if (status != TENT_IN_PROGRESS) drop the connection;
//   }
class FrameParser {
  public:
    FrameParser() = default;
    ~FrameParser();
    FrameParser(const FrameParser &) = delete;
    FrameParser &operator=(const FrameParser &) = delete;

    void set_key(const uint8_t key[FRAME_KEY_SIZE]);
    // Takes bytes up to the end of at most one frame; *used says how many. TENT_OK: *frame is one,
    // complete and (after set_key) authentic. TENT_IN_PROGRESS: all bytes were taken, more are
    // needed. Errors, after which the connection must be dropped and every further feed() fails the
    // same way: PROTOCOL (length over the cap, flags, sequence), AUTH (tag).
    [[nodiscard]] int32_t feed(const uint8_t *bytes, size_t size, size_t *used, Frame *frame);

    [[nodiscard]] bool authenticated() const { return keyed_; }
    [[nodiscard]] size_t buffered() const { return buffer_.size(); }

  private:
    int32_t check_header();
    int32_t check_frame(Frame *frame);
    int32_t broken(int32_t status);

    std::vector<uint8_t> buffer_;
    size_t needed_ = FRAME_HEADER_SIZE;  // bytes buffer_ must reach for the next step
    bool header_done_ = false;
    bool complete_ = false;  // buffer_ holds a frame already handed out
    bool keyed_ = false;
    int32_t broken_ = 0;
    uint64_t sequence_ = 0;
    FrameHeader header_;
    uint8_t key_[FRAME_KEY_SIZE] = {};
};

}  // namespace tent
#endif
