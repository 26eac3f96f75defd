// Slots and their time: a slice leaves a throttled link no earlier than max(now, link free) + bytes
// / rate, and its result may be delayed beyond that.
//
// Leans on state.h. Must never allocate, and never hand out a slice that the decorated transport
// still has.
#include <algorithm>

#include "state.h"

namespace tent::fault {
namespace {

void list_remove(Instance &instance, SlotList &list, uint32_t index) {
    Slot &slot = instance.slots[index];
    (slot.previous != NONE ? instance.slots[slot.previous].next : list.head) = slot.next;
    (slot.next != NONE ? instance.slots[slot.next].previous : list.tail) = slot.previous;
}

// Puts it behind `previous`; NONE: at the head.
void list_insert(Instance &instance, SlotList &list, uint32_t previous, uint32_t index) {
    Slot &slot = instance.slots[index];
    slot.previous = previous;
    uint32_t &link = previous != NONE ? instance.slots[previous].next : list.head;
    slot.next = link;
    link = index;
    (slot.next != NONE ? instance.slots[slot.next].previous : list.tail) = index;
}

void link_leave(Instance &instance, uint32_t index) {
    Slot &slot = instance.slots[index];
    if (slot.on_link) list_remove(instance, slot.endpoint->rail->link, index);
    slot.on_link = false;
}

// The cable's delay, counted from the end of what the link itself takes.
void delay_begin(Instance &instance, uint32_t index, uint64_t now_ns) {
    Slot &slot = instance.slots[index];
    Rail &rail = *slot.endpoint->rail;
    if (slot.delayed || rail.cable.delay_ns_max == 0) return;
    slot.delayed = true;
    const uint64_t spread_ns = rail.cable.delay_ns_max - rail.cable.delay_ns_min + 1;
    const uint64_t delay_ns = rail.cable.delay_ns_min +
                              (spread_ns > 1 ? random_next(&rail.faults.random) % spread_ns : 0);
    const uint64_t begin_ns = slot.on_link ? std::max(slot.release_ns, now_ns) : now_ns;
    link_leave(instance, index);
    slot_onto_link(instance, index, begin_ns + delay_ns);
}

// Neither its time nor anything else but an end of its endpoint brings it back.
bool kept(const Slot &slot) {
    return slot.muted || slot.endpoint->withheld || slot.endpoint->hangs;
}

}  // namespace

uint32_t slot_take(Instance &instance, Endpoint &endpoint, uint64_t id) {
    const uint32_t index = instance.free_head;
    if (index == NONE) return NONE;
    Slot &slot = instance.slots[index];
    instance.free_head = slot.next;
    slot = Slot{};
    slot.id = id;
    slot.endpoint = &endpoint;
    slot.next = slot.previous = NONE;
    slot.status = TENT_IN_PROGRESS;
    slot.state = SlotState::INSIDE;
    ++endpoint.slot_count;
    return index;
}

void slot_free(Instance &instance, Endpoint &endpoint, uint32_t index) {
    Slot &slot = instance.slots[index];
    --endpoint.slot_count;
    slot.state = SlotState::FREE;
    slot.next = instance.free_head;
    instance.free_head = index;
}

void slot_onto_link(Instance &instance, uint32_t index, uint64_t release_ns) {
    Slot &slot = instance.slots[index];
    slot.release_ns = release_ns;
    slot.on_link = true;
    // From the end: only delays that vary, or that end, put one before another.
    SlotList &link = slot.endpoint->rail->link;
    uint32_t previous = link.tail;
    while (previous != NONE && instance.slots[previous].release_ns > release_ns)
        previous = instance.slots[previous].previous;
    list_insert(instance, link, previous, index);
}

void slot_ready(Instance &instance, uint32_t index, int32_t status) {
    Slot &slot = instance.slots[index];
    link_leave(instance, index);
    slot.state = SlotState::READY;
    slot.status = status;
    list_insert(instance, instance.ready, instance.ready.tail, index);
}

void slot_returned(Instance &instance, uint32_t index, int32_t status, uint64_t now_ns) {
    Slot &slot = instance.slots[index];
    const Endpoint &endpoint = *slot.endpoint;
    if (status == TENT_OK && slot.turned != TENT_OK) status = slot.turned;
    slot.state = SlotState::HELD;
    slot.status = status;
    if (endpoint.closed) {
        // To the core it had not come back yet.
        const bool undelivered = slot.on_link || slot.muted || endpoint.broken;
        slot_ready(instance, index, status == TENT_OK && undelivered ? TENT_E_CANCELLED : status);
    } else if (endpoint.broken && !endpoint.hangs) {
        slot_ready(instance, index, TENT_E_TRANSPORT);
    } else if (endpoint.hangs || endpoint.withheld || (slot.muted && status == TENT_OK)) {
        link_leave(instance, index);
    } else if (status != TENT_OK) {
        slot_ready(instance, index, status);
    } else {
        delay_begin(instance, index, now_ns);
        if (!slot.on_link || slot.release_ns <= now_ns) slot_ready(instance, index, status);
    }
}

void link_release(Rail &rail, uint64_t now_ns) {
    Instance &instance = *rail.instance;
    while (rail.link.head != NONE && instance.slots[rail.link.head].release_ns <= now_ns) {
        const uint32_t index = rail.link.head;
        const Slot &slot = instance.slots[index];
        link_leave(instance, index);
        if (slot.state == SlotState::HELD && !kept(slot)) slot_ready(instance, index, slot.status);
    }
}

void endpoint_flush_held(Endpoint &endpoint, int32_t status) {
    Instance &instance = *endpoint.instance;
    for (uint32_t i = 0; i < instance.slot_count && endpoint.slot_count > 0; ++i) {
        const Slot &slot = instance.slots[i];
        if (slot.endpoint == &endpoint && slot.state == SlotState::HELD)
            slot_ready(instance, i, status);
    }
}

void slots_forget(Endpoint &endpoint) {
    Instance &instance = *endpoint.instance;
    for (uint32_t i = 0; i < instance.slot_count && endpoint.slot_count > 0; ++i) {
        const Slot &slot = instance.slots[i];
        if (slot.endpoint != &endpoint || slot.state == SlotState::FREE) continue;
        link_leave(instance, i);
        if (slot.state == SlotState::INSIDE) continue;
        if (slot.state == SlotState::READY) list_remove(instance, instance.ready, i);
        slot_free(instance, endpoint, i);
    }
}

uint32_t slots_collect(Instance &instance, tent_slice_result *results, uint32_t room) {
    uint32_t count = 0;
    while (count < room && instance.ready.head != NONE) {
        const uint32_t index = instance.ready.head;
        list_remove(instance, instance.ready, index);
        const Slot &slot = instance.slots[index];
        Endpoint &endpoint = *slot.endpoint;
        results[count++] = tent_slice_result{slot.id, slot.status, 0};
        slot_free(instance, endpoint, index);
        if (endpoint.closed && endpoint.slot_count == 0) endpoint_free(endpoint);
    }
    return count;
}

uint64_t links_next_ns(const Instance &instance) {
    uint64_t next_ns = UINT64_MAX;
    for (const Rail *rail = instance.rails; rail != nullptr; rail = rail->next) {
        if (rail->link.head == NONE) continue;
        next_ns = std::min(next_ns, instance.slots[rail->link.head].release_ns);
    }
    return next_ns;
}

}  // namespace tent::fault
