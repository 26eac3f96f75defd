"""What the machine can do without TENT: the yardsticks that our rows are compared with.

Leans on reference.c and copies.c (see there for the patterns), shapes and the harness. A transport
of another kind adds a class that answers to the same protocol. Must never be slowed by Python: each
measurement is one command to a compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from harness import BenchError, LineProcess, Sample
from report import KIB, MIB, size_text
from shapes import BATCH_SIZE_LARGE, FOOTPRINT_MIN, LATENCY, Shape
from toolchain import Job

FORMS = ("block", "poll", "spin")
FORM_NAMES = {
    "block": "sockets, blocking",
    "poll": "sockets, poll()",
    "spin": "sockets, spin then poll()",
}
CALIBRATION_ROUNDS = 2

THREADS_BLOCK_MIN = 128 * KIB  # a single block below it is not cut for two threads (crew.h)
PIPE_CHUNKS = ((32 * KIB, 16), (64 * KIB, 16), (128 * KIB, 16), (256 * KIB, 16), (512 * KIB, 8))


class Reference(Protocol):
    """The yardstick of one transport."""

    def calibration_samples(self) -> int:
        """How many measurements `choose` makes at most."""
        ...

    def choose(self, shape: Shape, slice_ns: int) -> str:
        """Finds the fastest honest way to do the row by hand; returns the words for its column."""
        ...

    def stream(self, shape: Shape, slice_ns: int) -> Sample:
        """One measurement in the way chosen last for this row."""
        ...

    def latency(self, slice_ns: int) -> Sample:
        """The row LATENCY, one request at a time, as its caller sees it."""
        ...

    def latency_text(self) -> str: ...

    def extras(self, slice_ns: int) -> dict[str, Callable[[], Sample]]:
        """Further measurements, for information only."""
        ...

    def page_kib(self) -> int | None:
        """Pages of its memory, None when it does not say."""
        ...

    def close(self) -> None: ...


def fastest(
    forms: Sequence[str], measure: Callable[[str], Sample], *, rounds: int = CALIBRATION_ROUNDS
) -> str:
    """The form that moves the most per time, over rounds in which each has its turn."""
    spent = {form: [0, 0] for form in forms}
    for _ in range(rounds if len(forms) > 1 else 0):
        for form, total in spent.items():
            sample = measure(form)
            total[0] += sample.bytes
            total[1] += sample.elapsed_ns
    if len(forms) == 1:
        return forms[0]
    return max(spent, key=lambda form: spent[form][0] / spent[form][1])


def rounds_of(shape: Shape) -> int:
    """A large batch is long enough to judge by."""
    return 1 if shape.size >= BATCH_SIZE_LARGE else CALIBRATION_ROUNDS


class SocketReference:
    """Raw loopback TCP connections between two processes, one thread each."""

    def __init__(self, program: Path, *, connections: int, arena: int) -> None:
        self.connections = connections
        self._forms: dict[Shape, str] = {}
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

    def choose(self, shape: Shape, slice_ns: int) -> str:
        best = fastest(
            self._candidates(shape.block),
            lambda form: self._stream(shape, slice_ns, form),
            rounds=rounds_of(shape),
        )
        self._forms[shape] = best
        form, _, split = best.partition("-")
        text = FORM_NAMES[form]
        if self.connections > 1:
            text += f", {self.connections} conns"
        return text + (", blocks split" if split else "")

    def stream(self, shape: Shape, slice_ns: int) -> Sample:
        return self._stream(shape, slice_ns, self._forms[shape])

    def _stream(self, shape: Shape, slice_ns: int, form: str) -> Sample:
        return self._process.sample(f"{shape.command(slice_ns)} {form}")

    def _pingpong(self, slice_ns: int, form: str) -> Sample:
        return self._process.sample(
            f"pingpong {LATENCY.block} {LATENCY.footprint} {slice_ns} {form}"
        )

    def latency(self, slice_ns: int) -> Sample:
        return self._pingpong(slice_ns, "block")

    def latency_text(self) -> str:
        return "ping-pong, blocking sockets"

    def extras(self, slice_ns: int) -> dict[str, Callable[[], Sample]]:
        return {
            "memcpy, 1 MiB blocks": lambda: self._process.sample(
                f"memcpy {MIB} {FOOTPRINT_MIN} {slice_ns}"
            ),
            "ping-pong, 4 KiB, blocking sockets": lambda: self._pingpong(slice_ns, "block"),
            "ping-pong, 4 KiB, spinning sockets": lambda: self._pingpong(slice_ns, "spin"),
        }

    def page_kib(self) -> int | None:
        return None

    def close(self) -> None:
        self._process.close()


class CopyReference:
    """Copies between two processes of one machine: the forms and words differ by `mode`."""

    def __init__(self, program: Path, *, mode: str, arena: int, page_kib: int, cores: int) -> None:
        self.mode = mode
        self._cores = cores
        self._forms: dict[Shape, str] = {}
        self._process = LineProcess([str(program), mode, str(arena), str(page_kib)])
        self._streaming = bool(self._process.answer(timeout_s=30)["streaming"])

    @staticmethod
    def job(folder: Path) -> Job:
        return Job(folder / "copies", ("copies.c",), ("-pthread",))

    def candidates(self, shape: Shape) -> tuple[str, ...]:
        """Forms of copies.c that can differ for the shape."""
        if self.mode == "pipe":
            return tuple(f"{size}x{count}" for size, count in PIPE_CHUNKS)
        threads = ["1"]
        if self._cores > 1 and (shape.batch > 1 or shape.block >= THREADS_BLOCK_MIN):
            threads.append("2")
        vectors = self.mode == "attach" and shape.batch > 1
        return (*threads, *(f"{count}-vector" for count in threads if vectors))

    def calibration_samples(self) -> int:
        return CALIBRATION_ROUNDS * max(
            len(self.candidates(Shape(op, MIB, 32))) for op in ("write", "read")
        )

    def choose(self, shape: Shape, slice_ns: int) -> str:
        best = fastest(
            self.candidates(shape),
            lambda form: self._stream(shape, slice_ns, form),
            rounds=rounds_of(shape),
        )
        self._forms[shape] = best
        return form_text(self.mode, shape.op, best)

    def stream(self, shape: Shape, slice_ns: int) -> Sample:
        return self._stream(shape, slice_ns, self._forms[shape])

    def _stream(self, shape: Shape, slice_ns: int, form: str) -> Sample:
        return self._process.sample(f"{shape.command(slice_ns)} {form}")

    def _latency_form(self) -> str:
        return self.candidates(LATENCY)[0]

    def latency(self, slice_ns: int) -> Sample:
        return self._stream(LATENCY, slice_ns, self._latency_form())

    def latency_text(self) -> str:
        return form_text(self.mode, LATENCY.op, self._latency_form())

    def extras(self, slice_ns: int) -> dict[str, Callable[[], Sample]]:
        if self.mode == "pipe":
            return {}
        forms = ["1", "2"] if self._cores > 1 else ["1"]
        if self.mode == "mapped" and self._streaming:
            forms += [f"{form}-streaming" for form in forms]
        return {
            f"{form_text(self.mode, 'write', form)}, 1 MiB x{batch}": partial(
                self._stream, Shape("write", MIB, batch), slice_ns, form
            )
            for batch in (1, 32)
            for form in forms
        }

    def page_kib(self) -> int | None:
        return int(self._process.ask("pages")["kib"])

    def close(self) -> None:
        self._process.close()


def form_text(mode: str, op: str, form: str) -> str:
    """The words for a form of copies.c."""
    if mode == "pipe":
        size, _, count = form.partition("x")
        return f"two-copy pipe, {size_text(int(size))} x{count}"
    threads, _, more = form.partition("-")
    plural = "thread" if threads == "1" else "threads"
    if mode == "mapped":
        name = "streaming stores" if more == "streaming" else "memcpy"
    elif mode == "attach":
        name = f"process_vm_{op}v" + (", vectors" if more == "vector" else "")
    else:
        raise BenchError(f"no reference is called '{mode}': mapped, attach and pipe are")
    return f"{name}, {threads} {plural}"
