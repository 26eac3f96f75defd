"""Compares TENT over several shaped rails with what each of them gives alone, in one run.

    python bench/rails.py [--quick] [--json FILE] [--rails 1600/1600 ...] [--slice 256k]
                          [--strategy NAME] [--nominal] [--set NAME=VALUE ...]

Two network namespaces joined by veth links with token buckets, an engine in each; needs root and
iproute2. Leans on tent.testing.netns, the harness and the installed package. Must never send a byte
outside of its own namespaces. docs/benchmarks.md tells how to read the output.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import BenchError, LineProcess, command
from rails_report import RATIO_WANTED, Change, Report, Row, change_checks, plain_checks
from reaction import TOLERANCE, WINDOW_NS, Sample, react
from report import KIB, MIB, machine_facts
from transports import package_version

from tent.testing.netns import Rails, RailsError

OPS = ("write", "read")
CASES = ("1600/1600", "1600/200", "4000/4000/2000/500")
CHANGE = (1600, 1600)
CHANGED_RAIL = 1
CHANGED_MBIT = 200

ARENA = 64 * MIB
BATCH = 4 * MIB  # rail_end.py's
# A rail alone: enough not to run dry between two looks, little enough to drain soon at its end.
DEPTH_ALONE_S = 0.15
CPU_BUSY_MOST = 0.95
HERE = Path(__file__).resolve().parent
UNITS = {"": 1, "k": KIB, "m": MIB, "g": 1024 * MIB}


@dataclass(frozen=True)
class Settings:
    """What every plan of the run says beside its rails."""

    slice: str
    strategy: str | None
    nominal: bool
    sets: tuple[str, ...]

    @property
    def slice_size(self) -> int:
        match = re.fullmatch(r"(\d+)([kmg]?)", self.slice.lower())
        if match is None:
            raise BenchError(f"--slice {self.slice}: write a size such as 256k")
        return int(match[1]) * UNITS[match[2]]

    @property
    def strategy_text(self) -> str:
        return self.strategy or "default"

    def plan(self, rails: Rails, side: str, used: Sequence[int]) -> str:
        """One tcp rail per link in `used`. Without gbps= its rate is for the engine to find out."""
        lines = ["plan 1", *(f"set {words}" for words in self.sets)]
        for rail in used:
            speed = f" gbps={rails.rates_mbit[rail] / 1000:g}" if self.nominal else ""
            lines.append(f"rail {rail} tcp {rails.address(side, rail)}{speed}")
        words = f" slice={self.slice}"
        if self.strategy is not None:
            words += f" strategy={self.strategy}"
        lines.append(f"route * : tcp[{' '.join(map(str, used))}]{words}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Pace:
    """Durations of the phases."""

    rounds: int
    warm_ns: int
    measure_ns: int
    changes: int
    low_ns: int
    high_ns: int

    @staticmethod
    def of(*, quick: bool) -> Pace:
        if quick:
            return Pace(1, 300_000_000, 500_000_000, 2, 700_000_000, 900_000_000)
        return Pace(3, 500_000_000, 1_000_000_000, 5, 1_000_000_000, 1_500_000_000)


class Bench:
    """Two processes, one in each namespace, and the rails between them."""

    def __init__(self, rails: Rails, settings: Settings, pace: Pace, folder: Path) -> None:
        self._rails = rails
        self._settings = settings
        self._pace = pace
        self._stack = ExitStack()
        key_file = folder / "key"
        with os.fdopen(os.open(key_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as key:
            key.write(secrets.token_bytes(32))
        self._target = self._child("b", "rail_end.py", str(key_file))
        self._initiator = self._child("a", "rail_end.py", str(key_file))

    def close(self) -> None:
        self._stack.close()

    def _child(self, side: str, script: str, *words: str) -> LineProcess:
        command = [*self._rails.prefix(side), sys.executable, str(HERE / script), *words]
        return self._stack.enter_context(LineProcess(command))

    @staticmethod
    def _ask(child: LineProcess, do: str, **values: Any) -> dict[str, Any]:
        return child.ask(json.dumps({"do": do, **values}))

    @contextmanager
    def _connected(self, used: Sequence[int]) -> Iterator[None]:
        """Fresh engines on these rails: none knows a rate from before."""
        rails, plan = self._rails, self._settings.plan
        listen = f"{rails.address('b', used[0])}:0"
        served = self._ask(
            self._target, "serve", plan=plan(rails, "b", used), listen=listen, size=ARENA
        )
        self._ask(
            self._initiator,
            "connect",
            plan=plan(rails, "a", used),
            address=served["address"],
            size=ARENA,
        )
        yield
        self._ask(self._initiator, "close")
        self._ask(self._target, "close")

    @contextmanager
    def _verified(self, op: str, seed: int) -> Iterator[None]:
        """Every byte of the arena must have arrived at its place when the body ends."""
        source, sink = self._initiator, self._target
        if op == "read":
            source, sink = sink, source
        expected = self._ask(source, "fill", seed=seed)["digest"]
        yield
        if self._ask(sink, "digest")["digest"] != expected:
            raise BenchError(f"the {op}s arrived with wrong bytes")

    def _stream(self, op: str, used: Sequence[int], *, depth: int) -> list[float]:
        """Bytes per second of each rail of `used`."""
        done = self._ask(
            self._initiator,
            "stream",
            op=op,
            depth=depth,
            warm_ns=self._pace.warm_ns,
            measure_ns=self._pace.measure_ns,
        )
        if len(done["bytes"]) != len(used):
            raise BenchError(f"the engine counts {len(done['bytes'])} rails, not {len(used)}")
        return [moved * 1e9 / done["elapsed_ns"] for moved in done["bytes"]]

    def _alone(self, op: str, rail: int) -> float:
        rate = self._rails.rates_mbit[rail] * 125_000
        parts = max(2, min(int(rate * DEPTH_ALONE_S) // BATCH, ARENA // BATCH))
        with self._connected([rail]):
            return sum(self._stream(op, [rail], depth=parts * BATCH))

    def _together(self, op: str) -> tuple[list[float], float]:
        """Rates of all rails, and how busy the machine was."""
        used = range(len(self._rails.rates_mbit))
        with self._connected(used), self._verified(op, seed=len(used)):
            before = cpu_ticks()
            rates = self._stream(op, used, depth=ARENA)
            after = cpu_ticks()
        return rates, (after[0] - before[0]) / max(after[1] - before[1], 1)

    def row(self, name: str, op: str) -> Row:
        """Each rail alone, then all, round by round, so that a slow second hits both."""
        count = len(self._rails.rates_mbit)
        alone: list[list[float]] = []
        together: list[list[float]] = []
        busy: list[float] = []
        for _ in range(self._pace.rounds):
            alone.append([self._alone(op, rail) for rail in range(count)])
            rates, cpu_busy = self._together(op)
            together.append(rates)
            busy.append(cpu_busy)
        ratios = [sum(all_) / sum(each) for all_, each in zip(together, alone, strict=True)]
        ratio = statistics.median(ratios)
        each = tuple(statistics.median(column) for column in zip(*alone, strict=True))
        rates = [statistics.median(column) for column in zip(*together, strict=True)]
        return Row(
            rails=name,
            op=op,
            slice=self._settings.slice_size,
            strategy=self._settings.strategy_text,
            bytes_per_s=statistics.median(map(sum, together)),
            alone_bytes_per_s=each,
            sum_bytes_per_s=statistics.median(map(sum, alone)),
            ratio=ratio,
            ratio_min=min(ratios),
            ratio_max=max(ratios),
            rounds=len(ratios),
            shares=tuple(rate / sum(rates) for rate in rates),
            shares_ideal=tuple(rate / sum(each) for rate in each),
            cpu_busy=statistics.median(busy),
            wanted=RATIO_WANTED,
            ok=ratio >= RATIO_WANTED,
        )

    def changes(self, op: str) -> tuple[list[Change], int]:
        """Drops and rises in turn, and the most bytes that the sender's sockets held in a drop."""
        pace, rails = self._pace, self._rails
        sender = "a" if op == "write" else "b"
        steps = [(CHANGED_MBIT, pace.low_ns), (CHANGE[CHANGED_RAIL], pace.high_ns)] * pace.changes
        # The first sample comes before the first change, the last one behind the last phase.
        total_ns = sum(hold_ns for _, hold_ns in steps) + pace.high_ns
        times: list[int] = []
        held = 0
        with self._connected(range(len(CHANGE))), self._verified(op, seed=1):
            begun = self._ask(
                self._initiator,
                "watch",
                op=op,
                depth=ARENA,
                warm_ns=pace.warm_ns,
                measure_ns=total_ns,
            )
            next_ns = begun["begun_ns"] + pace.warm_ns + pace.high_ns // 2
            for rate, hold_ns in steps:
                _sleep_until(next_ns)
                times.append(time.monotonic_ns())
                rails.set_rate(CHANGED_RAIL, rate)
                next_ns = times[-1] + hold_ns
                if rate == CHANGED_MBIT:
                    _sleep_until(times[-1] + hold_ns // 2)
                    held = max(held, self.queued(sender, CHANGED_RAIL))
            _sleep_until(next_ns)
            times.append(time.monotonic_ns())
            told = self._initiator.answer()["samples"]
        samples = [Sample(at, tuple(settled), tuple(inflight)) for at, settled, inflight in told]
        return [
            self._change(op, index, rate, samples, times) for index, (rate, _) in enumerate(steps)
        ], held

    def _change(
        self, op: str, index: int, rate: int, samples: Sequence[Sample], times: Sequence[int]
    ) -> Change:
        high = CHANGE[CHANGED_RAIL]
        return Change(
            op=op,
            slice=self._settings.slice_size,
            strategy=self._settings.strategy_text,
            rail=CHANGED_RAIL,
            from_mbit=high if rate == CHANGED_MBIT else CHANGED_MBIT,
            to_mbit=rate,
            reaction=react(
                samples,
                rail=CHANGED_RAIL,
                begin_ns=times[index],
                end_ns=times[index + 1],
                slice_size=self._settings.slice_size,
            ),
            sum_mbit=sum(CHANGE) - high + rate,
        )

    def queued(self, side: str, rail: int) -> int:
        """Bytes in the send queues of that side's sockets on that rail, sent or not."""
        command = ["ss", "-tnH", "src", self._rails.address(side, rail)]
        try:
            done = subprocess.run(
                [*self._rails.prefix(side), *command], capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            raise BenchError(f"there is no '{error.filename}': install iproute2") from None
        if done.returncode != 0:
            raise BenchError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
        return sum(int(line.split()[2]) for line in done.stdout.splitlines())

    def plain(self) -> dict[int, int]:
        """Rate in Mbit/s -> bytes that one plain connection's send queue holds of it."""
        rails = self._rails
        held: dict[int, int] = {}
        sink = self._child("b", "rail_plain.py", "sink", rails.address("b", CHANGED_RAIL))
        port = str(sink.answer()["port"])
        places = (rails.address("b", CHANGED_RAIL), port, rails.address("a", CHANGED_RAIL))
        pour = self._child("a", "rail_plain.py", "pour", *places)
        pour.answer()
        try:
            for rate in (CHANGE[CHANGED_RAIL], CHANGED_MBIT):
                rails.set_rate(CHANGED_RAIL, rate)
                begin_ns = time.monotonic_ns()
                looks = []
                for look in range(1, 11):
                    _sleep_until(begin_ns + look * self._pace.measure_ns // 10)
                    looks.append(self.queued("a", CHANGED_RAIL))
                # The first half of them is the way there.
                held[rate] = round(statistics.median(looks[5:]))
        finally:
            rails.set_rate(CHANGED_RAIL, CHANGE[CHANGED_RAIL])
            pour.close()
            sink.close()
        return held


def cpu_ticks(*, root: Path = Path("/")) -> tuple[int, int]:
    """(busy, all) ticks of all processors since boot; what a hypervisor took counts as busy."""
    with (root / "proc/stat").open(encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def _sleep_until(at_ns: int) -> None:
    time.sleep(max(at_ns - time.monotonic_ns(), 0) / 1e9)


def parse_rates(text: str) -> list[int]:
    if re.fullmatch(r"\d+(/\d+)*", text) is None:
        raise BenchError(f"--rails {text}: write rates in Mbit/s such as 1600/200")
    return [int(word) for word in text.split("/")]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="ends within 45 s, coarser numbers")
    parser.add_argument("--json", metavar="FILE", type=Path, help="writes the result there as well")
    parser.add_argument("--rails", metavar="MBIT/MBIT...", nargs="*", default=list(CASES))
    parser.add_argument("--slice", metavar="SIZE", default="256k")
    parser.add_argument("--strategy", metavar="NAME", help="of the route; default: the engine's")
    parser.add_argument("--nominal", action="store_true", help="tells the plan each rail's gbps")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", dest="sets", action="append", default=[], help="to the plan"
    )
    parser.add_argument("--no-changes", action="store_true", help="leaves the rate changes out")
    return parser.parse_args(arguments)


def measure(parsed: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Report:
    cases = {text: parse_rates(text) for text in parsed.rails}
    settings = Settings(parsed.slice, parsed.strategy, parsed.nominal, tuple(parsed.sets))
    machine = machine_facts()
    report = Report(
        head={
            "format": 1,
            "version": package_version(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "command": "python bench/rails.py " + " ".join(parsed.command),
            "quick": parsed.quick,
            "settings": asdict(settings),
            "slice": settings.slice_size,
            "machine": asdict(machine),
        }
    )
    with Rails() as rails:
        bench = Bench(rails, settings, Pace.of(quick=parsed.quick), folder)
        try:
            for text, rates in cases.items():
                rails.up(rates)
                for op in OPS:
                    report.rows.append(bench.row(text, op))
                    say(".")
            if not parsed.no_changes:
                rails.up(CHANGE)
                for op in OPS:
                    changes, held = bench.changes(op)
                    report.changes.extend(changes)
                    report.checks.extend(change_checks(op, changes, held))
                    say(".")
                report.checks.extend(plain_checks(bench.plain()))
        finally:
            bench.close()
    report.notes.append(
        f"slices of {settings.slice}, strategy {settings.strategy_text}; ratio is the median over "
        "rounds of all rails together over the sum of each alone; every byte of the last pass was "
        "verified"
    )
    report.notes.append(
        f"share: of the bytes settled in the {WINDOW_NS // 1_000_000} ms ahead; it follows once "
        f"it stays within {TOLERANCE:.0%} of its final value, give or take one slice"
    )
    busiest = max((row.cpu_busy for row in report.rows), default=0.0)
    if busiest > CPU_BUSY_MOST:
        report.notes.append(
            f"all processors were {busiest:.0%} busy in a row of this run: there the ratio tells "
            "of the processors, not of the rails; run again on a quieter or larger machine"
        )
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    return command(arguments, parse, measure, failures=(BenchError, RailsError, OSError))


if __name__ == "__main__":
    raise SystemExit(main())
