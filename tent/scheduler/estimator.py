"""The scheduler's specification, first part: parameters, arithmetic, what is believed of a path.

As csrc/sched/{fixed,estimator}.h; model.py goes on with the pick. Leans on nothing. Must never
read a clock or use floating point.

The native fixed-point formats are part of the specification: rates are whole bytes per second,
a *pace* is their inverse in ns per byte with 32 fractional bits (Q32), every division rounds down.
"""

from __future__ import annotations

from dataclasses import dataclass

NS_PER_S = 10**9
TIME_NS_MAX = 1 << 60  # "never": 36 years
RATE_MAX = 1 << 56
U64_MAX = (1 << 64) - 1
DECAY_Q16, DECAY_STEPS_MAX = 5438, 256  # (1 - 2^(-1/8)) * 2^16; 32 half-lives
NORMAL, HIGH, LOW = 0, 1, 2  # classes


@dataclass(frozen=True)
class Parameters:
    """The plan's parameters that the scheduler reads, in bytes, ns and bytes per second."""

    slice_size: int = 1 << 20
    window_max: int = 16 << 20
    window_slices_min: int = 2
    tier_penalty_1: int = 1
    tier_penalty_2: int = 3
    tier_penalty_3: int = 10
    retries_max: int = 8
    rate_prior_gbps: int = 1_250_000_000
    slice_size_min: int = 64 << 10
    window_gain: int = 125
    gain_down: int = 500
    gain_up: int = 150
    rate_sample: int = 10_000
    base_latency_window: int = 10**9
    idle_half_life: int = 10**9
    class_weight_high: int = 16
    class_weight_normal: int = 4
    class_weight_low: int = 1
    low_slices_max: int = 1
    estimator: int = 1
    late_binding: int = 1
    ecf: int = 1
    end_game: int = 1

    def penalty(self, tier: int) -> int:
        return (self.tier_penalty_1, self.tier_penalty_2, self.tier_penalty_3)[min(tier, 3) - 1]

    def quantum(self, class_: int) -> int:
        """Bytes a class may bind per round."""
        weights = (self.class_weight_normal, self.class_weight_high, self.class_weight_low)
        return weights[class_] << 20


def pace_of(rate: int) -> int:
    return (NS_PER_S << 32) // rate


def wire_ns(size: int, pace: int) -> int:
    return min(size * pace >> 32, TIME_NS_MAX)


def scale(a: int, b: int, c: int) -> int:
    return min(a * b // c, U64_MAX)


class RateEstimator:
    """Wire rate: bytes over busy time. `nominal` 0: unknown, `prior` stands in until measured."""

    def __init__(self, nominal: int, prior: int) -> None:
        self.nominal = min(nominal, RATE_MAX)
        self.measured = self.nominal > 0
        self.rate = max(1, min(self.nominal or prior, RATE_MAX))
        self.peak = 0  # fastest rate ever believed: what an unknown nominal rate decays to
        self.sample_bytes = self.busy_ns = 0
        self.done_ns = self.decayed_ns = 0

    @property
    def pace(self) -> int:
        return pace_of(self.rate)

    def complete(self, size: int, posted_ns: int, now_ns: int, base_ns: int, p: Parameters) -> None:
        """A slice has ended. Its wire time began when the one before it had ended, or when it can
        have reached the wire itself: neither the queue before it nor an idle gap is counted."""
        if now_ns > self.done_ns and self.busy_ns > 0 and self.busy_ns >= p.rate_sample:
            if p.estimator:
                self.learn(scale(self.sample_bytes, NS_PER_S, self.busy_ns), p)
            self.sample_bytes = self.busy_ns = 0
        self.sample_bytes += size
        self.busy_ns += max(0, now_ns - max(self.done_ns, posted_ns + base_ns))
        self.done_ns = max(self.done_ns, now_ns)

    def learn(self, sample: int, p: Parameters) -> None:
        """Gain is the weight of the new sample: down fast, up slow; the first one counts whole."""
        sample = max(1, min(sample, RATE_MAX))
        if not self.measured:
            self.believe(sample)
        elif sample < self.rate:
            self.believe(self.rate - scale(self.rate - sample, p.gain_down, 1000))
        else:
            self.believe(self.rate + scale(sample - self.rate, p.gain_up, 1000))
        self.measured = True

    def decay(self, now_ns: int, p: Parameters) -> None:
        """Idle: back towards the nominal rate, an eighth of a half-life at a time."""
        step_ns = p.idle_half_life // 8
        since_ns = max(self.done_ns, self.decayed_ns)
        if step_ns == 0 or now_ns < since_ns + step_ns:
            return
        steps = (now_ns - since_ns) // step_ns
        self.decayed_ns = since_ns + steps * step_ns
        target = self.nominal or self.peak
        if target == 0:
            return
        rate = self.rate
        for _ in range(min(steps, DECAY_STEPS_MAX)):
            part = scale(abs(target - rate), DECAY_Q16, 1 << 16)
            rate += part if rate < target else -part
        self.believe(target if steps > DECAY_STEPS_MAX else rate)

    def believe(self, rate: int) -> None:
        self.rate = max(1, min(rate, RATE_MAX))
        self.peak = max(self.peak, self.rate)


class BaseLatency:
    """Windowed minimum of latency - bytes * pace, over two half windows."""

    def __init__(self) -> None:
        self.current: tuple[int, int] | None = None  # latency and size of the half window's best
        self.previous: tuple[int, int] | None = None
        self.begun_ns = self.seen_ns = self.ns = 0

    def complete(self, size: int, latency_ns: int, now_ns: int, pace: int, p: Parameters) -> None:
        if now_ns - self.begun_ns >= p.base_latency_window // 2:
            self.previous, self.current, self.begun_ns = self.current, None, now_ns
        self.seen_ns = now_ns
        sample = (latency_ns, size)
        if self.current is None or value(sample, pace) < value(self.current, pace):
            self.current = sample
        self.refresh(pace)

    def refresh(self, pace: int) -> None:
        """The best completions are kept, not their value: it follows when the rate changes."""
        bests = [value(best, pace) for best in (self.current, self.previous) if best]
        if bests:
            self.ns = max(0, min(bests))

    def expire(self, now_ns: int, p: Parameters) -> None:
        """Nothing seen for a whole window: unknown is 0, so that who was slow is tried again."""
        if self.current and now_ns - self.seen_ns >= p.base_latency_window:
            self.current = self.previous = None
            self.ns = 0


def value(best: tuple[int, int], pace: int) -> int:
    latency_ns, size = best
    return min(latency_ns, TIME_NS_MAX) - wire_ns(size, pace)
