"""The rows and checks of one way: what is asked of the engines and of their yardstick, in order.

Leans on the harness, ways.py and subject.py. Knows no transport. Must never measure one side
without the other close by: the machine changes under a long run.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import harness
from harness import LineProcess, Pace, Sample
from references import Reference
from report import Check, Report, Row, check_least, check_most, time_text
from shapes import FOOTPRINT_MIN, LATENCY, LATENCY_BLOCK, Shape, shapes
from subject import EnginePair, cold_opens
from ways import RATIO_BLOCK_MIN, Goals, Way

REQUESTS_BATCH = 1024
REQUESTS_OUTSTANDING = 8
SUBMIT_NS_WANTED = 50
SUBMIT_ROUNDS = 401
IDLE_PERCENT_WANTED = 1
OPEN_MS_WANTED = 20
CHECKS_RESERVE_S = 9.0
SAMPLE_OVERHEAD_S = 0.005


def wanted_of(goals: Goals, shape: Shape) -> float | None:
    """The ratio that a row is to reach."""
    if shape.cache:
        return goals.cache_ratio
    return goals.stream_ratio if shape.block >= RATIO_BLOCK_MIN else None


@dataclass
class Run:
    """Everything one way holds while it is measured."""

    name: str  # of the rows
    way: Way
    goals: Goals
    pace: Pace
    ours: EnginePair
    reference: Reference
    report: Report

    def check(self, check: Check) -> None:
        """Adds it, with the way's name ahead where a transport has several."""
        prefix = f"{self.way.name}: " if self.way.name else ""
        self.report.checks.append(replace(check, name=prefix + check.name))

    def streams(self) -> None:
        """All stream rows; the largest batches first, since those after them can be shortened."""
        ordered = shapes(cache=self.way.cache)
        left = sorted(ordered, key=lambda shape: -shape.size)
        rows: dict[Shape, Row] = {}
        each = 2 * self.pace.pairs + self.reference.calibration_samples()
        while left:
            shape = left.pop(0)
            samples = each * (len(left) + 1)
            reserve_s = CHECKS_RESERVE_S + samples * SAMPLE_OVERHEAD_S
            slice_ns = self.pace.slice_ns(samples, reserve_s=reserve_s)
            rows[shape] = self._stream(shape, slice_ns)
            print(".", end="", file=sys.stderr, flush=True)
        self.report.rows.extend(rows[shape] for shape in ordered)

    def _stream(self, shape: Shape, slice_ns: int) -> Row:
        text = self.reference.choose(shape, slice_ns // 2)
        pairs = harness.measure_pairs(
            lambda: self.ours.stream(shape, slice_ns),
            lambda: self.reference.stream(shape, slice_ns),
            pairs=self.pace.pairs,
        )
        return harness.compare(
            pairs,
            transport=self.name,
            op=shape.name,
            block=shape.block,
            batch=shape.batch,
            footprint=shape.footprint,
            reference=text,
            wanted=wanted_of(self.goals, shape),
        )

    def latency(self) -> None:
        pairs = harness.measure_pairs(
            lambda: self.ours.stream(LATENCY, self.pace.sample_ns),
            lambda: self.reference.latency(self.pace.sample_ns),
            pairs=self.pace.pairs,
        )
        self.report.rows.append(
            harness.compare(
                pairs,
                transport=self.name,
                op="write latency",
                block=LATENCY.block,
                batch=1,
                footprint=LATENCY.footprint,
                reference=self.reference.latency_text(),
                wanted=self.goals.latency_ratio,
                by_latency=True,
            )
        )
        if self.way.name:
            self.check(
                latency_check(pairs, self.reference.latency_text(), self.goals.latency_above_ns)
            )

    def facts(self) -> None:
        for name, measure in self.reference.extras(self.pace.sample_ns).items():
            found = harness.fact(name, [measure() for _ in range(3)])
            self.report.references.append(found)

    def rates(self) -> None:
        done = [
            self.ours.rate(
                LATENCY_BLOCK,
                REQUESTS_BATCH,
                REQUESTS_OUTSTANDING,
                FOOTPRINT_MIN,
                self.pace.sample_ns,
            )
            for _ in range(harness.PAIRS_MIN)
        ]
        rates = [s.bytes / LATENCY_BLOCK * 1e9 / s.elapsed_ns for s in done]
        cpu_ns = statistics.median(s.cpu_ns * LATENCY_BLOCK / s.bytes for s in done)
        self.check(
            check_least(
                "4 KiB write requests",
                statistics.median(rates),
                "1/s",
                least=self.goals.requests_per_s,
                note=f"batches of {REQUESTS_BATCH}, {REQUESTS_OUTSTANDING} outstanding, from C; "
                f"{min(rates):,.0f}..{max(rates):,.0f}, {cpu_ns:.0f} ns of CPU each",
            )
        )
        submits = self.ours.submit(LATENCY_BLOCK, REQUESTS_BATCH, FOOTPRINT_MIN, SUBMIT_ROUNDS)
        self._submit_check("submit, per request", "from C", submits)

    def _submit_check(self, name: str, note: str, submits: dict[str, int]) -> None:
        self.check(
            check_most(
                name,
                submits["cpu_p50_ns"] / REQUESTS_BATCH,
                "ns",
                most=SUBMIT_NS_WANTED,
                note=f"CPU time of the caller, columns of {REQUESTS_BATCH}, {note}; "
                f"p99 {submits['cpu_p99_ns'] / REQUESTS_BATCH:.0f} ns, "
                f"wall p50 {submits['wall_p50_ns'] / REQUESTS_BATCH:.0f} ns",
            )
        )

    def idle(self, duration_ns: int) -> None:
        idle = self.ours.idle(duration_ns)
        self.check(
            check_most(
                "idle engine",
                max(idle.initiator_percent, idle.target_percent),
                "% of a core",
                most=IDLE_PERCENT_WANTED,
                note=f"connected for {time_text(duration_ns)}; initiator "
                f"{idle.initiator_percent:.2f}, target {idle.target_percent:.2f}",
            )
        )

    def memory(self) -> None:
        initiator, target = self.ours.memory()
        self.check(
            check_most(
                "resident memory of a used engine",
                max(initiator, target) / 1e6,
                "MB",
                most=None,
                note=f"initiator {initiator / 1e6:.1f}, target {target / 1e6:.1f}",
            )
        )

    def opens(self, program: Path, plan: Path, count: int) -> None:
        opened = cold_opens(program, plan=plan, count=count)
        times = [o.open_ns / 1e6 for o in opened]
        self.check(
            check_most(
                "engine open",
                statistics.median(times),
                "ms",
                most=OPEN_MS_WANTED,
                note=f"{count} fresh processes, {min(times):.2f}..{max(times):.2f}; close "
                f"{statistics.median(o.close_ns for o in opened) / 1e6:.2f} ms, "
                f"{statistics.median(o.resident_bytes for o in opened) / 1e6:.1f} MB resident",
            )
        )

    def from_python(self, plan: Path, duration_ns: int) -> None:
        script = Path(__file__).resolve().with_name("python_submit.py")
        command = [sys.executable, str(script), str(plan), self.way.memory]
        with LineProcess(command) as python:
            python.answer()
            submits = python.ask(f"submit {LATENCY_BLOCK} {REQUESTS_BATCH} {SUBMIT_ROUNDS}")
            self._submit_check("submit, per request, from Python", "numpy", submits)
            rate = python.ask(
                f"rate {LATENCY_BLOCK} {REQUESTS_BATCH} {REQUESTS_OUTSTANDING} {duration_ns}"
            )
            self.check(
                Check(
                    "4 KiB write requests, from Python",
                    rate["requests"] * 1e9 / rate["elapsed_ns"],
                    "1/s",
                    None,
                    None,
                    "both engines in one process, numpy columns",
                )
            )


def latency_check(
    pairs: Sequence[tuple[Sample, Sample]], reference: str, most_ns: float | None
) -> Check:
    """How far our p50 is above the reference's: the median of the pairs' own differences."""
    above = [ours.p50_ns - theirs.p50_ns for ours, theirs in pairs]
    return check_most(
        "4 KiB write p50, above the reference",
        statistics.median(above),
        "ns",
        most=most_ns,
        note=f"{reference}; pairs {min(above)}..{max(above)}",
    )
