"""shm breaks in mid-transfer, tcp serves and shm comes back: the application sees a dip at most."""

from __future__ import annotations

import time

import numpy as np
import pytest
from peers import KEY
from shm_peers import MIB, WAYS, actor, plan

from tent import Engine, EventType, Status
from tent.testing import eventually, pattern

SIZE = 8 * MIB
QUICK = {"deadline_floor": "20ms", "last_path_patience": "50ms"}


def bytes_by_transport(engine: Engine) -> dict[str, int]:
    rows = engine.counters().rails
    return {row.name.split()[0]: row.bytes_written + row.bytes_read for row in rows}


FAULTS = {
    "error": "fault.at=250ms:cut,for=250ms",
    "hang": "fault.at=250ms:cut=hang,for=250ms",
    "slices": "fault.at=250ms:slice=0.5,for=250ms",
    "silence": "fault.at=250ms:drop=0.1,for=250ms",
    "down": "fault.cut_after=100m fault.cut_for=250ms fault.cut=down",
}


@pytest.mark.parametrize(
    ("way", "name"),
    [("mapped", name) for name in FAULTS] + [("attach", "hang"), ("ring", "hang")],
)
def test_tcp_serves_while_shm_is_broken_and_shm_comes_back(way: str, name: str) -> None:
    settings = WAYS[way][2]
    text = plan(tcp=True, faults=FAULTS[name], core=QUICK, **settings)
    memory = WAYS[way][1]
    with (
        actor(plan(tcp=True, core=QUICK, **settings), size=SIZE, memory=memory) as peer,
        Engine(plan=text, key=KEY, name="tester") as engine,
    ):
        begin = time.monotonic()
        private = memory == "private"
        data = np.zeros(SIZE, dtype=np.uint8) if private else engine.alloc(SIZE).numpy()
        local = engine.register(data, label="local")
        segment = engine.open_segment(peer.address, timeout=20.0)
        starts = np.arange(0, SIZE, MIB, dtype=np.uint64)
        rounds = 0

        def move() -> None:
            op = "read" if rounds % 2 else "write"
            expected = pattern(SIZE, seed=rounds // 2)
            if op == "write":
                data[:] = expected
            else:
                data[:] = 0
            with engine.submit(
                segment, op=op, local=(local, starts), remote=("peer", starts), length=MIB
            ) as batch:
                batch.wait(30)
                assert (batch.status()["status"] == Status.OK).all()
            assert np.array_equal(data, expected), f"round {rounds}"

        while time.monotonic() - begin < 0.6 or bytes_by_transport(engine)["tcp"] == 0:
            move()
            rounds += 1
            assert time.monotonic() - begin < 30, "tcp never served"
        before = bytes_by_transport(engine)

        def back() -> bool:
            nonlocal rounds
            move()
            rounds += 1
            return bytes_by_transport(engine)["shm"] - before["shm"] >= 4 * SIZE

        eventually(back, what="shm carries bytes again", timeout=30)
        last = bytes_by_transport(engine)
        for _ in range(4):
            move()
            rounds += 1
        now = bytes_by_transport(engine)
        assert now["tcp"] == last["tcp"], "tcp still carries what shm could"
        kinds = {event.type for event in engine.events()}
        assert EventType.ENDPOINT_FAILED in kinds or EventType.ENDPOINT_SUSPECT in kinds, kinds
        row = engine.counters().engine
        assert row.charged_bytes == row.released_bytes
