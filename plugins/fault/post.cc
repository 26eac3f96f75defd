// The data path on the way in: slices get their slots, the link and the faults take their share,
// the rest goes to the decorated transport.
//
// Leans on state.h. Must never allocate, nor take anything but a prefix of what is posted.
#include <algorithm>
#include <cstdio>

#include "state.h"

namespace tent::fault {
namespace {

uint64_t link_ns(const Rail &rail, uint64_t bytes) {
    const uint64_t rate = rail.cable.throttle_bytes_per_s;
    return rate != 0 ? bytes * 1'000'000'000 / rate : 0;  // bytes <= 1 GiB
}

// The prefix of the slices that may be forwarded now, under their slots' numbers. *drop: the one
// behind them is to vanish.
uint32_t batch_make(Instance &instance, Endpoint &endpoint, const tent_slice *slices,
                    uint32_t count, uint64_t now_ns, tent_slice *batch, bool *drop) {
    Rail &rail = *endpoint.rail;
    uint64_t link_free_ns = std::max(now_ns, rail.link_free_ns);
    uint64_t posted_size = rail.posted_size;
    uint32_t made = 0;
    *drop = false;
    while (made < count && made < BATCH_MAX && link_free_ns - now_ns <= BACKLOG_MAX_NS) {
        if (!rail.cut_spent && posted_size >= rail.options.cut_after_size) break;
        *drop = will_drop(instance.faults, made, now_ns) || will_drop(rail.faults, made, now_ns);
        if (*drop) break;
        const uint32_t index = slot_take(instance, endpoint, slices[made].id);
        if (index == NONE) break;
        batch[made] = slices[made];
        batch[made].id = index;
        posted_size += slices[made].length;
        link_free_ns += link_ns(rail, slices[made].length);
        ++made;
    }
    return made;
}

// What was accepted: charged to the link and to the cut, and marked with the fault that befalls it.
void batch_charge(Instance &instance, Endpoint &endpoint, const tent_slice *batch, uint32_t count,
                  uint64_t now_ns) {
    Rail &rail = *endpoint.rail;
    for (uint32_t i = 0; i < count; ++i) {
        const auto index = static_cast<uint32_t>(batch[i].id);
        rail.posted_size += batch[i].length;
        if (rail.cable.throttle_bytes_per_s != 0) {
            rail.link_free_ns =
                std::max(now_ns, rail.link_free_ns) + link_ns(rail, batch[i].length);
            slot_onto_link(instance, index, rail.link_free_ns);
            endpoint.link_size += batch[i].length;
            endpoint.link_end_ns = rail.link_free_ns;
        }
        const Failure failure = struck(instance, &rail, Operation::SLICE);
        Slot &slot = instance.slots[index];
        if (failure == Failure::SLICE) slot.turned = TENT_E_TRANSPORT;
        if (failure == Failure::CORRUPT) slot.turned = TENT_E_CORRUPT;
        if (failure == Failure::DROP_RESULT) slot.muted = true;
    }
}

// Takes slices and never answers.
uint32_t swallow(Instance &instance, Endpoint &endpoint, const tent_slice *slices, uint32_t count) {
    uint32_t taken = 0;
    while (taken < count) {
        const uint32_t index = slot_take(instance, endpoint, slices[taken].id);
        if (index == NONE) break;
        instance.slots[index].state = SlotState::HELD;
        instance.slots[index].muted = true;
        ++taken;
    }
    return taken;
}

// The next slice vanishes; false: no slot is left for it.
bool drop_next(Instance &instance, Endpoint &endpoint, const tent_slice &slice) {
    if (swallow(instance, endpoint, &slice, 1) == 0) return false;
    endpoint.rail->posted_size += slice.length;
    struck(instance, endpoint.rail, Operation::SLICE);  // counted; it cannot fail twice
    figures_strike(Failure::DROP, Operation::SLICE);
    return true;
}

void fail_post(Endpoint &endpoint) {
    snprintf(endpoint.sentence, sizeof endpoint.sentence, "rail %u: a post was failed by fault",
             endpoint.rail->index);
    endpoint_fail(endpoint);
}

// How many of the slices a failing post may still take.
uint32_t post_limit(Instance &instance, Endpoint &endpoint, uint32_t count) {
    switch (struck(instance, endpoint.rail, Operation::POST)) {
        case Failure::NONE: return count;
        case Failure::PARTIAL:
            return static_cast<uint32_t>(random_next(&endpoint.rail->faults.random) % count);
        case Failure::FULL: return 0;
        default: fail_post(endpoint); return 0;
    }
}

}  // namespace

uint32_t post(void *opaque, void *handle, const tent_slice *slices, uint32_t count) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    const uint64_t now_ns = instance.now_ns();
    endpoint.rail->used = true;
    rail_update(*endpoint.rail, now_ns);
    if (!endpoint.broken && count > 0) count = post_limit(instance, endpoint, count);
    uint32_t taken = 0;
    while (taken < count) {
        rail_update(*endpoint.rail, now_ns);
        if (endpoint.hangs)
            return taken + swallow(instance, endpoint, slices + taken, count - taken);
        if (endpoint.broken) return taken;
        tent_slice batch[BATCH_MAX];
        bool drop = false;
        const uint32_t made =
            batch_make(instance, endpoint, slices + taken, count - taken, now_ns, batch, &drop);
        const uint32_t accepted =
            made > 0 ? instance.inner->post(instance.inner_instance, endpoint.inner, batch, made)
                     : 0;
        for (uint32_t i = made; i > accepted; --i)
            slot_free(instance, endpoint, static_cast<uint32_t>(batch[i - 1].id));
        batch_charge(instance, endpoint, batch, accepted, now_ns);
        taken += accepted;
        if (accepted < made || (made == 0 && !drop)) break;
        if (drop && !drop_next(instance, endpoint, slices[taken])) break;
        taken += drop ? 1 : 0;
    }
    rail_update(*endpoint.rail, now_ns);
    return taken;
}

}  // namespace tent::fault
