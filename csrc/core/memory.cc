// See memory.h.
#include "core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/status.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/reports.h"

namespace tent {

namespace {

// Swaps the table that submitting threads read, and frees the old one once they have left it.
void publish(Engine &engine, RangeTable table) {
    RangeTable *old =
        engine.local_ranges.exchange(new RangeTable(std::move(table)), std::memory_order_acq_rel);
    engine.gate.synchronize();
    delete old;
}

bool grants_region(const Grant &grant, uint64_t region) {
    return grant.all ||
           std::find(grant.regions.begin(), grant.regions.end(), region) != grant.regions.end();
}

void grants_add(Engine &engine, const RegionSlot &region, uint32_t slot) {
    for (auto &grant : engine.grants) {
        uint32_t access = region.access & grant->access;
        if (grant->revoked || access == 0 || !grants_region(*grant, region.handle)) continue;
        grant->table = grant->table.with({region.address, region.length, access, slot});
        grant->version++;
        control_region_added(engine, *grant, region_describe(region, access));
    }
}

void grants_remove(Engine &engine, const RegionSlot &region, uint32_t slot) {
    for (auto &grant : engine.grants) {
        if (grant->revoked || !grants_region(*grant, region.handle)) continue;
        grant->table = grant->table.without(slot);
        grant->version++;
        control_region_removed(engine, *grant, region.handle);
    }
}

// Registers with one transport; nothing to do for transports that need no registration.
int32_t join(RegionSlot &region, Transport &transport) {
    if (!transport.table->region_register) return TENT_OK;
    tent_region_params params{};
    params.size = sizeof params;
    params.access = region.access;
    params.address = reinterpret_cast<void *>(region.address);
    params.length = region.length;
    params.location = region.location.c_str();
    void *handle = nullptr;
    transport.failure.clear();
    int32_t status = transport.table->region_register(transport.instance, &params, &handle);
    if (status != TENT_OK)
        return fail(status, "transport %s cannot register 0x%llx+%llu: %s", transport.name.c_str(),
                    static_cast<unsigned long long>(region.address),
                    static_cast<unsigned long long>(region.length),
                    transport.failure.empty() ? status_text(status) : transport.failure.c_str());
    region.handles.emplace_back(&transport, handle);
    return TENT_OK;
}

// Asks the plugins to let go of the region; true when all have.
bool leave(RegionSlot &region) {
    for (size_t i = region.handles.size(); i-- > 0;) {
        auto [transport, handle] = region.handles[i];
        if (!transport->table->region_release ||
            transport->table->region_release(transport->instance, handle) != TENT_IN_PROGRESS)
            region.handles.erase(region.handles.begin() + static_cast<ptrdiff_t>(i));
    }
    return region.handles.empty();
}

uint32_t region_slot_take(Engine &engine) {
    if (!engine.region_free.empty()) {
        uint32_t slot = engine.region_free.back();
        engine.region_free.pop_back();
        return slot;
    }
    return engine.region_count < REGIONS_MAX ? engine.region_count++ : NIL;
}

std::unique_ptr<Grant> grant_make(Engine &engine, uint64_t handle, uint32_t access) {
    auto grant = std::make_unique<Grant>();
    grant->handle = handle;
    grant->slot = static_cast<uint32_t>(engine.grants.size());
    grant->access = access;
    grant->version = 1;
    engine.random.fill(grant->token, sizeof grant->token);
    return grant;
}

// The slot of a revoked grant that no endpoint is bound to any more; 0: none.
uint32_t grant_slot_free(const Engine &engine) {
    for (uint32_t slot = 1; slot < engine.grants.size(); slot++) {
        if (!engine.grants[slot]->revoked) continue;
        bool bound =
            std::any_of(engine.endpoints.begin(), engine.endpoints.end(), [&](const auto &e) {
                return !e->initiator && e->state != EndpointState::Gone && e->grant == slot;
            });
        if (!bound) return slot;
    }
    return 0;
}

}  // namespace

int32_t memory_init(Engine &engine) {
    void *slots = mmap(nullptr, REGIONS_MAX * sizeof(RegionSlot *), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (slots == MAP_FAILED) return fail(TENT_E_NO_MEMORY, "no memory for the region table");
    engine.regions = static_cast<RegionSlot **>(slots);
    engine.local_ranges.store(new RangeTable(), std::memory_order_release);
    auto grant = grant_make(engine, 0, TENT_ACCESS_READ | TENT_ACCESS_WRITE);
    grant->all = true;
    engine.grants.push_back(std::move(grant));
    return TENT_OK;
}

void memory_free(Engine &engine) {
    if (engine.regions) {
        for (uint32_t slot = 0; slot < engine.region_count; slot++) {
            if (!engine.regions[slot]) continue;
            leave(*engine.regions[slot]);
            delete engine.regions[slot];
        }
        munmap(engine.regions, REGIONS_MAX * sizeof(RegionSlot *));
    }
    delete engine.local_ranges.load();
    for (auto &[address, size] : engine.allocations)
        munmap(address, size);
}

int32_t region_register(Engine &engine, uint64_t address, uint64_t length, uint32_t access,
                        const char *location, const char *label, uint64_t *handle) {
    uint32_t slot = region_slot_take(engine);
    if (slot == NIL)
        return fail(TENT_E_AGAIN, "%u regions are registered, the most there can be; release some",
                    REGIONS_MAX);
    auto region = std::make_unique<RegionSlot>();
    region->handle = engine.region_next++;
    region->address = address;
    region->length = length;
    region->access = access;
    region->location = location;
    region->label = label;
    for (auto &transport : engine.transports) {
        int32_t status = join(*region, *transport);
        if (status == TENT_OK) continue;
        leave(*region);
        engine.region_free.push_back(slot);
        return status;
    }
    *handle = region->handle;
    engine.region_by_handle[region->handle] = slot;
    engine.regions[slot] = region.release();
    grants_add(engine, *engine.regions[slot], slot);
    publish(engine, engine.local_ranges.load()->with({address, length, access, slot}));
    return TENT_OK;
}

int32_t region_release(Engine &engine, uint64_t handle) {
    uint32_t slot = NIL;
    int32_t status = with_driver(engine, [&] {
        auto found = engine.region_by_handle.find(handle);
        if (found == engine.region_by_handle.end())
            return fail(TENT_E_NOT_FOUND, "region %llu is not registered (already released?)",
                        static_cast<unsigned long long>(handle));
        slot = found->second;
        RegionSlot &region = *engine.regions[slot];
        if (region.pins.load(std::memory_order_acquire) > 0)
            return fail(TENT_E_BUSY,
                        "region %llu is used by %u requests in flight; wait or cancel them",
                        static_cast<unsigned long long>(handle), region.pins.load());
        // First no new submit can pin it, then look again: a submit may have come in between.
        publish(engine, engine.local_ranges.load()->without(slot));
        if (region.pins.load(std::memory_order_acquire) > 0) {
            publish(engine, engine.local_ranges.load()->with(
                                {region.address, region.length, region.access, slot}));
            return fail(TENT_E_BUSY,
                        "region %llu is used by requests in flight; wait or cancel them",
                        static_cast<unsigned long long>(handle));
        }
        engine.region_by_handle.erase(found);
        grants_remove(engine, region, slot);
        return TENT_OK;
    });
    if (status != TENT_OK) return status;
    // Remote operations: new ones are refused from here on, running ones are the plugins' to end.
    drive_until(engine, TENT_FOREVER, [&] { return leave(*engine.regions[slot]); });
    with_driver(engine, [&] {
        delete engine.regions[slot];
        engine.regions[slot] = nullptr;
        engine.region_free.push_back(slot);
        return 0;
    });
    return TENT_OK;
}

int32_t regions_join(Engine &engine, Transport &transport) {
    for (uint32_t slot = 0; slot < engine.region_count; slot++) {
        if (!engine.regions[slot]) continue;
        int32_t status = join(*engine.regions[slot], transport);
        if (status != TENT_OK) return status;
    }
    return TENT_OK;
}

void regions_part(Engine &engine, Transport &transport) {
    for (uint32_t slot = 0; slot < engine.region_count; slot++) {
        if (!engine.regions[slot]) continue;
        std::erase_if(engine.regions[slot]->handles, [&](const auto &joined) {
            if (joined.first != &transport) return false;
            if (transport.table->region_release)
                transport.table->region_release(transport.instance, joined.second);
            return true;
        });
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
        if (region.access & access)
            ranges.push_back({region.address, region.length, region.access & access, slot});
    };
    if (grant->all) {
        for (const auto &[region, slot] : engine.region_by_handle)
            add(slot);
    } else {
        for (uint32_t i = 0; i < options->region_count; i++) {
            auto found = engine.region_by_handle.find(options->regions[i]);
            if (found == engine.region_by_handle.end())
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
    Grant *grant = grant_find(engine, handle);
    if (!grant)
        return fail(TENT_E_NOT_FOUND, "grant %llu does not exist or was revoked already",
                    static_cast<unsigned long long>(handle));
    grant->revoked = true;
    grant->table = RangeTable();
    endpoints_retire_grant(engine, grant->slot);
    control_grant_revoked(engine, *grant);
    return TENT_OK;
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
    else if (op != TENT_OP_READ && op != TENT_OP_WRITE)
        status = TENT_E_PROTOCOL;
    else
        status = grant.table.find(remote, length,
                                  op == TENT_OP_READ ? TENT_ACCESS_READ : TENT_ACCESS_WRITE,
                                  &grant.hint, &range);
    if (status == TENT_OK) return TENT_OK;
    bump(engine.tally.refused);
    report(engine, TENT_EVENT_ACCESS_REFUSED, {.status = status},
           "refused a peer's %s of 0x%llx+%llu: %s", op == TENT_OP_READ ? "read" : "write",
           static_cast<unsigned long long>(remote), static_cast<unsigned long long>(length),
           status_text(status));
    return status;
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
