// What an instance of the shm transport holds, and which file does what.
//
// plugin.cc    the table, rails, post, poll        instance.cc  open, close
// options.cc   options                             place.cc     who and where we are, reach
// listen.cc    the listener, leftovers, visitors   socket.cc    messages with descriptors
// endpoint.cc  offer, accept, close, retire        connect.cc   the initiator's handshake
// serve.cc     the target's half of the handshake  about.cc     how slices go, and why so
// region.cc    our regions, their generations      map.cc       peers' memory mapped here
// copy.cc      copies                              jobs.cc      slices copied by us and the helpers
// queue.h      what waits for them, results        units.cc     one lane, some bytes: the copying
// attach.cc    process_vm_readv and writev         ring.cc      the ring's layout, initiator's half
// ring_serve.cc  the ring's target
//
// Thread-safety: the core calls one instance from one thread at a time ("the driver"), but for
// work(), which helpers call: they touch jobs that they have claimed, and of endpoints and regions
// what the jobs name, nothing else. Nothing here is allocated by post, poll or work, but for
// messages of the handshake. Must never name an application's memory without a lane.
#ifndef TENT_PLUGINS_SHM_STATE_H
#define TENT_PLUGINS_SHM_STATE_H

#include <tent/plugin.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "board.h"
#include "options.h"
#include "protocol.h"

namespace tent::shm {

struct Instance;
struct Endpoint;
struct RingInitiator;  // ring.h
struct RingTarget;     // ring.h
struct Jobs;           // jobs.h

constexpr uint32_t NONE = UINT32_MAX;
constexpr uint32_t HELPERS_MAX = LANE_COUNT - 1;

// ---- memory ----------------------------------------------------------------------------------

// A memory file that regions of ours lie in: many may lie in one, and descriptors are few.
struct MemoryFile {
    uint64_t base = 0, device = 0, inode = 0;  // which one: where its mapping begins, and its name
    int fd = -1;                               // ours
    uint64_t size = 0;
    uint32_t regions = 0;  // that lie in it
};

// A region of ours.
struct Region {
    uint64_t address = 0, length = 0;
    uint32_t access = 0;
    uint32_t slot = NONE, generation = 0;  // in the table; NONE: the table was full
    MemoryFile *file = nullptr;            // nullptr: it cannot be mapped by peers
    uint64_t memory_offset = 0;
    bool leaving = false;  // its generation has ended
    struct Wait {
        uint64_t endpoint;  // number; one that is gone is quiet
        LaneView view;
    };
    std::vector<Wait> waits;  // those who copied when it ended
};

// A region of a peer, from segment_import until segment_forget.
struct RemoteRegion {
    Export about{};
    // Mapped: where the peer's `address` is found here. Written by the driver before a job names
    // it, and not changed while one does.
    char *base = nullptr;
    uint32_t access = 0;  // of the mapping, TENT_ACCESS_*
    void *mapping = nullptr;
    uint64_t mapping_size = 0, populated = 0;
    bool pool = false;                 // of the system's pool of huge pages
    const Endpoint *asked = nullptr;   // for its memfd, and not answered yet
    uint64_t refused_by = UINT64_MAX;  // the number of the last endpoint that answered no
    std::string why;                   // of the refusal
};

// ---- endpoints -------------------------------------------------------------------------------

enum class EndpointState : uint8_t {
    OFFERED,     // I: no answer yet. T: nobody has connected yet
    CONNECTING,  // the handshake is under way
    READY,
    FAILED,  // the core has been, or will be, told
    CLOSED,  // I: the core is done with it; results may be left
};
enum class Step : uint8_t {
    DIAL,     // the listener's queue was full: to be tried again
    HELLO,    // said, a Welcome is due
    REGIONS,  // memfds are asked for, and a ring when it takes one
    STANDS,
};
constexpr uint32_t ASKS_MAX = 16;  // questions for memfds under way; fits every socket buffer
constexpr uint32_t SETUP_REGIONS_MAX = 1024;  // READY waits for these, not for more

struct Endpoint {
    Instance *instance = nullptr;
    uint64_t number = 0;  // the core's name
    bool initiator = false;
    EndpointState state = EndpointState::OFFERED;
    uint64_t grant = 0;  // target
    uint64_t deadline_ns = UINT64_MAX;
    Step step = Step::DIAL;    // initiator
    bool news = false;         // endpoint_state is due
    bool let_go = false;       // freed with its last result
    int32_t status = TENT_OK;  // of the failure
    std::string sentence;

    // Both stay open until it is freed: helpers look at them.
    int fd = -1;           // the socket to the peer
    int pid_fd = -1;       // the peer's process, -1: it cannot be seen from here
    bool watched = false;  // they are in the instance's epoll
    uint32_t uid = 0;      // the peer's, as the kernel says
    int32_t pid = 0;       // the peer's, as seen from here; 0: not seen
    bool peer_gone = false;
    Offer peer{};

    // Shared with the peer; nullptr until the handshake.
    Board *board = nullptr;
    const RegionTable *table = nullptr;  // initiator: the peer's; target: our own
    int board_fd = -1;                   // target, until it was given
    uint8_t secret[16] = {};             // what Hello must say
    std::string path;                    // initiator: the peer's socket
    uint64_t target_number = 0;          // initiator: the peer's name of it

    // Initiator: how regions that are not mapped are reached.
    uint32_t fallback = 0;                 // ATTACH, RING or 0: not at all
    std::string attach_why, ring_why;      // why not
    std::atomic<int32_t> attach_errno{0};  // the kernel has forbidden ATTACH since: its reason
    std::vector<RemoteRegion *> regions;   // told by endpoint_region
    size_t region_next = 0;                // the first that has not been looked at
    struct Ask {
        RemoteRegion *region;  // nullptr: forgotten meanwhile
        uint32_t slot, generation;
    };
    Ask asks[ASKS_MAX];  // in the order of their answers
    uint32_t ask_count = 0, answer_count = 0;
    bool ring_asked = false;
    bool said = false;  // that slices cannot go: once
    RingInitiator *ring = nullptr;
    RingTarget *ring_target = nullptr;
    std::atomic<bool> stopping{false};  // jobs not begun come back as CANCELLED
    uint32_t posted = 0;                // slices taken by post and not returned by poll: driver
    std::atomic<uint64_t> moved_bytes{0};
    uint64_t moving_asked = 0;  // how often a copy was under way when progress was asked for

    bool retiring = false;  // target
    LaneView retire_view{};
    uint64_t served_written = 0, served_read = 0;  // as told to the core
};

// ---- the instance ----------------------------------------------------------------------------

constexpr uint32_t VISITORS_MAX = 64;

struct Instance {
    const tent_host *host = nullptr;
    Options options;
    Place place{};
    uint8_t id[16] = {};
    uint8_t proof[16] = {};  // who can read it here can reach all our memory
    uint32_t slices_max = 0, endpoints_max = 0, helpers = 0;

    int epoll_fd = -1;
    int listen_fd = -1;           // -1: we can only initiate
    std::string directory, path;  // of the listener
    std::string listen_why;       // why there is none
    uint64_t accept_ns = 0;       // not before: there were no descriptors left
    bool accept_paused = false;
    struct Visitor {  // connected, has not said Hello yet
        int fd;
        uint64_t deadline_ns;
    };
    std::vector<Visitor> visitors;  // oldest first

    RegionTable *table = nullptr;
    int table_fd = -1;  // opened read-only, for peers
    std::vector<uint32_t> region_slots_free;
    std::vector<Region *> regions;  // by slot; nullptr: free
    // By where they begin: an allocation of the engine is mapped once.
    std::multimap<uint64_t, MemoryFile> files;
    uint32_t mapping_count = 0;  // of peers' memory
    std::vector<RemoteRegion *> populating;
    std::vector<RemoteRegion *> forgotten;  // unmapped when no job names them

    std::vector<std::unique_ptr<Endpoint>> endpoints;
    std::vector<Endpoint *> ringers;  // those with a ring, of either side
    uint32_t connecting_count = 0;    // initiators that a deadline waits for
    uint32_t closed_count = 0;        // endpoints that are freed with their last result
    size_t served_next = 0;           // the endpoint whose lanes are read next
    uint64_t served_ns = 0;           // when that was
    Jobs *jobs = nullptr;
    uint64_t looked_ns = 0;  // at the sockets, last
    bool moved = false;      // something happened since poll began
    bool news = false;       // of some endpoint
    bool asks_due = false;   // an endpoint may ask for what another had asked for
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

// ---- instance.cc -----------------------------------------------------------------------------

int32_t instance_open(const tent_host *host, const tent_plugin_options *options, void **out);
void instance_close(void *instance);
// Fills with what nobody can guess.
void random_fill(const Instance &instance, void *bytes, size_t size);

// ---- place.cc --------------------------------------------------------------------------------

bool place_read(Place *place);  // false: the machine does not say which one it is
// The rail's address, at most 63 characters, and how well it reaches a peer's: 0 another machine or
// a user who lets nobody else in, 1 this machine but another namespace or user, 2 as near as can
// be. open: other users are let in.
std::string place_text(const Place &place, bool open);
int32_t place_reach(const Place &own, const char *peer);

// ---- endpoint.cc -----------------------------------------------------------------------------

int32_t endpoint_offer(void *instance, const tent_endpoint_params *params, void **endpoint,
                       void *offer, uint32_t *size);
int32_t endpoint_accept(void *instance, const tent_endpoint_params *params, void **endpoint,
                        void *answer, uint32_t *size);
int32_t endpoint_close(void *instance, void *endpoint);
int32_t endpoint_retire(void *instance, void *endpoint);
uint64_t endpoint_progress(void *instance, void *endpoint);

// Fails it: news for the core, ring and jobs stopped. Does nothing when it has failed already. Not
// from a helper.
__attribute__((format(printf, 3, 4))) void endpoint_fail(Endpoint &endpoint, int32_t status,
                                                         const char *format, ...);
Endpoint *endpoint_find(const Instance &instance, uint64_t number);
// Is the peer's process gone for certain? (pid_fd readable, or without one: the socket closed)
bool endpoint_peer_dead(Endpoint &endpoint);
// Before a system call that names the peer by its number: it is still the one we shook hands with.
// Any thread; a system call.
bool endpoint_peer_lives(const Endpoint &endpoint);
// The socket is connected: learns who is there, watches both. False: failed, with a sentence.
bool endpoint_meet(Endpoint &endpoint, int fd, std::string *sentence);
void endpoint_news(Endpoint &endpoint);
// Poll's: what is due to the core, closed endpoints without results, bytes that peers have copied.
void endpoints_report(Instance &instance);
void endpoints_free_closed(Instance &instance);
void endpoints_served(Instance &instance);

// ---- connect.cc ------------------------------------------------------------------------------

int32_t endpoint_connect(void *instance, void *endpoint, const tent_endpoint_params *params);
void endpoint_region(void *instance, void *endpoint, void *remote_region);
// A message has come, or the socket broke.
void initiator_read(Endpoint &endpoint);
// Dials again, gives up; only while connecting.
void initiator_step(Endpoint &endpoint, uint64_t now_ns);
// Asks for what has not been asked for.
void regions_ask(Endpoint &endpoint);
// What it asked for is nobody's question any more: others may ask.
void asks_drop(Endpoint &endpoint);
// Of those others: asks for what was dropped. It may be that nothing is left to wait for.
void asks_resume(Endpoint &endpoint);

// ---- serve.cc --------------------------------------------------------------------------------

// A visitor's first message: it becomes an endpoint's peer, or goes.
void visitor_read(Instance &instance, int fd);
void target_read(Endpoint &endpoint);

// ---- region.cc -------------------------------------------------------------------------------

int32_t region_register(void *instance, const tent_region_params *params, void **region);
int32_t region_export(void *instance, void *region, void *bytes, uint32_t *size);
int32_t region_release(void *instance, void *region);
// What a Want is answered with; *fd receives the descriptor to give, -1: none.
Give region_give(const Endpoint &endpoint, const Want &want, int *fd);
bool region_table_make(Instance &instance, std::string *sentence);
void region_table_free(Instance &instance);

// ---- map.cc ----------------------------------------------------------------------------------

int32_t segment_import(void *instance, const void *bytes, uint32_t size, void **remote_region);
void segment_forget(void *instance, void *remote_region);
void forgotten_free(Instance &instance);
// Maps what the memfd holds of it. False: refused, `why` says so. fd stays the caller's.
bool region_map(Instance &instance, RemoteRegion &region, const Give &give, int fd);
// Fills page tables for a while; true while some are left.
bool populate_step(Instance &instance);

// ---- about.cc --------------------------------------------------------------------------------

void endpoint_about(void *instance, void *endpoint, void *remote_region, char *text, uint32_t size);
// Reads the proof out of the peer's memory; why not.
bool attach_proven(const Endpoint &endpoint, uint64_t address, const uint8_t *proof,
                   std::string *why);
// Why process_vm_readv ended so. yama_scope: -1: the kernel has none.
std::string attach_forbidden(int error, int yama_scope, uint32_t own_uid, uint32_t peer_uid);

// ---- units.cc --------------------------------------------------------------------------------

// How a slice of the endpoint on that region would go now. 0: not at all.
uint32_t method_of(const Endpoint &endpoint, const RemoteRegion *region);

}  // namespace tent::shm

#endif
