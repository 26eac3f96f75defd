// How much memory there is, before it is taken: reserved huge pages, and what is left of the rest.
//
// Leans on /proc and /sys. Its answers are good for sentences and for refusing what cannot be;
// must never be taken for a promise. Thread-safety: any thread.
#ifndef TENT_BASE_MEMORY_ROOM_H
#define TENT_BASE_MEMORY_ROOM_H

#include <cstdint>
#include <string>

namespace tent {

// Reserved huge pages of one size. All 0 where the kernel has none of it.
struct HugePool {
    uint64_t total, free;  // free: and promised to nobody
};
// node -1: of the machine. root: of another tree of files, for tests.
HugePool huge_pool(uint64_t page_size, int64_t node, const std::string &root = "");

// Bytes that this process could take at once, at most: available memory and swap, or the limit of
// its cgroup, or all memory of the node, where that is less. UINT64_MAX where nothing is known.
struct Room {
    uint64_t bytes;
    std::string whose;  // "the machine", "the cgroup /a/b", "NUMA node 1"
};
Room memory_room(int64_t node, const std::string &root = "");

}  // namespace tent

#endif
