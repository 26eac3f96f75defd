// What is mapped at an address of this process, asked of the kernel.
//
// Leans on /proc/self/maps, by its ioctl where the kernel has it. Must never believe a record of
// ours instead: whoever unmaps or maps over does not tell us. Thread-safety: any thread.
#ifndef TENT_BASE_MAPPED_FILE_H
#define TENT_BASE_MAPPED_FILE_H

#include <sys/types.h>

#include <cstdint>

namespace tent {

// A place in a file, as fstat names the file.
struct FilePlace {
    dev_t device;
    ino_t inode;
    uint64_t offset;
};

enum class AskBy : uint8_t { BEST, TEXT };  // TEXT: as on kernels without the ioctl

// Is [address, address+length) a shared mapping of that file, without a gap, beginning at that
// offset? False also where the kernel does not tell. length > 0, no wrap around.
bool mapped_from(uint64_t address, uint64_t length, const FilePlace &place,
                 AskBy how = AskBy::BEST);

}  // namespace tent

#endif
