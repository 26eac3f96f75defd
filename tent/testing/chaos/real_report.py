"""What a real run did, for people and for machines.

Leans on the standard library. Must never decide: it holds what was seen, and `ok` is whether
nothing was wrong.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

BUCKET_NS = 100_000_000
BARS = " ▁▂▃▄▅▆▇█"
EVENTS_SHOWN = 40
# What differs between events of one kind.
NUMBER = re.compile(r"\b\d+ ms|:\d+\b")


@dataclass(frozen=True)
class Line:
    """Something that happened, in ns since the workload began."""

    time_ns: int
    what: str


@dataclass(frozen=True)
class Report:
    """Times are ns since the workload began."""

    name: str
    seed: int
    method: str  # how silence is made on this machine
    duration_ns: int
    bytes_ok: int
    statuses: dict[str, int]  # requests by terminal status
    refusals: dict[str, int]  # submits that were refused, by error
    latencies_ns: tuple[int, ...]  # of OK requests, sorted
    late_ms: tuple[str, ...]  # batches with a deadline: by how much it was missed
    samples: tuple[tuple[int, int, int], ...]  # (time, payload bytes so far, slices retried)
    faults: tuple[Line, ...]
    events: tuple[Line, ...]  # of both engines
    retried: int
    reopened: int
    rails: tuple[tuple[str, int], ...]
    violations: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.violations

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "ok": self.ok}, indent=2) + "\n"

    def to_text(self) -> str:
        seconds = max(self.duration_ns, 1) / 1e9
        lines = [
            f"plan: {self.name} (seed {self.seed}); {self.method}",
            f"moved {self.bytes_ok / 1e6:,.0f} MB in {seconds:.2f} s "
            f"({self.bytes_ok / 1e6 / seconds:,.0f} MB/s), "
            f"{self.retried} slices retried, the segment opened anew {self.reopened} times",
            "requests: " + (_counts(self.statuses) or "none"),
        ]
        if self.refusals:
            lines.append("submits refused: " + _counts(self.refusals))
        if self.latencies_ns:
            ms = [ns / 1e6 for ns in self.latencies_ns]
            lines.append(
                f"batches with OK requests took {statistics.median(ms):.1f} ms (median), "
                f"{ms[-1]:.1f} ms (longest)"
            )
        if self.late_ms:
            lines.append(f"deadlines missed by ms: {' '.join(self.late_ms[:20])}")
        lines += [f"{name}: {moved / 1e6:,.0f} MB" for name, moved in self.rails]
        lines.append(f"MB/s, one column per {BUCKET_NS // 1_000_000} ms: {self._timeline()}")
        lines += [f"  {_at(line)}" for line in self._lines()]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"VIOLATION: {text}" for text in self.violations]
        lines.append("no violation" if self.ok else f"{len(self.violations)} violations")
        return "\n".join(lines) + "\n"

    def _lines(self) -> list[Line]:
        """Faults and events in the order of time; events that say the same stand once."""
        counts: Counter[str] = Counter()
        first: dict[str, Line] = {}
        for line in self.events:
            kind = NUMBER.sub("", line.what)
            counts[kind] += 1
            first.setdefault(kind, line)
        events = [
            line if counts[kind] == 1 else Line(line.time_ns, f"{line.what} ({counts[kind]} such)")
            for kind, line in list(first.items())[:EVENTS_SHOWN]
        ]
        faults = [Line(line.time_ns, f"FAULT {line.what}") for line in self.faults]
        return sorted([*faults, *events], key=lambda line: (line.time_ns, line.what))

    def _timeline(self) -> str:
        rates = bucket_rates(self.samples)
        top = max(rates, default=0.0)
        if not top:
            return "nothing moved"
        bars = "".join(BARS[round(rate / top * (len(BARS) - 1))] for rate in rates)
        return f"|{bars}| (highest {top / 1e6:,.0f})"


def bucket_rates(samples: Sequence[tuple[int, int, int]]) -> list[float]:
    """Bytes per second in each bucket of BUCKET_NS."""
    ends: dict[int, int] = {}
    for time_ns, moved, _ in samples:
        ends[time_ns // BUCKET_NS] = moved
    if not ends:
        return []
    rates = []
    before = 0
    for bucket in range(max(ends) + 1):
        moved = ends.get(bucket, before)
        rates.append((moved - before) * 1e9 / BUCKET_NS)
        before = moved
    return rates


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _at(line: Line) -> str:
    return f"{line.time_ns / 1e6:9.1f} ms  {line.what}"
