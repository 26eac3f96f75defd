"""Compares a transport of ours with what the machine can do by hand, in one run.

    python bench/transports.py --transport tcp [--quick] [--json FILE]
    python bench/transports.py --transport shm [--way mapped|attach|ring] [--quick] [--json FILE]
    python bench/transports.py --transport rdma [words of rdma.py]

Leans on ways.py (transports, their plans and yardsticks), rows.py and the installed package.
docs/benchmarks.md tells how to read the output.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

import harness
from harness import BenchError, Pace
from references import Reference
from report import Report, machine_facts
from rows import Run
from shapes import arena_size
from subject import EnginePair, EngineReference
from toolchain import Job, compile_all
from ways import TRANSPORTS, Goals, Setting, Way, choose_plan, choose_ways

# Of the 45 s promised for a way; the rest is for a machine that is busy.
QUICK_TOTAL_S = 35.0
TOTAL_S = 600.0
RIG_LIMIT_S = 1200


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--transport",
        choices=sorted({*TRANSPORTS, "rdma"}),
        default="tcp",
        help="rdma has words of its own: rdma.py --help",
    )
    parser.add_argument("--way", metavar="WAY", help="of shm: mapped, attach or ring; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="ends within 45 s for each way, coarser numbers"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="writes the result there as well")
    parser.add_argument("--plan", metavar="FILE", type=Path, help="plan for both engines")
    parser.add_argument("--connections", metavar="N", type=int, help="per endpoint, on both sides")
    parser.add_argument(
        "--workers", metavar="N", type=int, default=0, help="workers of an engine, 0: its default"
    )
    parser.add_argument(
        "--against-workers",
        metavar="N",
        type=int,
        help="the reference is the same engine with N workers; no checks",
    )
    return parser.parse_args(arguments)


def package_version() -> str:
    try:
        return version("tent")
    except PackageNotFoundError:
        raise BenchError(
            "the package 'tent' is not installed in this environment: "
            "install it first (pip install .)"
        ) from None


@dataclass(frozen=True)
class Bench:
    """What all ways of one invocation share."""

    arguments: argparse.Namespace
    folder: Path
    driver: Path
    report: Report

    def measure(self, way: Way, started_s: float) -> None:
        """One way from its engines' start to their end; the checks that need others after it."""
        name = f"{self.arguments.transport} {way.name}".rstrip()
        text, connections = choose_plan(self.arguments, TRANSPORTS[self.arguments.transport], way)
        plan = self.folder / f"plan-{way.name or 'only'}"
        plan.write_text(text, encoding="utf-8")
        quick: bool = self.arguments.quick
        pace = Pace(
            sample_ns=80_000_000 if quick else 300_000_000,
            pairs=harness.PAIRS_MIN if quick else 11,
            deadline_s=started_s + (QUICK_TOTAL_S if quick else TOTAL_S),
        )
        ours = self._pair(way, plan, self.arguments.workers)
        try:
            pages = ours.pages()
            setting = Setting(connections=connections, arena=arena_size(), page_kib=pages[0])
            reference = self._reference(way, plan, setting)
            try:
                self._say(way, text, connections, pages, reference.page_kib())
                self._rows(Run(name, way, self._goals(way), pace, ours, reference, self.report))
            finally:
                reference.close()
        finally:
            ours.close()
        if self.arguments.against_workers is None:
            run = Run(name, way, way.goals, pace, ours, reference, self.report)
            run.opens(self.driver, plan, 7)
            run.from_python(plan, pace.sample_ns)

    def _pair(self, way: Way, plan: Path, workers: int) -> EnginePair:
        return EnginePair(
            self.driver, plan=plan, arena=arena_size(), memory=way.memory, workers=workers
        )

    def _goals(self, way: Way) -> Goals:
        return way.goals if self.arguments.against_workers is None else Goals(stream_ratio=None)

    def _reference(self, way: Way, plan: Path, setting: Setting) -> Reference:
        workers: int | None = self.arguments.against_workers
        if workers is None:
            return way.reference(way.reference_job(self.folder).output, setting)
        return EngineReference(
            self._pair(way, plan, workers),
            text=f"engine, {workers} worker{'' if workers == 1 else 's'}",
        )

    def _rows(self, run: Run) -> None:
        run.latency()
        run.streams()
        if self.arguments.against_workers is not None:
            return
        run.facts()
        run.rates()
        run.memory()
        run.idle(2_000_000_000 if self.arguments.quick else 10_000_000_000)

    def _say(
        self,
        way: Way,
        text: str,
        connections: int,
        pages: tuple[int, int],
        reference_page_kib: int | None,
    ) -> None:
        ways = self.report.head["ways"]
        assert isinstance(ways, list)
        ways.append(
            {
                "name": way.name,
                "plan": text,
                "connections": connections,
                "memory": way.memory,
                "page_kib": {"ours": pages, "reference": reference_page_kib},
            }
        )
        kinds = {*pages, *([] if reference_page_kib is None else [reference_page_kib])}
        if len(kinds) > 1:
            self.report.notes.append(
                f"{way.name or 'engine'}: memory has different pages (initiator {pages[0]} KiB, "
                f"target {pages[1]} KiB, reference {reference_page_kib} KiB): ratios are not fair"
            )


def measure(arguments: argparse.Namespace, folder: Path, started_s: float) -> Report:
    ways = choose_ways(arguments.transport, arguments.way)
    driver = EnginePair.job(folder)
    jobs: set[Job] = {driver, *(way.reference_job(folder) for way in ways)}
    compile_all(sorted(jobs, key=lambda job: str(job.output)))
    machine = machine_facts()
    report = Report(
        head={
            "format": 2,
            "version": package_version(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "command": "python bench/transports.py " + " ".join(arguments.command),
            "transport": arguments.transport,
            "quick": arguments.quick,
            "workers": arguments.workers,
            "machine": asdict(machine),
            "ways": [],
        }
    )
    bench = Bench(arguments, folder, driver.output, report)
    for number, way in enumerate(ways):
        bench.measure(way, started_s if number == 0 else time.monotonic())
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


def is_rdma(given: Sequence[str]) -> bool:
    return "--transport=rdma" in given or ("--transport", "rdma") in pairwise(given)


def rdma(given: Sequence[str]) -> int:
    """rdma.py where there are devices, else the same in the rig. Its yardsticks are other programs
    and its rails other devices on each side, so it shares the rows and not the run."""
    words = [word for word in given if word not in ("--transport", "rdma", "--transport=rdma")]
    script = [sys.executable, str(Path(__file__).resolve().with_name("rdma.py")), *words]
    if not any(Path("/sys/class/infiniband").glob("*")):
        rig = [sys.executable, str(Path(__file__).resolve().parents[1] / "tests/rdma/rig"), "run"]
        if "--json" in script[:-1]:
            place = script.index("--json") + 1
            script[place] = str(Path(script[place]).resolve())
            rig += ["--share", str(Path(script[place]).parent)]
        script = [*rig, "--limit", str(RIG_LIMIT_S), "--", *script]
    return subprocess.run(script, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    started_s = time.monotonic()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if is_rdma(given):
        return rdma(given)
    parsed = parse(given)
    parsed.command = given
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
