// Completion queues, their channels, and the life of queue pairs of libibverbs_loop. See loop.h.
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "state.h"

namespace loop {

void queue_push(World &w, Qp &qp, const Request &request) {
    Cq &cq = *qp.cq;
    if (cq.entries.size() >= cq.room)
        misuse("a completion queue of %u entries is overrun by queue pair %u", cq.room, qp.number);
    Entry entry;
    memset(&entry.wc, 0xa5, sizeof entry.wc);
    entry.wc.wr_id = request.wr.wr_id;
    entry.wc.status = request.status;
    entry.wc.qp_num = qp.number;
    entry.qp = qp.number;
    entry.sequence = request.sequence;
    if (request.status == IBV_WC_SUCCESS) {
        entry.wc.opcode = request.wr.opcode == IBV_WR_RDMA_READ    ? IBV_WC_RDMA_READ
                          : request.wr.opcode == IBV_WR_RDMA_WRITE ? IBV_WC_RDMA_WRITE
                                                                   : IBV_WC_BIND_MW;
        entry.wc.byte_len = request.sge.length;
        entry.wc.wc_flags = 0;
    }
    cq.entries.push_back(entry);
    (void)w;
    if (!cq.armed || cq.channel == nullptr) return;
    cq.armed = false;
    cq.channel->events.push_back(&cq);
    const uint64_t one = 1;
    if (write(cq.channel->channel.fd, &one, sizeof one) != sizeof one) misuse("a channel is full");
}

int queue_poll(ibv_cq *handle, int room, ibv_wc *entries) {
    Call call("poll_cq");
    World &w = call.w;
    auto *cq = living<Cq>(w, handle, "cq", "poll_cq");
    if (call.error != 0) return -1;
    wire_step(w);
    int count = 0;
    while (count < room && !cq->entries.empty()) {
        const Entry &entry = cq->entries.front();
        entries[count++] = entry.wc;
        const auto qp = w.qps.find(entry.qp);
        if (qp != w.qps.end()) qp->second->reclaimed = entry.sequence + 1;
        cq->entries.pop_front();
    }
    return count;
}

int queue_notify(ibv_cq *handle, int solicited) {
    Call call("req_notify_cq");
    auto *cq = living<Cq>(call.w, handle, "cq", "req_notify_cq");
    if (call.error != 0) return call.error;
    if (solicited != 0) misuse("req_notify_cq: nothing here is solicited");
    if (cq->channel == nullptr) misuse("req_notify_cq: the queue has no channel");
    cq->armed = true;
    wire_step(call.w);
    return 0;
}

namespace {

constexpr int TO_INIT = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
constexpr int TO_RTR = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                       IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
constexpr int TO_RTS = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                       IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;

bool asks(int mask, int needed, int optional) {
    return (mask & needed) == needed && (mask & ~(needed | optional)) == 0;
}

bool is_zero(const uint8_t *gid) {
    return std::all_of(gid, gid + 16, [](uint8_t byte) { return byte == 0; });
}

int to_init(Qp &qp, const ibv_qp_attr &attr, int mask) {
    if (!asks(mask, TO_INIT, IBV_QP_CUR_STATE)) return EINVAL;
    if (attr.port_num != 1 || attr.pkey_index != 0) return EINVAL;
    qp.attr.port_num = 1;
    qp.attr.qp_access_flags = attr.qp_access_flags;
    return 0;
}

int to_rtr(World &w, Qp &qp, const ibv_qp_attr &attr, int mask) {
    if (!asks(mask, TO_RTR, IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX))
        return EINVAL;
    const Device &device = *qp.context->device;
    const ibv_ah_attr &route = attr.ah_attr;
    if (attr.path_mtu < IBV_MTU_256 ||
        static_cast<uint32_t>(attr.path_mtu) > device.limits.active_mtu)
        return EINVAL;
    if (attr.dest_qp_num > NUMBER_MASK || attr.rq_psn > NUMBER_MASK || attr.min_rnr_timer > 31 ||
        attr.max_dest_rd_atomic > device.limits.max_rd_atomic)
        return EINVAL;
    if (route.is_global != 1 || route.port_num != 1 || route.grh.sgid_index >= GIDS ||
        is_zero(device.gids[route.grh.sgid_index]) || is_zero(route.grh.dgid.raw) || route.sl > 7)
        return EINVAL;
    bool reached = false;
    for (const Device &other : w.devices)
        for (const uint8_t *gid : other.gids)
            reached |= memcmp(gid, route.grh.dgid.raw, 16) == 0 && other.present;
    if (!reached) return ETIMEDOUT;  // nobody says where it lives
    const int flags = (mask & IBV_QP_ACCESS_FLAGS) != 0 ? static_cast<int>(attr.qp_access_flags)
                                                        : static_cast<int>(qp.attr.qp_access_flags);
    qp.attr.qp_access_flags = static_cast<unsigned>(flags);
    qp.attr.ah_attr = route;
    qp.attr.path_mtu = attr.path_mtu;
    qp.attr.dest_qp_num = attr.dest_qp_num;
    qp.attr.max_dest_rd_atomic = attr.max_dest_rd_atomic;
    qp.attr.min_rnr_timer = attr.min_rnr_timer;
    qp.attr.rq_psn = qp.rq_psn = attr.rq_psn;
    return 0;
}

int to_rts(Qp &qp, const ibv_qp_attr &attr, int mask) {
    if (!asks(mask, TO_RTS, IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER))
        return EINVAL;
    if (attr.timeout > 31 || attr.retry_cnt > 7 || attr.rnr_retry > 7 ||
        attr.sq_psn > NUMBER_MASK || attr.max_rd_atomic > qp.context->device->limits.max_rd_atomic)
        return EINVAL;
    if ((mask & IBV_QP_ACCESS_FLAGS) != 0) qp.attr.qp_access_flags = attr.qp_access_flags;
    qp.attr.timeout = attr.timeout;
    qp.attr.retry_cnt = attr.retry_cnt;
    qp.attr.rnr_retry = attr.rnr_retry;
    qp.attr.max_rd_atomic = attr.max_rd_atomic;
    qp.attr.sq_psn = qp.sq_psn = attr.sq_psn;
    return 0;
}

int state_change(World &w, Qp &qp, const ibv_qp_attr &attr, int mask) {
    const ibv_qp_state from = qp.attr.qp_state, to = attr.qp_state;
    if ((mask & IBV_QP_STATE) == 0) return EINVAL;
    if ((mask & IBV_QP_CUR_STATE) != 0 && attr.cur_qp_state != from) return EINVAL;
    if (to == IBV_QPS_ERR) {
        if ((mask & ~(IBV_QP_STATE | IBV_QP_CUR_STATE)) != 0) return EINVAL;
        qp_break(qp);
        return 0;
    }
    // The device is there no more: nothing comes to life.
    if (qp.context->gone()) return EIO;
    int error = EINVAL;
    if (from == IBV_QPS_RESET && to == IBV_QPS_INIT) error = to_init(qp, attr, mask);
    if (from == IBV_QPS_INIT && to == IBV_QPS_RTR) error = to_rtr(w, qp, attr, mask);
    if (from == IBV_QPS_RTR && to == IBV_QPS_RTS) error = to_rts(qp, attr, mask);
    if (error == 0) qp.attr.qp_state = qp.qp.state = to;
    return error;
}

}  // namespace

}  // namespace loop

using namespace loop;

ibv_comp_channel *ibv_create_comp_channel(ibv_context *handle) {
    Call call("create_comp_channel");
    auto *context = living<Context>(call.w, handle, "context", "create_comp_channel");
    if (call.error != 0 || context->gone())
        return call.refused<ibv_comp_channel>(call.error != 0 ? call.error : EIO);
    auto *channel = new Channel;
    channel->context = context;
    channel->channel.context = handle;
    channel->channel.fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    context->children++;
    call.w.alive[&channel->channel] = {"channel", channel};
    return &channel->channel;
}

int ibv_destroy_comp_channel(ibv_comp_channel *handle) {
    Call call("destroy_comp_channel");
    auto *channel = living<Channel>(call.w, handle, "channel", "destroy_comp_channel");
    if (call.error != 0) return call.error;
    if (channel->cqs != 0) return EBUSY;
    close(handle->fd);
    channel->context->children--;
    call.w.alive.erase(handle);
    delete channel;
    return 0;
}

ibv_cq *ibv_create_cq(ibv_context *handle, int room, void *cq_context, ibv_comp_channel *channel,
                      int vector) {
    Call call("create_cq");
    auto *context = living<Context>(call.w, handle, "context", "create_cq");
    if (call.error != 0 || context->gone())
        return call.refused<ibv_cq>(call.error != 0 ? call.error : EIO);
    if (room < 1 || static_cast<uint32_t>(room) > context->device->limits.max_cqe || vector != 0)
        return call.refused<ibv_cq>(EINVAL);
    auto *cq = new Cq;
    cq->context = context;
    cq->room = static_cast<uint32_t>(room);
    if (channel != nullptr) {
        cq->channel = living<Channel>(call.w, channel, "channel", "create_cq");
        cq->channel->cqs++;
    }
    cq->cq.context = handle;
    cq->cq.channel = channel;
    cq->cq.cq_context = cq_context;
    cq->cq.cqe = room;
    context->children++;
    call.w.alive[&cq->cq] = {"cq", cq};
    return &cq->cq;
}

int ibv_destroy_cq(ibv_cq *handle) {
    Call call("destroy_cq");
    auto *cq = living<Cq>(call.w, handle, "cq", "destroy_cq");
    if (call.error != 0) return call.error;
    if (cq->qps != 0) return EBUSY;
    if (cq->unacknowledged != 0)
        misuse("destroy_cq: waits for ever for %u events to be acknowledged", cq->unacknowledged);
    if (cq->channel != nullptr) {
        std::erase(cq->channel->events, cq);
        cq->channel->cqs--;
    }
    cq->context->children--;
    call.w.alive.erase(handle);
    delete cq;
    return 0;
}

int ibv_get_cq_event(ibv_comp_channel *handle, ibv_cq **cq, void **cq_context) {
    uint64_t one = 0;
    if (read(handle->fd, &one, sizeof one) != sizeof one) return -1;
    Call call("get_cq_event", false);
    auto *channel = living<Channel>(call.w, handle, "channel", "get_cq_event");
    if (channel->events.empty()) {
        errno = EAGAIN;
        return -1;
    }
    Cq *found = channel->events.front();
    channel->events.pop_front();
    found->unacknowledged++;
    *cq = &found->cq;
    *cq_context = found->cq.cq_context;
    return 0;
}

void ibv_ack_cq_events(ibv_cq *handle, unsigned count) {
    Call call("ack_cq_events", false);
    auto *cq = living<Cq>(call.w, handle, "cq", "ack_cq_events");
    if (count > cq->unacknowledged) misuse("ack_cq_events: more than there were");
    cq->unacknowledged -= count;
}

ibv_qp *ibv_create_qp(ibv_pd *handle, ibv_qp_init_attr *init) {
    Call call("create_qp");
    World &w = call.w;
    auto *pd = living<Pd>(w, handle, "pd", "create_qp");
    auto *cq = living<Cq>(w, init->send_cq, "cq", "create_qp");
    living<Cq>(w, init->recv_cq, "cq", "create_qp");
    const loop_limits &limits = pd->context->device->limits;
    if (call.error != 0 || pd->context->gone())
        return call.refused<ibv_qp>(call.error != 0 ? call.error : EIO);
    uint32_t count = 0;
    for (const auto &[number, other] : w.qps)
        count += other->context->device == pd->context->device;
    if (count >= limits.max_qp) return call.refused<ibv_qp>(ENOMEM);
    if (init->qp_type != IBV_QPT_RC || init->srq != nullptr || init->recv_cq != init->send_cq ||
        init->cap.max_send_wr > limits.max_qp_wr || init->cap.max_recv_wr > limits.max_qp_wr ||
        init->cap.max_inline_data > limits.max_inline || init->cap.max_send_sge > 1 ||
        init->cap.max_recv_sge > 1)
        return call.refused<ibv_qp>(EINVAL);
    auto *qp = new Qp;
    qp->context = pd->context;
    qp->pd = pd;
    qp->cq = cq;
    w.number_next = (w.number_next + 1 + (w.random() & 0xf)) & NUMBER_MASK;
    qp->number = w.number_next;
    qp->cap = init->cap;
    qp->signal_all = init->sq_sig_all != 0;
    qp->attr.qp_state = IBV_QPS_RESET;
    qp->qp.context = handle->context;
    qp->qp.qp_context = init->qp_context;
    qp->qp.pd = handle;
    qp->qp.send_cq = qp->qp.recv_cq = init->send_cq;
    qp->qp.qp_num = qp->number;
    qp->qp.state = IBV_QPS_RESET;
    qp->qp.qp_type = IBV_QPT_RC;
    pd->children++;
    cq->qps++;
    w.qps[qp->number] = qp;
    w.order.push_back(qp->number);
    w.alive[&qp->qp] = {"qp", qp};
    return &qp->qp;
}

int ibv_modify_qp(ibv_qp *handle, ibv_qp_attr *attr, int mask) {
    Call call("modify_qp");
    World &w = call.w;
    living<Qp>(w, handle, "qp", "modify_qp");
    if (call.error != 0) return call.error;
    if ((mask & IBV_QP_STATE) != 0 && attr->qp_state == IBV_QPS_RTR && w.rtr_blocked)
        call.wait_while(w.rtr_blocked, w.rtr_waiting);
    // It must not have been destroyed meanwhile.
    return state_change(w, *living<Qp>(w, handle, "qp", "modify_qp, which had waited,"), *attr,
                        mask);
}

int ibv_query_qp(ibv_qp *handle, ibv_qp_attr *attr, int, ibv_qp_init_attr *init) {
    Call call("query_qp");
    const auto *qp = living<Qp>(call.w, handle, "qp", "query_qp");
    if (call.error != 0) return call.error;
    *attr = qp->attr;
    attr->sq_psn = qp->sq_psn;
    attr->rq_psn = qp->rq_psn;
    attr->cap = qp->cap;
    *init = {};
    init->qp_context = handle->qp_context;
    init->send_cq = init->recv_cq = handle->send_cq;
    init->cap = qp->cap;
    init->qp_type = IBV_QPT_RC;
    return 0;
}

int ibv_destroy_qp(ibv_qp *handle) {
    Call call("destroy_qp");
    World &w = call.w;
    auto *qp = living<Qp>(w, handle, "qp", "destroy_qp");
    if (call.error != 0) return call.error;
    if (qp->unacknowledged != 0)
        misuse("destroy_qp: waits for ever for %u events to be acknowledged", qp->unacknowledged);
    events_forget(*qp->context, handle);
    qp->pd->children--;
    qp->cq->qps--;
    w.qps.erase(qp->number);
    std::erase(w.order, qp->number);
    w.alive.erase(handle);
    delete qp;
    return 0;
}
