"""The synchronous write and read of one request: as few native calls as there can be.

Leans on _abi. The calling thread drives the engine itself while it waits. However it leaves, by
Ctrl-C too, nothing touches the request's memory afterwards.
"""

from __future__ import annotations

import re
import time
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


def transfer(
    engine: Engine,
    segment: Segment,
    op: Op,
    place: Place,
    *,
    timeout: float | None,
    class_: Class,
    label: str | None,
    integrity: bool,
    notice: bytes | None,
) -> None:
    """Moves one request's bytes and returns when they are there; raises what it failed with."""
    if engine.manual:
        raise InvalidArgument(
            "a manual engine moves only in step(): submit a batch, and step until batch.done"
        )
    deadline = Deadline(timeout)
    native = engine.native
    handle = _begin(engine, segment, op, place, class_, label, integrity, not notice)
    try:
        if notice:
            native.batch_seal(handle, segment.handle, notice)
        status, sentence = native.batch_wait(handle, deadline.slice_ns())
        while status == Status.IN_PROGRESS and not deadline.passed:
            status, sentence = native.batch_wait(handle, deadline.slice_ns())
        late = status == Status.IN_PROGRESS
        if late:
            native.batch_cancel(handle)
            status, sentence = _quiet(engine, handle)
    except BaseException:
        # Ctrl-C most of all: the buffers are the caller's again as soon as this raises.
        if not native.closed:
            native.batch_cancel(handle)
            _quiet(engine, handle)
            native.batch_close(handle)
        raise
    native.batch_close(handle)
    if status == Status.OK:
        return
    if late and status == Status.CANCELLED:
        raise late_error(op, segment.name, place, timeout)
    raise request_error(op, segment.name, place, 0, status, sentence)


def _begin(
    engine: Engine,
    segment: Segment,
    op: Op,
    place: Place,
    class_: Class,
    label: str | None,
    integrity: bool,
    seal: bool,
) -> int:
    """Opens a batch with the one request; waits a little when the engine's pool is full."""
    local, remote, length = place
    record = (int(op), 0, segment.handle, local, remote, length, 0)
    flags = _abi.NO_WAKE | (_abi.SEAL if seal else 0)
    options = (_abi.INTEGRITY if integrity else 0, int(class_), label)
    paused_s, pause_s = 0.0, POOL_PAUSE_S[0]
    while True:
        handle, status, sentence = engine.native.transfer_begin(record, flags, options)
        if status == Status.OK:
            return handle
        if status != Status.AGAIN:
            raise request_error(op, segment.name, place, 0, status, sentence)
        if paused_s >= POOL_WAIT_S:
            raise Again(
                f"{sentence}; close finished batches, or open the engine with a larger "
                "requests_max or batches_max"
            )
        engine._reap()
        time.sleep(pause_s)
        paused_s += pause_s
        pause_s = min(2 * pause_s, POOL_PAUSE_S[1])


def _quiet(engine: Engine, handle: int) -> tuple[int, str]:
    """Waits for a cancelled request's terminal status; bounded by the plan's fence_timeout."""
    while True:
        status, sentence = engine.native.batch_wait(handle, WAIT_SLICE_NS)
        if status != Status.IN_PROGRESS:
            return status, sentence


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
