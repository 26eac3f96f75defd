// The engine's working objects: requests, slices, batches, rails, endpoints, segments. Plain
// structs in fixed pools; who may touch a field stands beside it ("driver": the holder of the
// driver token). Leans on base, plan and plugin.h.
#pragma once

#include <tent/plugin.h>
#include <tent/tent.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/limits.h"
#include "core/range_table.h"
#include "health/health.h"
#include "plan/plan.h"
#include "sched/pick.h"
#include "wire/messages.h"

namespace tent {

struct Engine;
struct Segment;
struct Peer;
struct Client;
struct Endpoint;
struct Transport;
struct BoundRoute;
struct PlanGeneration;
struct RemoteRegion;

// Does the plugin offer the function? Its table may be older than this header.
#define TENT_OFFERS(table, function)                                                 \
    ((table)->size >= offsetof(tent_plugin, function) + sizeof((table)->function) && \
     (table)->function != nullptr)

// One user read or write. Written by the submitting thread until it is pushed to the ring,
// afterwards by the driver; any thread may read status (acquire) and then done and rail.
struct Request {
    uint64_t local, remote, length, user_data;
    uint64_t sliced;  // bytes bound to slices so far
    uint64_t done;    // bytes settled with success
    uint64_t segment_handle;
    Segment *segment;  // until terminal
    const BoundRoute *route;
    uint32_t batch;                  // index in Engine::batches
    uint32_t index;                  // in its batch
    uint32_t next;                   // in its flow's queue
    uint32_t heap_child, heap_next;  // in its flow's queue of deadlines
    uint64_t deadline_ns;            // UINT64_MAX: none; until taken: as given, after submit
    uint64_t order;                  // of arrival at the driver
    uint32_t local_region;           // slot
    uint32_t own_region;  // slot of the remote side too, when the segment is our own; else NIL
    const RemoteRegion *remote_region;
    uint32_t slices_out;  // bound and not settled, waiting retries included
    uint32_t fences;      // remote fences to await before it may turn terminal
    uint32_t retries;     // of all its slices
    int32_t error;        // first error, TENT_OK so far
    int32_t rail;
    uint8_t op, class_, flags;
    bool queued;  // stands in its flow's queue
    bool forced;  // the endpoints with its slices were closed for its deadline
    bool yields;  // has no path: queued as if it had no deadline, see flow_rotate
    uint8_t unreaching_count;
    std::atomic<int32_t> status;
    uint64_t pathless_since_ns;  // of all but those below none is ready; 0: one is
    // Slots of endpoints that do not reach its memory: they are well, and not for it.
    uint16_t unreaching[UNREACHING_MAX];
};
static_assert(UNREACHING_MAX <= UINT8_MAX);

struct Slice {
    uint32_t request;   // NIL: disowned, see spray_disown
    uint32_t endpoint;  // slot, NIL while waiting for a retry
    uint32_t generation;
    // Free list, a flow's retry queue, or (with previous) its endpoint's slices in flight.
    uint32_t next, previous;
    uint32_t retries;
    uint32_t twin;           // of a hedged pair that is in flight, NIL: none
    bool hedged, lost;       // one of a pair; the other one has settled first
    bool low;                // of class low: as it was charged
    const Transport *tried;  // the one that may still deliver an earlier attempt, nullptr: none
    uint32_t pinned_region, pinned_own;  // disowned: what it keeps pinned
    uint64_t offset, length;
    uint64_t posted_ns, predicted_ns;
    uint64_t allowance_ns;  // from post until it is late; see health/health.h
    uint64_t stalled_ns;    // Engine::stalled_ns when it was posted
};

constexpr uint32_t BATCH_UNSEALED = 1u << 31;

struct Batch {
    std::atomic<uint64_t> handle{0};  // 0: free
    std::atomic<uint32_t> remaining{
        0};  // unfinished requests; BATCH_UNSEALED set until sealed. A futex.
    std::atomic<uint32_t> waiters{0};
    std::atomic<uint32_t> failed{0};
    std::atomic<int32_t> worst{0};  // first failure; a graver one outranks it
    std::atomic<bool> cancelled{false};
    uint32_t generation = 0;
    uint32_t count = 0;  // accepted requests; the submitting thread's
    uint32_t first = NIL, last = NIL;
    uint32_t flags = 0, class_ = 0, completions = 0;
    bool sealed = false;
    uint64_t deadline_ns = 0;               // after submit, 0: none
    uint64_t deadline_due_ns = UINT64_MAX;  // of its entry in Engine::deadlines; driver
    char label[32] = {};
    struct OutgoingNotice *notice =
        nullptr;  // sent or dropped when the last request is terminal; driver
    // What the driver has taken of the chain so far; driver only.
    uint32_t taken_first = NIL, taken_count = 0;
};

// A queue of requests of one segment and class; driver only.
struct Flow {
    Segment *segment = nullptr;
    uint32_t head = NIL, tail = NIL;              // requests with bytes not yet sliced, no deadline
    uint32_t urgent = NIL;                        // root of the heap of those with one
    uint32_t retry_head = NIL, retry_tail = NIL;  // slices to be bound anew
    uint64_t waiting_bytes = 0;                   // of all of them, not yet bound
    uint32_t class_ = 0;
    bool active = false;
    uint64_t stuck = 0;    // the scheduling pass in which it had to wait
    Flow *next = nullptr;  // in the class's ring of active flows
};

// Cumulative figures, written by the driver, read by anyone (relaxed: each is a figure of its own).
struct Tally {
    std::atomic<uint64_t> bytes_written{0}, bytes_read{0}, served_write{0}, served_read{0};
    std::atomic<uint64_t> slices{0}, retried{0}, failed{0}, requests{0}, requests_failed{0};
    std::atomic<uint64_t> charged{0}, released{0};
    std::atomic<uint64_t> refused{0}, wakeups{0}, slices_hedged{0}, bytes_hedged{0};
};
inline void bump(std::atomic<uint64_t> &figure, uint64_t by = 1) {
    // One writer at a time (the driver): a plain add without the bus lock of fetch_add.
    figure.store(figure.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

// A loaded plugin with its instance; a decorator holds the table it decorates.
struct Transport {
    Engine *engine = nullptr;
    std::string name;        // as the plan says it
    std::string library;     // file it came from
    bool decorated = false;  // table and library are the decorator's
    uint32_t memory = 0;     // TENT_MEMORY_*, of what is decorated
    bool works = false;      // helpers may call its work(), or that of what is decorated
    // Regions are registered beside the driver. Not through a decorator: it counts operations.
    bool registers_aside = false;
    const tent_plugin *table = nullptr;
    void *instance = nullptr;
    tent_host host{};
    // What a plugin said last through host->fail, in the function that this thread is or was in.
    static inline thread_local std::string failure;
    int event_fd = -1;
    std::string options_key;  // to notice that a new plan changes its options
};

struct Rail {
    Transport *transport = nullptr;
    void *handle = nullptr;
    PlanRail plan;
    tent_rail_info info{};
    Lane lane;
    uint32_t endpoints = 0;
    bool retired = false;  // no longer in the plan
    bool down = false;     // its link or port; see links.h
    Tally tally;
    std::string title;  // "tcp lo 127.0.0.1"
};

// What a rail is said to carry: the plan's word, else the transport's; 0: nobody says.
inline uint64_t rail_nominal(const Rail &rail) {
    return rail.plan.bandwidth_bytes_per_s ? rail.plan.bandwidth_bytes_per_s
                                           : rail.info.bandwidth_bytes_per_s;
}

struct RailNews {
    const Rail *rail;
    int32_t status;
    std::string sentence;
};

// A rail of a peer, shared by our segments of that peer; lives while endpoints lead to it.
struct RemoteRail {
    uint8_t engine_id[ENGINE_ID_SIZE] = {};
    uint64_t epoch = 0;
    uint32_t index = 0;
    uint32_t endpoints = 0;
    Lane lane;
};

enum class EndpointState : uint8_t {
    Offered,     // initiator: EndpointOpen sent, or to be sent; target: accepted, sockets awaited
    Connecting,  // initiator: answer is here, the plugin connects
    Ready,
    Fencing,  // failed or abandoned: local close, remote retire under way
    Waiting,  // fenced; its health says when it is tried again
    Gone,
};

// A write's slice that came back from a failed endpoint and may still land there.
struct HeldRange {
    uint32_t request;
    uint64_t remote, length;
};

struct Endpoint {
    uint64_t id = 0;  // ours, unique in the engine
    uint32_t slot = NIL;
    uint64_t remote_id = 0;  // target: the initiator's number
    bool initiator = false;
    EndpointState state = EndpointState::Gone;
    Segment *segment = nullptr;  // initiator
    Client *client = nullptr;    // target
    uint32_t grant = 0;          // target: slot of the grant
    Rail *rail = nullptr;
    void *handle = nullptr;             // plugin's, nullptr when it has none
    uint32_t peer_rail = 0;             // index in the peer's descriptor
    RemoteRail *remote_rail = nullptr;  // initiator
    Path path;                          // initiator; path.blocked: stands in Engine::blocked
    EndpointHealth health;              // initiator
    uint32_t flight_head = NIL, flight_tail = NIL;  // slices in flight, oldest first
    bool watched = false;                           // stands in Engine::watched
    bool late = false;                              // at the last look
    bool canary_out = false;                        // posted, not back
    uint64_t moved_ns = 0;                          // late, but bytes moved: last seen then
    uint64_t moved_bytes = 0;                       // of endpoint_progress
    uint64_t moved_slice = 0;        // whose lateness it was asked for: the slice's id
    uint64_t refusing_since_ns = 0;  // nothing in flight, and post() takes nothing; 0: it does
    uint64_t scratch_address = 0;    // at the peer, where canaries go; 0: none
    void *scratch_handle = nullptr;  // of segment_import
    uint64_t ask_due_ns = 0, ask_interval_ns = 0;  // an unanswered question is said again
    uint32_t staged_count = 0;
    bool listed = false;         // stands in Engine::staged
    bool local_quiet = false;    // the plugin touches no local memory for it any more
    bool remote_quiet = false;   // the target has retired its half
    bool unanswered = false;     // nobody is left to confirm its fence
    bool tried = false;          // was ready or failed once: the segment need not wait for it
    bool abandon = false;        // not to be rebuilt
    bool proven = false;         // was ready once: its rails reach each other
    bool trial = false;          // of a pair that did not; in no route until it stands
    uint32_t setups_failed = 0;  // until it is proven
    uint64_t begun_ns = 0;
    uint64_t unused_since_ns = 0;  // no route needs it; 0: one does, or nobody has looked
    int32_t error = 0;
    uint64_t deadline_ns = 0;  // connect, probe or fence
    uint64_t drained_ns = 0;   // when the wire is done with what was in flight at its last end
    std::string peer_address;  // the peer's listener on that rail, "" when it has none
    std::string peer_rail_text;
    uint64_t openings_seen = 0;  // target: connection numbers used
    uint64_t message_number = 0, message_seen = 0;
    std::array<std::array<uint8_t, 16>, 64> opening_nonces;  // initiator: to check the replies
    std::vector<uint32_t>
        held;  // requests whose terminal status awaits this endpoint's remote fence
    std::vector<HeldRange> held_ranges;
    std::array<tent_slice, POST_MAX> staged;
    std::vector<uint8_t> offer;  // sent again when the control session is replaced
    Tally tally;
    std::string title;
};

// One rung of a plan's row bound to a peer: endpoints and, of equal index, what the scheduler sees.
struct BoundRung {
    std::vector<Endpoint *> endpoints;
    std::vector<Choice> choices;
    uint64_t slice_size = 0;
    uint64_t slice_size_min = 0, window_size_max = 0;  // 0: the parameters
    uint32_t strategy = 0;
    bool hedge = false;
    const Transport *transport = nullptr;
    uint32_t index = 0;                   // of the row's rungs
    std::unique_ptr<StripeState> stripe;  // of the strategies that have a memory, else nullptr
};

struct BoundRoute {
    const PlanRoute *row = nullptr;
    PlanGeneration *generation = nullptr;
    uint32_t locality = 0;         // of the remote memory, index in Segment::localities
    std::vector<BoundRung> rungs;  // replaced in place when the segment is bound anew
    // A request found none of its endpoints ready; 0: none did, or one is again.
    mutable uint64_t pathless_since_ns = 0;
    mutable uint64_t pathless_order = 0;  // the last request there was then
};

// Places of a peer's memory from which its rails are equally far.
struct Locality {
    std::vector<uint8_t> tiers;        // by position in the descriptor's rails; see pairing.h
    std::vector<BoundRoute *> routes;  // of the current plan, in its order
};

// A pair of rails that never stood while others to that peer did; see unreachable.h.
struct UnreachablePair {
    Rail *rail;
    uint32_t peer_rail;
    std::string peer_address;
    uint64_t until_ns;  // asked again then
};

// An installed plan; the last one is current, earlier ones live until their last request is
// terminal.
struct PlanGeneration {
    uint32_t number = 0;
    Plan plan;
    uint64_t requests = 0;      // bound to it and not terminal; driver
    std::vector<Rail *> rails;  // by plan index, nullptr where there is none
};

struct RemoteRegion {
    DescriptorRegion about;
    uint32_t locality = 0;                                // driver
    std::vector<std::pair<Transport *, void *>> handles;  // plugins' segment_import
};

// What submitting threads read of a segment; replaced whole when the peer's regions change.
struct SegmentTable {
    RangeTable ranges;  // slot = index in regions
    std::vector<const RemoteRegion *> regions;
};

enum class SegmentState : uint8_t { Connecting, Describing, Binding, Ready, Failed, Closing };

struct Segment {
    uint64_t handle = 0;
    uint32_t slot = NIL;
    SegmentState state = SegmentState::Connecting;
    int32_t error = 0;
    std::string sentence;
    bool own = false;         // this engine's own memory
    bool by_address = false;  // the grant is the peer's default one
    Peer *peer = nullptr;
    Descriptor descriptor;  // regions live in table
    std::atomic<SegmentTable *> table{nullptr};
    std::atomic<bool> usable{false};
    uint64_t expires_unix_ms = 0;       // of its grant, 0: never; constant once usable
    std::atomic<uint64_t> requests{0};  // accepted and not terminal
    Flow flows[3];
    std::vector<Endpoint *> endpoints;
    std::vector<std::unique_ptr<BoundRoute>> routes;  // of every live generation
    std::vector<Locality> localities;                 // at least one once it is bound
    bool rebind_due = false;  // other pairs work than before: at the next housekeeping
    bool tidy_due = false;    // endpoints may have lost their last route
    std::unordered_map<uint64_t, std::unique_ptr<RemoteRegion>> regions;  // by the peer's handle
    std::vector<std::unique_ptr<RemoteRegion>>
        regions_gone;              // removed by the peer, maybe still named by requests
    uint64_t describe_number = 0;  // of the question under way, 0: none
    std::unique_ptr<DescribeAssembler> describing;
    uint64_t describe_count = 0;                // answers so far, for refresh
    uint64_t version_told = 0;                  // latest of a delta since that was asked
    uint64_t deadline_ns = 0;                   // of the import
    uint64_t bound_ns = 0, first_ready_ns = 0;  // its endpoints offered; the first one ready
    uint64_t pathless_since_ns = 0;             // the earliest of its routes', 0: none
    bool same_host = false;
};

}  // namespace tent
