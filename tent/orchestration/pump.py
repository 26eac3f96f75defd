"""From the engine's eventfd to waiting tasks and threads.

Leans on _abi. One reader per event loop and engine, installed while a task of that loop waits. The
eventfd is shared: whoever reads it empties the completion ring and wakes every waiter, of any loop.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tent._abi import NativeEngine
from tent.errors import Closed, Forked
from tent.types import Status

_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Pump:
    """Delivers completions, and the news that a notice or event arrived."""

    def __init__(self, native: NativeEngine) -> None:
        self._native = native
        self._lock = threading.Lock()
        self._batches: dict[int, list[_Waiter]] = {}
        self._rings: list[_Waiter] = []
        self._readers: dict[asyncio.AbstractEventLoop, int] = {}
        self._fd: int | None = None
        self._threads = 0
        self._shut = False

    async def batch(self, handle: int, timeout: float | None = None) -> int:
        """Waits until a sealed batch is terminal; its status, IN_PROGRESS when time ran out."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._reading(loop):
            with self._lock:
                self._batches.setdefault(handle, []).append((loop, future))
            try:
                # Its completion may have been taken before we were entered.
                status, _ = self._native.batch_poll(handle)
                if status == Status.IN_PROGRESS:
                    await _at_most(loop, future, timeout)
            finally:
                with self._lock:
                    waiters = self._batches.get(handle, [])
                    waiters[:] = [w for w in waiters if w[1] is not future]
                    if not waiters:
                        self._batches.pop(handle, None)
        status, _ = self._native.batch_poll(handle)
        return status

    async def quiet(self, handle: int) -> None:
        """Waits for the end of a cancelled batch, whatever happens to the waiting task.

        Cancelling the task again changes nothing: its caller may reuse the memory after this.
        """
        while True:
            try:
                if await self.batch(handle) != Status.IN_PROGRESS:
                    return
            except asyncio.CancelledError:
                continue

    async def news(self, timeout: float | None = None) -> None:
        """Waits for the next wake-up of the engine; the caller then looks at its ring."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._reading(loop):
            with self._lock:
                self._rings.append((loop, future))
            try:
                await _at_most(loop, future, timeout)
            finally:
                with self._lock:
                    self._rings = [w for w in self._rings if w[1] is not future]

    def news_blocking(self, timeout_s: float) -> None:
        """The same for a thread, at most timeout_s (another reader may have taken the wake-up)."""
        fd = self._eventfd()
        with self._lock:
            self._threads += 1
        try:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            if poller.poll(max(0, int(timeout_s * 1000))):
                self.dispatch()
        finally:
            with self._lock:
                self._threads -= 1
            self._close_if_done()

    def dispatch(self) -> None:
        """Reads the eventfd, empties the completion ring, wakes the waiters."""
        with self._lock:
            fd = None if self._shut else self._fd
        if fd is None:
            return
        with suppress(BlockingIOError):  # another loop or thread was faster
            os.read(fd, 8)
        try:
            self.collect()
        except (Closed, Forked):
            self._wake_batches(list(self._batches))
        with self._lock:
            ready, self._rings = self._rings, []
        for waiter in ready:
            _wake(waiter)

    def collect(self) -> None:
        """Empties the completion ring and wakes those who wait for what was in it."""
        handles = self._native.completions()
        while handles:
            self._wake_batches(handles)
            handles = self._native.completions()

    def shut(self) -> None:
        """Before the engine closes: wakes everybody; the last reader closes the descriptor."""
        with self._lock:
            self._shut = True
            ready, self._rings = self._rings, []
        self._wake_batches(list(self._batches))
        for waiter in ready:
            _wake(waiter)
        self._close_if_done()

    def _wake_batches(self, handles: list[int]) -> None:
        with self._lock:
            ready = [waiter for handle in handles for waiter in self._batches.pop(handle, [])]
        for waiter in ready:
            _wake(waiter)

    def _eventfd(self) -> int:
        # A duplicate: its number stays ours until the last loop has let go of it.
        with self._lock:
            if self._shut:
                raise Closed("the engine is closed")
            if self._fd is None:
                self._fd = os.dup(self._native.event_fd())
            return self._fd

    def _close_if_done(self) -> None:
        with self._lock:
            if not self._shut or self._readers or self._threads or self._fd is None:
                return
            fd, self._fd = self._fd, None
        os.close(fd)

    @contextmanager
    def _reading(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        fd = self._eventfd()
        with self._lock:
            count = self._readers.get(loop, 0)
            self._readers[loop] = count + 1
        if count == 0:
            loop.add_reader(fd, self.dispatch)
        try:
            yield
        finally:
            with self._lock:
                left = self._readers[loop] - 1
                self._readers[loop] = left
            if left == 0:
                loop.remove_reader(fd)
                with self._lock:
                    del self._readers[loop]
                self._close_if_done()


async def _at_most(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], timeout: float | None
) -> None:
    timer = None if timeout is None else loop.call_later(timeout, _finish, future)
    try:
        await future
    finally:
        if timer is not None:
            timer.cancel()


def _wake(waiter: _Waiter) -> None:
    loop, future = waiter
    if asyncio._get_running_loop() is loop:
        _finish(future)
    elif not loop.is_closed():
        loop.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
