"""Measures what a broken rail, a silent one, a flapping one and a dead or frozen peer cost.

    python bench/failover.py [--quick] [--json FILE] [--only NAME ...] [--set NAME=VALUE ...]

Two network namespaces joined by two rails of 1600 Mbit/s, an engine in each; needs root and
iproute2. Every figure is held against rates measured in the same run. Leans on tent.testing.netns,
the harness and the installed package. Must never send a byte outside of its own namespaces.
docs/benchmarks.md tells how to read the output.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from failover_math import (
    BACK_SHARE,
    BACK_WINDOW_NS,
    FLAP_WINDOW_NS,
    back_ns,
    first_after,
    ideal_ns,
    rate,
    resprayed,
    worst_window,
)
from failover_report import Figure, Report
from harness import BenchError, LineProcess, command
from rails import Settings, cpu_ticks
from report import MIB, machine_facts
from transports import package_version

from tent.testing.netns import SILENT_LOSS, Rails, RailsError

RATES = (1600, 1600)
BROKEN = 1
DEPTH = 64 * MIB
ALONE_DEPTH = 32 * MIB
HERE = Path(__file__).resolve().parent
FAULTS = ("link down", "silent loss")
NOTICED = ("ENDPOINT_SUSPECT", "ENDPOINT_FAILED", "RAIL_DOWN")
FLAP_NS = 100_000_000


@dataclass(frozen=True)
class Pace:
    """Sizes and durations."""

    length: int
    rounds: int
    warm_ns: int
    measure_ns: int
    flap_ns: int
    back_ns: int
    stops: int

    @staticmethod
    def of(*, quick: bool) -> Pace:
        second = 1_000_000_000
        if quick:
            return Pace(256 * MIB, 1, second // 4, second // 2, 3 * second, 2 * second, 2)
        return Pace(512 * MIB, 3, second // 2, second, 10 * second, 3 * second, 5)


class Bench:
    """Two processes, one in each namespace, and the rails between them."""

    def __init__(
        self, rails: Rails, settings: Settings, pace: Pace, key_file: Path, rates: Sequence[float]
    ) -> None:
        """rates: bytes per second that each rail alone was seen to carry."""
        self.rails = rails
        self.pace = pace
        self.rates = rates
        self._settings = settings
        self._key_file = key_file
        self._children: list[LineProcess] = []
        self._descriptor = ""
        rails.up(RATES)
        self.target = self._child("b")
        self.initiator = self._child("a")

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        while self._children:
            child = self._children.pop()
            child.signal(signal.SIGCONT)
            child.close()

    def _child(self, side: str) -> LineProcess:
        script = [sys.executable, str(HERE / "failover_end.py"), str(self._key_file)]
        child = LineProcess([*self.rails.prefix(side), *script])
        self._children.append(child)
        return child

    @staticmethod
    def ask(child: LineProcess, do: str, **values: Any) -> dict[str, Any]:
        return child.ask(json.dumps({"do": do, **values}))

    @contextmanager
    def connected(self, used: Sequence[int], *, warm: bool = True, size: int = 0) -> Iterator[None]:
        """Fresh engines on these rails, having moved something; both closed afterwards."""
        plan, size = self._settings.plan, size or self.pace.length
        listen = f"{self.rails.address('b', used[0])}:0"
        served = {"plan": plan(self.rails, "b", used), "listen": listen, "size": size}
        self.ask(self.target, "serve", **served)
        self._descriptor = self.ask(self.target, "descriptor")["descriptor"]
        mine = {"plan": plan(self.rails, "a", used), "size": size}
        self.ask(self.initiator, "connect", descriptor=self._descriptor, **mine)
        if warm:
            self.stream(self.pace.warm_ns // 4, self.pace.warm_ns)
        yield
        self.ask(self.initiator, "close")
        self.ask(self.target, "close")

    def stream(self, warm_ns: int, measure_ns: int, *, depth: int = DEPTH) -> list[float]:
        """Bytes per second of each rail under a deep stream of writes."""
        words = {"op": "write", "depth": depth, "warm_ns": warm_ns, "measure_ns": measure_ns}
        done = self.ask(self.initiator, "stream", **words)
        return [moved * 1e9 / done["elapsed_ns"] for moved in done["bytes"]]

    def watched(
        self, measure_ns: int, steps: Sequence[tuple[int, Callable[[], None]]]
    ) -> tuple[list[Any], list[int]]:
        """A deep stream of writes, during which each step is taken at its time after the warm-up;
        gives the samples and when each step was begun."""
        words = {"op": "write", "depth": DEPTH, "warm_ns": 0, "measure_ns": measure_ns}
        begun_ns = self.ask(self.initiator, "watch", **words)["begun_ns"]
        times = []
        for after_ns, step in steps:
            time.sleep(max(begun_ns + after_ns - time.monotonic_ns(), 0) / 1e9)
            times.append(time.monotonic_ns())
            step()
        return self.initiator.answer()["samples"], times

    def once(
        self, at_mark: Callable[[], None], *, deadline_s: float | None = None, length: int = 0
    ) -> tuple[dict[str, Any], int]:
        """One large write; `at_mark` is called when a third of it has settled. Gives what the
        initiator tells, and when that call was begun."""
        length = length or self.pace.length
        words = {"length": length, "mark": length // 3, "deadline_s": deadline_s}
        if self.ask(self.initiator, "once", **words)["mark_ns"] == 0:
            raise BenchError("the write ended before a third of it was seen to have settled")
        at_ns = time.monotonic_ns()
        at_mark()
        return self.initiator.answer(), at_ns

    def break_rail(self, fault: str, rail: int = BROKEN) -> None:
        if fault == "link down":
            self.rails.link_down(rail)
        else:
            self.rails.black_hole(rail)

    def heal(self, rail: int = BROKEN) -> None:
        self.rails.link_up(rail)
        self.rails.heal(rail)

    def each_alone(self) -> list[float]:
        """Bytes per second of each rail when it is the only one."""
        rates = []
        for rail in range(len(RATES)):
            with self.connected([rail], warm=False):
                warm_ns, measure_ns = self.pace.warm_ns, self.pace.measure_ns
                rates += self.stream(warm_ns, measure_ns, depth=ALONE_DEPTH)
        return rates

    # ---- the figures

    def cut(self, fault: str, report: Report) -> None:
        """One rail breaks at a third of a large write."""
        ratios, noticed, resent, moved_s = [], [], [], []
        for seed in range(self.pace.rounds):
            with self.connected(range(len(RATES))):
                expected = self.ask(self.initiator, "fill", seed=seed)["digest"]
                told, cut_ns = self.once(lambda: self.break_rail(fault))
                self.heal()
                if told["status"] != "OK":
                    raise BenchError(f"{fault}: the write ended with {told['status']}")
                if self.ask(self.target, "digest")["digest"] != expected:
                    raise BenchError(f"{fault}: the write arrived with wrong bytes")
            samples = told["samples"]
            before = [sample[1] for sample in samples if sample[0] <= cut_ns][-1]
            moved = sum(before) - sum(samples[0][1])
            ideal = ideal_ns(length=self.pace.length, moved=moved, rates=self.rates, broken=BROKEN)
            ratios.append((told["ended_ns"] - told["begun_ns"]) / ideal)
            moved_s.append(moved / self.pace.length)
            events = [at for at, kind, rail in told["events"] if kind in NOTICED and rail == BROKEN]
            noticed.append(first_after(sorted(events), cut_ns))
            resent.append(resprayed(samples, cut_ns))
            report.raw.append({"what": fault, "cut_ns": cut_ns, **told, "samples": len(samples)})
        size = f"{self.pace.length // MIB} MiB"
        most = 10 if fault == "link down" else 50
        report.add(
            Figure.of(f"{fault} at a third: time / ideal", ratios, "x", most=1.25),
            note=f"{size}, bytes verified; {statistics.median(moved_s):.0%} had moved",
        )
        report.add(Figure.ms(f"{fault}: noticed after", noticed, most=most), note="first event")
        report.add(
            Figure.ms(f"{fault}: first slice re-sprayed after", resent, most=most),
            note="counter of retried slices, read every 1 ms",
        )

    def back(self, fault: str, report: Report) -> None:
        """A rail breaks under a stream and heals a second later."""
        second = 1_000_000_000
        values = []
        for _ in range(self.pace.rounds):
            total_ns = 2 * second + self.pace.back_ns
            steps = [(second, lambda: self.break_rail(fault)), (2 * second, self.heal)]
            with self.connected(range(len(RATES))):
                samples, (cut_ns, healed_ns) = self.watched(total_ns, steps)
            usual = rate(samples, cut_ns - second // 2, cut_ns)[BROKEN]
            end_ns = samples[-1][0]
            values.append(
                back_ns(samples, rail=BROKEN, healed_ns=healed_ns, share_of=usual, end_ns=end_ns)
            )
        report.add(
            Figure.ms(f"{fault} for 1 s: rail back after its heal", values, most=1000),
            note=f"carries {BACK_SHARE:.0%} of what it did before, over the next two windows of "
            f"{BACK_WINDOW_NS // 1_000_000} ms",
        )

    def newcomer(self, fault: str | None, report: Report) -> None:
        """A fresh engine connects and writes its first MiB while a rail is broken."""
        used = range(len(RATES))
        for rail in used if fault is not None else [BROKEN]:
            times = []
            with self.connected(used):
                if fault is not None:
                    self.break_rail(fault, rail)
                plan = self._settings.plan(self.rails, "a", used)
                for _ in range(self.pace.rounds + 2):
                    words = {"plan": plan, "descriptor": self._descriptor}
                    told = self.ask(self.initiator, "first", **words)
                    times.append(told["connect_ns"] + told["write_ns"])
                self.heal(rail)
            what = "both rails whole" if fault is None else f"{fault} on rail {rail}"
            report.add(
                Figure.ms(f"new engine, {what}", times, most=None if fault is None else 100),
                note="connects and writes its first MiB",
            )

    def stable_alone(self) -> float:
        """Bytes per second of the other rail when it is the only one, in its worst window."""
        second = 1_000_000_000
        with self.connected([1 - BROKEN]):
            alone, _ = self.watched(3 * second, [])
        return worst_window(alone, alone[0][0] + second // 2, alone[-1][0])

    def flap(self, silent: bool, report: Report) -> None:
        """One rail down for 100 ms and up for 100 ms, again and again."""
        fault = FAULTS[silent]
        second = 1_000_000_000
        stable = [self.stable_alone()]
        count = self.pace.flap_ns // FLAP_NS
        steps: list[tuple[int, Callable[[], None]]] = []
        for index in range(count):
            act = (lambda: self.break_rail(fault)) if index % 2 == 0 else self.heal
            steps.append((second // 2 + index * FLAP_NS, act))
        with self.connected(range(len(RATES))):
            samples, times = self.watched(self.pace.flap_ns + second, steps)
            self.heal()
        stable.append(self.stable_alone())
        worst = worst_window(samples, times[0], times[-1])
        whole = sum(rate(samples, times[0], times[-1]))
        report.add(
            Figure.of(
                f"flap ({fault}): worst / stable rail alone", [worst / min(stable)], "x", least=1
            ),
            note=f"every {FLAP_NS // 1_000_000} ms for {self.pace.flap_ns / 1e9:g} s, worst window "
            f"of {FLAP_WINDOW_NS // 1_000_000} ms of each; mean {whole / sum(self.rates):.2f} of "
            "both rails' sum",
        )

    def stopped(self, report: Report) -> None:
        """The peer is stopped in mid-transfer; the request has a deadline."""
        deadline_s = 2 * self.pace.length / sum(self.rates)
        off, statuses = [], set()
        for _ in range(self.pace.stops):
            with self.connected(range(len(RATES))):
                told, _ = self.once(
                    lambda: self.target.signal(signal.SIGSTOP), deadline_s=deadline_s
                )
                self.target.signal(signal.SIGCONT)
            statuses.add(told["status"])
            off.append(told["ended_ns"] - told["begun_ns"] - round(deadline_s * 1e9))
        words = f"deadline {deadline_s:.2f} s, status {', '.join(sorted(statuses))}"
        figure = Figure.ms("peer stopped: end - deadline, farthest", [max(off, key=abs)], most=10)
        report.add(figure, note=f"{len(off)} times, {words}", ok=abs(max(off, key=abs)) <= 10e6)

    def killed(self, report: Report) -> None:
        """The peer is killed in mid-transfer. The kernel frees a dead process's memory before it
        closes its sockets, which is what others see of its death: hence little memory."""
        took, closed, statuses = [], [], set()
        for _ in range(self.pace.stops):
            with self.connected(range(len(RATES)), size=DEPTH):
                told, killed_ns = self.once(
                    lambda: self.target.signal(signal.SIGKILL), length=DEPTH
                )
                self._children.remove(self.target)
                self.target.close()
                closed.append((self.target.closed_ns - killed_ns) / 1e6)
                self.target = self._child("b")
            statuses.add(told["status"])
            took.append(told["ended_ns"] - killed_ns)
        report.add(
            Figure.ms("peer killed: terminal status after", took, most=100),
            note=f"status {', '.join(sorted(statuses))}; the kernel closed what it held open after "
            f"{statistics.median(closed):.0f} ms (median)",
        )


def parts(bench: Bench) -> dict[str, Callable[[Report], None]]:
    """What can be measured, by name."""

    def both(measure: Callable[..., None]) -> Callable[[Report], None]:
        def run(report: Report) -> None:
            for fault in FAULTS:
                measure(fault, report)

        return run

    def newcomers(report: Report) -> None:
        for fault in (None, *FAULTS):
            bench.newcomer(fault, report)

    def flaps(report: Report) -> None:
        for silent in (False, True):
            bench.flap(silent, report)

    return {
        "cut": both(bench.cut),
        "back": both(bench.back),
        "new": newcomers,
        "flap": flaps,
        "stop": bench.stopped,
        "kill": bench.killed,
    }


NAMES = ("cut", "back", "new", "flap", "stop", "kill")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, coarser numbers")
    parser.add_argument("--json", metavar="FILE", type=Path, help="writes the result there as well")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--slice", metavar="SIZE", default="256k")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", dest="sets", action="append", default=[], help="to the plan"
    )
    return parser.parse_args(arguments)


def measure(parsed: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Report:
    settings = Settings(parsed.slice, None, False, tuple(parsed.sets))
    report = Report(
        head={
            "format": 1,
            "version": package_version(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "command": "python bench/failover.py " + " ".join(parsed.command),
            "quick": parsed.quick,
            "settings": asdict(settings),
            "machine": asdict(machine_facts()),
        }
    )
    key_file = folder / "key"
    with os.fdopen(os.open(key_file, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as key:
        key.write(secrets.token_bytes(32))
    pace = Pace.of(quick=parsed.quick)
    before = cpu_ticks()
    with Rails() as rails:
        with Bench(rails, settings, pace, key_file, []) as bench:
            rates = bench.each_alone()
        for name in parsed.only:
            say(".")
            # Fresh processes and rails, so that what goes wrong in one part stays there.
            with Bench(rails, settings, pace, key_file, rates) as bench:
                try:
                    parts(bench)[name](report)
                except (BenchError, ValueError) as error:
                    report.missed(f"{name}: {error}")
    after = cpu_ticks()
    alone = " and ".join(f"{each * 8e-9:.3f}" for each in rates)
    report.notes.append(
        f"two rails of {RATES[0]} Mbit/s, {alone} Gbit/s each alone in this run; ideal: what had "
        "moved at the cut over both, the rest over the whole one; " + SILENT_LOSS
    )
    busy = (after[0] - before[0]) / max(after[1] - before[1], 1)
    report.notes.append(f"all processors together were {busy:.0%} busy during the run")
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    return command(arguments, parse, measure, failures=(BenchError, RailsError, OSError))


if __name__ == "__main__":
    raise SystemExit(main())
