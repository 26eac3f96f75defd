// Options of a faulty rail, `fault.<name>=<value>` on the plan's rail line.
//
// Leans on <tent/plugin.h>. Must only turn text into numbers.
#ifndef TENT_PLUGINS_FAULT_OPTIONS_H
#define TENT_PLUGINS_FAULT_OPTIONS_H

#include <tent/plugin.h>

#include <cstddef>
#include <cstdint>

namespace tent::fault {

struct Options {
    uint64_t throttle_bytes_per_s = 0;     // 0: not throttled
    uint64_t cut_after_size = UINT64_MAX;  // bytes posted on the rail until it is cut
    uint64_t cut_for_ns = 0;               // 0: for good
    bool cut_hangs = false;                // slices hang; else they come back as TRANSPORT
};

constexpr char PREFIX[] = "fault.";

// Reads one option, its name without the prefix. False, and a sentence, when it is unknown or
// malformed.
bool option_read(const char *name, const char *value, Options *out, char *sentence,
                 size_t sentence_size);

}  // namespace tent::fault

#endif
