// Our regions: registered on every rail that is open, sharing what is registered already, and let
// go of when nobody can reach them any more.
//
// Leans on state.h and pin.h. region_register runs in any thread, several at a time; everything
// else here is the driver's. Must never hold memory_mutex while pages are pinned or let go of.
#include <algorithm>
#include <cstring>

#include "messages.h"
#include "mutant.h"
#include "pin.h"
#include "state.h"

namespace tent::rdma {
namespace {

// What a region_register has got so far, by Rail::slot. `own` ones are not in the instance's lists
// yet, and hold their rail open (Rail::registering).
struct Draft {
    Registration *on[RAILS_MAX] = {};
    bool own[RAILS_MAX] = {};
};

// The lists are locked. A region that lies in what is registered already needs nothing of its own,
// where keys are windows: without them the key of one would outlive the other's release.
Registration *shareable(const std::vector<Registration *> &registrations, const Rail &rail,
                        const Region &region) {
    if (!windows_on(rail)) return nullptr;
    for (Registration *have : registrations) {
        if (have->rail != &rail || have->rail_generation != rail.generation) continue;
        if (have->status != TENT_OK || (have->access & region.access) != region.access) continue;
        if (have->read_only) continue;  // no windows here either
        if (have->address == region.address && have->length == region.length &&
            have->piece_size == region.piece_size)
            return have;
        // Windows do not reach over the end of a piece.
        if (region.address < have->address || region.piece_size < region.length) continue;
        const uint64_t offset = region.address - have->address;
        if (offset < have->length && region.length <= have->length - offset &&
            offset / have->piece_size == (offset + region.length - 1) / have->piece_size)
            return have;
    }
    return nullptr;
}

Registration *registration_make(Rail &rail, const Region &region) {
    auto *made = new Registration;
    made->rail = &rail;
    made->rail_generation = rail.generation;
    made->address = region.address;
    made->length = region.length;
    made->piece_size = region.piece_size;
    made->access = region.access;
    made->gpu = region.location.compare(0, 4, "cuda") == 0;
    made->users = 1;
    return made;
}

bool still_stands(const Registration &registration, const Rail &rail) {
    return registration.rail == &rail && rail.joined &&
           registration.rail_generation == rail.generation;
}

// The lists are locked. Rails that the draft lacks: shared, or to be made. What belongs to a rail
// that has gone meanwhile is to be thrown away first.
void draft_complete(Instance &instance, const Region &region, Draft *draft,
                    std::vector<Registration *> *make, std::vector<uint32_t> *stale) {
    for (uint32_t slot = 0; slot < RAILS_MAX; slot++) {
        Rail *rail = instance.rails[slot];
        Registration *have = draft->on[slot];
        if (have != nullptr && (rail == nullptr || !still_stands(*have, *rail))) {
            stale->push_back(slot);
        } else if (have == nullptr && rail != nullptr && rail->joined) {
            draft->on[slot] = shareable(instance.registrations, *rail, region);
            if (draft->on[slot] != nullptr) {
                draft->on[slot]->users++;
                continue;
            }
            draft->on[slot] = registration_make(*rail, region);
            draft->own[slot] = true;
            rail->registering.fetch_add(1, std::memory_order_acq_rel);
            make->push_back(draft->on[slot]);
        }
    }
}

// The lists are locked. From here on it is seen.
void draft_publish(Instance &instance, Region *region, const Draft &draft) {
    region->number = instance.region_next++;
    for (uint32_t slot = 0; slot < RAILS_MAX; slot++) {
        if (draft.on[slot] == nullptr) continue;
        region->on[slot].store(draft.on[slot], std::memory_order_release);
        if (!draft.own[slot]) continue;
        instance.registrations.push_back(draft.on[slot]);
        draft.on[slot]->rail->registering.fetch_sub(1, std::memory_order_acq_rel);
    }
    instance.regions.push_back(region);
}

void unlink(Instance &instance, const Registration *registration) {
    std::erase(instance.registrations, registration);
}

void draft_drop(Instance &instance, Draft *draft, uint32_t slot) {
    Registration *had = draft->on[slot];
    draft->on[slot] = nullptr;
    bool last = draft->own[slot], holds = last;
    if (!last) {
        const std::lock_guard lock(instance.memory_mutex);
        last = --had->users == 0;
        if (last) unlink(instance, had);
        // Its rail has gone: what was registered ended with it.
        holds = last && had->rail != nullptr;
        if (holds) had->rail->registering.fetch_add(1, std::memory_order_acq_rel);
    }
    int error = 0;
    if (holds) {
        unpin(*had, &error);
        had->rail->registering.fetch_sub(1, std::memory_order_acq_rel);
    }
    draft->own[slot] = false;
    if (last) delete had;
}

// The smallest registration that any rail allows; 0: any.
uint64_t size_max_of(const Instance &instance) {
    uint64_t size = 0;
    for (const Rail *rail : instance.rails) {
        if (rail == nullptr || !rail->joined || rail->limits.max_mr_size == 0) continue;
        size = size == 0 ? rail->limits.max_mr_size : std::min(size, rail->limits.max_mr_size);
    }
    return size;
}

// Of those that could not be made, one sentence.
std::string failures(const std::vector<Registration *> &made) {
    std::string text;
    for (const Registration *registration : made) {
        if (registration->status == TENT_OK) continue;
        if (!text.empty()) text += "; ";
        text +=
            format("rail %u %s: ", registration->rail->index, registration->rail->device.c_str());
        text += registration->why;
    }
    return text;
}

void failures_say(const Instance &instance, const std::vector<Registration *> &made) {
    for (const Registration *registration : made)
        if (registration->status != TENT_OK)
            say(instance, registration->status,
                "rdma: rail %u %s cannot reach 0x%llx+%llu, which goes over other rails: %s",
                registration->rail->index, registration->rail->device.c_str(),
                static_cast<unsigned long long>(registration->address),
                static_cast<unsigned long long>(registration->length), registration->why.c_str());
}

// Registers the region on all rails and makes it seen. Not TENT_OK: undone.
int32_t region_join(Instance &instance, Region *region) {
    Draft draft;
    for (;;) {
        std::vector<Registration *> make;
        std::vector<uint32_t> stale;
        {
            const std::lock_guard lock(instance.memory_mutex);
            if (region->piece_size == 0)
                region->piece_size = piece_size_choose(region->length, instance.options.piece_size,
                                                       size_max_of(instance));
            draft_complete(instance, *region, &draft, &make, &stale);
            if (make.empty() && stale.empty()) {
                draft_publish(instance, region, draft);
                return TENT_OK;
            }
        }
        for (const uint32_t slot : stale)
            draft_drop(instance, &draft, slot);
        pin(instance, make);
        const std::string why = failures(make);
        if (why.empty()) continue;
        if (!instance.options.strict) {
            failures_say(instance, make);
            continue;
        }
        const int32_t status = (*std::find_if(make.begin(), make.end(), [](const auto *made) {
                                   return made->status != TENT_OK;
                               }))->status;
        for (uint32_t slot = 0; slot < RAILS_MAX; slot++)
            if (draft.on[slot] != nullptr) draft_drop(instance, &draft, slot);
        return refuse(
            instance, status,
            format("rdma.strict=yes and not every rail can reach it: %s", why.c_str()).c_str());
    }
}

// Takes the region off the rail. False: the library refuses for now.
bool region_part(Instance &instance, Region *region, uint32_t slot, int *error) {
    Registration *registration = region->on[slot].load(std::memory_order_relaxed);
    if (registration == nullptr) return true;
    bool last = false;
    {
        const std::lock_guard lock(instance.memory_mutex);
        last = registration->users == 1 && !mutant(Mutant::rdma_cache_keep);
        if (last)
            unlink(instance, registration);  // from here on nobody shares it
        else
            registration->users--;
    }
    if (last && !unpin(*registration, error)) return false;
    region->on[slot].store(nullptr, std::memory_order_release);
    if (last) delete registration;
    return true;
}

// Windows of the region that peers hold; true: none is left.
bool keys_taken_back(const Instance &instance, uint64_t number) {
    bool none = true;
    for (const auto &endpoint : instance.endpoints) {
        if (endpoint->initiator) continue;
        keys_revoke(*endpoint, number);
        none = none && std::none_of(endpoint->given.begin(), endpoint->given.end(),
                                    [&](const auto &given) { return given->region == number; });
    }
    return none;
}

}  // namespace

int32_t region_register(void *opaque, const tent_region_params *params, void **out) {
    Instance &instance = instance_of(opaque);
    auto region = std::make_unique<Region>();
    region->address = reinterpret_cast<uintptr_t>(params->address);
    region->length = params->length;
    region->access = params->access;
    region->location = params->location != nullptr ? params->location : "";
    if (region->length == 0 || region->address > UINT64_MAX - region->length)
        return refuse(instance, TENT_E_INVALID, "rdma: a region must not be empty or wrap around");
    const int32_t status = region_join(instance, region.get());
    if (status == TENT_OK) *out = region.release();
    return status;
}

int32_t region_export(void *opaque, void *handle, void *bytes, uint32_t *size) {
    const Instance &instance = instance_of(opaque);
    const Region &region = *static_cast<Region *>(handle);
    if (*size < sizeof(Export))
        return refuse(instance, TENT_E_INVALID, "rdma: the room for an export is too small");
    Export about{};
    about.magic = EXPORT_MAGIC;
    about.version = PROTOCOL_VERSION;
    about.access = static_cast<uint16_t>(region.access);
    memcpy(about.instance, instance.id, sizeof about.instance);
    about.number = region.number;
    about.address = region.address;
    about.length = region.length;
    about.piece_size = region.piece_size;
    memcpy(bytes, &about, sizeof about);
    *size = sizeof about;
    return TENT_OK;
}

int32_t region_release(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto *region = static_cast<Region *>(handle);
    if (mutant(Mutant::rdma_revoke)) return TENT_OK;
    const bool first = !region->leaving;
    {
        const std::lock_guard lock(instance.memory_mutex);
        region->leaving = true;
    }
    // An errand may be registering it on a device that came back.
    if (instance.rejoining > 0) return TENT_IN_PROGRESS;
    // A window keeps its registration from ending.
    if (!keys_taken_back(instance, region->number)) return TENT_IN_PROGRESS;
    bool gone = true;
    for (uint32_t slot = 0; slot < RAILS_MAX; slot++) {
        int error = 0;
        if (region_part(instance, region, slot, &error)) continue;
        gone = false;
        if (first)
            say(instance, TENT_E_BUSY, "rdma: rail %u does not let go of 0x%llx+%llu yet: %s", slot,
                static_cast<unsigned long long>(region->address),
                static_cast<unsigned long long>(region->length), strerrordesc_np(error));
    }
    if (!gone) return TENT_IN_PROGRESS;
    {
        const std::lock_guard lock(instance.memory_mutex);
        std::erase(instance.regions, region);
    }
    delete region;
    return TENT_OK;
}

bool regions_pin(Rail &rail, std::string *why) {
    Instance &instance = *rail.instance;
    std::vector<std::pair<Region *, Registration *>> joining;
    std::vector<Registration *> make;
    {
        const std::lock_guard lock(instance.memory_mutex);
        rail.joined = true;
        for (Region *region : instance.regions) {
            if (region->leaving || region->on[rail.slot].load(std::memory_order_relaxed) != nullptr)
                continue;
            Registration *have = shareable(instance.registrations, rail, *region);
            // What is not pinned yet and nobody may write to may prove to be read-only.
            if (have == nullptr && (region->access & TENT_ACCESS_WRITE) != 0)
                have = shareable(make, rail, *region);
            if (have != nullptr)
                have->users++;
            else
                make.push_back(have = registration_make(rail, *region));
            joining.emplace_back(region, have);
        }
    }
    pin(instance, make);
    {
        const std::lock_guard lock(instance.memory_mutex);
        instance.registrations.insert(instance.registrations.end(), make.begin(), make.end());
        for (const auto &[region, registration] : joining)
            region->on[rail.slot].store(registration, std::memory_order_release);
    }
    *why = failures(make);
    return why->empty();
}

bool regions_join(Rail &rail, std::string *why) {
    if (regions_pin(rail, why)) return true;
    const Instance &instance = *rail.instance;
    if (!instance.options.strict) {
        say(instance, TENT_E_TRANSPORT, "rdma: memory that goes over other rails: %s",
            why->c_str());
        return true;
    }
    regions_part(rail);
    return false;
}

void regions_part(Rail &rail) {
    Instance &instance = *rail.instance;
    for (const auto &endpoint : instance.endpoints)
        if (endpoint->rail == &rail && !endpoint->initiator) keys_revoke_all(*endpoint);
    std::vector<Registration *> ending;
    {
        const std::lock_guard lock(instance.memory_mutex);
        rail.joined = false;
        for (Registration *registration : instance.registrations)
            if (registration->rail == &rail) ending.push_back(registration);
        std::erase_if(instance.registrations, [&](const Registration *registration) {
            return registration->rail == &rail;
        });
        for (Region *region : instance.regions) {
            Registration *had = region->on[rail.slot].load(std::memory_order_relaxed);
            if (had == nullptr) continue;
            region->on[rail.slot].store(nullptr, std::memory_order_release);
            had->users--;
            // Unlinked by a release that the library has refused so far.
            if (std::find(ending.begin(), ending.end(), had) == ending.end()) ending.push_back(had);
        }
        // Ours: a region_register that shares one and gives it up meanwhile is not the last.
        for (Registration *registration : ending)
            registration->users++;
    }
    for (Registration *registration : ending) {
        int error = 0;
        if (!unpin(*registration, &error))
            say(instance, TENT_E_BUSY, "rdma: rail %u %s does not let go of 0x%llx+%llu: %s",
                rail.index, rail.device.c_str(),
                static_cast<unsigned long long>(registration->address),
                static_cast<unsigned long long>(registration->length), strerrordesc_np(error));
        const std::lock_guard lock(instance.memory_mutex);
        registration->rail = nullptr;
        registration->pieces.clear();
        // A region_register that shares it finds out, and is the last one then.
        if (--registration->users == 0) delete registration;
    }
}

const Registration *registration_on(const Region &region, const Rail &rail) {
    const Registration *have = region.on[rail.slot].load(std::memory_order_acquire);
    if (have == nullptr || have->status != TENT_OK) return nullptr;
    return have->rail_generation == rail.generation ? have : nullptr;
}

}  // namespace tent::rdma
