// Messages over a Unix socket of type SOCK_SEQPACKET, with descriptors.
//
// Leans on protocol.h and the system. Nothing blocks, nothing is allocated. A descriptor that came
// and that nobody took is closed. Thread-safety: one thread per socket.
#ifndef TENT_PLUGINS_SHM_SOCKET_H
#define TENT_PLUGINS_SHM_SOCKET_H

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "protocol.h"

namespace tent::shm {

// What one recvmsg gave.
class Message {
  public:
    Message() = default;
    ~Message() { clear(); }
    Message(const Message &) = delete;
    Message &operator=(const Message &) = delete;

    void clear();
    // The descriptor becomes the caller's; -1: none.
    int take(uint32_t index);
    // Exactly such a message, and with so many descriptors? `lost` is the caller's to look at.
    template <class T>
    bool read(MessageType type, uint32_t fds, T *out) const {
        static_assert(sizeof(T) <= MESSAGE_SIZE_MAX);
        MessageHead head{};
        if (size != sizeof(T) || fd_count != fds) return false;
        memcpy(&head, bytes, sizeof head);
        if (head.magic != MAGIC || head.type != type) return false;
        memcpy(out, bytes, sizeof(T));
        return true;
    }
    MessageType type() const;  // of a message that begins like one; else 0

    size_t size = 0;  // more than MESSAGE_SIZE_MAX: it was cut
    uint32_t fd_count = 0;
    bool lost = false;  // descriptors were sent that could not be received
    int fds[MESSAGE_FDS_MAX] = {-1, -1};
    alignas(8) char bytes[MESSAGE_SIZE_MAX] = {};
};

enum class Received { MESSAGE, NOTHING, BROKEN };
// BROKEN: *error is the errno, 0: the other side closed it.
Received message_receive(int fd, Message *message, int *error);
// 0, or an errno; EAGAIN: the other side does not read.
int message_send(int fd, const void *bytes, size_t size, const int *fds, uint32_t fd_count);
// A message that says no more than its type and fields, head filled in.
template <class T>
T message_make(MessageType type) {
    T made{};
    made.head = {MAGIC, type};
    return made;
}
template <class T>
int message_send(int fd, const T &message, const int *fds = nullptr, uint32_t fd_count = 0) {
    static_assert(sizeof(T) <= MESSAGE_SIZE_MAX);
    return message_send(fd, &message, sizeof message, fds, fd_count);
}
// Lost when the other side has not read: then it is awake anyhow.
void bell_send(int fd);

// The user at the other end as the kernel says, and its process as seen from here (0: not to be
// seen). False: errno says why.
bool peer_credentials(int fd, uint32_t *uid, int32_t *pid);
// A descriptor of the process at the other end, -1: none to be had.
int peer_process(int fd, int32_t pid);

}  // namespace tent::shm

#endif
