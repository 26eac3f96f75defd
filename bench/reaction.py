"""How soon a rail's share follows a change of its rate: arithmetic on samples of counters.

Leans on the standard library only. Must never touch a clock or an engine.

The share over a window is what the rail settled in it, over what all rails settled. Windows reach
forward from the moment they are asked about, so that nothing from before the change counts. Bytes
settle in whole slices, hence a window that is one slice off is not off.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WINDOW_NS = 50_000_000
# To count as settled, the share must stay right for so long.
STAY_NS = 200_000_000
STEP_NS = 1_000_000
TOLERANCE = 0.2


@dataclass(frozen=True)
class Sample:
    """Counters at one time: payload bytes settled so far and bytes in flight, per rail."""

    time_ns: int
    settled: tuple[int, ...]
    inflight: tuple[int, ...]


@dataclass(frozen=True)
class Reaction:
    """What one change did."""

    reaction_ns: int
    """From the change until the share stays within TOLERANCE of its final one."""
    share: float
    """The final one: that of the second half of the time until the next change."""
    bytes_per_s: float
    """Of all rails in that second half."""
    soon: float
    """Bytes of all rails in the first STAY_NS, over what that rate gives."""
    held_bytes: int
    """In flight on the rail at the change."""
    held_later_bytes: int
    """In flight on it in that second half, median."""


def react(
    samples: Sequence[Sample], *, rail: int, begin_ns: int, end_ns: int, slice_size: int
) -> Reaction:
    """`begin_ns`: the change; `end_ns`: the next one. All of it must have been sampled."""
    if end_ns - begin_ns < 2 * STAY_NS + WINDOW_NS:
        raise ValueError(f"{(end_ns - begin_ns) / 1e6:.0f} ms between changes are too few to judge")
    curve = _Curve(samples)
    middle_ns = (begin_ns + end_ns) // 2
    moved = curve.moved(middle_ns, end_ns)
    total = max(sum(moved), 1.0)
    share = moved[rail] / total
    bytes_per_s = total * 1e9 / (end_ns - middle_ns)
    soon = sum(curve.moved(begin_ns, begin_ns + STAY_NS)) * 1e9 / (bytes_per_s * STAY_NS)

    right_since_ns = begin_ns
    for at_ns in range(begin_ns, end_ns - WINDOW_NS, STEP_NS):
        if at_ns - right_since_ns >= STAY_NS:
            break
        window = curve.moved(at_ns, at_ns + WINDOW_NS)
        expected = share * sum(window)
        if abs(window[rail] - expected) > TOLERANCE * expected + slice_size:
            right_since_ns = at_ns + STEP_NS
    return Reaction(
        reaction_ns=right_since_ns - begin_ns,
        share=share,
        bytes_per_s=bytes_per_s,
        soon=soon,
        held_bytes=curve.before(begin_ns).inflight[rail],
        held_later_bytes=round(
            median(s.inflight[rail] for s in samples if middle_ns <= s.time_ns <= end_ns)
        ),
    )


class _Curve:
    """Bytes settled as a function of time, linear between samples."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._times = [sample.time_ns for sample in samples]

    def before(self, at_ns: int) -> Sample:
        """The last sample that is not later."""
        index = bisect_right(self._times, at_ns)
        if index == 0:
            raise ValueError("the samples begin after the time asked about")
        return self._samples[index - 1]

    def moved(self, begin_ns: int, end_ns: int) -> list[float]:
        pairs = zip(self._settled(begin_ns), self._settled(end_ns), strict=True)
        return [after - before for before, after in pairs]

    def _settled(self, at_ns: int) -> list[float]:
        index = bisect_right(self._times, at_ns)
        if index == 0 or index == len(self._times):
            raise ValueError("the samples do not reach over the time asked about")
        left, right = self._samples[index - 1], self._samples[index]
        part = (at_ns - left.time_ns) / (right.time_ns - left.time_ns)
        pairs = zip(left.settled, right.settled, strict=True)
        return [before + part * (after - before) for before, after in pairs]
