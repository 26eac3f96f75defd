"""Drives the native health machine (health_probe) and its model through the same lives.

A life is data: parameters and a list of steps, drawn by hypothesis or written by hand. `live` plays
it with either side and yields what can be seen after each step; two sides are equal when they yield
the same. Leans on cffi's ABI mode and tests/native/health_probe.h. Must never let one side see the
other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import tests_scheduler
from cffi import FFI
from hypothesis import strategies as st
from support import ROOT, NativeBuild
from tests_scheduler import MS, SECOND, US

from tent.resilience.health import Action, Health, Parameters, State, View

Seen = tuple[Any, ...]
HOUR = 3600 * SECOND


@cache
def _load(library: Path) -> tuple[FFI, Any]:
    header = (ROOT / "tests/native/health_probe.h").read_text()
    ffi = FFI()
    ffi.cdef(header.split("/* cdef: begin */")[1].split("/* cdef: end */")[0])
    return ffi, ffi.dlopen(str(library))


@dataclass(frozen=True)
class Probe:
    """The native side's library, and the plan's parameters: default, least, most."""

    ffi: FFI
    lib: Any
    table: dict[str, tuple[int, int, int]]

    @staticmethod
    def load(build: NativeBuild) -> Probe:
        table = tests_scheduler.Probe.load(build).table()
        return Probe(*_load(Path(f"{build.command('health_probe', 'tests')[-1]}.so")), table)

    def values(self, p: Parameters) -> list[int]:
        return [getattr(p, name, row[0]) for name, row in self.table.items()]


# ---- lives --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One event, `after` ns later than the one before. Which fields count depends on its kind."""

    kind: str
    after: int = 0
    others: bool = False
    alive: bool = False
    counts: bool = True
    waiting: bool = True
    random: int = 64  # no jitter
    predicted_ns: int = 0
    actual_ns: int = 0


@dataclass(frozen=True)
class Life:
    parameters: Parameters
    steps: tuple[Step, ...]
    predicted_ns: int = MS  # whose allowance is asked for at every step


KINDS = (
    *["sample"] * 2,
    *["success"] * 3,
    *["late"] * 8,
    *["broken"] * 2,
    *["idle"] * 4,
    *["connected"] * 3,
    *["canary"] * 2,
    *["error"] * 2,
    *["progress", "alone", "slow", "drained", "encouraged"],
)
PAUSES = (0, 1, 30 * US, 700 * US, MS, 2 * MS, 3 * MS, 9 * MS, 14 * MS, 80 * MS, 260 * MS, SECOND)
LONG_PAUSES = (6 * SECOND, 40 * SECOND, HOUR, 1 << 50)
TIMES = (0, 1, 200 * US, MS, 5 * MS, 90 * MS, HOUR, 1 << 51, (1 << 64) - 1)
RETRIES = (0, 1, 3, 16, 20)


def step_of(code: bytes) -> Step:
    kind = "gone" if code[0] == 255 and code[1] > 200 else KINDS[code[0] % len(KINDS)]
    pauses = LONG_PAUSES if code[1] % 23 == 22 else PAUSES
    times = TIMES if code[5] % 16 == 15 else TIMES[:6]
    return Step(
        kind,
        after=pauses[code[1] // 23 % len(pauses)] * (1 + code[2] % 7) // 4,
        others=code[3] % 3 > 0,
        alive=code[3] // 3 % 3 > 0,
        counts=code[3] // 9 % 4 > 0,
        waiting=code[3] // 36 % 2 > 0,
        random=code[4] * 0x0101_0101_0101_0101,
        predicted_ns=times[code[5] % len(times)],
        actual_ns=times[code[6] % len(times)],
    )


@st.composite
def parameters(draw: st.DrawFn) -> Parameters:
    changes: dict[str, int] = {}
    for name, values in {
        "deadline_floor": st.sampled_from([10 * US, 777 * US, 60 * SECOND]),
        "deadline_deviations": st.sampled_from([1, 3, 1000]),
        "deadline_initial": st.sampled_from([10 * US, 60 * SECOND]),
        "deadline_samples": st.integers(0, 5),
        "probe_first": st.sampled_from([MS, 7 * MS, 400 * MS, 60 * SECOND]),
        "probe_max": st.sampled_from([MS, 33 * MS, 600 * SECOND]),
        "probe_idle": st.sampled_from([MS, 90 * MS, HOUR]),
        "flap_half_life": st.sampled_from([0, 7, 8, 3 * MS, HOUR]),
        "last_path_patience": st.sampled_from([MS, 20 * MS, 600 * SECOND]),
    }.items():
        if draw(st.integers(0, 4)) == 4:
            changes[name] = draw(values)
    return Parameters(**changes)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    length = draw(st.integers(1, 150))
    codes = draw(st.binary(min_size=7 * length, max_size=7 * length))
    steps = tuple(step_of(codes[i : i + 7]) for i in range(0, len(codes), 7))
    return Life(draw(parameters()), steps, draw(st.sampled_from(TIMES)))


# ---- both sides ---------------------------------------------------------------------------------


class Side(Protocol):
    def tell(self, step: Step, now_ns: int) -> Action: ...

    def look(self, predicted_ns: int) -> Seen:
        """state, usable, slices_max, silent_ns, deviation_ns, margin_ns, flaps_q8, attempts; when
        the next probe is due while work waits and while none does; allowances by RETRIES."""


class ModelSide:
    def __init__(self, p: Parameters) -> None:
        self.p, self.health = p, Health()

    def tell(self, step: Step, now_ns: int) -> Action:
        h, p = self.health, self.p
        view = View(step.others, step.alive)
        match step.kind:
            case "sample":
                action, after = Action.NONE, h.sample(step.predicted_ns, step.actual_ns)
            case "late" | "error" | "slow":
                action, after = getattr(h, f"on_{step.kind}")(now_ns, view, p)
            case "drained":
                action, after = h.on_drained(now_ns, p)
            case "broken":
                action, after = h.on_broken(now_ns, step.counts, step.random, p)
            case "idle":
                action, after = h.on_idle(now_ns, step.waiting, p)
            case _:
                action, after = getattr(h, f"on_{step.kind}")()
        self.health = after
        return action

    def look(self, predicted_ns: int) -> Seen:
        h, p = self.health, self.p
        return (
            *(h.state, h.state == State.HEALTHY, h.slices_max, h.silent_ns),
            *(h.deviation_ns, h.margin_ns(p), h.flaps_q8, h.attempts),
            *(h.probe_due_ns(waiting, p) for waiting in (True, False)),
            *(h.allowance_ns(predicted_ns, retries, p) for retries in RETRIES),
        )


class NativeSide:
    def __init__(self, probe: Probe, p: Parameters) -> None:
        self.ffi, self.lib = probe.ffi, probe.lib
        self.health = self.ffi.gc(self.lib.health_open(probe.values(p)), self.lib.health_close)
        self.seen = self.ffi.new("health_seen *")

    def tell(self, step: Step, now_ns: int) -> Action:
        arguments: tuple[int, ...] = ()
        match step.kind:
            case "sample":
                self.lib.health_sample(self.health, step.predicted_ns, step.actual_ns)
                return Action.NONE
            case "late" | "error" | "slow":
                arguments = now_ns, step.others, step.alive
            case "drained":
                arguments = (now_ns,)
            case "broken":
                arguments = now_ns, step.counts, step.random
            case "idle":
                arguments = now_ns, step.waiting
        return Action(getattr(self.lib, f"health_{step.kind}")(self.health, *arguments))

    def look(self, predicted_ns: int) -> Seen:
        lib, h, s = self.lib, self.health, self.seen
        lib.health_look(h, s)
        return (
            *(State(s.state), bool(s.usable), s.slices_max, s.silent_ns),
            *(s.deviation_ns, s.margin_ns, s.flaps_q8, s.attempts),
            *(lib.health_probe_due_ns(h, waiting) for waiting in (True, False)),
            *(lib.health_allowance_ns(h, predicted_ns, retries) for retries in RETRIES),
        )


def live(side: Side, life: Life) -> Iterator[Seen]:
    """Plays the life; after each step: the action, and all that can be seen."""
    now_ns = 0
    for step in life.steps:
        now_ns += step.after
        yield side.tell(step, now_ns), *side.look(life.predicted_ns)
