// Exports, wants and keys as they come from peers: nothing of one is used before it was read here.
//
// Leans on protocol.h. Pure functions (tests/fuzz).
#ifndef TENT_PLUGINS_RDMA_MESSAGES_H
#define TENT_PLUGINS_RDMA_MESSAGES_H

#include "protocol.h"

namespace tent::rdma {

// False: not one of ours, or it contradicts itself. *piece_count: 1 to PIECES_MAX.
bool export_read(const void *bytes, uint32_t size, Export *out, uint32_t *piece_count);

bool want_read(const void *bytes, uint32_t size, Want *out);

// What Keys says, numbers included.
struct KeysRead {
    Keys head;
    uint32_t count;  // piece_count * qp_count; 0 unless status is TENT_OK
    uint32_t numbers[KEYS_PER_MESSAGE];
};
bool keys_read(const void *bytes, uint32_t size, KeysRead *out);
// The other way; returns the bytes written, at most TENT_OFFER_MAX.
uint32_t keys_write(const KeysRead &keys, void *bytes);

}  // namespace tent::rdma

#endif
