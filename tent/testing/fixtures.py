"""Two engines that know each other, with memory on both sides: what conformance tests start from.

Leans on the public package. Sources and targets are filled by seeded patterns, so that a byte out
of place shows where it came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tent import Engine, Region, Segment

KEY = b"tent conformance key"
Bytes = npt.NDArray[np.uint8]


def pattern(length: int, seed: int) -> Bytes:
    """Random bytes, the same for the same seed."""
    return np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8)


@dataclass
class Pair:
    """An initiator, a target, the memory each registered, and the segment between them."""

    initiator: Engine
    target: Engine
    local: Region
    remote: Region
    local_bytes: Bytes
    remote_bytes: Bytes
    segment: Segment

    def settle(self) -> None:
        """Asserts that at rest nothing is charged any more (invariant 4)."""
        for engine in (self.initiator, self.target):
            counters = engine.counters()
            for row in (counters.engine, *counters.rails, *counters.endpoints):
                assert row.charged_bytes == row.released_bytes, row
                assert row.inflight_bytes == 0, row


def memory_of(engine: Engine, length: int, *, private: bool = False) -> Bytes:
    """Zeros of the engine's own making; private: of the application's, which peers cannot map."""
    return np.zeros(length, dtype=np.uint8) if private else engine.alloc(length).numpy()


@contextmanager
def engine_pair(
    *,
    plan: str,
    length: int,
    target_plan: str = "",
    access: str = "rw",
    private: bool = False,
    target_options: dict[str, Any] | None = None,
    initiator_options: dict[str, Any] | None = None,
) -> Iterator[Pair]:
    """Opens both engines, the target with its own plan if it has one, `length` bytes of zeros on
    each side (memory_of)."""
    with (
        Engine(
            plan=target_plan or plan, key=KEY, name="target", **(target_options or {})
        ) as target,
        Engine(plan=plan, key=KEY, name="initiator", **(initiator_options or {})) as initiator,
    ):
        remote_bytes = memory_of(target, length, private=private)
        local_bytes = memory_of(initiator, length, private=private)
        remote = target.register(remote_bytes, access=access, label="target")
        local = initiator.register(local_bytes, label="local")
        segment = initiator.open_segment(target.address, timeout=20.0)
        yield Pair(initiator, target, local, remote, local_bytes, remote_bytes, segment)
