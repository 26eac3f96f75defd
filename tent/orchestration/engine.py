"""The engine as applications hold it: opening, memory, segments, transfers, reports.

Leans on _abi and its siblings. It owns what must outlive native work: the buffers of registered
regions. It must never free them before the native side let go, nor call it after a fork.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tent import _abi
from tent.errors import Closed, InvalidArgument, NotFound, TentError, error_for
from tent.orchestration.aio import AsyncEngine
from tent.orchestration.batch import Batch
from tent.orchestration.buffers import BufferFacts, buffer_facts
from tent.orchestration.columns import as_number
from tent.orchestration.memory import Memory, Region
from tent.orchestration.plan import Plan
from tent.orchestration.pump import Pump
from tent.orchestration.requests import Remote, explained_places, one_request
from tent.orchestration.segment import Grant, Segment
from tent.orchestration.transfer import Job, transfer
from tent.orchestration.waiting import WAIT_SLICE_S, Deadline, deadline_ns
from tent.types import (
    Access,
    Class,
    Counters,
    Event,
    Explanation,
    Notice,
    Op,
    RegionInfo,
    Status,
    UnfencedRange,
    parse_access,
    parse_class,
    parse_op,
)

if TYPE_CHECKING:
    from types import TracebackType

# Buffers that a device may still touch although their engine is closed (UNFENCED_LOCAL): they must
# never be freed, whoever else forgets them.
_PINNED: list[object] = []


class Engine:
    """Moves registered memory between this process and its peers.

    `with Engine(...) as engine:` gives the synchronous interface, `async with Engine(...) as
    engine:` the same verbs as coroutines (AsyncEngine). Every method may be called from any
    thread.
    """

    def __init__(
        self,
        *,
        listen: str | None = None,
        advertise: str | None = None,
        plan: str | Plan | None = None,
        key: bytes | str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        name: str | None = None,
        plugin_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        manual: bool = False,
        seed: int = 0,
        spin_ns: int = 0,
        requests_max: int = 0,
        slices_max: int = 0,
        batches_max: int = 0,
        completions_max: int = 0,
        events_max: int = 0,
        notices_max: int = 0,
    ) -> None:
        """Opens an engine; contacts no peer.

        listen: "host:port", port 0 any free one; "none" does not listen; default 127.0.0.1:0. A
        non-loopback address needs a key. advertise: addresses told to peers instead (NAT). plan:
        text or Plan; default one tcp rail on the listen address. key: the secret of all engines
        that may talk, 16 bytes or more; key_file: a file (0600) that holds it; default
        TENT_KEY_FILE from the environment, else (loopback only) a per-user file made on first
        use. manual: no thread, time comes from step(); seed makes that mode repeatable. Limits of
        0 mean the default.
        """
        self.manual = manual
        self._kept: dict[int, BufferFacts] = {}
        self._orphans: deque[int] = deque()
        self.native = _abi.NativeEngine(
            texts={
                "name": name,
                "listen": listen,
                "advertise": advertise,
                "plan": plan.render() if isinstance(plan, Plan) else plan,
                "plugin_path": _path_list(plugin_path),
                "key_file": None if key_file is None else os.fspath(key_file),
            },
            numbers={
                "flags": 1 if manual else 0,
                "seed": as_number(seed, name="seed"),
                "spin_ns": as_number(spin_ns, name="spin_ns"),
                "requests_max": as_number(requests_max, name="requests_max"),
                "slices_max": as_number(slices_max, name="slices_max"),
                "batches_max": as_number(batches_max, name="batches_max"),
                "completions_max": as_number(completions_max, name="completions_max"),
                "events_max": as_number(events_max, name="events_max"),
                "notices_max": as_number(notices_max, name="notices_max"),
            },
            key=key.encode() if isinstance(key, str) else key,
        )
        self.pump = Pump(self.native)
        self.readonly_buffers: tuple[BufferFacts, ...] = ()
        # Runs at collection and at interpreter exit; it must not refer to self.
        self._finalizer = weakref.finalize(self, _close, self.native, self.pump, self._kept)

    # ---- life

    @property
    def closed(self) -> bool:
        """True from the moment close began, and in a forked child."""
        return self.native.closed

    def close(self) -> None:
        """Cancels what is in flight, waits until local memory is quiescent, frees the engine.

        A second call does nothing. Unfenced is raised when a peer's memory may still be written.
        """
        status = self._finalizer()
        if status is not None and status < 0:
            raise error_for(status, _abi.status_text(status))

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def aio(self) -> AsyncEngine:
        """The same engine for event loops."""
        return AsyncEngine(self)

    async def __aenter__(self) -> AsyncEngine:
        return AsyncEngine(self)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await AsyncEngine(self).close()

    def __del__(self) -> None:
        native = getattr(self, "native", None)
        if native is not None and not native.closed:
            warnings.warn(
                f"{self!r} was dropped without close(); it is closed now",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        native = getattr(self, "native", None)
        if native is None or native.closed:
            return "<tent.Engine, closed>"
        try:
            return f"<tent.Engine at {self.address}>"
        except TentError:
            return "<tent.Engine, not listening>"

    def step(self, now_ns: int) -> bool:
        """Manual mode: one duty cycle at that time; True when it should be called again."""
        return self.native.step(as_number(now_ns, name="now_ns"))

    @property
    def address(self) -> str:
        """ "host:port" that peers give to open_segment."""
        return self.native.address()

    @property
    def plan(self) -> str:
        """The installed plan in canonical form."""
        return self.native.plan_installed()

    def install_plan(self, plan: str | Plan) -> int:
        """New requests use this plan, running ones finish under the old. Returns its generation."""
        return self.native.plan_install(plan.render() if isinstance(plan, Plan) else plan)

    # ---- memory

    def alloc(self, nbytes: int) -> Memory:
        """Zeroed page-aligned memory fit for transfers; not registered yet."""
        if self.closed:
            raise Closed("the engine is closed")
        return Memory(as_number(nbytes, name="nbytes"))

    def register(
        self,
        obj: Any,
        *,
        access: str | Access = "rw",
        location: str | None = None,
        label: str | None = None,
    ) -> Region:
        """Registers the bytes of `obj` and keeps it alive until they are released.

        obj: Memory, numpy array, anything with the buffer protocol, or a host tensor (DLPack);
        contiguous. access: what peers may do, "r", "w", "rw" or "" (local use only). A read-only
        buffer takes "r" or "", and is never the destination of a read.
        """
        facts = buffer_facts(obj)
        bits = parse_access(access)
        if facts.readonly and bits & Access.WRITE:
            raise InvalidArgument(
                f"the buffer of {facts.length} bytes at {facts.address:#x} is read-only; register "
                "it with access='r', or access='' for local use only",
                address=facts.address,
                length=facts.length,
            )
        handle = self.native.region_register(
            facts.address, facts.length, int(bits), location, label
        )
        self._kept[handle] = facts
        self._note_readonly()
        return Region(
            engine=self,
            handle=handle,
            address=facts.address,
            length=facts.length,
            access=bits,
            readonly=facts.readonly,
            location=location or "cpu:0",
            label=label or "",
        )

    @property
    def regions(self) -> tuple[RegionInfo, ...]:
        """This engine's own regions."""
        return self.native.segment_regions(0)

    @property
    def buffers(self) -> list[BufferFacts]:
        """The buffers of all regions, kept alive here."""
        return list(self._kept.values())

    def _release(self, region: Region) -> None:
        if self.closed:
            raise Closed("the engine is closed, and its regions with it")
        self.native.region_release(region.handle)
        self._kept.pop(region.handle, None)
        self._note_readonly()

    def _note_readonly(self) -> None:
        self.readonly_buffers = tuple(facts for facts in self.buffers if facts.readonly)

    # ---- segments

    def grant(
        self,
        *,
        regions: Sequence[Region] | None = None,
        access: str | Access = "rw",
        expires: float | datetime | None = None,
    ) -> Grant:
        """Grants regions (None: all, also future ones) to whoever holds the descriptor and the key.

        access: at most this; each region's own access limits it further. expires: a moment of the
        wall clock, as seconds since the epoch or a datetime with a time zone.
        """
        bits = parse_access(access)
        if not bits:
            raise InvalidArgument("a grant without access gives nothing; write 'r', 'w' or 'rw'")
        handles = None if regions is None else [region.handle for region in regions]
        if handles == []:
            raise InvalidArgument("a grant of no regions gives nothing; leave regions out for all")
        return Grant(
            engine=self,
            handle=self.native.grant_create(handles, int(bits), _expiry_ms(expires)),
        )

    def export(
        self,
        *,
        regions: Sequence[Region] | None = None,
        access: str | Access = "rw",
        expires: float | datetime | None = None,
    ) -> bytes:
        """Descriptor bytes of a new grant, or of the default one when nothing is limited."""
        if (
            regions is None
            and expires is None
            and parse_access(access) == Access.READ | Access.WRITE
        ):
            return self.native.segment_export(0)
        return self.grant(regions=regions, access=access, expires=expires).export()

    def revoke_default_grant(self) -> None:
        """Peers can no longer open this engine by its address; those that did lose their access."""
        self.native.grant_revoke(0)

    def open_segment(
        self, peer: str | bytes | bytearray | memoryview, *, timeout: float | None = 5.0
    ) -> Segment:
        """Imports a peer's memory, by "host:port" or descriptor bytes, and connects to it.

        timeout 0 (the only way in manual mode): returns at once; go on with `segment.wait` or
        `segment.ready`. On failure nothing stays behind.
        """
        name, handle = self._begin_segment(peer)
        segment = Segment(engine=self, handle=handle, name=name)
        if timeout == 0 or self.manual:
            return segment
        try:
            segment.wait(timeout)
        except BaseException:
            self._forget_segment(handle)
            raise
        return segment

    def _begin_segment(self, peer: str | bytes | bytearray | memoryview) -> tuple[str, int]:
        if isinstance(peer, str):
            return peer, self.native.segment_begin(peer)
        data = bytes(peer)
        handle = self.native.segment_begin(data)
        return _descriptor_name(data), handle

    def _forget_segment(self, handle: int) -> None:
        with suppress(NotFound, Closed):  # a segment that failed may be gone by itself
            self.native.segment_close(handle)

    # ---- transfers

    def write(
        self,
        segment: Segment,
        *,
        local: Any,
        remote: Remote,
        length: int | None = None,
        timeout: float | None = None,
        class_: Class | str = "normal",
        label: str | None = None,
        integrity: bool = False,
        notice: bytes | None = None,
        deadline: float | None = None,
    ) -> None:
        """Writes local bytes to the peer and waits until they are there.

        local: Region, region[a:b], (Region, offset), an absolute address (with length), or any
        buffer object that lies in registered memory. remote: absolute address, RegionInfo, label,
        or (RegionInfo or label, offset). length: bytes; default all of local. After `timeout`
        seconds the transfer is cancelled and fenced, and Timeout raised. notice: bytes the peer
        sees after the data. deadline: as in batch.
        """
        self._transfer(
            segment,
            Op.WRITE,
            local,
            remote,
            length,
            timeout,
            class_,
            label,
            integrity,
            notice,
            deadline,
        )

    def read(
        self,
        segment: Segment,
        *,
        local: Any,
        remote: Remote,
        length: int | None = None,
        timeout: float | None = None,
        class_: Class | str = "normal",
        label: str | None = None,
        integrity: bool = False,
        notice: bytes | None = None,
        deadline: float | None = None,
    ) -> None:
        """Reads the peer's bytes into local memory; arguments as in write."""
        self._transfer(
            segment,
            Op.READ,
            local,
            remote,
            length,
            timeout,
            class_,
            label,
            integrity,
            notice,
            deadline,
        )

    def submit(
        self,
        segment: Segment,
        *,
        op: Op | str,
        local: Any,
        remote: Any,
        length: Any = None,
        user_data: Any = None,
        class_: Class | str = "normal",
        label: str | None = None,
        integrity: bool = False,
        check_overlap: bool = False,
        notice: bytes | None = None,
        deadline: float | None = None,
    ) -> Batch:
        """Starts any number of requests of one segment and direction in one call.

        local, remote, length and user_data are numbers or columns (numpy uint64 arrays are used in
        place): element i of each is request i, a single number stands for all. local and remote
        also take (region, offset or offsets) and, for one request, a region or region[a:b]. A
        numpy array is a column of addresses here, never a buffer. The batch is sealed. An invalid
        request refuses the whole call and the error names its index. deadline: as in batch.
        """
        batch = self.batch(
            class_=class_,
            label=label,
            integrity=integrity,
            check_overlap=check_overlap,
            deadline=deadline,
        )
        try:
            batch.submit(
                segment, op=op, local=local, remote=remote, length=length, user_data=user_data
            )
            batch.seal(notice=notice, segment=segment)
        except BaseException:
            batch.close()
            raise
        return batch

    def batch(
        self,
        *,
        class_: Class | str = "normal",
        label: str | None = None,
        integrity: bool = False,
        check_overlap: bool = False,
        deadline: float | None = None,
    ) -> Batch:
        """An empty batch, to be filled by its submit, write and read.

        deadline: seconds after its submit in which a request wants to be done. Within a class the
        earliest is served first; a missed one changes nothing else (see timeout for that).
        """
        self._reap()
        return Batch(
            engine=self,
            class_=parse_class(class_),
            label=label,
            integrity=integrity,
            check_overlap=check_overlap,
            deadline=deadline,
        )

    def _transfer(
        self,
        segment: Segment,
        op: Op,
        local: Any,
        remote: Remote,
        length: int | None,
        timeout: float | None,
        class_: Class | str,
        label: str | None,
        integrity: bool,
        notice: bytes | None,
        deadline: float | None,
    ) -> None:
        place = one_request(self, segment, op, local, remote, length)
        quality = parse_class(class_)
        due_ns = deadline_ns(deadline)
        transfer(Job(self, segment, op, place, timeout, quality, label, integrity, notice, due_ns))

    def make_room(self) -> None:
        """Gives back what finished or was dropped: orphaned batches, unread completions."""
        self._reap()
        self.pump.collect()

    def _reap(self) -> None:
        """Ends batches that were dropped without close."""
        if not self._orphans:
            return
        for _ in range(len(self._orphans)):
            handle = self._orphans.popleft()
            try:
                self.native.batch_cancel(handle)
                if self.native.batch_poll(handle)[0] == Status.IN_PROGRESS:
                    self._orphans.append(handle)
                else:
                    self.native.batch_close(handle)
            except NotFound:
                continue

    # ---- reports

    def next_notice(self, *, timeout: float | None = None) -> Notice | None:
        """The oldest notice of a peer, waiting for one; None when time ran out."""
        deadline = Deadline(timeout)
        while True:
            notice = self.native.notice()
            if notice is not None or deadline.passed or self.manual:
                return notice
            left = deadline.left_s()
            self.pump.news_blocking(WAIT_SLICE_S if left is None else min(WAIT_SLICE_S, left))

    def notices(self, *, timeout: float | None = None) -> Iterator[Notice]:
        """Notices as they come; ends when none comes for `timeout` seconds or the engine closes."""
        while True:
            try:
                notice = self.next_notice(timeout=timeout)
            except Closed:
                return
            if notice is None:
                return
            yield notice

    def events(self) -> list[Event]:
        """Takes what the engine reported since the last call, oldest first. Never waits."""
        return self.native.events()

    def unfenced(self, *, forget_proven: bool = False) -> tuple[UnfencedRange, ...]:
        """Peers' memory that a write of ours may still change, oldest first: see `Unfenced`.

        A range turns `proven` when the peer has confirmed, after all, that nothing can land any
        more, or its process is known to be gone (an event FENCED says so, too). forget_proven:
        those are dropped once they were returned. At most 4096 are kept.
        """
        return self.native.unfenced(forget_proven=forget_proven)

    def counters(self) -> Counters:
        """Counters of the engine, its rails, endpoints and classes."""
        native = self.native
        return Counters(
            engine=native.counters(_abi.COUNTERS_ENGINE)[0],
            rails=native.counters(_abi.COUNTERS_RAIL),
            endpoints=native.counters(_abi.COUNTERS_ENDPOINT),
            classes=native.counters(_abi.COUNTERS_CLASS),
        )

    def explain(
        self,
        segment: Segment,
        *,
        op: Op | str = "write",
        length: int,
        class_: Class | str = "normal",
        label: str | None = None,
        local: str | Region = "cpu:0",
        remote: str | RegionInfo = "cpu:0",
    ) -> Explanation:
        """What would be decided now for the first slice of such a request, and why.

        Changes nothing. local: a location, or a Region for its own; remote: a location, or a
        RegionInfo or the label of a region of the segment for theirs.
        `tent.scheduler.explain.render` tells it in words.
        """
        here, there = explained_places(self, segment, local, remote)
        size = as_number(length, name="length")
        numbers = {"op": parse_op(op), "class_": parse_class(class_), "length": size}
        numbers["segment"] = segment.handle
        return self.native.explain(numbers, here, there, label)


def _close(native: _abi.NativeEngine, pump: Pump, kept: dict[int, BufferFacts]) -> int:
    pump.shut()
    status = native.close()
    if native.forked:
        return Status.OK
    if status == Status.UNFENCED_LOCAL:
        _PINNED.extend(kept.values())
    kept.clear()
    return status


def _path_list(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
) -> str | None:
    if path is None or isinstance(path, str):
        return path
    if isinstance(path, os.PathLike):
        return os.fspath(path)
    return ":".join(os.fspath(entry) for entry in path)


def _expiry_ms(expires: float | datetime | None) -> int:
    if expires is None:
        return 0
    if isinstance(expires, datetime):
        if expires.tzinfo is None:
            raise InvalidArgument(
                "expires has no time zone; write datetime.now(timezone.utc) + timedelta(...)"
            )
        expires = expires.timestamp()
    if expires <= 0:
        raise InvalidArgument(f"expires is {expires}; write seconds since the epoch, or None")
    return max(1, int(expires * 1000))


def _descriptor_name(data: bytes) -> str:
    """The exporter's name for messages; its address where it gave none."""
    facts = dict(
        line.split(None, 1) for line in _abi.descriptor_print(data).splitlines() if " " in line
    )
    name = facts.get("name", "-").strip()
    return facts.get("listener", "descriptor").strip() if name == "-" else name
