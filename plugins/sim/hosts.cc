// What becomes of a host's processes: frozen, killed, without power. See fabric.h and sim.h.
#include "fabric.h"

namespace tent::sim {

namespace {

// A process ends without a word: what it had not sent is never sent, what was on the wire goes on,
// and nothing reaches its memory. Its engine stays, inert, until somebody closes it.
void kill(Fabric &fabric, Instance &instance, bool silent) {
    instance.dead = true;
    for (Endpoint *endpoint = fabric.endpoints; endpoint != nullptr;) {
        // Orphans stay in the list; only their peers may leave it, and they come with them.
        Endpoint *next = endpoint->next;
        if (endpoint->instance == &instance) {
            endpoint_orphan(fabric, *endpoint);
            next = endpoint->next;
        }
        endpoint = next;
    }
    inbox_work(instance);  // all of it is for closed endpoints
    streams_orphan(instance, silent);
}

}  // namespace

void host_set(Fabric &fabric, Host &host, uint32_t state, bool deaf) {
    const bool was_dark = host.dark();
    host.state = state;
    host.deaf = deaf;
    if (state == TENT_SIM_HOST_KILLED || state == TENT_SIM_HOST_DARK)
        for (Instance *instance : fabric.instances)
            if (instance->place == &host && !instance->dead)
                kill(fabric, *instance, state == TENT_SIM_HOST_DARK);
    // What came while they were stopped is there for the card.
    if (state == TENT_SIM_HOST_FROZEN_CARD)
        for (Instance *instance : fabric.instances)
            if (instance->place == &host) inbox_work(*instance);
    if (was_dark && !host.dark()) streams_retry(fabric);
}

}  // namespace tent::sim
