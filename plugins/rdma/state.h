// What an instance of the rdma transport holds, and which file does what.
//
// plugin.cc    the table, poll, next_ns          instance.cc  open, close, the epoll
// verbs.cc     libibverbs at run time            options.cc   options
// device.cc    a port opened: context, PD, CQ    gid.cc       which GID, addresses, reach
// rail.cc      rail_open, rails()                events.cc    async events; devices that go, come
// region.cc    our regions, on which rails       pin.cc       registering, in parallel; why not
// dmabuf.cc    GPU memory as a dma-buf           messages.cc  exports, wants and keys that come in
// keys.cc      rkeys given away, windows         wants.cc     rkeys of peers, asked for
// about.cc     what is told of regions, endpoints
// endpoint.cc  offer, accept, connect, news      pairs.cc     queue pairs: made, moved, destroyed
// fence.cc     close, retire, settle             post.cc      slices become work requests
// completions.cc  what the CQ says becomes results
//
// Thread-safety: the core calls one instance from one thread at a time ("the driver"), but for
// region_register, which any thread may call beside it, and errands (host->errand), which touch
// what they were given and nothing else. `memory_mutex` guards the lists of rails and regions
// against both; nobody holds it over a call of the library that takes long, and neither post nor
// poll takes it. post and poll allocate nothing.
#ifndef TENT_PLUGINS_RDMA_STATE_H
#define TENT_PLUGINS_RDMA_STATE_H

#include <tent/plugin.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "options.h"
#include "protocol.h"
#include "verbs.h"

namespace tent::rdma {

struct Instance;
struct Rail;
struct Endpoint;
struct Rejoin;

constexpr uint32_t NONE = UINT32_MAX;
constexpr uint32_t RAILS_MAX = 64;  // as the core's

// What the data of an epoll event say: the kind, and for the middle two the rail's slot. poll reads
// WAKE and COMPLETIONS, events_step reads ASYNC and DEVICES (the kernel says that some went or
// came).
enum class Watched : uint32_t { WAKE, COMPLETIONS, ASYNC, DEVICES };
constexpr uint64_t watched_tag(Watched kind, uint32_t slot) {
    return static_cast<uint64_t>(kind) << 32 | slot;
}

// ---- memory ----------------------------------------------------------------------------------

// A region, or a part of one that is as large as a registration may be, on one rail.
struct Piece {
    ibv_mr *mr = nullptr;
    uint32_t lkey = 0, rkey = 0;  // rkey: given away only where there are no windows
};

// A region's registrations on one rail. Complete when it can be seen; regions of the same memory
// share one (the cache): `users` of them, guarded by memory_mutex, and the last one's release ends
// the registration, so that no memory stays pinned that the application took back.
struct Registration {
    Rail *rail = nullptr;
    uint32_t rail_generation = 0;  // of the device as it was opened then
    // Of the memory registered, which may be more than the region that asks.
    uint64_t address = 0, length = 0, piece_size = 0;
    uint32_t access = 0;
    bool gpu = false;
    // The kernel lets nobody write to it, nor bind a window: peers name it by its own key.
    bool read_only = false;
    uint32_t users = 0;
    std::vector<Piece> pieces;
    // Not registered: what the library said and what mends it. pieces is empty then.
    int32_t status = TENT_OK;
    std::string why;
};

// A region of ours.
struct Region {
    uint64_t number = 0;
    uint64_t address = 0, length = 0, piece_size = 0;
    uint32_t access = 0;
    std::string location;
    bool leaving = false;  // region_release has begun
    // By Rail::slot. Written under memory_mutex, read by the driver at any time. nullptr: the rail
    // is new and has not got to it.
    std::atomic<Registration *> on[RAILS_MAX] = {};
};

// A region of a peer, from segment_import until segment_forget.
struct RemoteRegion {
    Export about{};
    uint32_t index = NONE;  // dense: of Endpoint::keys
    uint32_t piece_count = 0;
    uint32_t users = 1;  // the core and each RemoteKeys
};

// What an initiator's endpoint may name a remote region with.
struct RemoteKeys {
    explicit RemoteKeys(RemoteRegion &of) : region(&of) { region->users++; }
    RemoteKeys(const RemoteKeys &) = delete;
    RemoteKeys &operator=(const RemoteKeys &) = delete;
    ~RemoteKeys();  // wants.cc

    RemoteRegion *region;
    bool known = false;          // all of them have come
    int32_t status = TENT_OK;    // the peer's refusal
    bool early = false;          // told before connect: READY waits for it
    bool windows = false;        // each works on its own queue pair alone
    uint32_t access = 0;         // that they allow
    uint32_t next = 0;           // the first piece whose keys have not come
    uint64_t asked_ns = 0;       // last; 0: never
    uint64_t wait_ns = 0;        // until it is asked for again
    std::vector<uint32_t> keys;  // [piece * qp_count + qp]
};

// A type-2 window: what a target's queue pair lets its peer do to one piece.
struct Window {
    ibv_mw *mw = nullptr;
    uint32_t rkey = 0;
    bool bound = false;
};
// All windows of one region on a target's endpoint: [piece * qp_count + qp]; without windows empty.
struct GivenKeys {
    uint64_t region = 0;  // number
    uint32_t access = 0;
    uint32_t binding = 0;  // binds under way: counted by keys.cc alone
    bool failed = false;
    bool leaving = false;  // revoked while binds were under way: goes with the last of them
    std::vector<Window> windows;
};

// ---- rails -----------------------------------------------------------------------------------

enum class RailState : uint8_t {
    UP,
    DOWN,  // the port is; the device is open
    GONE,  // the device went away: it is closed as soon as nothing hangs on it, and looked for
};

struct Rail {
    Rail();
    ~Rail();  // rail.cc, where Rejoin is known

    Instance *instance = nullptr;
    uint32_t slot = NONE;   // in the instance
    uint32_t index = NONE;  // the plan's number
    std::string device;     // "mlx5_0"
    uint8_t port = 1;
    RailOptions options;
    RailState state = RailState::UP;
    uint32_t generation = 0;  // counts openings of the device

    // device.cc; all nullptr while it is gone.
    ibv_context *context = nullptr;
    ibv_pd *pd = nullptr;
    ibv_comp_channel *channel = nullptr;
    ibv_cq *cq = nullptr;
    bool armed = false;      // an event comes with the next completion
    uint32_t cq_events = 0;  // got and not yet acknowledged
    uint32_t cq_free = 0;    // entries that no queue pair has claim to
    uint32_t in_flight = 0;  // work requests without completion
    ibv_device_attr limits{};
    ibv_port_attr port_attr{};  // NOLINT(bugprone-invalid-enum-default-initialization): filled
    bool windows = false;       // type 2B works here
    bool on_demand = false;     // implicit or explicit ODP for READ and WRITE over RC

    // gid.cc
    Link link = Link::ROCE_V2;
    uint8_t gid[16] = {};
    uint8_t gid_index = 0;
    std::string netdev;  // that has the address; "" for InfiniBand
    char address[TENT_RAIL_ADDRESS_MAX] = {};

    // events.cc
    std::string folder,
        verbs_folder;                // of the device in sysfs; the latter goes before it is closed
    std::string why;                 // of a state that is not UP
    bool told_down = false;          // the core was
    bool suspect = false;            // look at it soon
    bool leaving = false;            // rail_close has begun: freed when nothing hangs on it
    std::unique_ptr<Rejoin> rejoin;  // the device is back, and an errand registers all regions
    uint64_t looked_ns = 0;          // at its state, last
    std::vector<Endpoint *> endpoints;
    // Guarded by memory_mutex: from regions_join until regions_part regions are registered here.
    bool joined = false;
    // region_register is using pd: it is not closed, and the rail not freed, until this is 0.
    std::atomic<uint32_t> registering{0};
};

// ---- endpoints -------------------------------------------------------------------------------

enum class EndpointState : uint8_t {
    OFFERED,     // I: no answer yet
    CONNECTING,  // queue pairs are being moved to RTS by an errand, or keys are awaited
    READY,
    FAILED,   // the core has been, or will be, told
    FENCING,  // close or retire has begun: queue pairs are in error and drain
    CLOSED,   // I: the core is done with it; results may be left, or an errand runs
};

// One slice on its way. From a pool as large as slices_max.
struct Slice {
    uint64_t id = 0;
    Endpoint *endpoint = nullptr;
    uint32_t next = NONE;  // in a list
    uint32_t op = 0;
    int32_t status = TENT_OK;    // the first failure
    uint32_t requests_left = 0;  // posted work requests without completion
    uint64_t local = 0, remote = 0, length = 0;
    uint64_t posted = 0;  // bytes that have become work requests
    Region *local_region = nullptr;
    RemoteKeys *keys = nullptr;
};

// What a posted work request was: a ring as long as the send queue, in order.
struct Request {
    uint32_t slice = NONE;  // index in the pool; NONE: see kind
    uint8_t kind = 0;       // pairs.h
    bool signalled = false;
    uint32_t length = 0;
    GivenKeys *given = nullptr;  // of a bind
    uint64_t settles = 0;        // of a settling READ: Endpoint::writes when it was posted
};

struct Qp {
    Endpoint *endpoint = nullptr;
    uint32_t slot = NONE;  // in the instance
    uint64_t tag = 0;      // slot and generation: the upper part of every wr_id (pairs.h)
    ibv_qp *qp = nullptr;  // nullptr: destroyed
    uint32_t psn = 0;
    uint32_t inline_max = 0, depth = 0;
    bool failed = false;
    std::vector<Request> requests;  // `depth` of them
    uint64_t posted = 0, done = 0;  // counts of requests; posted - done are under way
    uint64_t signalled = 0;         // `posted` after the last signalled one
    uint64_t bytes = 0;             // under way
    uint32_t waiting_head = NONE, waiting_tail = NONE;  // slices not wholly posted yet
    Qp *pump_next = nullptr;                            // in Instance::pump_head
    bool pump_due = false;
    // As counts of Endpoint::writes: its own last one; what a READ went out for, and came back for.
    uint64_t writes_done = 0, settle_asked = 0, settled = 0;
};

// An errand's: the queue pairs of an endpoint are moved to RTR and RTS. Shared with the thread that
// does it, and freed by the driver when `done`.
struct Ascent;

struct Endpoint {
    Instance *instance = nullptr;
    Rail *rail = nullptr;
    uint64_t number = 0;  // the core's name
    bool initiator = false;
    EndpointState state = EndpointState::OFFERED;
    uint64_t grant = 0;  // target
    uint64_t deadline_ns = UINT64_MAX;
    bool news = false;  // endpoint_state is due
    int32_t status = TENT_OK;
    std::string sentence;
    Offer peer{};  // NOLINT(bugprone-invalid-enum-default-initialization): filled
    std::vector<std::unique_ptr<Qp>> qps;
    Ascent *ascent = nullptr;
    bool risen = false;     // its queue pairs are in RTS
    bool let_go = false;    // closed by the core: freed with its last result
    uint64_t fence_ns = 0;  // when the drain began
    bool said = false;      // why slices do not go this way
    uint32_t slices = 0;    // taken by post and not ended
    uint64_t writes = 0;    // work requests that were writes, acknowledged
    std::vector<std::unique_ptr<RemoteKeys>> keys;  // initiator, by RemoteRegion::index
    std::vector<uint32_t> keys_missing;             // indices in `keys`, in the order told
    uint64_t keys_due_ns = UINT64_MAX;  // keys_step has something to ask then: part of next_ns
    // Forgotten while slices that named them were under way.
    std::vector<std::unique_ptr<RemoteKeys>> keys_forgotten;
    std::vector<std::unique_ptr<GivenKeys>> given;  // target
    struct Asked {
        uint64_t region;
        uint32_t piece;
    };
    std::vector<Asked> asked;  // target: to be answered when risen and bound; bounded
};

// ---- the instance ----------------------------------------------------------------------------

struct Instance {
    const tent_host *host = nullptr;
    const Verbs *verbs = nullptr;
    Options options;
    uint8_t id[16] = {};
    uint32_t slices_max = 0, endpoints_max = 0;

    int epoll_fd = -1;       // completion channels, async events, wake_fd
    int wake_fd = -1;        // an eventfd: errands that are done
    uint32_t rejoining = 0;  // rails whose Rail::rejoin is under way
    int devices_fd = -1;     // the kernel's news of devices; -1: none are to be had
    std::mutex memory_mutex;
    Rail *rails[RAILS_MAX] = {};
    std::vector<Region *> regions;
    std::vector<Registration *> registrations;
    uint64_t region_next = 1;
    std::vector<RemoteRegion *> remote_regions;  // by index; nullptr: free

    std::vector<std::unique_ptr<Endpoint>> endpoints;
    std::vector<Qp *> qps;  // by slot; nullptr: free
    std::vector<uint32_t> qp_free;
    uint32_t qp_generation = 0;
    Qp *pump_head = nullptr;  // send queues that have room again
    // One chain of work requests in the making: as long as the deepest send queue.
    std::vector<ibv_send_wr> chain;
    std::vector<ibv_sge> chain_parts;
    std::vector<Slice> slices;
    uint32_t slice_free = NONE;
    // Slices that have ended and await poll, in a ring as long as the pool.
    std::vector<tent_slice_result> results;
    uint64_t results_head = 0, results_tail = 0;
    uint32_t connecting = 0;  // endpoints in that state, and those closed whose errand runs
    uint64_t looked_ns = 0;   // at events, last
    uint64_t stepped_ns = 0;  // events and endpoints were, last
    bool news = false;        // of some endpoint
    bool moved = false;       // something happened since poll began
};

inline Instance &instance_of(void *opaque) {
    return *static_cast<Instance *>(opaque);
}
inline uint64_t now_of(const Instance &instance) {
    return instance.host->now_ns(instance.host->ctx);
}
// Leaves the sentence with the core and returns the status.
int32_t refuse(const Instance &instance, int32_t status, const char *sentence);
__attribute__((format(printf, 1, 2))) std::string format(const char *text, ...);
// Becomes an event.
__attribute__((format(printf, 3, 4))) void say(const Instance &instance, int32_t status,
                                               const char *text, ...);

// ---- A: instance.cc, device.cc, gid.cc, rail.cc, events.cc ------------------------------------

int32_t instance_open(const tent_host *host, const tent_plugin_options *options, void **out);
void instance_close(void *instance);
int32_t rail_open(void *instance, const tent_rail_params *params, void **rail,
                  tent_rail_info *info);
void rail_close(void *instance, void *rail);
int32_t rail_reach(void *instance, void *rail, const char *peer_rail);
int32_t available(char *reason, uint32_t reason_size);
uint32_t rails(tent_rail_info *infos, uint32_t stride, char (*devices)[32], uint32_t room);

// Opens context, PD, completion channel (non-blocking, in the epoll), CQ and async events, chooses
// the GID, asks for limits. Also after the device came back.
bool device_open(Rail &rail, std::string *why);
// Nothing may hang on it: no queue pair, no registration.
void device_close(Rail &rail);
// poll's: async events; rails whose state must be looked at; devices that went or came. Also what a
// failed call of the library hints at (EIO, ENODEV): device_suspect.
void events_step(Instance &instance, uint64_t now_ns);
void device_suspect(Rail &rail);
// When events_step must run again at the latest.
uint64_t events_due_ns(const Instance &instance);

// ---- C: region.cc, pin.cc, dmabuf.cc, keys.cc, wants.cc, about.cc -----------------------------

int32_t region_register(void *instance, const tent_region_params *params, void **region);
int32_t region_export(void *instance, void *region, void *bytes, uint32_t *size);
int32_t region_release(void *instance, void *region);
int32_t segment_import(void *instance, const void *bytes, uint32_t size, void **remote_region);
void segment_forget(void *instance, void *remote_region);
void region_about(void *instance, void *region, char *text, uint32_t size);
void endpoint_region(void *instance, void *endpoint, void *remote_region);
void endpoint_about(void *instance, void *endpoint, void *remote_region, char *text, uint32_t size);
void endpoint_message(void *instance, void *endpoint, const void *bytes, uint32_t size);

// A rail is new, or its device came back: registers all regions there. False: strict mode, and one
// cannot be.
bool regions_join(Rail &rail, std::string *why);
// The part of it that takes long, for an errand: calls nothing of the host but errand. False: *why
// says what could not be registered. Meanwhile Instance::rejoining is not 0, and no region is
// released.
bool regions_pin(Rail &rail, std::string *why);
// The rail closes, or its device is gone: ends all registrations on it, windows first. Its queue
// pairs are destroyed already. Threads that register there now let go by themselves: see
// Rail::registering.
void regions_part(Rail &rail);
// The registration of our region that slices on that rail may use; nullptr: none.
const Registration *registration_on(const Region &region, const Rail &rail);
// Initiator, connected: asks for what is not known yet and was not asked for lately (cheap where
// keys_due_ns is later than now); AGAIN from the control channel is a later attempt. True: all keys
// of the regions told before connect are there, or were refused: it may be READY.
bool keys_step(Endpoint &endpoint, uint64_t now_ns);
// Target, risen: binds windows, answers what was asked. To be called in poll while `asked` is not
// empty, for send queues may have been full.
void keys_serve(Endpoint &endpoint);
// Target: a bind that bind_post took has completed, or has failed or been flushed. Once for each.
void keys_bound(Endpoint &endpoint, GivenKeys &given, bool ok);
// Target: takes the windows of that region, or of all, from the peer. Before the registration ends,
// and when the endpoint is retired.
void keys_revoke(Endpoint &endpoint, uint64_t region);
// The latter: false: the library does not take all back now.
bool keys_revoke_all(Endpoint &endpoint);
// The two halves of endpoint_message.
void keys_asked(Endpoint &endpoint, const void *bytes, uint32_t size);  // target: keys.cc
void keys_came(Endpoint &endpoint, const void *bytes, uint32_t size);   // initiator: wants.cc
// The keys by which slices of the endpoint name that region; nullptr: not told of it.
RemoteKeys *keys_of(Endpoint &endpoint, const RemoteRegion *region);

// ---- B: endpoint.cc, pairs.cc, fence.cc, post.cc, completions.cc, plugin.cc -------------------

int32_t endpoint_offer(void *instance, const tent_endpoint_params *params, void **endpoint,
                       void *offer, uint32_t *size);
int32_t endpoint_accept(void *instance, const tent_endpoint_params *params, void **endpoint,
                        void *answer, uint32_t *size);
int32_t endpoint_connect(void *instance, void *endpoint, const tent_endpoint_params *params);
int32_t endpoint_close(void *instance, void *endpoint);
int32_t endpoint_retire(void *instance, void *endpoint);
int32_t endpoint_settle(void *instance, void *endpoint, uint64_t *mark);
uint32_t post(void *instance, void *endpoint, const tent_slice *slices, uint32_t count);

// Fails it: news for the core, queue pairs into error. Does nothing when it has failed already.
__attribute__((format(printf, 3, 4))) void endpoint_fail(Endpoint &endpoint, int32_t status,
                                                         const char *format, ...);
// Target, risen: posts a bind of the window to the queue pair, signalled, and sets window.rkey to
// the key it will have. False: no room now, or it failed.
bool bind_post(Qp &qp, GivenKeys &given, Window &window, const Piece &piece, uint64_t address,
               uint64_t length, uint32_t access);
// All endpoints of a rail whose device went: their queue pairs are destroyed at once (the library
// promises that nothing lands after that), their slices come back.
void endpoints_lose_device(Rail &rail);
// True: nothing of the library hangs on the rail's endpoints any more.
bool endpoints_left_device(const Rail &rail);
// instance_close, no errand runs any more: frees every endpoint and what it has of the library.
void endpoints_free(Instance &instance);

}  // namespace tent::rdma

#endif
