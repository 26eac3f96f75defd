"""What the rail comparison says: rows of rails, changes of a rate, their goals; table and JSON.

Leans on report for the tables and on reaction for the facts of a change. Must never measure:
rails.py does.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from reaction import STAY_NS, Reaction
from report import (
    KIB,
    Check,
    check_most,
    checks_table,
    closing,
    document,
    goal_text,
    table,
)

RATIO_WANTED = 0.95
DROP_MS_WANTED = 50
RISE_MS_WANTED = 500


@dataclass(frozen=True)
class Row:
    """One set of rails in one direction: all rails together over the sum of each alone."""

    rails: str
    op: str
    slice: int
    strategy: str
    bytes_per_s: float
    alone_bytes_per_s: tuple[float, ...]
    sum_bytes_per_s: float
    ratio: float
    ratio_min: float
    ratio_max: float
    rounds: int
    shares: tuple[float, ...]
    shares_ideal: tuple[float, ...]
    cpu_busy: float
    """Of the machine while all rails ran, others included; near 1 the rails are not the limit."""
    wanted: float
    ok: bool


@dataclass(frozen=True)
class Change:
    """One change of a rail's rate in mid-run."""

    op: str
    slice: int
    strategy: str
    rail: int
    from_mbit: int
    to_mbit: int
    reaction: Reaction
    sum_mbit: int


@dataclass
class Report:
    head: dict[str, object]
    rows: list[Row] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return document(
            self.head,
            rows=self.rows,
            changes=self.changes,
            checks=self.checks,
            notes=self.notes,
        )

    def to_text(self) -> str:
        parts = []
        if self.rows:
            parts.append(_rows_table(self.rows))
        if self.checks:
            parts.append(checks_table(self.checks))
        missed = [f"{row.rails} {row.op}" for row in self.rows if not row.ok]
        parts += closing(self.notes, self.checks, missed)
        return "\n\n".join(parts) + "\n"


def _gbit(bytes_per_s: float) -> str:
    return f"{bytes_per_s * 8e-9:.3f}"


def _percent(shares: Sequence[float]) -> str:
    return "/".join(f"{100 * share:.0f}" for share in shares)


def _rows_table(rows: Sequence[Row]) -> str:
    head = (
        "rails Mbit/s",
        "op",
        "slice",
        "Gbit/s",
        "sum of each alone",
        "ratio",
        "min..max",
        "wanted",
        "share %",
        "ideal %",
        "cpu %",
    )
    body = [
        (
            row.rails,
            row.op,
            f"{row.slice // KIB} KiB",
            _gbit(row.bytes_per_s),
            f"{_gbit(row.sum_bytes_per_s)} = {' + '.join(map(_gbit, row.alone_bytes_per_s))}",
            f"{row.ratio:.3f}",
            f"{row.ratio_min:.3f}..{row.ratio_max:.3f}",
            goal_text(row.wanted, row.ok),
            _percent(row.shares),
            _percent(row.shares_ideal),
            f"{100 * row.cpu_busy:.0f}",
        )
        for row in rows
    ]
    return table(head, body)


def change_checks(op: str, changes: Sequence[Change], held: int) -> list[Check]:
    def milliseconds(values: Sequence[int]) -> tuple[float, str]:
        times = [value / 1e6 for value in values]
        return statistics.median(times), f"{min(times):.0f}..{max(times):.0f}"

    checks = []
    for word, low, most in (("drop", True, DROP_MS_WANTED), ("rise", False, RISE_MS_WANTED)):
        mine = [change for change in changes if (change.to_mbit < change.from_mbit) == low]
        found = [change.reaction for change in mine]
        value, spread = milliseconds([each.reaction_ns for each in found])
        rate = statistics.median(each.bytes_per_s for each in found)
        note = (
            f"{mine[0].from_mbit} -> {mine[0].to_mbit} Mbit/s, {len(found)} times, {spread} ms; "
            f"final share {100 * statistics.median(each.share for each in found):.0f} %, then all "
            f"rails {_gbit(rate)} of {mine[0].sum_mbit / 1000:g} Gbit/s, in the first "
            f"{STAY_NS // 1_000_000} ms {statistics.median(each.soon for each in found):.2f} of it"
        )
        checks.append(
            check_most(f"{op}: share follows a {word}", value, "ms", most=most, note=note)
        )
    drops = [change for change in changes if change.to_mbit < change.from_mbit]
    low_mbit = drops[0].to_mbit
    inflight = max(change.reaction.held_bytes for change in drops)
    later = max(change.reaction.held_later_bytes for change in drops)
    checks.append(
        Check(
            f"{op}: in flight on the rail at a drop",
            inflight / KIB,
            "KiB",
            None,
            None,
            f"at most; {inflight / (low_mbit * 125):.0f} ms at {low_mbit} Mbit/s; afterwards "
            f"{later // KIB} KiB, {held // KIB} KiB of it in the kernel",
        )
    )
    return checks


def plain_checks(held: dict[int, int]) -> list[Check]:
    return [
        Check(
            f"plain TCP: send queue at {rate} Mbit/s",
            size / KIB,
            "KiB",
            None,
            None,
            f"one connection, the kernel's own size: {size / (rate * 125):.0f} ms",
        )
        for rate, size in held.items()
    ]
