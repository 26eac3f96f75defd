// The engine: one struct with all state, and the functions that open, drive and close it. Its parts
// live in files of their own that take Engine&: memory (regions, grants), transports (plugins,
// rails), spray (flows, slices, settling), endpoints (set-up, failure, fence), control (listener,
// sessions), segments, batches, reports (events, counters, notices).
//
// Thread-safety: fields marked [any] are safe from any thread; everything else belongs to the
// holder of the driver token. Must never: call Python, block while holding the token.
#pragma once

#include <atomic>
#include <ctime>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/pool.h"
#include "base/random.h"
#include "base/ring.h"
#include "base/snapshot.h"
#include "core/crew.h"
#include "core/driver.h"
#include "core/errands.h"
#include "core/types.h"
#include "sched/share.h"

namespace tent {

struct Control;  // listener and sessions, core/control.h
struct Links;    // network interfaces of our rails, core/links.h

// One submit call on its way to the driver.
struct Submission {
    uint32_t batch;
    uint32_t first;
    uint32_t count;
};

struct RegionSlot {
    uint64_t handle = 0;
    uint64_t address = 0, length = 0;
    uint32_t access = 0;
    std::string location, label;
    bool leaving = false;           // released, but plugins have not let go of it yet
    std::atomic<uint32_t> pins{0};  // own requests using it [any]
    std::vector<std::pair<Transport *, void *>> handles;
};

struct Grant {
    uint64_t handle = 0;  // 0 only for the default grant's slot
    uint32_t slot = 0;
    uint8_t token[16] = {};
    uint32_t access = 0;
    uint64_t expires_unix_ms = 0;
    bool all = false;
    bool revoked = false;
    bool expired = false;           // and its endpoints were retired for it
    std::vector<uint64_t> regions;  // handles, unless all
    RangeTable table;
    uint32_t hint = 0;
    uint64_t version = 0;
};

struct InboxNotice {
    std::string from;
    std::vector<uint8_t> bytes;
};

struct EngineLimits {
    uint32_t requests, slices, batches, completions, events, notices;
};

struct Engine {
    ~Engine();  // frees what is left; engine_close has quiesced everything before

    // Identity and options; constant after open. [any]
    uint8_t id[16] = {};
    uint64_t epoch = 0;
    std::string name, host_id, plugin_path, advertise;
    std::vector<uint8_t> key;
    EngineLimits limits{};
    bool manual = false;
    uint64_t spin_ns = SPIN_NS_DEFAULT;
    uint32_t fork_generation = 0;
    std::atomic<bool> closing{false}, poisoned{false};
    bool peers_linger = false;         // at the end: one may still access our memory
    std::atomic<uint32_t> callers{0};  // threads inside blocking calls

    // Driving.
    Driver driver;  // [any]
    std::thread worker;
    Crew crew;        // helpers of the transports
    Errands errands;  // of the transports: what blocks
    std::atomic<bool> stop{false};
    int epoll_fd = -1, wake_fd = -1, event_fd = -1;
    uint64_t now_ns = 0;  // of this cycle
    uint64_t manual_ns = 0;
    uint64_t control_due_ns = 0, housekeeping_due_ns = 0, watch_due_ns = UINT64_MAX;
    // Time nobody drove the engine although somebody should have, all together: slices' deadlines
    // are put off by it. planned_ns: how long the driver meant to be away.
    uint64_t stalled_ns = 0, cycled_ns = 0, planned_ns = 0;
    std::atomic<uint64_t> inbound{0};  // target endpoints [any]
    uint64_t open_requests = 0;        // taken from the ring, not terminal
    Random random;

    // Requests and batches.
    Request *requests = nullptr;  // limits.requests, zero pages until used
    size_t requests_bytes = 0;
    IndexPool request_pool, batch_pool;  // [any]
    std::unique_ptr<Batch[]> batches;    // [any]
    Ring<Submission> submissions;        // [any]
    Ring<tent_completion> completions;   // [any]
    std::atomic<uint32_t> completions_reserved{0};

    struct Cancel {
        uint32_t batch;
        uint64_t handle;
        uint64_t force_ns;
    };
    std::vector<Cancel> cancels;  // batches whose posted slices get their grace
    struct Deadline {
        uint64_t due_ns;
        uint32_t batch;
    };
    std::vector<Deadline> deadlines;  // a heap; see deadlines.h
    bool notices_due = false;

    // Slices and flows.
    std::unique_ptr<Slice[]> slices;
    uint32_t slice_free = NIL, slice_fresh = 0;
    uint32_t slices_used = 0;
    Flow *active[CLASS_COUNT] = {};           // tail of a circular list, by class
    uint32_t active_count[CLASS_COUNT] = {};  // flows in it
    uint32_t urgent_count[CLASS_COUNT] = {};  // requests with a deadline in them
    ClassShare share;
    uint64_t pass = 0;   // of scheduling
    uint64_t order = 0;  // of requests
    bool schedule_due = false;
    struct HedgeWatch {
        uint32_t request, slice;
        uint64_t order;
    };
    struct HedgeLoser {
        uint32_t slice, generation;
        uint64_t until_ns;
    };
    std::vector<HedgeWatch> hedge_watched;
    std::vector<HedgeLoser> hedge_losers;
    std::vector<Endpoint *> staged,
        blocked;                      // with staged slices; whose post() took less than offered
    std::vector<Endpoint *> watched;  // with slices in flight, suspect or probing; see watch.h

    // Memory.
    ReadGate gate;                                    // guards local_ranges, segments' tables
    std::atomic<RangeTable *> local_ranges{nullptr};  // slot = region slot [any, inside gate]
    RegionSlot **regions = nullptr;                   // REGIONS_MAX [any, inside gate]
    uint32_t region_count = 0;                        // slots in use or free below it
    std::vector<uint32_t> region_free;
    std::unordered_map<uint64_t, uint32_t> region_by_handle;
    uint64_t region_next = 1;
    std::vector<std::unique_ptr<Grant>> grants;  // slot 0: the default grant
    uint64_t grant_next = 1;
    uint64_t grants_due_ns = UINT64_MAX;  // the next one to expire

    // Plan, transports, rails, endpoints.
    std::vector<std::unique_ptr<PlanGeneration>> plans;  // back() is current
    std::vector<std::unique_ptr<Transport>> transports;
    std::vector<std::unique_ptr<Rail>> rails;  // of all live generations
    std::vector<RailNews> rail_news;           // to be acted upon in the cycle
    std::vector<std::unique_ptr<RemoteRail>> remote_rails;
    std::vector<std::unique_ptr<Endpoint>> endpoints;
    std::vector<uint32_t> endpoint_free;
    std::unordered_map<uint64_t, Endpoint *> endpoint_by_id;
    uint64_t endpoint_next = 1;
    uint32_t endpoints_unsettled = 0;     // not Ready: housekeeping has something to watch
    uint64_t routes_due_ns = UINT64_MAX;  // endpoints to be dropped or tried; see routes.h

    // Segments.
    std::atomic<Segment *> *segments = nullptr;  // SEGMENTS_MAX [any, inside gate]
    std::vector<uint32_t> segment_free;
    uint32_t segment_count = 0;
    uint64_t segment_next = 1;

    std::unique_ptr<Control> control;
    std::unique_ptr<Links> links;  // with the first rail that has an interface

    // Reports.
    mutable std::mutex report_mutex;  // never held on the slice path
    std::vector<tent_unfenced_range> unfenced;
    std::deque<tent_event> events;
    uint64_t events_lost = 0;
    std::deque<InboxNotice> notices;
    Tally tally;
    Tally class_tally[CLASS_COUNT];
};

// Of the current plan.
inline const Parameters &parameters(const Engine &engine) {
    return engine.plans.back()->plan.parameters;
}

int32_t engine_open(const tent_engine_options &options, Engine **out);
int32_t engine_close(Engine *engine);

// One duty cycle. True when something moved.
bool engine_cycle(Engine &engine, uint64_t now_ns);
uint64_t engine_now(const Engine &engine);
// Does something wait for time to pass (limits, fences, rebuilds, reconnects)?
bool engine_watches_time(const Engine &engine);
// Time until the driver must run again although nothing woke it, for the worker's sleep; -1: no
// need.
int engine_sleep_ms(const Engine &engine);
void engine_worker(Engine &engine);  // the worker thread's body

// Runs `work` with the driver token held (in manual mode: directly).
template <class Work>
auto with_driver(Engine &engine, Work work) {
    struct Hold {
        Engine &engine;
        explicit Hold(Engine &e) : engine(e) {
            if (engine.manual) return;
            engine.driver.acquire();
            engine.now_ns = engine_now(engine);
        }
        ~Hold() {
            if (engine.manual) return;
            // What the call began (connects, timers) is the worker's to go on with.
            engine.driver.release_as_caller(true);
        }
    } hold(engine);
    return work();
}

// Drives the engine (or lets the worker do it) until done() or the deadline; false on timeout. done
// is called with the token held. Used by the rare blocking control calls; must not hold the token.
template <class Done>
bool drive_until(Engine &engine, uint64_t timeout_ns, Done done);

// A fork's child must not touch the parent's sockets: every entry point asks this first.
uint32_t fork_generation_now();
inline bool engine_forked(const Engine &engine) {
    return engine.fork_generation != fork_generation_now();
}

// Refuses further work after a broken invariant (TENT_E_INTERNAL).
void engine_poison(Engine &engine, const char *what);

template <class Done>
bool drive_until(Engine &engine, uint64_t timeout_ns, Done done) {
    uint64_t begin_ns = engine_now(engine);
    for (;;) {
        bool finished = with_driver(engine, [&] {
            if (engine.manual) return done();
            if (done()) return true;
            engine_cycle(engine, engine_now(engine));
            return done();
        });
        if (finished) return true;
        uint64_t spent_ns = engine_now(engine) - begin_ns;
        if (engine.manual || spent_ns >= timeout_ns) return false;
        // Not a wait for data: control round trips. A short pause lets the peer's process run.
        struct timespec pause{0, 50 * 1000};
        nanosleep(&pause, nullptr);
    }
}

}  // namespace tent
