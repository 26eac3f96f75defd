// Receiving: heads go through a small stage, payload straight to where it belongs.
//
// Leans on state.h. Everything that arrives is foreign: it is checked before it is believed, and a
// mistake fails the endpoint. Must never write a byte that grant_check (target) or the posted slice
// (initiator) does not cover.
#include "state.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <algorithm>
#include <cerrno>
#include <cstring>

namespace tent::tcp {
namespace {

bool malformed(Connection &connection, const char *what, uint64_t value) {
    endpoint_fail(*connection.endpoint, TENT_E_PROTOCOL,
                  "connection %u received a malformed frame: %s (%llu)", connection.index, what,
                  static_cast<unsigned long long>(value));
    return false;
}

void item_add(Receiving &receive, char *destination, uint32_t length, uint32_t tag, int32_t status,
              bool integrity) {
    receive.items[receive.item_count++] =
        Incoming{destination, length, tag, status, 0, 0, integrity};
}

// Is the tag new? Marks it as used until its reply leaves.
bool tag_take(Endpoint &endpoint, uint32_t tag) {
    if (tag >= endpoint.tag_limit) {
        return false;
    }
    uint64_t &word = endpoint.tags_in_use[tag / 64];
    const uint64_t bit = 1ull << (tag % 64);
    if ((word & bit) != 0) {
        return false;
    }
    word |= bit;
    return true;
}

int32_t access_check(const Endpoint &endpoint, const SliceDescriptor &slice) {
    if (slice.remote + slice.length < slice.remote) {
        return TENT_E_RANGE;
    }
    const tent_host *host = endpoint.instance->host;
    return host->grant_check(host->ctx, endpoint.grant, slice.op, slice.remote, slice.length);
}

// Addresses of the target's memory travel as numbers; what access_check allows becomes a pointer.
char *memory_at(uint64_t remote) {
    return reinterpret_cast<char *>(remote);  // NOLINT(performance-no-int-to-ptr)
}

// Target: a frame of slices. Reads are put in line, writes become the payloads to receive.
bool head_read_data(Connection &connection, const FrameHeader &header, const char *in) {
    Endpoint &endpoint = *connection.endpoint;
    Receiving &receive = connection.receive;
    uint64_t payload_size = 0;
    receive.item_count = 0;
    for (uint32_t i = 0; i < header.count; ++i, in += sizeof(SliceDescriptor)) {
        SliceDescriptor slice;
        memcpy(&slice, in, sizeof(slice));
        if (slice.op != TENT_OP_READ && slice.op != TENT_OP_WRITE) {
            return malformed(connection, "unknown operation", slice.op);
        }
        if ((slice.flags & ~TENT_SLICE_INTEGRITY) != 0 || slice.zero16 != 0 || slice.zero32 != 0) {
            return malformed(connection, "unknown flags in slice", i);
        }
        if (slice.length == 0 || slice.length > SLICE_LENGTH_MAX) {
            return malformed(connection, "slice length", slice.length);
        }
        if (!tag_take(endpoint, slice.tag)) {
            return malformed(connection, "tag out of bounds or in use", slice.tag);
        }
        const bool integrity = (slice.flags & TENT_SLICE_INTEGRITY) != 0;
        const int32_t status = access_check(endpoint, slice);
        if (slice.op == TENT_OP_WRITE) {
            payload_size += slice.length + (integrity ? CRC_SIZE : 0u);
            char *destination = status == TENT_OK ? memory_at(slice.remote) : nullptr;
            item_add(receive, destination, slice.length, slice.tag, status, integrity);
        } else if (status == TENT_OK) {
            const char *source = memory_at(slice.remote);
            connection.replies->serves.push(
                Serve{source, slice.tag, slice.length, TENT_OK, slice.flags});
        } else {
            connection.replies->serves.push(Serve{nullptr, slice.tag, 0, status, 0});
        }
    }
    if (payload_size != header.payload_size) {
        return malformed(connection, "payload size is not the sum of the slices",
                         header.payload_size);
    }
    return true;
}

// Initiator: the posted slice a reply speaks of, if such a reply may come now.
Record *reply_record(Connection &connection, uint32_t tag, uint32_t op) {
    Instance &instance = *connection.endpoint->instance;
    if (tag >= instance.record_count) {
        return nullptr;
    }
    Record &record = instance.records[tag];
    if (record.state != RecordState::SENT || record.connection != &connection || record.op != op) {
        return nullptr;
    }
    // A reply to what is not yet sent entirely would hand back memory that we still send from.
    const Sending &send = connection.send;
    if (send.iov_count != 0 && record.frame_serial == send.serial &&
        record.frame_iov >= send.iov_next) {
        return nullptr;
    }
    return &record;
}

bool head_read_acks(Connection &connection, const FrameHeader &header, const char *in) {
    if (header.payload_size != 0) {
        return malformed(connection, "acknowledgements with payload", header.payload_size);
    }
    for (uint32_t i = 0; i < header.count; ++i, in += sizeof(AckDescriptor)) {
        AckDescriptor ack;
        memcpy(&ack, in, sizeof(ack));
        Record *record = reply_record(connection, ack.tag, TENT_OP_WRITE);
        if (record == nullptr || ack.status > 0) {
            return malformed(connection, "acknowledgement of no outstanding write, tag", ack.tag);
        }
        record_finish(*connection.endpoint->instance, *record, ack.status);
    }
    return true;
}

bool head_read_reads(Connection &connection, const FrameHeader &header, const char *in) {
    Receiving &receive = connection.receive;
    uint64_t payload_size = 0;
    receive.item_count = 0;
    for (uint32_t i = 0; i < header.count; ++i, in += sizeof(ReadDescriptor)) {
        ReadDescriptor reply;
        memcpy(&reply, in, sizeof(reply));
        Record *record = reply_record(connection, reply.tag, TENT_OP_READ);
        if (record == nullptr || reply.status > 0) {
            return malformed(connection, "data of no outstanding read, tag", reply.tag);
        }
        const uint32_t length = reply.status == TENT_OK ? record->length : 0;
        const uint32_t flags = reply.status == TENT_OK ? record->flags : 0;
        if (reply.length != length || reply.flags != flags) {
            return malformed(connection, "length or flags are not those asked for, length",
                             reply.length);
        }
        if (reply.status != TENT_OK) {
            record_finish(*connection.endpoint->instance, *record, reply.status);
            continue;
        }
        const bool integrity = (flags & TENT_SLICE_INTEGRITY) != 0;
        payload_size += length + (integrity ? CRC_SIZE : 0u);
        record->state = RecordState::RECEIVING;
        item_add(receive, record->local, length, reply.tag, TENT_OK, integrity);
    }
    if (payload_size != header.payload_size) {
        return malformed(connection, "payload size is not the sum of the slices",
                         header.payload_size);
    }
    return true;
}

bool header_valid(const Connection &connection, const FrameHeader &header) {
    const bool target = !connection.endpoint->initiator;
    const bool kind_fits = target ? header.kind == FRAME_DATA
                                  : header.kind == FRAME_ACK || header.kind == FRAME_READ_DATA;
    return header.magic == FRAME_MAGIC && header.zero == 0 && kind_fits && header.count > 0 &&
           header.count <= FRAME_SLICES_MAX;
}

uint32_t head_size(const FrameHeader &header) {
    constexpr uint32_t sizes[] = {0, sizeof(SliceDescriptor), sizeof(AckDescriptor),
                                  sizeof(ReadDescriptor)};
    return static_cast<uint32_t>(sizeof(FrameHeader)) + header.count * sizes[header.kind];
}

// For the replies to a whole frame.
bool replies_have_room(const Replies &replies) {
    return replies.acks.room() >= FRAME_SLICES_MAX && replies.serves.room() >= FRAME_SLICES_MAX;
}

// Reads a head from the stage if it is there entirely. False: more bytes, or room for replies, must
// come first, or the endpoint failed.
bool head_read(Connection &connection) {
    Receiving &receive = connection.receive;
    const uint32_t available = receive.stage_end - receive.stage_begin;
    if (available < sizeof(FrameHeader)) {
        return false;
    }
    const char *in = receive.stage + receive.stage_begin;
    FrameHeader header;
    memcpy(&header, in, sizeof(header));
    if (!header_valid(connection, header)) {
        return malformed(connection, "header, magic", header.magic);
    }
    const uint32_t size = head_size(header);
    if (available < size) {
        return false;
    }
    if (header.kind == FRAME_DATA && !replies_have_room(*connection.replies)) {
        connection.paused = true;  // the initiator does not take its replies: hold it back
        connection_watch(connection, connection.events & ~static_cast<uint32_t>(EPOLLIN));
        return false;
    }
    receive.stage_begin += size;
    in += sizeof(header);
    switch (header.kind) {
        case FRAME_DATA: return head_read_data(connection, header, in);
        case FRAME_ACK: return head_read_acks(connection, header, in);
        default: return head_read_reads(connection, header, in);
    }
}

void item_finish(Connection &connection, const Incoming &item) {
    Instance &instance = *connection.endpoint->instance;
    int32_t status = item.status;
    if (status == TENT_OK && item.integrity && item.crc != item.trailer) {
        status = TENT_E_CORRUPT;
    }
    if (connection.endpoint->initiator) {
        record_finish(instance, instance.records[item.tag], status);
        return;
    }
    connection.replies->acks.push(AckDescriptor{item.tag, status});
    connection.replies->written_bytes += status == TENT_OK ? item.length : 0;
}

// Accounts for size bytes of payload: they lie at `from` (nullptr: where they belong already).
void items_advance(Connection &connection, const char *from, uint64_t size) {
    Receiving &receive = connection.receive;
    const tent_host *host = connection.endpoint->instance->host;
    while (size > 0) {
        Incoming &item = receive.items[receive.item_next];
        uint64_t part;
        if (receive.item_offset < item.length) {
            part = std::min<uint64_t>(size, item.length - receive.item_offset);
            char *to =
                item.destination != nullptr ? item.destination + receive.item_offset : nullptr;
            if (to != nullptr && from != nullptr) {
                memcpy(to, from, part);
            }
            if (to != nullptr && item.integrity) {
                item.crc = host->crc32c(item.crc, to, part);
            }
        } else {
            const uint32_t offset = receive.item_offset - item.length;
            part = std::min<uint64_t>(size, CRC_SIZE - offset);
            if (from != nullptr) {
                memcpy(reinterpret_cast<char *>(&item.trailer) + offset, from, part);
            }
        }
        size -= part;
        from = from != nullptr ? from + part : nullptr;
        receive.item_offset += static_cast<uint32_t>(part);
        if (receive.item_offset < item.length + (item.integrity ? CRC_SIZE : 0u)) {
            continue;
        }
        receive.item_offset = 0;
        const bool last = ++receive.item_next == receive.item_count;
        item_finish(connection, item);
        if (last) {
            receive.item_next = 0;
            receive.item_count = 0;
        }
    }
}

uint64_t payload_left(const Receiving &receive) {
    uint64_t size = 0;
    for (uint32_t i = receive.item_next; i < receive.item_count; ++i) {
        size += receive.items[i].length + (receive.items[i].integrity ? CRC_SIZE : 0u);
        if (size - receive.item_offset >= STAGE_SIZE) {
            break;
        }
    }
    return size - receive.item_offset;
}

// Uses up what the stage holds. False when nothing more is to be read now.
bool stage_consume(Connection &connection) {
    Receiving &receive = connection.receive;
    while (receive.stage_begin < receive.stage_end) {
        if (receive.item_count == 0) {
            if (!head_read(connection)) {
                break;
            }
            continue;
        }
        const uint64_t size =
            std::min<uint64_t>(receive.stage_end - receive.stage_begin, payload_left(receive));
        const char *from = receive.stage + receive.stage_begin;
        receive.stage_begin += static_cast<uint32_t>(size);
        items_advance(connection, from, size);
    }
    return connection.phase == Phase::STANDING && !connection.paused;
}

struct Wanted {
    iovec iov[RECEIVE_IOV_MAX];
    uint32_t count = 0;
    uint64_t payload_size = 0;
    uint64_t size = 0;

    void add(void *data, uint64_t length) {
        iov[count++] = iovec{data, length};
        size += length;
    }
};

// The destinations of the payload still to come, at most budget bytes. True when that is all of it.
bool payload_wanted(Connection &connection, uint64_t budget, Wanted &wanted) {
    Receiving &receive = connection.receive;
    char *discard = connection.endpoint->instance->discard;
    uint32_t offset = receive.item_offset;
    for (uint32_t i = receive.item_next; i < receive.item_count; ++i, offset = 0) {
        Incoming &item = receive.items[i];
        if (wanted.count + 3 > RECEIVE_IOV_MAX || wanted.size >= budget) {
            return false;
        }
        if (offset < item.length) {
            const uint64_t limit =
                item.destination != nullptr ? budget - wanted.size : uint64_t{DISCARD_SIZE};
            const uint64_t size = std::min<uint64_t>(item.length - offset, limit);
            wanted.add(item.destination != nullptr ? item.destination + offset : discard, size);
            if (offset + size < item.length) {
                return false;
            }
            offset = item.length;
        }
        if (item.integrity) {
            const uint32_t done = offset - item.length;
            wanted.add(reinterpret_cast<char *>(&item.trailer) + done, CRC_SIZE - done);
        }
    }
    return true;
}

ssize_t wanted_receive(int fd, Wanted &wanted) {
    if (wanted.count == 1) {
        return ::recv(fd, wanted.iov[0].iov_base, wanted.iov[0].iov_len, MSG_DONTWAIT);
    }
    msghdr message{};
    message.msg_iov = wanted.iov;
    message.msg_iovlen = wanted.count;
    return ::recvmsg(fd, &message, MSG_DONTWAIT);
}

// One system call: payload to its places and what follows to the stage. False: nothing more is
// there now.
bool bytes_receive(Connection &connection, uint64_t *budget) {
    Receiving &receive = connection.receive;
    Wanted wanted;
    if (receive.stage_begin > 0) {
        receive.stage_end -= receive.stage_begin;
        memmove(receive.stage, receive.stage + receive.stage_begin, receive.stage_end);
        receive.stage_begin = 0;
    }
    const bool all = receive.item_count == 0 || payload_wanted(connection, *budget, wanted);
    wanted.payload_size = wanted.size;
    if (all) {
        wanted.add(receive.stage + receive.stage_end, STAGE_SIZE - receive.stage_end);
    }
    const ssize_t received = wanted_receive(connection.fd, wanted);
    if (received < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            connection_fail(connection, "receiving", errno);
        }
        return false;
    }
    if (received == 0) {
        connection_fail(connection, "receiving", 0);
        return false;
    }
    connection.endpoint->instance->moved = true;
    const uint64_t size = static_cast<uint64_t>(received);
    connection.received_bytes += size;
    const uint64_t payload = std::min(size, wanted.payload_size);
    receive.stage_end += static_cast<uint32_t>(size - payload);
    items_advance(connection, nullptr, payload);
    *budget -= std::min(*budget, size);
    return size == wanted.size;
}

}  // namespace

void connection_receive(Connection &connection) {
    uint64_t budget = RECEIVE_BUDGET;
    bool more = true;
    while (stage_consume(connection) && more && budget > 0) {
        more = bytes_receive(connection, &budget);
    }
}

}  // namespace tent::tcp
