// See pages.h.
#include "base/pages.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/memory_room.h"
#include "base/numa.h"
#include "base/status.h"

// What headers older than the kernel lack.
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace tent {

namespace {

constexpr uint64_t SIZE_2M = 2ULL << 20;
constexpr uint64_t SIZE_1G = 1ULL << 30;
constexpr uint32_t HUGE_SHIFT =
    26;  // MFD_HUGE_SHIFT, MAP_HUGE_SHIFT: log2 of the size stands there
constexpr uint64_t WASTE_SHARE = 16;  // of reserved pages, at most 1/16 of the length lies idle

// Files held for memory: at most half of those that the process may open.
std::atomic<uint64_t> files_held{0};

uint64_t base_page_size() {
    return static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint32_t huge_flags(uint64_t page_size, uint32_t flag) {
    if (page_size == base_page_size()) return 0;
    return flag | static_cast<uint32_t>(__builtin_ctzll(page_size)) << HUGE_SHIFT;
}

const char *size_name(uint64_t page_size) {
    return page_size == SIZE_1G ? "1 GiB" : "2 MiB";
}

bool files_full() {
    rlimit limit{};
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
           files_held.load(std::memory_order_relaxed) >= limit.rlim_cur / 2;
}

// The descriptor, or -errno.
int make_file(const PagesWish &wish, uint64_t page_size) {
    const std::string name = std::string("tent:") + wish.label;
    const uint32_t flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | huge_flags(page_size, MFD_HUGETLB);
    long fd = syscall(SYS_memfd_create, name.c_str(), flags | MFD_NOEXEC_SEAL);
    // Kernels before 6.3 do not know that one; since then a setting may demand it.
    if (fd < 0 && errno == EINVAL) fd = syscall(SYS_memfd_create, name.c_str(), flags);
    return fd < 0 ? -errno : static_cast<int>(fd);
}

// Are memfds out of reach for us, rather than this one?
bool never_files(int reason) {
    return reason == ENOSYS || reason == EPERM || reason == EACCES || reason == EMFILE ||
           reason == ENFILE;
}

// Neither size nor seals may change any more; what was asked for, or false.
bool seal(int fd, bool read_only) {
    // Who has been given the descriptor for reading may not open it anew for writing.
    if (fchmod(fd, 0600) != 0) return false;
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    if (read_only) seals |= F_SEAL_FUTURE_WRITE;
    return fcntl(fd, F_ADD_SEALS, seals) == 0;
}

// mmap, at a multiple of `align`: the kernel joins only aligned pages to a huge one.
void *map_aligned(uint64_t size, uint64_t align, int flags, int fd) {
    const int access = PROT_READ | PROT_WRITE;
    if (align <= base_page_size() || size > SIZE_MAX - align)
        return mmap(nullptr, size, access, flags, fd, 0);
    void *room =
        mmap(nullptr, size + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return MAP_FAILED;
    char *begin = static_cast<char *>(room);
    const uint64_t before = (align - reinterpret_cast<uint64_t>(begin) % align) % align;
    void *address = mmap(begin + before, size, access, flags | MAP_FIXED, fd, 0);
    const int reason = errno;
    if (address == MAP_FAILED) {
        munmap(room, size + align);
        errno = reason;
        return MAP_FAILED;
    }
    if (before > 0) munmap(begin, before);
    if (align - before > 0) munmap(begin + before + size, align - before);
    return address;
}

// Brings all pages in; 0 or an errno.
int populate(const Pages &pages) {
    if (madvise(pages.address, pages.size, MADV_POPULATE_WRITE) == 0) return 0;
    if (errno != EINVAL) return errno;
    // Before Linux 5.14. A file's pages first: what is missing is then an error, not a SIGBUS.
    if (pages.fd && fallocate(pages.fd.get(), 0, 0, static_cast<off_t>(pages.size)) != 0)
        return errno;
    volatile char *bytes = static_cast<char *>(pages.address);
    for (uint64_t at = 0; at < pages.size; at += pages.page_size)
        bytes[at] = 0;
    return 0;
}

int32_t refuse_huge(const PagesWish &wish, const Pages &pages, int reason) {
    const char *name = size_name(pages.page_size);
    if (reason == ENODEV || reason == EINVAL)
        return fail(TENT_E_UNSUPPORTED, "this kernel has no huge pages of %s", name);
    const HugePool pool = huge_pool(pages.page_size, wish.node);
    const uint64_t needed = pages.size / pages.page_size;
    const std::string where = wish.node < 0 ? "" : " on NUMA node " + std::to_string(wish.node);
    const std::string count = std::to_string(pool.total + needed - std::min(needed, pool.free));
    const std::string mend = pages.page_size == SIZE_2M
                                 ? "sysctl -w vm.nr_hugepages=" + count
                                 : "at boot: hugepagesz=1G hugepages=" + count;
    return fail(TENT_E_NO_MEMORY,
                "huge pages of %s%s: %llu needed, %llu free of %llu (%s); set more aside (%s), or "
                "leave the size of the pages to the engine",
                name, where.c_str(), static_cast<unsigned long long>(needed),
                static_cast<unsigned long long>(pool.free),
                static_cast<unsigned long long>(pool.total), strerror(reason), mend.c_str());
}

int32_t refuse(const PagesWish &wish, const Pages &pages, int reason) {
    if (pages.page_size != base_page_size()) return refuse_huge(wish, pages, reason);
    // What the kernel calls a bad address is a page that it could not bring in.
    const Room room = memory_room(wish.node);
    return fail(TENT_E_NO_MEMORY, "the system refuses %llu bytes: %s; %s has %llu left",
                static_cast<unsigned long long>(pages.size),
                reason == EFAULT ? "a page of them cannot be had" : strerror(reason),
                room.whose.c_str(), static_cast<unsigned long long>(room.bytes));
}

// Opens the memfd, or says why there is none. 0 or an errno that ends the attempt.
int take_file(const PagesWish &wish, Pages *pages) {
    if (!wish.shared) {
        pages->why = "it was allocated as private memory";
        return 0;
    }
    int fd = files_full() ? -EMFILE : make_file(wish, pages->page_size);
    if (fd < 0 && !never_files(-fd)) return -fd;
    if (fd < 0) {
        pages->why = std::string("it is no memfd: ") +
                     (fd == -EMFILE ? "half of the files that the process may open are memory "
                                      "already (ulimit -n)"
                                    : strerror(-fd));
        return 0;
    }
    struct stat facts{};
    if (fstat(fd, &facts) != 0) return errno;
    pages->fd.reset(fd);
    pages->device = facts.st_dev;
    pages->inode = facts.st_ino;
    files_held.fetch_add(1, std::memory_order_relaxed);
    return ftruncate(fd, static_cast<off_t>(pages->size)) == 0 ? 0 : errno;
}

// Address, advice. 0 or an errno.
int map_pages(const PagesWish &wish, Pages *pages) {
    const bool normal = pages->page_size == base_page_size();
    const bool join = normal && wish.huge == TENT_HUGE_AUTO && pages->size >= SIZE_2M;
    int flags = pages->fd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    if (!pages->fd) flags |= static_cast<int>(huge_flags(pages->page_size, MAP_HUGETLB));
    void *address = map_aligned(pages->size, join ? SIZE_2M : 1, flags, pages->fd.get());
    if (address == MAP_FAILED) return errno;
    pages->address = address;
    if (join) pages->transparent = madvise(address, pages->size, MADV_HUGEPAGE) == 0;
    if (normal && wish.huge == TENT_HUGE_NONE) madvise(address, pages->size, MADV_NOHUGEPAGE);
    return 0;
}

// With pages of that size.
int32_t attempt(const PagesWish &wish, uint64_t page_size, Pages *pages) {
    Pages made;
    made.page_size = page_size;
    made.size = (wish.length + page_size - 1) / page_size * page_size;
    int reason = take_file(wish, &made);
    if (reason == 0) reason = map_pages(wish, &made);
    int32_t status = TENT_OK;
    if (reason == 0 && wish.node >= 0)
        status = numa_bind(made.address, made.size, static_cast<uint32_t>(wish.node));
    if (reason == 0 && status == TENT_OK) reason = populate(made);
    if (reason != 0) status = refuse(wish, made, reason);
    if (status != TENT_OK) {
        pages_free(&made);
        return status;
    }
    made.sealed = made.fd && seal(made.fd.get(), wish.read_only);
    if (made.fd && !made.sealed)
        made.why = std::string("its seals are refused: ") + strerror(errno);
    *pages = std::move(made);
    return TENT_OK;
}

// Are reserved pages of that size there for it, and few of their bytes wasted? They are not taken
// unasked for private memory: a fork could then end in SIGBUS.
bool reserved_fit(const PagesWish &wish, uint64_t page_size) {
    const uint64_t count = (wish.length + page_size - 1) / page_size;
    return wish.shared && wish.length >= page_size &&
           count * page_size - wish.length <= wish.length / WASTE_SHARE &&
           huge_pool(page_size, wish.node).free >= count;
}

// Whoever closed our descriptor may have got its number for a file of their own.
bool holds_file(const Pages &pages) {
    struct stat facts{};
    return pages.fd && fstat(pages.fd.get(), &facts) == 0 && facts.st_dev == pages.device &&
           facts.st_ino == pages.inode;
}

void drop_file(Pages *pages) {
    if (!pages->fd) return;
    files_held.fetch_sub(1, std::memory_order_relaxed);
    if (holds_file(*pages))
        pages->fd.reset();
    else
        pages->fd.release();
}

int32_t check(const PagesWish &wish) {
    // Half of the address space: no rounding up can overflow.
    if (wish.length == 0 || wish.length > SIZE_MAX / 2)
        return fail(TENT_E_INVALID, "%llu bytes cannot be allocated",
                    static_cast<unsigned long long>(wish.length));
    if (wish.huge > TENT_HUGE_1G)
        return fail(TENT_E_INVALID, "huge is %u; it is one of TENT_HUGE_*", wish.huge);
    return TENT_OK;
}

}  // namespace

int32_t pages_make(const PagesWish &wish, Pages *pages) {
    const int32_t status = check(wish);
    if (status != TENT_OK) return status;
    if (wish.huge == TENT_HUGE_2M) return attempt(wish, SIZE_2M, pages);
    if (wish.huge == TENT_HUGE_1G) return attempt(wish, SIZE_1G, pages);
    if (wish.huge == TENT_HUGE_AUTO) {
        for (const uint64_t size : {SIZE_1G, SIZE_2M})
            if (reserved_fit(wish, size) && attempt(wish, size, pages) == TENT_OK) return TENT_OK;
        clear_error();
    }
    // Nothing accounts for a memfd's pages before they are there, and then it is the killer who
    // answers.
    const Room room = memory_room(wish.node);
    if (wish.length > room.bytes)
        return fail(TENT_E_NO_MEMORY, "%llu bytes are needed, %s has %llu left",
                    static_cast<unsigned long long>(wish.length), room.whose.c_str(),
                    static_cast<unsigned long long>(room.bytes));
    return attempt(wish, base_page_size(), pages);
}

void pages_free(Pages *pages) {
    if (pages->address) munmap(pages->address, pages->size);
    pages->address = nullptr;
    drop_file(pages);
}

void pages_inherit(Pages *pages) {
    // A private huge page is written to only where the pool has one more: no SIGBUS, rather.
    const bool normal = pages->page_size == base_page_size();
    const int access = normal ? PROT_READ | PROT_WRITE : PROT_READ;
    void *mapped = MAP_FAILED;
    if (holds_file(*pages))
        mapped = mmap(pages->address, pages->size, access, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
                      pages->fd.get(), 0);
    // Rather ended by SIGSEGV than writing into the parent's memory.
    if (mapped == MAP_FAILED)
        mapped = mmap(pages->address, pages->size, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED) munmap(pages->address, pages->size);
    drop_file(pages);
    pages->sealed = false;
}

}  // namespace tent
