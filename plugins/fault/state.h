// What an instance of the fault decorator holds: rails with their link model, wrapped endpoints,
// and a slot for each slice between the core and the decorated transport.
//
// Thread-safety: none needed, the core calls one instance from one thread at a time.
// Leans on options.h. Slots come with the instance: post and poll allocate nothing.
#ifndef TENT_PLUGINS_FAULT_STATE_H
#define TENT_PLUGINS_FAULT_STATE_H

#include <tent/plugin.h>

#include <cstdint>
#include <memory>

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
    uint64_t link_free_ns = 0;  // when the serial link has carried all that was posted
    uint64_t posted_size = 0;
    bool cut = false;
    bool cut_spent = false;  // it was cut once; a healed cable stays whole
    uint64_t heal_ns = UINT64_MAX;
    SlotList link;  // slots on the link, by the time they leave it
};

struct Endpoint {
    Instance *instance = nullptr;
    Endpoint *next = nullptr;
    Rail *rail = nullptr;
    void *inner = nullptr;  // nullptr: closed in the decorated transport
    uint64_t number = 0;    // the core's name
    uint32_t slot_count = 0;
    bool initiator = false;
    bool broken = false;   // the cut reached it
    bool news = false;     // its failure is still to be told
    bool closing = false;  // broken, and its inner close is in progress
    bool closed = false;   // the core is done with it
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
    SlotState state;
    bool on_link;  // in its rail's list
};

struct Instance {
    const tent_host *host = nullptr;
    const tent_plugin *inner = nullptr;
    void *inner_instance = nullptr;
    tent_host inner_host{};
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
};

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
// Hands out results; frees endpoints that are closed and have no slot left.
uint32_t slots_collect(Instance &instance, tent_slice_result *results, uint32_t room);
uint64_t links_next_ns(const Instance &instance);

// ---- cuts (cut.cc) ----

// Cuts or heals the rail if it is time.
void rail_update(Rail &rail, uint64_t now_ns);
// Closes it in the decorated transport; to be called again while that is in progress.
int32_t endpoint_close_inner(Endpoint &endpoint);
void endpoints_close_on(Instance &instance);
// An endpoint meets a cut rail: with cut=error it fails.
void endpoint_break(Endpoint &endpoint);
void endpoints_report(Instance &instance);
void endpoint_free(Endpoint &endpoint);
// Results that are back but held: handed out with this status.
void endpoint_flush_held(Endpoint &endpoint, int32_t status);

}  // namespace tent::fault

#endif
