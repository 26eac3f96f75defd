// Frames of the control channel: see frame.h.
//
// A frame lies whole and contiguous in one buffer on both sides, so that its tag is one HMAC call
// without a copy.
#include "wire/frame.h"

#include <algorithm>
#include <cstring>

#include <tent/tent.h>

#include "base/bytes.h"
#include "base/status.h"

namespace tent {
namespace {

// A parser that once held a large frame does not keep the room for ever.
constexpr size_t BUFFER_KEPT_MAX = 64 << 10;

}  // namespace

const char *message_type_name(uint16_t type) {
    switch (static_cast<MessageType>(type)) {
        case MessageType::NONE: return "NONE";
        case MessageType::HELLO: return "HELLO";
        case MessageType::CHALLENGE: return "CHALLENGE";
        case MessageType::PROOF: return "PROOF";
        case MessageType::ACCEPT: return "ACCEPT";
        case MessageType::ERROR: return "ERROR";
        case MessageType::PING: return "PING";
        case MessageType::PONG: return "PONG";
        case MessageType::BYE: return "BYE";
        case MessageType::DESCRIBE_REQUEST: return "DESCRIBE_REQUEST";
        case MessageType::DESCRIBE: return "DESCRIBE";
        case MessageType::REGION_DELTA: return "REGION_DELTA";
        case MessageType::GRANT_REVOKED: return "GRANT_REVOKED";
        case MessageType::ENDPOINT_OPEN: return "ENDPOINT_OPEN";
        case MessageType::ENDPOINT_ANSWER: return "ENDPOINT_ANSWER";
        case MessageType::ENDPOINT_RETIRE: return "ENDPOINT_RETIRE";
        case MessageType::ENDPOINT_RETIRED: return "ENDPOINT_RETIRED";
        case MessageType::PLUGIN_MESSAGE: return "PLUGIN_MESSAGE";
        case MessageType::NOTICE: return "NOTICE";
        case MessageType::NOTICE_ACK: return "NOTICE_ACK";
    }
    return "?";
}

ConnectionKind classify_connection(const uint8_t word[FIRST_WORD_SIZE]) {
    if (std::memcmp(word, FIRST_WORD_CONTROL, FIRST_WORD_SIZE) == 0) {
        return ConnectionKind::CONTROL;
    }
    if (std::memcmp(word, FIRST_WORD_DATA, FIRST_WORD_SIZE) == 0) {
        return ConnectionKind::DATA;
    }
    return ConnectionKind::UNKNOWN;
}

void encode_frame_header(const FrameHeader &header, uint8_t out[FRAME_HEADER_SIZE]) {
    ByteWriter writer(out, FRAME_HEADER_SIZE);
    writer.u32(header.length);
    writer.u16(header.type);
    writer.u16(header.flags);
    writer.u64(header.sequence);
}

FrameHeader decode_frame_header(const uint8_t bytes[FRAME_HEADER_SIZE]) {
    ByteReader reader(bytes, FRAME_HEADER_SIZE);
    FrameHeader header;
    header.length = reader.u32();
    header.type = reader.u16();
    header.flags = reader.u16();
    header.sequence = reader.u64();
    return header;
}

FrameWriter::~FrameWriter() {
    explicit_bzero(key_, sizeof(key_));
}

void FrameWriter::set_key(const uint8_t key[FRAME_KEY_SIZE]) {
    std::memcpy(key_, key, sizeof(key_));
    keyed_ = true;
}

int32_t FrameWriter::append(MessageType type, Bytes payload, std::vector<uint8_t> *out) {
    const uint32_t payload_max = keyed_ ? FRAME_PAYLOAD_MAX : FRAME_PAYLOAD_MAX_HANDSHAKE;
    if (payload.size() > payload_max) {
        return fail(TENT_E_INVALID, "a %s frame of %zu bytes is over the cap of %u %s",
                    message_type_name(static_cast<uint16_t>(type)), payload.size(), payload_max,
                    keyed_ ? "bytes" : "bytes before authentication");
    }
    const size_t start = out->size();
    out->resize(start + FRAME_HEADER_SIZE + payload.size() + (keyed_ ? FRAME_TAG_SIZE : 0));
    uint8_t *frame = out->data() + start;
    FrameHeader header;
    header.length = static_cast<uint32_t>(payload.size());
    header.type = static_cast<uint16_t>(type);
    header.sequence = sequence_;
    encode_frame_header(header, frame);
    if (!payload.empty()) {
        std::memcpy(frame + FRAME_HEADER_SIZE, payload.data(), payload.size());
    }
    if (keyed_) {
        const size_t tagged = FRAME_HEADER_SIZE + payload.size();
        uint8_t tag[SHA256_SIZE];
        if (!hmac_sha256(Bytes(key_, sizeof(key_)), Bytes(frame, tagged), tag)) {
            out->resize(start);
            return fail(TENT_E_SYSTEM, "libcrypto refused to compute a frame's HMAC-SHA256");
        }
        std::memcpy(frame + tagged, tag, FRAME_TAG_SIZE);
    }
    sequence_++;
    return TENT_OK;
}

FrameParser::~FrameParser() {
    explicit_bzero(key_, sizeof(key_));
}

void FrameParser::set_key(const uint8_t key[FRAME_KEY_SIZE]) {
    std::memcpy(key_, key, sizeof(key_));
    keyed_ = true;
}

int32_t FrameParser::broken(int32_t status) {
    broken_ = status;
    buffer_ = {};
    return status;
}

int32_t FrameParser::check_header() {
    header_ = decode_frame_header(buffer_.data());
    const uint32_t payload_max = keyed_ ? FRAME_PAYLOAD_MAX : FRAME_PAYLOAD_MAX_HANDSHAKE;
    if (header_.length > payload_max) {
        return broken(
            fail(TENT_E_PROTOCOL, "the peer announced a frame of %u bytes, the cap %s is %u",
                 header_.length, keyed_ ? "of a session" : "before authentication", payload_max));
    }
    if (header_.flags != 0) {
        return broken(fail(TENT_E_PROTOCOL, "the peer sent a %s frame with unknown flags 0x%04x",
                           message_type_name(header_.type), static_cast<unsigned>(header_.flags)));
    }
    if (header_.sequence != sequence_) {
        return broken(fail(keyed_ ? TENT_E_AUTH : TENT_E_PROTOCOL,
                           "the peer sent frame number %llu where %llu was due (replayed, lost or "
                           "forged)",
                           static_cast<unsigned long long>(header_.sequence),
                           static_cast<unsigned long long>(sequence_)));
    }
    needed_ = FRAME_HEADER_SIZE + header_.length + (keyed_ ? FRAME_TAG_SIZE : 0);
    header_done_ = true;
    return TENT_OK;
}

int32_t FrameParser::check_frame(Frame *frame) {
    const size_t tagged = FRAME_HEADER_SIZE + header_.length;
    if (keyed_) {
        uint8_t tag[SHA256_SIZE];
        if (!hmac_sha256(Bytes(key_, sizeof(key_)), Bytes(buffer_.data(), tagged), tag) ||
            !equal_constant_time(tag, buffer_.data() + tagged, FRAME_TAG_SIZE)) {
            return broken(fail(TENT_E_AUTH,
                               "frame number %llu of the peer has a wrong tag (forged or damaged)",
                               static_cast<unsigned long long>(sequence_)));
        }
    }
    sequence_++;
    complete_ = true;
    frame->header = header_;
    frame->payload = Bytes(buffer_.data() + FRAME_HEADER_SIZE, header_.length);
    return TENT_OK;
}

int32_t FrameParser::feed(const uint8_t *bytes, size_t size, size_t *used, Frame *frame) {
    *used = 0;
    if (broken_ != 0) {
        return fail(broken_, "the connection's frames were already found broken: drop it");
    }
    if (complete_) {
        buffer_.clear();
        if (buffer_.capacity() > BUFFER_KEPT_MAX) {
            buffer_ = {};
        }
        complete_ = false;
        header_done_ = false;
        needed_ = FRAME_HEADER_SIZE;
    }
    for (;;) {
        const size_t taken = std::min(size - *used, needed_ - buffer_.size());
        if (taken != 0) {
            buffer_.insert(buffer_.end(), bytes + *used, bytes + *used + taken);
            *used += taken;
        }
        if (buffer_.size() < needed_) {
            return TENT_IN_PROGRESS;
        }
        if (header_done_) {
            return check_frame(frame);
        }
        if (const int32_t status = check_header(); status != TENT_OK) {
            return status;
        }
    }
}

}  // namespace tent
