// See socket.h.
#include "socket.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // since Linux 6.5
#endif

namespace tent::shm {
namespace {

// Keeps what fits into the message, closes the rest.
void descriptors_take(msghdr *header, Message *message) {
    for (cmsghdr *part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd = -1;
            memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof fd);
            if (message->fd_count < MESSAGE_FDS_MAX) {
                message->fds[message->fd_count++] = fd;
            } else {
                close(fd);
                message->lost = true;
            }
        }
    }
}

}  // namespace

void Message::clear() {
    for (uint32_t i = 0; i < fd_count; i++)
        if (fds[i] >= 0) close(fds[i]);
    fd_count = 0;
    size = 0;
    lost = false;
}

int Message::take(uint32_t index) {
    if (index >= fd_count) return -1;
    const int fd = fds[index];
    fds[index] = -1;
    return fd;
}

MessageType Message::type() const {
    MessageHead head{};
    if (size < sizeof head || size > MESSAGE_SIZE_MAX) return MessageType::NONE;
    memcpy(&head, bytes, sizeof head);
    return head.magic == MAGIC ? head.type : MessageType::NONE;
}

Received message_receive(int fd, Message *message, int *error) {
    message->clear();
    iovec part{message->bytes, sizeof message->bytes};
    alignas(cmsghdr) char control[CMSG_SPACE(MESSAGE_FDS_MAX * sizeof(int))];
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    ssize_t got = 0;
    do {
        got = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        *error = errno;
        return errno == EAGAIN || errno == EWOULDBLOCK ? Received::NOTHING : Received::BROKEN;
    }
    message->size = static_cast<size_t>(got);
    message->lost = (header.msg_flags & MSG_CTRUNC) != 0;
    descriptors_take(&header, message);
    *error = 0;
    return got == 0 ? Received::BROKEN : Received::MESSAGE;
}

int message_send(int fd, const void *bytes, size_t size, const int *fds, uint32_t fd_count) {
    iovec part{const_cast<void *>(bytes), size};
    alignas(cmsghdr) char control[CMSG_SPACE(MESSAGE_FDS_MAX * sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (fd_count > 0) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, fd_count * sizeof(int));
    }
    ssize_t sent = 0;
    do {
        sent = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? errno : 0;
}

void bell_send(int fd) {
    message_send(fd, message_make<Bell>(MessageType::BELL));
}

bool peer_credentials(int fd, uint32_t *uid, int32_t *pid) {
    ucred about{};
    socklen_t size = sizeof about;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &about, &size) != 0) return false;
    *uid = about.uid;
    *pid = about.pid;
    return true;
}

int peer_process(int fd, int32_t pid) {
    int process = -1;
    socklen_t size = sizeof process;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &process, &size) == 0) return process;
    if (pid <= 0) return -1;
    // Since Linux 5.3. The number may serve another process by now: then the socket has hung up,
    // which is seen next, or the proof is not found there.
    return static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
}

}  // namespace tent::shm
