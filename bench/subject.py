"""Our side: the engine pair driven by driver.c, and what is asked of it.

Leans on the installed package (through toolchain.tent_flags) and the harness. Knows no transport;
the plan names it. Must never measure an engine that Python drives: that is python_submit.py's part.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import BenchError, LineProcess, Sample
from shapes import LATENCY, Shape
from toolchain import Job, tent_flags


@dataclass(frozen=True)
class Idle:
    """Share of one core that each engine used while nothing was asked of it, in percent."""

    initiator_percent: float
    target_percent: float


@dataclass(frozen=True)
class Opened:
    """One cold open in a fresh process."""

    open_ns: int
    close_ns: int
    resident_bytes: int


class EnginePair:
    """An initiator and a target process, one engine each, connected.

    memory: "private" or the "engine"'s own; workers: the option of that name, 0 the default;
    target_plan: where the target's is not the same.
    """

    def __init__(
        self,
        program: Path,
        *,
        plan: Path,
        arena: int,
        memory: str = "private",
        workers: int = 0,
        target_plan: Path | None = None,
    ) -> None:
        words = [str(program), "pair", str(plan), str(arena), memory, str(workers)]
        self._process = LineProcess(words + ([] if target_plan is None else [str(target_plan)]))
        self._process.answer(timeout_s=30)

    @staticmethod
    def job(folder: Path) -> Job:
        return Job(folder / "driver", ("driver.c",), tent_flags())

    def stream(self, shape: Shape, slice_ns: int) -> Sample:
        return self._process.sample(shape.command(slice_ns))

    def pages(self) -> tuple[int, int]:
        """KiB of the pages that the initiator's and the target's arena got."""
        answer = self._process.ask("pages")
        return answer["initiator_kib"], answer["target_kib"]

    def rate(
        self, block: int, batch: int, outstanding: int, footprint: int, slice_ns: int
    ) -> Sample:
        return self._process.sample(f"rate {block} {batch} {outstanding} {footprint} {slice_ns}")

    def submit(self, block: int, batch: int, footprint: int, rounds: int) -> dict[str, int]:
        """cpu_p50_ns, cpu_p99_ns, wall_p50_ns of submitting one batch."""
        return self._process.ask(f"submit {block} {batch} {footprint} {rounds}")

    def idle(self, duration_ns: int) -> Idle:
        answer = self._process.ask(f"idle {duration_ns}")
        scale = 100.0 / answer["elapsed_ns"]
        return Idle(answer["initiator_cpu_ns"] * scale, answer["target_cpu_ns"] * scale)

    def memory(self) -> tuple[int, int]:
        """Resident bytes the engines added to the initiator and to the target."""
        answer = self._process.ask("memory")
        return answer["initiator_bytes"], answer["target_bytes"]

    def close(self) -> None:
        self._process.close()


class EngineReference:
    """Another pair of engines as the yardstick: what a setting of theirs is worth."""

    def __init__(self, pair: EnginePair, *, text: str) -> None:
        self._pair = pair
        self._text = text

    def calibration_samples(self) -> int:
        return 0

    def choose(self, shape: Shape, slice_ns: int) -> str:
        return self._text

    def stream(self, shape: Shape, slice_ns: int) -> Sample:
        return self._pair.stream(shape, slice_ns)

    def latency(self, slice_ns: int) -> Sample:
        return self._pair.stream(LATENCY, slice_ns)

    def latency_text(self) -> str:
        return self._text

    def extras(self, slice_ns: int) -> dict[str, Callable[[], Sample]]:
        return {}

    def page_kib(self) -> int | None:
        return self._pair.pages()[0]

    def close(self) -> None:
        self._pair.close()


def cold_opens(program: Path, *, plan: Path, count: int) -> list[Opened]:
    done = subprocess.run(
        [str(program), "open", str(plan), str(count)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise BenchError(f"opening engines failed: {done.stderr.strip()}")
    return [Opened(**json.loads(line)) for line in done.stdout.splitlines()]
