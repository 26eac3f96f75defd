// How regions are registered and how endpoints reach them: told to who looks.
//
// Leans on state.h. The driver's alone.
#include <algorithm>
#include <cstring>

#include "pin.h"
#include "state.h"

namespace tent::rdma {
namespace {

void text_give(const std::string &about, char *text, uint32_t size) {
    if (size == 0) return;
    const size_t length = std::min<size_t>(about.size(), size - 1);
    memcpy(text, about.data(), length);
    text[length] = '\0';
}

const char *direction_words(uint32_t access) {
    switch (access & (TENT_ACCESS_READ | TENT_ACCESS_WRITE)) {
        case TENT_ACCESS_READ: return "rdma read";
        case TENT_ACCESS_WRITE: return "rdma write";
        default: return "rdma write/read";
    }
}

const char *refusal_words(int32_t status) {
    switch (status) {
        case TENT_E_DENIED: return "its grant does not hold all of it";
        case TENT_E_STALE: return "it is of an earlier run of the peer";
        case TENT_E_NOT_FOUND:
        case TENT_E_RANGE: return "it is not registered any more";
        default:
            return "the peer has not registered it on that rail, or has no key that allows so "
                   "little (the peer's events and `tent explain` say which)";
    }
}

std::string pairs_words(const Endpoint &endpoint) {
    const size_t count = endpoint.qps.size();
    return format("%zu queue pair%s", count, count == 1 ? "" : "s");
}

std::string endpoint_words(Endpoint &endpoint, const RemoteRegion *region) {
    if (endpoint.state == EndpointState::OFFERED || endpoint.state == EndpointState::CONNECTING)
        return "unreachable: it is being set up";
    if (endpoint.state != EndpointState::READY)
        return "unreachable: " + (endpoint.sentence.empty() ? "it is closed" : endpoint.sentence);
    const RemoteKeys *keys = keys_of(endpoint, region);
    if (region == nullptr) return "rdma write/read, " + pairs_words(endpoint);
    if (keys == nullptr) return "unreachable: its keys were not asked for";
    if (keys->status != TENT_OK) return std::string("unreachable: ") + refusal_words(keys->status);
    if (!keys->known) return "unreachable: its keys were asked for and have not come";
    return std::string(direction_words(keys->access)) + ", " + pairs_words(endpoint) +
           (keys->windows ? ", a key per queue pair (memory windows)"
                          : ", keys of whole registrations (the peer uses no memory windows)");
}

std::string rail_words(const Region &region, const Rail &rail) {
    const std::string name = format("rail %u %s: ", rail.index, rail.device.c_str());
    const Registration *have = region.on[rail.slot].load(std::memory_order_acquire);
    if (have == nullptr || have->rail_generation != rail.generation)
        return name + (rail.state == RailState::GONE ? "not registered: the device is gone"
                                                     : "not registered yet");
    if (have->status != TENT_OK) return name + "not registered: " + have->why;
    std::string text = name + format("registered, %zu piece%s", have->pieces.size(),
                                     have->pieces.size() == 1 ? "" : "s");
    if (have->length != region.length) text += " of what it lies in";
    if (have->users > 1) text += format(", shared by %u regions", have->users);
    if (have->read_only) return text + ", no windows: the memory is read-only";
    return text + (windows_on(rail) ? ", windows" : ", no windows");
}

}  // namespace

void region_about(void *opaque, void *handle, char *text, uint32_t size) {
    Instance &instance = instance_of(opaque);
    const Region &region = *static_cast<Region *>(handle);
    std::string about;
    const std::lock_guard lock(instance.memory_mutex);
    for (const Rail *rail : instance.rails) {
        if (rail == nullptr) continue;
        if (!about.empty()) about += '\n';
        about += rail_words(region, *rail);
    }
    if (about.empty()) about = "no rail is open";
    text_give(about, text, size);
}

void endpoint_about(void *, void *handle, void *remote_region, char *text, uint32_t size) {
    text_give(endpoint_words(*static_cast<Endpoint *>(handle),
                             static_cast<const RemoteRegion *>(remote_region)),
              text, size);
}

}  // namespace tent::rdma
