"""Deadlines, and the length of one native wait.

Leans on the clock and errors only. Waits are cut into slices so that Ctrl-C and a closing engine
are noticed.
"""

from __future__ import annotations

import time

from tent.errors import InvalidArgument

WAIT_SLICE_S = 0.1
WAIT_SLICE_NS = 100_000_000

POOL_WAIT_S = 1.0
"""How long a submit waits for others to give a full pool's room back."""
POOL_PAUSE_S = (0.0005, 0.05)
"""First and longest pause of that wait: nothing tells when they do."""


_DEADLINE_NS_MAX = (1 << 63) - 1


def deadline_ns(deadline: float | None) -> int:
    """A batch's deadline in seconds after submit -> ns; None, no deadline -> 0."""
    if deadline is None:
        return 0
    if not deadline > 0 or deadline == float("inf"):
        raise InvalidArgument(
            f"deadline is {deadline} s; write more than 0 seconds after submit, or None for none"
        )
    return min(max(1, int(deadline * 1e9)), _DEADLINE_NS_MAX)


class Deadline:
    """A moment, made from a timeout in seconds; None never comes."""

    def __init__(self, timeout: float | None) -> None:
        if timeout is not None and timeout < 0:
            raise ValueError(f"timeout is {timeout} s; write 0 or more, or None to wait forever")
        self.timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    def left_s(self) -> float | None:
        """Seconds left, 0 when past, None when there is no end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        """True once the moment has come."""
        return self._end is not None and time.monotonic() >= self._end

    def slice_ns(self) -> int:
        """Length of the next native wait."""
        if self._end is None:
            return WAIT_SLICE_NS
        return int(1e9 * min(WAIT_SLICE_S, max(0.0, self._end - time.monotonic())))
