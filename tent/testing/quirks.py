"""What a conformance suite knows of a transport, and the engines its tests start from.

Leans on tent.testing.fixtures and pytest. It knows no transport by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import pytest

from tent import Engine
from tent.testing.fixtures import Bytes, Pair, engine_pair, memory_of

MIB = 1 << 20
ROOM = 16 * MIB
SLOW_ROOM = 8 * MIB


@dataclass(frozen=True)
class Quirks:
    """What a transport's tests need to know about it.

    plan: the transport at full speed, all its rails in one tier. slow_plan: the same so slow that
    8 MiB take a second or more, so that a test can act in mid-transfer. target_plan: the target's,
    where the two sides have other rails; "": the initiator's own. integrity: it can check
    CRC32C. enforces_grants: the target itself checks each access (else the initiator's own check
    is all there is, and the tests of revoked and expired grants are skipped, with this as the
    reason). private: memory is the application's own on both sides, not engine.alloc's, for
    transports that treat the two differently.
    """

    plan: str
    slow_plan: str
    rails: int
    integrity: bool = True
    enforces_grants: bool = True
    private: bool = False
    target_plan: str = ""


class Engines:
    """Engines and memory as the quirks say."""

    quirks: ClassVar[Quirks]

    def engines(self, length: int, *, plan: str = "", access: str = "rw") -> _Opened:
        """Both engines with that plan ("": the quirks' own), the target with its own if it has."""
        return engine_pair(
            plan=plan or self.quirks.plan,
            target_plan=self.quirks.target_plan,
            length=length,
            access=access,
            private=self.quirks.private,
        )

    def memory(self, engine: Engine, length: int) -> Bytes:
        """More memory of the kind that the quirks say."""
        return memory_of(engine, length, private=self.quirks.private)

    @pytest.fixture
    def pair(self) -> Iterator[Pair]:
        with self.engines(ROOM) as pair:
            yield pair
            if not pair.initiator.closed and not pair.target.closed:
                pair.settle()

    @pytest.fixture
    def slow(self) -> Iterator[Pair]:
        with self.engines(SLOW_ROOM, plan=self.quirks.slow_plan) as pair:
            yield pair


_Opened = AbstractContextManager[Pair]
