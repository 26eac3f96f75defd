// The data frames of the tcp transport, byte by byte; README.md describes them in prose.
//
// Leans on <tent/tent.h> for op and status values only. Must never hold state: it is the wire
// format and its limits.
#ifndef TENT_PLUGINS_TCP_FRAME_H
#define TENT_PLUGINS_TCP_FRAME_H

#include <bit>
#include <cstdint>

namespace tent::tcp {

static_assert(std::endian::native == std::endian::little,
              "frames are little endian and are laid out in memory as they travel");

constexpr uint32_t FRAME_MAGIC = 0x31465454;  // "TTF1"
constexpr uint8_t FRAME_DATA = 1;  // initiator -> target: slices, with the payloads of the writes
constexpr uint8_t FRAME_ACK = 2;   // target -> initiator: statuses of writes
constexpr uint8_t FRAME_READ_DATA = 3;  // target -> initiator: statuses and payloads of reads

constexpr uint32_t FRAME_SLICES_MAX = 256;         // descriptors in one frame
constexpr uint64_t SLICE_LENGTH_MAX = 1ull << 30;  // the plugin contract's limit
constexpr uint32_t TAG_LIMIT_MAX = 1u
                                   << 20;  // tags one endpoint may use: bounds the target's bitmap
constexpr uint32_t CONNECTIONS_MAX = 16;   // sockets of one endpoint

struct FrameHeader {
    uint32_t magic;
    uint8_t kind;
    uint8_t zero;
    uint16_t count;         // descriptors that follow, 1..FRAME_SLICES_MAX
    uint64_t payload_size;  // bytes after the descriptors, CRC trailers included
};

struct SliceDescriptor {
    uint64_t remote;  // absolute address in the target's memory
    uint32_t length;
    uint32_t tag;   // chosen by the initiator, in use until the reply
    uint8_t op;     // TENT_OP_*
    uint8_t flags;  // TENT_SLICE_INTEGRITY
    uint16_t zero16;
    uint32_t zero32;
};

struct AckDescriptor {
    uint32_t tag;
    int32_t status;
};

struct ReadDescriptor {
    uint32_t tag;
    int32_t status;
    uint32_t length;  // payload bytes of this slice, 0 unless status is TENT_OK
    uint32_t flags;   // TENT_SLICE_INTEGRITY: a CRC32C trailer follows the payload
};

static_assert(sizeof(FrameHeader) == 16 && sizeof(SliceDescriptor) == 24);
static_assert(sizeof(AckDescriptor) == 8 && sizeof(ReadDescriptor) == 16);

constexpr uint32_t CRC_SIZE = 4;
constexpr uint32_t HEAD_SIZE_MAX = sizeof(FrameHeader) + FRAME_SLICES_MAX * sizeof(SliceDescriptor);

// What travels in offer and answer over the control channel.
constexpr uint32_t OFFER_MAGIC = 0x314f5454;  // "TTO1"
struct Offer {
    uint32_t magic;
    uint32_t connections;  // offer: wanted; answer: the number to be made, not more
    uint32_t tag_limit;    // tags are below this
    uint32_t zero;
};
static_assert(sizeof(Offer) == 16);

}  // namespace tent::tcp

#endif
