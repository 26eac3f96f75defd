// Memory that peers can map: its seals, its pages, and that no address is ever taken for a file
// that is not mapped there.
#include "base/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <vector>

#include "base/memory_room.h"
#include "base/numa.h"
#include "base/status.h"
#include "check.h"
#include "memory_syscalls.h"

using namespace tent;

namespace {

constexpr uint64_t PAGE = 4096;
constexpr uint64_t MIB = 1 << 20;
constexpr int NO_FILTERS = 77;  // an exit code: what the test needs is missing

// Freed with its owner.
struct Memory {
    void *address = nullptr;
    int32_t status;

    explicit Memory(PagesWish wish) { status = memory_make(wish, nullptr, &address); }
    explicit Memory(uint64_t length) : Memory(PagesWish{.length = length}) {}
    ~Memory() {
        if (address) memory_drop(address, nullptr);
    }
    uint64_t at(uint64_t offset = 0) const { return reinterpret_cast<uint64_t>(address) + offset; }
    char *bytes() const { return static_cast<char *>(address); }
    MemoryFacts facts() const {
        MemoryFacts found;
        CHECK(memory_about(at(), &found));
        return found;
    }
};

struct Found {
    UniqueFd fd;
    uint64_t offset = UINT64_MAX;
    bool yes;

    Found(uint64_t address, uint64_t length, AskBy how = AskBy::BEST) {
        yes = memory_find(address, length, &fd, &offset, how);
    }
};

bool found(uint64_t address, uint64_t length) {
    const bool best = Found(address, length).yes;
    CHECK_EQ(Found(address, length, AskBy::TEXT).yes, best);
    return best;
}

bool contains(const char *text, const char *part) {
    const bool yes = strstr(text, part) != nullptr;
    if (!yes) fprintf(stderr, "'%s' does not say '%s'\n", text, part);
    return yes;
}

int open_files() {
    int count = 0;
    for (int fd = 0; fd < 4096; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

// The descriptor that `file` is a duplicate of; -1: none.
int own_number(const Found &file) {
    struct stat wanted{}, facts{};
    fstat(file.fd.get(), &wanted);
    for (int fd = 0; fd < 4096; fd++)
        if (fd != file.fd.get() && fstat(fd, &facts) == 0 && facts.st_ino == wanted.st_ino &&
            facts.st_dev == wanted.st_dev)
            return fd;
    return -1;
}

void *map_file(const Found &file, int access) {
    return mmap(nullptr, PAGE, access, MAP_SHARED, file.fd.get(), 0);
}

}  // namespace

TEST(memory_is_zeroed_present_and_aligned) {
    Memory memory(5 * MIB + 1);
    if (!CHECK_EQ(memory.status, TENT_OK)) return;
    const MemoryFacts facts = memory.facts();
    CHECK_EQ(facts.size, 5 * MIB + PAGE);
    CHECK_EQ(facts.address % (2 * MIB), 0u);
    std::vector<unsigned char> present(facts.size / PAGE);
    CHECK_EQ(mincore(memory.address, facts.size, present.data()), 0);
    uint64_t missing = 0, dirty = 0;
    for (unsigned char page : present)
        missing += (page & 1) == 0;
    for (uint64_t i = 0; i < facts.size; i++)
        dirty += memory.bytes()[i] != 0;
    CHECK_EQ(missing, 0u);
    CHECK_EQ(dirty, 0u);
}

TEST(who_maps_the_file_sees_the_bytes_at_the_offset) {
    Memory memory(PagesWish{.length = 8 * PAGE, .label = "kv"});
    Found piece(memory.at(3 * PAGE + 5), PAGE);
    if (!CHECK(piece.yes)) return;
    CHECK_EQ(piece.offset, 3 * PAGE + 5);
    void *other = mmap(nullptr, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, piece.fd.get(), 0);
    memory.bytes()[3 * PAGE + 5] = 42;
    CHECK_EQ(static_cast<char *>(other)[3 * PAGE + 5], 42);
    static_cast<char *>(other)[0] = 43;
    CHECK_EQ(memory.bytes()[0], 43);
    CHECK_EQ(memory.facts().label, "kv");
    munmap(other, 8 * PAGE);
}

TEST(nobody_can_change_the_files_size_or_seals) {
    Memory memory(4 * PAGE);
    Found file(memory.at(), 4 * PAGE);
    if (!CHECK(file.yes)) return;
    for (const off_t size : {0, 4096, 1 << 20}) {
        CHECK_EQ(ftruncate(file.fd.get(), size), -1);
        CHECK_EQ(errno, EPERM);
    }
    CHECK_EQ(fcntl(file.fd.get(), F_ADD_SEALS, F_SEAL_WRITE), -1);
    CHECK_EQ(fallocate(file.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1) == 0, true);
    struct stat facts{};
    CHECK_EQ(fstat(file.fd.get(), &facts), 0);
    CHECK_EQ(facts.st_mode & 0777, 0600u);
    CHECK_EQ(fcntl(file.fd.get(), F_GETFD), FD_CLOEXEC);
}

TEST(read_only_memory_is_written_by_its_owner_alone) {
    Memory memory(PagesWish{.length = PAGE, .read_only = true});
    Found file(memory.at(), PAGE);
    if (!CHECK(file.yes)) return;
    CHECK_EQ(map_file(file, PROT_READ | PROT_WRITE), MAP_FAILED);
    CHECK_EQ(errno, EPERM);
    CHECK_EQ(pwrite(file.fd.get(), "x", 1, 0), -1);
    CHECK_EQ(errno, EPERM);
    char again[64];
    snprintf(again, sizeof again, "/proc/self/fd/%d", file.fd.get());
    const UniqueFd writable(open(again, O_RDWR | O_CLOEXEC));
    CHECK_EQ(mmap(nullptr, PAGE, PROT_WRITE, MAP_SHARED, writable.get(), 0), MAP_FAILED);
    void *seen = map_file(file, PROT_READ);
    if (!CHECK(seen != MAP_FAILED)) return;
    CHECK_EQ(mprotect(seen, PAGE, PROT_READ | PROT_WRITE), -1);
    memory.bytes()[7] = 7;
    CHECK_EQ(static_cast<char *>(seen)[7], 7);
    munmap(seen, PAGE);
    CHECK_EQ(memory_access(memory.at(), PAGE), uint32_t{TENT_ACCESS_READ});
    CHECK_EQ(memory_access(memory.at() - PAGE, 3 * PAGE), uint32_t{TENT_ACCESS_READ});
    CHECK_EQ(memory_access(memory.at() + PAGE, PAGE),
             uint32_t{TENT_ACCESS_READ | TENT_ACCESS_WRITE});
}

TEST(a_range_is_found_when_it_lies_wholly_in_one_memory) {
    Memory memory(4 * PAGE);
    CHECK(found(memory.at(), 4 * PAGE));
    CHECK(found(memory.at(4 * PAGE - 1), 1));
    CHECK(!found(memory.at(), 4 * PAGE + 1));
    CHECK(!found(memory.at(4 * PAGE), 1));
    CHECK(!found(memory.at() - 1, 2));
    CHECK(!found(memory.at(), 0));
    CHECK(!found(memory.at(1), UINT64_MAX));
    char here = 0;
    CHECK(!found(reinterpret_cast<uint64_t>(&here), 1));
    Memory own(PagesWish{.length = PAGE, .shared = false});
    CHECK(!found(own.at(), PAGE));
    CHECK(contains(own.facts().why.c_str(), "private"));
}

TEST(a_mapping_in_several_pieces_is_still_the_files) {
    Memory memory(8 * PAGE);
    CHECK_EQ(mprotect(memory.bytes() + 2 * PAGE, PAGE, PROT_READ), 0);
    CHECK_EQ(madvise(memory.bytes() + 5 * PAGE, PAGE, MADV_RANDOM), 0);
    CHECK(found(memory.at(), 8 * PAGE));
    CHECK(found(memory.at(PAGE), 3 * PAGE));
}

// The record says one thing, the address space another.
TEST(memory_that_was_unmapped_behind_our_back_is_not_found) {
    Memory memory(8 * PAGE);
    munmap(memory.bytes() + 2 * PAGE, PAGE);
    CHECK(!found(memory.at(), 8 * PAGE));
    CHECK(!found(memory.at(2 * PAGE), 1));
    CHECK(found(memory.at(3 * PAGE), 5 * PAGE));
    CHECK(found(memory.at(), 2 * PAGE));
}

TEST(what_was_mapped_over_our_memory_is_not_taken_for_it) {
    Memory memory(8 * PAGE), other(8 * PAGE);
    Found file(other.at(), 8 * PAGE);
    const int access = PROT_READ | PROT_WRITE;
    mmap(memory.bytes(), PAGE, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(!found(memory.at(), PAGE));
    mmap(memory.bytes() + PAGE, PAGE, access, MAP_SHARED | MAP_FIXED, file.fd.get(), PAGE);
    CHECK(!found(memory.at(PAGE), PAGE));
    // Our own file, but another place of it, or privately.
    Found own(memory.at(2 * PAGE), PAGE);
    if (!CHECK(own.yes)) return;
    mmap(memory.bytes() + 2 * PAGE, PAGE, access, MAP_SHARED | MAP_FIXED, own.fd.get(), 0);
    CHECK(!found(memory.at(2 * PAGE), PAGE));
    mmap(memory.bytes() + 3 * PAGE, PAGE, access, MAP_PRIVATE | MAP_FIXED, own.fd.get(), 3 * PAGE);
    CHECK(!found(memory.at(3 * PAGE), PAGE));
    CHECK(found(memory.at(4 * PAGE), 4 * PAGE));
}

TEST(memory_made_where_a_stale_record_stands_replaces_it) {
    const int before = open_files();
    {
        Memory memory(PAGE);
        munmap(memory.address, PAGE);
        std::vector<void *> made;  // until the kernel gives the place again
        while (made.size() < 256 && (made.empty() || made.back() != memory.address)) {
            made.push_back(nullptr);
            CHECK_EQ(memory_make(PagesWish{.length = PAGE}, nullptr, &made.back()), TENT_OK);
        }
        if (CHECK_EQ(made.back(), memory.address)) CHECK(found(memory.at(), PAGE));
        for (void *address : made)
            CHECK(memory_drop(address, nullptr));
        memory.address = nullptr;
    }
    CHECK_EQ(open_files(), before);
}

TEST(a_descriptor_that_became_another_files_is_not_given_away_nor_closed) {
    const int before = open_files();
    int number = -1;
    {
        Memory memory(PAGE);
        Found file(memory.at(), PAGE);
        number = own_number(file);
        if (!CHECK(number >= 0)) return;
        const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
        CHECK_EQ(dup3(null.get(), number, O_CLOEXEC), number);
        CHECK(!found(memory.at(), PAGE));
    }
    CHECK(fcntl(number, F_GETFD) >= 0);
    close(number);
    CHECK_EQ(open_files(), before);
}

TEST(freed_memory_leaves_no_descriptor_and_is_known_no_more) {
    const int before = open_files();
    void *address = nullptr;
    CHECK_EQ(memory_make(PagesWish{.length = MIB}, nullptr, &address), TENT_OK);
    CHECK_EQ(open_files(), before + 1);
    CHECK(memory_drop(address, nullptr));
    CHECK(!memory_drop(address, nullptr));
    MemoryFacts facts;
    CHECK(!memory_about(reinterpret_cast<uint64_t>(address), &facts));
    CHECK(!found(reinterpret_cast<uint64_t>(address), 1));
    CHECK_EQ(open_files(), before);
}

TEST(lengths_that_cannot_be_are_refused) {
    for (const uint64_t length : {uint64_t{0}, UINT64_MAX, UINT64_MAX - 1, UINT64_MAX / 2 + 1}) {
        CHECK_EQ(Memory(length).status, TENT_E_INVALID);
        CHECK_EQ(Memory(PagesWish{.length = length, .shared = false}).status, TENT_E_INVALID);
    }
    for (const uint64_t length : {uint64_t{1} << 50, UINT64_MAX / 2}) {
        CHECK_EQ(Memory(length).status, TENT_E_NO_MEMORY);
        CHECK(contains(last_error(), "left"));
        CHECK_EQ(Memory(PagesWish{.length = length, .huge = TENT_HUGE_NONE}).status,
                 TENT_E_NO_MEMORY);
    }
    CHECK_EQ(Memory(PagesWish{.length = 1, .huge = 4}).status, TENT_E_INVALID);
}

TEST(huge_pages_asked_for_are_there_or_the_sentence_counts_them) {
    const uint64_t pool = huge_pool(2 * MIB, -1).free;
    Memory memory(PagesWish{.length = 3 * MIB, .huge = TENT_HUGE_2M});
    if (pool >= 2) {
        if (!CHECK_EQ(memory.status, TENT_OK)) return;
        CHECK_EQ(memory.facts().page_size, 2 * MIB);
        CHECK_EQ(memory.facts().size, 4 * MIB);
        CHECK(found(memory.at(), 4 * MIB));
        memory.bytes()[4 * MIB - 1] = 1;
    } else if (memory.status != TENT_E_UNSUPPORTED) {
        CHECK_EQ(memory.status, TENT_E_NO_MEMORY);
        CHECK(contains(last_error(), "huge pages of 2 MiB: 2 needed"));
        CHECK(contains(last_error(), "sysctl -w vm.nr_hugepages="));
    }
    const uint64_t many = huge_pool(1024 * MIB, -1).free + 1;
    Memory giant(PagesWish{.length = many << 30, .huge = TENT_HUGE_1G});
    CHECK(giant.status == TENT_E_NO_MEMORY || giant.status == TENT_E_UNSUPPORTED);
    CHECK(contains(last_error(), "1 GiB"));
}

TEST(huge_pages_not_asked_for_never_make_it_fail) {
    Memory memory(64 * MIB);
    CHECK_EQ(memory.status, TENT_OK);
    CHECK(memory.facts().page_size > PAGE || memory.facts().transparent);
    Memory plain(PagesWish{.length = 4 * MIB, .huge = TENT_HUGE_NONE});
    CHECK_EQ(plain.facts().page_size, PAGE);
    CHECK(!plain.facts().transparent);
    Memory small(PAGE);
    CHECK(!small.facts().transparent);
}

TEST(memory_is_bound_to_a_node_that_exists) {
    Memory memory(PagesWish{.length = MIB, .node = 0});
    CHECK_EQ(memory.status, TENT_OK);
    CHECK_EQ(memory.facts().node, 0);
    CHECK_EQ(numa_node_of(memory.at()), 0u);
    for (const int64_t node : {1000, 1024, 1 << 30}) {
        Memory none(PagesWish{.length = MIB, .node = node});
        CHECK_EQ(none.status, TENT_E_INVALID);
        CHECK(contains(last_error(), ("NUMA node " + std::to_string(node)).c_str()));
        CHECK(contains(last_error(), "it may use"));
    }
}

TEST(lists_of_nodes_are_read_as_the_kernel_writes_them) {
    CHECK(numa_list_has("0", 0));
    CHECK(numa_list_has("0-3,8", 2));
    CHECK(numa_list_has("0-3,8", 8));
    CHECK(!numa_list_has("0-3,8", 5));
    CHECK(!numa_list_has("", 0));
    CHECK(!numa_list_has("none", 0));
    CHECK(!numa_list_has("1", 0));
}

namespace {

void put(const std::string &root, const std::string &path, const std::string &text) {
    for (size_t at = 1; (at = path.find('/', at)) != std::string::npos; at++)
        mkdir((root + path.substr(0, at)).c_str(), 0700);
    FILE *file = fopen((root + path).c_str(), "w");
    if (!CHECK(file != nullptr)) return;
    fputs(text.c_str(), file);
    fclose(file);
}

struct Tree {
    std::string root = "/tmp/tent-room-XXXXXX";
    Tree() { CHECK(mkdtemp(root.data()) != nullptr); }
    ~Tree() { CHECK_EQ(system(("rm -r " + root).c_str()), 0); }
};

}  // namespace

TEST(room_is_the_least_of_machine_group_and_node) {
    Tree tree;
    const std::string &root = tree.root;
    CHECK_EQ(memory_room(-1, root).bytes, UINT64_MAX);
    put(root, "/proc/meminfo", "MemTotal: 900 kB\nMemAvailable:   500 kB\nSwapFree: 100 kB\n");
    CHECK_EQ(memory_room(-1, root).bytes, 600u << 10);
    CHECK_EQ(memory_room(-1, root).whose, "the machine");
    put(root, "/proc/self/cgroup", "0::/a/b\n");
    put(root, "/sys/fs/cgroup/a/b/memory.max", "max\n");
    CHECK_EQ(memory_room(-1, root).bytes, 600u << 10);
    put(root, "/sys/fs/cgroup/a/memory.max", "4096\n");
    CHECK_EQ(memory_room(-1, root).bytes, 4096u);
    CHECK_EQ(memory_room(-1, root).whose, "the cgroup /a");
    put(root, "/proc/self/cgroup", "3:cpu,cpuacct:/x\n2:memory:/m\n0::/\n");
    put(root, "/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "8192");
    CHECK_EQ(memory_room(-1, root).bytes, 8192u);
    put(root, "/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:  2 kB\n");
    CHECK_EQ(memory_room(1, root).bytes, 2048u);
    CHECK_EQ(memory_room(1, root).whose, "NUMA node 1");
}

TEST(pages_promised_to_others_are_not_free) {
    Tree tree;
    const std::string folder = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
    const std::string node = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/";
    CHECK_EQ(huge_pool(2 * MIB, -1, tree.root).free, 0u);
    put(tree.root, folder + "nr_hugepages", "8");
    put(tree.root, folder + "free_hugepages", "5");
    put(tree.root, folder + "resv_hugepages", "3");
    put(tree.root, node + "nr_hugepages", "4");
    put(tree.root, node + "free_hugepages", "2");
    CHECK_EQ(huge_pool(2 * MIB, -1, tree.root).total, 8u);
    CHECK_EQ(huge_pool(2 * MIB, -1, tree.root).free, 2u);
    CHECK_EQ(huge_pool(2 * MIB, 1, tree.root).free, 0u);
}

// ---- forks and failing calls, each in a child of its own
// ---------------------------------------------

TEST(a_forked_child_sees_the_bytes_and_cannot_change_them) {
    Memory memory(3 * MIB), only_read(PagesWish{.length = PAGE, .read_only = true});
    memory.bytes()[MIB] = 1;
    only_read.bytes()[0] = 2;
    const int code = failing::in_child([&] {
        if (memory.bytes()[MIB] != 1 || only_read.bytes()[0] != 2) return 1;
        memory.bytes()[MIB] = 9;
        only_read.bytes()[0] = 9;
        if (Found(memory.at(), PAGE).yes) return 2;
        MemoryFacts facts;
        if (!memory_about(memory.at(), &facts) || facts.mappable) return 3;
        if (facts.why.find("forked") == std::string::npos) return 4;
        Memory own(PAGE);
        if (!Found(own.at(), PAGE).yes) return 5;
        if (!memory_drop(memory.address, nullptr)) return 6;
        void *again = mmap(memory.address, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memory.address = nullptr;
        return again == MAP_FAILED ? 7 : 0;
    });
    CHECK_EQ(code, 0);
    CHECK_EQ(memory.bytes()[MIB], 1);
    CHECK_EQ(only_read.bytes()[0], 2);
    CHECK(found(memory.at(), 3 * MIB));
}

// The child could not tell the parent's memory from its own.
TEST(a_forked_child_that_cannot_have_the_file_has_no_access) {
    Memory memory(PAGE);
    Found file(memory.at(), PAGE);
    const int number = own_number(file);
    if (!CHECK(number >= 0)) return;
    const int kept = dup(number);
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    dup3(null.get(), number, O_CLOEXEC);
    // A system call is told EFAULT where we would be ended.
    const int code = failing::in_child([&] {
        const UniqueFd zero(open("/dev/zero", O_RDONLY | O_CLOEXEC));
        return read(zero.get(), memory.address, 1) == -1 && errno == EFAULT ? 0 : 1;
    });
    CHECK_EQ(code, 0);
    dup3(kept, number, O_CLOEXEC);
    close(kept);
    CHECK(found(memory.at(), PAGE));
}

TEST(memory_takes_at_most_half_of_the_files) {
    const int code = failing::in_child([] {
        rlimit limit{40, 40};
        setrlimit(RLIMIT_NOFILE, &limit);
        uint32_t mappable = 0;
        MemoryFacts facts;
        for (int i = 0; i < 60; i++) {
            void *address = nullptr;
            if (memory_make(PagesWish{.length = PAGE}, nullptr, &address) != TENT_OK) return 1;
            memory_about(reinterpret_cast<uint64_t>(address), &facts);
            mappable += facts.mappable;
        }
        if (facts.why.find("ulimit -n") == std::string::npos) return 2;
        return mappable == 20 ? 0 : 3;
    });
    CHECK_EQ(code, 0);
}

namespace {

// Makes memory with that call failing; in the child. The status, and what became of it.
struct Outcome {
    int32_t status;
    bool mappable, zeroed;
};

// 0: `fits` says yes and nothing leaks.
template <class Fits>
int with_failing(const failing::Call &call, PagesWish wish, Fits fits) {
    return failing::in_child([&] {
        Memory warm(PAGE);
        if (!failing::install(call)) return NO_FILTERS;
        const int before = open_files();
        {
            Memory memory(wish);
            Outcome outcome{memory.status, false, true};
            if (memory.status == TENT_OK) {
                outcome.mappable = memory.facts().mappable;
                if (!outcome.mappable && memory.facts().why.empty()) return 5;
                for (uint64_t i = 0; i < wish.length; i++)
                    outcome.zeroed = outcome.zeroed && memory.bytes()[i] == 0;
                memory.bytes()[wish.length - 1] = 1;
            } else if (!*last_error()) {
                return 6;
            }
            if (!outcome.zeroed) return 3;
            if (!fits(outcome)) return 4;
        }
        return open_files() == before ? 0 : 2;
    });
}

bool good(int code) {
    if (code == NO_FILTERS) printf("(no seccomp here) ");
    return code == NO_FILTERS || CHECK_EQ(code, 0);
}

constexpr failing::Call call_of(long number, int error, int argument = -1, uint32_t value = 0) {
    return {number, argument, value, error};
}

}  // namespace

TEST(without_memfds_memory_is_private_and_says_why) {
    for (const int error : {ENOSYS, EPERM, EACCES, EMFILE, ENFILE})
        good(with_failing(call_of(SYS_memfd_create, error), {.length = 3 * MIB},
                          [](const Outcome &o) { return o.status == TENT_OK && !o.mappable; }));
}

TEST(a_refused_seal_makes_no_mappable_memory) {
    const auto unmappable = [](const Outcome &o) { return o.status == TENT_OK && !o.mappable; };
    for (const bool read_only : {false, true}) {
        const PagesWish wish{.length = PAGE, .read_only = read_only};
        good(with_failing(call_of(SYS_fcntl, EPERM, 1, F_ADD_SEALS), wish, unmappable));
        good(with_failing(call_of(SYS_fchmod, EPERM), wish, unmappable));
    }
}

TEST(pages_that_cannot_be_had_are_no_memory) {
    const auto refused = [](const Outcome &o) { return o.status == TENT_E_NO_MEMORY; };
    for (const int error : {ENOMEM, EFAULT})
        good(with_failing(call_of(SYS_madvise, error, 2, 23), {.length = PAGE}, refused));
    for (const int error : {ENOSPC, ENOMEM, EINVAL})
        good(with_failing(call_of(SYS_ftruncate, error), {.length = PAGE}, refused));
    good(with_failing(call_of(SYS_mmap, ENOMEM, 3, MAP_SHARED), {.length = PAGE}, refused));
    good(with_failing(call_of(SYS_mmap, ENOMEM, 3, MAP_SHARED | MAP_FIXED), {.length = 3 * MIB},
                      refused));
}

TEST(kernels_before_5_14_touch_every_page) {
    const failing::Call call = call_of(SYS_madvise, EINVAL, 2, 23);
    for (const bool shared : {false, true})
        good(with_failing(call, {.length = 3 * MIB, .shared = shared},
                          [&](const Outcome &o) { return o.mappable == shared; }));
}

TEST(a_refused_binding_says_what_refuses_it_unless_there_is_but_one_node) {
    // Of this machine: on one with several nodes it is an error.
    const bool several = access("/sys/devices/system/node/node1", F_OK) == 0;
    good(with_failing(
        call_of(SYS_mbind, EPERM), {.length = PAGE, .node = 0},
        [&](const Outcome &o) { return o.status == (several ? TENT_E_SYSTEM : TENT_OK); }));
}

TEST(without_proc_nothing_is_found) {
    const int code = failing::in_child([] {
        Memory memory(PAGE);
        if (!Found(memory.at(), PAGE).yes) return 1;
        if (!failing::install(call_of(SYS_openat, ENOENT))) return NO_FILTERS;
        return Found(memory.at(), PAGE).yes ? 2 : 0;
    });
    good(code);
}
