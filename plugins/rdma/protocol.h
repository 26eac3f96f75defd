// What two rdma plugins tell each other: the offer and its answer, the export of a region, and the
// messages by which rkeys are asked for and given. All goes over the authenticated control channel
// but the export, which stands in descriptors and therefore holds no key.
//
// Little-endian, fixed layouts without gaps. Leans on nothing. Whoever reads one checks magic,
// version, every count and every length first: the bytes are foreign (tests/fuzz).
#ifndef TENT_PLUGINS_RDMA_PROTOCOL_H
#define TENT_PLUGINS_RDMA_PROTOCOL_H

#include <cstdint>

namespace tent::rdma {

constexpr uint32_t OFFER_MAGIC = 0x41524454;   // "TDRA"
constexpr uint32_t EXPORT_MAGIC = 0x52524454;  // "TDRR"
constexpr uint16_t PROTOCOL_VERSION = 1;
constexpr uint32_t QPS_MAX = 16;        // of an endpoint
constexpr uint32_t PIECES_MAX = 65536;  // of a region

enum class Link : uint8_t { INFINIBAND = 1, ROCE_V1 = 2, ROCE_V2 = 3 };

struct QpAddress {
    uint32_t number;  // 24 bits
    uint32_t psn;     // 24 bits: the first packet sequence number that its owner sends, random
};

// Both directions. The target answers with as many queue pairs as it was offered or fewer; the
// first ones pair up and the initiator closes the rest.
struct Offer {
    uint32_t magic;
    uint16_t version;
    uint16_t qp_count;
    uint8_t gid[16];
    uint16_t lid;
    Link link = Link::ROCE_V2;
    uint8_t mtu;        // enum ibv_mtu of the port, or the option's; the smaller of both is used
    uint8_t rd_atomic;  // READs that its owner serves at a time on one queue pair
    uint8_t reserved[3];
    uint8_t instance[16];  // of the owner: regions of another run of it are stale
    QpAddress qps[QPS_MAX];
};
static_assert(sizeof(Offer) == 48 + 8 * QPS_MAX);

// region_export. Piece i is [address + i * piece_size, the next one or the end): the same on every
// rail of the target.
struct Export {
    uint32_t magic;
    uint16_t version;
    uint16_t access;  // TENT_ACCESS_* of the region
    uint8_t instance[16];
    uint64_t number;  // of the region, never used again by that instance
    uint64_t address;
    uint64_t length;
    uint64_t piece_size;  // a multiple of the page size; the region's length or more: one piece
};
static_assert(sizeof(Export) == 56);

enum class Message : uint32_t {
    NONE = 0,  // nobody sends it
    WANT = 1,  // initiator: the keys of a region, from a piece on
    KEYS = 2,  // target: some of them, or why not
};

// Said again until it is answered. Answers are idempotent.
struct Want {
    Message type;
    uint32_t piece;
    uint64_t region;
};
static_assert(sizeof(Want) == 16);

constexpr uint32_t KEYS_PER_MESSAGE = 112;
// In Keys::access: each works on its queue pair alone.
constexpr uint32_t KEYS_OF_WINDOWS = 1u << 31;

// rkeys of pieces [piece, piece + piece_count), for each piece those of the endpoint's queue pairs
// in order: piece_count * qp_count numbers follow, <= KEYS_PER_MESSAGE.
struct Keys {
    Message type;
    int32_t status;  // TENT_OK; AGAIN: not yet, ask later; else why there are none (no numbers)
    uint64_t region;
    uint32_t piece;
    uint32_t piece_count;
    uint32_t qp_count;
    uint32_t access;  // TENT_ACCESS_* that the keys allow
};
static_assert(sizeof(Keys) == 32);

}  // namespace tent::rdma

#endif
