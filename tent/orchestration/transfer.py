"""The write and read of one request: as few native calls as there can be.

Leans on _abi and the pump. A thread that waits drives the engine itself; a task waits for the
eventfd. However they leave, by Ctrl-C or cancelled, nothing touches the memory afterwards.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tent import _abi
from tent.errors import Again, InvalidArgument, TentError, Timeout, error_for
from tent.orchestration.waiting import POOL_PAUSE_S, POOL_WAIT_S, WAIT_SLICE_NS, Deadline
from tent.types import Class, Op, Status

if TYPE_CHECKING:
    from tent.orchestration.engine import Engine
    from tent.orchestration.segment import Segment

# The native sentence begins with the request's index as well.
_NATIVE_PREFIX = re.compile(r"^request \d+( failed)?: ")

Place = tuple[int, int, int]
"""(local address, remote address, length)."""


@dataclass(frozen=True)
class Job:
    """One request to be carried out, and how."""

    engine: Engine
    segment: Segment
    op: Op
    place: Place
    timeout: float | None
    class_: Class
    label: str | None
    integrity: bool
    notice: bytes | None
    deadline_ns: int

    def begin(self, completions: int) -> Generator[float, None, int]:
        """Opens a sealed batch with the request; yields pauses (s) while the pool is full."""
        if self.engine.manual:
            raise InvalidArgument(
                "a manual engine moves only in step(): submit a batch, and step until batch.done"
            )
        native, segment = self.engine.native, self.segment.handle
        record = (int(self.op), 0, segment, *self.place, 0)
        flags = _abi.NO_WAKE if completions == _abi.COMPLETIONS_NONE else 0
        flags |= 0 if self.notice else _abi.SEAL
        integrity = _abi.INTEGRITY if self.integrity else 0
        options = (integrity, int(self.class_), completions, self.label, self.deadline_ns)
        paused_s, pause_s = 0.0, POOL_PAUSE_S[0]
        while True:
            handle, status, sentence = native.transfer_begin(record, flags, options)
            if status == Status.OK:
                break
            if status != Status.AGAIN:
                raise self.error(status, sentence)
            if paused_s >= POOL_WAIT_S:
                raise Again(
                    f"{sentence}; close finished batches, or open the engine with a larger "
                    "requests_max or batches_max"
                )
            self.engine.make_room()
            yield pause_s
            paused_s += pause_s
            pause_s = min(2 * pause_s, POOL_PAUSE_S[1])
        if self.notice:
            try:
                native.batch_seal(handle, segment, self.notice)
            except BaseException:
                native.batch_close(handle)
                raise
        return handle

    def end(self, handle: int, *, late: bool) -> None:
        """Closes the terminal batch; raises what its request failed with."""
        native = self.engine.native
        status, sentence = native.batch_poll(handle)
        native.batch_close(handle)
        if late and status == Status.CANCELLED:
            raise late_error(self.op, self.segment.name, self.place, self.timeout)
        if status != Status.OK:
            raise self.error(status, sentence)

    def error(self, status: int, sentence: str) -> TentError:
        """The request's error."""
        return request_error(self.op, self.segment.name, self.place, 0, status, sentence)


def transfer(job: Job) -> None:
    """Moves the bytes and returns when they are there; raises what it failed with."""
    deadline, native = Deadline(job.timeout), job.engine.native
    begin = job.begin(_abi.COMPLETIONS_NONE)
    while True:
        try:
            time.sleep(next(begin))
        except StopIteration as made:
            handle: int = made.value
            break
    late = False
    try:
        while native.batch_wait(handle, deadline.slice_ns())[0] == Status.IN_PROGRESS:
            if deadline.passed:
                late = True
                native.batch_cancel(handle)
                _quiet(job.engine, handle)
                break
    except BaseException:
        # Ctrl-C most of all: the buffers are the caller's again as soon as this raises.
        if not native.closed:
            native.batch_cancel(handle)
            _quiet(job.engine, handle)
            native.batch_close(handle)
        raise
    job.end(handle, late=late)


def _quiet(engine: Engine, handle: int) -> None:
    """Waits for a cancelled request's terminal status; bounded by the plan's fence_timeout."""
    while engine.native.batch_wait(handle, WAIT_SLICE_NS)[0] == Status.IN_PROGRESS:
        pass


async def transfer_async(job: Job) -> None:
    """The same in an event loop."""
    native, pump = job.engine.native, job.engine.pump
    begin = job.begin(_abi.COMPLETIONS_BATCH)
    while True:
        try:
            await asyncio.sleep(next(begin))
        except StopIteration as made:
            handle: int = made.value
            break
    late = False
    try:
        if await pump.batch(handle, job.timeout) == Status.IN_PROGRESS:
            late = True
            native.batch_cancel(handle)
            await pump.quiet(handle)
    except BaseException:
        if not native.closed:
            native.batch_cancel(handle)
            await pump.quiet(handle)
            native.batch_close(handle)
        raise
    job.end(handle, late=late)


def late_error(op: Op, segment: str, place: Place, timeout: float | None) -> Timeout:
    """A request that its own time-out cancelled."""
    _, remote, length = place
    return Timeout(
        f"{op.name.lower()} of {length} bytes at {remote:#x} of segment {segment} was not done in "
        f"{timeout} s; it is cancelled, and nothing touches the memory any more",
        segment=segment,
        address=remote,
        length=length,
    )


def request_error(
    op: Op, segment: str, place: Place, index: int, status: int, cause: str, more: str = ""
) -> TentError:
    """The error of a request that was refused or failed, with the request in its sentence."""
    local, remote, length = place
    cause = _NATIVE_PREFIX.sub("", cause)
    arrow = "to" if op is Op.WRITE else "from"
    return error_for(
        status,
        f"{op.name.lower()} of {length} bytes {arrow} {remote:#x} of segment {segment} (local "
        f"{local:#x}, request {index}){more}: {cause}",
        segment=segment,
        address=remote,
        length=length,
        index=index,
    )
