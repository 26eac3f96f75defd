"""An explanation of the scheduler as the text a person reads.

Leans on the facts of tent.types alone, so that a saved explanation can be told as well. Must never
decide anything itself: which candidate won, and each one's verdict, is the engine's word.
"""

from __future__ import annotations

from itertools import groupby

from tent.types import Candidate, Explanation, Strategy, Verdict
from tent.units import format_rate, format_size, format_time

_NEVER_NS = 1 << 62
"""What the scheduler's arithmetic holds for a time that never comes."""

_VERDICTS = {
    Verdict.CHOSEN: "chosen",
    Verdict.SLOWER: "slower",
    Verdict.FULL: "full",
    Verdict.AWAITED: "full, awaited",
    Verdict.PASSED_OVER: "open, passed over",
    Verdict.FARTHER: "farther tier, not earlier",
    Verdict.NOT_READY: "not ready",
    Verdict.LATER_RUNG: "later rung",
    Verdict.UNREACHABLE: "never came up, left out",
}
_HEADER = (
    "tier",
    "rail",
    "state",
    "in flight",
    "on rail",
    "at peer",
    "rate",
    "base",
    "window",
    "done in",
    "penalty",
    "score",
    "verdict",
)
_VIA = "by"
"""Heads a further column, where a transport says which of its ways it would take."""
_LEFT = ("rail", "state", "verdict", _VIA)
"""Columns of words; the others are figures."""


def render(explanation: Explanation) -> str:
    """The plan's row, a line per candidate, and a sentence on what decided; ends in a newline."""
    lines = [_title(explanation), f"  {explanation.row}"]
    if explanation.rung >= 0:
        lines.append(
            f"rung {explanation.rung}, strategy {explanation.strategy.name.lower()}; first slice "
            f"{format_size(explanation.slice_bytes)}, waiting with this request "
            f"{format_size(explanation.backlog_bytes)}"
        )
    if " use " in explanation.row:
        lines.append(_given(explanation))
    if explanation.candidates:
        lines += ["", *_table(explanation)]
    return "\n".join([*lines, "", _conclusion(explanation)]) + "\n"


def _given(explanation: Explanation) -> str:
    """What the row gives the request beside the ladder."""
    given = [f"in class {explanation.class_.name.lower()}"]
    if explanation.deadline_ns:
        given.append(f"to end within {format_time(explanation.deadline_ns)}")
    if explanation.integrity:
        given.append("checked")
    return "travels " + ", ".join(given)


def _title(explanation: Explanation) -> str:
    row = "no row" if explanation.route < 0 else f"row {explanation.route}"
    return f"{row} of plan generation {explanation.generation}"


# ---- the table ----------------------------------------------------------------------------------


def _table(explanation: Explanation) -> list[str]:
    rows = [_cells(candidate, explanation) for candidate in explanation.candidates]
    header: tuple[str, ...] = _HEADER
    if any(candidate.via for candidate in explanation.candidates):
        header = (*_HEADER, _VIA)
        rows = [(*row, c.via) for row, c in zip(rows, explanation.candidates, strict=True)]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        aligned = (
            cell.ljust(width) if name in _LEFT else cell.rjust(width)
            for name, cell, width in zip(header, cells, widths, strict=True)
        )
        return "  " + "  ".join(aligned).rstrip()

    lines = [line(header)]
    several = len({candidate.rung for candidate in explanation.candidates}) > 1
    paired = zip(explanation.candidates, rows, strict=True)
    for rung, members in groupby(paired, key=lambda pair: pair[0].rung):
        if several:
            lines.append(f"rung {rung}")
        lines += [line(cells) for _, cells in members]
    return lines


def _cells(candidate: Candidate, explanation: Explanation) -> tuple[str, ...]:
    ready = candidate.verdict not in (Verdict.NOT_READY, Verdict.UNREACHABLE)
    return (
        str(candidate.tier),
        _rails(candidate),
        candidate.state.name.lower(),
        format_size(candidate.inflight_bytes),
        format_size(candidate.inflight_local_bytes),
        format_size(candidate.inflight_remote_bytes),
        format_rate(candidate.rate_bytes_per_s),
        format_time(candidate.latency_ns_base),
        format_size(candidate.window_bytes) if ready else "-",
        _time(candidate.predicted_ns) if ready else "-",
        f"x{candidate.penalty}",
        _time(candidate.score_ns) if ready else "-",
        _verdict(candidate, explanation),
    )


def _rails(candidate: Candidate) -> str:
    return f"{candidate.transport} {candidate.rail} -> {candidate.remote_rail}"


def _time(ns: int) -> str:
    return "never" if ns >= _NEVER_NS else format_time(ns)


def _verdict(candidate: Candidate, explanation: Explanation) -> str:
    if candidate.verdict is Verdict.SLOWER and explanation.strategy in (
        Strategy.ROUND_ROBIN,
        Strategy.STATIC,
    ):
        return "not its turn"
    if candidate.verdict is Verdict.SLOWER and _ties(candidate, explanation):
        return "as quick, but later in the plan"
    if candidate.verdict is Verdict.FULL and _has_room(candidate, explanation):
        return "takes no more now"
    return _VERDICTS[candidate.verdict]


def _ties(candidate: Candidate, explanation: Explanation) -> bool:
    """The first of equals is taken."""
    if explanation.winner < 0:
        return False
    return candidate.score_ns == explanation.candidates[explanation.winner].score_ns


def _has_room(candidate: Candidate, explanation: Explanation) -> bool:
    """A full endpoint whose window is not: its transport refused, or the class has its share."""
    after = candidate.inflight_bytes + explanation.slice_bytes
    return candidate.inflight_bytes == 0 or after <= candidate.window_bytes


# ---- the sentence -------------------------------------------------------------------------------


def _conclusion(explanation: Explanation) -> str:
    if explanation.winner >= 0:
        return _won(explanation, explanation.candidates[explanation.winner])
    if explanation.rung >= 0:
        return _waits(explanation)
    if explanation.candidates:
        return "No endpoint is ready: the request waits for one, and fails when none comes back."
    if explanation.row.startswith("(own memory"):
        return "The memory is this engine's own: no rail is needed."
    if explanation.row.endswith(" : none"):
        return "Such a request fails with TENT_E_NO_PATH: the plan refuses it."
    return "Such a request fails with TENT_E_NO_PATH: the plan needs a route that it can take."


def _won(explanation: Explanation, winner: Candidate) -> str:
    chosen = f"{_rails(winner)} is chosen"
    if explanation.strategy is Strategy.ROUND_ROBIN:
        return f"{chosen}: it is its turn."
    if explanation.strategy is Strategy.STATIC:
        return f"{chosen}: by nominal speeds its share is due next."
    others = [
        candidate
        for candidate in explanation.candidates
        if candidate.rung == winner.rung and candidate is not winner
    ]
    open_ones = [candidate for candidate in others if candidate.verdict is Verdict.SLOWER]
    sentence = f"{chosen}: done in {_finish(winner)}"
    if open_ones:
        second = min(open_ones, key=lambda candidate: candidate.score_ns)
        if _ties(second, explanation):
            sentence += f", as on {_rails(second)}, which stands later in the plan"
        else:
            sentence += f"; the next best, {_rails(second)}, would take {_finish(second)}"
    else:
        sentence += "; no other takes it now" if others else "; there is no other"
    quicker = [
        candidate
        for candidate in others
        if candidate.verdict is Verdict.FULL and candidate.predicted_ns < winner.predicted_ns
    ]
    if quicker:
        sentence += f"; {_list(quicker)} would be quicker, but is not waited for"
    return sentence + "."


def _waits(explanation: Explanation) -> str:
    awaited = [c for c in explanation.candidates if c.verdict is Verdict.AWAITED]
    passed_over = [c for c in explanation.candidates if c.verdict is Verdict.PASSED_OVER]
    if not awaited or not passed_over:
        return "The slice waits: no endpoint that is ready takes more now."
    return (
        f"The slice waits for {_list(awaited)}: full, but sooner done with all that waits than "
        f"{_rails(passed_over[0])}, the best open one, with this slice alone "
        f"({_time(passed_over[0].predicted_ns)})."
    )


def _finish(candidate: Candidate) -> str:
    if candidate.penalty == 1:
        return _time(candidate.predicted_ns)
    return (
        f"{_time(candidate.predicted_ns)} (with the penalty of tier {candidate.tier} "
        f"{_time(candidate.score_ns)})"
    )


def _list(candidates: list[Candidate]) -> str:
    return ", ".join(_rails(candidate) for candidate in candidates)
