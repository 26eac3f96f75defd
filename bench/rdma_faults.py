"""What broken RDMA rails cost: the first slice that goes elsewhere, the way to TCP and back.

Leans on rdma_fabric for the wires, and on the failover benchmark's child and arithmetic. Both rails
are shaped, so that processors are not what limits them. Must never judge a transfer that arrived
with wrong bytes.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from failover_math import resprayed
from failover_report import Figure
from harness import BenchError, LineProcess
from rdma_fabric import Breaker, Rail
from report import MIB, Check

HERE = Path(__file__).resolve().parent
SHAPED_MBIT = 48
LENGTH = 16 * MIB
DEPTH = 16 * MIB
BROKEN = 1
SECOND = 1_000_000_000
FAULTS = {"link down": 50, "silent loss": 100}
"""How many ms until the first slice is sent again are allowed."""
BACK_MS = 1000
CHILD_S = 120.0  # an emulated processor takes long to import


class FaultBench:
    """Two processes with an engine each, whose rails can be broken."""

    def __init__(
        self, folder: Path, rails: Sequence[Rail], mine: str, theirs: str, *, rounds: int
    ) -> None:
        """mine, theirs: plans, with a rung of tcp behind the rails."""
        self._plans = (mine, theirs)
        self._rails = rails
        self._rounds = rounds
        self._key_file = folder / "key"
        with os.fdopen(os.open(self._key_file, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as key:
            key.write(secrets.token_bytes(32))
        self._breaker = Breaker(rails, SHAPED_MBIT)
        self._initiator = self._child()
        self._target = self._child()

    def __enter__(self) -> FaultBench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._initiator.close()
        self._target.close()
        self._breaker.close()

    def _child(self) -> LineProcess:
        return LineProcess([sys.executable, str(HERE / "failover_end.py"), str(self._key_file)])

    @staticmethod
    def _ask(child: LineProcess, do: str, **values: Any) -> dict[str, Any]:
        return child.ask(json.dumps({"do": do, **values}), timeout_s=CHILD_S)

    def _connect(self) -> None:
        mine, theirs = self._plans
        self._ask(self._target, "serve", plan=theirs, listen="127.0.0.1:0", size=LENGTH)
        told = self._ask(self._target, "descriptor")["descriptor"]
        self._ask(self._initiator, "connect", plan=mine, descriptor=told, size=LENGTH)
        words = {"op": "write", "depth": DEPTH, "warm_ns": SECOND, "measure_ns": SECOND}
        moved = self._ask(self._initiator, "stream", **words)["bytes"]
        idle = [rail.a.device for rail, each in zip(self._rails, moved, strict=False) if not each]
        if idle:
            raise BenchError(f"{', '.join(idle)} carried nothing before anything was broken")

    def _close(self) -> None:
        self._ask(self._initiator, "close")
        self._ask(self._target, "close")

    def measure(self, checks: list[Check]) -> None:
        """All of them; what could not be had is among them with its reason."""
        parts: dict[str, Callable[[], list[Check]]] = {
            fault: partial(self._cut, fault, most) for fault, most in FAULTS.items()
        }
        for name, part in {**parts, "both rails down": self._fallback}.items():
            try:
                checks += part()
            except (BenchError, ValueError) as error:
                checks.append(Check(name, float("nan"), "", "-", False, str(error)))
                self._restart()

    def _restart(self) -> None:
        """Whole rails and fresh processes, so that what went wrong stays where it was."""
        self._initiator.close()
        self._target.close()
        for number in range(len(self._rails)):
            self._breaker.heal(number)
        self._initiator = self._child()
        self._target = self._child()

    def _cut(self, fault: str, most: int) -> list[Check]:
        """One rail of two breaks at a third of a large write."""
        resent = []
        for seed in range(self._rounds):
            self._connect()
            expected = self._ask(self._initiator, "fill", seed=seed)["digest"]
            words = {"length": LENGTH, "mark": LENGTH // 3, "deadline_s": None}
            if self._ask(self._initiator, "once", **words)["mark_ns"] == 0:
                raise BenchError("the write ended before a third of it was seen to have settled")
            cut_ns = time.monotonic_ns()
            self._breaker.cut(BROKEN, fault)
            told = self._initiator.answer(timeout_s=CHILD_S)
            self._breaker.heal(BROKEN)
            if told["status"] != "OK":
                raise BenchError(f"{fault}: the write ended with {told['status']}")
            if self._ask(self._target, "digest")["digest"] != expected:
                raise BenchError(f"{fault}: the write arrived with wrong bytes")
            resent.append(resprayed(told["samples"], cut_ns))
            self._close()
        figure = Figure.ms(f"{fault}: first slice re-sprayed after", resent, most=most)
        return [figure.check(f"one of two rails, {LENGTH // MIB} MiB, bytes verified", None)]

    def _fallback(self) -> list[Check]:
        """Both rails die under a stream of writes, and heal two seconds later."""
        gone, back, after = [], [], []
        for _ in range(self._rounds):
            self._connect()
            words = {"op": "write", "depth": DEPTH, "warm_ns": 0, "measure_ns": 8 * SECOND}
            begun_ns = self._ask(self._initiator, "watch", **words)["begun_ns"]
            cut_ns = self._at(begun_ns + SECOND, lambda rail: self._breaker.cut(rail, "link down"))
            healed_ns = self._at(begun_ns + 3 * SECOND, self._breaker.heal)
            samples = self._initiator.answer(timeout_s=CHILD_S)["samples"]
            rdma = range(len(self._rails))
            gone.append(carried(samples, cut_ns, [len(self._rails)]))
            back.append(carried(samples, healed_ns, rdma))
            after.append(share(samples, samples[-1][0] - SECOND, rdma))
            self._close()
        note = "both rails down for 2 s under a stream of writes; no request failed"
        return [
            Figure.ms("both rails down: tcp carries after", gone, most=None).check(note, None),
            Figure.ms("healed: rdma carries again after", back, most=BACK_MS).check("", None),
            Check(
                "rdma's share of the last second",
                100 * statistics.median(after),
                "%",
                ">= 90 %",
                min(after) >= 0.9,
                "five seconds after the heal",
            ),
        ]

    def _at(self, time_ns: int, act: Callable[[int], None]) -> int:
        """Does it to every rail at that time; gives when it was begun."""
        time.sleep(max(time_ns - time.monotonic_ns(), 0) / 1e9)
        begun_ns = time.monotonic_ns()
        for number in range(len(self._rails)):
            act(number)
        return begun_ns


def carried(samples: Sequence[Any], at_ns: int, rails: Sequence[int]) -> int | None:
    """From `at_ns` until these rails have settled more than then; None: they did not."""
    before = [sample for sample in samples if sample[0] <= at_ns]
    if not before:
        raise ValueError("the samples do not reach over the time asked about")
    start = sum(before[-1][1][rail] for rail in rails)
    for sample in samples[len(before) :]:
        if sum(sample[1][rail] for rail in rails) > start:
            return int(sample[0]) - at_ns
    return None


def share(samples: Sequence[Any], since_ns: int, rails: Sequence[int]) -> float:
    """Of all bytes settled since then, what these rails carried; 0 where nothing was."""
    first = next(sample for sample in samples if sample[0] >= since_ns)
    moved = [last - then for then, last in zip(first[1], samples[-1][1], strict=True)]
    return sum(moved[rail] for rail in rails) / sum(moved) if sum(moved) else 0.0
