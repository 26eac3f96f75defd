"""The one door to the native library: status -> exception, C values -> Python values.

Leans on tent._native (cffi, API mode: every call releases the GIL) and is its only importer. It
holds no policy and keeps no object alive; that is orchestration's. It must never let a native
call run with an engine that another thread is freeing: `NativeEngine` counts the calls inside.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tent import _rows
from tent._library import CData, Library
from tent._rows import Values
from tent.errors import Closed, Forked, error_for
from tent.types import (
    CounterRow,
    Event,
    Explanation,
    MemoryInfo,
    Notice,
    RegionInfo,
    RequestStatus,
    Status,
    UnfencedRange,
)

try:
    from tent import _native
except ImportError as error:  # a source tree without a build
    raise ImportError(
        f"the native part of tent cannot be loaded ({error}); install the package "
        "(`pip install .` in the source tree builds it)"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable

U64 = npt.NDArray[np.uint64]
BatchOptions = tuple[int, int, int, str | None, int]
"""(flags, class, completions, label, deadline in ns after submit or 0)."""

STATUS_DTYPE: np.dtype[np.void] = np.dtype(
    [("user_data", "<u8"), ("bytes", "<u8"), ("status", "<i4"), ("rail", "<i4")]
)
COMPLETION_DTYPE: np.dtype[np.void] = np.dtype(
    [
        ("batch", "<u8"),
        ("user_data", "<u8"),
        ("bytes", "<u8"),
        ("status", "<i4"),
        ("index", "<u4"),
    ]
)

_TEXT_MAX = 1 << 20
_NOTICE_MAX = 65536


_ffi: Any = _native.ffi
_lib: Library = _native.lib

_U64_ARRAY = _ffi.typeof("uint64_t[]")
_U32_POINTER = _ffi.typeof("uint32_t *")
_COLUMNS_POINTER = _ffi.typeof("tent_columns *")
_COLUMNS_SIZE = int(_ffi.sizeof("tent_columns"))

SEAL = 1
NO_WAKE = 2
CHECK_OVERLAP = 1
INTEGRITY = 2
COMPLETIONS_NONE = 0
COMPLETIONS_EACH = 1
COMPLETIONS_BATCH = 2
UNFENCED_FORGET_PROVEN = 1
ALLOC_BIND, ALLOC_PRIVATE = 1, 2
HUGE = {"auto": 0, "none": 1, "2m": 2, "1g": 3}
"""What pages to make memory of; as tent_memory_options.huge says it."""
COUNTERS_ENGINE, COUNTERS_RAIL, COUNTERS_ENDPOINT, COUNTERS_CLASS = range(4)


# ---- without an engine --------------------------------------------------------------------------


def version() -> str:
    """Version of the native library."""
    return _text(_lib.tent_version())


def now_ns() -> int:
    """The engines' monotonic clock, for comparing with the times of events."""
    return int(_lib.tent_now_ns())


def status_name(status: int) -> str:
    """Name of a status, "TENT_E_RANGE"."""
    return _text(_lib.tent_status_name(status))


def status_text(status: int) -> str:
    """A sentence on the meaning of a status."""
    return _text(_lib.tent_status_text(status))


def plan_check(text: str) -> None:
    """Raises PlanError, with line and column, if the plan has a mistake."""
    data = text.encode()
    _check(_lib.tent_plan_check(data, len(data)))


def plan_render(text: str) -> str:
    """The plan in canonical form."""
    data = text.encode()
    return _sized_text(lambda out, size: _lib.tent_plan_render(data, len(data), out, size))


def descriptor_print(data: bytes) -> str:
    """A descriptor as text, one fact per line, without its token."""
    return _sized_text(lambda out, size: _lib.tent_descriptor_print(data, len(data), out, size))


def transports_find(plugin_path: str) -> list[Values]:
    """The plugins found and the folders that cannot be read, as tent_transport_info."""
    return _list(
        "tent_transport_info",
        lambda *room: _lib.tent_transports_find(plugin_path.encode(), *room),
    )


def transport_options(plugin_path: str, name: str) -> list[Values]:
    """The options of a transport, as tent_option_info. Raises PluginError without a plugin."""
    return _list(
        "tent_option_info",
        lambda *room: _lib.tent_transport_options(plugin_path.encode(), name.encode(), *room),
    )


def transport_rails(plugin_path: str, name: str) -> list[Values]:
    """The rails that a transport finds, as tent_transport_rail. Raises PluginError."""
    return _list(
        "tent_transport_rail",
        lambda *room: _lib.tent_transport_rails(plugin_path.encode(), name.encode(), *room),
    )


def memory_alloc(
    length: int, *, flags: int, access: int, node: int, huge: int, label: str
) -> CData:
    """Memory of no engine, as a buffer of `length` bytes; freed when nothing refers to it."""
    options = _ffi.new("tent_memory_options *")
    options.size = _ffi.sizeof("tent_memory_options")
    options.flags, options.access, options.node, options.huge = flags, access, node, huge
    text = _ffi.new("char[]", label.encode())
    options.label = text
    out = _ffi.new("void **")
    _check(_lib.tent_memory_alloc_with(_ffi.NULL, length, options, out))
    # The buffer refers to the pointer, and every view of it to the buffer.
    return _ffi.buffer(_ffi.gc(_ffi.cast("char *", out[0]), _memory_free), length)


def _memory_free(
    pointer: CData,
    free: Callable[[CData, CData], int] = _lib.tent_memory_free,
    null: CData = _ffi.NULL,
) -> None:
    free(null, pointer)  # whatever is left of this module when the interpreter ends


def memory_about(buffer: CData) -> MemoryInfo:
    """What became of the memory behind a buffer."""
    info = _ffi.new("tent_memory_info *")
    info.size = _ffi.sizeof("tent_memory_info")
    _check(_lib.tent_memory_about(_ffi.from_buffer(buffer), info))
    return _rows.memory_info(_values("tent_memory_info", info))


def driver_functions() -> tuple[int, int]:
    """Addresses of tent_engine_step and tent_batch_poll, for native code that drives engines."""
    names = ("tent_engine_step", "tent_batch_poll")
    step, poll = (int(_ffi.cast("uintptr_t", _ffi.addressof(_lib, name))) for name in names)
    return step, poll


def _text(pointer: CData) -> str:
    found: bytes = _ffi.string(pointer)
    return found.decode("utf-8", "replace")


def _sentence(status: int) -> str:
    return _text(_lib.tent_last_error()) or status_text(status)


def _check(status: int) -> int:
    if status < 0:
        raise error_for(status, _sentence(status))
    return status


def _sized_text(call: Callable[[CData, CData], int]) -> str:
    size = _ffi.new("uint64_t *", 4096)
    while True:
        room = int(size[0])
        out = _ffi.new("char[]", room)
        status = call(out, size)
        if status == Status.AGAIN and room < int(size[0]) <= _TEXT_MAX:
            continue
        _check(status)
        return _text(out)


def _list(name: str, call: Callable[[CData, int, CData], int]) -> list[Values]:
    """The rows of a call that takes (out, stride, count), however many there are."""
    count = _ffi.new("uint32_t *", 16)
    while True:
        room = int(count[0])
        out = _ffi.new(f"{name}[]", room)
        _check(call(out, _ffi.sizeof(name), count))
        if count[0] <= room:
            return [_values(name, out[i]) for i in range(count[0])]


# ---- an engine ----------------------------------------------------------------------------------

# The process's open engines: what fork and interpreter exit act upon is process-wide by nature.
_ENGINES: weakref.WeakSet[NativeEngine] = weakref.WeakSet()


class NativeEngine:
    """An engine's pointer and its calls, which fail with Closed or Forked once it is gone.

    Any thread may call. `close` waits for the calls of other threads, so none of them should block
    for long: waits are made in slices by the callers.
    """

    def __init__(
        self,
        *,
        texts: dict[str, str | None],
        numbers: dict[str, int],
        key: bytes | None,
    ) -> None:
        self._gate = threading.Condition()
        self._pointer: CData | None = None
        self._active = 0
        self._closing = False
        self._forked = False
        self._closed = threading.Event()
        options = _ffi.new("tent_engine_options *")
        options.size = _ffi.sizeof("tent_engine_options")
        keep = []  # C strings live as long as their owner
        for name, text in texts.items():
            if text is not None:
                keep.append(_ffi.new("char[]", text.encode()))
                setattr(options, name, keep[-1])
        for name, number in numbers.items():
            setattr(options, name, number)
        if key is not None:
            keep.append(_ffi.from_buffer(key))
            options.key = keep[-1]
            options.key_size = len(key)
        out = _ffi.new("tent_engine **")
        _check(_lib.tent_engine_open(options, out))
        self._pointer = out[0]
        _ENGINES.add(self)

    # The gate: a call is inside between __enter__ and __exit__.

    def __enter__(self) -> CData:
        with self._gate:
            if self._forked:
                raise Forked(_FORKED)
            if self._closing:
                raise Closed("the engine is closed")
            self._active += 1
            return self._pointer

    def __exit__(self, *_: object) -> None:
        with self._gate:
            self._active -= 1
            if self._closing and self._active == 0:
                self._gate.notify_all()

    @property
    def closed(self) -> bool:
        """True from the moment a close began."""
        return self._closing or self._forked

    @property
    def forked(self) -> bool:
        """True in a fork of the process that opened the engine."""
        return self._forked

    def close(self) -> int:
        """Closes once; later and concurrent calls wait for the first. Returns its status."""
        with self._gate:
            if self._forked:
                return Status.OK
            first = not self._closing
            self._closing = True
            if first:
                while self._active:
                    self._gate.wait(0.1)
        if not first:
            self._closed.wait()
            return Status.OK
        pointer, self._pointer = self._pointer, None
        try:
            return int(_lib.tent_engine_close(pointer))
        finally:
            self._closed.set()

    def after_fork(self) -> None:
        """In the child: the engine is dead, and its lock may have been held by a lost thread."""
        self._gate = threading.Condition()
        self._forked = True

    def step(self, now_ns: int) -> bool:
        """One duty cycle of a manual engine; True when it did something."""
        with self as engine:
            return _check(_lib.tent_engine_step(engine, now_ns)) == Status.IN_PROGRESS

    @property
    def pointer_value(self) -> int:
        """The engine's address, for native code that steps it (the simulated fabric).

        Good until close; only for manual engines, which one thread alone uses.
        """
        with self as engine:
            return int(_ffi.cast("uintptr_t", engine))

    def address(self) -> str:
        """First advertised "host:port"."""
        out = _ffi.new("char[]", 512)
        with self as engine:
            _check(_lib.tent_engine_address(engine, out, 512))
        return _text(out)

    def event_fd(self) -> int:
        """The engine's eventfd; it stays the engine's."""
        out = _ffi.new("int32_t *")
        with self as engine:
            _check(_lib.tent_engine_event_fd(engine, out))
        return int(out[0])

    def plan_install(self, text: str) -> int:
        """Installs a plan; returns its generation."""
        data = text.encode()
        generation = _ffi.new("uint32_t *")
        with self as engine:
            _check(_lib.tent_plan_install(engine, data, len(data), generation))
        return int(generation[0])

    def plan_installed(self) -> str:
        """The installed plan in canonical form."""
        with self as engine:
            return _sized_text(lambda out, size: _lib.tent_plan_installed(engine, out, size))

    # ---- memory and segments

    def region_register(
        self, address: int, length: int, access: int, location: str | None, label: str | None
    ) -> int:
        """Registers memory; returns the region's handle."""
        options = _ffi.new("tent_region_options *")
        options.size = _ffi.sizeof("tent_region_options")
        options.access = access
        keep = []
        if location is not None:
            keep.append(_ffi.new("char[]", location.encode()))
            options.location = keep[-1]
        if label is not None:
            keep.append(_ffi.new("char[]", label.encode()))
            options.label = keep[-1]
        out = _ffi.new("uint64_t *")
        with self as engine:
            pointer = _ffi.cast("void *", address)
            _check(_lib.tent_region_register(engine, pointer, length, options, out))
        return int(out[0])

    def region_location(self, region: int) -> str:
        """The location it was registered with: as given, or the NUMA node that was found."""
        out = _ffi.new("char[]", 64)
        with self as engine:
            _check(_lib.tent_region_location(engine, region, out, 64))
        return _text(out)

    def region_about(self, region: int) -> str:
        """How the transports have registered it, a line for each rail that pins memory."""
        size = _ffi.new("uint64_t *")
        with self as engine:
            while True:
                out = _ffi.new("char[]", max(1, size[0]))
                status = _lib.tent_region_about(engine, region, out, size)
                if status != Status.AGAIN:
                    break
            _check(status)
        return _text(out)

    def region_release(self, region: int) -> None:
        """Returns when nothing touches the region any more."""
        with self as engine:
            _check(_lib.tent_region_release(engine, region))

    def grant_create(self, regions: list[int] | None, access: int, expires_unix_ms: int) -> int:
        """Makes a grant; None grants all regions, present and future."""
        options = _ffi.new("tent_grant_options *")
        options.size = _ffi.sizeof("tent_grant_options")
        options.access = access
        options.expires_unix_ms = expires_unix_ms
        handles = _ffi.NULL
        if regions is not None:
            handles = _ffi.new("uint64_t[]", regions or 1)
            options.regions = handles
            options.region_count = len(regions)
        out = _ffi.new("uint64_t *")
        with self as engine:
            _check(_lib.tent_grant_create(engine, options, out))
        return int(out[0])

    def grant_revoke(self, grant: int) -> None:
        """Returns when the grant's endpoints are retired."""
        with self as engine:
            _check(_lib.tent_grant_revoke(engine, grant))

    def segment_export(self, grant: int) -> bytes:
        """Descriptor bytes of a grant."""
        size = _ffi.new("uint64_t *", 4096)
        with self as engine:
            while True:
                room = int(size[0])
                out = _ffi.new("uint8_t[]", room)
                status = _lib.tent_segment_export(engine, grant, out, size)
                if status == Status.AGAIN and room < int(size[0]) <= _TEXT_MAX:
                    continue
                _check(status)
                return bytes(_ffi.buffer(out, int(size[0])))

    def segment_begin(self, peer: str | bytes) -> int:
        """Begins to open a segment by "host:port" or descriptor; follow with segment_wait."""
        out = _ffi.new("uint64_t *")
        with self as engine:
            if isinstance(peer, str):
                _check(_lib.tent_segment_open(engine, peer.encode(), 0, out))
            else:
                _check(_lib.tent_segment_import(engine, peer, len(peer), 0, out))
        return int(out[0])

    def segment_wait(self, segment: int, timeout_ns: int) -> bool:
        """True when usable, False when still under way; raises what it failed with."""
        with self as engine:
            status = _lib.tent_segment_wait(engine, segment, timeout_ns)
            if status == Status.TIMEOUT:
                return False
            return _check(status) == Status.OK

    def segment_refresh(self, segment: int, timeout_ns: int) -> bool:
        """Fetches the region list; False when time ran out."""
        with self as engine:
            status = _lib.tent_segment_refresh(engine, segment, timeout_ns)
            if status == Status.TIMEOUT:
                return False
            return _check(status) == Status.OK

    def segment_close(self, segment: int) -> None:
        """Cancels what is in flight on it, waits, forgets it."""
        with self as engine:
            _check(_lib.tent_segment_close(engine, segment))

    def segment_regions(self, segment: int) -> tuple[RegionInfo, ...]:
        """The segment's regions by ascending address; segment 0: our own."""
        count = _ffi.new("uint32_t *")
        room = 64
        with self as engine:
            while True:
                out = _ffi.new("tent_region_info[]", room)
                count[0] = room
                stride = _ffi.sizeof("tent_region_info")
                _check(_lib.tent_segment_regions(engine, segment, out, stride, count))
                if count[0] <= room:
                    break
                room = int(count[0]) + 16
        return tuple(
            _rows.region_info(_values("tent_region_info", out[i])) for i in range(count[0])
        )

    # ---- batches

    def batch_open(self, options: BatchOptions) -> int:
        """Opens an empty batch."""
        wanted, _keep = _batch_options(options)
        out = _ffi.new("uint64_t *")
        with self as engine:
            _check(_lib.tent_batch_open(engine, wanted, out))
        return int(out[0])

    def transfer_begin(
        self,
        request: tuple[int, int, int, int, int, int, int],
        flags: int,
        options: BatchOptions,
    ) -> tuple[int, int, str]:
        """A batch with the one request, or none: (handle, status, sentence)."""
        record = _ffi.new("tent_request *", request)
        index = _ffi.new("uint32_t *")
        out = _ffi.new("uint64_t *")
        wanted, _keep = _batch_options(options)
        with self as engine:
            status = _lib.tent_batch_open(engine, wanted, out)
            if status != Status.OK:
                return 0, status, _sentence(status)
            handle = int(out[0])
            status = _lib.tent_batch_submit(engine, handle, record, _REQUEST_SIZE, 1, flags, index)
            if status == Status.OK:
                return handle, status, ""
            sentence = _sentence(status)
            _lib.tent_batch_close(engine, handle)
            return 0, status, sentence

    def submit_one(
        self,
        batch: int,
        request: tuple[int, int, int, int, int, int, int],
        flags: int,
    ) -> tuple[int, int, str]:
        """Submits (op, 0, segment, local, remote, length, user_data).

        Returns status, how many were accepted (or which was refused), and the sentence.
        """
        record = _ffi.new("tent_request *", request)
        index = _ffi.new("uint32_t *")
        with self as engine:
            status = _lib.tent_batch_submit(engine, batch, record, _REQUEST_SIZE, 1, flags, index)
            return status, int(index[0]), _sentence(status) if status < 0 else ""

    def submit_columns(
        self,
        batch: int,
        op: int,
        segment: int,
        columns: tuple[U64, U64, U64 | None, U64 | None],
        length_each: int,
        flags: int,
    ) -> tuple[int, int, str]:
        """Submits equally long C-contiguous columns (local, remote, length, user_data)."""
        keep = [
            _ffi.NULL if column is None else _ffi.from_buffer(_U64_ARRAY, column)
            for column in columns
        ]
        # In the order of the struct; one call instead of nine assignments.
        facts = (_COLUMNS_SIZE, op, segment, len(columns[0]), *keep, length_each)
        record = _ffi.new(_COLUMNS_POINTER, facts)
        index = _ffi.new(_U32_POINTER)
        with self as engine:
            status = _lib.tent_batch_submit_columns(engine, batch, record, flags, index)
            return status, int(index[0]), _sentence(status) if status < 0 else ""

    def batch_seal(self, batch: int, segment: int, notice: bytes) -> None:
        """No more submits; the notice follows the data."""
        with self as engine:
            _check(_lib.tent_batch_seal(engine, batch, segment, notice or _ffi.NULL, len(notice)))

    def batch_poll(self, batch: int) -> tuple[int, str]:
        """OK, IN_PROGRESS or the first failure, with its sentence."""
        with self as engine:
            status = _lib.tent_batch_poll(engine, batch)
            return status, _sentence(status) if status < 0 else ""

    def batch_wait(self, batch: int, timeout_ns: int) -> tuple[int, str]:
        """As batch_poll, IN_PROGRESS when time ran out."""
        with self as engine:
            status = _lib.tent_batch_wait(engine, batch, timeout_ns)
            if status == Status.TIMEOUT:
                # A request's own terminal status may be TIMEOUT as well: poll tells them apart.
                status = _lib.tent_batch_poll(engine, batch)
            return status, _sentence(status) if status < 0 else ""

    def batch_cancel(self, batch: int) -> None:
        """Asks for an early end."""
        with self as engine:
            _check(_lib.tent_batch_cancel(engine, batch))

    def batch_close(self, batch: int) -> None:
        """Cancels, waits for quiescence, frees."""
        with self as engine:
            _check(_lib.tent_batch_close(engine, batch))

    def batch_status(self, batch: int, first: int, count: int) -> npt.NDArray[np.void]:
        """Statuses of requests [first, first + count) as a structured array."""
        out = np.zeros(count, dtype=STATUS_DTYPE)
        if count == 0:
            return out
        written = _ffi.new("uint32_t *", count)
        with self as engine:
            rows = _ffi.from_buffer("tent_request_status[]", out)
            _check(
                _lib.tent_batch_status(engine, batch, first, rows, STATUS_DTYPE.itemsize, written)
            )
        return out[: int(written[0])]

    # ---- rings and counters

    def completions(self) -> list[int]:
        """Batches that became terminal since the last call (at most 256)."""
        found: list[int] = self.completion_rows()["batch"].tolist()
        return found

    def completion_rows(self) -> npt.NDArray[np.void]:
        """The completions since the last call (at most 256), as COMPLETION_DTYPE."""
        out = np.empty(256, dtype=COMPLETION_DTYPE)
        count = _ffi.new("uint32_t *", len(out))
        with self as engine:
            rows = _ffi.from_buffer("tent_completion[]", out)
            _check(_lib.tent_completions_poll(engine, rows, COMPLETION_DTYPE.itemsize, count))
        return out[: int(count[0])]

    def notice(self) -> Notice | None:
        """Takes the oldest notice."""
        data = _ffi.new("uint8_t[]", _NOTICE_MAX)
        size = _ffi.new("uint32_t *", _NOTICE_MAX)
        sender = _ffi.new("char[64]")
        with self as engine:
            status = _lib.tent_notice_poll(engine, data, size, sender)
            if status == Status.NOT_FOUND:
                return None
            _check(status)
        return Notice(data=bytes(_ffi.buffer(data, int(size[0]))), sender=_text(sender))

    def events(self) -> list[Event]:
        """Takes all events, oldest first."""
        found: list[Event] = []
        out = _ffi.new("tent_event[64]")
        count = _ffi.new("uint32_t *")
        while True:
            count[0] = 64
            with self as engine:
                _check(_lib.tent_events_poll(engine, out, _ffi.sizeof("tent_event"), count))
            found += [_rows.event(_values("tent_event", out[i])) for i in range(count[0])]
            if count[0] < 64:
                return found

    def unfenced(self, *, forget_proven: bool) -> tuple[UnfencedRange, ...]:
        """The ranges that are or were unfenced, oldest first."""
        flags = UNFENCED_FORGET_PROVEN if forget_proven else 0
        stride = _ffi.sizeof("tent_unfenced_range")
        count = _ffi.new("uint32_t *")
        with self as engine:
            _check(_lib.tent_unfenced_read(engine, 0, _ffi.NULL, stride, count))
            room = int(count[0]) + 16  # some may come meanwhile; what does not fit waits
            out = _ffi.new("tent_unfenced_range[]", room)
            count[0] = room
            _check(_lib.tent_unfenced_read(engine, flags, out, stride, count))
        return tuple(
            _rows.unfenced_range(_values("tent_unfenced_range", out[i]))
            for i in range(min(int(count[0]), room))
        )

    def counters(self, kind: int) -> tuple[CounterRow, ...]:
        """Rows of one kind."""
        count = _ffi.new("uint32_t *")
        room = 32
        with self as engine:
            while True:
                out = _ffi.new("tent_counters[]", room)
                count[0] = room
                stride = _ffi.sizeof("tent_counters")
                _check(_lib.tent_counters_read(engine, kind, out, stride, count))
                if count[0] <= room:
                    break
                room = int(count[0]) + 16
        return tuple(_rows.counter_row(_values("tent_counters", out[i])) for i in range(count[0]))

    def explain(
        self, numbers: dict[str, int], local: str, remote: str, label: str | None
    ) -> Explanation:
        """What would be decided for a request; numbers: op, segment, length, class_
        and remote_address."""
        query = _ffi.new("tent_explain_query *")
        query.size = _ffi.sizeof("tent_explain_query")
        for name, number in numbers.items():
            setattr(query, name, number)
        keep = [_ffi.new("char[]", text.encode()) for text in (local, remote, label or "")]
        query.local, query.remote, query.label = keep
        head = _ffi.new("tent_explanation *")
        head.size = _ffi.sizeof("tent_explanation")
        stride = _ffi.sizeof("tent_candidate")
        count = _ffi.new("uint32_t *")
        room = 16
        with self as engine:
            while True:
                out = _ffi.new("tent_candidate[]", room)
                out[0].size = stride
                count[0] = room
                _check(_lib.tent_explain(engine, query, head, out, stride, count))
                if count[0] <= room:
                    break
                room = int(count[0]) + 16
        return _rows.explanation(
            _values("tent_explanation", head),
            tuple(_rows.candidate(_values("tent_candidate", out[i])) for i in range(count[0])),
        )


_PLAIN: BatchOptions = (0, 0, 0, None, 0)
_REQUEST_SIZE = int(_ffi.sizeof("tent_request"))
_FORKED = (
    "this process is a fork of the one that opened the engine; open an engine after the fork, "
    "or start children with the 'spawn' method"
)


def _batch_options(options: BatchOptions) -> tuple[CData, CData]:
    """The C struct, NULL where all is as by default; and what must live as long."""
    if options == _PLAIN:
        return _ffi.NULL, None
    wanted = _ffi.new("tent_batch_options *")
    wanted.size = _ffi.sizeof("tent_batch_options")
    wanted.flags, wanted.class_, wanted.completions, label, wanted.deadline_ns = options
    keep = _ffi.new("char[]", label.encode()) if label is not None else _ffi.NULL
    wanted.label = keep
    return wanted, keep


_FIELDS: dict[str, tuple[tuple[str, bool], ...]] = {
    name: tuple(
        (field, about.type.kind != "primitive") for field, about in _ffi.typeof(name).fields
    )
    for name in (
        "tent_candidate",
        "tent_counters",
        "tent_event",
        "tent_explanation",
        "tent_memory_info",
        "tent_option_info",
        "tent_region_info",
        "tent_transport_info",
        "tent_transport_rail",
        "tent_unfenced_range",
    )
}
"""Of each struct that is read: (field, is it text)."""


def _values(name: str, row: CData) -> Values:
    """The fields of a struct `name` as Python values, but for its size and what is reserved."""
    return {
        field: _text(getattr(row, field)) if text else int(getattr(row, field))
        for field, text in _FIELDS[name]
        if field not in ("size", "reserved")
    }


def request_status(row: np.void) -> RequestStatus:
    """One element of batch_status as a dataclass."""
    return RequestStatus(
        user_data=int(row["user_data"]),
        bytes=int(row["bytes"]),
        status=int(row["status"]),
        rail=int(row["rail"]),
    )


def open_engines() -> list[NativeEngine]:
    """The process's engines that were opened and not collected."""
    return list(_ENGINES)


def _after_fork() -> None:
    for engine in open_engines():
        engine.after_fork()


os.register_at_fork(after_in_child=_after_fork)
