// See health.h.
#include "health/health.h"

namespace tent {

namespace {

constexpr uint32_t REBUILDS_MAX = 5;   // doublings of the last path's patience
constexpr uint32_t EXPONENT_MAX = 24;  // of probes: the longest probe_first still fits in 64 bits

}  // namespace

HealthAction EndpointHealth::on_late(uint64_t now_ns, const LateView &view,
                                     const Parameters &parameters) {
    if (state_ == HealthState::Suspect) {
        // All expired together: one path stays open.
        if (!view.others) return resume();
        // Nobody can say whether it is this path or the peer. A peer that comes back answers on one
        // path first: this one's margin begins with that. So it does for a slow one that moved.
        if (!view.peer_alive || silent_ns_ == 0) {
            if (silent_ns_ == 0) silent_ns_ = std::max<uint64_t>(now_ns, 1);
            until_ns_ = now_ns + margin_ns(parameters);
            return HealthAction::None;
        }
        return now_ns < until_ns_ ? HealthAction::None : HealthAction::Close;
    }
    if (state_ != HealthState::Healthy) return HealthAction::None;
    if (view.others) return suspect(now_ns, parameters);
    if (silent_ns_ == 0) {
        silent_ns_ = std::max<uint64_t>(now_ns, 1);
        return HealthAction::None;
    }
    // The last path. Where the peer lives and this path alone stays silent, a new connection may
    // mend it; each time with more patience.
    uint64_t patience_ns = parameters.last_path_patience_ns << std::min(rebuilds_, REBUILDS_MAX);
    if (!view.peer_alive || now_ns - silent_ns_ < patience_ns) return HealthAction::None;
    rebuilds_++;
    return HealthAction::Close;
}

HealthAction EndpointHealth::on_error(uint64_t now_ns, const LateView &view,
                                      const Parameters &parameters) {
    bool suspected = state_ == HealthState::Suspect;
    if (!suspected && state_ != HealthState::Healthy) return HealthAction::None;
    silent_ns_ = 0;  // whatever is wrong with it, it has carried something
    decay_flaps(now_ns, parameters);
    // Where it is closed, on_broken counts: one event counts once.
    if (view.others && (suspected || flaps_q8_ >= FLAP_Q8 / 2)) return HealthAction::Close;
    count_flap(now_ns, parameters);
    if (view.others) return suspect(now_ns, parameters);
    return suspected ? resume() : HealthAction::None;
}

HealthAction EndpointHealth::on_slow(uint64_t now_ns, const LateView &view,
                                     const Parameters &parameters) {
    if (state_ != HealthState::Healthy || !view.others) return HealthAction::None;
    slow_ = true;
    return suspect(now_ns, parameters);
}

HealthAction EndpointHealth::on_drained(uint64_t now_ns, const Parameters &parameters) {
    (void)parameters;
    if (state_ != HealthState::Suspect) return HealthAction::None;
    if (slow_) return HealthAction::Close;
    return now_ns < until_ns_ ? HealthAction::None : resume();
}

HealthAction EndpointHealth::on_broken(uint64_t now_ns, bool counts, uint64_t random,
                                       const Parameters &parameters) {
    if (state_ == HealthState::Terminated) return HealthAction::None;
    bool probing = state_ == HealthState::Probing, again = state_ == HealthState::Quarantined;
    if (again && !counts) return HealthAction::Close;
    if (counts && probing)
        attempts_ += attempts_ < EXPONENT_MAX;
    else if (counts && !again)
        count_flap(now_ns, parameters);
    // News that came while a probe was under way are newer than its beginning: it did not use them.
    encouraged_ = !counts || (probing && encouraged_);
    state_ = HealthState::Quarantined;
    slow_ = false;
    silent_ns_ = 0;
    broken_ns_ = now_ns;
    jitter_ = static_cast<uint32_t>(random & 127);
    return HealthAction::Close;
}

uint64_t EndpointHealth::probe_due_ns(bool waiting, const Parameters &parameters) const {
    if (encouraged_) return broken_ns_;
    // The first after probe_first; each failed one and each remembered flap doubles it.
    uint32_t exponent = attempts_ + (flaps_q8_ + FLAP_Q8 / 2) / FLAP_Q8;
    exponent = std::min(exponent - (exponent > 0), EXPONENT_MAX);
    uint64_t most_ns = waiting ? parameters.probe_max_ns : parameters.probe_idle_ns;
    uint64_t ns = std::min(parameters.probe_first_ns << exponent, most_ns);
    return broken_ns_ + scale(ns, 192 + jitter_, 256);  // 0.75 .. 1.25
}

HealthAction EndpointHealth::on_idle(uint64_t now_ns, bool waiting, const Parameters &parameters) {
    if (state_ != HealthState::Quarantined) return HealthAction::None;
    decay_flaps(now_ns, parameters);
    if (now_ns < probe_due_ns(waiting, parameters)) return HealthAction::None;
    encouraged_ = false;
    state_ = HealthState::Probing;
    return HealthAction::Probe;
}

HealthAction EndpointHealth::on_connected() {
    if (state_ == HealthState::Terminated) return HealthAction::None;
    if (proven_) {
        state_ = HealthState::Probing;
        return HealthAction::Probe;
    }
    proven_ = true;
    attempts_ = 0;
    resume();
    slices_max_ = UINT32_MAX;
    return HealthAction::Resume;
}

HealthAction EndpointHealth::on_canary() {
    if (state_ != HealthState::Probing) return HealthAction::None;
    attempts_ = 0;
    return resume();
}

void EndpointHealth::decay_flaps(uint64_t now_ns, const Parameters &parameters) {
    uint64_t step_ns = parameters.flap_half_life_ns / 8;
    if (step_ns == 0 || flaps_q8_ == 0 || now_ns < decayed_ns_ + step_ns) return;
    uint64_t steps = (now_ns - decayed_ns_) / step_ns;
    decayed_ns_ += steps * step_ns;
    for (uint64_t i = 0; i < std::min(steps, DECAY_STEPS_MAX) && flaps_q8_ > 0; i++)
        // Rounded up, so that it ends.
        flaps_q8_ -= static_cast<uint32_t>((flaps_q8_ * DECAY_Q16 + 65535) >> 16);
}

void EndpointHealth::count_flap(uint64_t now_ns, const Parameters &parameters) {
    decay_flaps(now_ns, parameters);
    if (flaps_q8_ == 0) decayed_ns_ = now_ns;
    flaps_q8_ = std::min(flaps_q8_ + FLAP_Q8, FLAPS_Q8_MAX);
}

}  // namespace tent
