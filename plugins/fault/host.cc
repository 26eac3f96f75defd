// The host table that the decorated transport sees: the core's, with one thing between. What
// happens at the far end of a cable that hangs is not heard of at this one.
//
// Leans on state.h. Must never answer for the core.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace tent::fault {
namespace {

const tent_host &core(void *ctx) {
    return *instance_of(ctx).host;
}

Endpoint *endpoint_find(const Instance &instance, uint64_t number) {
    Endpoint *endpoint = instance.endpoints;
    while (endpoint != nullptr && endpoint->number != number)
        endpoint = endpoint->next;
    return endpoint;
}

void endpoint_state(void *ctx, uint64_t number, int32_t status, const char *sentence) {
    Instance &instance = instance_of(ctx);
    Endpoint *endpoint = endpoint_find(instance, number);
    if (instance.ending || (endpoint != nullptr && endpoint->hangs)) return;
    // After a failure every posted slice comes back, those without a result as well.
    if (endpoint != nullptr && status < 0) endpoint_flush_held(*endpoint, status);
    instance.host->endpoint_state(instance.host->ctx, number, status, sentence);
}

}  // namespace

void host_wrap(Instance &instance) {
    tent_host &table = instance.inner_host;
    memcpy(&table, instance.host, std::min<size_t>(instance.host->size, sizeof table));
    table.size = std::min<uint32_t>(instance.host->size, sizeof table);
    table.ctx = &instance;
    table.inner = nullptr;
    table.endpoint_state = endpoint_state;
    table.now_ns = [](void *ctx) { return core(ctx).now_ns(core(ctx).ctx); };
    table.random_u64 = [](void *ctx) { return core(ctx).random_u64(core(ctx).ctx); };
    table.log = [](void *ctx, int32_t status, const char *sentence) {
        core(ctx).log(core(ctx).ctx, status, sentence);
    };
    table.fail = [](void *ctx, const char *sentence) { core(ctx).fail(core(ctx).ctx, sentence); };
    table.grant_check = [](void *ctx, uint64_t grant, uint32_t op, uint64_t remote,
                           uint64_t length) {
        return core(ctx).grant_check(core(ctx).ctx, grant, op, remote, length);
    };
    table.served = [](void *ctx, uint64_t endpoint, uint32_t op, uint64_t bytes) {
        core(ctx).served(core(ctx).ctx, endpoint, op, bytes);
    };
    table.opening_make = [](void *ctx, uint64_t endpoint, uint32_t connection, void *opening) {
        return core(ctx).opening_make(core(ctx).ctx, endpoint, connection, opening);
    };
    table.opening_check = [](void *ctx, uint64_t endpoint, uint32_t connection, const void *reply) {
        return core(ctx).opening_check(core(ctx).ctx, endpoint, connection, reply);
    };
    table.control_send = [](void *ctx, uint64_t endpoint, const void *bytes, uint32_t size) {
        return core(ctx).control_send(core(ctx).ctx, endpoint, bytes, size);
    };
    // A core may be from before these.
    if (table.rail_state != nullptr)
        table.rail_state = [](void *ctx, uint32_t rail, int32_t status, const char *sentence) {
            core(ctx).rail_state(core(ctx).ctx, rail, status, sentence);
        };
    if (table.grant_access != nullptr)
        table.grant_access = [](void *ctx, uint64_t grant, uint64_t remote, uint64_t length) {
            return core(ctx).grant_access(core(ctx).ctx, grant, remote, length);
        };
    if (table.errand != nullptr)
        table.errand = [](void *ctx, void (*run)(void *), void *argument) {
            core(ctx).errand(core(ctx).ctx, run, argument);
        };
    if (table.work_ready != nullptr)
        table.work_ready = [](void *ctx, uint32_t count) {
            core(ctx).work_ready(core(ctx).ctx, count);
        };
}

}  // namespace tent::fault
