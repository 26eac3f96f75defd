// The health of one endpoint: states, adaptive slice deadlines, backoff of probes, slow start, flap
// memory. DESIGN.md section 6, docs/faults.md. Told what happened, it says what shall be done, does
// nothing itself and knows neither clocks nor sockets. Integer arithmetic, one writer. Leans on the
// plan's parameters and sched/fixed.h. tent/resilience/health.py is its executable specification,
// equal step by step (a test holds them so). Must never exclude an endpoint because it is late
// while no other to the peer is open, nor forget all flaps at one success.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan/parameters.h"
#include "sched/fixed.h"

namespace tent {

enum class HealthState : uint8_t { Healthy, Suspect, Quarantined, Probing, Terminated };

// What the core shall do now.
enum class HealthAction : uint8_t {
    None,
    Pause,      // no new slices; those in flight may still finish
    Resume,     // slices again, slices_max() at a time
    Close,      // tear it down: unfinished slices come back, the fence begins
    Probe,      // a fresh connection attempt, then one canary into scratch memory
    Terminate,  // for good
};

// What only the core knows when a slice is late.
struct LateView {
    // Another endpoint to the peer is open, and not late (or late, but its bytes move).
    bool others = false;
    // The peer has given any sign of life, on any path, since this endpoint fell silent
    // (EndpointHealth::silent_ns). Without one it is the peer or the switch, not this endpoint.
    bool peer_alive = false;
};

class EndpointHealth {
  public:
    HealthState state() const { return state_; }
    bool usable() const { return state_ == HealthState::Healthy; }
    // Slow start: most slices in flight.
    uint32_t slices_max() const { return slices_max_; }
    // Since when it is suspect, or late as the last path; 0: it is neither.
    uint64_t silent_ns() const { return silent_ns_; }
    uint64_t deviation_ns() const { return deviation_ns_; }
    uint32_t flaps_q8() const { return flaps_q8_; }
    uint32_t attempts() const { return attempts_; }

    // ---- deadlines of slices ----

    // A slice has completed with success: |actual - predicted| joins the mean deviation with weight
    // 1/4, as TCP's round-trip variance does (RFC 6298).
    void sample(uint64_t predicted_ns, uint64_t actual_ns) {
        uint64_t off_ns =
            actual_ns > predicted_ns ? actual_ns - predicted_ns : predicted_ns - actual_ns;
        off_ns = std::min(off_ns, DEVIATION_NS_MAX);
        deviation_ns_ = samples_ == 0 ? off_ns / 2 : deviation_ns_ - deviation_ns_ / 4 + off_ns / 4;
        if (samples_ < UINT32_MAX) samples_++;
    }
    // Jitter it gets beyond what is predicted: max(floor, k x deviation).
    uint64_t margin_ns(const Parameters &parameters) const {
        return std::max(parameters.deadline_floor_ns,
                        deviation_ns_ * parameters.deadline_deviations);
    }
    // Time from post until a slice counts as late: max(floor, prediction + k x deviation), doubled
    // per retry; generous until enough samples exist.
    uint64_t allowance_ns(uint64_t predicted_ns, uint32_t retries,
                          const Parameters &parameters) const {
        uint64_t ns =
            std::min(predicted_ns, TIME_NS_MAX) + deviation_ns_ * parameters.deadline_deviations;
        ns = std::max(ns, parameters.deadline_floor_ns);
        if (samples_ < parameters.deadline_samples)
            ns = std::max(ns, parameters.deadline_initial_ns);
        uint32_t doublings = std::min(retries, DOUBLINGS_MAX);
        return std::min(ns, TIME_NS_MAX >> doublings) << doublings;
    }

    // ---- what happened ----

    // A slice has completed.
    HealthAction on_success() {
        silent_ns_ = 0;
        rebuilds_ = 0;
        if (state_ == HealthState::Suspect) return slow_ ? HealthAction::None : resume();
        if (slices_max_ < SLOW_START_END) {
            slices_max_ *= 2;
            if (slices_max_ >= SLOW_START_END) slices_max_ = UINT32_MAX;
        }
        return HealthAction::None;
    }
    // Its oldest slice is late, but bytes have moved: slow, not silent.
    HealthAction on_progress() {
        silent_ns_ = 0;
        return state_ == HealthState::Suspect && !slow_ ? resume() : HealthAction::None;
    }
    // Its oldest slice is late and nothing moves; told again at every look until that changes.
    HealthAction on_late(uint64_t now_ns, const LateView &view, const Parameters &parameters);
    // The receiver refused a slice (a checksum): one is a reason to look; another one while it is
    // suspect, or with most of the last failure still remembered, is one to close.
    HealthAction on_error(uint64_t now_ns, const LateView &view, const Parameters &parameters);
    // No other endpoint to the peer is open any more (told while suspect, before anything else):
    // it is the last path, whatever is said of it.
    HealthAction on_alone() {
        return state_ == HealthState::Suspect ? resume() : HealthAction::None;
    }
    // Its rate has fallen below slow_share of the other endpoints': drained, then closed.
    HealthAction on_slow(uint64_t now_ns, const LateView &view, const Parameters &parameters);
    // Nothing of it is in flight (told while suspect).
    HealthAction on_drained(uint64_t now_ns, const Parameters &parameters);
    // It has broken: connection lost, link down, set-up or canary failed, retired by the peer.
    // counts: a fault of the path, to be remembered; false: closed on purpose (cancel, deadline),
    // so it may come back at once. What is broken already is not broken twice: its wait begins
    // anew.
    HealthAction on_broken(uint64_t now_ns, bool counts, uint64_t random,
                           const Parameters &parameters);
    // Quarantined and fenced: is it time to try? waiting: work waits for this peer.
    HealthAction on_idle(uint64_t now_ns, bool waiting, const Parameters &parameters);
    // The connection stands (of a first set-up, too, which needs no canary).
    HealthAction on_connected();
    // The canary has come back.
    HealthAction on_canary();
    // The link came up, or its peer came back: try at once, and again soon should it be too soon.
    void on_encouraged() {
        encouraged_ = true;
        attempts_ = 0;
    }
    HealthAction on_gone() {
        state_ = HealthState::Terminated;
        return HealthAction::Terminate;
    }

    // When on_idle will say Probe. Meaningful while quarantined.
    uint64_t probe_due_ns(bool waiting, const Parameters &parameters) const;

  private:
    static constexpr uint32_t DOUBLINGS_MAX = 16;
    static constexpr uint64_t DEVIATION_NS_MAX = 1ull << 50;  // 13 days; times 1000 it fits
    static constexpr uint32_t SLOW_START_END = 64;            // slices: from here on unlimited
    static constexpr uint32_t FLAP_Q8 = 256;                  // one event
    static constexpr uint32_t FLAPS_Q8_MAX = 16 * 256;        // more teach nothing
    static constexpr uint64_t DECAY_Q16 = 5438;  // (1 - 2^(-1/8)) * 2^16, per half-life / 8
    static constexpr uint64_t DECAY_STEPS_MAX = 256;

    HealthAction resume() {
        state_ = HealthState::Healthy;
        slices_max_ = 1;
        slow_ = false;
        silent_ns_ = 0;
        return HealthAction::Resume;
    }
    HealthAction suspect(uint64_t now_ns, const Parameters &parameters) {
        state_ = HealthState::Suspect;
        silent_ns_ = std::max<uint64_t>(now_ns, 1);
        until_ns_ = now_ns + margin_ns(parameters);
        return HealthAction::Pause;
    }
    void decay_flaps(uint64_t now_ns, const Parameters &parameters);
    void count_flap(uint64_t now_ns, const Parameters &parameters);

    HealthState state_ = HealthState::Healthy;
    bool slow_ = false;    // suspect for its rate: a success does not clear it
    bool proven_ = false;  // was connected once: from then on a new connection needs a canary
    bool encouraged_ = false;
    uint32_t slices_max_ = UINT32_MAX;
    uint32_t samples_ = 0;
    uint32_t flaps_q8_ = 0;
    uint32_t attempts_ = 0;  // failed probes since it was last healthy or encouraged
    uint32_t rebuilds_ = 0;  // as the last path, since the last success
    uint32_t jitter_ = 64;   // of 256, of the next probe; 64: none
    uint64_t deviation_ns_ = 0;
    uint64_t silent_ns_ = 0;
    uint64_t until_ns_ = 0;   // suspect: decided then
    uint64_t broken_ns_ = 0;  // last breakage or failed probe
    uint64_t decayed_ns_ = 0;
};

}  // namespace tent
