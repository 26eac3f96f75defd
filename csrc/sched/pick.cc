// See pick.h.
#include "sched/pick.h"

#include <tent/tent.h>

namespace tent {

namespace {

constexpr uint64_t STALL_NS = 2000000;  // a full endpoint that is late by this is not waited for

bool is_open(const Path &path, const PickQuery &query, const Parameters &parameters) {
    if (path.blocked) return false;
    if (query.low && path.local->low_slices >= parameters.low_slices_max) return false;
    if (!parameters.late_binding || path.own.inflight_bytes == 0) return true;
    return path.own.inflight_bytes + query.size <= path.window_bytes(query.slice_size, parameters);
}

// Waiting for a full endpoint is right only while it moves.
bool is_stalled(const Path &path, uint64_t predicted_ns, uint64_t now_ns) {
    return now_ns > path.progress_ns && now_ns - path.progress_ns > 2 * predicted_ns + STALL_NS;
}

// Slices shrink near the end of a request so that its last ones end together: a slice takes at most
// half of its endpoint's share of what remains.
uint64_t end_game(uint64_t size, const PickQuery &query, uint64_t rate, uint64_t rates,
                  const Parameters &parameters) {
    if (!parameters.end_game || query.fixed || rates == rate) return size;
    if (size <= parameters.slice_size_min) return size;
    Wide share = static_cast<Wide>(query.remaining) * rate / (static_cast<Wide>(rates) * 2);
    if (share >= size) return size;
    // Whole pages: peers and devices like them better.
    uint64_t rounded = (static_cast<uint64_t>(share) + 4095) & ~uint64_t{4095};
    return std::min(size, std::max(rounded, parameters.slice_size_min));
}

// Earliest completion first (Lim et al., "ECF: An MPTCP Path Scheduler to Manage Heterogeneous
// Paths", 2017): the full endpoints that are quicker than the best open one would drain everything
// that waits before it had finished this slice.
bool better_wait(std::span<const Choice> choices, const uint64_t *finish_ns, const uint8_t *full,
                 uint64_t best_ns, const PickQuery &query) {
    Wide work = std::max(query.backlog, query.size);
    Wide rate = 0;
    uint64_t base_ns = TIME_NS_MAX;
    for (size_t i = 0; i < choices.size(); i++) {
        if (!full[i] || finish_ns[i] >= best_ns) continue;
        const Path &path = *choices[i].path;
        work += path.own.inflight_bytes;
        rate += path.own.rate.bytes_per_s();
        base_ns = std::min(base_ns, path.base.ns());
    }
    // (work / rate) + base < best, without the division.
    return rate > 0 && best_ns > base_ns && work * NS_PER_S < rate * (best_ns - base_ns);
}

}  // namespace

Picked pick_predictive(std::span<const Choice> choices, const PickQuery &query,
                       const Parameters &parameters, PickRow *rows) {
    uint64_t finish_ns[CHOICES_MAX];
    uint8_t full[CHOICES_MAX];
    int best = PICK_NONE;
    bool any = false, any_full = false;
    uint64_t best_score = 0, best_ns = 0, rates = 0;
    uint64_t nearer_ns = TIME_NS_MAX * 2, tier_ns = TIME_NS_MAX * 2;
    uint32_t tier = 0;
    for (size_t i = 0; i < choices.size(); i++) {
        const Choice &choice = choices[i];
        Path &path = *choice.path;
        full[i] = 0;
        if (rows) rows[i] = {0, 0, 0, TENT_VERDICT_NOT_READY};
        if (!path.ready) continue;
        path.refresh(query.now_ns, parameters);
        any = true;
        if (choice.tier != tier) {
            nearer_ns = std::min(nearer_ns, tier_ns);
            tier_ns = TIME_NS_MAX * 2;
            tier = choice.tier;
        }
        uint64_t finish = path.predict_ns(query.size);
        uint64_t score =
            choice.penalty == 1 ? finish : path.predict_ns(query.size * uint64_t{choice.penalty});
        finish_ns[i] = finish;
        rates += path.own.rate.bytes_per_s();
        bool open = is_open(path, query, parameters);
        bool moving = open || !is_stalled(path, finish, query.now_ns);
        if (moving) tier_ns = std::min(tier_ns, finish);
        if (rows)
            rows[i] = {finish, score, path.window_bytes(query.slice_size, parameters),
                       static_cast<uint32_t>(open ? TENT_VERDICT_SLOWER : TENT_VERDICT_FULL)};
        if (finish >= nearer_ns) {  // a farther tier only where it finishes earlier
            if (rows) rows[i].verdict = TENT_VERDICT_FARTHER;
            continue;
        }
        if (!open) {
            full[i] = moving;
            any_full |= moving;
        } else if (best < 0 || score < best_score) {
            best = static_cast<int>(i);
            best_score = score;
            best_ns = finish;
        }
    }
    if (!any) return {PICK_NONE, 0};
    if (best < 0) return {PICK_WAIT, 0};
    if (any_full && parameters.ecf && better_wait(choices, finish_ns, full, best_ns, query)) {
        for (size_t i = 0; rows && i < choices.size(); i++)
            if (full[i] && finish_ns[i] < best_ns) rows[i].verdict = TENT_VERDICT_AWAITED;
        if (rows) rows[best].verdict = TENT_VERDICT_PASSED_OVER;
        return {PICK_WAIT, 0};
    }
    if (rows) rows[best].verdict = TENT_VERDICT_CHOSEN;
    uint64_t rate = choices[static_cast<size_t>(best)].path->own.rate.bytes_per_s();
    return {best, end_game(query.size, query, rate, rates, parameters)};
}

Picked pick_round_robin(std::span<const Choice> choices, const PickQuery &query,
                        StripeState &state) {
    bool any = false;
    for (size_t tried = 0; tried < choices.size(); tried++) {
        size_t i = (state.turn + tried) % choices.size();
        any |= choices[i].path->ready;
        if (!choices[i].path->ready || choices[i].path->blocked) continue;
        state.turn = i + 1;
        return {static_cast<int>(i), query.size};
    }
    return {any ? PICK_WAIT : PICK_NONE, 0};
}

Picked pick_static(std::span<const Choice> choices, const PickQuery &query, StripeState &state) {
    int best = PICK_NONE;
    bool any = false;
    uint64_t best_begin = 0, best_end = 0;
    for (size_t i = 0; i < choices.size(); i++) {
        const Path &path = *choices[i].path;
        any |= path.ready;
        if (!path.ready || path.blocked) continue;
        uint64_t nominal =
            path.own.rate.nominal() ? path.own.rate.nominal() : path.own.rate.bytes_per_s();
        uint64_t begin = std::max(state.dealt_ns[i], state.virtual_ns);
        uint64_t end = begin + wire_ns(query.size, pace_of(nominal));
        if (best >= 0 && (begin > best_begin || (begin == best_begin && end >= best_end))) continue;
        best = static_cast<int>(i);
        best_begin = begin;
        best_end = end;
    }
    if (best < 0) return {any ? PICK_WAIT : PICK_NONE, 0};
    // Start-time fair queueing: an endpoint that was away begins now, it does not catch up.
    state.virtual_ns = best_begin;
    state.dealt_ns[best] = best_end;
    return {best, query.size};
}

Picked pick_tent_paper(std::span<const Choice> choices, const PickQuery &query,
                       const Parameters &parameters) {
    int best = PICK_NONE;
    bool any = false;
    uint64_t best_score = 0;
    for (size_t i = 0; i < choices.size(); i++) {
        Path &path = *choices[i].path;
        any |= path.ready;
        if (!path.ready || path.blocked) continue;
        path.refresh(query.now_ns, parameters);
        uint64_t score = path.predict_ns(query.size * uint64_t{choices[i].penalty});
        if (best >= 0 && score >= best_score) continue;
        best = static_cast<int>(i);
        best_score = score;
    }
    if (best < 0) return {any ? PICK_WAIT : PICK_NONE, 0};
    return {best, query.size};
}

}  // namespace tent
