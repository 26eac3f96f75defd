// messages.h - what two authenticated engines say to each other on the control channel.
//
// Each message is a plain struct with encode and decode. Every one is idempotent and numbered
// (request, version, endpoint, notice or ping number): a sender that lost its connection sends it
// again over a new one, a receiver that has seen the number answers as it did before. Leans on
// base/bytes.h and wire/descriptor.h. Must never trust a count or a size: decode refuses what
// breaks a cap, and bytes left over.
//
// Thread-safety: plain values and pure functions.
#ifndef TENT_WIRE_MESSAGES_H
#define TENT_WIRE_MESSAGES_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <tent/plugin.h>

#include "base/bytes.h"
#include "wire/descriptor.h"
#include "wire/frame.h"

namespace tent {

inline constexpr size_t SENTENCE_SIZE_MAX = 300;  // longer ones are cut when encoded
inline constexpr size_t DESCRIBE_PART_SIZE_MAX = 512u << 10;
inline constexpr uint32_t DELTA_ADDED_MAX = 128;
inline constexpr uint32_t DELTA_REMOVED_MAX = 4096;
inline constexpr size_t NOTICE_SIZE_MAX = 65536;
inline constexpr uint32_t SCRATCH_SIZE = 4096;      // of a canary
inline constexpr uint32_t SLICE_COUNT_MAX = 65536;  // per endpoint

// In all of them: encode writes the payload (INVALID when a field breaks its cap; room is the
// writer's affair, see append_message), decode reads a whole payload (PROTOCOL).
#define TENT_MESSAGE(message_type)                                 \
    static constexpr MessageType TYPE = MessageType::message_type; \
    [[nodiscard]] int32_t encode(ByteWriter &writer) const;        \
    [[nodiscard]] int32_t decode(ByteReader &reader)

// Asks for the descriptor of a grant; without a token for that of the default grant (0).
struct DescribeRequest {
    uint64_t request = 0;  // number chosen by the asker, returned in the answer
    bool has_token = false;
    uint64_t grant = 0;
    uint8_t token[GRANT_TOKEN_SIZE] = {};
    TENT_MESSAGE(DESCRIBE_REQUEST);
};

// The answer, in parts of at most DESCRIBE_PART_SIZE_MAX: a descriptor may be larger than a frame.
// A failure is one part with total 0. Parts of one request come in order; see DescribeAssembler and
// describe_part.
struct Describe {
    uint64_t request = 0;
    int32_t status = 0;
    std::string sentence = {};
    uint32_t total = 0;   // bytes of the whole descriptor, at most DESCRIPTOR_SIZE_MAX
    uint32_t offset = 0;  // of this part
    std::vector<uint8_t> bytes = {};
    TENT_MESSAGE(DESCRIBE);
};

// Cuts the part of a descriptor that begins at `offset`.
[[nodiscard]] Describe describe_part(uint64_t request, Bytes descriptor, uint32_t offset);

// Puts the parts of one request together.
class DescribeAssembler {
  public:
    explicit DescribeAssembler(uint64_t request) : request_(request) {}
    // TENT_OK: complete, see bytes(). TENT_IN_PROGRESS: more parts to come (also for parts of other
    // requests, which are ignored). A part at offset 0 begins anew. The peer's status if it
    // refused. PROTOCOL when the parts do not fit together. from: what brought it; when several
    // bring answers to one request, the one that began last counts, parts of others are ignored.
    [[nodiscard]] int32_t add(const Describe &part, uint64_t from = 0);
    [[nodiscard]] Bytes bytes() const { return bytes_; }

  private:
    uint64_t request_;
    uint64_t from_ = 0;
    uint32_t total_ = 0;
    std::vector<uint8_t> bytes_;
};

// The regions under a grant changed from version_base to version. A receiver at version_base
// applies it; one already at `version` or later ignores it; one further behind asks for the whole
// descriptor.
struct RegionDelta {
    uint64_t grant = 0;
    uint64_t version_base = 0;
    uint64_t version = 0;                      // > version_base
    std::vector<DescriptorRegion> added = {};  // replaces a region of the same handle
    std::vector<uint64_t> removed = {};
    TENT_MESSAGE(REGION_DELTA);
};

// The grant has ended; its endpoints are being retired by the sender.
struct GrantRevoked {
    uint64_t grant = 0;
    TENT_MESSAGE(GRANT_REVOKED);
};

// Initiator -> target: an endpoint is wanted. Repeated with the same endpoint number it is the same
// endpoint.
struct EndpointOpen {
    uint64_t endpoint = 0;  // the initiator's number, not 0
    uint64_t grant = 0;
    uint8_t token[GRANT_TOKEN_SIZE] = {};
    std::string transport = {};
    uint32_t initiator_rail = 0;  // index of the initiator's rail in its own plan
    uint32_t target_rail = 0;     // index of the target's rail, from its descriptor
    // The initiator's tent_rail_info.address: what the target's endpoint_accept gets as peer_rail.
    std::string initiator_address = {};
    uint32_t slice_count_max = 0;     // 1 .. SLICE_COUNT_MAX
    std::vector<uint8_t> offer = {};  // at most TENT_OFFER_MAX
    TENT_MESSAGE(ENDPOINT_OPEN);
};

struct EndpointAnswer {
    uint64_t endpoint = 0;
    int32_t status = 0;
    std::string sentence = {};
    std::vector<uint8_t> answer = {};  // at most TENT_OFFER_MAX
    // Where the initiator's canaries go: SCRATCH_SIZE bytes of the target that hold nothing; 0: the
    // transport reaches none. With what the transport needs to reach them (region_export).
    uint64_t scratch = 0;
    std::vector<uint8_t> scratch_export = {};  // at most TENT_EXPORT_MAX
    TENT_MESSAGE(ENDPOINT_ANSWER);
};

// Initiator -> target: retire your half (the remote fence). An unknown endpoint is answered with
// TENT_OK: nothing of it can land, and an ENDPOINT_OPEN of that number that arrives later is
// refused.
struct EndpointRetire {
    uint64_t endpoint = 0;
    TENT_MESSAGE(ENDPOINT_RETIRE);
};

// Target -> initiator: nothing posted on that endpoint touches the target's memory any more (status
// TENT_OK), or the target retired it by itself (revoke, release), status says why.
struct EndpointRetired {
    uint64_t endpoint = 0;
    int32_t status = 0;
    std::string sentence = {};
    TENT_MESSAGE(ENDPOINT_RETIRED);
};

// Between the plugins at both ends of an endpoint.
struct PluginMessage {
    uint64_t endpoint = 0;  // the initiator's number
    uint64_t number = 0;    // per endpoint and direction, from 1; a receiver drops what it has had
    bool from_initiator = false;
    std::vector<uint8_t> bytes = {};  // at most TENT_OFFER_MAX
    TENT_MESSAGE(PLUGIN_MESSAGE);
};

struct Notice {
    uint64_t number = 0;  // per direction and peer epoch, from 1, without gaps
    std::vector<uint8_t> bytes = {};
    TENT_MESSAGE(NOTICE);
};

// status: TENT_OK taken (now or before), TENT_E_AGAIN ring full, send again later.
struct NoticeAck {
    uint64_t number = 0;
    int32_t status = 0;
    TENT_MESSAGE(NOTICE_ACK);
};

struct Ping {
    uint64_t number = 0;
    TENT_MESSAGE(PING);
};

struct Pong {
    uint64_t number = 0;
    TENT_MESSAGE(PONG);
};

// The sender closes its engine in good order.
struct Bye {
    TENT_MESSAGE(BYE);
};

// The sender drops the connection after this; before authentication it proves nothing and serves
// the reader only.
struct Error {
    int32_t status = 0;  // negative
    std::string sentence = {};
    TENT_MESSAGE(ERROR);
};

#undef TENT_MESSAGE

// INVALID with the sentence for a message that does not fit a frame.
[[nodiscard]] int32_t message_too_large(uint16_t type);

// Encodes a message and appends it as one frame. Errors as encode and FrameWriter::append; *out is
// then as it was.
template <class Message>
[[nodiscard]] int32_t append_message(const Message &message, FrameWriter *writer,
                                     std::vector<uint8_t> *out) {
    std::vector<uint8_t> payload;
    // Most messages fit the first room; the few large ones are rare enough to be encoded again.
    for (size_t room = 1024; room <= FRAME_PAYLOAD_MAX; room *= 32) {
        payload.resize(room);
        ByteWriter bytes(payload.data(), payload.size());
        if (const int32_t status = message.encode(bytes); status != TENT_OK) return status;
        if (bytes.ok())
            return writer->append(Message::TYPE, Bytes(payload.data(), bytes.size()), out);
    }
    return message_too_large(static_cast<uint16_t>(Message::TYPE));
}

// Decodes the payload of a frame whose type is Message::TYPE. Errors: PROTOCOL.
template <class Message>
[[nodiscard]] int32_t decode_message(const Frame &frame, Message *message) {
    ByteReader reader(frame.payload.data(), frame.payload.size());
    return message->decode(reader);
}

// Status a peer may send: TENT_OK or a negative TENT_E_*; anything else would confuse the caller of
// a later wait.
[[nodiscard]] bool valid_wire_status(int32_t status);

}  // namespace tent
#endif
