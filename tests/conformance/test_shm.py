"""The shm transport conforms, each of its three ways alone, and all of them together.

Which way a class means to test is checked first: else a way that silently fell back to another
would pass for it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from tent import Engine, Rail, spread
from tent.testing import Pair, Quirks, TransportConformance

MIB = 1 << 20
KEY = b"a key of this test"


def plan(*, throttle: str | None = None, **settings: str) -> str:
    options = {} if throttle is None else {"fault.throttle": throttle}
    return spread(
        "shm",
        [Rail("shm", "host", options=options)],
        settings={f"shm.{name}": value for name, value in settings.items()},
        decorations={} if throttle is None else {"shm": "fault"},
    ).render()


def quirks(*, private: bool = False, **settings: str) -> Quirks:
    return Quirks(
        plan=plan(**settings),
        slow_plan=plan(throttle="32mbit", **settings),
        rails=1,
        private=private,
    )


class ShmConformance(TransportConformance):
    """By which way the pair's memory is reached, as `tent explain` says it."""

    way: ClassVar[str]

    def test_it_is_this_way_that_is_tested(self, pair: Pair) -> None:
        told = pair.initiator.explain(pair.segment, op="write", length=4096, remote="target")
        vias = [candidate.via for candidate in told.candidates]
        assert vias, told
        assert all(via.startswith(self.way) for via in vias), vias


class TestShmMapped(ShmConformance):
    way = "mapped"
    quirks = quirks()


class TestShmAttach(ShmConformance):
    """The helpers' queue and stores past the caches begin early, so that slices meet them."""

    way = "process_vm"
    quirks = quirks(private=True, inline_max="16k", nontemporal_min="64k")


class TestShmRing(ShmConformance):
    """A ring so small that every larger slice goes round it many times."""

    way = "ring"
    quirks = quirks(mapped="no", attach="no", ring_chunk="32k", ring_chunks="8")


def no_way_plan(*ways: str) -> str:
    """Without these ways; behind shm stands tcp."""
    closed = "".join(f"set shm.{way}=no\n" for way in ways)
    return f"plan 1\n{closed}rail 0 shm host\nrail 1 tcp 127.0.0.1\nroute * : shm[0] ; tcp[1]\n"


@pytest.mark.parametrize(
    ("ours", "theirs", "private"),
    [
        (no_way_plan("mapped", "attach"), no_way_plan("ring"), False),
        (no_way_plan("attach", "ring"), no_way_plan("attach", "ring"), True),
    ],
    ids=["the two plans leave none", "memory that cannot be mapped"],
)
def test_where_no_way_is_left_the_next_transport_serves(
    ours: str, theirs: str, private: bool
) -> None:
    with (
        Engine(plan=theirs, key=KEY, name="target") as target,
        Engine(plan=ours, key=KEY, name="initiator") as initiator,
    ):
        there = np.zeros(MIB, dtype=np.uint8) if private else target.alloc(MIB).numpy()
        target.register(there, label="target")
        here = np.full(MIB, 3, dtype=np.uint8)
        segment = initiator.open_segment(target.address, timeout=20.0)
        initiator.write(segment, local=initiator.register(here), remote="target")
        assert (there == 3).all()
        moved = {row.name.split()[0]: row.bytes_written for row in initiator.counters().rails}
        assert moved == {"shm": 0, "tcp": MIB}
