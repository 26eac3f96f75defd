// See unfenced.h.
#include "core/unfenced.h"

#include <algorithm>
#include <cstring>

#include "base/mutant.h"
#include "core/reports.h"

namespace tent {

namespace {

void make_room(std::vector<tent_unfenced_range> &ranges) {
    if (ranges.size() < UNFENCED_MAX) return;
    auto proven = std::find_if(ranges.begin(), ranges.end(),
                               [](const tent_unfenced_range &range) { return range.proven; });
    ranges.erase(proven == ranges.end() ? ranges.begin() : proven);
}

}  // namespace

void unfenced_add(Engine &engine, const Endpoint &endpoint, const Request &request, uint64_t remote,
                  uint64_t length) {
    uint64_t batch = engine.batches[request.batch].handle.load(std::memory_order_relaxed);
    if (mutant(Mutant::unfenced_range)) length = (length + 1) / 2;
    std::lock_guard lock(engine.report_mutex);
    for (tent_unfenced_range &range : engine.unfenced) {
        if (range.endpoint != endpoint.id || range.batch != batch || range.index != request.index ||
            range.proven)
            continue;
        bool after = range.remote + range.length == remote,
             before = remote + length == range.remote;
        if (!after && !before) continue;
        if (before) range.remote = remote;
        range.length += length;
        return;
    }
    make_room(engine.unfenced);
    tent_unfenced_range range{};
    range.batch = batch;
    range.user_data = request.user_data;
    range.segment = request.segment_handle;
    range.remote = remote;
    range.length = length;
    range.endpoint = endpoint.id;
    range.time_ns = engine.now_ns;
    range.index = request.index;
    engine.unfenced.push_back(range);
}

void unfenced_prove(Engine &engine, uint64_t endpoint, const char *why) {
    uint64_t segment = 0, bytes = 0;
    {
        std::lock_guard lock(engine.report_mutex);
        for (tent_unfenced_range &range : engine.unfenced) {
            if (range.endpoint != endpoint || range.proven) continue;
            range.proven = 1;
            segment = range.segment;
            bytes += range.length;
        }
    }
    if (bytes > 0)
        report(engine, TENT_EVENT_FENCED, {.segment = segment, .endpoint = endpoint},
               "%llu unfenced bytes are safe now: %s", static_cast<unsigned long long>(bytes), why);
}

bool unfenced_waits(const Engine &engine, uint64_t endpoint) {
    std::lock_guard lock(engine.report_mutex);
    return std::any_of(engine.unfenced.begin(), engine.unfenced.end(),
                       [&](const tent_unfenced_range &range) {
                           return range.endpoint == endpoint && !range.proven;
                       });
}

void unfenced_read(Engine &engine, bool forget_proven, tent_unfenced_range *out, uint32_t stride,
                   uint32_t *count) {
    std::lock_guard lock(engine.report_mutex);
    uint32_t room = *count, copied = 0;
    for (const tent_unfenced_range &range : engine.unfenced) {
        if (copied == room) break;
        memcpy(reinterpret_cast<char *>(out) + static_cast<size_t>(stride) * copied++, &range,
               std::min<size_t>(stride, sizeof range));
    }
    *count = static_cast<uint32_t>(engine.unfenced.size());
    if (!forget_proven) return;
    uint32_t at = 0;
    std::erase_if(engine.unfenced,
                  [&](const tent_unfenced_range &range) { return at++ < copied && range.proven; });
}

}  // namespace tent
