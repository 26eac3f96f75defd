// The process's memory for transfers: what was allocated, and which memfd lies behind an address.
//
// Leans on pages. One record for the whole process: memory may outlive engines. Must never name a
// file for an address without having asked the kernel what is mapped there: a wrong answer would
// give peers someone else's memory. Control plane only. Thread-safety: any thread; in a forked
// child the parent's memory is private, and none of it is found any more.
#ifndef TENT_BASE_SHARED_MEMORY_H
#define TENT_BASE_SHARED_MEMORY_H

#include <cstdint>
#include <string>

#include "base/mapped_file.h"
#include "base/pages.h"
#include "base/unique_fd.h"

namespace tent {

struct MemoryFacts {
    uint64_t address = 0, size = 0, page_size = 0;
    uint32_t access = 0;  // TENT_ACCESS_* that peers may be granted
    int64_t node = -1;    // bound to; -1: to none
    bool transparent = false;
    bool mappable = false;
    std::string why;  // not mappable
    std::string label;
};

// owner: who may drop it, and drops what is left when it ends; nullptr: nobody in particular.
// Errors: as of pages_make.
int32_t memory_make(const PagesWish &wish, const void *owner, void **address);
// Frees what memory_make gave that owner. False: no such memory.
bool memory_drop(void *address, const void *owner);
// Frees all that it has. owner: not nullptr.
void memory_drop_all(const void *owner);
// The owner ends, and what it has stays mapped for good: somebody may still write to it.
void memory_leave_all(const void *owner);
// The memory that the address lies in. False: none of ours.
bool memory_about(uint64_t address, MemoryFacts *facts);
// TENT_ACCESS_* that all memory of ours in the range allows; other memory allows all.
uint32_t memory_access(uint64_t address, uint64_t length);

// A duplicate of the sealed memfd that is mapped at [address, address+length) now, and the offset
// of `address` in it. False: the range is none, or not one piece of one.
bool memory_find(uint64_t address, uint64_t length, UniqueFd *fd, uint64_t *offset,
                 AskBy how = AskBy::BEST);

}  // namespace tent

#endif
