// Our regions: their slots and generations in the table that peers look at, and their memfds.
//
// Leans on state.h. Must never give away more than the peer's grant allows.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "mutant.h"
#include "state.h"

namespace tent::shm {
namespace {

int reopen_read_only(int fd) {
    return open(format("/proc/self/fd/%d", fd).c_str(), O_RDONLY | O_CLOEXEC);
}

bool slot_take(Instance &instance, Region *region) {
    if (!instance.region_slots_free.empty()) {
        region->slot = instance.region_slots_free.back();
        instance.region_slots_free.pop_back();
        instance.regions[region->slot] = region;
        return true;
    }
    if (instance.regions.size() >= REGIONS_MAX) return false;
    region->slot = static_cast<uint32_t>(instance.regions.size());
    instance.regions.push_back(region);
    // slot_give must not need memory.
    instance.region_slots_free.reserve(instance.regions.capacity());
    return true;
}

// nullptr: errno says why.
MemoryFile *file_take(Instance &instance, int memory_fd, uint64_t base) {
    struct stat about{};
    if (fstat(memory_fd, &about) != 0) return nullptr;
    const auto same = instance.files.equal_range(base);
    for (auto at = same.first; at != same.second; at++)
        if (at->second.inode == about.st_ino && at->second.device == about.st_dev) {
            at->second.regions++;
            return &at->second;
        }
    const int fd = fcntl(memory_fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return nullptr;
    // Born 0777: whoever has a read-only descriptor could open another one that writes.
    fchmod(fd, 0600);
    const MemoryFile made{
        base, about.st_dev, about.st_ino, fd, static_cast<uint64_t>(about.st_size), 1};
    return &instance.files.emplace(base, made)->second;
}

void file_give(Instance &instance, MemoryFile *file) {
    if (file == nullptr || --file->regions > 0) return;
    close(file->fd);
    const auto same = instance.files.equal_range(file->base);
    for (auto at = same.first; at != same.second; at++)
        if (&at->second == file) {
            instance.files.erase(at);
            return;
        }
}

void memory_take(Instance &instance, const tent_region_params &params, Region *region) {
    if (params.size < sizeof params || params.memory_fd < 0 || !instance.options.mapped) return;
    region->file = file_take(instance, params.memory_fd, region->address - params.memory_offset);
    if (region->file == nullptr) {
        instance.host->log(
            instance.host->ctx, TENT_E_SYSTEM,
            format("shm: peers cannot map 0x%llx+%llu: %s",
                   static_cast<unsigned long long>(region->address),
                   static_cast<unsigned long long>(region->length), strerrordesc_np(errno))
                .c_str());
        return;
    }
    region->memory_offset = params.memory_offset;
}

// Who is still inside a lane when the generation has ended.
void copiers_note(const Instance &instance, Region *region) {
    for (const auto &endpoint : instance.endpoints) {
        if (endpoint->initiator || endpoint->board == nullptr || endpoint->fd < 0) continue;
        LaneView view;
        lanes_note(*endpoint->board, &view);
        region->waits.push_back({endpoint->number, view});
    }
}

bool copier_quiet(const Instance &instance, const Region::Wait &wait) {
    Endpoint *endpoint = endpoint_find(instance, wait.endpoint);
    return endpoint == nullptr || endpoint->initiator || lanes_quiet(*endpoint->board, wait.view) ||
           endpoint_peer_dead(*endpoint);
}

// Is there more in the memfd than the region?
bool shows_more(const Region &region) {
    const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    return region.memory_offset >= page ||
           region.memory_offset + region.length + page <= region.file->size;
}

// The descriptor for the peer, or the status and sentence of a refusal.
int memory_open(const Endpoint &endpoint, const Region *region, uint32_t generation, Give *give,
                std::string *why) {
    const Instance &instance = *endpoint.instance;
    const auto refused = [&](int32_t status, const char *sentence) {
        give->status = status;
        *why = sentence;
        return -1;
    };
    if (region == nullptr || region->leaving || region->generation != generation)
        return refused(TENT_E_STALE, "the region is not registered any more");
    if (!instance.options.mapped || (endpoint.peer.methods & MAPPED) == 0)
        return refused(TENT_E_UNSUPPORTED, "shm.mapped=no");
    if (region->file == nullptr)
        return refused(TENT_E_UNSUPPORTED, "its memory was not allocated by the engine");
    const tent_host *host = instance.host;
    const uint32_t access =
        mutant(Mutant::shm_grant)
            ? TENT_ACCESS_READ | TENT_ACCESS_WRITE
            : host->grant_access(host->ctx, endpoint.grant, region->address, region->length);
    if (access == 0) return refused(TENT_E_DENIED, "its grant does not hold all of it");
    if ((access & TENT_ACCESS_READ) == 0)
        return refused(TENT_E_UNSUPPORTED,
                       "its grant allows writing alone, and a mapping could be read");
    if (endpoint.uid != instance.place.uid && shows_more(*region))
        return refused(TENT_E_UNSUPPORTED,
                       "another user would see the rest of the allocation; register all of it");
    const bool writes = (access & TENT_ACCESS_WRITE) != 0 || mutant(Mutant::shm_read_only);
    const int fd =
        writes ? fcntl(region->file->fd, F_DUPFD_CLOEXEC, 0) : reopen_read_only(region->file->fd);
    if (fd < 0) {
        *why = format("no descriptor: %s", strerrordesc_np(errno));
        give->status = TENT_E_SYSTEM;
        return -1;
    }
    give->access = access;
    give->memory_offset = region->memory_offset;
    give->address = region->address;
    give->length = region->length;
    return fd;
}

}  // namespace

bool region_table_make(Instance &instance, std::string *sentence) {
    const int fd = memfd_create("tent-regions", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *memory = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, sizeof(RegionTable)) == 0)
        memory = mmap(nullptr, sizeof(RegionTable), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    // Our own mapping goes on writing, nobody else's ever can.
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
    if (memory == MAP_FAILED || fchmod(fd, 0400) != 0 || fcntl(fd, F_ADD_SEALS, seals) != 0) {
        *sentence = format("shm: no table of regions: %s", strerrordesc_np(errno));
        if (memory != MAP_FAILED) munmap(memory, sizeof(RegionTable));
        if (fd >= 0) close(fd);
        return false;
    }
    madvise(memory, sizeof(RegionTable), MADV_DONTFORK);
    // Fresh memory is zero, and so are its atomics; constructing them would touch every page.
    instance.table = static_cast<RegionTable *>(memory);
    instance.table->magic = TABLE_MAGIC;
    instance.table->size = sizeof(RegionTable);
    instance.table_fd = reopen_read_only(fd);
    if (instance.table_fd >= 0)
        close(fd);
    else
        instance.table_fd = fd;  // without /proc: the seals keep others from writing
    return true;
}

void region_table_free(Instance &instance) {
    if (instance.table != nullptr) munmap(instance.table, sizeof(RegionTable));
    if (instance.table_fd >= 0) close(instance.table_fd);
    instance.table = nullptr;
    instance.table_fd = -1;
}

int32_t region_register(void *opaque, const tent_region_params *params, void **out) {
    Instance &instance = instance_of(opaque);
    std::unique_ptr<Region> region(new (std::nothrow) Region);
    if (!region) return refuse(instance, TENT_E_NO_MEMORY, "shm: no memory for a region");
    region->address = reinterpret_cast<uintptr_t>(params->address);
    region->length = params->length;
    region->access = params->access;
    if (slot_take(instance, region.get())) {
        std::atomic<uint32_t> &generation = instance.table->generations[region->slot];
        region->generation = generation.load(std::memory_order_relaxed) + 1;
        generation.store(region->generation, std::memory_order_release);
        memory_take(instance, *params, region.get());
    }
    *out = region.release();
    return TENT_OK;
}

int32_t region_export(void *opaque, void *handle, void *bytes, uint32_t *size) {
    const Instance &instance = instance_of(opaque);
    const Region &region = *static_cast<Region *>(handle);
    if (*size < sizeof(Export))
        return refuse(instance, TENT_E_INVALID, "shm: the room for an export is too small");
    Export about{};
    about.magic = MAGIC;
    about.version = VERSION;
    memcpy(about.instance, instance.id, sizeof about.instance);
    about.slot = region.slot;
    about.generation = region.generation;
    about.address = region.address;
    about.length = region.length;
    about.mappable = region.file != nullptr ? 1 : 0;
    memcpy(bytes, &about, sizeof about);
    *size = sizeof about;
    return TENT_OK;
}

int32_t region_release(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto *region = static_cast<Region *>(handle);
    if (!region->leaving && region->slot != NONE && !mutant(Mutant::shm_generation_end)) {
        // Even: nobody begins to copy any more who looks at it inside a lane.
        instance.table->generations[region->slot].store(region->generation + 1,
                                                        std::memory_order_release);
        copiers_note(instance, region);
    }
    region->leaving = true;
    std::erase_if(region->waits,
                  [&](const Region::Wait &wait) { return copier_quiet(instance, wait); });
    if (!region->waits.empty() && !mutant(Mutant::shm_release_wait)) return TENT_IN_PROGRESS;
    if (region->slot != NONE) {
        instance.regions[region->slot] = nullptr;
        instance.region_slots_free.push_back(region->slot);
    }
    file_give(instance, region->file);
    delete region;
    return TENT_OK;
}

Give region_give(const Endpoint &endpoint, const Want &want, int *fd) {
    const Instance &instance = *endpoint.instance;
    Give give{};
    give.head = {MAGIC, MessageType::GIVE};
    give.slot = want.slot;
    give.generation = want.generation;
    const Region *region =
        want.slot < instance.regions.size() ? instance.regions[want.slot] : nullptr;
    std::string why;
    *fd = memory_open(endpoint, region, want.generation, &give, &why);
    memcpy(give.sentence, why.c_str(), std::min(why.size(), sizeof give.sentence - 1));
    return give;
}

}  // namespace tent::shm
