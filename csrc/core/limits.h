// Named maxima of the core and its fixed intervals. Leans on nothing. Everything the engine holds
// is bounded by one of these or by an option of tent_engine_open; full is an answer, not a wait.
#pragma once

#include <cstdint>

#include "base/units.h"

namespace tent {

constexpr uint32_t NIL = UINT32_MAX;

constexpr uint32_t REGIONS_MAX = 65536;
constexpr uint32_t GRANTS_MAX = 4096;
constexpr uint32_t ABOUT_SIZE = 16384;  // of what a plugin tells about a region
constexpr uint32_t SEGMENTS_MAX = 4096;
constexpr uint32_t ENDPOINTS_MAX = 16384;
constexpr uint32_t CLIENTS_MAX = 4096;
constexpr uint32_t PEERS_REMEMBERED_MAX = 65536;  // notice numbers of engines that went away
constexpr uint32_t CLIENT_ENDPOINTS_MAX = 1024;   // of one client
constexpr uint32_t RAILS_MAX = 64;                // as in the plan
// Pairs of rails that the routes of one segment use; of more, the nearest are taken.
constexpr uint32_t SEGMENT_ENDPOINTS_MAX = 128;
// Endpoints that one request remembers not to reach its memory: all of a segment.
constexpr uint32_t UNREACHING_MAX = SEGMENT_ENDPOINTS_MAX;
// Places of a peer's memory that differ in which of its rails are near; what comes after counts as
// equally far from all.
constexpr uint32_t LOCALITIES_MAX = 32;
constexpr uint32_t UNREACHABLE_MAX = 256;  // pairs of rails remembered of one peer
constexpr uint32_t LISTENERS_MAX = RAILS_MAX + 1;
constexpr uint32_t POST_MAX = 64;      // slices staged per endpoint before post() is called
constexpr uint32_t RESULTS_MAX = 256;  // results taken from one poll()
// Submit calls not yet seen by the driver.
constexpr uint32_t SUBMIT_RING_SIZE = 4096;
constexpr uint32_t NOTICES_WAITING_MAX = 1024;  // per peer, sealed and not yet acknowledged
constexpr uint32_t TRANSFER_COUNT_MAX = 4096;   // requests of one tent_transfer

constexpr uint32_t WORKERS_MAX = 16;          // one that drives, the others help
constexpr uint32_t WORKERS_UNASKED_MAX = 4;   // where nobody says how many
constexpr uint32_t CREW_TRANSPORTS_MAX = 16;  // that helpers serve
constexpr uint32_t ERRANDS_MAX = 8;           // threads for what blocks

constexpr uint64_t CREW_SPIN_NS = 20 * US;  // a helper without work looks around so long
constexpr uint64_t GRANTS_LOOK_MS = 1000;   // whether one has expired, at least
constexpr uint64_t SPIN_NS_DEFAULT = 50 * US;
// A spinning driver yields its core after this long without work: the peer may need it.
constexpr uint64_t SPIN_YIELD_NS = 5 * US;
constexpr uint64_t CONTROL_INTERVAL_NS =
    20 * US;                                  // busy drivers look at control sockets this often
constexpr uint64_t HOUSEKEEPING_NS = 5 * MS;  // resolution of timeouts while any is armed
constexpr uint64_t CLIENT_GRACE_NS =
    5 * SECOND;  // endpoints outlive a lost control connection this long
// The most that a canary waits for what its endpoint had in flight before.
constexpr uint64_t DRAIN_NS_MAX = 1 * SECOND;
// An unanswered question about an endpoint is said again after this, doubling.
constexpr uint64_t ASK_NS_MIN = 10 * MS;
constexpr uint64_t ASK_NS_MAX = 250 * MS;

// Set-ups of an endpoint that never stood, after which its pair of rails is taken for unreachable
// (while others to that peer stand), and how long until it is asked again.
constexpr uint32_t SETUPS_MAX = 3;
constexpr uint64_t UNREACHABLE_NS = 60 * SECOND;
// An endpoint that no route needs is kept so long: plans come back.
constexpr uint64_t UNUSED_NS = 5 * SECOND;

// A segment whose first rail is ready waits so long for the others at least.
constexpr uint64_t RAILS_GRACE_NS = 50 * MS;

// How long the worker leaves the engine to a calling thread that drives it, after that thread left:
// shorter when peers may have work for us.
constexpr uint64_t LINGER_INBOUND_NS = 200 * US;
constexpr uint64_t LINGER_NS = 2 * MS;

}  // namespace tent
