// The bytes that two shm plugins exchange: offer, answer and export through the cores, messages
// over a Unix socket of type SOCK_SEQPACKET.
//
// Leans on board.h. Plain structs of fixed size, little-endian as the machine (both ends are the
// same one). Whoever receives one checks its size, magic, version and every field before use.
#ifndef TENT_PLUGINS_SHM_PROTOCOL_H
#define TENT_PLUGINS_SHM_PROTOCOL_H

#include <cstdint>

namespace tent::shm {

constexpr uint32_t MAGIC = 0x314d4853;  // "SHM1"
constexpr uint32_t VERSION = 1;
constexpr uint32_t PATH_MAX_SIZE = 108;  // of sockaddr_un

// How slices get across.
enum Methods : uint32_t { MAPPED = 1, ATTACH = 2, RING = 4 };

// Who and where an engine is. Rails tell it as text (rail.cc), offers and answers in full.
struct Place {
    uint8_t boot[16];  // /proc/sys/kernel/random/boot_id
    uint64_t ipc_namespace, pid_namespace, mount_namespace, user_namespace;
    uint32_t uid, pid;
};

// endpoint_offer, and (with the rest) endpoint_accept.
struct Offer {
    uint32_t magic, version;
    uint8_t instance[16];  // random, of this engine's run
    Place place;
    uint32_t methods;  // that the plan allows here
    uint32_t reserved;
};
struct Answer {
    Offer target;
    uint64_t endpoint;         // the target's number, said again in Hello
    uint8_t secret[16];        // likewise: only who has the answer has it
    char path[PATH_MAX_SIZE];  // the target's socket, NUL-terminated
    uint32_t reserved;
};

// region_export
struct Export {
    uint32_t magic, version;
    uint8_t instance[16];
    uint32_t slot, generation;  // in the target's table
    uint64_t address, length;
    uint32_t mappable;  // 1: backed by a memfd that may be asked for
    uint32_t reserved;
};

enum class MessageType : uint32_t {
    NONE = 0,       // nobody sends it
    HELLO = 1,      // I -> T
    WELCOME = 2,    // T -> I: with the board and the table
    WANT = 3,       // I -> T: the memfd of a region
    GIVE = 4,       // T -> I: with the memfd, or a refusal
    RING_WANT = 5,  // I -> T
    RING_GIVE = 6,  // T -> I: with the ring's memfd, or a refusal
    STANDS = 7,     // I -> T: the endpoint is in use from here on
    BELL = 8,       // either: look at the ring
};

struct MessageHead {
    uint32_t magic;
    MessageType type;
};
struct Hello {
    MessageHead head;
    uint32_t version, reserved;
    uint64_t endpoint;
    uint8_t secret[16];
};
struct Welcome {
    MessageHead head;
    int32_t status;  // TENT_OK: two descriptors come with it, board and table
    uint32_t reserved;
    // For the proof that we can reach into it: these bytes are found there.
    uint64_t proof_address;
    uint8_t proof[16];
    char sentence[128];  // of a refusal
};
struct Want {
    MessageHead head;
    uint32_t slot, generation;
};
struct Give {
    MessageHead head;
    uint32_t slot, generation;
    int32_t status;   // TENT_OK: one descriptor comes with it
    uint32_t access;  // TENT_ACCESS_*: READ alone is opened read-only
    uint64_t memory_offset, address, length;
    char sentence[128];  // of a refusal
};
struct RingWant {
    MessageHead head;
    uint32_t chunk_size, chunk_count;
};
struct RingGive {
    MessageHead head;
    int32_t status;  // TENT_OK: one descriptor comes with it
    uint32_t chunk_size, chunk_count, reserved;
    char sentence[128];  // of a refusal
};
struct Stands {
    MessageHead head;
    uint32_t methods, reserved;  // that the initiator will use
};
struct Bell {
    MessageHead head;
};
constexpr uint32_t MESSAGE_SIZE_MAX = 256;
constexpr uint32_t MESSAGE_FDS_MAX = 2;

}  // namespace tent::shm

#endif
