"""The engine as applications hold it: opening, memory, segments, transfers; what it runs by
and what it tells are its bases'.

Leans on _abi and its siblings. It owns what must outlive native work: the buffers of registered
regions. It must never free them before the native side let go, nor call it after a fork.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tent import _abi
from tent.errors import Closed, InvalidArgument, NotFound, TentError, error_for
from tent.orchestration.aio import AsyncEngine
from tent.orchestration.batch import Batch
from tent.orchestration.buffers import BufferFacts, buffer_facts
from tent.orchestration.columns import as_number
from tent.orchestration.memory import Memory, Region
from tent.orchestration.opening import Opening, PathList, RegistryWish, is_address, settle
from tent.orchestration.plan import Plan
from tent.orchestration.pump import Pump
from tent.orchestration.reports import Reports
from tent.orchestration.requests import Remote, explained_places, one_request
from tent.orchestration.segment import Grant, Segment
from tent.orchestration.steering import Steered
from tent.orchestration.transfer import Job, transfer
from tent.orchestration.waiting import Deadline, deadline_ns
from tent.types import (
    Access,
    Class,
    Explanation,
    Op,
    RegionInfo,
    Status,
    parse_access,
    parse_class,
    parse_op,
)

if TYPE_CHECKING:
    from types import TracebackType

    from tent.orchestration.naming import Naming
    from tent.orchestration.planner import Planner
    from tent.orchestration.policy.model import Policy

# Buffers that a device may still touch although their engine is closed (UNFENCED_LOCAL): they must
# never be freed, whoever else forgets them.
_PINNED: list[object] = []


class Engine(Steered, Reports):
    """Moves registered memory between this process and its peers.

    `with Engine(...) as engine:` gives the synchronous interface, `async with Engine(...) as
    engine:` the same verbs as coroutines (AsyncEngine). Every method may be called from any
    thread.

    listen: "host:port", port 0 any free one; "none" does not listen; default 127.0.0.1:0. A
    non-loopback address needs a key. advertise: addresses told to peers instead (NAT). policy:
    a file or Policy by which plans are made of what the machine has, now and whenever either
    changes. plan: text or Plan to run by instead. Without both, an engine that listens on
    loopback, or not at all, shares memory with its peers (shm) and has a tcp rail behind that;
    another has the plan of the embedded default policy. workers: threads, of which one drives
    the rails and the others help it to copy; 0: by cores. key: the
    secret of all engines that may talk, 16 bytes or more; key_file: a file (0600) that holds
    it; default TENT_KEY_FILE from the environment, else (loopback only) a per-user file made
    on first use. registry: a URL (docs/registry.md): `name` is kept there while the engine is
    open, unless it does not listen, and open_segment finds others by theirs; registry_options are
    for it, or for the policy's; replace_name takes the name from another holder (else Busy).
    manual: no thread, time comes from step(); seed makes that mode repeatable.
    Limits of 0 mean the default.
    """

    def __init__(
        self,
        *,
        listen: str | None = None,
        advertise: str | None = None,
        plan: str | Plan | None = None,
        policy: str | os.PathLike[str] | Policy | None = None,
        key: bytes | str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        name: str | None = None,
        plugin_path: PathList = None,
        registry: str | None = None,
        registry_options: Mapping[str, Any] | None = None,
        replace_name: bool = False,
        manual: bool = False,
        seed: int = 0,
        spin_ns: int = 0,
        workers: int = 0,
        requests_max: int = 0,
        slices_max: int = 0,
        batches_max: int = 0,
        completions_max: int = 0,
        events_max: int = 0,
        notices_max: int = 0,
    ) -> None:
        """Opens an engine; contacts no peer. Arguments: see the class."""
        self.manual = manual
        self._kept: dict[int, BufferFacts] = {}
        self._orphans: deque[int] = deque()
        opening = settle(
            texts={
                "name": name,
                "listen": listen,
                "advertise": advertise,
                "key_file": None if key_file is None else os.fspath(key_file),
            },
            numbers={
                "flags": 1 if manual else 0,
                **_numbers(
                    seed=seed,
                    spin_ns=spin_ns,
                    workers=workers,
                    requests_max=requests_max,
                    slices_max=slices_max,
                    batches_max=batches_max,
                    completions_max=completions_max,
                    events_max=events_max,
                    notices_max=notices_max,
                ),
            },
            plan=plan,
            policy=policy,
            plugin_path=plugin_path,
            has_key=key is not None or key_file is not None,
            manual=manual,
        )
        self.native = _abi.NativeEngine(
            texts=opening.texts,
            numbers=opening.numbers,
            key=key.encode() if isinstance(key, str) else key,
        )
        self._planner = opening.planner
        self.pump = Pump(self.native)
        self.readonly_buffers: tuple[BufferFacts, ...] = ()
        # Runs at collection and at interpreter exit; it must not refer to self.
        self._naming = self._named(opening, registry, registry_options, replace_name)
        self._finalizer = weakref.finalize(
            self, _close, self.native, self.pump, self._kept, self._planner, self._naming
        )
        self._supervise()

    def _supervise(self) -> None:
        if self._planner is None:
            return
        try:
            self._planner.supervise(self.native.plan_install)
        except BaseException:
            self._finalizer()
            raise

    def _named(
        self,
        opening: Opening,
        url: str | None,
        options: Mapping[str, Any] | None,
        replace: bool,
    ) -> Naming | None:
        native = self.native
        try:
            wanted = _wish(opening.registry, url, options)
            if wanted is None:
                return None
            from tent.orchestration.naming import Naming

            return Naming(
                wanted.url,
                # Nobody could connect to an engine that does not listen.
                name=None if opening.texts["listen"] == "none" else opening.texts["name"],
                describe=lambda: _self_description(native),
                options=wanted.options,
                lease_s=wanted.lease_s,
                replace=replace,
            )
        except BaseException:
            _close(native, self.pump, self._kept, None, None)
            raise

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

    # ---- memory

    def alloc(
        self,
        nbytes: int,
        *,
        numa: int | None = None,
        huge: str = "auto",
        access: str | Access = "rw",
        shared: bool = True,
        label: str = "",
    ) -> Memory:
        """Zeroed page-aligned memory fit for transfers; not registered yet.

        Peers on this host map what is registered of it and pay one copy. Arguments: see Memory.
        """
        self._check_open()
        return Memory(
            as_number(nbytes, name="nbytes"),
            numa=None if numa is None else as_number(numa, name="numa"),
            huge=huge,
            access=access,
            shared=shared,
            label=label,
        )

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
        self._regions_changed()
        return Region(
            engine=self,
            handle=handle,
            address=facts.address,
            length=facts.length,
            access=bits,
            readonly=facts.readonly,
            location=location or self.native.region_location(handle),
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
        self._regions_changed()

    def _regions_changed(self) -> None:
        if self._naming is not None:
            self._naming.touch()
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
        if self._naming is not None:
            self._naming.touch()

    def open_segment(
        self, peer: str | bytes | bytearray | memoryview, *, timeout: float | None = 5.0
    ) -> Segment:
        """Imports a peer's memory, by "host:port", name or descriptor, and connects to it.

        A name is looked up in the engine's registry (NotFound, RegistryError); timeout is for both.
        timeout 0 (the only way in manual mode): returns at once, after at most the registry's own
        timeout for a name; go on with `segment.wait` or `segment.ready`. On failure nothing stays
        behind.
        """
        deadline = Deadline(timeout)
        name, handle = self._begin_segment(peer, timeout)
        segment = Segment(engine=self, handle=handle, name=name)
        if timeout == 0 or self.manual:
            return segment
        try:
            segment._wait(deadline)
        except BaseException:
            self._forget_segment(handle)
            raise
        return segment

    def _begin_segment(
        self, peer: str | bytes | bytearray | memoryview, timeout: float | None
    ) -> tuple[str, int]:
        if isinstance(peer, str):
            if is_address(peer) or (self._naming is None and ":" in peer):
                return peer, self.native.segment_begin(peer)
            if self._naming is None:
                raise InvalidArgument(
                    f"{peer!r} is no address: write host:port, or open the engine with registry= "
                    "to find peers by their names"
                )
            self._check_open()  # a fork must not speak over its parent's connections
            return peer, self.native.segment_begin(self._naming.find(peer, timeout=timeout or None))
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

    # ---- reports beside those of Reports

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
        here, there, address = explained_places(self, segment, local, remote)
        size = as_number(length, name="length")
        numbers = {"op": parse_op(op), "class_": parse_class(class_), "length": size}
        numbers |= {"segment": segment.handle, "remote_address": address}
        return self.native.explain(numbers, here, there, label)


def _close(
    native: _abi.NativeEngine,
    pump: Pump,
    kept: dict[int, BufferFacts],
    planner: Planner | None,
    naming: Naming | None,
) -> int:
    # Whatever becomes of the control plane, Ctrl-C included, the engine ends.
    try:
        if naming is not None and not native.forked:
            naming.close()
    finally:
        try:
            if planner is not None and not native.forked:
                planner.close()
        finally:
            status = _end(native, pump, kept)
    return status


def _end(native: _abi.NativeEngine, pump: Pump, kept: dict[int, BufferFacts]) -> int:
    pump.shut()
    status = native.close()
    if native.forked:
        return Status.OK
    if status == Status.UNFENCED_LOCAL:
        _PINNED.extend(kept.values())
    kept.clear()
    return status


def _wish(
    of_policy: RegistryWish | None, url: str | None, options: Mapping[str, Any] | None
) -> RegistryWish | None:
    """What is given wins over the policy; options alone are for the registry of the policy."""
    if url is not None:
        return RegistryWish(url, options or {})
    if not options:
        return of_policy
    if of_policy is None:
        raise InvalidArgument(
            "registry_options are given, and neither registry= nor a policy names a registry"
        )
    return replace(of_policy, options={**of_policy.options, **options})


def _numbers(**given: int) -> dict[str, int]:
    return {name: as_number(value, name=name) for name, value in given.items()}


def _self_description(native: _abi.NativeEngine) -> tuple[bytes | None, str, int]:
    """Descriptor (None: the default grant was revoked), address and epoch, for a registry."""
    try:
        descriptor = native.segment_export(0)
    except NotFound:
        return None, native.address(), 0
    return descriptor, native.address(), int(_descriptor_facts(descriptor).get("epoch", "0"), 16)


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


def _descriptor_facts(data: bytes) -> dict[str, str]:
    return {
        word: rest.strip()
        for word, _, rest in (
            line.partition(" ") for line in _abi.descriptor_print(data).splitlines()
        )
    }


def _descriptor_name(data: bytes) -> str:
    """The exporter's name for messages; its address where it gave none."""
    facts = _descriptor_facts(data)
    name = facts.get("name", "-")
    return facts.get("listener", "descriptor") if name == "-" else name
