// What an instance of the fault decorator holds: rails with the model of their cable, wrapped
// endpoints, streams and regions, and a slot for each slice between the core and the decorated
// transport.
//
// Thread-safety: none needed, the core calls one instance from one thread at a time.
// Leans on options.h. Slots come with the instance: post and poll allocate nothing.
#ifndef TENT_PLUGINS_FAULT_STATE_H
#define TENT_PLUGINS_FAULT_STATE_H

#include <tent/plugin.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "options.h"

namespace tent::fault {

struct Instance;

constexpr uint32_t NONE = UINT32_MAX;
constexpr uint32_t BATCH_MAX = 64;               // slices or results that cross in one inner call
constexpr uint64_t BACKLOG_MAX_NS = 50'000'000;  // a throttled rail takes this much work ahead

struct SlotList {
    uint32_t head = NONE;
    uint32_t tail = NONE;
};

struct Rail {
    Instance *instance = nullptr;
    Rail *next = nullptr;
    void *inner = nullptr;
    uint32_t index = 0;
    Options options;
    Faults faults;
    uint64_t start_ns = 0;      // when it was opened: schedules count from here
    Cable cable;                // what it is now
    uint64_t link_free_ns = 0;  // when the serial link has carried all that was posted
    uint64_t posted_size = 0;
    bool used = false;  // a cut after 0 bytes comes with the first use
    bool cut = false;
    Cut cut_kind = Cut::ERROR;
    bool cut_spent = false;  // it was cut after its bytes; a healed cable stays whole
    uint64_t heal_ns = 0;    // that cut's end
    SlotList link;           // slots that wait for their time, by it
};

struct Endpoint {
    Instance *instance = nullptr;
    Endpoint *next = nullptr;
    Rail *rail = nullptr;
    void *inner = nullptr;  // nullptr: closed in the decorated transport
    uint64_t number = 0;    // the core's name
    uint32_t slot_count = 0;
    bool initiator = false;
    bool broken = false;    // by a cut, or by a failing post
    bool hangs = false;     // broken, and nothing comes back
    bool news = false;      // its failure is still to be told
    bool closing = false;   // broken, and its inner close is in progress
    bool withheld = false;  // the core's close hangs: no result comes back until it is through
    bool closed = false;    // the core is done with it
    // Of a throttled cable: what was put on it, when it will have left, and what was told so far.
    uint64_t link_size = 0;
    uint64_t link_end_ns = 0;
    uint64_t progress = 0;
    char sentence[120] = {};  // of its failure
};

// Free; inside the decorated transport; back but held (by the link, or hanging); in the list of
// results.
enum class SlotState : uint8_t { FREE, INSIDE, HELD, READY };

struct Slot {
    uint64_t id;  // the core's
    Endpoint *endpoint;
    uint64_t release_ns;
    uint32_t next;
    uint32_t previous;
    int32_t status;
    int32_t turned;  // a success becomes this
    SlotState state;
    bool on_link;  // in its rail's list
    bool delayed;  // its cable's delay is in release_ns
    bool muted;    // its success is never told
};

struct Stream {
    Stream *next = nullptr;
    void *inner = nullptr;
    bool broken = false;
};

struct Instance {
    const tent_host *host = nullptr;
    const tent_plugin *inner = nullptr;
    void *inner_instance = nullptr;
    tent_host inner_host{};
    Faults faults;
    Seed seed;
    Rail *rails = nullptr;
    Endpoint *endpoints = nullptr;
    uint32_t news_count = 0;
    uint32_t closing_count = 0;  // broken endpoints whose inner close is in progress
    uint32_t slot_count = 0;
    uint32_t free_head = NONE;
    SlotList ready;  // results to hand out
    int epoll_fd = -1;
    int timer_fd = -1;
    uint64_t armed_ns = UINT64_MAX;
    std::unique_ptr<Slot[]> slots;
    std::vector<void *> regions_kept;  // of the decorated transport, their release hangs
    Stream *streams = nullptr;
    bool ending = false;  // what the core left open is closed: it wants no news of that

    uint64_t now_ns() const { return host->now_ns(host->ctx); }
};

inline Instance &instance_of(void *opaque) {
    return *static_cast<Instance *>(opaque);
}

// Is the function offered by the decorated transport, whose table may be older than ours?
#define TENT_FAULT_OFFERS(instance, function)                                    \
    ((instance).inner->size >=                                                   \
         offsetof(tent_plugin, function) + sizeof((instance).inner->function) && \
     (instance).inner->function != nullptr)

// ---- instances (fault.cc) ----

int32_t refuse(const Instance &instance, int32_t status, const char *sentence);
// Counts an operation and says how it fails; NONE: it does not. rail: nullptr: it concerns none.
Failure struck(Instance &instance, Rail *rail, Operation operation);
// The same for operations that can only fail; a sentence is left then.
bool fails(Instance &instance, Rail *rail, Operation operation);

// Takes the decorated transport's results, once.
uint32_t inner_poll(Instance &instance, uint32_t *busy);

// The host table of the decorated transport (host.cc): the core's, but that a dead cable brings no
// news.
void host_wrap(Instance &instance);

// ---- slots (slots.cc) ----

// Takes a free slot, NONE when there is none.
uint32_t slot_take(Instance &instance, Endpoint &endpoint, uint64_t id);
// Frees a slot: its result was handed out, or the decorated transport did not accept the slice.
void slot_free(Instance &instance, Endpoint &endpoint, uint32_t index);
// Puts it on the rail's link until release_ns.
void slot_onto_link(Instance &instance, uint32_t index, uint64_t release_ns);
// Its result may be handed out: takes it off the link.
void slot_ready(Instance &instance, uint32_t index, int32_t status);
// A result of the decorated transport.
void slot_returned(Instance &instance, uint32_t index, int32_t status, uint64_t now_ns);
// Results whose time has come leave the rail's link.
void link_release(Rail &rail, uint64_t now_ns);
// Results that are back but held: handed out with this status.
void endpoint_flush_held(Endpoint &endpoint, int32_t status);
// Nobody wants its results any more; what is still inside keeps its slot.
void slots_forget(Endpoint &endpoint);
// Hands out results; frees endpoints that are closed and have no slot left.
uint32_t slots_collect(Instance &instance, tent_slice_result *results, uint32_t room);
uint64_t links_next_ns(const Instance &instance);

// ---- cables (cable.cc) ----

// Cuts, heals, slows or flaps the rail if it is time.
void rail_update(Rail &rail, uint64_t now_ns);
// When it will be time next; UINT64_MAX: never.
uint64_t rail_next_ns(const Rail &rail, uint64_t now_ns);
// Closes it in the decorated transport; to be called again while that is in progress.
int32_t endpoint_close_inner(Endpoint &endpoint);
void endpoints_close_on(Instance &instance);
// An endpoint meets a cut rail.
void endpoint_cut(Endpoint &endpoint);
// It fails, now; its slices come back as the decorated transport lets go of them.
void endpoint_fail(Endpoint &endpoint);
void news_clear(Endpoint &endpoint);
void endpoints_report(Instance &instance);
void endpoint_free(Endpoint &endpoint);

// ---- the table's functions ----

// setup.cc
// Closes what the core has given up in the decorated transport: the endpoints of a rail, regions.
void endpoints_end_on(Rail &rail);
void regions_end(Instance &instance);
int32_t rail_open(void *opaque, const tent_rail_params *params, void **out, tent_rail_info *info);
void rail_close(void *opaque, void *handle);
int32_t rail_reach(void *opaque, void *rail, const char *peer_rail);
int32_t region_register(void *opaque, const tent_region_params *params, void **region);
int32_t region_export(void *opaque, void *region, void *bytes, uint32_t *size);
int32_t region_release(void *opaque, void *region);
int32_t segment_import(void *opaque, const void *bytes, uint32_t size, void **remote_region);
void segment_forget(void *opaque, void *remote_region);
// endpoints.cc
int32_t endpoint_offer(void *opaque, const tent_endpoint_params *params, void **endpoint,
                       void *offer, uint32_t *size);
int32_t endpoint_accept(void *opaque, const tent_endpoint_params *params, void **endpoint,
                        void *answer, uint32_t *size);
int32_t endpoint_connect(void *opaque, void *handle, const tent_endpoint_params *params);
int32_t endpoint_adopt(void *opaque, void *handle, uint32_t connection, int fd);
void endpoint_message(void *opaque, void *handle, const void *bytes, uint32_t size);
int32_t endpoint_close(void *opaque, void *handle);
int32_t endpoint_retire(void *opaque, void *handle);
uint64_t endpoint_progress(void *opaque, void *handle);
void endpoint_region(void *opaque, void *handle, void *remote_region);
void endpoint_about(void *opaque, void *handle, void *remote_region, char *text, uint32_t size);
void region_about(void *opaque, void *region, char *text, uint32_t size);
int32_t endpoint_settle(void *opaque, void *handle, uint64_t *mark);
// post.cc
uint32_t post(void *opaque, void *handle, const tent_slice *slices, uint32_t count);
// streams.cc
int32_t stream_listen(void *opaque, const char *address, uint16_t *port);
int32_t stream_connect(void *opaque, const char *address, void **out);
int32_t stream_accept(void *opaque, void **out, char *from);
int32_t stream_state(void *opaque, void *handle);
int64_t stream_send(void *opaque, void *handle, const void *bytes, uint64_t size);
int64_t stream_receive(void *opaque, void *handle, void *bytes, uint64_t room);
void stream_close(void *opaque, void *handle);

}  // namespace tent::fault

#endif
