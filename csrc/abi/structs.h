// Reading a caller's struct, which may be of an older (shorter) or newer (longer) version than
// ours.
#pragma once

#include <algorithm>
#include <cstring>

#include "base/status.h"

namespace tent {

// Copies at most `size` bytes over *out (zeroed by the caller: the defaults). NULL is all defaults.
template <class Struct>
int32_t copy_struct(const Struct *given, const char *name, Struct *out) {
    if (!given) return TENT_OK;
    if (given->size < 2 * sizeof(uint32_t))
        return fail(TENT_E_INVALID, "%s.size is %u; set it to sizeof(%s)", name, given->size, name);
    size_t size = std::min<size_t>(given->size, sizeof(Struct));
    memcpy(static_cast<void *>(out), static_cast<const void *>(given), size);
    return TENT_OK;
}

}  // namespace tent
