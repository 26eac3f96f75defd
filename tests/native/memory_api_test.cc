// tent_memory_* as C programs call them, and what plugins are told about such memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "abi/guard.h"
#include "core/transports.h"
#include "engine_pair.h"

using namespace tent;

namespace {

constexpr uint64_t PAGE = 4096;
constexpr uint32_t BOTH = TENT_ACCESS_READ | TENT_ACCESS_WRITE;

tent_memory_options with(uint32_t access, uint32_t flags = 0) {
    tent_memory_options options{};
    options.size = sizeof options;
    options.access = access;
    options.flags = flags;
    return options;
}

tent_memory_info about(const void *address) {
    tent_memory_info info{};
    info.size = sizeof info;
    OK(tent_memory_about(address, &info));
    return info;
}

bool says(const char *part) {
    const bool yes = strstr(tent_last_error(), part) != nullptr;
    if (!yes) fprintf(stderr, "'%s' does not say '%s'\n", tent_last_error(), part);
    return yes;
}

int open_files() {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

// What a plugin was told of a region, kept while a listening table stands in for the plugin's.
struct Told {
    uint32_t calls = 0;
    int32_t fd = -1;
    uint64_t offset = UINT64_MAX;
    ino_t inode = 0;
};
Told told;

int32_t listen_to_region(void *, const tent_region_params *params, void **region) {
    told.calls++;
    told.fd = params->memory_fd;
    told.offset = params->memory_offset;
    struct stat facts{};
    told.inode = params->memory_fd >= 0 && fstat(params->memory_fd, &facts) == 0 ? facts.st_ino : 0;
    *region = &told;
    return TENT_OK;
}
int32_t let_go(void *, void *) {
    return TENT_OK;
}

// Registers with the engine's first transport listening in.
Told register_telling(TestEngine &test, void *address, uint64_t length) {
    Transport &transport = *core(test.engine).transports.front();
    const tent_plugin *own = transport.table;
    tent_plugin listening = *own;
    listening.region_register = listen_to_region;
    listening.region_release = let_go;
    listening.region_export = nullptr;
    told = Told();
    with_driver(core(test.engine), [&] { transport.table = &listening; });
    uint64_t region = 0;
    OK(tent_region_register(test.engine, address, length, nullptr, &region));
    OK(tent_region_release(test.engine, region));
    with_driver(core(test.engine), [&] { transport.table = own; });
    CHECK_EQ(told.calls, 1u);
    return told;
}

}  // namespace

TEST(engine_close_frees_what_is_left_and_nothing_else) {
    const int before = open_files();
    void *left = nullptr, *free_of_engines = nullptr;
    {
        TestEngine engine("owner");
        OK(tent_memory_alloc(engine.engine, 100, &left));
        OK(tent_memory_alloc_with(nullptr, 100, nullptr, &free_of_engines));
        CHECK_EQ(about(left).length, PAGE);
    }
    tent_memory_info info{};
    info.size = sizeof info;
    CHECK_EQ(tent_memory_about(left, &info), TENT_E_NOT_FOUND);
    static_cast<char *>(free_of_engines)[0] = 1;
    CHECK_EQ(about(free_of_engines).mappable, 1u);
    OK(tent_memory_free(nullptr, free_of_engines));
    CHECK_EQ(open_files(), before);
}

TEST(memory_is_freed_by_whom_it_was_allocated_for_and_once) {
    TestEngine engine("one"), other("other");
    void *memory = nullptr, *loose = nullptr;
    OK(tent_memory_alloc(engine.engine, PAGE, &memory));
    OK(tent_memory_alloc_with(nullptr, PAGE, nullptr, &loose));
    CHECK_EQ(tent_memory_free(other.engine, memory), TENT_E_INVALID);
    CHECK_EQ(tent_memory_free(nullptr, memory), TENT_E_INVALID);
    CHECK_EQ(tent_memory_free(engine.engine, loose), TENT_E_INVALID);
    CHECK_EQ(tent_memory_free(engine.engine, static_cast<char *>(memory) + 1), TENT_E_INVALID);
    CHECK_EQ(tent_memory_free(nullptr, nullptr), TENT_E_INVALID);
    OK(tent_memory_free(engine.engine, memory));
    CHECK_EQ(tent_memory_free(engine.engine, memory), TENT_E_INVALID);
    OK(tent_memory_free(nullptr, loose));
    CHECK_EQ(tent_memory_free(nullptr, loose), TENT_E_INVALID);
}

TEST(options_without_a_meaning_are_refused_with_a_sentence) {
    void *memory = nullptr;
    const auto refused = [&](const tent_memory_options &options, const char *why) {
        return CHECK_EQ(tent_memory_alloc_with(nullptr, PAGE, &options, &memory), TENT_E_INVALID) &&
               CHECK(says(why));
    };
    refused(with(TENT_ACCESS_WRITE), "READ|WRITE");
    refused(with(4), "access 0x4");
    refused(with(0, 4), "flags 0x4");
    tent_memory_options options = with(0);
    options.huge = TENT_HUGE_1G + 1;
    refused(options, "TENT_HUGE_");
    options = with(0);
    options.size = 4;
    refused(options, "size is 4");
    options = with(0);
    options.label = "a label that is longer than those of regions";
    refused(options, "label");
    options = with(0, TENT_ALLOC_BIND);
    options.node = UINT32_MAX;
    refused(options, "NUMA node 4294967295");
    CHECK_EQ(tent_memory_alloc_with(nullptr, UINT64_MAX, nullptr, &memory), TENT_E_INVALID);
    CHECK_EQ(tent_memory_alloc_with(nullptr, PAGE, nullptr, nullptr), TENT_E_INVALID);
    CHECK_EQ(tent_memory_alloc(nullptr, PAGE, &memory), TENT_E_INVALID);
    CHECK(memory == nullptr);
}

TEST(a_struct_of_an_older_program_is_read_and_written_within_its_size) {
    tent_memory_options options = with(TENT_ACCESS_READ);
    options.size = offsetof(tent_memory_options, node);  // knows no more than flags and access
    options.huge = 77;
    void *memory = nullptr;
    OK(tent_memory_alloc_with(nullptr, PAGE, &options, &memory));
    tent_memory_info info{};
    info.size = offsetof(tent_memory_info, page_size);
    info.page_size = 12345;
    OK(tent_memory_about(static_cast<char *>(memory) + 17, &info));
    CHECK_EQ(info.access, uint32_t{TENT_ACCESS_READ});
    CHECK_EQ(info.address, reinterpret_cast<uint64_t>(memory));
    CHECK_EQ(info.page_size, 12345u);
    info.size = 4;
    CHECK_EQ(tent_memory_about(memory, &info), TENT_E_INVALID);
    CHECK_EQ(tent_memory_about(memory, nullptr), TENT_E_INVALID);
    CHECK_EQ(tent_memory_about(&memory, &info), TENT_E_INVALID);
    OK(tent_memory_free(nullptr, memory));
}

TEST(memory_for_reading_takes_no_region_for_writing) {
    TestEngine engine("reader");
    const tent_memory_options options = with(TENT_ACCESS_READ);
    void *memory = nullptr;
    OK(tent_memory_alloc_with(engine.engine, 2 * PAGE, &options, &memory));
    uint64_t region = 0;
    tent_region_options wanted{};
    wanted.size = sizeof wanted;
    for (const uint32_t access : {BOTH, uint32_t{TENT_ACCESS_WRITE}}) {
        wanted.access = access;
        CHECK_EQ(tent_region_register(engine.engine, static_cast<char *>(memory) + PAGE, 1, &wanted,
                                      &region),
                 TENT_E_INVALID);
        CHECK(says("for peers to read only"));
    }
    CHECK_EQ(tent_region_register(engine.engine, memory, PAGE, nullptr, &region), TENT_E_INVALID);
    wanted.access = TENT_ACCESS_READ;
    OK(tent_region_register(engine.engine, memory, 2 * PAGE, &wanted, &region));
    OK(tent_region_release(engine.engine, region));
}

TEST(plugins_are_told_the_file_and_the_offset_of_mappable_memory) {
    TestEngine engine("teller");
    void *memory = nullptr, *alone = nullptr;
    OK(tent_memory_alloc(engine.engine, 4 * PAGE, &memory));
    const int before = open_files();
    const Told whole = register_telling(engine, memory, 4 * PAGE);
    CHECK(whole.fd >= 0);
    CHECK_EQ(whole.offset, 0u);
    const Told piece = register_telling(engine, static_cast<char *>(memory) + PAGE + 3, 5);
    CHECK_EQ(piece.offset, PAGE + 3);
    CHECK(piece.inode != 0);
    CHECK_EQ(piece.inode, whole.inode);
    // The descriptor was the call's only.
    CHECK_EQ(open_files(), before);
    std::vector<char> heap(PAGE);
    CHECK_EQ(register_telling(engine, heap.data(), heap.size()).fd, -1);
    const tent_memory_options options = with(0, TENT_ALLOC_PRIVATE);
    OK(tent_memory_alloc_with(engine.engine, PAGE, &options, &alone));
    CHECK_EQ(register_telling(engine, alone, PAGE).fd, -1);
    // The record is not believed: something else is mapped there now.
    mmap(memory, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK_EQ(register_telling(engine, memory, 4 * PAGE).fd, -1);
}
