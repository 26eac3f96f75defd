"""Two real processes over loopback rails: the job itself, and peers that die, freeze or lie."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from peers import KEY, Peer, peer_process, plan

from tent import (
    AuthError,
    Cancelled,
    Engine,
    EventType,
    PeerLost,
    Region,
    Segment,
    StaleSegment,
    Status,
    TentError,
    TransportFailed,
    Unfenced,
)
from tent.testing import eventually, pattern

MIB = 1 << 20
LOST = (PeerLost, TransportFailed, Unfenced, StaleSegment)


@contextmanager
def connected(peer: Peer, text: str, size: int) -> Iterator[tuple[Engine, Segment, Region]]:
    with Engine(plan=text, key=KEY, name="tester") as engine:
        local = engine.register(engine.alloc(size).numpy(), label="local")
        yield engine, engine.open_segment(peer.address, timeout=20.0), local


def bytes_of(engine: Engine, region: Region) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    kept = next(facts for facts in engine.buffers if facts.address == region.address)
    assert isinstance(kept.keep, np.ndarray)
    return kept.keep


def test_four_rails_carry_every_byte_both_ways() -> None:
    size = 32 * MIB + 12345
    with (
        peer_process(text=plan(), size=size) as peer,
        connected(peer, plan(), size) as (
            engine,
            segment,
            local,
        ),
    ):
        data = bytes_of(engine, local)
        data[:] = pattern(size, seed=1)
        expected = hashlib.sha256(data.data).hexdigest()
        starts = np.arange(0, size, MIB, dtype=np.uint64)
        lengths = np.minimum(np.uint64(size) - starts, np.uint64(MIB))
        for op in ("write", "read"):
            with engine.submit(
                segment, op=op, local=(local, starts), remote=("peer", starts), length=lengths
            ) as batch:
                batch.wait(60)
            if op == "write":
                assert peer.ask("digest")["digest"] == expected
                data[:] = 0
        assert hashlib.sha256(data.data).hexdigest() == expected
        engine.write(segment, local=local[:1], remote="peer", notice=b"bye")
        assert peer.ask("notice")["notice"] == "bye"
        assert peer.ask("counters")["charged"] == 0


@pytest.mark.parametrize("op", ["write", "read"])
def test_a_killed_peer_ends_every_request_in_time(op: str) -> None:
    size, text = 32 * MIB, plan(2, throttle="64mbit", fence_timeout="500ms")
    with (
        peer_process(text=plan(2), size=size) as peer,
        connected(peer, text, size) as (
            engine,
            segment,
            local,
        ),
    ):
        parts = np.arange(32, dtype=np.uint64) * np.uint64(MIB)
        batch = engine.submit(
            segment, op=op, local=(local, parts), remote=("peer", parts), length=MIB
        )
        eventually(lambda: engine.counters().engine.slices > 0, what="the first slice")
        assert not batch.done
        peer.kill()
        begin = time.monotonic()
        with pytest.raises(LOST) as caught:
            batch.wait(30)
        assert time.monotonic() - begin < 15
        assert segment.name in str(caught.value)
        rows = batch.status()
        assert not (rows["status"] == Status.IN_PROGRESS).any()
        assert (rows["status"] < 0).any()
        # Local memory is quiescent and can be taken back; the engine goes on with others.
        local.release()
        with pytest.raises(LOST):
            engine.write(segment, local=engine.register(bytearray(8)), remote=peer.base)
        with peer_process(text=plan(2), size=MIB) as other:
            second = engine.open_segment(other.address, timeout=20.0)
            engine.write(second, local=bytearray_region(engine), remote="peer")


def bytearray_region(engine: Engine) -> Region:
    return engine.register(bytearray(b"x" * 4096))


def test_a_frozen_peer_cannot_hold_a_cancel_back() -> None:
    size, text = 64 * MIB, plan(2, fence_timeout="300ms", cancel_grace="50ms")
    with (
        peer_process(text=plan(2), size=size) as peer,
        connected(peer, text, size) as (
            engine,
            segment,
            local,
        ),
    ):
        peer.stop()
        batch = engine.submit(segment, op="write", local=local, remote="peer", length=size)
        eventually(
            lambda: (
                engine.counters().engine.inflight_bytes > 0
                or any(row.inflight_bytes for row in engine.counters().rails)
            ),
            what="bytes on the way",
        )
        batch.cancel()
        begin = time.monotonic()
        with pytest.raises((Unfenced, Cancelled)) as caught:
            batch.wait(20)
        assert time.monotonic() - begin < 10
        # Bytes may sit in the frozen process's sockets: nothing but "unfenced" would be the truth.
        assert isinstance(caught.value, Unfenced)
        local.release()
        peer.go_on()


HASTY = """
import os, signal, sys
from tent import Engine
address, plan, key = sys.argv[1:]
engine = Engine(plan=plan, key=bytes.fromhex(key))
segment = engine.open_segment(address, timeout=20.0)
local = engine.register(engine.alloc(8 << 20))
batch = engine.submit(segment, op="write", local=local, remote="target", length=8 << 20)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_peer_outlives_its_killed_initiators(tmp_path: Path) -> None:
    """The target's side: what a dead initiator left behind is given back."""
    with ExitStack() as stack:
        target = stack.enter_context(Engine(plan=plan(2), key=KEY, name="target"))
        memory = target.alloc(8 * MIB).numpy()
        target.register(memory, label="target")
        for _ in range(3):
            hasty = subprocess.run(
                [sys.executable, "-c", HASTY, target.address, plan(2), KEY.hex()],
                cwd=tmp_path,
                timeout=60,
                check=False,
            )
            assert hasty.returncode == -signal.SIGKILL
        own = stack.enter_context(Engine(plan=plan(2), key=KEY))
        segment = own.open_segment(target.address, timeout=20.0)
        source = pattern(8 * MIB, seed=3)
        own.write(segment, local=own.register(source), remote="target")
        assert np.array_equal(memory, source)
        row = target.counters().engine
        assert row.charged_bytes == row.released_bytes


def test_a_restarted_peer_on_the_same_port_is_stale() -> None:
    with Engine(plan=plan(2), key=KEY) as engine:
        local = bytearray_region(engine)
        with peer_process(text=plan(2), size=MIB) as peer:
            segment = engine.open_segment(peer.address, timeout=20.0)
            engine.write(segment, local=local, remote="peer")
            address = peer.address
            peer.kill()
        with peer_process(text=plan(2), size=MIB, listen=address) as again:
            with pytest.raises(LOST):
                engine.write(segment, local=local, remote=again.base, timeout=10)
            zeros = hashlib.sha256(bytes(MIB)).hexdigest()
            assert again.ask("digest")["digest"] == zeros
            fresh = engine.open_segment(address, timeout=20.0)
            engine.write(fresh, local=local, remote="peer")
            assert again.ask("digest")["digest"] != zeros


# ---- strangers ----------------------------------------------------------------------------------


def stranger(address: tuple[str, int], seed: int, stop: threading.Event) -> None:
    """Connections that no engine makes, one after another, until told to stop."""
    chance = random.Random(seed)
    while not stop.is_set():
        try:
            with socket.create_connection(address, timeout=2) as sock:
                sock.settimeout(0.2)
                kind = chance.randrange(4)
                if kind == 0:
                    sock.sendall(chance.randbytes(chance.randrange(1, 5000)))
                elif kind == 1:
                    for byte in chance.randbytes(20):
                        sock.sendall(bytes([byte]))
                elif kind == 2:
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                # and kind 3 says nothing
                sock.recv(100)
        except OSError:
            continue


def test_strangers_at_the_listener_disturb_no_transfer() -> None:
    size, seed = 8 * MIB, 20240
    with (
        peer_process(text=plan(), size=size) as peer,
        connected(peer, plan(), size) as (
            engine,
            segment,
            local,
        ),
    ):
        host, _, port = peer.address.rpartition(":")
        idle = [socket.create_connection((host, int(port)), timeout=5) for _ in range(10)]
        stop = threading.Event()
        threads = [
            threading.Thread(target=stranger, args=((host, int(port)), seed + n, stop))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        try:
            data = bytes_of(engine, local)
            for number in range(20):
                data[:] = pattern(size, seed=number)
                engine.write(segment, local=local, remote="peer", timeout=30)
                digest = hashlib.sha256(data.data).hexdigest()
                assert peer.ask("digest")["digest"] == digest, f"seed {seed}, round {number}"
            # New sessions are still taken in as well.
            with Engine(plan=plan(), key=KEY) as second:
                second.open_segment(peer.address, timeout=20.0)
        finally:
            stop.set()
            for thread in threads:
                thread.join(10)
            for sock in idle:
                sock.close()
        assert peer.ask("counters")["refused"] > 0


def test_another_key_is_refused_by_both_sides() -> None:
    with (
        peer_process(text=plan(1), size=MIB) as peer,
        Engine(plan=plan(1), key=b"quite another secret") as engine,
    ):
        begin = time.monotonic()
        with pytest.raises(AuthError):
            engine.open_segment(peer.address, timeout=10.0)
        assert time.monotonic() - begin < 5
        # We may know before the peer does.
        eventually(
            lambda: EventType.CONNECTION_REFUSED in [k for k, _ in peer.ask("events")["events"]],
            what="the peer's event",
        )


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_nobody_listens_to_the_world_without_a_key(
    listen: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TENT_KEY_FILE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(AuthError) as caught:
        Engine(listen=listen)
    assert "key" in str(caught.value)
    # A per-user key that exists does not change that.
    with Engine() as engine:
        assert engine.address.startswith("127.0.0.1:")
    with pytest.raises(AuthError):
        Engine(listen=listen)


def test_processes_of_one_user_need_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TENT_KEY_FILE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with (
        peer_process(text=plan(1), size=MIB, key=None, env=dict(os.environ)) as peer,
        Engine(plan=plan(1)) as engine,
    ):
        segment = engine.open_segment(peer.address, timeout=20.0)
        engine.write(segment, local=bytearray_region(engine), remote="peer")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600


def test_a_named_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    path.chmod(0o644)
    with pytest.raises(TentError) as caught:
        Engine(key_file=path)
    assert str(path) in str(caught.value)
    path.chmod(0o600)
    with Engine(key_file=path) as engine:
        assert engine.address
