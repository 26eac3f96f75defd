// The shm transport's table: rails, and the duty cycle of post and poll.
//
// Leans on state.h, jobs.h, ring.h. A slice of mapped memory costs no system call here: sockets are
// looked at when nothing else is to do, and once in a while.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "jobs.h"
#include "listen.h"
#include "ring.h"
#include "socket.h"
#include "state.h"
#include "watch.h"

#ifndef TENT_VERSION
#define TENT_VERSION "0"
#endif

namespace tent::shm {
namespace {

constexpr char DEVICE[] = "host";
constexpr int EVENTS_MAX = 64;
constexpr uint64_t LOOK_INTERVAL_NS = 50'000;
constexpr uint64_t DIAL_INTERVAL_NS = 1'000'000;

int32_t available(char *reason, uint32_t reason_size) {
    Place place;
    const int fd = memfd_create("tent-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    std::string why;
    if (fd < 0)
        why = format("memfd_create: %s", strerrordesc_np(errno));
    else if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE) != 0)
        why = "the kernel has no F_SEAL_FUTURE_WRITE (Linux 5.1)";
    else if (!place_read(&place))
        why = "/proc/sys/kernel/random/boot_id cannot be read";
    if (fd >= 0) close(fd);
    if (reason_size > 0) snprintf(reason, reason_size, "%s", why.c_str());
    return why.empty() ? TENT_OK : TENT_E_PLUGIN;
}

void info_fill(const Place &place, bool open, tent_rail_info *info) {
    info->flags = 0;
    info->bandwidth_bytes_per_s = 0;  // of memory: measured by use
    info->numa = -1;
    snprintf(info->address, sizeof info->address, "%s", place_text(place, open).c_str());
}

int32_t rail_open(void *opaque, const tent_rail_params *params, void **rail, tent_rail_info *info) {
    Instance &instance = instance_of(opaque);
    if (strcmp(params->device, DEVICE) != 0)
        return refuse(
            instance, TENT_E_INVALID,
            format("shm has no device '%s'; its one device is '%s'", params->device, DEVICE)
                .c_str());
    if (params->option_count > 0)
        return refuse(instance, TENT_E_INVALID,
                      format("shm has no rail option '%s'; its options are set for the transport: "
                             "set shm.<name>=<value>",
                             params->options[0].name)
                          .c_str());
    info_fill(instance.place, !instance.options.users.empty(), info);
    *rail = opaque;
    return TENT_OK;
}

void rail_close(void *, void *) {}

int32_t rail_reach(void *opaque, void *, const char *peer_rail) {
    return place_reach(instance_of(opaque).place, peer_rail);
}

uint32_t rails(tent_rail_info *infos, uint32_t stride, char (*devices)[32], uint32_t room) {
    Place place;
    if (!place_read(&place)) return 0;
    if (room > 0) {
        tent_rail_info info{};
        info.size = std::min(stride, static_cast<uint32_t>(sizeof info));
        info_fill(place, false, &info);
        memcpy(infos, &info, info.size);
        snprintf(devices[0], sizeof devices[0], "%s", DEVICE);
    }
    return 1;
}

// ---- post ------------------------------------------------------------------------------------

// Is the region one of another run of the peer?
bool stale(const Endpoint &endpoint, const RemoteRegion *region) {
    return region != nullptr && memcmp(region->about.instance, endpoint.peer.instance,
                                       sizeof endpoint.peer.instance) != 0;
}

// Says once per endpoint what `tent explain` says whenever asked.
void say_unreachable(Endpoint &endpoint, void *region) {
    if (endpoint.said) return;
    endpoint.said = true;
    char about[400];
    endpoint_about(endpoint.instance, &endpoint, region, about, sizeof about);
    const tent_host *host = endpoint.instance->host;
    host->log(host->ctx, TENT_E_TRANSPORT,
              ("shm: memory of a peer is " + std::string(about)).c_str());
}

const RemoteRegion *region_of(const tent_slice &slice) {
    return static_cast<const RemoteRegion *>(slice.remote_region);
}

// How it goes; 0: it ends at once, with the status.
uint32_t slice_method(const Endpoint &endpoint, const tent_slice &slice, int32_t *status) {
    const RemoteRegion *region = region_of(slice);
    const uint32_t method = method_of(endpoint, region);
    *status = stale(endpoint, region) ? TENT_E_STALE : method == 0 ? TENT_E_NO_PATH : TENT_OK;
    return *status == TENT_OK ? method : 0;
}

uint32_t post(void *opaque, void *handle, const tent_slice *slices, uint32_t count) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    if (endpoint.state != EndpointState::READY) return 0;
    uint32_t taken = 0;
    while (taken < count) {
        int32_t status = TENT_OK, other = TENT_OK;
        const tent_slice &first = slices[taken];
        const uint32_t method = slice_method(endpoint, first, &status);
        uint32_t went = 1, run = 1;
        if (method == 0) {
            if (status == TENT_E_NO_PATH) say_unreachable(endpoint, first.remote_region);
            jobs_result(instance, endpoint, first.id, status);
        } else {
            // A run that goes one way is posted as one.
            while (taken + run < count &&
                   slice_method(endpoint, slices[taken + run], &other) == method)
                run++;
            went = method == RING ? ring_post(endpoint, slices + taken, run)
                                  : jobs_post(instance, endpoint, slices + taken, run);
        }
        endpoint.posted += went;
        taken += went;
        if (went < run) break;
    }
    return taken;
}

// ---- poll ------------------------------------------------------------------------------------

void socket_event(Endpoint &endpoint) {
    if (endpoint.initiator)
        initiator_read(endpoint);
    else
        target_read(endpoint);
}

void event_take(Instance &instance, const epoll_event &event) {
    const auto kind = static_cast<Watched>(event.data.u64 & WATCHED_MASK);
    const uint64_t value = event.data.u64 & ~WATCHED_MASK;
    if (kind == Watched::LISTENER) return listener_accept(instance);
    if (kind == Watched::VISITOR)
        return visitor_read(instance, static_cast<int>(value / (WATCHED_MASK + 1)));
    auto &endpoint = *reinterpret_cast<Endpoint *>(value);
    if (!endpoint.watched) return;  // failed by an earlier event of these
    if (kind == Watched::SOCKET) return socket_event(endpoint);
    // What it said before it died is not lost.
    socket_event(endpoint);
    if (endpoint_peer_dead(endpoint)) endpoint_fail(endpoint, TENT_E_PEER, "the process has ended");
}

void sockets_step(Instance &instance, uint64_t now_ns) {
    instance.looked_ns = now_ns;
    epoll_event events[EVENTS_MAX];
    const int count = epoll_wait(instance.epoll_fd, events, EVENTS_MAX, 0);
    for (int i = 0; i < count; i++)
        event_take(instance, events[i]);
    listener_step(instance, now_ns);
    for (size_t i = 0; i < instance.endpoints.size() && instance.connecting_count > 0; i++)
        if (instance.endpoints[i]->initiator &&
            instance.endpoints[i]->state == EndpointState::CONNECTING)
            initiator_step(*instance.endpoints[i], now_ns);
    if (!instance.asks_due) return;
    instance.asks_due = false;
    for (const auto &endpoint : instance.endpoints)
        if (endpoint->initiator) asks_resume(*endpoint);
}

bool rings_step(Instance &instance) {
    bool moved = false;
    for (Endpoint *endpoint : instance.ringers) {
        if (endpoint->state == EndpointState::FAILED) continue;
        moved |= endpoint->initiator ? ring_step(*endpoint) : ring_serve(*endpoint);
        if (endpoint->state != EndpointState::FAILED && ring_bell_due(*endpoint))
            bell_send(endpoint->fd);
    }
    return moved;
}

uint32_t poll(void *opaque, tent_slice_result *results, uint32_t room, uint32_t *busy) {
    Instance &instance = instance_of(opaque);
    instance.moved = jobs_run(instance);
    if (!instance.ringers.empty() && rings_step(instance)) instance.moved = true;
    const uint32_t count = jobs_collect(instance, results, room);
    const bool idle = count == 0 && !instance.moved;
    const uint64_t now_ns = now_of(instance);
    if (idle || now_ns - instance.looked_ns >= LOOK_INTERVAL_NS) {
        sockets_step(instance, now_ns);
        endpoints_served(instance);
        if (idle && !instance.moved && populate_step(instance)) instance.moved = true;
    }
    if (instance.news) endpoints_report(instance);
    if (instance.closed_count > 0) endpoints_free_closed(instance);
    if (!instance.forgotten.empty()) forgotten_free(instance);
    if (instance.moved || count > 0 || jobs_left(instance)) *busy = 1;
    return count;
}

int event_fd(void *opaque) {
    return instance_of(opaque).epoll_fd;
}

uint64_t next_ns(void *opaque) {
    Instance &instance = instance_of(opaque);
    if (jobs_left(instance) || instance.news || instance.asks_due || !instance.populating.empty())
        return 0;
    for (Endpoint *endpoint : instance.ringers)
        if (endpoint->state != EndpointState::FAILED && ring_sleep(*endpoint)) return 0;
    uint64_t due_ns = listener_due_ns(instance);
    for (size_t i = 0; i < instance.endpoints.size() && instance.connecting_count > 0; i++) {
        const Endpoint &endpoint = *instance.endpoints[i];
        due_ns = std::min(due_ns, endpoint.deadline_ns);
        if (endpoint.initiator && endpoint.state == EndpointState::CONNECTING &&
            endpoint.step == Step::DIAL)
            due_ns = std::min(due_ns, instance.looked_ns + DIAL_INTERVAL_NS);
    }
    return due_ns;
}

uint32_t work(void *opaque, uint32_t helper) {
    return jobs_work(instance_of(opaque), helper);
}

const tent_plugin TABLE = {
    .size = sizeof(tent_plugin),
    .abi = TENT_PLUGIN_ABI,
    .name = "shm",
    .version = TENT_VERSION,
    .summary =
        "copies between processes of one machine: mapped memory, cross-memory attach, or a shared "
        "ring",
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
    .endpoint_close = endpoint_close,
    .endpoint_retire = endpoint_retire,
    .post = post,
    .poll = poll,
    .event_fd = event_fd,
    .next_ns = next_ns,
    .endpoint_progress = endpoint_progress,
    .memory = TENT_MEMORY_HOST,
    .flags = 0,
    .options = OPTION_INFOS,
    .option_count = OPTION_COUNT,
    .option_stride = sizeof(tent_option_info),
    .work = work,
    .endpoint_region = endpoint_region,
    .endpoint_about = endpoint_about,
};

}  // namespace
}  // namespace tent::shm

extern "C" const tent_plugin *tent_plugin_query(uint32_t abi) {
    return abi == TENT_PLUGIN_ABI ? &tent::shm::TABLE : nullptr;
}
