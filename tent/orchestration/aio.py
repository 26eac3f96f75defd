"""The engine's verbs as coroutines.

Leans on the engine and its pump: transfers are awaited through the engine's eventfd, without a
thread; rare set-up calls (opening, closing, revoking) run in the loop's default executor. A
cancelled transfer is cancelled natively and CancelledError comes only once its memory is
quiescent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from tent.errors import Closed
from tent.orchestration.requests import Remote, many_requests, one_request
from tent.orchestration.transfer import Job, transfer_async
from tent.orchestration.waiting import Deadline, deadline_ns
from tent.types import (
    Access,
    Class,
    Counters,
    Event,
    Explanation,
    Notice,
    Op,
    RegionInfo,
    parse_class,
    parse_op,
)

if TYPE_CHECKING:
    from types import TracebackType

    from tent.orchestration.batch import Batch
    from tent.orchestration.engine import Engine
    from tent.orchestration.memory import Memory, Region
    from tent.orchestration.plan import Plan
    from tent.orchestration.policy.model import Finding
    from tent.orchestration.segment import Grant, Segment
    from tent.topology.model import Topology

T = TypeVar("T")


class AsyncEngine:
    """What `async with Engine(...) as engine:` and `Engine.aio` give.

    The methods are Engine's, see there for arguments; those that may wait are coroutines. `sync`
    is the engine itself. May be used in several event loops at the same time.
    """

    def __init__(self, engine: Engine) -> None:
        self.sync = engine

    # ---- transfers

    async def write(
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
        """Writes local bytes to the peer; done when they are there."""
        await self._transfer(
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

    async def read(
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
        """Reads the peer's bytes into local memory."""
        await self._transfer(
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

    async def submit(
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
        """Starts requests; the batch returned is awaited in turn: `await batch`."""
        columns = many_requests(self.sync, segment, op, local, remote, length, user_data)
        batch = self.sync.batch(
            class_=class_,
            label=label,
            integrity=integrity,
            check_overlap=check_overlap,
            deadline=deadline,
        )
        try:
            await batch._submit_async(segment, parse_op(op), columns)
            batch.seal(notice=notice, segment=segment)
        except BaseException:
            await batch.aclose()
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
        """An empty batch; `async with` it."""
        return self.sync.batch(
            class_=class_,
            label=label,
            integrity=integrity,
            check_overlap=check_overlap,
            deadline=deadline,
        )

    async def _transfer(
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
        place = one_request(self.sync, segment, op, local, remote, length)
        quality = parse_class(class_)
        job = Job(
            self.sync,
            segment,
            op,
            place,
            timeout,
            quality,
            label,
            integrity,
            notice,
            deadline_ns(deadline),
        )
        await transfer_async(job)

    # ---- memory and segments

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
        """Zeroed page-aligned memory fit for transfers; not registered yet. See Memory."""
        return self.sync.alloc(
            nbytes, numa=numa, huge=huge, access=access, shared=shared, label=label
        )

    def register(
        self,
        obj: Any,
        *,
        access: str | Access = "rw",
        location: str | None = None,
        label: str | None = None,
    ) -> Region:
        """Registers the bytes of `obj` and keeps it alive until they are released."""
        return self.sync.register(obj, access=access, location=location, label=label)

    @property
    def regions(self) -> tuple[RegionInfo, ...]:
        """This engine's own regions."""
        return self.sync.regions

    def grant(
        self,
        *,
        regions: Sequence[Region] | None = None,
        access: str | Access = "rw",
        expires: float | datetime | None = None,
    ) -> Grant:
        """Grants regions to whoever holds the descriptor and the key."""
        return self.sync.grant(regions=regions, access=access, expires=expires)

    def export(
        self,
        *,
        regions: Sequence[Region] | None = None,
        access: str | Access = "rw",
        expires: float | datetime | None = None,
    ) -> bytes:
        """Descriptor bytes of a new grant, or of the default one when nothing is limited."""
        return self.sync.export(regions=regions, access=access, expires=expires)

    async def open_segment(
        self, peer: str | bytes | bytearray | memoryview, *, timeout: float | None = 5.0
    ) -> Segment:
        """Imports a peer's memory and connects to it."""
        return await _in_thread(
            lambda: self.sync.open_segment(peer, timeout=timeout), lambda segment: segment.close()
        )

    async def refresh(
        self, segment: Segment, *, timeout: float | None = 5.0
    ) -> tuple[RegionInfo, ...]:
        """Asks the peer for its present regions."""
        return await _in_thread(lambda: segment.refresh(timeout))

    async def release(self, region: Region) -> None:
        """Ends a region; peers' running accesses end first."""
        await _in_thread(region.release)

    async def close_segment(self, segment: Segment) -> None:
        """Cancels what is in flight on the segment, waits, forgets it."""
        await _in_thread(segment.close)

    async def revoke(self, grant: Grant) -> None:
        """Ends a grant."""
        await _in_thread(grant.revoke)

    # ---- reports

    async def next_notice(self, *, timeout: float | None = None) -> Notice | None:
        """The oldest notice of a peer, waiting for one; None when time ran out."""
        deadline = Deadline(timeout)
        while True:
            notice = self.sync.native.notice()
            if notice is not None or deadline.passed:
                return notice
            left = deadline.left_s()
            # Another waiter may have taken the wake-up: look again now and then.
            await self.sync.pump.news(1.0 if left is None else min(1.0, left))

    async def notices(self, *, timeout: float | None = None) -> AsyncIterator[Notice]:
        """Notices as they come; ends after `timeout` seconds without one or with the engine."""
        while True:
            try:
                notice = await self.next_notice(timeout=timeout)
            except Closed:
                return
            if notice is None:
                return
            yield notice

    def events(self) -> list[Event]:
        """Takes what the engine reported since the last call. Never waits."""
        return self.sync.events()

    def counters(self) -> Counters:
        """Counters of the engine, its rails, endpoints and classes."""
        return self.sync.counters()

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
        """What would be decided now for the first slice of such a request, and why."""
        return self.sync.explain(
            segment,
            op=op,
            length=length,
            class_=class_,
            label=label,
            local=local,
            remote=remote,
        )

    # ---- life

    @property
    def address(self) -> str:
        """ "host:port" that peers give to open_segment."""
        return self.sync.address

    @property
    def plan(self) -> str:
        """The installed plan in canonical form."""
        return self.sync.plan

    def install_plan(self, plan: str | Plan) -> int:
        """New requests use this plan. Returns its generation."""
        return self.sync.install_plan(plan)

    async def reload_policy(self) -> int:
        """Reads the policy's file again and installs what follows; returns the generation."""
        return await _in_thread(self.sync.reload_policy)

    @property
    def topology(self) -> Topology:
        """The machine as the plan in force was made from it."""
        return self.sync.topology

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the policy's author should know."""
        return self.sync.findings

    @property
    def closed(self) -> bool:
        """True from the moment close began."""
        return self.sync.closed

    async def close(self) -> None:
        """Cancels what is in flight, waits until local memory is quiescent, frees the engine."""
        await _in_thread(self.sync.close)

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<tent.AsyncEngine of {self.sync!r}>"


async def _in_thread(call: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Runs a rare blocking call in the executor. When the caller is cancelled, waits for its end.

    The call cannot be interrupted; leaving it behind would let it act on things already closed.
    What it made is then undone.
    """
    future = asyncio.get_running_loop().run_in_executor(None, call)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if future.cancelled():
                raise
            cancelled = error
        except BaseException:
            if not future.done():
                raise
    if cancelled is None:
        return future.result()
    if undo is not None and future.exception() is None:
        undo(future.result())
    raise cancelled
