// The scheduler's two decisions as pure functions of integers: the predicted latency of a slice on
// an endpoint and the choice among candidates. Leans on nothing, allocates nothing, keeps no state.
#pragma once

#include <cstdint>
#include <span>

namespace tent {

// What the pick looks at. inflight: bytes charged on the endpoint's local rail across all peers.
struct Candidate {
    uint64_t inflight_bytes;
    uint64_t rate_bytes_per_s;  // > 0
    uint64_t latency_ns_base;
    uint32_t penalty;  // of the tier, >= 1
    bool open;         // its window has room for one more slice
};

constexpr int PICK_NONE = -1;  // no candidate at all
constexpr int PICK_WAIT = -2;  // a full one will finish the slice sooner than any open one

// (IF + P * S) / BW + beta0, DESIGN.md section 5 with beta1 = 1 (nominal rates).
uint64_t predict_ns(const Candidate &candidate, uint64_t size);

// Exact argmin over the open candidates, the first of equals wins, with earliest completion first:
// an open one is passed over (PICK_WAIT) when the full ones that are faster would drain everything
// that waits, backlog_bytes with this slice, before it finished the slice. The backlog is what
// makes it right (Lim et al., "ECF: An MPTCP Path Scheduler to Manage Heterogeneous Paths", 2017):
// a slow rail harms the last slices only.
int pick(std::span<const Candidate> candidates, uint64_t size, uint64_t backlog_bytes);

// W = clamp(1.25 * rate * base latency, slices_min * slice_size, cap), DESIGN.md section 4.
uint64_t window_bytes(uint64_t rate_bytes_per_s, uint64_t latency_ns_base, uint64_t slice_size,
                      uint64_t slices_min, uint64_t cap);

}  // namespace tent
