// Grants over regions: made, proven, checked, ended and described. See memory.h.
#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/mutant.h"
#include "base/status.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/memory.h"
#include "core/reports.h"

namespace tent {

namespace {

bool grants_region(const Grant &grant, uint64_t region) {
    return grant.all ||
           std::find(grant.regions.begin(), grant.regions.end(), region) != grant.regions.end();
}

bool in_scratch(const Engine &engine, uint64_t remote, uint64_t length) {
    uint64_t begin = scratch_target(engine);
    return remote >= begin && length <= SCRATCH_SIZE && remote - begin <= SCRATCH_SIZE - length;
}

// Of a grant, by a peer that reads or writes.
uint32_t access_needed(uint32_t op) {
    if (mutant(Mutant::direction_check)) return 0;
    return op == TENT_OP_READ ? TENT_ACCESS_READ : TENT_ACCESS_WRITE;
}

// Is an endpoint of a peer bound to it?
bool grant_bound(const Engine &engine, uint32_t slot) {
    return std::any_of(engine.endpoints.begin(), engine.endpoints.end(), [&](const auto &e) {
        return !e->initiator && e->state != EndpointState::Gone && e->grant == slot;
    });
}

// The slot of a revoked grant that no endpoint is bound to any more; 0: none.
uint32_t grant_slot_free(const Engine &engine) {
    for (uint32_t slot = 1; slot < engine.grants.size(); slot++) {
        if (engine.grants[slot]->revoked && !grant_bound(engine, slot)) return slot;
    }
    return 0;
}

// IN_PROGRESS: endpoints of the grant are still being retired. *begun: this call has found it.
int32_t revoke_step(Engine &engine, uint64_t handle, bool *begun) {
    auto at = std::find_if(engine.grants.begin(), engine.grants.end(),
                           [&](const auto &grant) { return grant->handle == handle; });
    Grant *grant = at == engine.grants.end() ? nullptr : at->get();
    if (*begun && !grant) return TENT_OK;  // its slot is another's already
    bool bound = grant && grant_bound(engine, grant->slot);
    if (!*begun && (!grant || (grant->revoked && !bound)))
        return fail(TENT_E_NOT_FOUND, "grant %llu does not exist or was revoked already",
                    static_cast<unsigned long long>(handle));
    *begun = true;
    if (!grant->revoked) {
        grant->revoked = !mutant(Mutant::revoke_check);
        if (grant->revoked) grant->table = RangeTable();
        endpoints_retire_grant(engine, grant->slot);
        control_grant_revoked(engine, *grant);
        bound = grant_bound(engine, grant->slot);
    }
    return bound ? TENT_IN_PROGRESS : TENT_OK;
}

}  // namespace

std::unique_ptr<Grant> grant_make(Engine &engine, uint64_t handle, uint32_t access) {
    auto grant = std::make_unique<Grant>();
    grant->handle = handle;
    grant->slot = static_cast<uint32_t>(engine.grants.size());
    grant->access = access;
    grant->version = 1;
    engine.random.fill(grant->token, sizeof grant->token);
    return grant;
}

void grants_region_added(Engine &engine, const RegionSlot &region, uint32_t slot) {
    for (auto &grant : engine.grants) {
        uint32_t access = region.access & grant->access;
        if (grant->revoked || access == 0 || !grants_region(*grant, region.handle)) continue;
        grant->table = grant->table.with({region.address, region.length, access, slot});
        grant->version++;
        control_region_added(engine, *grant, region_describe(region, access));
    }
}

void grants_region_removed(Engine &engine, const RegionSlot &region, uint32_t slot) {
    for (auto &grant : engine.grants) {
        if (grant->revoked || !grants_region(*grant, region.handle)) continue;
        grant->table = grant->table.without(slot);
        grant->version++;
        control_region_removed(engine, *grant, region.handle);
    }
}

int32_t grant_create(Engine &engine, const tent_grant_options *options, uint64_t *handle) {
    uint32_t reused = grant_slot_free(engine);
    if (reused == 0 && engine.grants.size() >= GRANTS_MAX)
        return fail(TENT_E_AGAIN, "%u grants were made, the most there can be", GRANTS_MAX);
    uint32_t access =
        options && options->access ? options->access : TENT_ACCESS_READ | TENT_ACCESS_WRITE;
    auto grant = grant_make(engine, engine.grant_next, access);
    grant->expires_unix_ms = options ? options->expires_unix_ms : 0;
    grant->all = !options || !options->regions;
    std::vector<Range> ranges;
    auto add = [&](uint32_t slot) {
        const RegionSlot &region = *engine.regions[slot];
        if ((region.access & access) && !region.leaving)
            ranges.push_back({region.address, region.length, region.access & access, slot});
    };
    if (grant->all) {
        for (const auto &[region, slot] : engine.region_by_handle)
            add(slot);
    } else {
        for (uint32_t i = 0; i < options->region_count; i++) {
            auto found = engine.region_by_handle.find(options->regions[i]);
            if (found == engine.region_by_handle.end() || engine.regions[found->second]->leaving)
                return fail(TENT_E_NOT_FOUND,
                            "region %llu (number %u of the grant) is not registered",
                            static_cast<unsigned long long>(options->regions[i]), i);
            if (std::find(grant->regions.begin(), grant->regions.end(), found->first) ==
                grant->regions.end()) {
                grant->regions.push_back(found->first);
                add(found->second);
            }
        }
    }
    grant->table = RangeTable(std::move(ranges));
    *handle = engine.grant_next++;
    if (grant->expires_unix_ms) engine.grants_due_ns = engine.now_ns;
    if (reused) {
        grant->slot = reused;
        engine.grants[reused] = std::move(grant);
    } else {
        engine.grants.push_back(std::move(grant));
    }
    return TENT_OK;
}

Grant *grant_find(Engine &engine, uint64_t handle) {
    for (auto &grant : engine.grants)
        if (grant->handle == handle) return grant->revoked ? nullptr : grant.get();
    return nullptr;
}

int32_t grant_revoke(Engine &engine, uint64_t handle) {
    uint64_t limit_ns = with_driver(engine, [&] { return parameters(engine).fence_timeout_ns; });
    bool begun = false;
    int32_t status = TENT_IN_PROGRESS;
    drive_until(engine, limit_ns, [&] {
        status = revoke_step(engine, handle, &begun);
        return status != TENT_IN_PROGRESS;
    });
    if (status != TENT_IN_PROGRESS) return status;
    return fail(engine.manual ? TENT_E_BUSY : TENT_E_UNFENCED_LOCAL,
                "grant %llu is revoked, but a transport has not retired its endpoints yet: %s",
                static_cast<unsigned long long>(handle),
                engine.manual ? "call tent_engine_step, then this again"
                              : "peers may still write for a while; call this again");
}

int32_t grant_prove(Engine &engine, uint64_t handle, const uint8_t *token) {
    Grant *grant = grant_find(engine, handle);
    // One sentence for all: which grants exist is nobody's business.
    if (!grant || !equal_constant_time(grant->token, token, sizeof grant->token))
        return fail(TENT_E_DENIED, "the token opens no grant of engine '%s' (revoked or forged)",
                    engine.name.c_str());
    if (grant->expires_unix_ms && realtime_ms() >= grant->expires_unix_ms)
        return fail(TENT_E_DENIED, "the grant of engine '%s' has expired", engine.name.c_str());
    return TENT_OK;
}

int32_t grant_check(Engine &engine, uint64_t slot, uint32_t op, uint64_t remote, uint64_t length) {
    if (slot >= engine.grants.size()) return TENT_E_STALE;
    Grant &grant = *engine.grants[slot];
    int32_t status = TENT_OK;
    const Range *range = nullptr;
    if (grant.revoked || (grant.expires_unix_ms && realtime_ms() >= grant.expires_unix_ms))
        status = TENT_E_DENIED;
    else if (op == TENT_OP_WRITE && in_scratch(engine, remote, length))
        return TENT_OK;
    else if (op != TENT_OP_READ && op != TENT_OP_WRITE)
        status = TENT_E_PROTOCOL;
    else
        status = grant.table.find(remote, length, access_needed(op), &grant.hint, &range);
    if (status == TENT_E_RANGE && mutant(Mutant::bounds_check)) status = TENT_OK;
    if (status == TENT_OK) return TENT_OK;
    bump(engine.tally.refused);
    report(engine, TENT_EVENT_ACCESS_REFUSED, {.status = status},
           "refused a peer's %s of 0x%llx+%llu: %s", op == TENT_OP_READ ? "read" : "write",
           static_cast<unsigned long long>(remote), static_cast<unsigned long long>(length),
           status_text(status));
    return status;
}

uint32_t grant_access(Engine &engine, uint64_t slot, uint64_t remote, uint64_t length) {
    if (slot >= engine.grants.size() || length == 0) return 0;
    Grant &grant = *engine.grants[slot];
    if (grant.revoked || (grant.expires_unix_ms && realtime_ms() >= grant.expires_unix_ms))
        return 0;
    // Also of both pages together: keys are given of whole regions, and neither holds anything.
    const bool scratch = remote == scratch_source(engine) && length == 2 * SCRATCH_SIZE;
    if (scratch || in_scratch(engine, remote, length)) return TENT_ACCESS_WRITE;
    uint32_t access = 0;
    const Range *range = nullptr;
    for (uint32_t bit : {TENT_ACCESS_READ, TENT_ACCESS_WRITE})
        if (grant.table.find(remote, length, bit, &grant.hint, &range) == TENT_OK) access |= bit;
    return access;
}

void grants_expire(Engine &engine) {
    if (engine.now_ns < engine.grants_due_ns) return;
    const uint64_t now_ms = realtime_ms();
    uint64_t wait_ms = GRANTS_LOOK_MS;  // the wall clock may be set
    for (auto &grant : engine.grants) {
        if (grant->revoked || grant->expired || grant->expires_unix_ms == 0) continue;
        if (now_ms < grant->expires_unix_ms) {
            wait_ms = std::min(wait_ms, grant->expires_unix_ms - now_ms);
            continue;
        }
        grant->expired = true;
        endpoints_retire_grant(engine, grant->slot);
    }
    const bool left =
        std::any_of(engine.grants.begin(), engine.grants.end(), [](const auto &grant) {
            return grant->expires_unix_ms && !grant->revoked && !grant->expired;
        });
    engine.grants_due_ns = left ? engine.now_ns + wait_ms * MS : UINT64_MAX;
}

DescriptorRegion region_describe(const RegionSlot &region, uint32_t access) {
    DescriptorRegion about;
    about.region = region.handle;
    about.address = region.address;
    about.length = region.length;
    about.access = access;
    about.location = region.location;
    about.label = region.label;
    for (const auto &[transport, handle] : region.handles) {
        if (!transport->table->region_export) continue;
        DescriptorExport exported;
        exported.transport = transport->name;
        exported.bytes.resize(TENT_EXPORT_MAX);
        uint32_t size = TENT_EXPORT_MAX;
        if (transport->table->region_export(transport->instance, handle, exported.bytes.data(),
                                            &size) != TENT_OK)
            continue;
        exported.bytes.resize(size);
        about.exports.push_back(std::move(exported));
    }
    return about;
}

void grant_describe(Engine &engine, const Grant &grant, Descriptor *descriptor) {
    memcpy(descriptor->engine_id, engine.id, sizeof engine.id);
    descriptor->epoch = engine.epoch;
    descriptor->name = engine.name;
    descriptor->host_id = engine.host_id;
    descriptor->grant = grant.handle;
    memcpy(descriptor->token, grant.token, sizeof grant.token);
    descriptor->access = grant.access;
    descriptor->expires_unix_ms = grant.expires_unix_ms;
    descriptor->version = grant.version;
    control_describe(engine, descriptor);
    for (const Range &range : grant.table.ranges())
        descriptor->regions.push_back(region_describe(*engine.regions[range.slot], range.access));
}

}  // namespace tent
