// Looking up a batch by its handle; shared by submit.cc and batches.cc. Any thread.
#pragma once

#include "base/status.h"
#include "core/engine.h"

namespace tent {

inline Batch *batch_find(Engine &engine, uint64_t handle) {
    uint32_t slot = static_cast<uint32_t>(handle) - 1;
    if (slot >= engine.limits.batches) return nullptr;
    Batch &batch = engine.batches[slot];
    return batch.handle.load(std::memory_order_acquire) == handle ? &batch : nullptr;
}

inline int32_t batch_missing(uint64_t handle) {
    return fail(TENT_E_NOT_FOUND, "batch %llu is not open (closed already?)",
                static_cast<unsigned long long>(handle));
}

}  // namespace tent
