// Copies from and to another process's memory by the kernel: process_vm_readv and writev.
//
// Leans on state.h. Must never name a process that is not for certain the one we shook hands with.
// Any thread, inside a lane; allocates nothing.
#ifndef TENT_PLUGINS_SHM_ATTACH_H
#define TENT_PLUGINS_SHM_ATTACH_H

#include "state.h"

namespace tent::shm {

constexpr uint32_t ATTACH_PARTS_MAX = 64;

struct AttachPart {
    char *local;
    uint64_t remote;
    uint64_t length;
    int32_t status;  // out
};

// Moves the parts in as few calls as can be, at most ATTACH_PARTS_MAX of them. Each ends with a
// status of its own: RANGE where memory is gone on either side, PEER when the process is, TRANSPORT
// when the kernel forbids it by now (and then for good: Endpoint::attach_errno).
void attach_move(Endpoint &endpoint, uint32_t op, AttachPart *parts, uint32_t count);
// The checksum of the peer's memory as it is now, read through the buffer.
int32_t attach_crc32c(Endpoint &endpoint, uint64_t remote, uint64_t length, char *buffer,
                      size_t buffer_size, uint32_t *crc);

}  // namespace tent::shm

#endif
