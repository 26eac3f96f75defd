// The broken cable: cutting a rail, healing it, and what that does to its endpoints.
//
// Leans on state.h. Must never hand a slice back while the decorated transport may still touch its
// memory: a failing endpoint is closed there first, and its slices come back as they are let go.
#include "state.h"

#include <cstdio>

namespace tent::fault {

int32_t endpoint_close_inner(Endpoint &endpoint) {
    Instance &instance = *endpoint.instance;
    int32_t status = TENT_OK;
    if (endpoint.inner != nullptr)
        status = instance.inner->endpoint_close(instance.inner_instance, endpoint.inner);
    if (status != TENT_OK) return status;
    endpoint.inner = nullptr;
    if (endpoint.closing) {
        endpoint.closing = false;
        --instance.closing_count;
    }
    return TENT_OK;
}

void endpoints_close_on(Instance &instance) {
    for (Endpoint *endpoint = instance.endpoints; endpoint != nullptr && instance.closing_count > 0;
         endpoint = endpoint->next) {
        if (endpoint->closing) endpoint_close_inner(*endpoint);
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

void endpoint_break(Endpoint &endpoint) {
    Instance &instance = *endpoint.instance;
    if (endpoint.broken) return;
    endpoint.broken = true;
    if (endpoint.rail->options.cut_hangs) return;
    endpoint.news = true;
    ++instance.news_count;
    if (endpoint_close_inner(endpoint) != TENT_OK) {
        endpoint.closing = true;
        ++instance.closing_count;
    }
    endpoint_flush_held(endpoint, TENT_E_TRANSPORT);
}

void rail_update(Rail &rail, uint64_t now_ns) {
    if (rail.cut && now_ns >= rail.heal_ns) {
        rail.cut = false;
        rail.heal_ns = UINT64_MAX;
    }
    if (rail.cut || rail.cut_spent || rail.posted_size < rail.options.cut_after_size) return;
    rail.cut = true;
    rail.cut_spent = true;
    if (rail.options.cut_for_ns != 0) rail.heal_ns = now_ns + rail.options.cut_for_ns;
    for (Endpoint *endpoint = rail.instance->endpoints; endpoint != nullptr;
         endpoint = endpoint->next) {
        if (endpoint->rail == &rail && endpoint->initiator && !endpoint->closed)
            endpoint_break(*endpoint);
    }
}

void endpoints_report(Instance &instance) {
    while (instance.news_count > 0) {
        // From the start each time: the core may close endpoints from within the call.
        Endpoint *endpoint = instance.endpoints;
        while (!endpoint->news)
            endpoint = endpoint->next;
        endpoint->news = false;
        --instance.news_count;
        char sentence[120];
        snprintf(sentence, sizeof sentence, "rail %u was cut by fault after %llu posted bytes",
                 endpoint->rail->index,
                 static_cast<unsigned long long>(endpoint->rail->posted_size));
        instance.host->endpoint_state(instance.host->ctx, endpoint->number, TENT_E_TRANSPORT,
                                      sentence);
    }
}

void endpoint_free(Endpoint &endpoint) {
    Endpoint **link = &endpoint.instance->endpoints;
    while (*link != &endpoint)
        link = &(*link)->next;
    *link = endpoint.next;
    delete &endpoint;
}

}  // namespace tent::fault
