"""Compares scheduling strategies on simulated fabrics, each against the fluid lower bound T*.

    python bench/schedulers.py [--quick] [--ablation] [--json FILE] [--plot FILE]

Leans on scene (which measures one case), the table of fabrics and the installed package. Time is
virtual: rows are the same on every machine, and cases run side by side. docs/benchmarks.md tells
what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

from fabrics import BY_NAME, FABRICS, FabricSpec
from harness import BenchError
from report import (
    KIB,
    MIB,
    Check,
    check_least,
    check_most,
    checks_table,
    closing,
    document,
    machine_facts,
    size_text,
    table,
    time_text,
)
from scene import SLICE, Case, Row, measure, wall_ms

from tent import TentError

STRATEGIES = ("predictive", "round_robin", "static", "tent_paper")
OURS = "predictive"
MAIN_SIZE = 16 * MIB
OTHER_SLICES = (256 * KIB, MIB)
QUICK_SIZES = (64 * KIB, 2 * MIB, MAIN_SIZE)
BEHIND_MOST = 0.02
FLAPPING_P99_MOST = 0.4

# (least request size, requests, quick, warm-up, quick): the more bytes, the fewer.
_COUNTS = (
    (1024 * MIB, 4, 2, 2, 1),
    (256 * MIB, 16, 4, 4, 2),
    (16 * MIB, 200, 80, 20, 10),
    (0, 400, 150, 40, 20),
)
# What changes over time has to be met often enough for a 99th percentile.
_SPREAD_FACTOR = 2


@dataclass(frozen=True)
class Ablation:
    """One part of the scheduler switched, and the fabrics on which it should matter."""

    name: str
    fabrics: tuple[str, ...]
    settings: tuple[tuple[str, str], ...] = ()
    hedge: bool = False
    slice_bytes: int = SLICE


ABLATIONS = (
    Ablation("no estimator", ("lying", "flapping", "tiers"), (("estimator", "no"),)),
    Ablation("no late binding", ("lying", "flapping", "backlog"), (("late_binding", "no"),)),
    Ablation("no ecf", ("half", "tcp", "lying"), (("ecf", "no"),)),
    # Slices of 64 KiB are as small as the end game makes them.
    Ablation("no end game", ("half", "lying", "tcp"), (("end_game", "no"),), slice_bytes=MIB),
    Ablation("hedging", ("lying", "flapping"), hedge=True),
    Ablation("no idle decay", ("recovered", "lying"), (("idle_half_life", "0"),)),
)


def counts_of(fabric: FabricSpec, size: int, *, quick: bool) -> tuple[int, int]:
    """Requests to measure and to warm up with, per initiator."""
    _, full, few, warm, warm_few = next(row for row in _COUNTS if size >= row[0])
    requests, warmup = (few, warm_few) if quick else (full, warm)
    if fabric.spread_ns:
        requests *= _SPREAD_FACTOR
    # Many hosts make many requests together.
    return max(2, requests // fabric.initiators), max(1, warmup // fabric.initiators)


def plain_cases(
    fabrics: Iterable[FabricSpec], strategies: Sequence[str], *, quick: bool
) -> list[Case]:
    """Every fabric by every strategy; a quick run leaves sizes out."""
    cases = []
    for fabric in fabrics:
        for size in fabric.sizes:
            if (quick and size not in QUICK_SIZES) or not fabric.plain:
                continue
            requests, warmup = counts_of(fabric, size, quick=quick)
            cases += [
                Case(fabric.name, strategy, outstanding, size, requests, warmup)
                for outstanding in fabric.outstanding
                for strategy in strategies
            ]
    return cases


def slice_cases(fabrics: Iterable[FabricSpec], *, quick: bool) -> list[Case]:
    """Ours with larger slices, which its end game makes smaller near the end."""
    cases = []
    for fabric in fabrics:
        if MAIN_SIZE not in fabric.sizes or not fabric.plain:
            continue
        requests, warmup = counts_of(fabric, MAIN_SIZE, quick=quick)
        cases += [
            Case(
                fabric.name,
                OURS,
                1,
                MAIN_SIZE,
                requests,
                warmup,
                slice_bytes=slice_bytes,
            )
            for slice_bytes in OTHER_SLICES
        ]
    return cases


def ablation_cases(fabrics: Iterable[FabricSpec], *, quick: bool) -> list[Case]:
    """Ours with one part switched at a time, and whole where only this needs it."""
    known = {fabric.name for fabric in fabrics}
    cases: dict[Case, None] = {}
    for ablation in ABLATIONS:
        for fabric in (BY_NAME[name] for name in ablation.fabrics if name in known):
            main = (MAIN_SIZE,) if MAIN_SIZE in fabric.sizes else fabric.sizes
            for size in main if fabric.plain else fabric.sizes:
                requests, warmup = counts_of(fabric, size, quick=quick)
                for outstanding in fabric.outstanding:
                    whole = Case(
                        fabric.name,
                        OURS,
                        outstanding,
                        size,
                        requests,
                        warmup,
                        slice_bytes=ablation.slice_bytes,
                    )
                    cases[whole] = None
                    switched = replace(
                        whole,
                        settings=ablation.settings,
                        hedge=ablation.hedge,
                        variant=ablation.name,
                    )
                    cases[switched] = None
    return list(cases)


@dataclass
class SchedulerReport:
    """Everything a run says."""

    head: dict[str, object]
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return document(self.head, rows=self.rows, checks=self.checks, notes=self.notes)

    def to_text(self) -> str:
        plain = [row for row in self.rows if _is_plain(row)]
        parts = ["efficiency (p99) by strategy", strategies_table(plain)]
        if len(plain) < len(self.rows):
            parts += ["predictive, and what one thing changes", variants_table(self.rows)]
        parts += ["wanted vs got", checks_table(self.checks)]
        parts += closing(self.notes, self.checks)
        return "\n\n".join(parts) + "\n"


def rows_of(report: Mapping[str, object]) -> list[Row]:
    """The rows of a report that was written as JSON."""
    rows = report["rows"]
    assert isinstance(rows, list)
    names = {f.name for f in fields(Row)}
    return [
        Row(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k in names})
        for row in rows
    ]


def strategies_table(rows: Sequence[Row]) -> str:
    """One line per fabric, size and number outstanding; a column per strategy."""
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    body = []
    for (fabric, size, outstanding), group in _grouped(rows).items():
        slices = next(iter(group.values())).slice_bound_efficiency
        cells = [
            f"{group[s].efficiency:.3f} ({time_text(group[s].p99_ns)})" if s in group else "-"
            for s in strategies
        ]
        reach = "-" if slices is None else f"{slices:.3f}"
        body.append((fabric, size_text(size), str(outstanding), *cells, reach))
    return table(("fabric", "request", "outst.", *strategies, "whole slices"), body)


def variants_table(rows: Sequence[Row]) -> str:
    """Each row that is not plain beside the one it differs from in one thing."""
    by_identity = {_identity(row): row for row in rows}
    body = []
    for row in sorted(rows, key=lambda row: row.variant):
        if _is_plain(row):
            continue
        plain = replace(row, variant="") if row.variant else replace(row, slice_bytes=SLICE)
        base = by_identity.get(_identity(plain)) if plain != row else None
        body.append(
            (
                row.variant or ("larger slices" if row.slice_bytes > SLICE else "-"),
                row.fabric,
                size_text(row.request_bytes),
                size_text(row.slice_bytes),
                str(row.outstanding),
                f"{row.efficiency:.3f}",
                "-" if base is None else f"{base.efficiency:.3f}",
                time_text(row.p99_ns),
                "-" if base is None else time_text(base.p99_ns),
                size_text(row.hedged_bytes),
            )
        )
    head = ("variant", "fabric", "request", "slices", "outst.", "efficiency", "plain")
    return table((*head, "p99", "plain", "hedged"), body)


def checks_of(rows: Sequence[Row]) -> list[Check]:
    """What is wanted, as far as these rows can tell."""
    groups = _grouped([row for row in rows if _is_plain(row)])
    checks = []
    for fabric in FABRICS:
        if fabric.goal is None:
            continue
        for outstanding, least in ((1, fabric.goal.one), (4, fabric.goal.four)):
            row = groups.get((fabric.name, MAIN_SIZE, outstanding), {}).get(OURS)
            if row is not None:
                name = f"{fabric.name}: 16 MiB, {outstanding} outstanding"
                unit = "of the bound" if outstanding == 1 else "of capacity"
                checks.append(check_least(name, row.efficiency, unit, least=least))
    behind = []
    for key, group in groups.items():
        others = {s: row.efficiency for s, row in group.items() if s != OURS}
        if OURS in group and others:
            best = max(others, key=lambda s: others[s])
            behind.append((group[OURS].efficiency / others[best], key, best))
    if behind:
        value, (name, size, outstanding), best = min(behind)
        note = f"the worst: {name}, {size_text(size)}, {outstanding} outstanding, {best}"
        checks.append(
            check_least("predictive to the best other", value, "", least=1 - BEHIND_MOST, note=note)
        )
    flapping = groups.get(("flapping", MAIN_SIZE, 1), {})
    if OURS in flapping and "tent_paper" in flapping:
        value = flapping[OURS].p99_ns / flapping["tent_paper"].p99_ns
        name = "flapping: p99 to tent_paper's"
        checks.append(check_most(name, value, "", most=FLAPPING_P99_MOST))
    single = [row.efficiency_max for row in rows if row.outstanding == 1]
    if single:
        value = max(single)
        note = "more says that the bound or the simulation is wrong"
        checks.append(check_most("best single figure", value, "", most=1.0005, note=note))
    steady = [row.efficiency for row in rows if row.outstanding > 1]
    if steady:
        note = "more than what was under way at both ends says that something is counted twice"
        checks.append(check_most("best steady figure", max(steady), "", most=1.01, note=note))
    return checks


def _is_plain(row: Row) -> bool:
    """One of the comparison of strategies."""
    return not row.variant and row.slice_bytes == SLICE and BY_NAME[row.fabric].plain


def _group(row: Row) -> tuple[str, int, int]:
    return row.fabric, row.request_bytes, row.outstanding


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, int, int], dict[str, Row]]:
    groups: dict[tuple[str, int, int], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(_group(row), {})[row.strategy] = row
    return groups


def run(cases: Sequence[Case], *, jobs: int) -> tuple[list[Row], list[str]]:
    """Measures the cases side by side; rows in their order, and sentences on those that failed."""
    if jobs == 1:
        found = [attempt(case) for case in cases]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(attempt, cases))
    rows = [outcome for outcome in found if not isinstance(outcome, str)]
    return rows, [outcome for outcome in found if isinstance(outcome, str)]


def attempt(case: Case) -> Row | str:
    """The case's row, or why there is none."""
    try:
        return measure(case)
    except (BenchError, TentError) as error:
        what = f"{case.fabric}, {case.strategy} {case.variant}".rstrip()
        return f"{what}, {size_text(case.request_bytes)} x{case.outstanding} failed: {error}"


def wall_check() -> Check:
    """What simulating costs on this machine: one request over 8 rails."""
    case = Case("equal", OURS, 1, MAIN_SIZE, requests=15, warmup=5)
    return Check("real time to simulate 16 MiB over 8 rails", wall_ms(case), "ms", None, None)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    fabrics = [BY_NAME[name] for name in options.fabrics]
    begin_s = time.monotonic()
    report = SchedulerReport(_head(options))
    cases = plain_cases(fabrics, options.strategies, quick=options.quick)
    cases += slice_cases(fabrics, quick=options.quick)
    if options.ablation:
        cases += ablation_cases(fabrics, quick=options.quick)
    cases = list(dict.fromkeys(cases))
    # The longest first, so that no process ends with one of them alone.
    order = sorted(range(len(cases)), key=lambda i: -cases[i].request_bytes * cases[i].requests)
    rows, failed = run([cases[i] for i in order], jobs=options.jobs)
    place = {_identity(case): i for i, case in enumerate(cases)}
    report.rows = sorted(rows, key=lambda row: place[_identity(row)])
    report.checks = checks_of(report.rows)
    if not failed:
        report.checks.append(wall_check())
    took = time.monotonic() - begin_s
    report.notes = [*failed, f"{len(rows)} rows in {took:.0f} s, all times virtual, seed 1"]
    sys.stdout.write(report.to_text())
    if options.json:
        options.json.write_text(report.to_json(), encoding="utf-8")
    if options.plot:
        from plot import plot_rows  # matplotlib is an extra

        plot_rows([row for row in report.rows if _is_plain(row)], options.plot, size=MAIN_SIZE)
    return 1 if failed else 0


def _identity(item: Case | Row) -> tuple[str, str, str, int, int, int]:
    return (
        item.fabric,
        item.strategy,
        item.variant,
        item.outstanding,
        item.request_bytes,
        item.slice_bytes,
    )


def _head(options: argparse.Namespace) -> dict[str, object]:
    try:
        tent = version("tent")
    except PackageNotFoundError:
        tent = "not installed as a package"
    return {
        "benchmark": "schedulers",
        "tent": tent,
        "quick": options.quick,
        "slice_bytes": SLICE,
        "machine": asdict(machine_facts()),
        "fabrics": {name: BY_NAME[name].title for name in options.fabrics},
    }


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare scheduling strategies in simulation.")
    parser.add_argument("--quick", action="store_true", help="two sizes, fewer requests; < 45 s")
    parser.add_argument("--ablation", action="store_true", help="also switch parts off in turn")
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument("--plot", type=Path, help="draw the 16 MiB rows (.png or .svg)")
    names = list(BY_NAME)
    parser.add_argument("--fabrics", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="NAME"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="processes; default: all cores")
    options = parser.parse_args(arguments)
    if options.plot:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            parser.error("--plot needs matplotlib: pip install 'tent[bench]'")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
