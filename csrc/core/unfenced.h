// The ranges of peers' memory that a write of ours may still change, behind each TENT_E_UNFENCED,
// and the proof that may come later. Thread-safety: any thread (report_mutex), never on the slice
// path. Must never hold more than UNFENCED_MAX: proven ones, then the oldest, give way.
#pragma once

#include "core/engine.h"

namespace tent {

constexpr uint32_t UNFENCED_MAX = 4096;

// A slice of `request` that was posted on the endpoint, and of which nobody says that it cannot
// land any more. Neighbours join.
void unfenced_add(Engine &engine, const Endpoint &endpoint, const Request &request, uint64_t remote,
                  uint64_t length);
// The endpoint's remote half is quiet for certain now; an event says so.
void unfenced_prove(Engine &engine, uint64_t endpoint, const char *why);
// Is a proof of this endpoint still of use?
bool unfenced_waits(const Engine &engine, uint64_t endpoint);
void unfenced_read(Engine &engine, bool forget_proven, tent_unfenced_range *out, uint32_t stride,
                   uint32_t *count);

}  // namespace tent
