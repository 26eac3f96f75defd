// What an initiator knows of peers' regions, and the keys it has asked for.
//
// Leans on state.h and messages.h. Regions and keys that come in are foreign: nothing is held for
// them that the peer has not sent. The driver's alone.
#include <algorithm>
#include <cstring>

#include "messages.h"
#include "mutant.h"
#include "state.h"

namespace tent::rdma {
namespace {

constexpr uint64_t WAIT_MIN_NS = 20'000'000;
constexpr uint64_t WAIT_MAX_NS = 250'000'000;
constexpr uint64_t FULL_WAIT_NS = 2'000'000;  // the control channel had no room
constexpr uint32_t WANTS_MAX = 32;            // asked for at a time on an endpoint

// A slice that is under way names it.
bool in_use(const Endpoint &endpoint, const RemoteKeys *keys) {
    const auto &slices = endpoint.instance->slices;
    return endpoint.slices > 0 &&
           std::any_of(slices.begin(), slices.end(), [&](const Slice &slice) {
               return slice.endpoint == &endpoint && slice.keys == keys;
           });
}

// A peer's word becomes the status of slices: only what such an answer can mean.
int32_t status_of(int32_t foreign) {
    switch (foreign) {
        case TENT_E_DENIED:
        case TENT_E_STALE:
        case TENT_E_NOT_FOUND:
        case TENT_E_RANGE: return foreign;
        default: return TENT_E_TRANSPORT;
    }
}

void missing_erase(Endpoint &endpoint, uint32_t index) {
    std::erase(endpoint.keys_missing, index);
}

void refused(Endpoint &endpoint, RemoteKeys &keys, int32_t status) {
    keys.status = status;
    missing_erase(endpoint, keys.region->index);
    endpoint.instance->moved = true;
}

int32_t want(Endpoint &endpoint, RemoteKeys &keys, uint64_t now_ns) {
    const Want message{Message::WANT, keys.next, keys.region->about.number};
    const tent_host *host = endpoint.instance->host;
    const int32_t status = host->control_send(host->ctx, endpoint.number, &message, sizeof message);
    if (status != TENT_OK) return status;
    keys.wait_ns = keys.wait_ns == 0 ? WAIT_MIN_NS : std::min(keys.wait_ns * 2, WAIT_MAX_NS);
    keys.asked_ns = now_ns;
    return TENT_OK;
}

RemoteKeys *missing_find(Endpoint &endpoint, uint64_t number) {
    for (const uint32_t index : endpoint.keys_missing) {
        RemoteKeys *keys = endpoint.keys[index].get();
        if (keys->region->about.number == number &&
            (mutant(Mutant::rdma_stale) ||
             memcmp(keys->region->about.instance, endpoint.peer.instance,
                    sizeof endpoint.peer.instance) == 0))
            return keys;
    }
    return nullptr;
}

bool fits(const Endpoint &endpoint, const RemoteKeys &keys, const Keys &head) {
    return head.qp_count == endpoint.qps.size() &&
           head.piece_count <= keys.region->piece_count - keys.next;
}

// Without waiting for the next step.
void ask_now(Endpoint &endpoint) {
    if (endpoint.risen && endpoint.state <= EndpointState::READY)
        keys_step(endpoint, now_of(*endpoint.instance));
}

}  // namespace

RemoteKeys::~RemoteKeys() {
    if (--region->users == 0) delete region;
}

int32_t segment_import(void *opaque, const void *bytes, uint32_t size, void **out) {
    Instance &instance = instance_of(opaque);
    Export about{};
    uint32_t piece_count = 0;
    if (!export_read(bytes, size, &about, &piece_count))
        return refuse(instance, TENT_E_PROTOCOL,
                      "rdma: the peer's description of a region is not one of this version");
    auto *region = new RemoteRegion;
    region->about = about;
    region->piece_count = piece_count;
    auto &all = instance.remote_regions;
    const auto free = std::find(all.begin(), all.end(), nullptr);
    region->index = static_cast<uint32_t>(free - all.begin());
    if (free == all.end())
        all.push_back(region);
    else
        *free = region;
    *out = region;
    return TENT_OK;
}

void segment_forget(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto *region = static_cast<RemoteRegion *>(handle);
    for (const auto &endpoint : instance.endpoints) {
        std::erase_if(endpoint->keys_forgotten,
                      [&](const auto &keys) { return !in_use(*endpoint, keys.get()); });
        if (region->index >= endpoint->keys.size() || !endpoint->keys[region->index]) continue;
        std::unique_ptr<RemoteKeys> keys = std::move(endpoint->keys[region->index]);
        missing_erase(*endpoint, region->index);
        if (in_use(*endpoint, keys.get())) endpoint->keys_forgotten.push_back(std::move(keys));
    }
    instance.remote_regions[region->index] = nullptr;
    if (--region->users == 0) delete region;
}

void endpoint_region(void *, void *handle, void *remote_region) {
    Endpoint &endpoint = *static_cast<Endpoint *>(handle);
    auto *region = static_cast<RemoteRegion *>(remote_region);
    if (!endpoint.initiator) return;
    if (region->index >= endpoint.keys.size()) endpoint.keys.resize(region->index + 1);
    std::unique_ptr<RemoteKeys> &keys = endpoint.keys[region->index];
    if (!keys) {
        keys = std::make_unique<RemoteKeys>(*region);
        keys->early = endpoint.state == EndpointState::OFFERED;
    } else if (keys->status == TENT_OK) {
        return;  // known, or asked for
    } else {
        keys->status = TENT_OK;  // told again: perhaps it is given now
        keys->early = false;
        keys->wait_ns = 0;
    }
    endpoint.keys_missing.push_back(region->index);
    endpoint.keys_due_ns = 0;
    ask_now(endpoint);
}

bool keys_step(Endpoint &endpoint, uint64_t now_ns) {
    if (now_ns >= endpoint.keys_due_ns) {
        std::erase_if(endpoint.keys_missing, [&](uint32_t index) {
            RemoteKeys &keys = *endpoint.keys[index];
            if (mutant(Mutant::rdma_stale) ||
                memcmp(keys.region->about.instance, endpoint.peer.instance,
                       sizeof endpoint.peer.instance) == 0)
                return false;
            keys.status = TENT_E_STALE;  // of another run of the peer
            return true;
        });
        endpoint.keys_due_ns = UINT64_MAX;
        const size_t count = std::min<size_t>(endpoint.keys_missing.size(), WANTS_MAX);
        for (size_t i = 0; i < count; i++) {
            RemoteKeys &keys = *endpoint.keys[endpoint.keys_missing[i]];
            const bool due = keys.wait_ns == 0 || now_ns >= keys.asked_ns + keys.wait_ns;
            if (due && want(endpoint, keys, now_ns) != TENT_OK) {
                endpoint.keys_due_ns = std::min(endpoint.keys_due_ns, now_ns + FULL_WAIT_NS);
                break;
            }
            endpoint.keys_due_ns = std::min(endpoint.keys_due_ns, keys.asked_ns + keys.wait_ns);
        }
    }
    // In the order told: early ones stand first.
    return endpoint.keys_missing.empty() || !endpoint.keys[endpoint.keys_missing.front()]->early;
}

// A peer's answer.
void keys_came(Endpoint &endpoint, const void *bytes, uint32_t size) {
    KeysRead read;
    if (!keys_read(bytes, size, &read)) return;
    RemoteKeys *keys = missing_find(endpoint, read.head.region);
    // An answer that came twice or late.
    if (keys == nullptr || read.head.piece != keys->next) return;
    if (read.head.status == TENT_E_AGAIN) return;
    endpoint.keys_due_ns = 0;  // there is room for the next one to be asked for
    if (read.head.status != TENT_OK) return refused(endpoint, *keys, status_of(read.head.status));
    if (!fits(endpoint, *keys, read.head)) return refused(endpoint, *keys, TENT_E_TRANSPORT);
    const uint32_t access = read.head.access & ~KEYS_OF_WINDOWS;
    keys->access = keys->next == 0 ? access : keys->access & access;
    keys->windows = (read.head.access & KEYS_OF_WINDOWS) != 0;
    keys->keys.insert(keys->keys.end(), read.numbers, read.numbers + read.count);
    keys->next += read.head.piece_count;
    keys->wait_ns = 0;
    endpoint.instance->moved = true;
    if (keys->next == keys->region->piece_count) {
        keys->known = true;
        missing_erase(endpoint, keys->region->index);
    }
    ask_now(endpoint);
}

void endpoint_message(void *, void *handle, const void *bytes, uint32_t size) {
    Endpoint &endpoint = *static_cast<Endpoint *>(handle);
    if (endpoint.initiator)
        keys_came(endpoint, bytes, size);
    else
        keys_asked(endpoint, bytes, size);
}

RemoteKeys *keys_of(Endpoint &endpoint, const RemoteRegion *region) {
    if (region == nullptr || region->index >= endpoint.keys.size()) return nullptr;
    return endpoint.keys[region->index].get();
}

}  // namespace tent::rdma
