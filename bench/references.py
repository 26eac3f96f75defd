"""What the machine can do without TENT: the yardsticks that our rows are compared with.

Leans on reference.c (see there for the patterns) and the harness. A transport of another kind adds
a class that answers to the same protocol. Must never be slowed by Python: each measurement is one
command to a compiled program.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from harness import LineProcess, Sample
from toolchain import Job

FORMS = ("block", "poll", "spin")
FORM_NAMES = {
    "block": "sockets, blocking",
    "poll": "sockets, poll()",
    "spin": "sockets, spin then poll()",
}
CALIBRATION_ROUNDS = 2
BATCH_SIZE_LARGE = 256 << 20


class Reference(Protocol):
    """The yardstick of one transport."""

    def calibration_samples(self) -> int:
        """How many measurements `choose` makes."""
        ...

    def choose(self, op: str, block: int, batch: int, footprint: int, slice_ns: int) -> str:
        """Finds the fastest honest way to do the row by hand; returns the words for its column."""
        ...

    def stream(self, op: str, block: int, batch: int, footprint: int, slice_ns: int) -> Sample:
        """One measurement in the way chosen last for this row."""
        ...

    def latency(self, block: int, footprint: int, slice_ns: int) -> Sample:
        """Request/response, one at a time, blocking."""
        ...

    def latency_text(self) -> str: ...

    def extras(self, slice_ns: int) -> dict[str, Callable[[], Sample]]:
        """Further measurements, for information only."""
        ...

    def close(self) -> None: ...


class SocketReference:
    """Raw loopback TCP connections between two processes, one thread each."""

    def __init__(self, program: Path, *, connections: int, arena: int) -> None:
        self.connections = connections
        self._forms: dict[tuple[str, int, int], str] = {}
        self._process = LineProcess([str(program), str(connections), str(arena)])
        self._process.answer()

    @staticmethod
    def job(folder: Path) -> Job:
        return Job(folder / "reference", ("reference.c", "sockets.c"))

    def _candidates(self, block: int) -> tuple[str, ...]:
        if self.connections == 1 or block % self.connections != 0:
            return FORMS
        return (*FORMS, *(f"{form}-split" for form in FORMS))

    def calibration_samples(self) -> int:
        return CALIBRATION_ROUNDS * len(self._candidates(self.connections))

    def choose(self, op: str, block: int, batch: int, footprint: int, slice_ns: int) -> str:
        spent = {form: [0, 0] for form in self._candidates(block)}
        large = block * batch >= BATCH_SIZE_LARGE  # one of those is long enough to judge by
        for _ in range(1 if large else CALIBRATION_ROUNDS):
            for form, total in spent.items():
                sample = self._stream(op, block, batch, footprint, slice_ns, form)
                total[0] += sample.bytes
                total[1] += sample.elapsed_ns
        best = max(spent, key=lambda form: spent[form][0] / spent[form][1])
        self._forms[op, block, batch] = best
        form, _, split = best.partition("-")
        text = FORM_NAMES[form]
        if self.connections > 1:
            text += f", {self.connections} conns"
        return text + (", blocks split" if split else "")

    def stream(self, op: str, block: int, batch: int, footprint: int, slice_ns: int) -> Sample:
        form = self._forms[op, block, batch]
        return self._stream(op, block, batch, footprint, slice_ns, form)

    def _stream(
        self, op: str, block: int, batch: int, footprint: int, slice_ns: int, form: str
    ) -> Sample:
        return self._process.sample(f"stream {op} {block} {batch} {footprint} {slice_ns} {form}")

    def latency(self, block: int, footprint: int, slice_ns: int) -> Sample:
        return self._process.sample(f"pingpong {block} {footprint} {slice_ns} block")

    def latency_text(self) -> str:
        return "ping-pong, blocking sockets"

    def extras(self, slice_ns: int) -> dict[str, Callable[[], Sample]]:
        block, footprint = 4096, 32 << 20
        return {
            "memcpy, 1 MiB blocks": lambda: self._process.sample(
                f"memcpy {1 << 20} {footprint} {slice_ns}"
            ),
            "ping-pong, 4 KiB, blocking sockets": lambda: self.latency(block, footprint, slice_ns),
            "ping-pong, 4 KiB, spinning sockets": lambda: self._process.sample(
                f"pingpong {block} {footprint} {slice_ns} spin"
            ),
        }

    def close(self) -> None:
        self._process.close()
