// What the scheduler believes of a path: its wire rate (bytes over busy time, EWMA) and its base
// latency (windowed minimum). DESIGN.md section 5. Integer arithmetic, one writer; the clock is the
// caller's and may stand still or jump. Leans on the plan's parameters. Must never learn from a
// slice that failed, was cancelled or hedged: such slices are not shown to it.
#pragma once

#include "plan/parameters.h"
#include "sched/fixed.h"

namespace tent {

class RateEstimator {
  public:
    // nominal: port speed, the smaller of both ends; 0: unknown, then `prior` stands in until the
    // first measurement, and the fastest rate ever believed takes the place of the nominal one.
    void init(uint64_t nominal_bytes_per_s, uint64_t prior_bytes_per_s) {
        nominal_ = std::min(nominal_bytes_per_s, RATE_MAX);
        measured_ = nominal_ != 0;
        set(nominal_ ? nominal_ : std::clamp<uint64_t>(prior_bytes_per_s, 1, RATE_MAX));
        peak_ = measured_ ? rate_ : 0;
    }

    uint64_t bytes_per_s() const { return rate_; }
    uint64_t pace() const { return pace_; }
    uint64_t nominal() const { return nominal_; }
    bool known() const { return measured_; }  // told or measured, no longer the prior

    // A slice posted at posted_ns has completed. Its wire time began when the one before it had
    // ended, or when it can have reached the wire itself: posting to wire takes the base latency.
    // So neither the queue in front of it nor an idle gap is counted. Completions seen at one
    // instant belong to one sample, which is closed by the next later one.
    void complete(uint64_t bytes, uint64_t posted_ns, uint64_t now_ns, uint64_t base_ns,
                  const Parameters &parameters) {
        if (now_ns > done_ns_ && busy_ns_ > 0 && busy_ns_ >= parameters.rate_sample_ns) {
            if (parameters.estimator) learn(parameters);
            bytes_ = busy_ns_ = 0;
        }
        uint64_t begin_ns = std::max(done_ns_, posted_ns + base_ns);
        bytes_ += bytes;
        if (now_ns > begin_ns) busy_ns_ += now_ns - begin_ns;
        done_ns_ = std::max(done_ns_, now_ns);
    }

    // Nothing is posted: the belief goes back to the nominal rate, in steps of an eighth of the
    // half-life. Each step takes 1 - 2^(-1/8) of the difference.
    void decay(uint64_t now_ns, const Parameters &parameters) {
        uint64_t step_ns = parameters.idle_half_life_ns / 8;
        uint64_t since_ns = std::max(done_ns_, decayed_ns_);
        if (step_ns == 0 || now_ns < since_ns + step_ns) return;
        uint64_t steps = (now_ns - since_ns) / step_ns;
        decayed_ns_ = since_ns + steps * step_ns;
        uint64_t target = nominal_ ? nominal_ : peak_;
        if (target == 0 || rate_ == target) return;
        for (uint64_t i = 0; i < std::min<uint64_t>(steps, DECAY_STEPS_MAX); i++) {
            uint64_t gap = rate_ < target ? target - rate_ : rate_ - target;
            uint64_t part = scale(gap, DECAY_Q16, 1 << 16);
            rate_ = rate_ < target ? rate_ + part : rate_ - part;
        }
        set(steps > DECAY_STEPS_MAX ? target : rate_);
    }

  private:
    static constexpr uint64_t DECAY_Q16 = 5438;       // (1 - 2^(-1/8)) * 2^16
    static constexpr uint64_t DECAY_STEPS_MAX = 256;  // 32 half-lives: nothing is left

    void set(uint64_t rate) {
        rate_ = std::clamp<uint64_t>(rate, 1, RATE_MAX);
        pace_ = pace_of(rate_);
        peak_ = std::max(peak_, rate_);
    }

    // Gain is the weight of the new sample: down fast, up slow.
    void learn(const Parameters &parameters) {
        uint64_t sample = std::clamp<uint64_t>(scale(bytes_, NS_PER_S, busy_ns_), 1, RATE_MAX);
        if (!measured_)
            set(sample);
        else if (sample < rate_)
            set(rate_ - scale(rate_ - sample, parameters.gain_down, 1000));
        else
            set(rate_ + scale(sample - rate_, parameters.gain_up, 1000));
        measured_ = true;
    }

    uint64_t nominal_ = 0, rate_ = 1, pace_ = pace_of(1), peak_ = 0;
    uint64_t bytes_ = 0, busy_ns_ = 0;  // of the sample under way
    uint64_t done_ns_ = 0, decayed_ns_ = 0;
    bool measured_ = false;
};

// What a completion takes beside its bytes' wire time: the windowed minimum over completions of
// latency - bytes * pace. The latency and bytes of the best completion are kept, not their
// difference, so that the minimum follows when the rate turns out to be another. Two half windows.
class BaseLatency {
  public:
    // Time a slice of `bytes` took from post to completion.
    void complete(uint64_t bytes, uint64_t latency_ns, uint64_t now_ns, uint64_t pace,
                  const Parameters &parameters) {
        if (now_ns - begun_ns_ >= parameters.base_latency_window_ns / 2) {
            previous_ = current_;
            current_ = {};
            begun_ns_ = now_ns;
        }
        seen_ns_ = now_ns;
        Best sample{latency_ns, bytes};
        if (!current_.bytes || value(sample, pace) < value(current_, pace)) current_ = sample;
        refresh(pace);
    }
    // The pace has changed.
    void refresh(uint64_t pace) {
        int64_t ns = INT64_MAX;
        if (current_.bytes) ns = value(current_, pace);
        if (previous_.bytes) ns = std::min(ns, value(previous_, pace));
        if (ns != INT64_MAX) ns_ = static_cast<uint64_t>(std::max<int64_t>(ns, 0));
    }
    // Nothing was seen for a whole window: the minimum over it is unknown, taken as 0, so that an
    // endpoint that was slow once is tried again. True when something was forgotten.
    bool expire(uint64_t now_ns, const Parameters &parameters) {
        if (!current_.bytes || now_ns - seen_ns_ < parameters.base_latency_window_ns) return false;
        current_ = previous_ = {};
        ns_ = 0;
        return true;
    }
    uint64_t ns() const { return ns_; }

  private:
    struct Best {
        uint64_t latency_ns = 0, bytes = 0;
    };
    static int64_t value(const Best &best, uint64_t pace) {
        return static_cast<int64_t>(std::min(best.latency_ns, TIME_NS_MAX)) -
               static_cast<int64_t>(wire_ns(best.bytes, pace));
    }

    Best current_, previous_;
    uint64_t begun_ns_ = 0, seen_ns_ = 0, ns_ = 0;
};

}  // namespace tent
