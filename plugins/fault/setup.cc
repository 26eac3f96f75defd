// Rails and memory: opened with the options of both, passed through, or failed.
//
// Leans on state.h. What the decorated transport does not offer succeeds with nothing. Must never
// lose a handle of the decorated transport: what a fault kept from the core is closed at the end.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "state.h"

namespace tent::fault {
namespace {

constexpr uint32_t RAIL_OPTIONS_MAX = 64;
constexpr int END_ROUNDS_MAX = 1000;  // polls of the decorated transport until it has let go

bool inside(const Instance &instance, const Endpoint &endpoint) {
    for (uint32_t i = 0; i < instance.slot_count; ++i) {
        const Slot &slot = instance.slots[i];
        if (slot.endpoint == &endpoint && slot.state == SlotState::INSIDE) return true;
    }
    return false;
}

// The core is gone from it: closes it in the decorated transport and forgets its slices.
void endpoint_end(Endpoint &endpoint) {
    Instance &instance = *endpoint.instance;
    endpoint.hangs = endpoint.withheld = false;
    int32_t status = TENT_IN_PROGRESS;
    for (int i = 0; i < END_ROUNDS_MAX; ++i) {
        if (status == TENT_IN_PROGRESS)
            status = endpoint.initiator || endpoint.inner == nullptr
                         ? endpoint_close_inner(endpoint)
                         : instance.inner->endpoint_retire(instance.inner_instance, endpoint.inner);
        if (status != TENT_IN_PROGRESS && !inside(instance, endpoint)) break;
        uint32_t busy = 0;
        inner_poll(instance, &busy);
    }
    news_clear(endpoint);
    slots_forget(endpoint);
    endpoint.closed = true;
    if (endpoint.slot_count == 0) endpoint_free(endpoint);
}

}  // namespace

void endpoints_end_on(Rail &rail) {
    Instance &instance = *rail.instance;
    instance.ending = true;
    for (Endpoint *endpoint = instance.endpoints; endpoint != nullptr;) {
        Endpoint *next = endpoint->next;
        if (endpoint->rail == &rail) endpoint_end(*endpoint);
        endpoint = next;
    }
    instance.ending = false;
}

void regions_end(Instance &instance) {
    instance.ending = true;
    for (void *region : instance.regions_kept) {
        for (int i = 0; i < END_ROUNDS_MAX; ++i) {
            uint32_t busy = 0;
            if (instance.inner->region_release(instance.inner_instance, region) != TENT_IN_PROGRESS)
                break;
            inner_poll(instance, &busy);
        }
    }
    instance.regions_kept.clear();
}

int32_t rail_open(void *opaque, const tent_rail_params *params, void **out, tent_rail_info *info) {
    Instance &instance = instance_of(opaque);
    std::unique_ptr<Rail> rail(new (std::nothrow) Rail);
    if (!rail) return refuse(instance, TENT_E_NO_MEMORY, "fault: no memory for a rail");
    rail->instance = &instance;
    rail->index = params->index;
    rail->start_ns = rail->faults.start_ns = instance.now_ns();
    rail->faults.random = instance.seed.value ^ (params->index + 1) * 0xd1342543de82ef95u;
    tent_option passed[RAIL_OPTIONS_MAX];
    uint32_t passed_count = 0;
    char sentence[320];
    const Reader reader{rail->faults, &rail->options, nullptr, sentence, sizeof sentence};
    for (uint32_t i = 0; i < params->option_count; ++i) {
        const tent_option &option = params->options[i];
        if (strncmp(option.name, PREFIX, sizeof PREFIX - 1) == 0) {
            if (!option_read(reader, option.name + sizeof PREFIX - 1, option.value))
                return refuse(instance, TENT_E_INVALID, sentence);
        } else if (passed_count < RAIL_OPTIONS_MAX) {
            passed[passed_count++] = option;
        } else {
            return refuse(instance, TENT_E_INVALID, "fault: more than 64 options on a rail");
        }
    }
    if (fails(instance, rail.get(), Operation::RAIL_OPEN)) return TENT_E_TRANSPORT;
    tent_rail_params inner_params{};
    memcpy(&inner_params, params, std::min<size_t>(params->size, sizeof inner_params));
    inner_params.options = passed;
    inner_params.option_count = passed_count;
    const int32_t status =
        instance.inner->rail_open(instance.inner_instance, &inner_params, &rail->inner, info);
    if (status != TENT_OK) return status;
    rail->next = instance.rails;
    instance.rails = rail.get();
    *out = rail.release();
    return TENT_OK;
}

void rail_close(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto *rail = static_cast<Rail *>(handle);
    endpoints_end_on(*rail);
    Rail **link = &instance.rails;
    while (*link != rail)
        link = &(*link)->next;
    *link = rail->next;
    instance.inner->rail_close(instance.inner_instance, rail->inner);
    delete rail;
}

int32_t rail_reach(void *opaque, void *rail, const char *peer_rail) {
    const Instance &instance = instance_of(opaque);
    return instance.inner->rail_reach(instance.inner_instance, static_cast<Rail *>(rail)->inner,
                                      peer_rail);
}

// ---- memory -------------------------------------------------------------------------------------

int32_t region_register(void *opaque, const tent_region_params *params, void **region) {
    Instance &instance = instance_of(opaque);
    *region = nullptr;
    if (fails(instance, nullptr, Operation::REGION_REGISTER)) return TENT_E_TRANSPORT;
    if (instance.inner->region_register == nullptr) return TENT_OK;
    return instance.inner->region_register(instance.inner_instance, params, region);
}

int32_t region_export(void *opaque, void *region, void *bytes, uint32_t *size) {
    Instance &instance = instance_of(opaque);
    if (fails(instance, nullptr, Operation::REGION_EXPORT)) return TENT_E_TRANSPORT;
    if (instance.inner->region_export == nullptr) {
        *size = 0;
        return TENT_OK;
    }
    return instance.inner->region_export(instance.inner_instance, region, bytes, size);
}

bool remember(std::vector<void *> &kept, void *region) {
    try {
        kept.push_back(region);
        return true;
    } catch (const std::bad_alloc &) {
        return false;
    }
}

int32_t region_release(void *opaque, void *region) {
    Instance &instance = instance_of(opaque);
    const bool hangs = struck(instance, nullptr, Operation::REGION_RELEASE) != Failure::NONE;
    if (instance.inner->region_release == nullptr) return hangs ? TENT_IN_PROGRESS : TENT_OK;
    std::vector<void *> &kept = instance.regions_kept;
    const auto found = std::find(kept.begin(), kept.end(), region);
    // Without memory to remember it by it is let go.
    if (hangs && (found != kept.end() || remember(kept, region))) return TENT_IN_PROGRESS;
    const int32_t status = instance.inner->region_release(instance.inner_instance, region);
    if (status != TENT_IN_PROGRESS && found != kept.end()) kept.erase(found);
    return status;
}

int32_t segment_import(void *opaque, const void *bytes, uint32_t size, void **remote_region) {
    Instance &instance = instance_of(opaque);
    *remote_region = nullptr;
    if (fails(instance, nullptr, Operation::SEGMENT_IMPORT)) return TENT_E_TRANSPORT;
    if (instance.inner->segment_import == nullptr) return TENT_OK;
    return instance.inner->segment_import(instance.inner_instance, bytes, size, remote_region);
}

void segment_forget(void *opaque, void *remote_region) {
    const Instance &instance = instance_of(opaque);
    if (instance.inner->segment_forget != nullptr)
        instance.inner->segment_forget(instance.inner_instance, remote_region);
}

}  // namespace tent::fault
