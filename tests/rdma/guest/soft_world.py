"""Two engines of one process on the two sides of the rig's rails, and transfers that a test can act
in the middle of.

Leans on soft_plans.py, soft_rails.py and tent.testing. Both engines' memory is filled by seeded
patterns: a byte out of place shows where it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from soft_plans import PATIENT, plan
from soft_rails import SoftRail

from tent import Batch, Event, EventType, Status
from tent.testing import Pair, eventually, pattern
from tent.testing.fixtures import engine_pair

MIB = 1 << 20
# Slow enough that commands, which take a good part of a second here, act in mid-transfer, and far
# below what the emulated processor moves, so that a rail's rate is the rail's.
RAIL_MBIT = 40
LENGTH = 16 * MIB
WAIT_S = 60.0


@dataclass
class World:
    """tcp_rail: the number of the rail behind the others; None: there is none."""

    pair: Pair
    tcp_rail: int | None
    events: list[Event] = field(default_factory=list)

    def moved(self) -> list[int]:
        """Bytes that the initiator's rails have carried, by rail."""
        rows = self.pair.initiator.counters().rails
        return [row.bytes_written + row.bytes_read for row in rows]

    def retried(self) -> int:
        return self.pair.initiator.counters().engine.slices_retried

    def seen(self) -> list[Event]:
        """All events of the initiator so far."""
        self.events += self.pair.initiator.events()
        return self.events

    def saw(self, kind: EventType, *, rail: int) -> bool:
        return any(event.type == kind and event.rail == rail for event in self.seen())

    def begin(self, op: str = "write", *, seed: int = 1, parts: int = 8) -> Transfer:
        return Transfer(self, op, seed, parts)

    def move(self, op: str = "write", *, seed: int = 1) -> None:
        """A whole transfer, byte-exact and without an error."""
        with self.begin(op, seed=seed) as transfer:
            transfer.ends_well()

    def settle(self) -> None:
        self.pair.settle()


class Transfer:
    """All of the memory, in several requests of one batch."""

    def __init__(self, world: World, op: str, seed: int, parts: int) -> None:
        pair = world.pair
        self._world = world
        self._before = sum(world.moved())
        source, target = pair.local_bytes, pair.remote_bytes
        self.source, self.target = (source, target) if op == "write" else (target, source)
        self.expected = pattern(len(source), seed=seed)
        self.source[:] = self.expected
        self.target[:] = 0
        length = len(source) // parts
        starts = np.arange(parts, dtype=np.uint64) * np.uint64(length)
        self.batch: Batch = pair.initiator.submit(
            pair.segment, op=op, local=(pair.local, starts), remote=("target", starts),
            length=length,
        )  # fmt: skip

    def part(self) -> float:
        """How much of it has settled."""
        return (sum(self._world.moved()) - self._before) / len(self.source)

    def until(self, part: float) -> None:
        """Waits for its middle; a test that comes too late to act there fails."""
        eventually(lambda: self.part() >= part, what=f"{part:.0%} of a transfer", timeout=WAIT_S)
        assert not self.batch.done, "the transfer ended before the test could act"

    def ends_well(self) -> None:
        self.batch.wait(WAIT_S)
        assert (self.batch.status()["status"] == Status.OK).all()
        assert np.array_equal(self.target, self.expected)

    def __enter__(self) -> Transfer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.batch.close()


@contextmanager
def world(
    rails: list[SoftRail],
    *,
    mbit: list[int] | None = None,
    tcp: bool = False,
    length: int = LENGTH,
    settings: Mapping[str, str] | None = None,
) -> Iterator[World]:
    """Engines over these rails, shaped to so many Mbit/s, having moved something both ways."""
    words = {
        "rails": len(rails),
        "tcp": tcp,
        "slice_size": "256k",
        "settings": {**PATIENT, **(settings or {})},
    }
    with engine_pair(
        plan=plan("a", **words), target_plan=plan("b", **words), length=length
    ) as pair:
        made = World(pair, len(rails) if tcp else None)
        for rail, rate in zip(rails, mbit or [RAIL_MBIT] * len(rails), strict=True):
            rail.shape(rate)
        try:
            made.move("write", seed=100)
            made.move("read", seed=101)
            yield made
        finally:
            # pytest shows it where the test has failed.
            for name, events in (("a", made.seen()), ("b", pair.target.events())):
                for event in events:
                    print(f"{name} {event.time_ns / 1e9:.3f} rail {event.rail} {event.text}")
