// Instances: from options to pools and descriptors, and back to nothing.
//
// Leans on state.h. Must never touch a device.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>

#include "device.h"
#include "rail.h"
#include "state.h"

namespace tent::rdma {
namespace {

int32_t options_take(Instance &instance, const tent_plugin_options &options) {
    char sentence[800];
    for (uint32_t i = 0; i < options.option_count; i++) {
        const int32_t status =
            option_read(options.options[i], &instance.options, sentence, sizeof sentence);
        if (status != TENT_OK) return refuse(instance, status, sentence);
    }
    return TENT_OK;
}

// Not from the engine's generator: what follows from a seed is the same in the next run, and by
// this number peers tell the runs apart.
void id_make(Instance &instance) {
    ssize_t given;
    do
        given = getrandom(instance.id, sizeof instance.id, 0);
    while (given < 0 && errno == EINTR);
    if (given == static_cast<ssize_t>(sizeof instance.id)) return;
    for (size_t i = 0; i < sizeof instance.id; i += 8) {
        const uint64_t number = instance.host->random_u64(instance.host->ctx);
        memcpy(instance.id + i, &number, 8);
    }
}

bool watch(const Instance &instance, int fd, Watched kind) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = watched_tag(kind, 0);
    return fd >= 0 && epoll_ctl(instance.epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

int32_t parts_make(Instance &instance) {
    std::string why;
    instance.verbs = verbs_load(&why);
    if (instance.verbs == nullptr) return refuse(instance, TENT_E_PLUGIN, ("rdma: " + why).c_str());
    instance.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    instance.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (instance.epoll_fd < 0 || !watch(instance, instance.wake_fd, Watched::WAKE))
        return refuse(instance, TENT_E_SYSTEM,
                      format("rdma: epoll or eventfd: %s", strerrordesc_np(errno)).c_str());
    instance.devices_fd = devices_socket();
    if (instance.devices_fd >= 0 && !watch(instance, instance.devices_fd, Watched::DEVICES)) {
        close(instance.devices_fd);
        instance.devices_fd = -1;
    }
    return TENT_OK;
}

void pools_make(Instance &instance) {
    const uint32_t count = instance.slices_max;
    instance.slices.resize(count);
    instance.slice_free = count == 0 ? NONE : 0;
    for (uint32_t i = 0; i < count; i++)
        instance.slices[i].next = i + 1 < count ? i + 1 : NONE;
    instance.results.resize(count);
    instance.endpoints.reserve(instance.endpoints_max);
}

}  // namespace

int32_t instance_open(const tent_host *host, const tent_plugin_options *options, void **out) {
    auto *instance = new (std::nothrow) Instance;
    if (instance == nullptr) {
        host->fail(host->ctx, "rdma: no memory for an instance");
        return TENT_E_NO_MEMORY;
    }
    instance->host = host;
    instance->slices_max = options->slices_max;
    instance->endpoints_max = options->endpoints_max;
    int32_t status = options_take(*instance, *options);
    if (status == TENT_OK) status = parts_make(*instance);
    if (status != TENT_OK) {
        instance_close(instance);
        return status;
    }
    id_make(*instance);
    pools_make(*instance);
    *out = instance;
    return TENT_OK;
}

void instance_close(void *opaque) {
    Instance &instance = instance_of(opaque);
    // The core has closed and retired all, and no errand runs; results that nobody polled, and
    // rails whose last errand nobody saw the end of, may be left.
    endpoints_free(instance);
    for (Rail *&rail : instance.rails) {
        if (rail == nullptr) continue;
        if (!device_leave(*rail)) device_close(*rail);
        delete rail;
        rail = nullptr;
    }
    // Of those that region_release did not let go because of such an errand.
    for (const Region *region : instance.regions)
        delete region;
    for (const int fd : {instance.devices_fd, instance.wake_fd, instance.epoll_fd})
        if (fd >= 0) close(fd);
    delete &instance;
}

int32_t refuse(const Instance &instance, int32_t status, const char *sentence) {
    instance.host->fail(instance.host->ctx, sentence);
    return status;
}

std::string format(const char *text, ...) {
    char sentence[512];
    va_list list;
    va_start(list, text);
    vsnprintf(sentence, sizeof sentence, text, list);
    va_end(list);
    return sentence;
}

void say(const Instance &instance, int32_t status, const char *text, ...) {
    char sentence[512];
    va_list list;
    va_start(list, text);
    vsnprintf(sentence, sizeof sentence, text, list);
    va_end(list);
    instance.host->log(instance.host->ctx, status, sentence);
}

}  // namespace tent::rdma
