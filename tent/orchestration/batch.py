"""A batch: submitting requests, waiting for them, and saying what became of each.

Leans on _abi, columns, pump. A batch larger than the engine's request pool is carried out in
instalments: when the pool is full, the requests already accepted are waited for and their statuses
kept, then the rest follows. Must never return from close with a transfer still touching memory.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tent import _abi
from tent.errors import Again, Closed, InvalidArgument, TentError, Timeout, error_for
from tent.orchestration.columns import Columns
from tent.orchestration.requests import many_requests
from tent.orchestration.transfer import request_error
from tent.orchestration.waiting import (
    POOL_PAUSE_S,
    POOL_WAIT_S,
    WAIT_SLICE_NS,
    Deadline,
    deadline_ns,
)
from tent.types import Class, Op, RequestStatus, Status, parse_op

if TYPE_CHECKING:
    from types import TracebackType

    from tent.orchestration.engine import Engine
    from tent.orchestration.segment import Segment


# Their memory is still in use: they must not hide behind another request's failure.
GRAVE = (Status.UNFENCED_LOCAL, Status.UNFENCED)


def _graver(status: int, than: int) -> bool:
    rank = {int(grave): len(GRAVE) - i for i, grave in enumerate(GRAVE)}
    return rank.get(status, 0) > rank.get(than, 0)


@dataclass(frozen=True)
class _Submitted:
    """What one submit call asked for; for error messages only."""

    first: int
    op: Op
    segment: str
    columns: Columns


class Batch:
    """Requests that are waited for together; made by `Engine.submit` or `Engine.batch`.

    `wait()`, or `await batch`, ends it: it raises the first failure and gives the native side's
    room back; `status()` still answers. Not for use by several threads at the same time.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        class_: Class,
        label: str | None,
        integrity: bool,
        check_overlap: bool,
        deadline: float | None = None,
    ) -> None:
        self.engine = engine
        self._flags = (_abi.INTEGRITY if integrity else 0) | (
            _abi.CHECK_OVERLAP if check_overlap else 0
        )
        self._class = class_
        self._label = label
        self._deadline_ns = deadline_ns(deadline)
        self._submitted: list[_Submitted] = []
        self._finished: list[npt.NDArray[np.void]] = []  # instalments before the present one
        self._finished_count = 0
        self._count = 0  # requests of the present instalment
        self._sealed = False
        self._segment: Segment | None = None
        self._error: tuple[int, str] | None = None
        self._handle: int | None = None
        self._closed = False
        self._open_native()

    @property
    def handle(self) -> int | None:
        """The native batch of the present instalment; None once its end was taken."""
        return self._handle

    # ---- building

    def submit(
        self,
        segment: Segment,
        *,
        op: Op | str,
        local: Any,
        remote: Any,
        length: Any = None,
        user_data: Any = None,
    ) -> None:
        """Adds requests; see `Engine.submit`. Waits only when the engine's pool is full."""
        columns = many_requests(self.engine, segment, op, local, remote, length, user_data)
        for pause in self._steps(segment, parse_op(op), columns):
            if pause is None:
                self._wait_terminal(Deadline(None))
            else:
                time.sleep(pause)

    def write(self, segment: Segment, *, local: Any, remote: Any, length: Any = None) -> None:
        """Adds writes (local -> remote)."""
        self.submit(segment, op=Op.WRITE, local=local, remote=remote, length=length)

    def read(self, segment: Segment, *, local: Any, remote: Any, length: Any = None) -> None:
        """Adds reads (remote -> local)."""
        self.submit(segment, op=Op.READ, local=local, remote=remote, length=length)

    def seal(self, *, notice: bytes | None = None, segment: Segment | None = None) -> None:
        """No more requests. `notice` reaches the peer of `segment` after all the batch's data.

        `segment` may be left out when the batch has requests on one segment.
        """
        if self._sealed:
            raise Closed("the batch is sealed already")
        target = segment or self._segment
        if notice and target is None:
            raise InvalidArgument("name the segment whose peer gets the notice: the batch is empty")
        handle = self._live()
        number = target.handle if target is not None and notice else 0
        self.engine.native.batch_seal(handle, number, notice or b"")
        self._sealed = True

    # ---- waiting

    def poll(self) -> int:
        """Status.OK when all ended well, Status.IN_PROGRESS, or the first failure. Never waits."""
        if self._handle is None:
            return self._outcome(Status.OK)[0]
        status, sentence = self.engine.native.batch_poll(self._live())
        return status if status == Status.IN_PROGRESS else self._outcome(status, sentence)[0]

    @property
    def done(self) -> bool:
        """True when every request is terminal."""
        return self.poll() != Status.IN_PROGRESS

    def wait(self, timeout: float | None = None) -> None:
        """Waits until every request is terminal; raises the first failure.

        Timeout cancels nothing: wait again, or cancel. Seals the batch.
        """
        if self._handle is not None:
            self._seal_quietly()
            self._wait_terminal(Deadline(timeout))
        self._settle()
        self._raise_failure()

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait_async().__await__()

    async def _wait_async(self, timeout: float | None = None) -> None:
        if self._handle is not None:
            self._seal_quietly()
            await self._terminal_async(timeout)
        self._settle()
        self._raise_failure()

    async def _submit_async(self, segment: Segment, op: Op, columns: Columns) -> None:
        for pause in self._steps(segment, op, columns):
            if pause is None:
                await self._terminal_async(None)
            else:
                await asyncio.sleep(pause)

    async def _terminal_async(self, timeout: float | None) -> None:
        handle, pump = self._live(), self.engine.pump
        deadline = Deadline(timeout)
        try:
            while await pump.batch(handle, deadline.left_s()) == Status.IN_PROGRESS:
                if deadline.passed:
                    raise self._timeout(deadline)
        except asyncio.CancelledError:
            # Whoever awaited may reuse the buffers next: hold the cancellation back until quiet.
            self.engine.native.batch_cancel(handle)
            await pump.quiet(handle)
            raise

    @property
    def settled(self) -> bool:
        """True once the end was waited for (or close was called): the statuses are final."""
        return self._handle is None

    def cancel(self) -> None:
        """Asks for an early end; each request still gets its one terminal status. Never waits."""
        if self._handle is not None and not self.engine.closed:
            self.engine.native.batch_cancel(self._handle)

    # ---- looking

    def __len__(self) -> int:
        return self._finished_count + self._count

    def status(self) -> npt.NDArray[np.void]:
        """One row per request: user_data, bytes, status, rail (see RequestStatus)."""
        parts = list(self._finished)
        if self._handle is not None:
            parts.append(self.engine.native.batch_status(self._handle, 0, self._count))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=_abi.STATUS_DTYPE)

    def request(self, index: int) -> RequestStatus:
        """The status of one request."""
        if not 0 <= index < len(self):
            raise InvalidArgument(f"request {index} does not exist: the batch has {len(self)}")
        return _abi.request_status(self.status()[index])

    # ---- ending

    def close(self) -> None:
        """Cancels what is unfinished and waits for quiescence. A second call does nothing."""
        if self._closed or self.engine.closed:
            self._closed = True
            return
        if self._handle is not None:
            native = self.engine.native
            if native.batch_poll(self._handle)[0] == Status.IN_PROGRESS:
                native.batch_cancel(self._handle)
                self._seal_quietly()
                # In slices, so that Ctrl-C is heard; close itself then returns at once.
                while not self.engine.manual:
                    if native.batch_wait(self._handle, WAIT_SLICE_NS)[0] != Status.IN_PROGRESS:
                        break
            self._settle()
        self._closed = True

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Batch:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """`close` for event loops: cancels, and awaits quiescence."""
        if self._handle is not None and not self.engine.closed:
            self.cancel()
            self._seal_quietly()
            await self._terminal_async(None)
        self.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is None or self.engine.closed:
            return
        # No native call from a collector: it may run anywhere. The engine ends the batch at its
        # next call; the memory is the regions' and they stay registered.
        self.engine._orphans.append(handle)
        warnings.warn(
            f"{self!r} was dropped without wait() or close(); what is unfinished is cancelled",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "settled" if self._handle is None else "open"
        return f"<tent.Batch of {len(self)} requests, {state}>"

    # ---- the machinery

    def _live(self) -> int:
        if self._handle is None:
            raise Closed("the batch is closed")
        return self._handle

    def _open_native(self) -> None:
        completions = _abi.COMPLETIONS_BATCH
        options = (self._flags, int(self._class), completions, self._label, self._deadline_ns)
        try:
            self._handle = self.engine.native.batch_open(options)
        except Again:
            # Batches that were not awaited leave their completion in the ring until it is read.
            self.engine.pump.collect()
            self._handle = self.engine.native.batch_open(options)
        self._count = 0

    def _steps(self, segment: Segment, op: Op, columns: Columns) -> Iterator[float | None]:
        """Submits all; yields None to have the present instalment waited for, or a pause in s."""
        if self._sealed:
            raise Closed("the batch is sealed; open another for more requests")
        self._submitted.append(_Submitted(len(self), op, segment.name, columns))
        self._segment = segment
        rest, paused_s, pause_s = columns, 0.0, POOL_PAUSE_S[0]
        if len(self):
            rest = columns.rest(0, user_data_first=len(self))
        while rest.count:
            status, index, sentence = self._submit_some(segment, op, rest)
            if status not in (Status.OK, Status.AGAIN):
                raise self._refusal(status, index + columns.count - rest.count, sentence)
            self._count += index
            if status == Status.OK:
                return
            rest = rest.rest(index, user_data_first=len(self))
            if self._count:
                self._seal_quietly()
                yield None
                self._next_instalment()
            elif paused_s >= POOL_WAIT_S:
                raise Again(
                    f"{sentence}; none of these requests is ours to wait for: close finished "
                    "batches, or open the engine with a larger requests_max"
                )
            else:
                # Others hold the pool. Nothing tells when they let go, so look now and then.
                yield pause_s
                paused_s += pause_s
                pause_s = min(2 * pause_s, POOL_PAUSE_S[1])

    def _submit_some(self, segment: Segment, op: Op, rest: Columns) -> tuple[int, int, str]:
        native, handle = self.engine.native, self._live()
        if rest.count == 1:
            local, remote, length = rest.request(0)
            tag = self._count if rest.user_data is None else int(rest.user_data[0])
            record = (int(op), 0, segment.handle, local, remote, length, tag)
            return native.submit_one(handle, record, 0)
        columns = (rest.local, rest.remote, rest.length, rest.user_data)
        return native.submit_columns(handle, int(op), segment.handle, columns, rest.length_each, 0)

    def _seal_quietly(self) -> None:
        if not self._sealed:
            self.engine.native.batch_seal(self._live(), 0, b"")
            self._sealed = True

    def _next_instalment(self) -> None:
        self._settle()
        self._sealed = False
        self._open_native()

    def _wait_terminal(self, deadline: Deadline) -> None:
        if self.engine.manual:
            if self.poll() == Status.IN_PROGRESS:
                raise InvalidArgument(
                    "a manual engine moves only in step(): step until batch.done, then wait()"
                )
            return
        native, handle = self.engine.native, self._live()
        while native.batch_wait(handle, deadline.slice_ns())[0] == Status.IN_PROGRESS:
            if deadline.passed:
                raise self._timeout(deadline)

    def _timeout(self, deadline: Deadline) -> Timeout:
        return Timeout(
            f"{len(self)} requests were not all done in {deadline.timeout} s; they go on: wait "
            "again, or cancel"
        )

    def _settle(self) -> None:
        """Keeps the statuses of the terminal instalment and gives its native batch back."""
        if self._handle is None:
            return
        native = self.engine.native
        status, sentence = native.batch_poll(self._handle)
        rows = native.batch_status(self._handle, 0, self._count)
        self._outcome(status, sentence)
        native.batch_close(self._handle)
        self._handle = None
        self._finished.append(rows)
        self._finished_count += self._count
        self._count = 0

    def _outcome(self, status: int, sentence: str = "") -> tuple[int, str]:
        """The first failure of all instalments, of the gravest kind."""
        if status < 0 and (self._error is None or _graver(status, self._error[0])):
            self._error = (status, sentence)
        return self._error or (Status.OK, "")

    def _raise_failure(self) -> None:
        if self._error is None:
            return
        rows = self.status()
        failed = np.flatnonzero(rows["status"] < 0)
        if len(failed) == 0:
            raise error_for(*self._error)
        grave = next((s for s in GRAVE if (rows["status"] == s).any()), None)
        index = int(failed[0] if grave is None else np.argmax(rows["status"] == grave))
        status = int(rows["status"][index])
        cause = self._error[1] if status == self._error[0] else ""
        more = f" ({len(failed)} of {len(rows)} requests failed)" if len(rows) > 1 else ""
        raise self._error_of(index, status, cause or _abi.status_text(status), more)

    def _refusal(self, status: int, index: int, sentence: str) -> TentError:
        submitted = self._submitted[-1]
        if index >= submitted.columns.count:
            return error_for(status, sentence)
        return self._error_of(submitted.first + index, status, sentence, "")

    def _error_of(self, index: int, status: int, cause: str, more: str) -> TentError:
        submitted = next(s for s in reversed(self._submitted) if s.first <= index)
        place = submitted.columns.request(index - submitted.first)
        return request_error(submitted.op, submitted.segment, place, index, status, cause, more)
