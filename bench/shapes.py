"""What is measured: blocks, batches, directions, and the cache of a long prompt.

Leans on report. Must never know of a transport or a reference: both sides get the same shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from report import KIB, MIB

BLOCKS = (4 * KIB, 64 * KIB, MIB, 16 * MIB)
BATCHES = (1, 32)
OPS = ("write", "read")
FOOTPRINT_MIN = 32 * MIB  # beyond the private caches; blocks rotate through it
LATENCY_BLOCK = 4 * KIB
BATCH_SIZE_LARGE = 256 * MIB  # those are their own warm-up (bench.h)

# work.h: 61 layers of 32 blocks, each in a part of 128 KiB and one of 16 KiB
CACHE_BLOCK = 144 * KIB
CACHE_BLOCKS = 61 * 32


@dataclass(frozen=True)
class Shape:
    """One row's work. Cache: block and batch say its blocks; each is two copies."""

    op: str
    block: int
    batch: int
    cache: bool = False

    @property
    def size(self) -> int:
        return self.block * self.batch

    @property
    def footprint(self) -> int:
        return self.size if self.cache else max(self.size, FOOTPRINT_MIN)

    @property
    def name(self) -> str:
        return f"cache {self.op}" if self.cache else self.op

    def command(self, slice_ns: int) -> str:
        """The line that driver.c, reference.c and copies.c take for it."""
        if self.cache:
            return f"cache {self.op} {slice_ns}"
        return f"stream {self.op} {self.block} {self.batch} {self.footprint} {slice_ns}"


LATENCY = Shape("write", LATENCY_BLOCK, 1)


def shapes(*, cache: bool) -> list[Shape]:
    """All rows but the latency's, in the order of the report."""
    streams = [Shape(op, block, batch) for block in BLOCKS for batch in BATCHES for op in OPS]
    caches = [Shape(op, CACHE_BLOCK, CACHE_BLOCKS, cache=True) for op in OPS]
    return streams + (caches if cache else [])


def arena_size() -> int:
    """Bytes that hold every shape, on each side."""
    return max(2 * FOOTPRINT_MIN, *(shape.footprint for shape in shapes(cache=True)))
