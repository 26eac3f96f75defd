"""What a mistake looks like: the exception's family, and a sentence with the facts in it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from tests_support import KEY, PLAN, SLOW_PLAN, closed_port

from tent import (
    AuthError,
    Busy,
    Denied,
    Engine,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PeerLost,
    PlanError,
    PluginError,
    ProtocolError,
    TentError,
    Timeout,
)
from tent.testing import Pair, engine_pair

pytest_plugins = ["tests_fixtures"]


def assert_says(error: BaseException, *words: str) -> None:
    text = str(error)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"listen": "nonsense"}, InvalidArgument, ["nonsense"]),
        ({"listen": "127.0.0.1:99999"}, InvalidArgument, ["99999"]),
        ({"plan": "plan 1\nrail x"}, PlanError, ["line 2", "column"]),
        ({"plan": "plan 9\n"}, TentError, ["9"]),
        ({"plan": "plan 1\nrail 0 nosuch lo\nroute * : nosuch[0]\n"}, PluginError, ["nosuch"]),
        ({"key": b"short"}, InvalidArgument, ["16"]),
        ({"key": None, "key_file": "/nonexistent/key"}, TentError, ["/nonexistent/key"]),
        ({"seed": -1}, InvalidArgument, ["seed", "-1"]),
        ({"requests_max": 2**70}, InvalidArgument, ["requests_max"]),
    ],
)
def test_an_engine_that_cannot_open_says_why(
    options: dict[str, Any], kind: type[Exception], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        Engine(**{"key": KEY, **options})
    assert_says(caught.value, *words)


def test_a_taken_port_is_named(pair: Pair) -> None:
    with pytest.raises(Busy) as caught:
        Engine(key=KEY, listen=pair.target.address)
    assert_says(caught.value, pair.target.address.rpartition(":")[2])


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"local": (0, 0), "remote": 0}, InvalidArgument, ["submit"]),
        ({"remote": "nosuch"}, NotFound, ["'nosuch'", "'target'", "refresh"]),
        ({"remote": ("target", 1 << 20)}, OutOfRange, ["1048576", "'target'"]),
        ({"remote": 4096, "length": 10}, OutOfRange, ["10 bytes", "0x1000", "request 0"]),
        ({"length": 0}, InvalidArgument, ["length is 0"]),
        ({"length": (1 << 20) + 1}, InvalidArgument, [str((1 << 20) + 1), "1048576"]),
        ({"length": -5}, InvalidArgument, ["length is -5"]),
        ({"length": 1.5}, InvalidArgument, ["length", "float"]),
        ({"remote": 2**64}, InvalidArgument, ["remote", str(2**64)]),
        ({"remote": 2**64 - 1, "length": 10}, InvalidArgument, ["wraps", "0xffffffffffffffff"]),
        ({"local": 4096, "length": 10}, OutOfRange, ["0x1000", "no registered region"]),
        ({"local": np.zeros(8, dtype=np.uint8)}, OutOfRange, ["no registered region"]),
        ({"local": 4096}, InvalidArgument, ["length is missing"]),
        ({"class_": "urgent"}, ValueError, ["'urgent'", "'high'"]),
    ],
)
def test_a_bad_write_says_what_and_where(
    pair: Pair, arguments: dict[str, Any], kind: type[Exception], words: list[str]
) -> None:
    asked: dict[str, Any] = {"local": pair.local, "remote": "target", **arguments}
    with pytest.raises(kind) as caught:
        pair.initiator.write(pair.segment, **asked)
    assert_says(caught.value, *words)
    assert not pair.remote_bytes.any()


def test_an_error_carries_its_place_as_values(pair: Pair) -> None:
    with pytest.raises(OutOfRange) as caught:
        pair.initiator.write(pair.segment, local=pair.local[:7], remote=4096)
    error = caught.value
    assert (error.segment, error.address, error.length, error.index) == (
        pair.segment.name,
        4096,
        7,
        0,
    )
    assert_says(error, pair.segment.name, f"{pair.local.address:#x}")


def test_the_index_of_the_bad_request_is_named(pair: Pair) -> None:
    remote = np.full(100, pair.remote.address, dtype=np.uint64)
    remote[63] = 1
    with pytest.raises(OutOfRange) as caught:
        pair.initiator.submit(
            pair.segment, op="write", local=pair.local.address, remote=remote, length=8
        )
    assert caught.value.index == 63
    assert_says(caught.value, "request 63")


@pytest.mark.parametrize(("piece", "words"), [((5, 5), "[5:5]"), ((0, 1 << 21), "1048576")])
def test_a_bad_piece_of_a_region(pair: Pair, piece: tuple[int, int], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        pair.local[piece[0] : piece[1]]
    assert_says(caught.value, words)


def test_reading_into_read_only_memory_is_denied(pair: Pair) -> None:
    frozen = bytes(100)
    region = pair.initiator.register(frozen, access="r")
    for local in (frozen, region, region[10:20], (region, 5)):
        with pytest.raises(Denied, match="read-only"):
            pair.initiator.read(pair.segment, local=local, remote="target", length=10)
    with pytest.raises(Denied, match=r"request 1 .*read-only"):
        pair.initiator.submit(
            pair.segment,
            op="read",
            local=np.array([pair.local.address, region.address], dtype=np.uint64),
            remote=pair.remote.address,
            length=4,
        )
    pair.initiator.write(pair.segment, local=frozen, remote="target")
    assert frozen == bytes(100)


def test_read_only_memory_is_not_offered_for_writing(pair: Pair) -> None:
    with pytest.raises(InvalidArgument, match="access='r'"):
        pair.initiator.register(bytes(100))


def test_regions_and_segments_of_other_engines_are_refused(pair: Pair) -> None:
    with pytest.raises(InvalidArgument, match="another engine"):
        pair.initiator.write(pair.segment, local=pair.remote, remote="target")
    with pytest.raises(InvalidArgument, match="another engine"):
        pair.target.write(pair.segment, local=pair.remote, remote="target")


def test_a_label_that_two_regions_have_is_no_address(pair: Pair) -> None:
    pair.target.register(bytearray(10), label="target")
    pair.segment.refresh()
    with pytest.raises(InvalidArgument, match="2 regions"):
        pair.initiator.write(pair.segment, local=pair.local[:1], remote="target")


def test_nobody_listens() -> None:
    with Engine(key=KEY) as engine:
        port = closed_port()
        with pytest.raises(PeerLost) as caught:
            engine.open_segment(f"127.0.0.1:{port}", timeout=10.0)
        assert_says(caught.value, str(port))


@pytest.mark.parametrize("peer", ["", "no-port", "127.0.0.1:0", "256.1.1.1.1:80"])
def test_bad_peer_addresses_are_refused(peer: str) -> None:
    with Engine(key=KEY) as engine, pytest.raises(TentError) as caught:
        engine.open_segment(peer, timeout=5.0)
    assert caught.value.sentence


@pytest.mark.parametrize("data", [b"", b"x", bytes(200), b"\xff" * 5000])
def test_foreign_descriptors_are_refused(data: bytes) -> None:
    with Engine(key=KEY) as engine, pytest.raises(ProtocolError):
        engine.open_segment(data)


def test_a_truncated_descriptor_is_refused(pair: Pair) -> None:
    whole = pair.target.export()
    for length in range(0, len(whole), max(1, len(whole) // 50)):
        with pytest.raises(ProtocolError):
            pair.initiator.open_segment(whole[:length])


def test_another_key_is_refused() -> None:
    with Engine(key=KEY) as one, Engine(key=KEY[::-1]) as other:
        begin = time.monotonic()
        with pytest.raises(AuthError):
            one.open_segment(other.address, timeout=10.0)
        assert time.monotonic() - begin < 5


def test_grants_of_nothing_are_refused(pair: Pair) -> None:
    with pytest.raises(InvalidArgument, match="without access"):
        pair.target.grant(access="")
    with pytest.raises(InvalidArgument, match="no regions"):
        pair.target.grant(regions=[])
    with pytest.raises(InvalidArgument, match="time zone"):
        pair.target.grant(expires=datetime(2030, 1, 1))
    with pytest.raises(ValueError, match="'x'"):
        pair.target.grant(access="x")


def test_a_write_that_runs_out_of_time_says_so_and_is_over() -> None:
    with engine_pair(plan=SLOW_PLAN, length=8 << 20) as pair:
        pair.local_bytes[:] = 1
        with pytest.raises(Timeout, match="nothing touches the memory"):
            pair.initiator.write(pair.segment, local=pair.local, remote="target", timeout=0.2)
        pair.remote_bytes[:] = 9
        pair.initiator.write(pair.segment, local=pair.local[:1], remote="target")
        assert (pair.remote_bytes[1:] == 9).all()


def test_a_pool_held_by_open_batches_is_explained(pair: Pair) -> None:
    with engine_pair(
        plan=PLAN,
        length=4096,
        initiator_options={"requests_max": 64},
    ) as small:
        engine = small.initiator
        with engine.batch() as holder:
            holder.submit(
                small.segment,
                op="write",
                local=(small.local, np.arange(64, dtype=np.uint64)),
                remote=small.remote.address,
                length=1,
            )
            with pytest.raises(TentError, match="requests_max"):
                engine.write(small.segment, local=small.local[:1], remote="target")
        engine.write(small.segment, local=small.local[:1], remote="target")
