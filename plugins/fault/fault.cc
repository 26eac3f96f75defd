// The fault decorator's table: forwards everything to the decorated transport, through the link and
// the cuts.
//
// Leans on state.h. Must never change what it does not model: with no option set a slice passes
// straight through.
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

#include "state.h"

#ifndef TENT_VERSION
#define TENT_VERSION "0"
#endif

namespace tent::fault {
namespace {

constexpr uint32_t RAIL_OPTIONS_MAX = 64;
constexpr int POLL_ROUNDS_MAX = 8;

Instance &instance_of(void *opaque) {
    return *static_cast<Instance *>(opaque);
}

uint64_t now_of(const Instance &instance) {
    return instance.host->now_ns(instance.host->ctx);
}

int32_t refuse(const tent_host *host, int32_t status, const char *sentence) {
    host->fail(host->ctx, sentence);
    return status;
}

int32_t available(char *reason, uint32_t reason_size) {
    if (reason_size > 0) reason[0] = '\0';
    return TENT_OK;
}

// A descriptor that is readable when the decorated transport's is, or when the link lets something
// go.
void events_make(Instance &instance) {
    const int inner_fd = instance.inner->event_fd != nullptr
                             ? instance.inner->event_fd(instance.inner_instance)
                             : -1;
    if (inner_fd < 0) return;  // the core polls by timer then, and by next_ns
    instance.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    instance.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    epoll_event event{};
    event.events = EPOLLIN;
    if (epoll_ctl(instance.epoll_fd, EPOLL_CTL_ADD, inner_fd, &event) == 0 &&
        epoll_ctl(instance.epoll_fd, EPOLL_CTL_ADD, instance.timer_fd, &event) == 0)
        return;
    close(instance.epoll_fd);
    instance.epoll_fd = -1;
}

void descriptors_close(Instance &instance) {
    if (instance.epoll_fd >= 0) close(instance.epoll_fd);
    if (instance.timer_fd >= 0) close(instance.timer_fd);
}

int32_t open_instance(const tent_host *host, const tent_plugin_options *options, void **out) {
    if (host->inner == nullptr)
        return refuse(host, TENT_E_PLAN,
                      "fault decorates another transport: write `decorate <transport> fault`");
    std::unique_ptr<Instance> instance(new (std::nothrow) Instance);
    if (instance) instance->slots.reset(new (std::nothrow) Slot[options->slices_max]());
    if (!instance || !instance->slots)
        return refuse(host, TENT_E_NO_MEMORY, "fault: no memory for the slices");
    instance->host = host;
    instance->inner = host->inner;
    memcpy(&instance->inner_host, host, std::min<size_t>(host->size, sizeof(tent_host)));
    instance->inner_host.inner = nullptr;
    instance->slot_count = options->slices_max;
    for (uint32_t i = instance->slot_count; i > 0; --i) {
        instance->slots[i - 1].next = instance->free_head;
        instance->free_head = i - 1;
    }
    const int32_t status =
        instance->inner->open(&instance->inner_host, options, &instance->inner_instance);
    if (status != TENT_OK) return status;
    events_make(*instance);
    *out = instance.release();
    return TENT_OK;
}

void close_instance(void *opaque) {
    Instance &instance = instance_of(opaque);
    instance.inner->close(instance.inner_instance);
    while (instance.endpoints != nullptr)
        endpoint_free(*instance.endpoints);
    descriptors_close(instance);
    delete &instance;
}

// ---- rails --------------------------------------------------------------------------------------

int32_t rail_open(void *opaque, const tent_rail_params *params, void **out, tent_rail_info *info) {
    Instance &instance = instance_of(opaque);
    std::unique_ptr<Rail> rail(new (std::nothrow) Rail);
    if (!rail) return refuse(instance.host, TENT_E_NO_MEMORY, "fault: no memory for a rail");
    tent_option passed[RAIL_OPTIONS_MAX];
    uint32_t passed_count = 0;
    char sentence[240];
    for (uint32_t i = 0; i < params->option_count; ++i) {
        const tent_option &option = params->options[i];
        if (strncmp(option.name, PREFIX, sizeof PREFIX - 1) == 0) {
            if (!option_read(option.name + sizeof PREFIX - 1, option.value, &rail->options,
                             sentence, sizeof sentence))
                return refuse(instance.host, TENT_E_INVALID, sentence);
        } else if (passed_count < RAIL_OPTIONS_MAX) {
            passed[passed_count++] = option;
        } else {
            return refuse(instance.host, TENT_E_INVALID, "fault: more than 64 options on a rail");
        }
    }
    tent_rail_params inner_params{};
    memcpy(&inner_params, params, std::min<size_t>(params->size, sizeof inner_params));
    inner_params.options = passed;
    inner_params.option_count = passed_count;
    const int32_t status =
        instance.inner->rail_open(instance.inner_instance, &inner_params, &rail->inner, info);
    if (status != TENT_OK) return status;
    rail->instance = &instance;
    rail->index = params->index;
    rail->next = instance.rails;
    instance.rails = rail.get();
    *out = rail.release();
    return TENT_OK;
}

void rail_close(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto *rail = static_cast<Rail *>(handle);
    Rail **link = &instance.rails;
    while (*link != rail)
        link = &(*link)->next;
    *link = rail->next;
    instance.inner->rail_close(instance.inner_instance, rail->inner);
    delete rail;
}

int32_t rail_reach(void *opaque, void *rail, const char *peer_rail) {
    Instance &instance = instance_of(opaque);
    return instance.inner->rail_reach(instance.inner_instance, static_cast<Rail *>(rail)->inner,
                                      peer_rail);
}

uint32_t rails(tent_rail_info *, uint32_t, char (*)[32], uint32_t) {
    return 0;  // a decorator has none of its own
}

// ---- memory: straight through; what the decorated transport does not offer succeeds with nothing

int32_t region_register(void *opaque, const tent_region_params *params, void **region) {
    Instance &instance = instance_of(opaque);
    *region = nullptr;
    if (instance.inner->region_register == nullptr) return TENT_OK;
    return instance.inner->region_register(instance.inner_instance, params, region);
}

int32_t region_export(void *opaque, void *region, void *bytes, uint32_t *size) {
    Instance &instance = instance_of(opaque);
    if (instance.inner->region_export == nullptr) {
        *size = 0;
        return TENT_OK;
    }
    return instance.inner->region_export(instance.inner_instance, region, bytes, size);
}

int32_t region_release(void *opaque, void *region) {
    Instance &instance = instance_of(opaque);
    if (instance.inner->region_release == nullptr) return TENT_OK;
    return instance.inner->region_release(instance.inner_instance, region);
}

int32_t segment_import(void *opaque, const void *bytes, uint32_t size, void **remote_region) {
    Instance &instance = instance_of(opaque);
    *remote_region = nullptr;
    if (instance.inner->segment_import == nullptr) return TENT_OK;
    return instance.inner->segment_import(instance.inner_instance, bytes, size, remote_region);
}

void segment_forget(void *opaque, void *remote_region) {
    Instance &instance = instance_of(opaque);
    if (instance.inner->segment_forget != nullptr)
        instance.inner->segment_forget(instance.inner_instance, remote_region);
}

// ---- endpoints ----------------------------------------------------------------------------------

tent_endpoint_params inner_params_of(const tent_endpoint_params *params) {
    tent_endpoint_params inner{};
    memcpy(&inner, params, std::min<size_t>(params->size, sizeof inner));
    inner.rail = static_cast<Rail *>(params->rail)->inner;
    return inner;
}

using Begin = int32_t (*)(void *, const tent_endpoint_params *, void **, void *, uint32_t *);

int32_t endpoint_begin(void *opaque, Begin begin, const tent_endpoint_params *params, void **out,
                       void *bytes, uint32_t *size) {
    Instance &instance = instance_of(opaque);
    std::unique_ptr<Endpoint> endpoint(new (std::nothrow) Endpoint);
    if (!endpoint)
        return refuse(instance.host, TENT_E_NO_MEMORY, "fault: no memory for an endpoint");
    const tent_endpoint_params inner = inner_params_of(params);
    const int32_t status = begin(instance.inner_instance, &inner, &endpoint->inner, bytes, size);
    if (status != TENT_OK) return status;
    endpoint->instance = &instance;
    endpoint->rail = static_cast<Rail *>(params->rail);
    endpoint->number = params->endpoint;
    endpoint->initiator = params->initiator != 0;
    endpoint->next = instance.endpoints;
    instance.endpoints = endpoint.get();
    *out = endpoint.release();
    return TENT_OK;
}

int32_t endpoint_offer(void *opaque, const tent_endpoint_params *params, void **endpoint,
                       void *offer, uint32_t *size) {
    return endpoint_begin(opaque, instance_of(opaque).inner->endpoint_offer, params, endpoint,
                          offer, size);
}

int32_t endpoint_accept(void *opaque, const tent_endpoint_params *params, void **endpoint,
                        void *answer, uint32_t *size) {
    return endpoint_begin(opaque, instance_of(opaque).inner->endpoint_accept, params, endpoint,
                          answer, size);
}

int32_t endpoint_connect(void *opaque, void *handle, const tent_endpoint_params *params) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    rail_update(*endpoint.rail, now_of(instance));
    if (endpoint.rail->cut) endpoint_break(endpoint);
    if (endpoint.broken)
        return TENT_OK;  // no answer over a broken cable: the error comes, or nothing
    const tent_endpoint_params inner = inner_params_of(params);
    return instance.inner->endpoint_connect(instance.inner_instance, endpoint.inner, &inner);
}

int32_t endpoint_adopt(void *opaque, void *handle, uint32_t connection, int fd) {
    Instance &instance = instance_of(opaque);
    if (instance.inner->endpoint_adopt == nullptr)
        return refuse(instance.host, TENT_E_UNSUPPORTED,
                      "fault: the decorated transport takes no sockets");
    return instance.inner->endpoint_adopt(instance.inner_instance,
                                          static_cast<Endpoint *>(handle)->inner, connection, fd);
}

void endpoint_message(void *opaque, void *handle, const void *bytes, uint32_t size) {
    Instance &instance = instance_of(opaque);
    const auto &endpoint = *static_cast<Endpoint *>(handle);
    if (instance.inner->endpoint_message != nullptr && endpoint.inner != nullptr)
        instance.inner->endpoint_message(instance.inner_instance, endpoint.inner, bytes, size);
}

void news_clear(Endpoint &endpoint) {
    endpoint.instance->news_count -= endpoint.news ? 1 : 0;
    endpoint.news = false;
}

int32_t endpoint_close(void *, void *handle) {
    auto &endpoint = *static_cast<Endpoint *>(handle);
    const int32_t status = endpoint_close_inner(endpoint);
    if (status != TENT_OK) return status;
    news_clear(endpoint);
    endpoint.closed = true;
    endpoint_flush_held(endpoint, TENT_E_CANCELLED);
    if (endpoint.slot_count == 0) endpoint_free(endpoint);
    return TENT_OK;
}

int32_t endpoint_retire(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    const int32_t status = instance.inner->endpoint_retire(instance.inner_instance, endpoint.inner);
    if (status == TENT_OK) endpoint_free(endpoint);
    return status;
}

// ---- data ---------------------------------------------------------------------------------------

// The prefix of the slices that may be forwarded now, under their slots' numbers.
uint32_t batch_make(Instance &instance, Endpoint &endpoint, const tent_slice *slices,
                    uint32_t count, uint64_t now_ns, tent_slice *batch) {
    const Rail &rail = *endpoint.rail;
    uint64_t link_free_ns = std::max(now_ns, rail.link_free_ns);
    uint64_t posted_size = rail.posted_size;
    uint32_t made = 0;
    while (made < count && made < BATCH_MAX && link_free_ns - now_ns <= BACKLOG_MAX_NS) {
        if (!rail.cut_spent && posted_size >= rail.options.cut_after_size) break;
        const uint32_t index = slot_take(instance, endpoint, slices[made].id);
        if (index == NONE) break;
        batch[made] = slices[made];
        batch[made].id = index;
        posted_size += slices[made].length;
        if (rail.options.throttle_bytes_per_s != 0)
            link_free_ns += slices[made].length * 1'000'000'000 / rail.options.throttle_bytes_per_s;
        ++made;
    }
    return made;
}

// Charges what was accepted to the link and to the cut.
void batch_charge(Instance &instance, Rail &rail, const tent_slice *batch, uint32_t count,
                  uint64_t now_ns) {
    for (uint32_t i = 0; i < count; ++i) {
        rail.posted_size += batch[i].length;
        if (rail.options.throttle_bytes_per_s == 0) continue;
        rail.link_free_ns = std::max(now_ns, rail.link_free_ns) +
                            batch[i].length * 1'000'000'000 / rail.options.throttle_bytes_per_s;
        slot_onto_link(instance, static_cast<uint32_t>(batch[i].id), rail.link_free_ns);
    }
}

// A cable that is cut and hangs takes what is posted and never answers.
uint32_t swallow(Instance &instance, Endpoint &endpoint, const tent_slice *slices, uint32_t count) {
    uint32_t taken = 0;
    while (taken < count) {
        const uint32_t index = slot_take(instance, endpoint, slices[taken].id);
        if (index == NONE) break;
        instance.slots[index].state = SlotState::HELD;
        ++taken;
    }
    return taken;
}

uint32_t post(void *opaque, void *handle, const tent_slice *slices, uint32_t count) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    const uint64_t now_ns = now_of(instance);
    uint32_t taken = 0;
    while (taken < count) {
        rail_update(*endpoint.rail, now_ns);
        if (endpoint.broken) {
            return endpoint.rail->options.cut_hangs
                       ? taken + swallow(instance, endpoint, slices + taken, count - taken)
                       : taken;
        }
        tent_slice batch[BATCH_MAX];
        const uint32_t made =
            batch_make(instance, endpoint, slices + taken, count - taken, now_ns, batch);
        if (made == 0) break;
        const uint32_t accepted =
            instance.inner->post(instance.inner_instance, endpoint.inner, batch, made);
        for (uint32_t i = made; i > accepted; --i)
            slot_free(instance, endpoint, static_cast<uint32_t>(batch[i - 1].id));
        batch_charge(instance, *endpoint.rail, batch, accepted, now_ns);
        taken += accepted;
        if (accepted < made) break;
    }
    rail_update(*endpoint.rail, now_ns);
    return taken;
}

// Wakes whoever sleeps on event_fd when the link lets go of the next result.
void timer_arm(Instance &instance, uint64_t now_ns) {
    const uint64_t next_ns = links_next_ns(instance);
    if (instance.timer_fd < 0 || next_ns == instance.armed_ns) return;
    instance.armed_ns = next_ns;
    itimerspec time{};
    if (next_ns != UINT64_MAX) {
        // Relative: the engine's clock need not be the system's. Never 0, which would disarm.
        const uint64_t left_ns = next_ns > now_ns ? next_ns - now_ns : 1;
        time.it_value.tv_sec = static_cast<time_t>(left_ns / 1'000'000'000);
        time.it_value.tv_nsec = static_cast<long>(left_ns % 1'000'000'000);
    }
    timerfd_settime(instance.timer_fd, 0, &time, nullptr);
}

uint32_t poll(void *opaque, tent_slice_result *results, uint32_t room, uint32_t *busy) {
    Instance &instance = instance_of(opaque);
    if (instance.closing_count > 0) endpoints_close_on(instance);
    tent_slice_result inner[BATCH_MAX];
    uint32_t count = BATCH_MAX;
    const uint64_t now_ns = now_of(instance);
    for (int round = 0; round < POLL_ROUNDS_MAX && count == BATCH_MAX; ++round) {
        count = instance.inner->poll(instance.inner_instance, inner, BATCH_MAX, busy);
        for (uint32_t i = 0; i < count; ++i)
            slot_returned(instance, static_cast<uint32_t>(inner[i].id), inner[i].status, now_ns);
    }
    for (Rail *rail = instance.rails; rail != nullptr; rail = rail->next)
        link_release(*rail, now_ns);
    timer_arm(instance, now_ns);
    if (instance.news_count > 0) {
        *busy = 1;
        endpoints_report(instance);
    }
    const uint32_t collected = slots_collect(instance, results, room);
    if (collected > 0) *busy = 1;
    return collected;
}

int event_fd(void *opaque) {
    return instance_of(opaque).epoll_fd;
}

uint64_t next_ns(void *opaque) {
    Instance &instance = instance_of(opaque);
    if (instance.ready.head != NONE || instance.news_count > 0 || instance.closing_count > 0)
        return 0;
    uint64_t next = links_next_ns(instance);
    if (instance.inner->size > offsetof(tent_plugin, next_ns) && instance.inner->next_ns != nullptr)
        next = std::min(next, instance.inner->next_ns(instance.inner_instance));
    return next;
}

void flush(void *opaque) {
    Instance &instance = instance_of(opaque);
    if (instance.inner->size > offsetof(tent_plugin, flush) && instance.inner->flush != nullptr)
        instance.inner->flush(instance.inner_instance);
}

const tent_plugin PLUGIN = {
    .size = sizeof(tent_plugin),
    .abi = TENT_PLUGIN_ABI,
    .name = "fault",
    .version = TENT_VERSION,
    .summary = "decorates another transport: throttles its rails and cuts their cable",
    .available = available,
    .open = open_instance,
    .close = close_instance,
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
    .endpoint_adopt = endpoint_adopt,
    .endpoint_message = endpoint_message,
    .endpoint_close = endpoint_close,
    .endpoint_retire = endpoint_retire,
    .post = post,
    .poll = poll,
    .event_fd = event_fd,
    .next_ns = next_ns,
    .flush = flush,
    .stream_listen = nullptr,
    .stream_connect = nullptr,
    .stream_accept = nullptr,
    .stream_state = nullptr,
    .stream_send = nullptr,
    .stream_receive = nullptr,
    .stream_close = nullptr,
};

}  // namespace
}  // namespace tent::fault

const tent_plugin *tent_plugin_query(uint32_t abi) {
    return abi == TENT_PLUGIN_ABI ? &tent::fault::PLUGIN : nullptr;
}
