// See attach.h.
//
// Leans on Linux' process_vm_readv(2), whose rules are: a call may end in the middle, at the page
// that cannot be reached, and says how many bytes it moved; only when that is none it says why.
#include "attach.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace tent::shm {

namespace {

// A signal that kills us interrupts the call each time; others hardly ever do.
constexpr int INTERRUPTS_MAX = 64;

// A list of ranges, neighbours joined: the kernel's work is per range.
struct Ranges {
    iovec ranges[ATTACH_PARTS_MAX];
    uint32_t count = 0;

    void add(void *address, size_t length) {
        if (count > 0) {
            iovec &last = ranges[count - 1];
            if (static_cast<char *>(last.iov_base) + last.iov_len == address) {
                last.iov_len += length;
                return;
            }
        }
        ranges[count++] = {address, length};
    }
};

void end_all(AttachPart *parts, uint32_t count, int32_t status) {
    for (uint32_t i = 0; i < count; i++)
        parts[i].status = status;
}

// One call for everything from `offset` in the first part on; bytes moved, or -errno.
ssize_t call(Endpoint &endpoint, uint32_t op, const AttachPart *parts, uint32_t count,
             uint64_t offset) {
    Ranges local, remote;
    for (uint32_t i = 0; i < count; i++) {
        local.add(parts[i].local + offset, parts[i].length - offset);
        remote.add(reinterpret_cast<void *>(parts[i].remote + offset), parts[i].length - offset);
        offset = 0;
    }
    auto *move = op == TENT_OP_WRITE ? process_vm_writev : process_vm_readv;
    for (int i = 0; i < INTERRUPTS_MAX; i++) {
        const ssize_t moved =
            move(endpoint.pid, local.ranges, local.count, remote.ranges, remote.count, 0);
        if (moved >= 0) return moved;
        if (errno != EINTR) break;
    }
    return -errno;
}

// What the first part ends with. Sets *all when it says something about the others, too.
int32_t status_of(Endpoint &endpoint, int error, bool *all) {
    *all = true;
    switch (error) {
        case EFAULT: *all = false; return TENT_E_RANGE;
        case ESRCH: return TENT_E_PEER;
        case EPERM:
        case EACCES:
        case ENOSYS:
            endpoint.attach_errno.store(error, std::memory_order_relaxed);
            return TENT_E_TRANSPORT;
        default: return TENT_E_TRANSPORT;  // EINTR, ENOMEM: another way may still do
    }
}

}  // namespace

void attach_move(Endpoint &endpoint, uint32_t op, AttachPart *parts, uint32_t count) {
    uint64_t offset = 0;  // in the first part that is left
    while (count > 0) {
        const bool write = op == TENT_OP_WRITE;
        // Alive and still connected before a write: it is the one whose memory may be changed.
        // After a read: then it was so all along, and the bytes are its bytes.
        if (write && !endpoint_peer_lives(endpoint)) return end_all(parts, count, TENT_E_PEER);
        ssize_t moved = call(endpoint, op, parts, count, offset);
        if (!write && !endpoint_peer_lives(endpoint)) return end_all(parts, count, TENT_E_PEER);
        if (moved <= 0) {
            bool all;
            parts->status =
                status_of(endpoint, moved == 0 ? EFAULT : static_cast<int>(-moved), &all);
            if (all) return end_all(parts, count, parts->status);
            parts++, count--, offset = 0;
            continue;
        }
        offset += static_cast<uint64_t>(moved);
        while (count > 0 && offset >= parts->length) {
            offset -= parts->length;
            parts->status = TENT_OK;
            parts++, count--;
        }
    }
}

int32_t attach_crc32c(Endpoint &endpoint, uint64_t remote, uint64_t length, char *buffer,
                      size_t buffer_size, uint32_t *crc) {
    *crc = 0;
    while (length > 0) {
        AttachPart part{buffer, remote, std::min<uint64_t>(length, buffer_size), TENT_OK};
        attach_move(endpoint, TENT_OP_READ, &part, 1);
        if (part.status != TENT_OK) return part.status;
        *crc = endpoint.instance->host->crc32c(*crc, buffer, part.length);
        remote += part.length;
        length -= part.length;
    }
    return TENT_OK;
}

}  // namespace tent::shm
