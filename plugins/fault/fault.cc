// The fault decorator's table, its instances, and poll: what comes back from the decorated
// transport.
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

int32_t refuse(const Instance &instance, int32_t status, const char *sentence) {
    instance.host->fail(instance.host->ctx, sentence);
    return status;
}

Failure struck(Instance &instance, Rail *rail, Operation operation) {
    const uint64_t now_ns = instance.now_ns();
    bool first = false;
    bool rail_first = false;
    figures_count(operation);
    Failure failure = strike(instance.faults, operation, now_ns, &first);
    const Failure of_rail =
        rail != nullptr ? strike(rail->faults, operation, now_ns, &rail_first) : Failure::NONE;
    if (failure == Failure::NONE) failure = of_rail;
    if (failure == Failure::NONE) return failure;
    figures_strike(failure, operation);
    if (first || rail_first) {
        char sentence[120];
        snprintf(
            sentence, sizeof sentence, "%s number %llu fails as told (%s)",
            name_of(failure_of(operation)),
            static_cast<unsigned long long>(
                (first ? instance.faults : rail->faults).counts[static_cast<uint32_t>(operation)]),
            name_of(failure));
        instance.host->log(instance.host->ctx, TENT_E_TRANSPORT, sentence);
    }
    return failure;
}

bool fails(Instance &instance, Rail *rail, Operation operation) {
    if (struck(instance, rail, operation) == Failure::NONE) return false;
    char sentence[80];
    snprintf(sentence, sizeof sentence, "%s was failed by fault", name_of(failure_of(operation)));
    refuse(instance, TENT_E_TRANSPORT, sentence);
    return true;
}

uint32_t inner_poll(Instance &instance, uint32_t *busy) {
    tent_slice_result results[BATCH_MAX];
    const uint32_t count = instance.inner->poll(instance.inner_instance, results, BATCH_MAX, busy);
    const uint64_t now_ns = instance.now_ns();
    for (uint32_t i = 0; i < count; ++i)
        slot_returned(instance, static_cast<uint32_t>(results[i].id), results[i].status, now_ns);
    return count;
}

namespace {

constexpr int POLL_ROUNDS_MAX = 8;
constexpr uint32_t OPTIONS_MAX = 256;  // of a transport

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

// Reads our options and passes the others on. False, with a sentence left: one is wrong.
bool options_take(Instance &instance, const tent_plugin_options *options, tent_option *passed,
                  uint32_t *passed_count) {
    char sentence[320];
    const Reader reader{instance.faults, nullptr, &instance.seed, sentence, sizeof sentence};
    *passed_count = 0;
    for (uint32_t i = 0; i < options->option_count; ++i) {
        const tent_option &option = options->options[i];
        if (strncmp(option.name, PREFIX, sizeof PREFIX - 1) != 0) {
            if (*passed_count < OPTIONS_MAX) passed[(*passed_count)++] = option;
        } else if (!option_read(reader, option.name + sizeof PREFIX - 1, option.value)) {
            refuse(instance, TENT_E_INVALID, sentence);
            return false;
        }
    }
    if (!instance.seed.given) instance.seed.value = instance.host->random_u64(instance.host->ctx);
    instance.faults.random = instance.seed.value;
    instance.faults.start_ns = instance.now_ns();
    return true;
}

int32_t open_instance(const tent_host *host, const tent_plugin_options *options, void **out) {
    if (host->inner == nullptr) {
        host->fail(host->ctx,
                   "fault decorates another transport: write `decorate <transport> fault`");
        return TENT_E_PLAN;
    }
    std::unique_ptr<Instance> instance(new (std::nothrow) Instance);
    if (instance) instance->slots.reset(new (std::nothrow) Slot[options->slices_max]());
    if (!instance || !instance->slots) {
        host->fail(host->ctx, "fault: no memory for the slices");
        return TENT_E_NO_MEMORY;
    }
    instance->host = host;
    instance->inner = host->inner;
    host_wrap(*instance);
    instance->slot_count = options->slices_max;
    for (uint32_t i = instance->slot_count; i > 0; --i) {
        instance->slots[i - 1].next = instance->free_head;
        instance->free_head = i - 1;
    }
    tent_option passed[OPTIONS_MAX];
    tent_plugin_options inner_options{};
    memcpy(&inner_options, options, std::min<size_t>(options->size, sizeof inner_options));
    inner_options.options = passed;
    if (!options_take(*instance, options, passed, &inner_options.option_count))
        return TENT_E_INVALID;
    if (fails(*instance, nullptr, Operation::OPEN)) return TENT_E_TRANSPORT;
    const int32_t status =
        instance->inner->open(&instance->inner_host, &inner_options, &instance->inner_instance);
    if (status != TENT_OK) return status;
    events_make(*instance);
    *out = instance.release();
    return TENT_OK;
}

void close_instance(void *opaque) {
    Instance &instance = instance_of(opaque);
    regions_end(instance);
    while (instance.streams != nullptr)
        stream_close(opaque, instance.streams);
    instance.inner->close(instance.inner_instance);
    while (instance.endpoints != nullptr)
        endpoint_free(*instance.endpoints);
    descriptors_close(instance);
    delete &instance;
}

uint32_t rails(tent_rail_info *, uint32_t, char (*)[32], uint32_t) {
    return 0;  // a decorator has none of its own
}

// ---- progress -----------------------------------------------------------------------------------

uint64_t own_next_ns(const Instance &instance, uint64_t now_ns) {
    uint64_t next_ns = links_next_ns(instance);
    for (const Rail *rail = instance.rails; rail != nullptr; rail = rail->next)
        next_ns = std::min(next_ns, rail_next_ns(*rail, now_ns));
    return next_ns;
}

// Wakes whoever sleeps on event_fd when a link lets go of the next result, or a cable changes.
void timer_arm(Instance &instance, uint64_t now_ns) {
    const uint64_t next_ns = own_next_ns(instance, now_ns);
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
    const uint64_t now_ns = instance.now_ns();
    // Before what comes back: a cut at this very time keeps it.
    for (Rail *rail = instance.rails; rail != nullptr; rail = rail->next)
        rail_update(*rail, now_ns);
    uint32_t count = BATCH_MAX;
    for (int round = 0; round < POLL_ROUNDS_MAX && count == BATCH_MAX; ++round)
        count = inner_poll(instance, busy);
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
    uint64_t next = own_next_ns(instance, instance.now_ns());
    if (TENT_FAULT_OFFERS(instance, next_ns))
        next = std::min(next, instance.inner->next_ns(instance.inner_instance));
    return next;
}

void flush(void *opaque) {
    const Instance &instance = instance_of(opaque);
    if (TENT_FAULT_OFFERS(instance, flush)) instance.inner->flush(instance.inner_instance);
}

// Any thread: it looks at nothing of ours that changes.
uint32_t work(void *opaque, uint32_t helper) {
    const Instance &instance = instance_of(opaque);
    if (!TENT_FAULT_OFFERS(instance, work)) return 0;
    return instance.inner->work(instance.inner_instance, helper);
}

tent_plugin table_make() {
    const OptionTable options = option_table();
    return {
        .size = sizeof(tent_plugin),
        .abi = TENT_PLUGIN_ABI,
        .name = "fault",
        .version = TENT_VERSION,
        .summary =
            "decorates another transport and makes it fail: by chance, by count, by schedule",
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
        .stream_listen = stream_listen,
        .stream_connect = stream_connect,
        .stream_accept = stream_accept,
        .stream_state = stream_state,
        .stream_send = stream_send,
        .stream_receive = stream_receive,
        .stream_close = stream_close,
        .endpoint_progress = endpoint_progress,
        .memory = TENT_MEMORY_HOST,  // what counts is the decorated transport's
        .flags = TENT_PLUGIN_DECORATES | TENT_PLUGIN_TEST,
        .options = options.options,
        .option_count = options.count,
        .option_stride = options.stride,
        .work = work,
        .endpoint_region = endpoint_region,
        .endpoint_about = endpoint_about,
        .region_about = region_about,
        .endpoint_settle = endpoint_settle,
    };
}

}  // namespace
}  // namespace tent::fault

const tent_plugin *tent_plugin_query(uint32_t abi) {
    static const tent_plugin table = tent::fault::table_make();
    return abi == TENT_PLUGIN_ABI ? &table : nullptr;
}
