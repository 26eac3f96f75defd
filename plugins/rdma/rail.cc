// Rails: ports of devices, those a plan names and those this machine has.
//
// Leans on device.h, gid.h, sysfs.h. Discovery and available() open no device.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>

#include "device.h"
#include "rail.h"
#include "sysfs.h"

namespace tent::rdma {
namespace {

// Is it there? Else why not; INVALID where the plan is wrong.
int32_t device_find(const Verbs &verbs, const std::string &device, std::string *why) {
    bool listed = false;
    errno = 0;
    ibv_device **list = verbs.get_device_list(nullptr);
    if (list == nullptr) {
        *why = list_trouble(errno);
        return TENT_E_TRANSPORT;
    }
    for (ibv_device **each = list; *each != nullptr; each++)
        listed |= device == verbs.get_device_name(*each);
    verbs.free_device_list(list);
    if (listed) return TENT_OK;
    *why = "there is no RDMA device " + device + "; there is " + devices_list(verbs);
    return TENT_E_INVALID;
}

bool slot_take(Instance &instance, Rail &rail) {
    const std::lock_guard lock(instance.memory_mutex);
    auto *const end = std::end(instance.rails);
    auto *const free = std::find(std::begin(instance.rails), end, nullptr);
    if (free == end) return false;
    rail.slot = static_cast<uint32_t>(free - std::begin(instance.rails));
    *free = &rail;
    return true;
}

void slot_give(Instance &instance, const Rail &rail) {
    const std::lock_guard lock(instance.memory_mutex);
    instance.rails[rail.slot] = nullptr;
}

int32_t words_read(const Instance &instance, const tent_rail_params &params, Rail *rail) {
    char sentence[800];
    if (!device_word_read(params.device, &rail->device, &rail->port)) {
        snprintf(sentence, sizeof sentence,
                 "rdma: '%s' names no port: write mlx5_0, or mlx5_0:2 for port 2", params.device);
        return refuse(instance, TENT_E_INVALID, sentence);
    }
    rail->options = instance.options.rail;
    for (uint32_t i = 0; i < params.option_count; i++) {
        const int32_t status =
            rail_option_read(params.options[i], &rail->options, sentence, sizeof sentence);
        if (status != TENT_OK) return refuse(instance, status, sentence);
    }
    std::string why;
    const int32_t status = device_find(*instance.verbs, rail->device, &why);
    return status == TENT_OK ? TENT_OK : refuse(instance, status, why.c_str());
}

int32_t rail_fill(Rail &rail) {
    Instance &instance = *rail.instance;
    std::string why;
    if (!device_open(rail, &why)) return refuse(instance, TENT_E_TRANSPORT, why.c_str());
    if (regions_join(rail, &why)) return TENT_OK;
    return refuse(instance, TENT_E_TRANSPORT, why.c_str());
}

void info_fill(const PortFacts &facts, const char *address, tent_rail_info *info) {
    tent_rail_info filled{};
    filled.size = info->size;
    filled.bandwidth_bytes_per_s = facts.bandwidth_bytes_per_s;
    filled.numa = facts.numa;
    snprintf(filled.address, sizeof filled.address, "%s", address);
    memcpy(info, &filled, std::min<size_t>(info->size, sizeof filled));
}

// Whether a process like this one may open it: asked without opening, which takes milliseconds.
bool device_openable(const ibv_device &device) {
    const std::string node = std::string("/dev/infiniband/") + device.dev_name;
    return device.dev_name[0] == '\0' || access(node.c_str(), R_OK | W_OK) == 0;
}

// Why none of the listed devices can be used; "": one can.
std::string devices_trouble(ibv_device **list, int count) {
    std::string why;
    for (int i = 0; i < count; i++) {
        const ibv_device &device = *list[i];
        if (device.transport_type != IBV_TRANSPORT_IB)
            why = format("%s has no reliable connections that are set up without rdma_cm",
                         device.name);
        else if (device_openable(device))
            return "";
        else
            why = open_trouble(device, errno);
    }
    if (count != 0) return why;
    const std::vector<std::string> names = sysfs_names(SYSFS_DEVICES);
    if (names.empty())
        return "this machine has no RDMA device (in a container: it was let in none); for a trial "
               "without hardware: rdma link add rxe0 type rxe netdev eth0";
    return "the kernel has RDMA device " + names.front() +
           ", but libibverbs finds none: modprobe ib_uverbs, and install its provider "
           "(ibverbs-providers, or rdma-core)";
}

void rail_leave(Rail &rail) {
    rail.leaving = true;
    device_unwatch(rail);
    endpoints_lose_device(rail);
    rail_end(rail);
}

}  // namespace

Rail::Rail() = default;
Rail::~Rail() = default;

int32_t rail_open(void *opaque, const tent_rail_params *params, void **out, tent_rail_info *info) {
    Instance &instance = instance_of(opaque);
    auto rail = std::make_unique<Rail>();
    rail->instance = &instance;
    rail->index = params->index;
    int32_t status = words_read(instance, *params, rail.get());
    if (status != TENT_OK) return status;
    if (!slot_take(instance, *rail))
        return refuse(instance, TENT_E_BUSY,
                      format("rdma: %u rails are open already", RAILS_MAX).c_str());
    status = rail_fill(*rail);
    if (status != TENT_OK) {
        // A region_register may be on it by now: it goes when that has let go.
        rail_leave(*rail.release());
        return status;
    }
    info_fill(port_facts(rail->folder, rail->port), rail->address, info);
    *out = rail.release();
    return TENT_OK;
}

bool rail_end(Rail &rail) {
    // Endpoints are freed with their last result, and point here until then.
    if (!rail.endpoints.empty() || !device_leave(rail)) return false;
    slot_give(*rail.instance, rail);
    delete &rail;
    return true;
}

void rail_close(void *, void *opaque) {
    rail_leave(*static_cast<Rail *>(opaque));
}

int32_t rail_reach(void *, void *opaque, const char *peer_rail) {
    return address_reach(static_cast<const Rail *>(opaque)->address, peer_rail);
}

int32_t available(char *reason, uint32_t reason_size) {
    std::string why;
    const Verbs *verbs = verbs_load(&why);
    if (verbs != nullptr) {
        int count = 0;
        ibv_device **list = verbs->get_device_list(&count);
        why = devices_trouble(list, list != nullptr ? count : 0);
        if (list != nullptr) verbs->free_device_list(list);
    }
    if (why.empty()) return TENT_OK;
    snprintf(reason, reason_size, "%s", why.c_str());
    return TENT_E_PLUGIN;
}

uint32_t rails(tent_rail_info *infos, uint32_t stride, char (*devices)[32], uint32_t room) {
    uint32_t count = 0;
    for (const std::string &device : sysfs_names(SYSFS_DEVICES)) {
        const std::string folder = std::string(SYSFS_DEVICES) + "/" + device;
        for (const std::string &number : sysfs_names(folder + "/ports")) {
            const std::string word = number == "1" ? device : device + ":" + number;
            std::string name;
            uint8_t port = 0;
            if (word.size() >= sizeof devices[0] || !device_word_read(word.c_str(), &name, &port))
                continue;
            const PortFacts facts = port_facts(folder, port);
            if (!facts.channel_adapter || !facts.active) continue;
            if (count < room) {
                const std::vector<Gid> gids = gids_read(folder, port, facts.infiniband);
                const Gid *gid = gid_choose(gids);
                const std::string address =
                    gid == nullptr
                        ? ""
                        : gid_address(gid->link, gid->bytes, gid_prefix(gid->link, gid->bytes));
                auto *info = reinterpret_cast<tent_rail_info *>(
                    reinterpret_cast<char *>(infos) + static_cast<size_t>(stride) * count);
                info->size = stride;
                info_fill(facts, address.c_str(), info);
                snprintf(devices[count], sizeof devices[count], "%s", word.c_str());
            }
            count++;
        }
    }
    return count;
}

}  // namespace tent::rdma
