"""Measuring fairly on a noisy machine: child processes, interleaved pairs, statistics.

Leans on report. Knows neither TENT nor a transport: what is measured comes in
as callables that return samples. Must never reorder a pair: ours and its reference run back to
back, so that a slow second of the machine hits both.
"""

from __future__ import annotations

import argparse
import json
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from report import Fact, Row

PAIRS_MIN = 7
COMMAND_TIMEOUT_S = 60.0


class BenchError(Exception):
    """A measurement that cannot be made; the sentence says what, where and what to do."""


@dataclass(frozen=True)
class Sample:
    """One measurement: what moved, how long it took, CPU time of all processes, batch times."""

    bytes: int
    batches: int
    elapsed_ns: int
    cpu_ns: int
    p50_ns: int
    p99_ns: int

    @property
    def bytes_per_s(self) -> float:
        return self.bytes * 1e9 / self.elapsed_ns

    @property
    def cpu_s_per_gb(self) -> float:
        return self.cpu_ns / self.bytes


class LineProcess:
    """A child that answers each line on stdin with one JSON object per line on stdout."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        self._command = list(command)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=None if env is None else dict(env),
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # When its end of the pipe was seen to close, with whatever else it held open; 0: not yet.
        self.closed_ns = 0
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_answers, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> LineProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self.closed_ns = time.monotonic_ns()
        self._lines.put("")

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line.rstrip())

    def answer(self, *, timeout_s: float = COMMAND_TIMEOUT_S) -> dict[str, Any]:
        """The next object the child writes. Raises BenchError when it ends or stays silent."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self._process.kill()
            raise self._failure(f"gave no answer within {timeout_s:.0f} s") from None
        if not line:
            self._readers[1].join(timeout=2)
            raise self._failure("ended")
        value = json.loads(line)
        if not isinstance(value, dict):
            raise self._failure(f"answered {line!r} instead of an object")
        return value

    def ask(self, line: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._readers[1].join(timeout=2)
            raise self._failure(f"had ended before '{line}'") from None
        return self.answer(timeout_s=timeout_s)

    def signal(self, number: signal.Signals) -> None:
        """Nothing when it has ended already."""
        self._process.send_signal(number)

    def sample(self, line: str) -> Sample:
        return Sample(**self.ask(line))

    def _failure(self, what: str) -> BenchError:
        said = "; ".join(self._errors[-3:]) or "nothing on stderr"
        return BenchError(f"{Path(self._command[0]).name} {what}: {said}")

    def close(self) -> None:
        """Ends the child: end of input first, then by force."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._errors.append("input was closed early")
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class Pace:
    """How long things may take. The whole run ends by `deadline_s` on the clock given."""

    sample_ns: int
    pairs: int
    deadline_s: float
    clock: Callable[[], float] = time.monotonic

    def slice_ns(self, samples_left: int, *, reserve_s: float) -> int:
        """Time for one of `samples_left` measurements; a slow machine gets shorter ones."""
        left_s = self.deadline_s - self.clock() - reserve_s
        each_ns = int(left_s * 1e9 / max(samples_left, 1))
        return max(min(self.sample_ns, each_ns * 85 // 100), self.sample_ns // 5)


def measure_pairs(
    ours: Callable[[], Sample], reference: Callable[[], Sample], *, pairs: int
) -> list[tuple[Sample, Sample]]:
    """Ours, reference, ours, reference ...: never fewer than PAIRS_MIN pairs."""
    return [(ours(), reference()) for _ in range(max(pairs, PAIRS_MIN))]


def compare(
    pairs: Sequence[tuple[Sample, Sample]],
    *,
    transport: str,
    op: str,
    block: int,
    batch: int,
    footprint: int,
    reference: str,
    wanted: float | None,
    by_latency: bool = False,
    threads: int = 1,
) -> Row:
    """Medians of the pairs; the ratio is the median of the pairs' own ratios."""
    if by_latency:
        ratios = [theirs.p50_ns / max(ours.p50_ns, 1) for ours, theirs in pairs]
    else:
        ratios = [ours.bytes_per_s / theirs.bytes_per_s for ours, theirs in pairs]
    ratio = statistics.median(ratios)
    mine = [ours for ours, _ in pairs]
    other = [theirs for _, theirs in pairs]
    return Row(
        transport=transport,
        op=op,
        block=block,
        batch=batch,
        threads=threads,
        bytes_per_s=statistics.median(s.bytes_per_s for s in mine),
        p50_ns=round(statistics.median(s.p50_ns for s in mine)),
        p99_ns=round(statistics.median(s.p99_ns for s in mine)),
        cpu_s_per_gb=statistics.median(s.cpu_s_per_gb for s in mine),
        reference=reference,
        ratio=ratio,
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        pairs=len(ratios),
        footprint=footprint,
        reference_bytes_per_s=statistics.median(s.bytes_per_s for s in other),
        reference_p50_ns=round(statistics.median(s.p50_ns for s in other)),
        reference_p99_ns=round(statistics.median(s.p99_ns for s in other)),
        reference_cpu_s_per_gb=statistics.median(s.cpu_s_per_gb for s in other),
        wanted=wanted,
        ok=None if wanted is None else ratio >= wanted,
    )


def fact(name: str, samples: Sequence[Sample]) -> Fact:
    return Fact(
        name=name,
        bytes_per_s=statistics.median(s.bytes_per_s for s in samples),
        p50_ns=round(statistics.median(s.p50_ns for s in samples)),
        p99_ns=round(statistics.median(s.p99_ns for s in samples)),
    )


class Printable(Protocol):
    """What every bench's report can do."""

    notes: list[str]

    def to_text(self) -> str: ...

    def to_json(self) -> str: ...


def command(
    arguments: Sequence[str] | None,
    parse: Callable[[Sequence[str] | None], argparse.Namespace],
    measure: Callable[[argparse.Namespace, Path, Callable[[str], None]], Printable],
    *,
    failures: tuple[type[Exception], ...],
) -> int:
    """A bench's main: measures in a folder of its own, prints the report, writes parsed.json.

    measure gets the parsed arguments (with .command, as they were given), the folder and what to
    show progress with. 1 when it raised one of the failures, which are said in a line.
    """
    started_s = time.monotonic()
    parsed = parse(arguments)
    parsed.command = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="tent-bench-") as folder:
            report = measure(
                parsed, Path(folder), lambda text: print(text, end="", file=sys.stderr, flush=True)
            )
    except failures as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    report.notes.append(f"took {time.monotonic() - started_s:.1f} s")
    print(file=sys.stderr)
    print(report.to_text(), end="")
    if parsed.json is not None:
        parsed.json.write_text(report.to_json(), encoding="utf-8")
    return 0
