// See pick.h.
#include "sched/pick.h"

#include <algorithm>

namespace tent {

namespace {
constexpr uint64_t NS_PER_S = 1000000000u;
using Wide = unsigned __int128;  // bytes * ns: 64 bits would overflow at 18 GB

uint64_t narrow(Wide value) {
    return value > UINT64_MAX ? UINT64_MAX : static_cast<uint64_t>(value);
}
}  // namespace

uint64_t predict_ns(const Candidate &candidate, uint64_t size) {
    Wide work =
        static_cast<Wide>(candidate.inflight_bytes) + static_cast<Wide>(size) * candidate.penalty;
    uint64_t rate = std::max<uint64_t>(candidate.rate_bytes_per_s, 1);
    return narrow(work * NS_PER_S / rate + candidate.latency_ns_base);
}

int pick(std::span<const Candidate> candidates, uint64_t size, uint64_t backlog_bytes) {
    if (candidates.empty()) return PICK_NONE;
    int best = PICK_NONE;
    uint64_t best_ns = 0;
    for (size_t i = 0; i < candidates.size(); i++) {
        if (!candidates[i].open) continue;
        uint64_t ns = predict_ns(candidates[i], size);
        if (best == PICK_NONE || ns < best_ns) {
            best = static_cast<int>(i);
            best_ns = ns;
        }
    }
    if (best == PICK_NONE) return PICK_WAIT;
    Wide work = 0, rate = 0;
    for (const Candidate &candidate : candidates) {
        if (candidate.open || predict_ns(candidate, size) >= best_ns) continue;
        work += candidate.inflight_bytes;
        rate += std::max<uint64_t>(candidate.rate_bytes_per_s, 1);
    }
    if (rate == 0) return best;
    uint64_t drain_ns = narrow((work + std::max(backlog_bytes, size)) * NS_PER_S / rate);
    return drain_ns < best_ns ? PICK_WAIT : best;
}

uint64_t window_bytes(uint64_t rate_bytes_per_s, uint64_t latency_ns_base, uint64_t slice_size,
                      uint64_t slices_min, uint64_t cap) {
    Wide product = static_cast<Wide>(rate_bytes_per_s) * latency_ns_base / NS_PER_S * 5 / 4;
    uint64_t floor = std::min(cap, slice_size * slices_min);
    return std::clamp(narrow(product), floor, cap);
}

}  // namespace tent
