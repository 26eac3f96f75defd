"""What the failover benchmark says: one figure per claim, its goal, its rounds; table and JSON.

Leans on report for the table. Must never measure: failover.py does.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from report import Check, checks_table, closing, document


@dataclass(frozen=True)
class Figure:
    """One claim: the value of each round, and what is wanted of the worst of them. None among the
    values: it did not happen in that round."""

    name: str
    values: tuple[float | None, ...]
    unit: str
    most: float | None = None
    least: float | None = None

    @staticmethod
    def of(
        name: str,
        values: Sequence[float | None],
        unit: str,
        *,
        most: float | None = None,
        least: float | None = None,
    ) -> Figure:
        return Figure(name, tuple(values), unit, most, least)

    @staticmethod
    def ms(name: str, values_ns: Sequence[int | None], *, most: float | None) -> Figure:
        """From nanoseconds."""
        values = tuple(None if value is None else value / 1e6 for value in values_ns)
        return Figure(name, values, "ms", most)

    @property
    def ok(self) -> bool | None:
        if self.most is None and self.least is None:
            return None
        return all(
            value is not None
            and (self.most is None or value <= self.most)
            and (self.least is None or value >= self.least)
            for value in self.values
        )

    def check(self, note: str, ok: bool | None) -> Check:
        """A row of the table: the median, the spread in the note."""
        known = [value for value in self.values if value is not None]
        wanted = None
        if self.most is not None:
            wanted = f"<= {self.most:g} {self.unit}"
        elif self.least is not None:
            wanted = f">= {self.least:g} {self.unit}"
        words = [note]
        if len(known) > 1:
            words.append(f"{min(known):.3g}..{max(known):.3g}")
        if len(known) < len(self.values):
            words.append(f"{len(self.values) - len(known)} of {len(self.values)} never")
        return Check(
            name=self.name,
            value=statistics.median(known) if known else float("nan"),
            unit=self.unit,
            wanted=wanted,
            ok=self.ok if ok is None else ok,
            note="; ".join(word for word in words if word),
        )


@dataclass
class Report:
    head: dict[str, object]
    figures: list[Figure] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)

    def add(self, figure: Figure, *, note: str = "", ok: bool | None = None) -> None:
        self.figures.append(figure)
        self.checks.append(figure.check(note, ok))

    def missed(self, what: str) -> None:
        """A figure that could not be taken because something did not happen as promised."""
        self.checks.append(Check(what.partition(":")[0], float("nan"), "", "-", False, what))

    def to_json(self) -> str:
        return document(
            self.head,
            checks=self.checks,
            figures=self.figures,
            raw=self.raw,
            notes=self.notes,
        )

    def to_text(self) -> str:
        return "\n\n".join([checks_table(self.checks), *closing(self.notes, self.checks)]) + "\n"
