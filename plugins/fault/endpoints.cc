// Endpoints: set up, closed and retired through the decorated transport, or failed.
//
// Leans on state.h. Must never say that an endpoint is closed or retired before the decorated
// transport has said so.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "state.h"

namespace tent::fault {
namespace {

tent_endpoint_params inner_params_of(const tent_endpoint_params *params) {
    tent_endpoint_params inner{};
    memcpy(&inner, params, std::min<size_t>(params->size, sizeof inner));
    inner.rail = static_cast<Rail *>(params->rail)->inner;
    return inner;
}

using Begin = int32_t (*)(void *, const tent_endpoint_params *, void **, void *, uint32_t *);

int32_t endpoint_begin(Instance &instance, Operation operation, Begin begin,
                       const tent_endpoint_params *params, void **out, void *bytes,
                       uint32_t *size) {
    std::unique_ptr<Endpoint> endpoint(new (std::nothrow) Endpoint);
    if (!endpoint) return refuse(instance, TENT_E_NO_MEMORY, "fault: no memory for an endpoint");
    endpoint->rail = static_cast<Rail *>(params->rail);
    if (fails(instance, endpoint->rail, operation)) return TENT_E_TRANSPORT;
    const tent_endpoint_params inner = inner_params_of(params);
    const int32_t status = begin(instance.inner_instance, &inner, &endpoint->inner, bytes, size);
    if (status != TENT_OK) return status;
    endpoint->instance = &instance;
    endpoint->number = params->endpoint;
    endpoint->initiator = params->initiator != 0;
    endpoint->next = instance.endpoints;
    instance.endpoints = endpoint.get();
    *out = endpoint.release();
    return TENT_OK;
}

}  // namespace

int32_t endpoint_offer(void *opaque, const tent_endpoint_params *params, void **endpoint,
                       void *offer, uint32_t *size) {
    Instance &instance = instance_of(opaque);
    return endpoint_begin(instance, Operation::ENDPOINT_OFFER, instance.inner->endpoint_offer,
                          params, endpoint, offer, size);
}

int32_t endpoint_accept(void *opaque, const tent_endpoint_params *params, void **endpoint,
                        void *answer, uint32_t *size) {
    Instance &instance = instance_of(opaque);
    return endpoint_begin(instance, Operation::ENDPOINT_ACCEPT, instance.inner->endpoint_accept,
                          params, endpoint, answer, size);
}

int32_t endpoint_connect(void *opaque, void *handle, const tent_endpoint_params *params) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    if (fails(instance, endpoint.rail, Operation::ENDPOINT_CONNECT)) return TENT_E_TRANSPORT;
    endpoint.rail->used = true;
    rail_update(*endpoint.rail, instance.now_ns());
    if (endpoint.rail->cut) endpoint_cut(endpoint);
    if (endpoint.broken)
        return TENT_OK;  // no answer over a broken cable: the error comes, or nothing
    const tent_endpoint_params inner = inner_params_of(params);
    return instance.inner->endpoint_connect(instance.inner_instance, endpoint.inner, &inner);
}

int32_t endpoint_adopt(void *opaque, void *handle, uint32_t connection, int fd) {
    Instance &instance = instance_of(opaque);
    const auto &endpoint = *static_cast<Endpoint *>(handle);
    if (fails(instance, endpoint.rail, Operation::ENDPOINT_ADOPT)) return TENT_E_TRANSPORT;
    if (instance.inner->endpoint_adopt == nullptr)
        return refuse(instance, TENT_E_UNSUPPORTED, "the decorated transport takes no sockets");
    return instance.inner->endpoint_adopt(instance.inner_instance, endpoint.inner, connection, fd);
}

void endpoint_message(void *opaque, void *handle, const void *bytes, uint32_t size) {
    const Instance &instance = instance_of(opaque);
    const auto &endpoint = *static_cast<Endpoint *>(handle);
    if (instance.inner->endpoint_message != nullptr && endpoint.inner != nullptr)
        instance.inner->endpoint_message(instance.inner_instance, endpoint.inner, bytes, size);
}

int32_t endpoint_close(void *opaque, void *handle) {
    auto &endpoint = *static_cast<Endpoint *>(handle);
    if (struck(instance_of(opaque), endpoint.rail, Operation::ENDPOINT_CLOSE) != Failure::NONE) {
        endpoint.withheld = true;
        return TENT_IN_PROGRESS;
    }
    const int32_t status = endpoint_close_inner(endpoint);
    if (status == TENT_IN_PROGRESS) return status;
    news_clear(endpoint);
    endpoint.withheld = false;
    endpoint.closed = true;
    endpoint_flush_held(endpoint, TENT_E_CANCELLED);
    if (endpoint.slot_count == 0) endpoint_free(endpoint);
    return status;
}

int32_t endpoint_retire(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    if (struck(instance, endpoint.rail, Operation::ENDPOINT_RETIRE) != Failure::NONE)
        return TENT_IN_PROGRESS;
    const int32_t status = instance.inner->endpoint_retire(instance.inner_instance, endpoint.inner);
    if (status != TENT_IN_PROGRESS) endpoint_free(endpoint);
    return status;
}

// What the decorated transport has moved, less what the model's link still carries.
uint64_t endpoint_progress(void *opaque, void *handle) {
    const Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    if (endpoint.broken || endpoint.inner == nullptr) return endpoint.progress;
    const bool told = TENT_FAULT_OFFERS(instance, endpoint_progress);
    const uint64_t moved =
        told ? instance.inner->endpoint_progress(instance.inner_instance, endpoint.inner)
             : endpoint.link_size;
    const uint64_t now_ns = instance.now_ns();
    const uint64_t rate = endpoint.rail->cable.throttle_bytes_per_s;
    uint64_t left = 0;
    if (endpoint.link_end_ns > now_ns)
        left = static_cast<uint64_t>(static_cast<double>(endpoint.link_end_ns - now_ns) *
                                     static_cast<double>(rate) / 1e9);
    endpoint.progress = std::max(endpoint.progress, moved - std::min(moved, left));
    return endpoint.progress;
}

void endpoint_region(void *opaque, void *handle, void *remote_region) {
    const Instance &instance = instance_of(opaque);
    const auto &endpoint = *static_cast<Endpoint *>(handle);
    if (TENT_FAULT_OFFERS(instance, endpoint_region) && endpoint.inner != nullptr)
        instance.inner->endpoint_region(instance.inner_instance, endpoint.inner, remote_region);
}

void endpoint_about(void *opaque, void *handle, void *remote_region, char *text, uint32_t size) {
    const Instance &instance = instance_of(opaque);
    const auto &endpoint = *static_cast<Endpoint *>(handle);
    if (TENT_FAULT_OFFERS(instance, endpoint_about) && endpoint.inner != nullptr)
        instance.inner->endpoint_about(instance.inner_instance, endpoint.inner, remote_region, text,
                                       size);
    else if (size > 0)
        text[0] = '\0';
}

void region_about(void *opaque, void *region, char *text, uint32_t size) {
    const Instance &instance = instance_of(opaque);
    if (TENT_FAULT_OFFERS(instance, region_about))
        instance.inner->region_about(instance.inner_instance, region, text, size);
    else if (size > 0)
        text[0] = '\0';
}

int32_t endpoint_settle(void *opaque, void *handle, uint64_t *mark) {
    const Instance &instance = instance_of(opaque);
    const auto &endpoint = *static_cast<Endpoint *>(handle);
    if (!TENT_FAULT_OFFERS(instance, endpoint_settle)) return TENT_OK;
    if (endpoint.inner == nullptr) return TENT_E_TRANSPORT;
    return instance.inner->endpoint_settle(instance.inner_instance, endpoint.inner, mark);
}

}  // namespace tent::fault
