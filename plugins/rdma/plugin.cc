// The rdma transport's table, and its duty cycle.
//
// Leans on state.h, pairs.h. A slice costs no system call here: descriptors are looked at when
// nothing is under way, and once in a while. Before the driver sleeps, completion queues are told
// to ring (next_ns).
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>

#include "mutant.h"
#include "pairs.h"

#ifndef TENT_VERSION
#define TENT_VERSION "0"
#endif

namespace tent::rdma {
namespace {

constexpr int EVENTS_MAX = 32;
constexpr uint64_t LOOK_INTERVAL_NS = 50'000;
constexpr uint64_t STEP_INTERVAL_NS = 1'000'000;

bool rails_take(Instance &instance) {
    bool any = false;
    for (Rail *rail : instance.rails)
        if (rail != nullptr && rail->in_flight > 0) any |= completions_take(*rail);
    return any;
}

// True: asynchronous events wait, or an errand is done.
bool descriptors_read(Instance &instance) {
    bool stepping = false;
    epoll_event events[EVENTS_MAX];
    const int count = epoll_wait(instance.epoll_fd, events, EVENTS_MAX, 0);
    for (int i = 0; i < count; i++) {
        const uint64_t tag = events[i].data.u64;
        const auto slot = static_cast<uint32_t>(tag);
        uint64_t errands = 0;
        switch (static_cast<Watched>(tag >> 32)) {
            case Watched::WAKE:
                if (read(instance.wake_fd, &errands, sizeof errands) > 0)
                    instance.moved = stepping = true;
                break;
            case Watched::COMPLETIONS:
                if (slot < RAILS_MAX && instance.rails[slot] != nullptr)
                    notifications_take(*instance.rails[slot]);
                break;
            default: stepping = true;
        }
    }
    return stepping;
}

bool work_under_way(const Instance &instance) {
    return std::any_of(std::begin(instance.rails), std::end(instance.rails),
                       [](const Rail *rail) { return rail != nullptr && rail->in_flight > 0; });
}

void look(Instance &instance, uint64_t now_ns) {
    // Who was woken may sleep again at once: what woke it is done now.
    const bool stepping =
        descriptors_read(instance) || now_ns - instance.stepped_ns >= STEP_INTERVAL_NS;
    if (stepping || events_due_ns(instance) <= now_ns) events_step(instance, now_ns);
    if (stepping || instance.connecting > 0) endpoints_step(instance, now_ns);
    if (stepping) instance.stepped_ns = now_ns;
    instance.looked_ns = now_ns;
}

uint32_t results_take(Instance &instance, tent_slice_result *results, uint32_t room) {
    uint32_t count = 0;
    while (count < room && instance.results_head < instance.results_tail)
        results[count++] = instance.results[instance.results_head++ % instance.results.size()];
    return count;
}

uint32_t poll(void *opaque, tent_slice_result *results, uint32_t room, uint32_t *busy) {
    Instance &instance = instance_of(opaque);
    instance.moved = false;
    const bool any = rails_take(instance);
    const uint64_t now_ns = now_of(instance);
    if (now_ns - instance.looked_ns >= LOOK_INTERVAL_NS || (!any && !work_under_way(instance)))
        look(instance, now_ns);
    if (instance.news) endpoints_report(instance);
    const uint32_t count = results_take(instance, results, room);
    if (instance.moved || count > 0) *busy = 1;
    return count;
}

int event_fd(void *opaque) {
    return instance_of(opaque).epoll_fd;
}

// A completion that comes after this rings. One that came just before is found now.
bool rail_arm(Rail &rail) {
    if (rail.cq == nullptr || rail.in_flight == 0 || rail.armed) return false;
    if (ibv_req_notify_cq(rail.cq, 0) != 0) {
        device_suspect(rail);
        return false;
    }
    rail.armed = true;
    if (mutant(Mutant::rdma_arm)) return false;
    return completions_take(rail);
}

uint64_t next_ns(void *opaque) {
    Instance &instance = instance_of(opaque);
    bool found = false;
    for (Rail *rail : instance.rails)
        if (rail != nullptr) found |= rail_arm(*rail);
    if (found || instance.news || instance.results_head < instance.results_tail) return 0;
    return std::min(events_due_ns(instance), endpoints_due_ns(instance, now_of(instance)));
}

const tent_plugin TABLE = {
    .size = sizeof(tent_plugin),
    .abi = TENT_PLUGIN_ABI,
    .name = "rdma",
    .version = TENT_VERSION,
    .summary = "one-sided reads and writes over InfiniBand and RoCE, by libibverbs",
    .available = available,
    .open = instance_open,
    .close = instance_close,
    .rail_open = rail_open,
    .rail_close = rail_close,
    .rail_reach = rail_reach,
    .rails = rails,
    .region_register = region_register,
    .region_export = region_export,
    .region_release = region_release,
    .segment_import = segment_import,
    .segment_forget = segment_forget,
    .endpoint_offer = endpoint_offer,
    .endpoint_accept = endpoint_accept,
    .endpoint_connect = endpoint_connect,
    .endpoint_message = endpoint_message,
    .endpoint_close = endpoint_close,
    .endpoint_retire = endpoint_retire,
    .post = post,
    .poll = poll,
    .event_fd = event_fd,
    .next_ns = next_ns,
    .memory = TENT_MEMORY_HOST | TENT_MEMORY_CUDA,
    .flags = TENT_PLUGIN_REGISTERS_ASIDE,
    .options = OPTION_INFOS,
    .option_count = OPTION_COUNT,
    .option_stride = sizeof(tent_option_info),
    .endpoint_region = endpoint_region,
    .endpoint_about = endpoint_about,
    .region_about = region_about,
    .endpoint_settle = endpoint_settle,
};

}  // namespace
}  // namespace tent::rdma

extern "C" const tent_plugin *tent_plugin_query(uint32_t abi) {
    return abi == TENT_PLUGIN_ABI ? &tent::rdma::TABLE : nullptr;
}
