"""One process's memory, and what every byte of it must be: areas, red zones, canaries.

An arena is a run of areas with a red zone before, between and behind them, and a shadow that holds
what the memory must hold. Ranges that somebody may be writing are set aside, all others can be
compared at any time. Leans on numpy. Must never take a byte for good that it did not look at.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
from cffi import FFI

ZONE_BYTES = 512
POOL_BYTES = 1 << 21
TAKE_TRIES = 12

Bytes = npt.NDArray[np.uint8]
Range = tuple[int, int]
"""(begin, end), offsets within an arena."""

_FFI: Any = FFI()
_FFI.cdef("int memcmp(const void *a, const void *b, size_t n);")
_C: Any = _FFI.dlopen(None)

# Canaries are cut from here: as good as fresh random bytes, and a copy is all they cost.
_POOL: Bytes = np.random.default_rng(20240229).integers(0, 256, POOL_BYTES, dtype=np.uint8)


class Arena:
    """Memory of one process; it outlives the process, as a file mapped anew would."""

    def __init__(self, areas: Iterable[tuple[str, int]], random: Random) -> None:
        """areas: (name, bytes) in the order in which they lie in memory."""
        self.areas: dict[str, Range] = {}
        at = ZONE_BYTES
        for name, length in areas:
            self.areas[name] = (at, at + length)
            at += length + ZONE_BYTES
        self.length = at
        self.bytes: Bytes = np.empty(at, dtype=np.uint8)
        self.shadow: Bytes = np.empty(at, dtype=np.uint8)
        self.address = int(self.bytes.ctypes.data)
        self._here = _FFI.cast("char *", self.address)
        self._there = _FFI.cast("char *", int(self.shadow.ctypes.data))
        self.busy: list[Range] = []  # of requests in flight, sources and destinations
        self.unknown: list[Range] = []  # somebody may write here: destinations, unfenced ranges
        self.random = random
        self.refill()

    def refill(self) -> None:
        """New canaries everywhere; nothing is in flight any more."""
        self.busy.clear()
        self.unknown.clear()
        self.fill((0, self.length))

    def fill(self, place: Range) -> None:
        """A canary that has never been there before, in all likelihood."""
        begin, end = place
        while begin < end:
            length = min(end - begin, POOL_BYTES // 2)
            offset = self.random.randrange(POOL_BYTES - length)
            canary = _POOL[offset : offset + length]
            self.bytes[begin : begin + length] = canary
            self.shadow[begin : begin + length] = canary
            begin += length

    def take(self, area: str, length: int) -> Range | None:
        """A place in the area that nobody uses, now busy; None: none was found."""
        begin, end = self.areas[area]
        room = end - begin - length
        for _ in range(TAKE_TRIES if room >= 0 else 0):
            first = begin + self.random.randrange(room + 1)
            place = (first, first + length)
            if self._free(place):
                self.busy.append(place)
                return place
        return None

    def _free(self, place: Range) -> bool:
        begin, end = place
        for ranges in (self.busy, self.unknown):
            for first, last in ranges:
                if first < end and begin < last:
                    return False
        return True

    def end(self, place: Range) -> None:
        """The place of a request that has ended."""
        self.busy.remove(place)

    def watch(self, place: Range) -> None:
        """From now on nobody may write there."""
        if place in self.unknown:
            self.unknown.remove(place)

    def holds(self, place: Range, other: Arena, source: Range) -> bool:
        """Are these the bytes that the other arena should have at `source`?"""
        begin, end = place
        return not _C.memcmp(self._here + begin, other._there + source[0], end - begin)

    def intact(self, place: Range) -> bool:
        """Is it as its shadow says?"""
        begin, end = place
        return not _C.memcmp(self._here + begin, self._there + begin, end - begin)

    def damage(self) -> Range | None:
        """The first bytes that changed though nobody might change them."""
        at = 0
        for begin, end in [*sorted(self.unknown), (self.length, self.length)]:
            if at < begin and not self.intact((at, begin)):
                wrong = np.flatnonzero(self.bytes[at:begin] != self.shadow[at:begin])
                return at + int(wrong[0]), at + int(wrong[-1]) + 1
            at = max(at, end)
        return None

    def name_of(self, offset: int) -> str:
        """Where that is, for people."""
        for name, (begin, end) in self.areas.items():
            if begin <= offset < end:
                return f"{name}+{offset - begin:#x}"
        return f"red zone at {offset:#x}"
