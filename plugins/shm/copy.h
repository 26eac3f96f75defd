// Copies of bytes by the processor.
//
// Leans on the standard library. Which one is fastest when is measured in README.md; what the
// processor has is asked once. Any thread.
#ifndef TENT_PLUGINS_SHM_COPY_H
#define TENT_PLUGINS_SHM_COPY_H

#include <cstddef>
#include <cstdint>

namespace tent::shm {

// Leaves the bytes in the caches, as far as they fit. Ranges may not overlap, except when equal.
void copy_cached(void *to, const void *from, size_t size);
// Past the caches: no line of `to` is read before it is written. Its stores are visible to whoever
// sees a later release of the caller. For what is not in the caches and would not stay there.
void copy_streaming(void *to, const void *from, size_t size);
// Has this processor something better than copy_cached for that?
bool copy_streaming_exists();

// The ways to copy past the caches that this program knows, best first; copy_streaming is the first
// one that is usable. Static.
struct StreamingWay {
    const char *name;
    bool (*usable)();
    void (*copy)(void *to, const void *from, size_t size);
};
extern const StreamingWay STREAMING_WAYS[];
extern const uint32_t STREAMING_WAY_COUNT;

}  // namespace tent::shm

#endif
