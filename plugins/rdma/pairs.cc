// Queue pairs made, moved and destroyed. See pairs.h.
//
// The way to RTS blocks: for RoCE the kernel resolves the peer's address, for a second when nobody
// answers. It is an errand's, which touches its Ascent and the library and nothing else.
#include "pairs.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>

#include "mutant.h"

namespace tent::rdma {

struct Ascent {
    struct Rung {
        ibv_qp *qp;
        ibv_qp_attr to_receive, to_send;
    };
    const Verbs *verbs = nullptr;
    int wake_fd = -1;
    std::vector<Rung> rungs;
    // The errand's until `done`.
    uint32_t number = 0;
    const char *step = "";
    int error = 0;
    std::atomic<bool> done{false};
};

namespace {

constexpr uint32_t TARGET_DEPTH = 32;  // a target posts binds alone
constexpr uint32_t NUMBER_MAX = (1u << 24) - 1;

uint8_t mtu_of(const Rail &rail) {
    if (rail.options.mtu == 0) return static_cast<uint8_t>(rail.port_attr.active_mtu);
    // 256 bytes are 1, and each next one is twice as much.
    return static_cast<uint8_t>(std::bit_width(rail.options.mtu / 256));
}

uint8_t served_of(const Rail &rail) {
    const int device = std::max(rail.limits.max_qp_rd_atom, 1);
    return static_cast<uint8_t>(
        std::min({rail.instance->options.rd_atomic, static_cast<uint32_t>(device), 255u}));
}

uint8_t asked_of(const Rail &rail, const Offer &peer) {
    const int device = std::max(rail.limits.max_qp_init_rd_atom, 1);
    return static_cast<uint8_t>(
        std::min({rail.instance->options.rd_atomic, static_cast<uint32_t>(device),
                  static_cast<uint32_t>(peer.rd_atomic)}));
}

// A queue pair claims an entry of the completion queue for each request, for all may be flushed.
// One endpoint takes no more than a quarter of what is left.
uint32_t depth_for(const Rail &rail, uint32_t count, bool initiator) {
    const uint32_t wanted = initiator ? rail.instance->options.send_depth : TARGET_DEPTH;
    const auto device = static_cast<uint32_t>(std::max(rail.limits.max_qp_wr, 1));
    if (mutant(Mutant::rdma_cq_room)) return std::min(wanted, device);
    return std::min({wanted, device, DEPTH_MAX, rail.cq_free / (4 * count)});
}

std::string make_why(const Rail &rail, int error) {
    std::string remedy;
    if (error == ENOMEM)
        remedy = format(
            ": the device has %d queue pairs in all, or the memory that may be locked "
            "is used up (ulimit -l)",
            rail.limits.max_qp);
    else if (error == EINVAL)
        remedy = ": the device refuses its size; try a smaller rdma.send_depth or rdma.inline_max";
    return format("rdma %s: no queue pair: %s%s", rail.device.c_str(), strerrordesc_np(error),
                  remedy.c_str());
}

ibv_qp_attr move_to(ibv_qp_state state) {
    return {.qp_state = state, .path_mtu = IBV_MTU_256};
}

ibv_qp *pair_create(Rail &rail, Qp &made) {
    ibv_qp_init_attr attributes{.qp_type = IBV_QPT_RC};
    attributes.qp_context = &made;
    attributes.send_cq = rail.cq;
    attributes.recv_cq = rail.cq;
    attributes.cap.max_send_wr = made.depth;
    attributes.cap.max_send_sge = 1;
    attributes.cap.max_recv_wr = 1;
    attributes.cap.max_recv_sge = 1;
    attributes.cap.max_inline_data = made.endpoint->initiator ? made.inline_max : 0;
    ibv_qp *qp = rail.instance->verbs->create_qp(rail.pd, &attributes);
    if (qp == nullptr && attributes.cap.max_inline_data > 0) {
        // Devices differ in how much goes inline, and none says so before.
        made.inline_max = 0;
        attributes.cap = {made.depth, 1, 1, 1, 0};
        qp = rail.instance->verbs->create_qp(rail.pd, &attributes);
    }
    return qp;
}

int pair_initialise(const Rail &rail, Qp &made) {
    ibv_qp_attr attributes = move_to(IBV_QPS_INIT);
    attributes.pkey_index = static_cast<uint16_t>(rail.options.pkey_index);
    attributes.port_num = rail.port;
    // A peer that we write to has no business in our memory.
    attributes.qp_access_flags =
        made.endpoint->initiator ? 0u : IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
    return rail.instance->verbs->modify_qp(
        made.qp, &attributes, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

void slot_take(Instance &instance, Qp &qp) {
    if (instance.qp_free.empty()) {
        instance.qp_free.push_back(static_cast<uint32_t>(instance.qps.size()));
        instance.qps.push_back(nullptr);
    }
    qp.slot = instance.qp_free.back();
    instance.qp_free.pop_back();
    instance.qps[qp.slot] = &qp;
    const uint64_t generation = ++instance.qp_generation & ((1u << GENERATION_BITS) - 1);
    qp.tag = generation << SLOT_BITS | qp.slot;
}

int32_t pair_make(Endpoint &endpoint, uint32_t depth, std::string *why) {
    Rail &rail = *endpoint.rail;
    Instance &instance = *endpoint.instance;
    auto made = std::make_unique<Qp>();
    made->endpoint = &endpoint;
    made->depth = depth;
    made->inline_max = instance.options.inline_max;
    made->psn = static_cast<uint32_t>(instance.host->random_u64(instance.host->ctx)) & NUMBER_MAX;
    if (mutant(Mutant::rdma_psn)) made->psn = 1;
    made->requests.resize(std::bit_ceil(depth));
    errno = 0;
    made->qp = pair_create(rail, *made);
    int error = made->qp != nullptr ? pair_initialise(rail, *made) : errno != 0 ? errno : ENOMEM;
    if (error != 0) {
        error = error > 0 ? error : errno;
        *why = make_why(rail, error);
        if (made->qp != nullptr) instance.verbs->destroy_qp(made->qp);
        if (error == EIO || error == ENODEV) device_suspect(rail);
        return TENT_E_TRANSPORT;
    }
    rail.cq_free -= depth;
    slot_take(instance, *made);
    endpoint.qps.push_back(std::move(made));
    return TENT_OK;
}

bool pair_destroy(Qp &qp, int32_t status) {
    Rail &rail = *qp.endpoint->rail;
    Instance &instance = *rail.instance;
    if (qp.qp == nullptr) return true;
    waiting_abandon(qp, status);
    const int error = instance.verbs->destroy_qp(qp.qp);
    // A device that is gone has let go by that; any other would still take what arrives.
    if (error != 0 && error != EIO && error != ENODEV) return false;
    qp.qp = nullptr;
    if (error != 0) device_suspect(rail);
    // Some libraries leave its completions in the queue: the entries are free when they are out.
    if (qp.done < qp.posted) completions_take(rail);
    requests_abandon(qp, status);
    rail.cq_free += qp.depth;
    instance.qps[qp.slot] = nullptr;
    instance.qp_free.push_back(qp.slot);
    return true;
}

// Runs on a thread of the engine's.
void climb(void *argument) {
    auto &ascent = *static_cast<Ascent *>(argument);
    constexpr int TO_RECEIVE = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                               IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
    constexpr int TO_SEND = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                            IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;
    for (Ascent::Rung &rung : ascent.rungs) {
        ascent.number = rung.qp->qp_num;
        ascent.step = "to receive (RTR)";
        ascent.error = ascent.verbs->modify_qp(rung.qp, &rung.to_receive, TO_RECEIVE);
        if (ascent.error != 0) break;
        ascent.step = "to send (RTS)";
        ascent.error = ascent.verbs->modify_qp(rung.qp, &rung.to_send, TO_SEND);
        if (ascent.error != 0) break;
    }
    if (ascent.error < 0) ascent.error = errno;
    const int wake_fd = ascent.wake_fd;
    // Release: pairs with ascent_take. After it the driver may free it.
    ascent.done.store(true, std::memory_order_release);
    const uint64_t one = 1;
    // It fails only when the counter is full, and then wakes all the same.
    [[maybe_unused]] const ssize_t written = write(wake_fd, &one, sizeof one);
}

void path_write(const Rail &rail, const Offer &peer, ibv_ah_attr *path) {
    path->port_num = rail.port;
    path->sl = static_cast<uint8_t>(rail.options.service_level);
    path->dlid = peer.lid;
    // Within a subnet of InfiniBand packets find their way by LID.
    path->is_global = rail.link != Link::INFINIBAND || memcmp(peer.gid, rail.gid, 8) != 0;
    memcpy(path->grh.dgid.raw, peer.gid, sizeof path->grh.dgid.raw);
    path->grh.sgid_index = rail.gid_index;
    path->grh.hop_limit = static_cast<uint8_t>(rail.options.hop_limit);
    path->grh.traffic_class = static_cast<uint8_t>(rail.options.traffic_class);
}

Ascent::Rung rung_of(const Endpoint &endpoint, const Qp &qp, const QpAddress &peer) {
    const Rail &rail = *endpoint.rail;
    const Options &options = endpoint.instance->options;
    Ascent::Rung rung{qp.qp, move_to(IBV_QPS_RTR), move_to(IBV_QPS_RTS)};
    ibv_qp_attr &receive = rung.to_receive, &send = rung.to_send;
    receive.path_mtu = static_cast<ibv_mtu>(std::min(mtu_of(rail), endpoint.peer.mtu));
    receive.dest_qp_num = peer.number;
    receive.rq_psn = peer.psn;
    receive.max_dest_rd_atomic = served_of(rail);
    receive.min_rnr_timer = static_cast<uint8_t>(options.min_rnr_timer);
    path_write(rail, endpoint.peer, &receive.ah_attr);
    send.timeout = static_cast<uint8_t>(options.ack_timeout);
    send.retry_cnt = static_cast<uint8_t>(options.retry_count);
    send.rnr_retry = static_cast<uint8_t>(options.rnr_retry);
    send.sq_psn = qp.psn;
    send.max_rd_atomic = asked_of(rail, endpoint.peer);
    return rung;
}

std::string gid_text(const uint8_t *gid) {
    std::string text;
    for (int i = 0; i < 16; i += 2)
        text += format(i == 0 ? "%x" : ":%x", gid[i] << 8 | gid[i + 1]);
    return text;
}

const char *climb_remedy(int error) {
    switch (error) {
        case ENETUNREACH: return ": there is no route to that address; look at 'ip route get'";
        case EHOSTUNREACH:
        case ETIMEDOUT:
            return ": nobody answered for that address (no neighbour); look at 'ip neigh', the "
                   "link "
                   "and the VLAN of both ports";
        case EINVAL:
            return ": the device refuses the attributes; look at the rail's gid= and mtu= and at "
                   "rdma.ack_timeout, rdma.rd_atomic";
        case EIO:
        case ENODEV: return ": the device has gone";
        default: return "";
    }
}

}  // namespace

int32_t pairs_make(Endpoint &endpoint, uint32_t count, std::string *why) {
    Rail &rail = *endpoint.rail;
    Instance &instance = *endpoint.instance;
    count = std::clamp(count, 1u, QPS_MAX);
    if (rail.cq == nullptr) {
        *why = format("rdma %s: the device is gone", rail.device.c_str());
        return TENT_E_TRANSPORT;
    }
    const uint32_t depth = depth_for(rail, count, endpoint.initiator);
    if (depth == 0 || instance.qps.size() - instance.qp_free.size() + count > 1u << SLOT_BITS) {
        *why = format(
            "rdma %s: its completion queue has no entries left for more queue pairs; use "
            "fewer peers, fewer queue_pairs or a smaller rdma.send_depth",
            rail.device.c_str());
        return TENT_E_AGAIN;
    }
    if (instance.chain.size() < depth) {
        instance.chain.resize(depth);
        instance.chain_parts.resize(depth);
    }
    endpoint.qps.reserve(count);
    int32_t status = TENT_OK;
    while (status == TENT_OK && endpoint.qps.size() < count)
        status = pair_make(endpoint, depth, why);
    if (status != TENT_OK) pairs_destroy(endpoint, status);
    return status;
}

void pairs_error(Endpoint &endpoint) {
    if (endpoint.ascent != nullptr) return;  // nothing was posted; they go when the errand is done
    for (const auto &qp : endpoint.qps) {
        if (qp->qp == nullptr || qp->failed) continue;
        qp->failed = true;
        ibv_qp_attr attributes = move_to(IBV_QPS_ERR);
        if (endpoint.instance->verbs->modify_qp(qp->qp, &attributes, IBV_QP_STATE) != 0)
            device_suspect(*endpoint.rail);
    }
}

bool pairs_destroy(Endpoint &endpoint, int32_t status) {
    bool gone = true;
    for (const auto &qp : endpoint.qps)
        gone &= pair_destroy(*qp, status);
    return gone;
}

void pairs_trim(Endpoint &endpoint, uint32_t count) {
    while (endpoint.qps.size() > count && pair_destroy(*endpoint.qps.back(), TENT_E_CANCELLED))
        endpoint.qps.pop_back();
}

bool pairs_quiet(const Endpoint &endpoint) {
    return std::all_of(endpoint.qps.begin(), endpoint.qps.end(), [](const auto &qp) {
        return qp->done == qp->posted && qp->waiting_head == NONE;
    });
}

void ascent_begin(Endpoint &endpoint) {
    const tent_host *host = endpoint.instance->host;
    auto ascent = std::make_unique<Ascent>();
    ascent->verbs = endpoint.instance->verbs;
    ascent->wake_fd = endpoint.instance->wake_fd;
    for (size_t i = 0; i < endpoint.qps.size(); i++)
        ascent->rungs.push_back(rung_of(endpoint, *endpoint.qps[i], endpoint.peer.qps[i]));
    endpoint.ascent = ascent.release();
    host->errand(host->ctx, climb, endpoint.ascent);
}

int32_t ascent_take(Endpoint &endpoint, std::string *why) {
    // Acquire: pairs with the errand's release; what it wrote can be seen.
    if (!endpoint.ascent->done.load(std::memory_order_acquire)) return TENT_IN_PROGRESS;
    const std::unique_ptr<Ascent> ascent(endpoint.ascent);
    endpoint.ascent = nullptr;
    if (ascent->error == 0) return TENT_OK;
    const Rail &rail = *endpoint.rail;
    *why = format("queue pair %u of %s could not be made ready %s, from %s to %s: %s%s",
                  ascent->number, rail.device.c_str(), ascent->step, gid_text(rail.gid).c_str(),
                  gid_text(endpoint.peer.gid).c_str(), strerrordesc_np(ascent->error),
                  climb_remedy(ascent->error));
    if (ascent->error == EIO || ascent->error == ENODEV) device_suspect(*endpoint.rail);
    return TENT_E_TRANSPORT;
}

void offer_write(const Endpoint &endpoint, Offer *offer) {
    const Rail &rail = *endpoint.rail;
    *offer = Offer{};
    offer->magic = OFFER_MAGIC;
    offer->version = PROTOCOL_VERSION;
    offer->qp_count = static_cast<uint16_t>(endpoint.qps.size());
    memcpy(offer->gid, rail.gid, sizeof offer->gid);
    offer->lid = rail.port_attr.lid;
    offer->link = rail.link;
    offer->mtu = mtu_of(rail);
    offer->rd_atomic = served_of(rail);
    memcpy(offer->instance, endpoint.instance->id, sizeof offer->instance);
    for (size_t i = 0; i < endpoint.qps.size(); i++)
        offer->qps[i] = {endpoint.qps[i]->qp->qp_num, endpoint.qps[i]->psn};
}

bool offer_read(const void *blob, uint32_t size, Offer *offer, std::string *why) {
    *offer = Offer{};
    if (blob == nullptr || size != sizeof *offer) {
        *why = format("rdma: the peer's words about itself have %u bytes, expected %zu", size,
                      sizeof *offer);
        return false;
    }
    memcpy(offer, blob, sizeof *offer);
    if (offer->magic != OFFER_MAGIC || offer->version != PROTOCOL_VERSION) {
        *why = "rdma: the peer speaks another version; run equal versions";
        return false;
    }
    bool good = offer->qp_count >= 1 && offer->qp_count <= QPS_MAX && offer->rd_atomic >= 1 &&
                offer->mtu >= IBV_MTU_256 && offer->mtu <= IBV_MTU_4096 &&
                offer->link >= Link::INFINIBAND && offer->link <= Link::ROCE_V2;
    for (uint32_t i = 0; good && i < offer->qp_count; i++)
        good = offer->qps[i].number <= NUMBER_MAX && offer->qps[i].psn <= NUMBER_MAX;
    if (!good) *why = "rdma: the peer's words about itself are malformed";
    return good;
}

}  // namespace tent::rdma
