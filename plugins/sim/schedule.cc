// See schedule.h.
#include "schedule.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace tent::sim {

const char *Schedule::read(const tent_sim_bandwidth *from, Schedule *out) {
    tent_sim_bandwidth given{};
    if (from == nullptr || from->size < offsetof(tent_sim_bandwidth, points))
        return "a bandwidth is needed, with its size set";
    memcpy(&given, from, std::min<size_t>(from->size, sizeof given));
    Schedule made;
    switch (given.kind) {
        case TENT_SIM_CONSTANT: made.points_ = {{0, given.bytes_per_s}}; break;
        case TENT_SIM_PIECEWISE:
            if (given.points == nullptr || given.point_count == 0 ||
                given.point_count > TENT_SIM_POINTS_MAX)
                return "a piecewise bandwidth has 1 to 4096 points";
            made.points_.assign(given.points, given.points + given.point_count);
            for (size_t i = 1; i < made.points_.size(); i++)
                if (made.points_[i].time_ns <= made.points_[i - 1].time_ns)
                    return "the points of a bandwidth have strictly ascending times";
            break;
        case TENT_SIM_FLAPPING:
            if (given.period_ns == 0 || given.period_ns % 2 != 0)
                return "the period of a flapping bandwidth is even and longer than 0 ns";
            made.flapping_ = true;
            made.high_ = given.high_bytes_per_s;
            made.low_ = given.low_bytes_per_s;
            made.period_ns_ = given.period_ns;
            made.phase_ns_ = given.phase_ns % given.period_ns;
            made.points_ = {{0, std::max(made.high_, made.low_)}};
            break;
        default: return "the kind of a bandwidth is constant, piecewise or flapping";
    }
    for (const tent_sim_point &point : made.points_)
        if (point.bytes_per_s > TENT_SIM_BANDWIDTH_MAX)
            return "a bandwidth is at most 1e15 bytes/s";
    *out = std::move(made);
    return nullptr;
}

Schedule::Piece Schedule::piece_at(uint64_t now_ns) const {
    if (flapping_) {
        // The phase is added within the period: far times must not wrap around.
        uint64_t place = (now_ns % period_ns_ + phase_ns_) % period_ns_;
        bool high = place < period_ns_ / 2;
        uint64_t left = (high ? period_ns_ / 2 : period_ns_) - place;
        return {high ? high_ : low_, left > NEVER - now_ns ? NEVER : now_ns + left};
    }
    auto next = std::upper_bound(
        points_.begin(), points_.end(), now_ns,
        [](uint64_t time, const tent_sim_point &point) { return time < point.time_ns; });
    uint64_t end_ns = next == points_.end() ? NEVER : next->time_ns;
    return {next == points_.begin() ? next->bytes_per_s : std::prev(next)->bytes_per_s, end_ns};
}

Work Schedule::carried(uint64_t from_ns, uint64_t to_ns) const {
    Work work = 0;
    if (from_ns >= to_ns) return 0;
    if (flapping_) {
        uint64_t periods = (to_ns - from_ns) / period_ns_;
        work = period_work() * periods;
        from_ns += periods * period_ns_;
    }
    while (from_ns < to_ns) {
        Piece piece = piece_at(from_ns);
        uint64_t end_ns = std::min(piece.end_ns, to_ns);
        work += Work{piece.bytes_per_s} * (end_ns - from_ns);
        from_ns = end_ns;
    }
    return work;
}

uint64_t Schedule::finish(uint64_t from_ns, Work work) const {
    if (work == 0) return from_ns;
    if (flapping_) {
        if (period_work() == 0) return NEVER;
        // Whole periods at once; at least a part of the last one is left for the loop below.
        Work periods = (work - 1) / period_work();
        if (periods * period_ns_ >= NEVER - from_ns) return NEVER;
        work -= periods * period_work();
        from_ns += static_cast<uint64_t>(periods) * period_ns_;
    }
    for (;;) {
        Piece piece = piece_at(from_ns);
        Work rate = piece.bytes_per_s;
        if (piece.end_ns == NEVER || rate * (piece.end_ns - from_ns) >= work) {
            if (rate == 0) return NEVER;
            Work needed = (work + rate - 1) / rate;
            return needed >= NEVER - from_ns ? NEVER : from_ns + static_cast<uint64_t>(needed);
        }
        work -= rate * (piece.end_ns - from_ns);
        from_ns = piece.end_ns;
    }
}

}  // namespace tent::sim
