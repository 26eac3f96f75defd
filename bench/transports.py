"""Compares a transport of ours with what the machine can do by hand, in one run.

    python bench/transports.py --transport tcp [--quick] [--json FILE]

Leans on the harness, the references and the installed package. Adding a transport is one entry in
TRANSPORTS; the rows and checks below are the same for all. docs/benchmarks.md tells how to read
the output.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import harness
from harness import BenchError, LineProcess, Pace
from references import Reference, SocketReference
from report import KIB, MIB, Check, Report, Row, check_least, check_most, machine_facts, time_text
from subject import EnginePair, cold_opens
from toolchain import Job, compile_all

BLOCKS = (4 * KIB, 64 * KIB, MIB, 16 * MIB)
BATCHES = (1, 32)
OPS = ("write", "read")
FOOTPRINT_MIN = 32 * MIB  # beyond the private caches; blocks rotate through it
RATIO_WANTED = 0.95
RATIO_BLOCK_MIN = MIB
LATENCY_RATIO_WANTED = 1 / 1.3
LATENCY_BLOCK = 4 * KIB

REQUESTS_BATCH = 1024
REQUESTS_OUTSTANDING = 8
REQUESTS_PER_S_WANTED = 300_000
SUBMIT_NS_WANTED = 50
SUBMIT_ROUNDS = 401
IDLE_PERCENT_WANTED = 1
OPEN_MS_WANTED = 20

QUICK_TOTAL_S = 35.0  # of the 45 s promised; the rest is for a machine that is busy
CHECKS_RESERVE_S = 9.0
SAMPLE_OVERHEAD_S = 0.005


@dataclass(frozen=True)
class Transport:
    """What differs between transports: the plan, the yardstick, how many connections are usual."""

    plan: Callable[[int], str]
    connections_option: str | None
    connections_default: int
    reference_job: Callable[[Path], Job]
    reference: Callable[[Path, int, int], Reference]


def _tcp_plan(connections: int) -> str:
    return f"plan 1\nset tcp.connections={connections}\nrail 0 tcp 127.0.0.1\nroute * : tcp[0]\n"


def _socket_reference(program: Path, connections: int, arena: int) -> Reference:
    return SocketReference(program, connections=connections, arena=arena)


TRANSPORTS = {
    "tcp": Transport(
        plan=_tcp_plan,
        connections_option="tcp.connections",
        connections_default=1,  # the plugin's own default
        reference_job=SocketReference.job,
        reference=_socket_reference,
    ),
}


@dataclass(frozen=True)
class Shape:
    """One stream row."""

    op: str
    block: int
    batch: int

    @property
    def footprint(self) -> int:
        return max(self.block * self.batch, FOOTPRINT_MIN)


def shapes() -> list[Shape]:
    return [Shape(op, block, batch) for block in BLOCKS for batch in BATCHES for op in OPS]


@dataclass
class Run:
    """Everything one invocation holds."""

    name: str
    pace: Pace
    ours: EnginePair
    reference: Reference
    report: Report

    def streams(self) -> None:
        """All stream rows; the largest batches first, since those after them can be shortened."""
        left = sorted(shapes(), key=lambda shape: -shape.block * shape.batch)
        rows: dict[Shape, Row] = {}
        each = 2 * self.pace.pairs + self.reference.calibration_samples()
        while left:
            shape = left.pop(0)
            samples = each * (len(left) + 1)
            reserve_s = CHECKS_RESERVE_S + samples * SAMPLE_OVERHEAD_S
            slice_ns = self.pace.slice_ns(samples, reserve_s=reserve_s)
            rows[shape] = self._stream(shape, slice_ns)
            print(".", end="", file=sys.stderr, flush=True)
        self.report.rows.extend(rows[shape] for shape in shapes())

    def _stream(self, shape: Shape, slice_ns: int) -> Row:
        where = (shape.op, shape.block, shape.batch, shape.footprint)
        text = self.reference.choose(*where, slice_ns // 2)
        pairs = harness.measure_pairs(
            lambda: self.ours.stream(*where, slice_ns),
            lambda: self.reference.stream(*where, slice_ns),
            pairs=self.pace.pairs,
        )
        return harness.compare(
            pairs,
            transport=self.name,
            op=shape.op,
            block=shape.block,
            batch=shape.batch,
            footprint=shape.footprint,
            reference=text,
            wanted=RATIO_WANTED if shape.block >= RATIO_BLOCK_MIN else None,
        )

    def latency(self) -> None:
        pairs = harness.measure_pairs(
            lambda: self.ours.stream("write", LATENCY_BLOCK, 1, FOOTPRINT_MIN, self.pace.sample_ns),
            lambda: self.reference.latency(LATENCY_BLOCK, FOOTPRINT_MIN, self.pace.sample_ns),
            pairs=self.pace.pairs,
        )
        self.report.rows.append(
            harness.compare(
                pairs,
                transport=self.name,
                op="write latency",
                block=LATENCY_BLOCK,
                batch=1,
                footprint=FOOTPRINT_MIN,
                reference=self.reference.latency_text(),
                wanted=LATENCY_RATIO_WANTED,
                by_latency=True,
            )
        )

    def facts(self) -> None:
        for name, measure in self.reference.extras(self.pace.sample_ns).items():
            self.report.references.append(harness.fact(name, [measure() for _ in range(3)]))

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
        self.report.checks.append(
            check_least(
                "4 KiB write requests",
                statistics.median(rates),
                "1/s",
                least=REQUESTS_PER_S_WANTED,
                note=f"batches of {REQUESTS_BATCH}, {REQUESTS_OUTSTANDING} outstanding, from C; "
                f"{min(rates):,.0f}..{max(rates):,.0f}",
            )
        )
        submits = self.ours.submit(LATENCY_BLOCK, REQUESTS_BATCH, FOOTPRINT_MIN, SUBMIT_ROUNDS)
        self._submit_check("submit, per request", "from C", submits)

    def _submit_check(self, name: str, note: str, submits: dict[str, int]) -> None:
        self.report.checks.append(
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
        self.report.checks.append(
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
        self.report.checks.append(
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
        self.report.checks.append(
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
        command = [sys.executable, str(script), str(plan)]
        with LineProcess(command) as python:
            python.answer()
            submits = python.ask(f"submit {LATENCY_BLOCK} {REQUESTS_BATCH} {SUBMIT_ROUNDS}")
            self._submit_check("submit, per request, from Python", "numpy", submits)
            rate = python.ask(
                f"rate {LATENCY_BLOCK} {REQUESTS_BATCH} {REQUESTS_OUTSTANDING} {duration_ns}"
            )
            self.report.checks.append(
                Check(
                    "4 KiB write requests, from Python",
                    rate["requests"] * 1e9 / rate["elapsed_ns"],
                    "1/s",
                    None,
                    None,
                    "both engines in one process, numpy columns",
                )
            )


def plan_connections(text: str, option: str | None) -> int | None:
    """Connections per endpoint as the plan says, None when it does not."""
    if option is None:
        return None
    found = re.findall(rf"^\s*set\s+{re.escape(option)}\s*=\s*(\d+)", text, flags=re.MULTILINE)
    return int(found[-1]) if found else None


def choose_plan(arguments: argparse.Namespace, transport: Transport) -> tuple[str, int]:
    """The plan's text and its connections, which both sides will have."""
    wanted: int | None = arguments.connections
    if arguments.plan is None:
        connections = transport.connections_default if wanted is None else wanted
        return transport.plan(connections), connections
    text = Path(arguments.plan).read_text(encoding="utf-8")
    said = plan_connections(text, transport.connections_option)
    if said is not None and wanted is not None and said != wanted:
        raise BenchError(
            f"the plan sets {transport.connections_option}={said}, --connections says {wanted}: "
            "the two sides must be equal, drop one of them"
        )
    if said is None and wanted is not None and transport.connections_option is not None:
        text = text.rstrip("\n") + f"\nset {transport.connections_option}={wanted}\n"
    return text, said or wanted or transport.connections_default


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--transport", choices=sorted(TRANSPORTS), default="tcp")
    parser.add_argument("--quick", action="store_true", help="ends within 45 s, coarser numbers")
    parser.add_argument("--json", metavar="FILE", type=Path, help="writes the result there as well")
    parser.add_argument("--plan", metavar="FILE", type=Path, help="plan for both engines")
    parser.add_argument("--connections", metavar="N", type=int, help="per endpoint, on both sides")
    return parser.parse_args(arguments)


def package_version() -> str:
    try:
        return version("tent")
    except PackageNotFoundError:
        raise BenchError(
            "the package 'tent' is not installed in this environment: "
            "install it first (pip install .)"
        ) from None


def measure(arguments: argparse.Namespace, folder: Path, started_s: float) -> Report:
    transport = TRANSPORTS[arguments.transport]
    text, connections = choose_plan(arguments, transport)
    plan = folder / "plan"
    plan.write_text(text, encoding="utf-8")
    ours_job, reference_job = EnginePair.job(folder), transport.reference_job(folder)
    compile_all([ours_job, reference_job])
    arena = max(2 * FOOTPRINT_MIN, *(shape.footprint for shape in shapes()))
    quick: bool = arguments.quick
    pace = Pace(
        sample_ns=80_000_000 if quick else 300_000_000,
        pairs=harness.PAIRS_MIN if quick else 11,
        deadline_s=started_s + (QUICK_TOTAL_S if quick else 600.0),
    )
    machine = machine_facts()
    report = Report(
        head={
            "format": 1,
            "version": package_version(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "command": "python bench/transports.py " + " ".join(arguments.command),
            "transport": arguments.transport,
            "quick": quick,
            "connections": connections,
            "plan": text,
            "machine": asdict(machine),
        }
    )
    reference = transport.reference(reference_job.output, connections, arena)
    try:
        ours = EnginePair(ours_job.output, plan=plan, arena=arena)
        try:
            run = Run(arguments.transport, pace, ours, reference, report)
            run.latency()
            run.streams()
            run.facts()
            run.rates()
            run.memory()
            run.idle(2_000_000_000 if quick else 10_000_000_000)
        finally:
            ours.close()
    finally:
        reference.close()
    run.opens(ours_job.output, plan, 7)
    run.from_python(plan, pace.sample_ns)
    report.notes.append(
        "rates are medians over pairs (ours, reference, ours, ...), ratio is the median of the "
        "pairs' ratios, min..max their spread; p50 and p99 are times of a whole batch"
    )
    load, cores = machine.load_average, machine.cores
    if load > cores / 2:
        report.notes.append(
            f"the machine was busy at the start (load {load:.1f} on {cores} cores): threads that "
            "spin then hold up the process they wait for; run again when it is quiet"
        )
    report.notes.append(f"took {time.monotonic() - started_s:.1f} s with compilation")
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    started_s = time.monotonic()
    parsed = parse(arguments)
    parsed.command = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="tent-bench-") as folder:
            report = measure(parsed, Path(folder), started_s)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    print(file=sys.stderr)
    print(report.to_text(), end="")
    if parsed.json is not None:
        parsed.json.write_text(report.to_json(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
