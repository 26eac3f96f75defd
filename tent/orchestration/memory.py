"""Local memory: pages fit for transfers, registered regions, and pieces of regions.

Leans on _abi. A region keeps its buffer alive through the engine until it is released; it must
never let go of memory that a transfer may still touch.
"""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tent import _abi
from tent.errors import Busy, Closed, InvalidArgument
from tent.types import Access, MemoryInfo, parse_access

if TYPE_CHECKING:
    from types import TracebackType

    from tent.orchestration.engine import Engine

_LENGTH_END = 1 << 63
_NODE_END = 1 << 32


class Memory:
    """Zeroed, page-aligned memory of the process's own, for registering.

    Freed by `close`, or when neither it nor a view of it is referenced any more. Not bound to an
    engine's life: views stay valid after the engine is closed.

    It is a sealed memfd, so that peers on this host can map what is registered of it and pay one
    copy; where the system gives no memfd it is private memory, and `info.why` says so. A forked
    child reads the bytes as they are, and what it writes stays its own.

    numa: a node to be bound to; None: wherever the kernel puts it. huge: "auto" takes reserved
    huge pages where they are free and fit, else transparent ones; "none" normal pages; "2m" and
    "1g" reserved ones, or NoMemory. access: "r": the kernel refuses peers every writable mapping,
    and regions take access "r" at most; it stays writable here. shared=False: no memfd; peers
    reach it in other ways, and a forked child has the bytes as they were. label: for
    /proc/<pid>/maps, at most 31 bytes.
    """

    def __init__(
        self,
        length: int,
        *,
        numa: int | None = None,
        huge: str = "auto",
        access: str | Access = "rw",
        shared: bool = True,
        label: str = "",
    ) -> None:
        if not 0 < length < _LENGTH_END:
            raise InvalidArgument(f"length is {length}; write a positive number of bytes")
        if huge not in _abi.HUGE:
            raise InvalidArgument(f"huge is {huge!r}; write one of {', '.join(_abi.HUGE)}")
        if numa is not None and not 0 <= numa < _NODE_END:
            raise InvalidArgument(f"numa is {numa}; write the number of a NUMA node, or None")
        bits = parse_access(access)
        if not bits & Access.READ:
            raise InvalidArgument(f"access is {access!r}; memory is made for 'r' or 'rw'")
        self._length = length
        self._bytes: Any = _abi.memory_alloc(
            length,
            flags=(0 if numa is None else _abi.ALLOC_BIND) | (0 if shared else _abi.ALLOC_PRIVATE),
            access=int(bits),
            node=numa or 0,
            huge=_abi.HUGE[huge],
            label=label,
        )

    def __len__(self) -> int:
        return self._length

    @property
    def closed(self) -> bool:
        """True once freed."""
        return self._bytes is None

    @property
    def info(self) -> MemoryInfo:
        """What it has become: pages, node, and whether peers can map it."""
        return _abi.memory_about(self._open())

    def view(self) -> memoryview:
        """The bytes; `close` refuses while a view is referenced."""
        return memoryview(self._open())

    def _open(self) -> Any:
        found = self._bytes
        if found is None:
            raise Closed("the memory was freed by close()")
        return found

    def numpy(self, dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
        """The bytes as a one-dimensional array (no copy)."""
        return np.frombuffer(self.view(), dtype=dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array = self.numpy()
        return array if dtype is None and not copy else np.array(array, dtype=dtype)

    if sys.version_info >= (3, 12):

        def __buffer__(self, flags: int, /) -> memoryview:
            return self.view()

    def close(self) -> None:
        """Frees the memory. Refused with Busy while it is registered or a view of it exists."""
        found, self._bytes = self._bytes, None
        if found is None:
            return
        watch = weakref.ref(found)
        del found
        # Nothing but views refers to it now: what is still there has one.
        self._bytes = watch()
        if self._bytes is not None:
            raise Busy(
                f"memory of {self._length} bytes cannot be freed: it is registered as a region, or "
                "an array or memoryview of it is still referenced; release and drop those first"
            )

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<tent.Memory of {self._length} bytes{', closed' if self.closed else ''}>"


@dataclass(frozen=True)
class Span:
    """A piece of a region: what `region[a:b]` gives."""

    region: Region
    offset: int
    length: int

    @property
    def address(self) -> int:
        """Absolute address of its first byte."""
        return self.region.address + self.offset


class Region:
    """Registered local memory; made by `Engine.register`.

    `region[a:b]` names a piece of it in bytes. `release` (or leaving a `with` block) ends it.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        handle: int,
        address: int,
        length: int,
        access: Access,
        readonly: bool,
        location: str,
        label: str,
    ) -> None:
        self.engine = engine
        self.handle = handle
        self.address = address
        self.length = length
        self.access = access
        self.readonly = readonly
        self.location = location
        self.label = label
        self._released = False

    @property
    def released(self) -> bool:
        """True once released."""
        return self._released

    @property
    def about(self) -> str:
        """How the transports have registered it: a line for each rail that pins memory, as
        "rdma: rail 0 mlx5_0: ...", with the reason and the remedy where it could not be; ""
        where none does."""
        return self.engine.native.region_about(self.handle)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, piece: slice) -> Span:
        if not isinstance(piece, slice):
            raise InvalidArgument("index a region by a slice of bytes: region[begin:end]")
        if piece.step not in (None, 1):
            raise InvalidArgument(f"the slice has step {piece.step}; a span has no gaps")
        begin, end = _bound(piece.start, 0), _bound(piece.stop, self.length)
        if not 0 <= begin < end <= self.length:
            # Clamping, as lists do, would turn a mistake into a shorter transfer.
            raise InvalidArgument(f"[{begin}:{end}] is no piece of a region of {self.length} bytes")
        return Span(region=self, offset=begin, length=end - begin)

    def release(self) -> None:
        """Ends the region: peers' new accesses are refused, running ones end, then it returns.

        Busy while own requests use it. A second call does nothing.
        """
        if not self._released:
            self.engine._release(self)
            self._released = True

    def __enter__(self) -> Region:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.engine.closed:
            self.release()

    def __repr__(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        state = ", released" if self._released else ""
        return f"<tent.Region{label} {self.address:#x}+{self.length}{state}>"


def _bound(value: Any, default: int) -> int:
    if value is None:
        return default
    try:
        return int(value.__index__())
    except AttributeError:
        raise InvalidArgument(f"{value!r} is no byte offset") from None
