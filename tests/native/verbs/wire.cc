// How requests of libibverbs_loop are posted, travel and do their work. See loop.h.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace loop {

namespace {

int posted_well(const Qp &qp, const ibv_send_wr &wr) {
    const ibv_qp_state state = qp.attr.qp_state;
    if (state != IBV_QPS_RTS && state != IBV_QPS_ERR) return EINVAL;
    if (qp.posted - qp.reclaimed >= qp.cap.max_send_wr) return ENOMEM;
    constexpr unsigned FLAGS =
        IBV_SEND_FENCE | IBV_SEND_SIGNALED | IBV_SEND_INLINE | IBV_SEND_SOLICITED;
    if ((wr.send_flags & ~FLAGS) != 0) return EINVAL;
    const bool inlined = (wr.send_flags & IBV_SEND_INLINE) != 0;
    switch (wr.opcode) {
        case IBV_WR_BIND_MW: return inlined || wr.num_sge != 0 ? EINVAL : 0;
        case IBV_WR_RDMA_READ:
            if (inlined) return EINVAL;
            break;
        case IBV_WR_RDMA_WRITE:
            if (inlined && wr.num_sge == 1 && wr.sg_list->length > qp.cap.max_inline_data)
                return EINVAL;
            break;
        default: return EINVAL;
    }
    return wr.num_sge < 0 || wr.num_sge > static_cast<int>(qp.cap.max_send_sge) ? EINVAL : 0;
}

void accept(Qp &qp, const ibv_send_wr &wr) {
    Request request;
    request.wr = wr;
    request.wr.next = nullptr;
    request.wr.sg_list = nullptr;
    if (wr.opcode != IBV_WR_BIND_MW && wr.num_sge == 1) request.sge = wr.sg_list[0];
    if ((wr.send_flags & IBV_SEND_INLINE) != 0) {
        const auto *from = reinterpret_cast<const uint8_t *>(request.sge.addr);
        request.inlined.assign(from, from + request.sge.length);
    }
    request.sequence = qp.posted++;
    qp.requests.push_back(std::move(request));
}

}  // namespace

int send_post(ibv_qp *handle, ibv_send_wr *wr, ibv_send_wr **bad) {
    Call call("post_send");
    auto *qp = living<Qp>(call.w, handle, "qp", "post_send");
    ibv_send_wr *const untouched = *bad;
    *bad = wr;
    if (call.error != 0) return call.error;
    for (; wr != nullptr; wr = wr->next) {
        *bad = wr;
        int error = qp->context->gone() ? EIO : posted_well(*qp, *wr);
        if (error == 0) error = call.strike("request");
        if (error != 0) {
            wire_step(call.w);  // those before it do not wait for the caller to hear of it
            return error;
        }
        accept(*qp, *wr);
    }
    // All stand in the send queue then, and go out with whatever comes next.
    const int error = call.strike("doorbell");
    if (error != 0) *bad = untouched;
    return error;
}

void qp_break(Qp &qp) {
    qp.attr.qp_state = qp.qp.state = IBV_QPS_ERR;
}

namespace {

Qp *find(const World &w, uint32_t number) {
    const auto found = w.qps.find(number);
    return found != w.qps.end() ? found->second : nullptr;
}

Request *find(Qp &qp, uint64_t sequence) {
    for (Request &request : qp.requests)
        if (request.sequence == sequence) return &request;
    return nullptr;
}

const uint8_t *own_gid(const Qp &qp) {
    return qp.context->device->gids[qp.attr.ah_attr.grh.sgid_index];
}

bool carries(const Qp &qp) {
    return !qp.context->gone() && qp.context->device->port_up;
}

void complete(Request &request, ibv_wc_status status) {
    request.done = true;
    request.status = status;
}

// Completions in the order of posting; after the first that failed all others are flushed.
void retire(World &w, Qp &qp) {
    while (!qp.requests.empty() && qp.requests.front().done) {
        const Request &request = qp.requests.front();
        const bool failed = request.status != IBV_WC_SUCCESS;
        const bool told = failed || qp.signal_all || (request.wr.send_flags & IBV_SEND_SIGNALED);
        if (told) queue_push(w, qp, request);
        qp.requests.pop_front();
        if (failed) qp_break(qp);
    }
}

void flush(World &w, Qp &qp) {
    if (qp.attr.qp_state != IBV_QPS_ERR || qp.context->device->limits.flush_held ||
        qp.context->gone())
        return;
    retire(w, qp);
    for (Request &request : qp.requests)
        if (!request.done) complete(request, IBV_WC_WR_FLUSH_ERR);
    retire(w, qp);
}

// ---- the target ---------------------------------------------------------------------------------

enum class Fate { DONE, LOST, NO_ACCESS, INVALID };

Fate arrive(World &w, const Packet &packet, std::vector<uint8_t> *answer) {
    Qp *qp = find(w, packet.to);
    if (qp == nullptr || !carries(*qp)) return Fate::LOST;
    const ibv_qp_state state = qp->attr.qp_state;
    if (state != IBV_QPS_RTR && state != IBV_QPS_RTS) return Fate::LOST;
    // Strangers, and those of an earlier life of the same number.
    if (qp->attr.dest_qp_num != packet.from || memcmp(own_gid(*qp), packet.to_gid, 16) != 0 ||
        memcmp(qp->attr.ah_attr.grh.dgid.raw, packet.from_gid, 16) != 0 || qp->rq_psn != packet.psn)
        return Fate::LOST;
    if (packet.mtu != qp->attr.path_mtu) return Fate::INVALID;
    const bool reads = packet.opcode == IBV_WR_RDMA_READ;
    if (reads &&
        (qp->attr.max_dest_rd_atomic == 0 || packet.rd_atomic > qp->attr.max_dest_rd_atomic))
        return Fate::INVALID;
    const unsigned access = reads ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE;
    if (packet.length > 0 &&
        !remote_key(w, *qp, packet.rkey, packet.remote, packet.length, access)) {
        w.refused++;
        qp_break(*qp);
        ibv_async_event event{};
        event.element.qp = &qp->qp;
        event.event_type = IBV_EVENT_QP_ACCESS_ERR;
        event_push(*qp->context, event);
        return Fate::NO_ACCESS;
    }
    auto *memory = reinterpret_cast<uint8_t *>(packet.remote);
    if (reads)
        answer->assign(memory, memory + packet.length);
    else if (packet.length > 0)
        memcpy(memory, packet.data.data(), packet.length);
    qp->rq_psn = (qp->rq_psn + packet.packets) & NUMBER_MASK;
    w.landed++;
    return Fate::DONE;
}

// Back at the sender, which may be gone.
void acknowledge(World &w, const Packet &packet, Fate fate, const std::vector<uint8_t> &answer) {
    Qp *qp = find(w, packet.from);
    if (qp == nullptr || qp->attr.qp_state != IBV_QPS_RTS || !carries(*qp)) return;
    Request *request = find(*qp, packet.sequence);
    if (request == nullptr || !request->sent) return;
    switch (fate) {
        case Fate::DONE:
            if (packet.opcode == IBV_WR_RDMA_READ && packet.length > 0) {
                if (local_key(w, *qp, request->sge, IBV_ACCESS_LOCAL_WRITE) == nullptr) {
                    complete(*request, IBV_WC_LOC_PROT_ERR);
                    break;
                }
                memcpy(reinterpret_cast<void *>(request->sge.addr), answer.data(), answer.size());
            }
            request->arrived = true;
            if (w.mode_of(*qp) != LOOP_HOLD_ACK) complete(*request, IBV_WC_SUCCESS);
            break;
        case Fate::NO_ACCESS: complete(*request, IBV_WC_REM_ACCESS_ERR); break;
        case Fate::INVALID: complete(*request, IBV_WC_REM_INV_REQ_ERR); break;
        case Fate::LOST:
            // This one and all behind it go out again.
            if (request->psn != packet.psn) break;
            qp->sq_psn = request->psn;
            for (Request &later : qp->requests)
                if (later.sequence >= request->sequence && !later.done) later.sent = false;
            break;
    }
    retire(w, *qp);
}

// ---- the sender ---------------------------------------------------------------------------------

// nullptr: not one that leaves; it is complete, or has to wait for those before it to fail.
bool leaves(World &w, Qp &qp, Request &request, Packet *packet) {
    const uint64_t length = request.sge.length;
    ibv_wc_status trouble = IBV_WC_SUCCESS;
    const bool reads = request.wr.opcode == IBV_WR_RDMA_READ;
    const bool inlined = (request.wr.send_flags & IBV_SEND_INLINE) != 0;
    if (length > qp.context->device->limits.max_msg_sz)
        trouble = IBV_WC_LOC_LEN_ERR;
    else if (reads && qp.attr.max_rd_atomic == 0)
        trouble = IBV_WC_LOC_QP_OP_ERR;
    else if (!inlined && length > 0 &&
             local_key(w, qp, request.sge, reads ? unsigned{IBV_ACCESS_LOCAL_WRITE} : 0u) ==
                 nullptr)
        trouble = IBV_WC_LOC_PROT_ERR;
    if (trouble != IBV_WC_SUCCESS) {
        if (&request == &qp.requests.front()) complete(request, trouble);
        return false;
    }
    packet->device = qp.context->device;
    packet->from = qp.number;
    packet->to = qp.attr.dest_qp_num;
    memcpy(packet->from_gid, own_gid(qp), 16);
    memcpy(packet->to_gid, qp.attr.ah_attr.grh.dgid.raw, 16);
    packet->mtu = static_cast<uint8_t>(qp.attr.path_mtu);
    packet->rd_atomic = qp.attr.max_rd_atomic;
    const uint32_t mtu = 128u << packet->mtu;
    packet->psn = request.psn = qp.sq_psn;
    packet->packets = std::max<uint32_t>(1, static_cast<uint32_t>((length + mtu - 1) / mtu));
    packet->sequence = request.sequence;
    packet->opcode = request.wr.opcode;
    packet->remote = request.wr.wr.rdma.remote_addr;
    packet->rkey = request.wr.wr.rdma.rkey;
    packet->length = length;
    if (!reads && inlined) {
        packet->data = request.inlined;
    } else if (!reads) {
        const auto *from = reinterpret_cast<const uint8_t *>(request.sge.addr);
        packet->data.assign(from, from + length);
    }
    qp.sq_psn = (qp.sq_psn + packet->packets) & NUMBER_MASK;
    request.sent = true;
    return true;
}

bool in_network(const World &w, uint32_t number) {
    return std::any_of(w.network.begin(), w.network.end(),
                       [&](const Packet &packet) { return packet.from == number; });
}

// The next request that has not left. False: no more for now.
bool send_one(World &w, Qp &qp) {
    if (qp.attr.qp_state != IBV_QPS_RTS || !carries(qp)) return false;
    const auto next = std::find_if(qp.requests.begin(), qp.requests.end(),
                                   [](const Request &one) { return !one.sent && !one.done; });
    if (next == qp.requests.end()) return false;
    if (next->wr.opcode == IBV_WR_BIND_MW) {
        const bool bound = window_bind(w, qp, next->wr);
        if (!bound && next != qp.requests.begin()) return false;
        complete(*next, bound ? IBV_WC_SUCCESS : IBV_WC_MW_BIND_ERR);
        retire(w, qp);
        return qp.attr.qp_state == IBV_QPS_RTS;
    }
    if (w.mode_of(qp) == LOOP_DROP) return false;
    Packet packet;
    if (!leaves(w, qp, *next, &packet)) {
        retire(w, qp);
        return false;
    }
    if (w.mode_of(qp) == LOOP_HOLD || in_network(w, qp.number)) {
        w.network.push_back(std::move(packet));
        return true;
    }
    std::vector<uint8_t> answer;
    const Fate fate = arrive(w, packet, &answer);
    acknowledge(w, packet, fate, answer);
    return fate == Fate::DONE;
}

// Those under way whose sender's device does not hold them any more.
void network_step(World &w) {
    std::deque<Packet> held;
    while (!w.network.empty()) {
        const Packet packet = std::move(w.network.front());
        w.network.pop_front();
        const loop_mode mode = w.mode_of(packet.from, *packet.device);
        if (mode == LOOP_HOLD) {
            held.push_back(packet);
            continue;
        }
        std::vector<uint8_t> answer;
        const Fate fate = mode == LOOP_DROP ? Fate::LOST : arrive(w, packet, &answer);
        acknowledge(w, packet, fate, answer);
    }
    w.network = std::move(held);
}

}  // namespace

void wire_step(World &w) {
    network_step(w);
    for (const uint32_t number : w.order) {
        Qp &qp = *w.qps[number];
        for (Request &request : qp.requests)
            if (request.arrived && !request.done && w.mode_of(qp) != LOOP_HOLD_ACK)
                complete(request, IBV_WC_SUCCESS);
        if (qp.attr.qp_state == IBV_QPS_RTS) retire(w, qp);
        while (send_one(w, qp)) {
        }
        flush(w, qp);
    }
}

}  // namespace loop
