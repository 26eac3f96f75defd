"""The arithmetic of bench/reaction.py on counters whose answer is known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

from reaction import WINDOW_NS, Sample, react

MS = 1_000_000
CHANGE_NS, END_NS = 500 * MS, 1500 * MS
HIGH, LOW = 200, 25  # bytes per microsecond
SLICE = 64 << 10


def samples(*, late_ns: int = 0, slice_size: int = 1) -> list[Sample]:
    """Two rails; at CHANGE_NS the second one slows down. For `late_ns` the first one then only
    gets as much as the second, as if the work were still shared out evenly."""

    def moved(at_ns: int) -> tuple[int, int]:
        before = min(at_ns, CHANGE_NS) // 1000
        after = max(at_ns - CHANGE_NS, 0) // 1000
        even = min(after, late_ns // 1000)
        rates = (before * HIGH + even * LOW + (after - even) * HIGH, before * HIGH + after * LOW)
        return rates[0] // slice_size * slice_size, rates[1] // slice_size * slice_size

    return [
        Sample(at_ns, moved(at_ns), (3, 4 if at_ns <= CHANGE_NS else 2))
        for at_ns in range(0, END_NS + 50 * MS, 5 * MS)
    ]


def reaction_ms(given: list[Sample]) -> float:
    found = react(given, rail=1, begin_ns=CHANGE_NS, end_ns=END_NS, slice_size=SLICE)
    return found.reaction_ns / MS


def test_a_share_that_follows_at_once_takes_no_time() -> None:
    assert reaction_ms(samples()) == 0


def test_a_share_that_follows_late_takes_that_long_less_what_a_window_hides() -> None:
    late = reaction_ms(samples(late_ns=120 * MS))
    assert 120 - WINDOW_NS / MS / 3 < late <= 120


def test_settling_in_whole_slices_is_no_deviation() -> None:
    assert reaction_ms(samples(slice_size=SLICE)) <= 2


def test_a_share_that_is_off_again_has_not_followed() -> None:
    given = samples()
    # 100 ms after the change the first rail stands still for 150 ms.
    stop_ns, go_ns = CHANGE_NS + 100 * MS, CHANGE_NS + 250 * MS

    def held(at_ns: int, settled: int) -> int:
        return settled - HIGH * max(min(at_ns, go_ns) - stop_ns, 0) // 1000

    given = [Sample(s.time_ns, (held(s.time_ns, s.settled[0]), s.settled[1]), s.inflight)
             for s in given]  # fmt: skip
    assert 250 - WINDOW_NS / MS / 3 < reaction_ms(given) <= 250


def test_final_share_rate_and_bytes_in_flight_are_those_of_the_phase() -> None:
    found = react(samples(), rail=1, begin_ns=CHANGE_NS, end_ns=END_NS, slice_size=SLICE)
    assert found.share == pytest.approx(LOW / (HIGH + LOW), rel=1e-3)
    assert found.bytes_per_s == pytest.approx((HIGH + LOW) * 1e6, rel=1e-3)
    assert found.soon == pytest.approx(1, rel=1e-3)
    assert (found.held_bytes, found.held_later_bytes) == (4, 2)


def test_phases_too_short_to_judge_are_refused() -> None:
    with pytest.raises(ValueError, match="too few to judge"):
        react(samples(), rail=1, begin_ns=0, end_ns=100 * MS, slice_size=SLICE)
    with pytest.raises(ValueError, match="do not reach"):
        react(samples(), rail=1, begin_ns=CHANGE_NS, end_ns=END_NS + 500 * MS, slice_size=SLICE)
