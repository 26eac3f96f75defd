// What a caller gives, texts and structs, which may be of an older (shorter) or newer (longer)
// version than ours. Leans on base/status. Must never read or write beyond the size they say.
#pragma once

#include <algorithm>
#include <cstring>

#include "base/status.h"

namespace tent {

constexpr size_t SIZE_MIN = 2 * sizeof(uint32_t);  // of a struct: less holds nothing

// Copies at most `size` bytes over *out (zeroed by the caller: the defaults). NULL is all defaults.
template <class Struct>
int32_t copy_struct(const Struct *given, const char *name, Struct *out) {
    if (!given) return TENT_OK;
    if (given->size < SIZE_MIN)
        return fail(TENT_E_INVALID, "%s.size is %u; set it to sizeof(%s)", name, given->size, name);
    size_t size = std::min<size_t>(given->size, sizeof(Struct));
    memcpy(static_cast<void *>(out), static_cast<const void *>(given), size);
    return TENT_OK;
}

// Fills a struct of the caller, which may be of an older, shorter version.
template <class Struct>
void put_struct(Struct full, uint32_t size, void *out) {
    full.size = size;
    memcpy(out, &full, std::min<size_t>(size, sizeof full));
}

// A text the caller gave, if any: refused when it is longer than what is kept of it.
inline int32_t check_text(const char *text, const char *what, size_t size_max) {
    if (text && strlen(text) > size_max)
        return fail(TENT_E_INVALID, "%s '%.40s...' has %zu bytes, at most %zu fit", what, text,
                    strlen(text), size_max);
    return TENT_OK;
}

}  // namespace tent
