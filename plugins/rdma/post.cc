// Slices become work requests.
//
// A slice goes to one queue pair of its endpoint, the one with the least bytes under way, and is
// cut where our registration, the peer's or the port's longest message ends. All that one post()
// gives to a queue pair goes out with one doorbell. What the send queue has no room for waits in
// the queue pair's list. Nothing here allocates.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "mutant.h"
#include "pairs.h"

namespace tent::rdma {
namespace {

constexpr uint64_t MESSAGE_MAX = 1ull << 30;

// Bytes from `at` to the end of its piece; *index: which one it is.
uint64_t piece_left(uint64_t base, uint64_t piece_size, uint64_t length, uint64_t at,
                    uint64_t *index) {
    const uint64_t offset = at - base;
    if (piece_size >= length) {
        *index = 0;
        return length - offset;
    }
    *index = offset / piece_size;
    return std::min((*index + 1) * piece_size, length) - offset;
}

bool lies_in(uint64_t base, uint64_t length, uint64_t at, uint64_t size) {
    return at >= base && size <= length && at - base <= length - size;
}

void say_unreachable(Endpoint &endpoint, const char *why) {
    if (endpoint.said) return;
    endpoint.said = true;
    say(*endpoint.instance, TENT_E_TRANSPORT, "rdma %s: slices do not go over this rail: %s",
        endpoint.rail->device.c_str(), why);
}

// May it be posted? TENT_IN_PROGRESS: not yet, the peer has not told the keys.
int32_t slice_check(Endpoint &endpoint, const tent_slice &slice, RemoteKeys **keys) {
    const auto *remote = static_cast<const RemoteRegion *>(slice.remote_region);
    const auto *local = static_cast<const Region *>(slice.local_region);
    if ((slice.flags & TENT_SLICE_INTEGRITY) != 0) {
        say_unreachable(endpoint,
                        "one-sided accesses have no checksum that both ends could compare; those "
                        "with integrity need another transport behind rdma");
        return TENT_E_NO_PATH;
    }
    if (remote == nullptr || local == nullptr) {
        say_unreachable(endpoint, remote == nullptr
                                      ? "the peer did not register its memory for rdma"
                                      : "the memory here is not registered");
        return TENT_E_NO_PATH;
    }
    if (!mutant(Mutant::rdma_stale) &&
        memcmp(remote->about.instance, endpoint.peer.instance, sizeof endpoint.peer.instance) != 0)
        return TENT_E_STALE;
    *keys = keys_of(endpoint, remote);
    if (*keys == nullptr) return TENT_IN_PROGRESS;
    if ((*keys)->status == TENT_E_TRANSPORT) return TENT_E_NO_PATH;  // not over the peer's rail
    if ((*keys)->status != TENT_OK) return (*keys)->status;
    if (!(*keys)->known) return TENT_IN_PROGRESS;
    const uint32_t needed = slice.op == TENT_OP_WRITE ? TENT_ACCESS_WRITE : TENT_ACCESS_READ;
    if (((*keys)->access & needed) == 0) return TENT_E_DENIED;
    if (!lies_in(remote->about.address, remote->about.length, slice.remote, slice.length))
        return TENT_E_RANGE;
    const Registration *registration = registration_on(*local, *endpoint.rail);
    if (registration == nullptr) {
        const Registration *had = local->on[endpoint.rail->slot].load(std::memory_order_acquire);
        say_unreachable(endpoint, had != nullptr && !had->why.empty()
                                      ? had->why.c_str()
                                      : "memory here is not registered there yet");
        return TENT_E_NO_PATH;
    }
    // The device would refuse it, and its queue pair be lost for all.
    if (registration->read_only && slice.op == TENT_OP_READ) return TENT_E_INVALID;
    const bool inside = lies_in(registration->address, registration->length,
                                reinterpret_cast<uintptr_t>(slice.local), slice.length);
    return inside ? TENT_OK : TENT_E_INVALID;
}

void slice_queue(Endpoint &endpoint, const tent_slice &given, RemoteKeys *keys) {
    Instance &instance = *endpoint.instance;
    const uint32_t index = instance.slice_free;
    Slice &slice = instance.slices[index];
    instance.slice_free = slice.next;
    slice = Slice{};
    slice.id = given.id;
    slice.endpoint = &endpoint;
    slice.op = given.op;
    slice.local = reinterpret_cast<uintptr_t>(given.local);
    slice.remote = given.remote;
    slice.length = given.length;
    slice.local_region = static_cast<Region *>(given.local_region);
    slice.keys = keys;
    endpoint.slices++;
    Qp *best = endpoint.qps[0].get();
    for (const auto &qp : endpoint.qps)
        if (qp->bytes < best->bytes) best = qp.get();
    best->bytes += slice.length;
    if (best->waiting_tail == NONE)
        best->waiting_head = index;
    else
        instance.slices[best->waiting_tail].next = index;
    best->waiting_tail = index;
}

// Writes the next request of the slice. 0: it has no way any more.
uint32_t request_write(const Qp &qp, uint32_t pair, const Slice &slice, ibv_send_wr &wr,
                       ibv_sge &part) {
    const Rail &rail = *qp.endpoint->rail;
    const Registration *local = registration_on(*slice.local_region, rail);
    if (local == nullptr) return 0;
    const Export &about = slice.keys->region->about;
    const uint64_t at = slice.local + slice.posted, to = slice.remote + slice.posted;
    uint64_t ours = 0, theirs = 0;
    const uint64_t message =
        rail.port_attr.max_msg_sz > 0 ? rail.port_attr.max_msg_sz : MESSAGE_MAX;
    const uint64_t length =
        std::min({slice.length - slice.posted, message, MESSAGE_MAX,
                  piece_left(local->address, local->piece_size, local->length, at, &ours),
                  piece_left(about.address, about.piece_size, about.length, to, &theirs)});
    part = {at, static_cast<uint32_t>(length), local->pieces[ours].lkey};
    wr.sg_list = &part;
    wr.num_sge = 1;
    wr.opcode = slice.op == TENT_OP_WRITE ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
    wr.wr.rdma.remote_addr = to;
    wr.wr.rdma.rkey = slice.keys->keys[theirs * qp.endpoint->qps.size() + pair];
    wr.send_flags = 0;
    // The processor copies it: not from a GPU.
    if (slice.op == TENT_OP_WRITE && length <= qp.inline_max &&
        slice.local_region->location.compare(0, 5, "cuda:") != 0)
        wr.send_flags = IBV_SEND_INLINE;
    return part.length;
}

uint32_t pair_index(const Qp &qp) {
    const auto &qps = qp.endpoint->qps;
    uint32_t index = 0;
    while (qps[index].get() != &qp)
        index++;
    return index;
}

// Books the chain's request at `place` as posted.
void request_book(Qp &qp, uint32_t place, const Request &request) {
    ibv_send_wr &wr = qp.endpoint->instance->chain[place];
    wr.wr_id = qp.tag << REQUEST_BITS | (qp.posted & ((1ull << REQUEST_BITS) - 1));
    wr.next = &wr + 1;
    request_at(qp, qp.posted) = request;
    if (request.signalled) wr.send_flags |= IBV_SEND_SIGNALED;
    qp.posted++;
    qp.endpoint->rail->in_flight++;
    if (request.signalled) qp.signalled = qp.posted;
}

// Without `refused` any of the chain may be in the send queue, where the device could find it
// still: that all counts as taken, and ends when the queue pair gives it back or is destroyed.
int chain_ring(const Qp &qp, uint32_t count, uint32_t *taken) {
    ibv_send_wr *const chain = qp.endpoint->instance->chain.data();
    chain[count - 1].next = nullptr;
    ibv_send_wr *refused = nullptr;
    errno = 0;
    const int error = ibv_post_send(qp.qp, chain, &refused);
    *taken = refused == nullptr ? count : std::min(static_cast<uint32_t>(refused - chain), count);
    return error >= 0 ? error : errno != 0 ? errno : EIO;
}

// The last requests that were taken have no completion of their own to come, but where they are
// flushed. In a queue pair in error one more is flushed behind them, and says how they ended.
void tail_show(Qp &qp) {
    if (qp.done == qp.posted || request_at(qp, qp.posted - 1).signalled) return;
    Request request;
    request.kind = SETTLE;
    request.settles = qp.endpoint->writes;
    request.signalled = true;
    ibv_send_wr &wr = qp.endpoint->instance->chain[0];
    wr = {};
    wr.opcode = IBV_WR_RDMA_READ;
    request_book(qp, 0, request);
    uint32_t taken = 0;
    if (chain_ring(qp, 1, &taken) == 0 || taken == 1) return;
    // Then they come back when the queue pair is destroyed.
    qp.posted--;
    qp.endpoint->rail->in_flight--;
}

// The library took the chain's first `taken` of `count` requests only: the others never were.
void chain_refused(Qp &qp, uint32_t taken, uint32_t count, int error) {
    Endpoint &endpoint = *qp.endpoint;
    Instance &instance = *endpoint.instance;
    const uint64_t first = qp.posted - count + taken, end = qp.posted;
    qp.posted = first;
    endpoint.rail->in_flight -= count - taken;
    for (uint64_t i = first; i < end; i++) {
        const Request request = request_at(qp, i);
        qp.bytes -= request.length;
        if (request.kind != MOVE) continue;
        Slice &slice = instance.slices[request.slice];
        slice.requests_left--;
        if (slice.status == TENT_OK) slice.status = TENT_E_TRANSPORT;
        // One that is not wholly posted is in the list still, and ends with it.
        slice_try_end(instance, request.slice);
    }
    if (error == EIO || error == ENODEV) device_suspect(*endpoint.rail);
    endpoint_fail(endpoint, TENT_E_TRANSPORT, "queue pair %u takes no requests: %s", qp.qp->qp_num,
                  strerrordesc_np(error));
    tail_show(qp);
}

// Rings the doorbell for the first `count` of the chain.
void chain_post(Qp &qp, uint32_t count) {
    uint32_t taken = 0;
    const int error = chain_ring(qp, count, &taken);
    if (error != 0) chain_refused(qp, taken, count, error);
}

}  // namespace

void pump(Qp &qp) {
    Instance &instance = *qp.endpoint->instance;
    const Options &options = instance.options;
    const uint32_t room = pair_room(qp), pair = pair_index(qp);
    uint32_t count = 0;
    while (qp.waiting_head != NONE && count < room) {
        const uint32_t index = qp.waiting_head;
        Slice &slice = instance.slices[index];
        const uint32_t length =
            request_write(qp, pair, slice, instance.chain[count], instance.chain_parts[count]);
        if (length == 0) {
            slice.status = TENT_E_TRANSPORT;
            qp.bytes -= slice.length - slice.posted;
            slice.posted = slice.length;
        } else {
            slice.posted += length;
            slice.requests_left++;
        }
        const bool whole = slice.posted == slice.length;
        if (whole) {
            qp.waiting_head = slice.next;
            if (qp.waiting_head == NONE) qp.waiting_tail = NONE;
        }
        if (length == 0) {
            slice_try_end(instance, index);
            continue;
        }
        Request request;
        request.slice = index;
        request.kind = MOVE;
        request.length = length;
        // The last of a chain always: nothing waits for a completion that no one asked for.
        const bool last =
            (count + 1 == room || qp.waiting_head == NONE) && !mutant(Mutant::rdma_signal_last);
        request.signalled = (whole && slice.length >= options.signal_min) || last ||
                            qp.posted + 1 - qp.signalled >= options.signal_interval;
        request_book(qp, count++, request);
    }
    if (count == 0) return;
    if (!request_at(qp, qp.posted - 1).signalled && !mutant(Mutant::rdma_signal_last)) {
        // What should have been last had no way.
        request_at(qp, qp.posted - 1).signalled = true;
        instance.chain[count - 1].send_flags |= IBV_SEND_SIGNALED;
        qp.signalled = qp.posted;
    }
    chain_post(qp, count);
}

bool request_post(Qp &qp, const Request &request, ibv_send_wr &wr) {
    if (pair_room(qp) == 0) return false;
    qp.endpoint->instance->chain[0] = wr;
    Request booked = request;
    booked.signalled = true;
    request_book(qp, 0, booked);
    const uint64_t posted = qp.posted;
    chain_post(qp, 1);
    return qp.posted == posted;
}

bool bind_post(Qp &qp, GivenKeys &given, Window &window, const Piece &piece, uint64_t address,
               uint64_t length, uint32_t access) {
    if (mutant(Mutant::rdma_window_access)) access = TENT_ACCESS_READ | TENT_ACCESS_WRITE;
    Request request;
    request.kind = BIND;
    request.given = &given;
    ibv_send_wr wr{};
    wr.opcode = IBV_WR_BIND_MW;
    wr.bind_mw.mw = window.mw;
    wr.bind_mw.rkey = ibv_inc_rkey(window.mw->rkey);
    wr.bind_mw.bind_info.mr = piece.mr;
    wr.bind_mw.bind_info.addr = address;
    wr.bind_mw.bind_info.length = length;
    wr.bind_mw.bind_info.mw_access_flags =
        ((access & TENT_ACCESS_READ) != 0 ? uint32_t{IBV_ACCESS_REMOTE_READ} : 0) |
        ((access & TENT_ACCESS_WRITE) != 0 ? uint32_t{IBV_ACCESS_REMOTE_WRITE} : 0);
    if (!request_post(qp, request, wr)) return false;
    window.rkey = wr.bind_mw.rkey;
    return true;
}

uint32_t post(void *opaque, void *handle, const tent_slice *slices, uint32_t count) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    if (endpoint.state != EndpointState::READY) return 0;
    uint32_t taken = 0;
    for (; taken < count && instance.slice_free != NONE; taken++) {
        RemoteKeys *keys = nullptr;
        const int32_t status = slice_check(endpoint, slices[taken], &keys);
        if (status == TENT_IN_PROGRESS) break;
        if (status == TENT_OK)
            slice_queue(endpoint, slices[taken], keys);
        else
            result_push(instance, slices[taken].id, status);
    }
    for (const auto &qp : endpoint.qps)
        if (qp->waiting_head != NONE) pump(*qp);
    return taken;
}

}  // namespace tent::rdma
