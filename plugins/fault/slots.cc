// Slots and the serial link: a slice leaves the link no earlier than max(now, link free) + bytes /
// rate.
//
// Leans on state.h. Must never allocate, and never hand out a slice that the decorated transport
// still has.
#include "state.h"

namespace tent::fault {
namespace {

void list_remove(Instance &instance, SlotList &list, uint32_t index) {
    Slot &slot = instance.slots[index];
    (slot.previous != NONE ? instance.slots[slot.previous].next : list.head) = slot.next;
    (slot.next != NONE ? instance.slots[slot.next].previous : list.tail) = slot.previous;
}

void list_push(Instance &instance, SlotList &list, uint32_t index) {
    Slot &slot = instance.slots[index];
    slot.previous = list.tail;
    slot.next = NONE;
    (list.tail != NONE ? instance.slots[list.tail].next : list.head) = index;
    list.tail = index;
}

}  // namespace

uint32_t slot_take(Instance &instance, Endpoint &endpoint, uint64_t id) {
    const uint32_t index = instance.free_head;
    if (index == NONE) return NONE;
    Slot &slot = instance.slots[index];
    instance.free_head = slot.next;
    slot = Slot{id, &endpoint, 0, NONE, NONE, TENT_IN_PROGRESS, SlotState::INSIDE, false};
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
    list_push(instance, slot.endpoint->rail->link, index);
}

void slot_ready(Instance &instance, uint32_t index, int32_t status) {
    Slot &slot = instance.slots[index];
    if (slot.on_link) list_remove(instance, slot.endpoint->rail->link, index);
    slot.on_link = false;
    slot.state = SlotState::READY;
    slot.status = status;
    list_push(instance, instance.ready, index);
}

void slot_returned(Instance &instance, uint32_t index, int32_t status, uint64_t now_ns) {
    Slot &slot = instance.slots[index];
    const Endpoint &endpoint = *slot.endpoint;
    slot.state = SlotState::HELD;
    slot.status = status;
    if (endpoint.closed) {
        // The model's cable had not delivered it yet.
        const bool undelivered = slot.on_link || endpoint.broken;
        slot_ready(instance, index, status == TENT_OK && undelivered ? TENT_E_CANCELLED : status);
    } else if (endpoint.broken) {
        if (!endpoint.rail->options.cut_hangs) slot_ready(instance, index, TENT_E_TRANSPORT);
    } else if (status != TENT_OK || !slot.on_link || slot.release_ns <= now_ns) {
        slot_ready(instance, index, status);
    }
}

void link_release(Rail &rail, uint64_t now_ns) {
    Instance &instance = *rail.instance;
    while (rail.link.head != NONE && instance.slots[rail.link.head].release_ns <= now_ns) {
        const uint32_t index = rail.link.head;
        Slot &slot = instance.slots[index];
        list_remove(instance, rail.link, index);
        slot.on_link = false;
        const bool hangs = slot.endpoint->broken && rail.options.cut_hangs;
        if (slot.state == SlotState::HELD && !hangs) slot_ready(instance, index, slot.status);
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
        const uint64_t release_ns = instance.slots[rail->link.head].release_ns;
        next_ns = release_ns < next_ns ? release_ns : next_ns;
    }
    return next_ns;
}

}  // namespace tent::fault
