"""What a broken rail cost and when it was back: arithmetic on samples of counters.

Leans on the standard library only. Must never touch a clock or an engine.

A sample is (time_ns, payload bytes settled per rail so far, ...). Rates are taken over windows that
reach forward from the moment asked about, so that nothing from before it counts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

STEP_NS = 5_000_000
BACK_WINDOW_NS = 100_000_000
FLAP_WINDOW_NS = 500_000_000
BACK_SHARE = 0.9


def settled_at(samples: Sequence[Any], at_ns: int) -> list[float]:
    """Bytes per rail, linear between samples."""
    times = [sample[0] for sample in samples]
    index = bisect_right(times, at_ns)
    if index == 0 or (index == len(times) and times[-1] < at_ns):
        raise ValueError("the samples do not reach over the time asked about")
    if index == len(times):
        return list(samples[-1][1])
    left, right = samples[index - 1], samples[index]
    part = (at_ns - left[0]) / (right[0] - left[0])
    return [
        before + part * (after - before) for before, after in zip(left[1], right[1], strict=True)
    ]


def rate(samples: Sequence[Any], begin_ns: int, end_ns: int) -> list[float]:
    """Bytes per second per rail in that time."""
    pairs = zip(settled_at(samples, begin_ns), settled_at(samples, end_ns), strict=True)
    return [(after - before) * 1e9 / (end_ns - begin_ns) for before, after in pairs]


def ideal_ns(*, length: int, moved: float, rates: Sequence[float], broken: int) -> float:
    """Time of a write of `length` bytes of which `moved` went over all rails and the rest over all
    but the broken one, each at the rate it has alone."""
    rest = sum(each for rail, each in enumerate(rates) if rail != broken)
    return moved * 1e9 / sum(rates) + (length - moved) * 1e9 / rest


def first_after(times: Sequence[int], at_ns: int) -> int | None:
    """From `at_ns` to the first of the sorted times that is not before it; None: there is none."""
    index = bisect_left(times, at_ns)
    return None if index == len(times) else times[index] - at_ns


def resprayed(samples: Sequence[Any], at_ns: int) -> int | None:
    """From `at_ns` until the counter of retried slices has grown; None: it did not."""
    before = max((sample[2] for sample in samples if sample[0] <= at_ns), default=0)
    return first_after([s[0] for s in samples if s[2] > before], at_ns)


def back_ns(
    samples: Sequence[Any], *, rail: int, healed_ns: int, share_of: float, end_ns: int
) -> int | None:
    """From the heal until the rail carries BACK_SHARE of `share_of` (bytes per second) over a
    window ahead and over the next one as well; None: never before `end_ns`."""
    for at_ns in range(healed_ns, end_ns - 2 * BACK_WINDOW_NS, STEP_NS):
        middle_ns = at_ns + BACK_WINDOW_NS
        windows = ((at_ns, middle_ns), (middle_ns, middle_ns + BACK_WINDOW_NS))
        if all(rate(samples, *window)[rail] >= BACK_SHARE * share_of for window in windows):
            return at_ns - healed_ns
    return None


def worst_window(samples: Sequence[Any], begin_ns: int, end_ns: int) -> float:
    """Bytes per second of all rails in the worst window of FLAP_WINDOW_NS."""
    starts = range(begin_ns, end_ns - FLAP_WINDOW_NS, STEP_NS)
    return min(sum(rate(samples, at_ns, at_ns + FLAP_WINDOW_NS)) for at_ns in starts)
