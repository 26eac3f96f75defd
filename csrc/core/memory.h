// Local regions (memory.cc) and the grants over them (grants.cc): registration, release, tables for
// the bounds checks of both roles, descriptors. Driver only, except where marked. Leans on
// transports for plugins' registrations and on control for telling peers. Must never free memory of
// the user.
#pragma once

#include "core/engine.h"

namespace tent {

int32_t memory_init(Engine &engine);
void memory_free(Engine &engine);

// Takes and gives back the token by itself, and pins pages without it: call without it.
int32_t region_register(Engine &engine, uint64_t address, uint64_t length, uint32_t access,
                        const char *location, const char *label, uint64_t *handle);
// What a plugin logs while it registers a region beside the driver is kept until that is over.
// False: this thread is in no such call. Any thread.
bool memory_aside_log(const Transport &transport, int32_t status, const char *sentence);
// How the transports have registered it, a line for each rail that has something to say. NOT_FOUND.
int32_t region_about(Engine &engine, uint64_t handle, std::string *text);
// Takes and gives back the token by itself: call without it.
int32_t region_release(Engine &engine, uint64_t handle);
// The location it was registered with. NOT_FOUND.
int32_t region_location(Engine &engine, uint64_t handle, std::string *location);
// Registers all regions with a transport that a new plan brought.
int32_t regions_join(Engine &engine, Transport &transport);
// Undoes regions_join for a transport that is closed before it was used.
void regions_part(Engine &engine, Transport &transport);

// A grant not yet known to the engine; its slot is the next one.
std::unique_ptr<Grant> grant_make(Engine &engine, uint64_t handle, uint32_t access);
// Grants over all regions, or over this one, hold it from here on, or no longer; peers are told.
void grants_region_added(Engine &engine, const RegionSlot &region, uint32_t slot);
void grants_region_removed(Engine &engine, const RegionSlot &region, uint32_t slot);
int32_t grant_create(Engine &engine, const tent_grant_options *options, uint64_t *handle);
int32_t grant_revoke(Engine &engine, uint64_t handle);
Grant *grant_find(Engine &engine, uint64_t handle);
// TENT_OK when the token opens the grant and it has not ended; DENIED with a sentence otherwise.
int32_t grant_prove(Engine &engine, uint64_t handle, const uint8_t *token);
// Memory that holds nothing, for canaries: where ours come from, where peers' go to (SCRATCH_SIZE
// bytes each), and its registration with a transport (nullptr: none).
uint64_t scratch_source(const Engine &engine);
uint64_t scratch_target(const Engine &engine);
void *scratch_handle(const Engine &engine, const Transport &transport);

// See tent_host.grant_access.
uint32_t grant_access(Engine &engine, uint64_t slot, uint64_t remote, uint64_t length);
// Retires the endpoints of grants that have expired meanwhile.
void grants_expire(Engine &engine);
// The target's check of one slice; see tent_host.grant_check.
int32_t grant_check(Engine &engine, uint64_t slot, uint32_t op, uint64_t remote, uint64_t length);
// Describes a grant as its holder may see it.
void grant_describe(Engine &engine, const Grant &grant, Descriptor *descriptor);
DescriptorRegion region_describe(const RegionSlot &region, uint32_t access);

}  // namespace tent
