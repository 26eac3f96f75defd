// Peers' regions: what we know of them, their memory mapped here, page tables filled ahead.
//
// Leans on state.h. A descriptor from a peer is believed only as far as the kernel confirms it: a
// memfd, sealed so that it never shrinks under us, large enough. Mapped are the pages of the region
// alone, writable only when the grant says so.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "jobs.h"
#include "mutant.h"
#include "state.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // since Linux 5.14
#define MADV_POPULATE_WRITE 23
#endif

namespace tent::shm {
namespace {

constexpr uint64_t HUGE_PAGE = 2 << 20;
constexpr uint64_t PAGE_MIN = 4096;
// A process has 65,530 mappings (vm.max_map_count), and without any left its malloc fails.
constexpr uint32_t MAPPINGS_MAX = 16384;
constexpr uint64_t POPULATE_SIZE = 2 << 20;  // in one poll: well below a millisecond
constexpr uint32_t PIECES_MAX = 64;          // of those in one poll, when nothing is there
constexpr int64_t POOL_MAGIC = 0x958458f6;   // HUGETLBFS_MAGIC

uint64_t page_size() {
    static const auto size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    return size;
}

bool refused(RemoteRegion &region, std::string why) {
    region.why = std::move(why);
    return false;
}

bool trusted(RemoteRegion &region, const Give &give, int fd, uint64_t *page) {
    struct stat about{};
    struct statfs system{};
    const int seals = fcntl(fd, F_GET_SEALS);
    const int flags = fcntl(fd, F_GETFL);
    if (seals < 0 || flags < 0 || fstat(fd, &about) != 0 || fstatfs(fd, &system) != 0)
        return refused(region, "the peer gave no memfd");
    if ((seals & F_SEAL_SHRINK) == 0 && !mutant(Mutant::shm_seals))
        return refused(region, "the peer gave a memfd that may shrink (no F_SEAL_SHRINK)");
    uint64_t end = 0;
    if (__builtin_add_overflow(give.memory_offset, give.length, &end) || give.length == 0 ||
        (end > static_cast<uint64_t>(about.st_size) && !mutant(Mutant::shm_size)))
        return refused(region, "the peer gave a memfd that is smaller than its region");
    const int mode = flags & O_ACCMODE;
    const bool writes = (give.access & TENT_ACCESS_WRITE) != 0;
    if (mode != (writes ? O_RDWR : O_RDONLY) || (give.access & TENT_ACCESS_READ) == 0)
        return refused(region, "the peer gave a descriptor of another access than it said");
    region.pool = static_cast<int64_t>(system.f_type) == POOL_MAGIC;
    *page = region.pool ? static_cast<uint64_t>(about.st_blksize) : page_size();
    return true;
}

// Where the kernel may use huge pages the address has to be aligned as the offset is.
void *map_aligned(uint64_t size, int protection, int fd, uint64_t offset, uint64_t alignment) {
    const uint64_t room = size + alignment;
    char *begin = static_cast<char *>(
        mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (begin == MAP_FAILED) return MAP_FAILED;
    const uint64_t skew = (offset - reinterpret_cast<uintptr_t>(begin)) % alignment;
    char *at = begin + skew;
    void *mapped =
        mmap(at, size, protection, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(offset));
    const int error = errno;
    if (mapped == MAP_FAILED) {
        munmap(begin, room);
        errno = error;
        return MAP_FAILED;
    }
    if (skew > 0) munmap(begin, skew);
    if (skew < alignment) munmap(at + size, alignment - skew);
    return mapped;
}

enum class Populated { NONE, SOME, FAILED };

// Enters pages into our page tables that the peer's memory has already: it decides which it has.
Populated populate(const RemoteRegion &region, char *begin, uint64_t size) {
    const int advice =
        (region.access & TENT_ACCESS_WRITE) != 0 ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
    unsigned char resident[POPULATE_SIZE / PAGE_MIN];
    const uint64_t page = page_size();
    // Of the pool of huge pages it has them all, and mincore knows only those that we have entered.
    if (region.pool) return madvise(begin, size, advice) == 0 ? Populated::SOME : Populated::FAILED;
    if (mincore(begin, size, resident) != 0) return Populated::FAILED;
    const uint64_t count = size / page;
    bool some = false;
    for (uint64_t first = 0, end = 0; first < count; first = end) {
        const bool there = resident[first] & 1;
        for (end = first + 1; end < count && (resident[end] & 1) == (there ? 1 : 0);)
            end++;
        if (!there) continue;
        some = true;
        // An older kernel, or no memory: then the first copies enter them.
        if (madvise(begin + first * page, (end - first) * page, advice) != 0)
            return Populated::FAILED;
    }
    return some ? Populated::SOME : Populated::NONE;
}

}  // namespace

int32_t segment_import(void *opaque, const void *bytes, uint32_t size, void **out) {
    const Instance &instance = instance_of(opaque);
    std::unique_ptr<RemoteRegion> region(new (std::nothrow) RemoteRegion);
    if (!region) return refuse(instance, TENT_E_NO_MEMORY, "shm: no memory for a peer's region");
    Export &about = region->about;
    uint64_t end = 0;
    if (size != sizeof about)
        return refuse(instance, TENT_E_PROTOCOL, "shm: a peer's region is described wrongly");
    memcpy(&about, bytes, sizeof about);
    if (about.magic != MAGIC || about.version != VERSION)
        return refuse(instance, TENT_E_PROTOCOL,
                      "shm: a peer's region is described in another version; run equal versions");
    if (about.length == 0 || about.mappable > 1 || about.reserved != 0 ||
        __builtin_add_overflow(about.address, about.length, &end) ||
        (about.slot >= REGIONS_MAX && about.slot != NONE))
        return refuse(instance, TENT_E_PROTOCOL, "shm: a peer's region is described wrongly");
    *out = region.release();
    return TENT_OK;
}

void segment_forget(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto *region = static_cast<RemoteRegion *>(handle);
    std::erase(instance.populating, region);
    for (const auto &endpoint : instance.endpoints) {
        std::vector<RemoteRegion *> &told = endpoint->regions;
        const auto seen = told.begin() + static_cast<ptrdiff_t>(endpoint->region_next);
        endpoint->region_next -= static_cast<size_t>(std::count(told.begin(), seen, region));
        std::erase(told, region);
        for (uint32_t i = 0; i < endpoint->ask_count; i++)
            if (endpoint->asks[i].region == region) endpoint->asks[i].region = nullptr;
    }
    instance.forgotten.push_back(region);
    forgotten_free(instance);
}

void forgotten_free(Instance &instance) {
    std::erase_if(instance.forgotten, [&](RemoteRegion *region) {
        if (jobs_name(instance, *region)) return false;
        if (region->mapping != nullptr) {
            munmap(region->mapping, region->mapping_size);
            instance.mapping_count--;
        }
        delete region;
        return true;
    });
}

bool region_map(Instance &instance, RemoteRegion &region, const Give &give, int fd) {
    uint64_t page = 0;
    if (region.base != nullptr) return true;
    if (!trusted(region, give, fd, &page)) return false;
    if (instance.mapping_count >= MAPPINGS_MAX)
        return refused(region, format("%u regions of peers are mapped, the most there can be; "
                                      "register larger ones",
                                      MAPPINGS_MAX));
    const bool writes = (give.access & TENT_ACCESS_WRITE) != 0;
    const uint64_t begin = give.memory_offset / page * page;
    const uint64_t end = (give.memory_offset + give.length + page - 1) / page * page;
    const int protection = writes ? PROT_READ | PROT_WRITE : PROT_READ;
    const uint64_t alignment = end - begin >= HUGE_PAGE ? std::max(page, HUGE_PAGE) : page;
    void *mapped = map_aligned(end - begin, protection, fd, begin, alignment);
    if (mapped == MAP_FAILED) return refused(region, format("mmap: %s", strerrordesc_np(errno)));
    madvise(mapped, end - begin, MADV_DONTFORK);
    madvise(mapped, end - begin, MADV_HUGEPAGE);  // EINVAL where there are none
    instance.mapping_count++;
    region.mapping = mapped;
    region.mapping_size = end - begin;
    region.access = give.access;
    region.base = static_cast<char *>(mapped) + (give.memory_offset - begin);
    region.why.clear();
    if (instance.options.prefault) instance.populating.push_back(&region);
    return true;
}

bool populate_step(Instance &instance) {
    for (uint32_t i = 0; i < PIECES_MAX && !instance.populating.empty(); i++) {
        RemoteRegion &region = *instance.populating.back();
        char *begin = static_cast<char *>(region.mapping) + region.populated;
        const uint64_t size = std::min(POPULATE_SIZE, region.mapping_size - region.populated);
        const Populated populated = populate(region, begin, size);
        region.populated += size;
        if (populated == Populated::FAILED || region.populated >= region.mapping_size)
            instance.populating.pop_back();
        if (populated == Populated::SOME) break;
    }
    return !instance.populating.empty();
}

}  // namespace tent::shm
