// Pages for transfers: zeroed, present, of the size and on the node asked for, and where the kernel
// allows it a sealed memfd, so that another process can map them.
//
// Leans on memfd_create, mmap, madvise. Must never hand out memory that could end in SIGBUS: the
// pages are there before it returns, and the seals keep the file from shrinking. Thread-safety:
// any thread.
#ifndef TENT_BASE_PAGES_H
#define TENT_BASE_PAGES_H

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "base/unique_fd.h"

namespace tent {

struct PagesWish {
    uint64_t length = 0;
    uint32_t huge = 0;       // TENT_HUGE_*
    int64_t node = -1;       // -1: wherever the kernel puts them
    bool shared = true;      // false: no memfd
    bool read_only = false;  // nobody but us may have a writable mapping
    const char *label = "";
};

struct Pages {
    void *address = nullptr;
    uint64_t size = 0;  // the length, rounded up to pages
    uint64_t page_size = 0;
    bool transparent = false;  // the kernel may join them to huge pages, and was asked to
    UniqueFd fd;               // the memfd; none: private memory
    dev_t device = 0;
    ino_t inode = 0;
    bool sealed = false;  // what other processes may be given
    std::string why;      // not sealed: a sentence
};

// Errors: INVALID (length, huge, node), NO_MEMORY (with what is needed and what there is), SYSTEM.
// A kernel or sandbox without memfds is none: the memory is private then.
int32_t pages_make(const PagesWish &wish, Pages *pages);
void pages_free(Pages *pages);

// In a forked child: puts a private mapping of the same bytes in the place of the shared one, so
// that its writes stay the child's, and lets go of the file. Makes system calls alone.
void pages_inherit(Pages *pages);

}  // namespace tent

#endif
