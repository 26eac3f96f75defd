// A rail's or endpoint's rate: nominal where the plan names one, otherwise measured as bytes over
// busy time (time with work posted), smoothed. Integer arithmetic, one writer. The clock is the
// caller's.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tent {

class RateMeter {
  public:
    // nominal 0: unknown, then `prior` stands in until the first measurement.
    void init(uint64_t nominal_bytes_per_s, uint64_t prior_bytes_per_s) {
        nominal_ = nominal_bytes_per_s;
        rate_ = nominal_ ? nominal_ : std::max<uint64_t>(prior_bytes_per_s, 1);
    }

    void on_busy(uint64_t now_ns) { busy_since_ns_ = now_ns; }

    // bytes were completed; idle: nothing is posted any more.
    void on_settled(uint64_t bytes, uint64_t now_ns, bool idle) {
        bytes_ += bytes;
        uint64_t busy_ns = now_ns - busy_since_ns_;
        if (!idle && busy_ns < SAMPLE_NS && bytes_ < SAMPLE_BYTES) return;
        busy_ns_ += busy_ns;
        busy_since_ns_ = now_ns;
        if (bytes_ < SAMPLE_BYTES && busy_ns_ < SAMPLE_NS) return;
        if (busy_ns_ > 0) learn(bytes_, busy_ns_);
        bytes_ = 0;
        busy_ns_ = 0;
    }

    uint64_t bytes_per_s() const { return nominal_ ? nominal_ : rate_; }

  private:
    static constexpr uint64_t SAMPLE_NS = 1000 * 1000;
    static constexpr uint64_t SAMPLE_BYTES = 1 << 20;

    // Gain is the weight of the new sample: down fast (1/2), up slow (3/20); DESIGN.md section 5.
    void learn(uint64_t bytes, uint64_t busy_ns) {
        uint64_t sample =
            static_cast<uint64_t>(static_cast<unsigned __int128>(bytes) * 1000000000u / busy_ns);
        sample = std::max<uint64_t>(sample, 1);
        if (sample < rate_)
            rate_ -= (rate_ - sample) / 2;
        else
            rate_ += (sample - rate_) * 3 / 20;
        rate_ = std::max<uint64_t>(rate_, 1);
    }

    uint64_t nominal_ = 0, rate_ = 1, bytes_ = 0, busy_ns_ = 0, busy_since_ns_ = 0;
};

}  // namespace tent
