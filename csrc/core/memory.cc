// See memory.h.
#include "core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/mutant.h"
#include "base/shared_memory.h"
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

RegionSlot &scratch_of(const Engine &engine) {
    return *engine.regions[0];
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
    params.memory_fd = -1;
    UniqueFd memory_fd;  // until the call is over
    if (memory_find(region.address, region.length, &memory_fd, &params.memory_offset))
        params.memory_fd = memory_fd.get();
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

bool in_use(const RegionSlot &region) {
    return region.pins.load(std::memory_order_acquire) > 0 && !mutant(Mutant::pin_released);
}

// What plugins logged while this thread registered a region beside the driver.
struct Logged {
    const Transport *transport;
    int32_t status;
    std::string sentence;
};
thread_local std::vector<Logged> *aside_log = nullptr;

// With the transports whose registration may take long: without the token, so that others drive.
int32_t join_aside(RegionSlot &region, const std::vector<Transport *> &transports,
                   std::vector<Logged> *logged) {
    struct Logging {
        explicit Logging(std::vector<Logged> *to) { aside_log = to; }
        ~Logging() { aside_log = nullptr; }
    } logging(logged);
    int32_t status = TENT_OK;
    for (size_t i = 0; i < transports.size() && status == TENT_OK; i++)
        status = join(region, *transports[i]);
    return status;
}

// With those left: those that are quick, and those that have come meanwhile. Driver.
int32_t join_rest(Engine &engine, RegionSlot &region) {
    for (auto &transport : engine.transports) {
        const bool joined =
            std::any_of(region.handles.begin(), region.handles.end(),
                        [&](const auto &pair) { return pair.first == transport.get(); });
        if (joined) continue;
        int32_t status = join(region, *transport);
        if (status != TENT_OK) return status;
    }
    return TENT_OK;
}

uint32_t region_slot_take(Engine &engine) {
    if (!engine.region_free.empty()) {
        uint32_t slot = engine.region_free.back();
        engine.region_free.pop_back();
        return slot;
    }
    return engine.region_count < REGIONS_MAX ? engine.region_count++ : NIL;
}

}  // namespace

uint64_t scratch_source(const Engine &engine) {
    return scratch_of(engine).address;
}

uint64_t scratch_target(const Engine &engine) {
    return scratch_of(engine).address + SCRATCH_SIZE;
}

void *scratch_handle(const Engine &engine, const Transport &transport) {
    for (const auto &[owner, handle] : scratch_of(engine).handles)
        if (owner == &transport) return handle;
    return nullptr;
}

int32_t memory_init(Engine &engine) {
    void *slots = mmap(nullptr, REGIONS_MAX * sizeof(RegionSlot *), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (slots == MAP_FAILED) return fail(TENT_E_NO_MEMORY, "no memory for the region table");
    engine.regions = static_cast<RegionSlot **>(slots);
    // Slot 0, known to no grant: a page that our canaries are sent from, and one they come to.
    void *scratch =
        mmap(nullptr, 2 * SCRATCH_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (scratch == MAP_FAILED) return fail(TENT_E_NO_MEMORY, "no memory for the canaries");
    engine.regions[engine.region_count++] = new RegionSlot();
    RegionSlot &region = scratch_of(engine);
    region.address = reinterpret_cast<uint64_t>(scratch);
    region.length = 2 * SCRATCH_SIZE;
    region.access = TENT_ACCESS_WRITE;
    region.location = "cpu:0";
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
            if (slot == 0)
                munmap(reinterpret_cast<void *>(scratch_source(engine)), 2 * SCRATCH_SIZE);
            delete engine.regions[slot];
        }
        munmap(engine.regions, REGIONS_MAX * sizeof(RegionSlot *));
    }
    delete engine.local_ranges.load();
    if (engine.peers_linger)
        memory_leave_all(&engine);
    else
        memory_drop_all(&engine);
}

namespace {

// It joins the other transports and may be named from here on; or stays the caller's. Driver.
int32_t region_add(Engine &engine, std::unique_ptr<RegionSlot> &region, uint64_t *handle) {
    uint32_t slot = region_slot_take(engine);
    int32_t status = TENT_OK;
    if (slot == NIL)
        status =
            fail(TENT_E_AGAIN, "%u regions are registered, the most there can be; release some",
                 REGIONS_MAX);
    else
        status = join_rest(engine, *region);
    if (status != TENT_OK) {
        if (slot != NIL) engine.region_free.push_back(slot);
        return status;
    }
    region->handle = engine.region_next++;
    *handle = region->handle;
    engine.region_by_handle[region->handle] = slot;
    engine.regions[slot] = region.release();
    const RegionSlot &added = *engine.regions[slot];
    grants_region_added(engine, added, slot);
    publish(engine,
            engine.local_ranges.load()->with({added.address, added.length, added.access, slot}));
    return TENT_OK;
}

}  // namespace

int32_t region_register(Engine &engine, uint64_t address, uint64_t length, uint32_t access,
                        const char *location, const char *label, uint64_t *handle) {
    auto region = std::make_unique<RegionSlot>();
    region->address = address;
    region->length = length;
    region->access = access;
    region->location = location;
    region->label = label;
    std::vector<Transport *> slow;
    with_driver(engine, [&] {
        for (auto &transport : engine.transports)
            if (transport->registers_aside) slow.push_back(transport.get());
        return 0;
    });
    std::vector<Logged> logged;
    const int32_t aside = join_aside(*region, slow, &logged);
    std::string sentence = aside == TENT_OK ? "" : last_error();
    uint64_t limit_ns = 0;
    const int32_t status = with_driver(engine, [&] {
        limit_ns = parameters(engine).fence_timeout_ns;
        for (const Logged &line : logged)
            report(engine, TENT_EVENT_LOG, {.status = line.status}, "%s: %s",
                   line.transport->name.c_str(), line.sentence.c_str());
        const int32_t added = aside == TENT_OK ? region_add(engine, region, handle) : aside;
        if (aside == TENT_OK && added != TENT_OK) sentence = last_error();
        return added;
    });
    if (status == TENT_OK) return TENT_OK;
    drive_until(engine, limit_ns, [&] { return leave(*region); });
    return fail(status, "%s", sentence.c_str());
}

bool memory_aside_log(const Transport &transport, int32_t status, const char *sentence) {
    if (!aside_log) return false;
    aside_log->push_back({&transport, status, sentence});
    return true;
}

int32_t region_about(Engine &engine, uint64_t handle, std::string *text) {
    auto found = engine.region_by_handle.find(handle);
    if (found == engine.region_by_handle.end())
        return fail(TENT_E_NOT_FOUND, "region %llu is not registered (already released?)",
                    static_cast<unsigned long long>(handle));
    for (const auto &[transport, registered] : engine.regions[found->second]->handles) {
        if (!TENT_OFFERS(transport->table, region_about)) continue;
        char lines[ABOUT_SIZE] = "";
        transport->table->region_about(transport->instance, registered, lines, sizeof lines);
        lines[sizeof lines - 1] = 0;
        for (char *line = lines; *line;) {
            const size_t length = strcspn(line, "\n");
            *text += transport->name + ": " + std::string(line, length) + "\n";
            line += length + (line[length] == '\n');
        }
    }
    return TENT_OK;
}

namespace {

// No new submit and no peer may name it from here on. Driver.
int32_t withdraw(Engine &engine, uint64_t handle, uint32_t *slot) {
    auto found = engine.region_by_handle.find(handle);
    if (found == engine.region_by_handle.end())
        return fail(TENT_E_NOT_FOUND, "region %llu is not registered (already released?)",
                    static_cast<unsigned long long>(handle));
    *slot = found->second;
    RegionSlot &region = *engine.regions[*slot];
    if (region.leaving) return TENT_OK;
    bool used = in_use(region);
    if (!used) {
        // First no new submit can pin it, then look again: a submit may have come in between.
        publish(engine, engine.local_ranges.load()->without(*slot));
        used = in_use(region);
        if (used)
            publish(engine, engine.local_ranges.load()->with(
                                {region.address, region.length, region.access, *slot}));
    }
    if (used)
        return fail(TENT_E_BUSY,
                    "region %llu is used by %u requests in flight; wait or cancel them",
                    static_cast<unsigned long long>(handle), region.pins.load());
    region.leaving = true;
    grants_region_removed(engine, region, *slot);
    return TENT_OK;
}

// IN_PROGRESS: peers' operations that run are the plugins' to end, and they have not yet.
int32_t release_step(Engine &engine, uint64_t handle) {
    uint32_t slot = NIL;
    int32_t status = withdraw(engine, handle, &slot);
    if (status != TENT_OK) return status;
    if (!leave(*engine.regions[slot])) return TENT_IN_PROGRESS;
    engine.region_by_handle.erase(handle);
    delete engine.regions[slot];
    engine.regions[slot] = nullptr;
    engine.region_free.push_back(slot);
    return TENT_OK;
}

}  // namespace

int32_t region_release(Engine &engine, uint64_t handle) {
    int32_t status = TENT_IN_PROGRESS;
    uint64_t limit_ns = with_driver(engine, [&] { return parameters(engine).fence_timeout_ns; });
    drive_until(engine, limit_ns, [&] {
        status = release_step(engine, handle);
        return status != TENT_IN_PROGRESS;
    });
    if (status != TENT_IN_PROGRESS) return status;
    if (engine.manual)
        return fail(TENT_E_BUSY,
                    "region %llu is withdrawn, but peers' operations on it have not ended: step "
                    "the engine and release it again",
                    static_cast<unsigned long long>(handle));
    return fail(TENT_E_UNFENCED_LOCAL,
                "a transport has not let go of region %llu within fence_timeout: keep its memory, "
                "and release it again later",
                static_cast<unsigned long long>(handle));
}

int32_t region_location(Engine &engine, uint64_t handle, std::string *location) {
    auto found = engine.region_by_handle.find(handle);
    if (found == engine.region_by_handle.end())
        return fail(TENT_E_NOT_FOUND, "region %llu is not registered (already released?)",
                    static_cast<unsigned long long>(handle));
    *location = engine.regions[found->second]->location;
    return TENT_OK;
}

int32_t regions_join(Engine &engine, Transport &transport) {
    for (uint32_t slot = 0; slot < engine.region_count; slot++) {
        if (!engine.regions[slot] || engine.regions[slot]->leaving) continue;
        int32_t status = join(*engine.regions[slot], transport);
        if (slot == 0 && status != TENT_OK) continue;  // it does without canaries
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

}  // namespace tent
