"""The conformance suite's part about memory: of any origin, at any place, used anew by others.

Leans on the public package and tent.testing.quirks. It knows no transport by name.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

from tent import Denied, Engine, NotFound, OutOfRange, StaleSegment
from tent.testing.fixtures import Bytes, Pair, pattern
from tent.testing.quirks import MIB, Engines

# Where memory may come from. Transports that map or reach into memory treat them differently.
KINDS = ("alloc", "array", "bytearray", "map", "shared map")
GONE = (OutOfRange, Denied, StaleSegment, NotFound)


def made(engine: Engine, kind: str, length: int) -> tuple[Any, Bytes]:
    """Something to register, and its bytes."""
    owner: Any
    match kind:
        case "alloc":
            owner = engine.alloc(length)
        case "array":
            owner = np.zeros(length, dtype=np.uint8)
        case "bytearray":
            owner = bytearray(length)
        case "map":
            owner = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE)
        case _:
            owner = mmap.mmap(-1, length)
    return owner, np.asarray(owner) if kind == "alloc" else np.frombuffer(owner, dtype=np.uint8)


class MemoryConformance(Engines):
    """The tests; TransportConformance has them."""

    @pytest.mark.parametrize("remote", KINDS)
    @pytest.mark.parametrize("local", ["alloc", "array"])
    def test_memory_of_any_origin_on_either_side(self, pair: Pair, local: str, remote: str) -> None:
        length = MIB + 77
        here_owner, here = made(pair.initiator, local, length)
        there_owner, there = made(pair.target, remote, length)
        own = pair.initiator.register(here_owner, label="here")
        pair.target.register(there_owner, label="there")
        pair.segment.refresh()
        here[:] = source = pattern(length, seed=20)
        pair.initiator.write(pair.segment, local=own, remote="there")
        assert np.array_equal(there, source)
        there[:] = source = pattern(length, seed=21)
        pair.initiator.read(
            pair.segment, local=own, remote="there", integrity=self.quirks.integrity
        )
        assert np.array_equal(here, source)

    @pytest.mark.parametrize("op", ["write", "read"])
    def test_one_batch_over_memory_of_every_origin(self, pair: Pair, op: str) -> None:
        kinds = [kind for kind in KINDS for _ in range(2)]
        part, rounds = 70_001, 8
        theirs = [made(pair.target, kind, part * rounds) for kind in kinds]
        bases = [
            pair.target.register(owner, label=f"kind {number}").address
            for number, (owner, _) in enumerate(theirs)
        ]
        pair.segment.refresh()
        count = len(kinds) * rounds
        order = np.random.default_rng(22).permutation(count)
        remote = np.array([bases[n % len(kinds)] + n // len(kinds) * part for n in order])
        local = pair.local.address + np.arange(count, dtype=np.uint64) * np.uint64(part)
        expected = pattern(count * part, seed=23)
        if op == "write":
            pair.local_bytes[: count * part] = expected
        else:
            for at, n in enumerate(order):
                begin = n // len(kinds) * part
                theirs[n % len(kinds)][1][begin : begin + part] = expected[
                    at * part : (at + 1) * part
                ]
        with pair.initiator.submit(
            pair.segment, op=op, local=local, remote=remote.astype(np.uint64), length=part
        ) as batch:
            batch.wait(60)
        for at, n in enumerate(order):
            begin = n // len(kinds) * part
            got = theirs[n % len(kinds)][1][begin : begin + part]
            assert np.array_equal(got, expected[at * part : (at + 1) * part]), (at, kinds[n % 10])
        assert np.array_equal(pair.local_bytes[: count * part], expected)

    def test_a_piece_of_memory_is_a_region_with_edges(self, pair: Pair) -> None:
        whole = self.memory(pair.target, 3 * MIB)
        begin, end = 4093, 2 * MIB + 5
        info = pair.target.register(whole[begin:end], label="piece")
        pair.segment.refresh()
        assert [r.length for r in pair.segment.regions if r.label == "piece"] == [end - begin]
        pair.local_bytes[:] = 7
        pair.initiator.write(pair.segment, local=pair.local[: end - begin], remote="piece")
        assert (whole[begin:end] == 7).all()
        assert not whole[:begin].any()
        assert not whole[end:].any()
        for address in (info.address - 1, info.address + end - begin):
            with pytest.raises(OutOfRange):
                pair.initiator.write(pair.segment, local=pair.local[:1], remote=address)

    def test_neighbours_in_one_memory_keep_their_own_rights(self, pair: Pair) -> None:
        whole = self.memory(pair.target, 2 * MIB + 100)
        cut = MIB + 50
        pair.target.register(whole[:cut], label="open")
        pair.target.register(whole[cut:], label="closed", access="r")
        pair.segment.refresh()
        pair.local_bytes[:] = 9
        pair.initiator.write(pair.segment, local=pair.local[:cut], remote="open")
        with pytest.raises(Denied):
            pair.initiator.write(pair.segment, local=pair.local[:10], remote="closed")
        assert (whole[:cut] == 9).all()
        assert not whole[cut:].any()
        whole[cut:] = 3
        pair.initiator.read(pair.segment, local=pair.local[: len(whole) - cut], remote="closed")
        assert (pair.local_bytes[: len(whole) - cut] == 3).all()

    def test_memory_at_the_place_of_what_was_released_is_reached_anew(self, pair: Pair) -> None:
        """What a transport keeps of a region (a mapping, a key) must end with the region."""
        address, reused = 0, 0
        for number in range(1, 7):
            memory = pair.target.alloc(MIB)
            there = memory.numpy()
            region = pair.target.register(memory, label=f"life {number}")
            reused += int(region.address == address)
            address = region.address
            pair.segment.refresh()
            pair.local_bytes[:MIB] = number
            pair.initiator.write(pair.segment, local=pair.local[:MIB], remote=f"life {number}")
            assert (there == number).all(), f"life {number} at {address:#x}"
            region.release()
            there[:] = 0x5A
            with pytest.raises(GONE):
                pair.initiator.write(pair.segment, local=pair.local[:8], remote=address)
            assert (there == 0x5A).all()
            del there
            memory.close()

    def test_the_same_memory_may_be_released_and_registered_again(self, pair: Pair) -> None:
        there = pair.remote_bytes
        for number in range(1, 6):
            pair.remote.release()
            pair.remote = pair.target.register(there, label=f"again {number}")
            pair.segment.refresh()
            pair.local_bytes[:] = number
            pair.initiator.write(pair.segment, local=pair.local, remote=f"again {number}")
            assert (there == number).all()

    def test_hundreds_of_regions(self, pair: Pair) -> None:
        count, part = 300, 4096
        theirs = [self.memory(pair.target, part) for _ in range(count)]
        regions = [pair.target.register(memory) for memory in theirs]
        pair.segment.refresh()
        pair.local_bytes[:] = pattern(len(pair.local_bytes), seed=24)
        starts = np.arange(count, dtype=np.uint64) * np.uint64(part)
        with pair.initiator.submit(
            pair.segment,
            op="write",
            local=(pair.local, starts),
            remote=np.array([region.address for region in regions], dtype=np.uint64),
            length=part,
        ) as batch:
            batch.wait(60)
        for number, memory in enumerate(theirs):
            begin = number * part
            assert np.array_equal(memory, pair.local_bytes[begin : begin + part]), number
        for region in regions[::2]:
            region.release()
        pair.segment.refresh()
        pair.initiator.write(pair.segment, local=pair.local[:part], remote=regions[1].address)
        with pytest.raises(GONE):
            pair.initiator.write(pair.segment, local=pair.local[:part], remote=regions[2].address)
