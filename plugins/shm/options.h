// Options of the shm transport: the table of them, and how values are read.
//
// Leans on <tent/plugin.h>. Must never look at the machine: it only turns text into values.
#ifndef TENT_PLUGINS_SHM_OPTIONS_H
#define TENT_PLUGINS_SHM_OPTIONS_H

#include <tent/plugin.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tent::shm {

struct Options {
    bool mapped = true;  // which ways are allowed
    bool attach = true;
    bool ring = true;
    bool prefault = true;                // page tables of what is mapped are filled ahead
    uint64_t nontemporal_min = 1 << 20;  // bytes in a row from which stores go past the caches
    uint64_t inline_max = 64 << 10;      // slices up to this are copied in post()
    uint32_t ring_chunk_size = 128 << 10;
    uint32_t ring_chunk_count = 32;
    std::string directory;        // of the sockets, "": /dev/shm, $XDG_RUNTIME_DIR or /tmp
    std::vector<uint32_t> users;  // let in beside our own
    uint64_t connect_timeout_ns = 2'000'000'000;
};

// The one list: what plugin.h tells of them. Static.
extern const tent_option_info OPTION_INFOS[];
extern const uint32_t OPTION_COUNT;

// Reads one into `out`. On an unknown one or a bad value writes a sentence, returns INVALID.
int32_t option_read(const tent_option &option, Options *out, char *sentence, size_t sentence_size);

}  // namespace tent::shm

#endif
