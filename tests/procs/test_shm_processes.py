"""Two real processes of one machine over shm: every way; peers that die, freeze or take away."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from peers import KEY
from shm_peer import descriptors, shared_mappings
from shm_peers import MIB, WAYS, Actor, ActorFailed, actor, plan, way_plan

from tent import (
    Busy,
    Cancelled,
    Denied,
    Engine,
    NotFound,
    OutOfRange,
    PeerLost,
    Region,
    Segment,
    StaleSegment,
    Status,
    TentError,
    Timeout,
    TransportFailed,
    Unfenced,
)
from tent.testing import eventually, pattern

LOST = (PeerLost, TransportFailed, Unfenced, StaleSegment)
GONE = (*LOST, OutOfRange, Denied, NotFound)
ONE_SIDED = ("mapped", "attach")


@dataclass
class Ours:
    """Our end: memory of the kind that the way is tested with."""

    engine: Engine
    segment: Segment
    region: Region
    bytes: npt.NDArray[np.uint8]

    def move(self, op: str = "write", *, seconds: float = 20.0) -> None:
        call = self.engine.write if op == "write" else self.engine.read
        call(self.segment, local=self.region, remote="peer", timeout=seconds)

    def parts(self, op: str, part: int = MIB) -> dict[str, object]:
        starts = np.arange(0, len(self.bytes), part, dtype=np.uint64)
        lengths = np.minimum(np.uint64(len(self.bytes)) - starts, np.uint64(part))
        return {"op": op, "local": (self.region, starts), "remote": ("peer", starts),
                "length": lengths}  # fmt: skip


@contextmanager
def ours(peer: Actor, way: str, text: str, size: int) -> Iterator[Ours]:
    with Engine(plan=text, key=KEY, name="tester") as engine:
        private = WAYS[way][1] == "private"
        data = np.zeros(size, dtype=np.uint8) if private else engine.alloc(size).numpy()
        region = engine.register(data, label="local")
        yield Ours(engine, engine.open_segment(peer.address, timeout=20.0), region, data)


@contextmanager
def two(
    way: str, size: int, *, throttle: str | None = None, slices: str = "1m"
) -> Iterator[tuple[Actor, Ours]]:
    """The peer, and us as the initiator; throttle: of what we start."""
    text = way_plan(way, throttle=throttle).replace("shm[0]", f"shm[0] slice={slices}")
    with (
        actor(way_plan(way), size=size, memory=WAYS[way][1]) as peer,
        ours(peer, way, text, size) as own,
    ):
        yield peer, own


def digest(data: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(data.data).hexdigest()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_carries_every_byte_both_ways(way: str) -> None:
    size = 24 * MIB + 12345
    with two(way, size) as (peer, own):
        own.bytes[:] = pattern(size, seed=1)
        expected = digest(own.bytes)
        for op in ("write", "read"):
            with own.engine.submit(own.segment, **own.parts(op)) as batch:
                batch.wait(60)
            if op == "write":
                assert peer.ask("digest")["digest"] == expected
                own.bytes[:] = 0
        assert digest(own.bytes) == expected
        own.engine.write(own.segment, local=own.region[:1], remote="peer", notice=b"bye")
        assert peer.ask("notice")["notice"] == "bye"
        there = own.segment.region("peer")
        told = own.engine.explain(own.segment, op="write", length=4096, remote=there)
        assert [c.via[: len(WAYS[way][0])] for c in told.candidates] == [WAYS[way][0]], told
        # The target did not take part, and counts what was done to it all the same.
        eventually(
            lambda: peer.ask("served") == {"written": size + 1, "read": size},
            what="the target's counters",
        )
        assert peer.ask("charged")["charged"] == 0


def test_memory_of_both_kinds_in_one_engine_takes_two_ways() -> None:
    with two("mapped", MIB) as (peer, own), actor(plan(), memory="private") as other:
        second = own.engine.open_segment(other.address, timeout=20.0)
        for segment, way in ((own.segment, "mapped"), (second, "process_vm")):
            own.bytes[:] = pattern(MIB, seed=len(way))
            own.engine.write(segment, local=own.region, remote="peer")
            there = segment.region("peer")
            told = own.engine.explain(segment, op="write", length=4096, remote=there)
            assert told.candidates[0].via.startswith(way)
            found = (peer if segment is own.segment else other).ask("digest")["digest"]
            assert found == digest(own.bytes)


# ---- the target dies ----------------------------------------------------------------------------


# Whose memory the copies touch differs by way and direction; the rest is the same for all.
ENOUGH = [("mapped", "write"), ("mapped", "read"), ("attach", "write"), ("ring", "read")]


@pytest.mark.parametrize(("way", "op"), ENOUGH)
def test_a_target_killed_in_mid_transfer_ends_every_request(way: str, op: str) -> None:
    size = 16 * MIB
    before = len(shared_mappings())
    with two(way, size, throttle="128mbit", slices="64k") as (peer, own):
        batch = own.engine.submit(own.segment, **own.parts(op))
        eventually(lambda: own.engine.counters().engine.slices > 0, what="the first slice")
        assert not batch.done
        peer.kill()
        with pytest.raises(LOST) as caught:
            batch.wait(30)
        assert own.segment.name in str(caught.value)
        statuses = batch.status()["status"]
        assert not (statuses == Status.IN_PROGRESS).any()
        assert (statuses < 0).any()
        batch.close()
        with pytest.raises(LOST):
            own.move(op)
        # The next run at the same address is another one: nothing of the old one reaches it.
        with actor(way_plan(way), size=size, memory=WAYS[way][1], listen=peer.address) as again:
            own.bytes[:] = 7
            with pytest.raises(LOST):
                own.engine.write(own.segment, local=own.region, remote=again.base, timeout=10)
            assert again.ask("count", value=0)["count"] == size
            own.segment.close()
            own.segment = own.engine.open_segment(again.address, timeout=20.0)
            again.ask("fill", value=9)
            own.engine.read(own.segment, local=own.region[:MIB], remote="peer")
            assert (own.bytes[:MIB] == 9).all(), "read out of the memory of the dead one"
            own.engine.write(own.segment, local=own.region[MIB : 2 * MIB], remote="peer")
            assert again.ask("count", value=7)["count"] == MIB
        own.segment.close()
        own.region.release()
        own.bytes = np.zeros(1, dtype=np.uint8)  # ours are mapped as long as an array names them
    eventually(lambda: len(shared_mappings()) <= before, what="no mapping of a dead peer is left")


@pytest.mark.parametrize("way", WAYS)
def test_a_target_killed_at_full_speed_crashes_nobody(way: str) -> None:
    """No throttle between: the copy itself is what the kill meets."""
    seed, size = 31, 8 * MIB
    chance = random.Random(seed)
    with Engine(plan=way_plan(way), key=KEY) as engine:
        local = engine.register(engine.alloc(size))
        for number in range(3):
            with actor(way_plan(way), size=size, memory=WAYS[way][1]) as peer:
                segment = engine.open_segment(peer.address, timeout=20.0)
                killer = threading.Timer(chance.uniform(0.001, 0.05), peer.process.kill)
                killer.start()
                with pytest.raises(LOST):
                    for op in ("write", "read") * 100_000:
                        call = engine.write if op == "write" else engine.read
                        call(segment, local=local, remote="peer", timeout=20.0)
                killer.join()
                segment.close()
            assert not engine.closed, f"seed {seed}, round {number}"
        row = engine.counters().engine
        assert row.charged_bytes == row.released_bytes


# ---- the initiator dies -------------------------------------------------------------------------


def held() -> tuple[int, int]:
    """Descriptors of this process, and what it has mapped of engines' memory."""
    return len(descriptors()), len(shared_mappings())


def release(region: Region) -> None:
    def released() -> bool:
        try:
            region.release()
        except Busy:
            return False
        return True

    eventually(released, what="the release of a region whose user was killed")


@pytest.mark.parametrize(("way", "op"), ENOUGH)
def test_a_target_outlives_initiators_killed_in_mid_transfer(way: str, op: str) -> None:
    size, kind = 16 * MIB, WAYS[way][1]
    with Engine(plan=way_plan(way), key=KEY, name="target") as engine:
        private = kind == "private"
        data = np.zeros(size, dtype=np.uint8) if private else engine.alloc(size).numpy()
        region = engine.register(data, label="peer")
        before = held()
        for throttle in ("128mbit", None):
            with actor(way_plan(way, throttle=throttle), size=size, memory=kind) as user:
                user.ask("open", peer=engine.address)
                user.ask("fill", value=1)
                user.ask("submit", op=op, part=64 << 10)
                user.kill()
            # Nobody is left who could touch it: it is given back at once, and stays as it is.
            release(region)
            data[:] = 0x5A
            region = engine.register(data, label="peer")
        with actor(way_plan(way), memory=kind) as next_one:
            next_one.ask("open", peer=engine.address)
            next_one.ask("move", op="read")
            assert next_one.ask("count", value=0x5A)["count"] == MIB
        assert (data == 0x5A).all(), "a dead initiator's write landed"
        eventually(
            lambda: all(now <= then for now, then in zip(held(), before, strict=True)),
            what="descriptors and mappings of the dead are gone",
        )
        row = engine.counters().engine
        assert row.charged_bytes == row.released_bytes


HASTY = """
import os, signal, sys, threading
from tent import Engine
address, plan, key, seconds = sys.argv[1:]
threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL)).start()
while True:
    with Engine(plan=plan, key=bytes.fromhex(key)) as engine:
        segment = engine.open_segment(address, timeout=20.0)
        local = engine.register(engine.alloc(4096))
        engine.write(segment, local=local, remote="peer")
"""


def test_initiators_killed_while_they_connect_leave_nothing(tmp_path: Path) -> None:
    seed = 5
    chance = random.Random(seed)
    with Engine(plan=plan(), key=KEY, name="target") as engine:
        memory = engine.alloc(MIB)
        engine.register(memory, label="peer")
        before = held()
        for _ in range(3):
            seconds = str(chance.uniform(0.01, 0.08))
            command = [sys.executable, "-c", HASTY, engine.address, plan(), KEY.hex(), seconds]
            users = [subprocess.Popen(command, cwd=tmp_path) for _ in range(2)]
            assert [user.wait(60) for user in users] == [-signal.SIGKILL] * 2
        eventually(
            lambda: all(now <= then for now, then in zip(held(), before, strict=True)),
            what=f"nothing is left of those killed (seed {seed})",
        )


# ---- the target takes its memory away -----------------------------------------------------------


def test_memory_unmapped_without_release_is_a_status_and_no_crash() -> None:
    with two("attach", 4 * MIB) as (peer, own), actor(plan(), memory="private") as other:
        own.move()
        assert peer.ask("unmap")["error_name"] == ""
        for op in ("write", "read"):
            with pytest.raises(OutOfRange):
                own.move(op)
        second = own.engine.open_segment(other.address, timeout=20.0)
        own.bytes[:] = 5
        own.engine.write(second, local=own.region[:MIB], remote="peer")
        assert other.ask("count", value=5)["count"] == MIB


def test_a_mapped_peer_that_unmaps_its_own_mapping_harms_nobody() -> None:
    with two("mapped", 4 * MIB) as (peer, own):
        own.bytes[:] = 3
        own.move()
        assert peer.ask("unmap")["error_name"] == ""
        own.move()
        own.bytes[:] = 0
        own.move("read")
        assert (own.bytes == 3).all()


def test_memory_that_peers_map_cannot_be_truncated() -> None:
    with two("mapped", 4 * MIB) as (peer, own):
        own.bytes[:] = 3
        own.move()
        errors = peer.ask("truncate")["errors"]
        assert errors, "the target holds no descriptor of its memory"
        assert set(errors) <= {"EPERM", "EINVAL", "EBADF"}, errors
        own.bytes[:] = 0
        own.move("read")
        assert (own.bytes == 3).all()


class Hammer(threading.Thread):
    """Writes or reads the peer's whole memory until it must not any more."""

    def __init__(self, own: Ours, op: str) -> None:
        super().__init__()
        self.own, self.op, self.rounds = own, op, 0
        self.error: TentError | None = None

    def run(self) -> None:
        try:
            while True:
                self.own.move(self.op)
                self.rounds += 1
        except TentError as error:
            self.error = error


@pytest.mark.parametrize("way", WAYS)
def test_memory_released_while_a_peer_copies_is_the_applications_again(way: str) -> None:
    size = 4 * MIB
    with two(way, size) as (peer, own):
        own.bytes[:] = 1
        for number in range(5):
            hammer = Hammer(own, "write")
            hammer.start()
            eventually(lambda hammer=hammer: hammer.rounds > 0, what="a transfer")
            while True:
                try:
                    peer.ask("release")
                    break
                except ActorFailed as error:
                    assert error.name == "Busy", error
            hammer.join(30)
            assert isinstance(hammer.error, GONE), hammer.error
            count = peer.ask("count", value=0x5A)["count"]
            assert count == size, f"round {number}: {size - count} bytes written after the release"
            peer.ask("register")
            own.segment.refresh()


@pytest.mark.parametrize("way", WAYS)
def test_memory_whose_grant_was_revoked_while_a_peer_copies_is_left_alone(way: str) -> None:
    size = 4 * MIB
    with two(way, size) as (peer, own):
        own.bytes[:] = 1
        for number in range(3):
            descriptor = bytes.fromhex(peer.ask("grant")["descriptor"])
            segment = own.engine.open_segment(descriptor, timeout=20.0)
            hammer = Hammer(Ours(own.engine, segment, own.region, own.bytes), "write")
            hammer.start()
            eventually(lambda hammer=hammer: hammer.rounds > 0, what="a transfer")
            peer.ask("revoke")
            hammer.join(30)
            assert isinstance(hammer.error, (*GONE, Cancelled)), hammer.error
            count = peer.ask("count", value=0x5A)["count"]
            assert count == size, f"round {number}: {size - count} bytes written after the revoke"
            segment.close()


# ---- the target sleeps --------------------------------------------------------------------------


@pytest.mark.parametrize("way", ONE_SIDED)
def test_transfers_go_on_without_the_targets_processor(way: str) -> None:
    size = 8 * MIB
    with two(way, size) as (peer, own):
        own.move()
        peer.stop()
        for number in range(20):
            own.bytes[:] = number
            own.move()
            own.bytes[:] = 0xFF
            own.move("read")
            assert (own.bytes == number).all()
        peer.go_on()
        assert peer.ask("count", value=19)["count"] == size


def test_the_ring_waits_for_a_frozen_target_no_longer_than_its_deadline() -> None:
    with two("ring", 8 * MIB) as (peer, own):
        own.move()
        peer.stop()
        batch = own.engine.submit(own.segment, **own.parts("write"), deadline=0.3)
        with pytest.raises((Timeout, Unfenced)):
            batch.wait(20)
        assert batch.done  # by its own deadline, and not the wait
        batch.close()
        peer.go_on()
        own.bytes[:] = 8

        def moved() -> bool:
            try:
                own.move(seconds=5)
            except TentError:
                return False
            return True

        eventually(moved, what="a transfer after the target goes on", timeout=20)
        assert peer.ask("count", value=8)["count"] == 8 * MIB
