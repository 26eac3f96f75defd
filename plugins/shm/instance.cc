// Instances: from options to a listener, and back to nothing.
//
// Leans on state.h, listen.h, jobs.h.
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "jobs.h"
#include "listen.h"
#include "state.h"

namespace tent::shm {
namespace {

int32_t options_take(Instance &instance, const tent_plugin_options &options) {
    char sentence[400];
    for (uint32_t i = 0; i < options.option_count; i++) {
        const int32_t status =
            option_read(options.options[i], &instance.options, sentence, sizeof sentence);
        if (status != TENT_OK) return refuse(instance, status, sentence);
    }
    if (!instance.options.mapped && !instance.options.attach && !instance.options.ring)
        return refuse(instance, TENT_E_INVALID,
                      "shm: mapped, attach and ring are all 'no'; allow one of them, or leave the "
                      "rail out of the plan");
    return TENT_OK;
}

int32_t parts_make(Instance &instance) {
    std::string sentence;
    if (!place_read(&instance.place))
        return refuse(instance, TENT_E_PLUGIN,
                      "shm: /proc/sys/kernel/random/boot_id cannot be read, so nothing says which "
                      "machine this is");
    instance.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (instance.epoll_fd < 0)
        return refuse(instance, TENT_E_SYSTEM,
                      format("shm: epoll_create1: %s", strerrordesc_np(errno)).c_str());
    if (!region_table_make(instance, &sentence))
        return refuse(instance, TENT_E_SYSTEM, sentence.c_str());
    instance.jobs = jobs_make(instance.slices_max, instance.helpers);
    if (instance.jobs == nullptr)
        return refuse(instance, TENT_E_NO_MEMORY, "shm: no memory for the slices");
    const int32_t status =
        listener_open(instance, listener_bases(instance.options, getenv("XDG_RUNTIME_DIR")),
                      &instance.listen_why);
    if (status == TENT_OK) return TENT_OK;
    // Who named a folder means it; otherwise we can still initiate.
    if (!instance.options.directory.empty())
        return refuse(instance, status, instance.listen_why.c_str());
    instance.host->log(instance.host->ctx, status, instance.listen_why.c_str());
    return TENT_OK;
}

}  // namespace

void random_fill(const Instance &instance, void *bytes, size_t size) {
    // Not from the engine's generator: what follows from a seed is no secret. It waits for nothing
    // but a machine that has just booted, and gives up to 256 bytes whole.
    ssize_t given;
    do
        given = getrandom(bytes, size, 0);
    while (given < 0 && errno == EINTR);
    if (given == static_cast<ssize_t>(size)) return;
    auto *out = static_cast<uint8_t *>(bytes);
    for (size_t i = 0; i < size; i++)
        out[i] = static_cast<uint8_t>(instance.host->random_u64(instance.host->ctx) >> (i % 8 * 8));
}

int32_t instance_open(const tent_host *host, const tent_plugin_options *options, void **out) {
    auto *instance = new (std::nothrow) Instance;
    if (instance == nullptr) {
        host->fail(host->ctx, "shm: no memory for an instance");
        return TENT_E_NO_MEMORY;
    }
    instance->host = host;
    instance->slices_max = options->slices_max;
    instance->endpoints_max = options->endpoints_max;
    const bool helped = options->size >= sizeof *options;
    instance->helpers = helped ? std::min(options->helpers, HELPERS_MAX) : 0;
    instance->visitors.reserve(VISITORS_MAX + 1);
    random_fill(*instance, instance->id, sizeof instance->id);
    random_fill(*instance, instance->proof, sizeof instance->proof);
    int32_t status = options_take(*instance, *options);
    if (status == TENT_OK) status = parts_make(*instance);
    if (status != TENT_OK) {
        instance_close(instance);
        return status;
    }
    *out = instance;
    return TENT_OK;
}

void instance_close(void *opaque) {
    Instance &instance = instance_of(opaque);
    // The core has closed and retired all; results that nobody polled may be left.
    for (const auto &endpoint : instance.endpoints) {
        endpoint->posted = 0;
        endpoint->let_go = true;
    }
    instance.closed_count = static_cast<uint32_t>(instance.endpoints.size());
    endpoints_free_closed(instance);
    forgotten_free(instance);
    listener_close(instance);
    if (instance.jobs != nullptr) jobs_free(instance.jobs);
    region_table_free(instance);
    if (instance.epoll_fd >= 0) close(instance.epoll_fd);
    memset(instance.proof, 0, sizeof instance.proof);
    delete &instance;
}

}  // namespace tent::shm
