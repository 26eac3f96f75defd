// The copies of the shm transport: every way, every alignment and size near its edges, against
// memcpy, with memory that ends where the copy ends.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "check.h"
#include "plugins/shm/copy.h"
#include "plugins/shm/units.h"

using namespace tent::shm;

namespace {

constexpr size_t ROOM = 64 << 10;

// Memory between two pages that may not be touched.
struct Guarded {
    char *whole;
    char *begin, *end;

    Guarded() {
        const size_t page = static_cast<size_t>(getpagesize());
        whole = static_cast<char *>(mmap(nullptr, ROOM + 2 * page, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(whole, page, PROT_NONE);
        mprotect(whole + page + ROOM, page, PROT_NONE);
        begin = whole + page;
        end = begin + ROOM;
    }
    ~Guarded() { munmap(whole, ROOM + 2 * static_cast<size_t>(getpagesize())); }
    Guarded(const Guarded &) = delete;
    Guarded &operator=(const Guarded &) = delete;
};

using Copy = void (*)(void *, const void *, size_t);

// One copy of `size` bytes to `to`, which has `before` bytes of room in front and `behind` after.
bool exact(Copy copy, char *to, const char *from, size_t size, size_t before, size_t behind) {
    memset(to - before, 0x5a, before + size + behind);
    copy(to, from, size);
    if (size > 0 && memcmp(to, from, size) != 0) return false;
    for (size_t i = 0; i < before; i++)
        if (to[-1 - static_cast<ptrdiff_t>(i)] != 0x5a) return false;
    for (size_t i = 0; i < behind; i++)
        if (to[size + i] != 0x5a) return false;
    return true;
}

void check_way(const char *name, Copy copy) {
    Guarded source, target;
    for (size_t i = 0; i < ROOM; i++)
        source.begin[i] = static_cast<char>(i * 131 + (i >> 8) * 7);
    int wrong = 0;
    const auto one = [&](size_t size, size_t to_shift, size_t from_shift) {
        // At the lower edge of the memory, and at the upper one.
        wrong +=
            !exact(copy, target.begin + to_shift, source.begin + from_shift, size, to_shift, 64);
        wrong += !exact(copy, target.end - to_shift - size, source.end - from_shift - size, size,
                        64, to_shift);
    };
    for (size_t size = 0; size <= 600; size++)
        one(size, 0, 0);
    for (size_t to_shift = 0; to_shift < 64; to_shift++)
        for (size_t size : {0, 1, 63, 64, 65, 255, 256, 257, 320, 511, 512, 513, 1024})
            for (size_t from_shift : {0, 1, 7, 31, 32, 63})
                one(size, to_shift, from_shift);
    for (size_t size : {4095, 4096, 4097, 8191, 16384, 65408})
        for (size_t shift : {0, 1, 17, 63})
            one(size, shift, 64 - shift);
    if (!CHECK_EQ(wrong, 0)) fprintf(stderr, "  by %s\n", name);
}

TEST(a_cached_copy_writes_its_range_exactly) {
    check_way("copy_cached", copy_cached);
}

TEST(every_way_past_the_caches_writes_its_range_exactly) {
    uint32_t usable = 0;
    for (uint32_t i = 0; i < STREAMING_WAY_COUNT; i++) {
        if (!STREAMING_WAYS[i].usable()) continue;
        usable++;
        check_way(STREAMING_WAYS[i].name, STREAMING_WAYS[i].copy);
    }
    CHECK(usable >= 1);
    check_way("copy_streaming", copy_streaming);
}

TEST(a_copy_onto_itself_changes_nothing) {
    std::vector<char> bytes(4096, 'a'), before = bytes;
    copy_cached(bytes.data(), bytes.data(), bytes.size());
    copy_streaming(bytes.data(), bytes.data(), bytes.size());
    CHECK(bytes == before);
}

char *address(uint64_t value) {
    return reinterpret_cast<char *>(value);
}

constexpr uint64_t MIB = 1 << 20;

TEST(what_was_written_lately_stays_in_the_caches_and_what_was_not_goes_past_them) {
    Recent recent;
    const uint64_t far = Recent::DISTANCE / MIB + 1;
    CHECK(recent.past_caches(address(64 * MIB), MIB, 0));
    CHECK(!recent.past_caches(address(64 * MIB), MIB, 0));
    for (uint64_t i = 0; i < far - 2; i++)
        CHECK(recent.past_caches(address((128 + i) * MIB), MIB, 0));
    CHECK(!recent.past_caches(address(64 * MIB), MIB, 0));
    for (uint64_t i = 0; i < far; i++)
        CHECK(recent.past_caches(address((192 + i) * MIB), MIB, 0));
    CHECK(recent.past_caches(address(64 * MIB), MIB, 0));
}

TEST(only_so_many_bytes_in_a_row_to_new_places_make_copies_go_past_the_caches) {
    Recent recent;
    for (uint64_t i = 0; i < 6; i++)
        CHECK_EQ(recent.past_caches(address((64 + i) * MIB), MIB, 4 * MIB), i >= 4);
    CHECK(!recent.past_caches(address(64 * MIB), MIB, 4 * MIB));  // lately: the row ends
    for (uint64_t i = 0; i < 6; i++)
        CHECK_EQ(recent.past_caches(address((96 + i) * MIB), MIB, 4 * MIB), i >= 4);
}

TEST(neighbours_in_a_row_are_not_taken_for_the_same_destination) {
    for (uint64_t shift : {0, 64, 4096, 65535}) {
        Recent up, down;
        for (uint64_t i = 0; i < 100; i++) {
            CHECK(up.past_caches(address((1 << 30) + shift + i * 147456), 147456, 0));
            CHECK(down.past_caches(address((1 << 30) + shift - i * 147456), 147456, 0));
        }
    }
}

}  // namespace
