// What libibverbs_loop holds. See loop.h.
//
// Leans on <infiniband/verbs.h> and loop.h. One mutex guards everything; it is held over every
// call but where one waits (RTR, events).
#ifndef TENT_TESTS_VERBS_STATE_H
#define TENT_TESTS_VERBS_STATE_H

#include <infiniband/verbs.h>

#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "loop.h"

#undef ibv_reg_mr
#undef ibv_query_port

namespace loop {

constexpr uint32_t GIDS = 4;
constexpr uint32_t NUMBER_MASK = 0xffffff;

struct Context;
struct Qp;

struct Device {
    ibv_device device{};
    uint32_t index = 0;
    bool present = true, port_up = true;
    bool changed = false;  // since reset
    uint64_t life = 1;
    loop_limits limits{};
    loop_mode mode = LOOP_PASS;
    uint8_t gids[GIDS][16] = {};
    std::vector<Context *> contexts;
};

struct Context {
    verbs_context verbs{};
    Device *device = nullptr;
    uint64_t life = 0;
    uint32_t children = 0;
    std::deque<ibv_async_event> events;
    uint32_t unacknowledged = 0;  // port and device events

    bool gone() const { return !device->present || device->life != life; }
};

struct Pd {
    ibv_pd pd{};
    Context *context = nullptr;
    uint32_t children = 0;
};

struct Mr {
    ibv_mr mr{};
    Pd *pd = nullptr;
    uint64_t address = 0, length = 0;
    unsigned access = 0;
    uint32_t bound = 0;
};

struct Mw {
    ibv_mw mw{};
    Pd *pd = nullptr;
    Mr *mr = nullptr;  // bound to
    uint32_t qp = 0;   // number
    uint32_t rkey = 0;
    uint64_t address = 0, length = 0;
    unsigned access = 0;
};

struct Cq;
struct Channel {
    ibv_comp_channel channel{};
    Context *context = nullptr;
    uint32_t cqs = 0;
    std::deque<Cq *> events;
};

struct Entry {
    ibv_wc wc;
    uint32_t qp;        // number
    uint64_t sequence;  // of the request
};

struct Cq {
    ibv_cq cq{};
    Context *context = nullptr;
    Channel *channel = nullptr;
    uint32_t room = 0, qps = 0, unacknowledged = 0;
    bool armed = false;
    std::deque<Entry> entries;
};

struct Request {
    ibv_send_wr wr{};
    ibv_sge sge{};
    std::vector<uint8_t> inlined;
    uint64_t sequence = 0;
    uint32_t psn = 0;
    bool sent = false, done = false, arrived = false;
    ibv_wc_status status = IBV_WC_SUCCESS;
};

struct Qp {
    ibv_qp qp{};
    Context *context = nullptr;
    Pd *pd = nullptr;
    Cq *cq = nullptr;
    uint32_t number = 0;
    ibv_qp_cap cap{};
    ibv_qp_attr attr{};
    bool signal_all = false;
    uint32_t sq_psn = 0, rq_psn = 0;
    std::deque<Request> requests;  // posted and not completed
    uint64_t posted = 0, reclaimed = 0;
    uint32_t unacknowledged = 0;
};

// A request on its way, no longer in its sender's hands.
struct Packet {
    const Device *device = nullptr;  // the sender's
    uint32_t from = 0, to = 0;       // queue pairs' numbers
    uint8_t from_gid[16], to_gid[16];
    uint32_t psn = 0, packets = 0;
    uint8_t mtu = 0, rd_atomic = 0;
    uint64_t sequence = 0;
    ibv_wr_opcode opcode = IBV_WR_RDMA_WRITE;
    uint64_t remote = 0, length = 0;
    uint32_t rkey = 0;
    std::vector<uint8_t> data;
};

struct Failure {
    std::string verb;  // "": none
    uint64_t left = 0;
    int error = 0;
    bool for_good = false;
};

struct World {
    std::mutex mutex;
    std::condition_variable changed;
    Device devices[LOOP_DEVICES];
    struct Alive {
        const char *kind;
        void *object;
    };
    std::map<void *, Alive> alive;  // by handle
    std::map<uint32_t, Mr *> local_keys, remote_keys;
    std::map<uint32_t, Mw *> window_keys;  // by index: rkey >> 8
    std::map<uint32_t, Qp *> qps;
    std::vector<uint32_t> order;              // of the queue pairs' making
    std::map<uint32_t, loop_mode> own_modes;  // of queue pairs, also of those that are gone
    std::deque<Packet> network;
    std::map<std::string, uint64_t, std::less<>> calls;
    Failure failure;
    uint64_t struck = 0, landed = 0, refused = 0;
    bool rtr_blocked = false;
    uint32_t rtr_waiting = 0;
    uint32_t number_next = 0;
    std::mt19937 random{4711};
    std::string folder;

    loop_mode mode_of(uint32_t number, const Device &device) const {
        const auto own = own_modes.find(number);
        return own != own_modes.end() ? own->second : device.mode;
    }
    loop_mode mode_of(const Qp &qp) const { return mode_of(qp.number, *qp.context->device); }
};

World &world();
[[noreturn]] __attribute__((format(printf, 1, 2))) void misuse(const char *format, ...);

// A verb is entered: the lock, the count, and whether it is to fail.
class Call {
    std::unique_lock<std::mutex> hold;

  public:
    World &w;
    int error = 0;

    explicit Call(const char *verb, bool may_fail = true);
    // Counts one more; the error that it is to fail with, or 0.
    int strike(const char *verb, bool may_fail = true);
    void wait_while(const bool &flag, uint32_t &waiting);
    template <class T>
    T *refused(int why) const {
        errno = why;
        return nullptr;
    }
};

// The object behind a handle, or the end of the process.
template <class T>
T *living(const World &w, void *handle, const char *kind, const char *verb) {
    const auto found = w.alive.find(handle);
    if (found == w.alive.end() || found->second.kind != std::string(kind))
        misuse("%s is given %p, which is no live %s", verb, handle, kind);
    return static_cast<T *>(found->second.object);
}
uint32_t count_live(const World &w, const std::string &kind);

void event_push(Context &context, const ibv_async_event &event);
void port_event(Device &device, ibv_event_type type);
// Its handles in the queues of events, before an object goes.
void events_forget(Context &context, const void *object);

// wire.cc
void wire_step(World &w);
void qp_break(Qp &qp);
// control.cc
void devices_make(World &w);
void folder_make(const Device &device);
// Of a device that is gone: the one of its verbs at once, its own when nobody has it open.
void folder_remove(const Device &device);
// memory.cc
const Mr *local_key(const World &w, const Qp &qp, const ibv_sge &sge, unsigned access);
bool remote_key(const World &w, const Qp &qp, uint32_t rkey, uint64_t address, uint64_t length,
                unsigned access);
bool window_bind(World &w, const Qp &qp, const ibv_send_wr &wr);
ibv_mw *window_alloc(ibv_pd *pd, ibv_mw_type type);
int window_dealloc(ibv_mw *mw);
// queue.cc
int queue_poll(ibv_cq *cq, int room, ibv_wc *entries);
int queue_notify(ibv_cq *cq, int solicited);
void queue_push(World &w, Qp &qp, const Request &request);
// send.cc
int send_post(ibv_qp *qp, ibv_send_wr *wr, ibv_send_wr **bad);

}  // namespace loop

#endif
