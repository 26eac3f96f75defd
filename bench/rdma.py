"""Compares the rdma transport with perftest over the same devices, and breaks its rails.

    python bench/rdma.py [--quick] [--json FILE] [--only NAME ...] [--rails A:B ...]

Both engines run on one machine, each with its own devices: rxaN and rxbN of the rig (`make
bench-rdma` boots it), or pairs of adapters that are cabled to each other. Leans on rdma_fabric,
subject and the harness. Must never shape or break the wire of a real adapter. docs/benchmarks.md
tells how to read the output.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import harness
from harness import BenchError, Sample, command
from rdma_fabric import Perftest, Rail, find_rails, shaped
from references import fastest
from report import KIB, MIB, Report, machine_facts
from shapes import Shape
from subject import EnginePair
from toolchain import compile_all
from transports import package_version

STREAM_WANTED = 0.95
LATENCY_WANTED = 1 / 1.5
TWO_RAILS_WANTED = 1.7
SHAPED_MBIT = 80
# 8 MiB of one request each; an emulated processor moves that in a fifth of a second.
BLOCK, BATCH = MIB, 8
SMALL = 4 * KIB
ARENA = 64 * MIB
# A processor that stands still for a while is no lost packet: software RoCE that sends again for it
# only makes it worse, and that of older kernels breaks messages then.
SOFT_PATIENCE = "set rdma.ack_timeout=20"
# How perftest waits for completions: it spins, or (where it can) sleeps until the device says so.
WAITS = {"write": ("",), "read": ("", "-e")}
NAMES = ("alone", "latency", "two", "faults")


@dataclass(frozen=True)
class Pace:
    """How much is moved for one sample."""

    pairs: int
    slice_ns: int
    count: int
    small: int

    @staticmethod
    def of(*, quick: bool) -> Pace:
        if quick:
            return Pace(harness.PAIRS_MIN, 600_000_000, 30, 200)
        return Pace(11, 1_500_000_000, 80, 1000)


def plans(rails: Sequence[Rail], *, behind: str = "", words: str = "") -> tuple[str, str]:
    """The initiator's and the target's. behind: the rail of the rung after rdma; words: of each
    rung."""

    soft = any(rail.a.software for rail in rails)

    def plan(names: Sequence[tuple[str, int]]) -> str:
        lines = [SOFT_PATIENCE] if soft else []
        lines += [f"rail {n} rdma {name} gid={gid}" for n, (name, gid) in enumerate(names)]
        numbers = " ".join(str(n) for n in range(len(names)))
        rung = ""
        if behind:
            lines.append(f"rail {len(names)} {behind}")
            rung = f" ; {behind.split()[0]}[{len(names)}]{words}"
        return "\n".join(["plan 1", *lines, f"route * : rdma[{numbers}]{words}{rung}"]) + "\n"

    return (
        plan([(rail.a.device, rail.a.gid) for rail in rails]),
        plan([(rail.b.device, rail.b.gid) for rail in rails]),
    )


class Bench:
    """What all parts share."""

    def __init__(self, folder: Path, driver: Path, rails: Sequence[Rail], pace: Pace) -> None:
        self.rails = rails
        self.pace = pace
        self._folder = folder
        self._driver = driver
        self.report = Report(head={})

    def pair(self, rails: Sequence[Rail]) -> EnginePair:
        mine, theirs = plans(rails)
        paths = [self._folder / f"plan-{side}-{len(rails)}" for side in "ab"]
        for path, text in zip(paths, (mine, theirs), strict=True):
            path.write_text(text, encoding="utf-8")
        return EnginePair(self._driver, plan=paths[0], arena=ARENA, target_plan=paths[1])

    @contextmanager
    def pairs(self, *wanted: Sequence[Rail]) -> Iterator[list[EnginePair]]:
        with ExitStack() as stack:
            found = []
            for rails in wanted:
                pair = self.pair(rails)
                stack.callback(pair.close)
                found.append(pair)
            yield found

    def row(
        self,
        name: str,
        ours: Callable[[], Sample],
        theirs: Callable[[], Sample],
        *,
        shape: Shape,
        reference: str,
        wanted: float | None,
        by_latency: bool = False,
    ) -> None:
        ours()  # the first one fills caches, tables and the neighbours'
        measured = harness.measure_pairs(ours, theirs, pairs=self.pace.pairs)
        self.report.rows.append(
            harness.compare(
                measured,
                transport="rdma",
                op=name,
                block=shape.block,
                batch=shape.batch,
                footprint=shape.footprint,
                reference=reference,
                wanted=wanted,
                by_latency=by_latency,
            )
        )

    # ---- the parts

    def alone(self) -> None:
        """One rail, large blocks."""
        perftest = Perftest(self.rails[0])
        with self.pairs(self.rails[:1]) as (ours,):
            for op in ("write", "read"):
                shape = Shape(op, BLOCK, BATCH)
                measure = partial(perftest.bandwidth, op, size=BLOCK, count=self.pace.count)
                form = fastest(WAITS[op], measure)
                self.row(
                    f"{op}, one rail",
                    partial(ours.stream, shape, self.pace.slice_ns),
                    partial(measure, form),
                    shape=shape,
                    reference=f"ib_{op}_bw {form}".rstrip(),
                    wanted=STREAM_WANTED,
                )

    def latency(self) -> None:
        """One small write at a time. ib_write_lat is half of a round trip, seen by looking at
        memory; a write of ours ends with its acknowledgement, as one of ib_write_bw does."""
        perftest = Perftest(self.rails[0])
        shape = Shape("write", SMALL, 1)
        count = self.pace.small
        depth_1 = partial(perftest.bandwidth, "write", size=SMALL, count=count, depth=1)
        with self.pairs(self.rails[:1]) as (ours,):
            form = fastest(WAITS["write"], depth_1)
            yardsticks: list[tuple[str, Callable[[], Sample], float | None]] = [
                (
                    "ib_write_lat, 4 KiB",
                    lambda: perftest.latency(size=SMALL, count=count),
                    LATENCY_WANTED,
                ),
                (f"ib_write_bw -t 1 {form}".rstrip() + ", mean", partial(depth_1, form), None),
            ]
            for text, theirs, wanted in yardsticks:
                self.row(
                    "write latency",
                    lambda: ours.stream(shape, self.pace.slice_ns),
                    theirs,
                    shape=shape,
                    reference=text,
                    wanted=wanted,
                    by_latency=True,
                )

    def two(self) -> None:
        """Two rails against one, both ours: at the wires' own speed and, where the wires are
        software, so slow that the processor is not what limits them."""
        if len(self.rails) < 2:
            raise BenchError("two rails against one needs two pairs of devices")
        rails = self.rails[:2]
        soft = any(rail.a.software for rail in rails)
        self._two("two rails", rails, None if soft else TWO_RAILS_WANTED)
        if soft:
            with shaped(rails, SHAPED_MBIT):
                self._two(f"two rails, {SHAPED_MBIT} Mbit/s each", rails, TWO_RAILS_WANTED)

    def _two(self, name: str, rails: Sequence[Rail], wanted: float | None) -> None:
        with self.pairs(rails, rails[:1]) as (both, one):
            for op in ("write", "read"):
                shape = Shape(op, BLOCK, BATCH)
                self.row(
                    f"{op}, {name}",
                    partial(both.stream, shape, self.pace.slice_ns),
                    partial(one.stream, shape, self.pace.slice_ns),
                    shape=shape,
                    reference="ours, one rail",
                    wanted=wanted,
                )

    def faults(self) -> None:
        """Only where the wires are software."""
        if not all(rail.a.software for rail in self.rails[:2]) or len(self.rails) < 2:
            self.report.notes.append("faults need two rails over software devices: left out")
            return
        from rdma_faults import FaultBench

        quick = self.pace.pairs == harness.PAIRS_MIN
        mine, theirs = plans(self.rails[:2], behind="tcp 127.0.0.1", words=" slice=256k")
        with FaultBench(
            self._folder, self.rails[:2], mine, theirs, rounds=1 if quick else 3
        ) as bench:
            bench.measure(self.report.checks)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs, coarser numbers")
    parser.add_argument("--json", metavar="FILE", type=Path, help="writes the result there as well")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument(
        "--rails", metavar="A:B", nargs="+", help="devices that are cabled; default: the rig's"
    )
    return parser.parse_args(arguments)


def measure(parsed: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Report:
    rails = find_rails(parsed.rails)
    job = EnginePair.job(folder)
    compile_all([job])
    bench = Bench(folder, job.output, rails, Pace.of(quick=parsed.quick))
    bench.report.head.update(
        format=2,
        version=package_version(),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        command="python bench/rdma.py " + " ".join(parsed.command),
        transport="rdma",
        quick=parsed.quick,
        machine=asdict(machine_facts()),
        rails=[f"{rail.a.device}:{rail.b.device}" for rail in rails],
    )
    for name in parsed.only:
        say(".")
        getattr(bench, name)()
    bench.report.notes.append(
        "ratio is the median of the pairs' own ratios (ours, reference, ours, ...), of latency "
        "reference / ours; perftest prints a mean for bandwidth"
    )
    if any(rail.a.software for rail in rails):
        bench.report.notes.append(
            "software RoCE: processors make and check every packet, so they, not wires, limit "
            "what is not shaped, and two rails have no more of them than one"
        )
    return bench.report


def main(arguments: Sequence[str] | None = None) -> int:
    return command(arguments, parse, measure, failures=(BenchError, OSError))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
