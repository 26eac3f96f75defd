"""What a benchmark says: rows, checks, facts, the machine; as a table and as JSON.

Leans on the standard library only. Must never compute: harness.py does.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True)
class Row:
    """One line of the comparison. Ratio: 1.0 equal, above it ours is better."""

    transport: str
    op: str
    block: int
    batch: int
    threads: int
    bytes_per_s: float
    p50_ns: int
    p99_ns: int
    cpu_s_per_gb: float
    reference: str
    ratio: float
    ratio_min: float
    ratio_max: float
    pairs: int
    footprint: int
    reference_bytes_per_s: float
    reference_p50_ns: int
    reference_p99_ns: int
    reference_cpu_s_per_gb: float
    wanted: float | None = None
    ok: bool | None = None


@dataclass(frozen=True)
class Check:
    """One number with a goal of its own; wanted None: for information."""

    name: str
    value: float
    unit: str
    wanted: str | None
    ok: bool | None
    note: str = ""


@dataclass(frozen=True)
class Fact:
    """What a reference reached by itself."""

    name: str
    bytes_per_s: float
    p50_ns: int
    p99_ns: int


@dataclass
class Report:
    head: dict[str, object]
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    references: list[Fact] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return document(
            self.head,
            rows=self.rows,
            checks=self.checks,
            references=self.references,
            notes=self.notes,
        )

    def to_text(self) -> str:
        parts = [_rows_table(self.rows)]
        if self.checks:
            parts.append(checks_table(self.checks))
        if self.references:
            parts.append(_facts_table(self.references))
        missed = [
            f"{row.transport} {row.op} {size_text(row.block)} x{row.batch}"
            for row in self.rows
            if row.ok is False
        ]
        parts += closing(self.notes, self.checks, missed)
        return "\n\n".join(parts) + "\n"


def document(head: Mapping[str, object], **lists: Sequence[object]) -> str:
    """A report as JSON: its head, then each list under its name."""
    plain = {
        name: [
            asdict(item) if is_dataclass(item) and not isinstance(item, type) else item
            for item in items
        ]
        for name, items in lists.items()
    }
    return json.dumps({**head, **plain}, indent=2) + "\n"


def closing(notes: Sequence[str], checks: Sequence[Check], missed: Sequence[str] = ()) -> list[str]:
    """How a report's text ends: notes, and the goals of rows (`missed`) and checks not met."""
    names = [*missed, *(check.name for check in checks if check.ok is False)]
    return [
        *(f"note: {note}" for note in notes),
        "not met: " + ", ".join(names) if names else "every goal is met",
    ]


def check_most(name: str, value: float, unit: str, *, most: float | None, note: str = "") -> Check:
    """A check that wants less than `most`; None: no goal."""
    wanted = None if most is None else f"< {most:g} {unit}"
    return Check(name, value, unit, wanted, None if most is None else value < most, note)


def check_least(
    name: str, value: float, unit: str, *, least: float | None, note: str = ""
) -> Check:
    """A check that wants at least `least`; None: no goal."""
    wanted = None if least is None else f">= {least:g} {unit}"
    return Check(name, value, unit, wanted, None if least is None else value >= least, note)


@dataclass(frozen=True)
class Machine:
    """What a reader needs to judge the numbers; nothing that names the machine."""

    cpu: str
    cores: int
    kernel: str
    load_average: float
    python: str


def machine_facts(*, root: Path = Path("/")) -> Machine:
    model = "unknown"
    for line in (root / "proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return Machine(
        cpu=model,
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        load_average=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
    )


def size_text(size: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def time_text(time_ns: float) -> str:
    for unit, name in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
        if time_ns >= unit:
            return f"{time_ns / unit:.3g} {name}"
    return f"{time_ns:.0f} ns"


def _rate_text(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.3f} GB/s"


def goal_text(wanted: float | None, ok: bool | None) -> str:
    return "-" if wanted is None else f">= {wanted:.2f} {'ok' if ok else 'MISSED'}"


def _rows_table(rows: Sequence[Row]) -> str:
    head = (
        "transport",
        "op",
        "block",
        "batch",
        "threads",
        "rate",
        "p50",
        "p99",
        "cpu s/GB",
        "reference",
        "its rate",
        "its p50",
        "its cpu",
        "ratio",
        "min..max",
        "wanted",
    )
    body = [
        (
            row.transport,
            row.op,
            size_text(row.block),
            str(row.batch),
            str(row.threads),
            _rate_text(row.bytes_per_s),
            time_text(row.p50_ns),
            time_text(row.p99_ns),
            f"{row.cpu_s_per_gb:.3f}",
            row.reference,
            _rate_text(row.reference_bytes_per_s),
            time_text(row.reference_p50_ns),
            f"{row.reference_cpu_s_per_gb:.3f}",
            f"{row.ratio:.2f}",
            f"{row.ratio_min:.2f}..{row.ratio_max:.2f}",
            goal_text(row.wanted, row.ok),
        )
        for row in rows
    ]
    return table(head, body)


def checks_table(checks: Sequence[Check]) -> str:
    def verdict(ok: bool | None) -> str:
        return "-" if ok is None else "ok" if ok else "MISSED"

    body = [
        (
            c.name,
            f"{c.value:,.4g}" if c.value < 1000 else f"{c.value:,.0f}",
            c.unit,
            c.wanted or "-",
            verdict(c.ok),
            c.note,
        )
        for c in checks
    ]
    return table(("check", "value", "unit", "wanted", "", "note"), body)


def _facts_table(facts: Sequence[Fact]) -> str:
    body = [
        (f.name, _rate_text(f.bytes_per_s), time_text(f.p50_ns), time_text(f.p99_ns)) for f in facts
    ]
    return table(("reference alone", "rate", "p50", "p99"), body)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in (head, *body)
    ]
    return "\n".join(lines)
