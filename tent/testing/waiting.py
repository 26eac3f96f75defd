"""Waiting for a condition in tests: with a deadline and a sentence, never by sleeping for luck.

Leans on the clock only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, what: str, timeout: float = 10.0) -> T:
    """Calls `condition` until it gives something true, and returns that."""
    end = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() >= end:
            raise AssertionError(f"{what}: not within {timeout} s (last answer: {found!r})")
        time.sleep(0.002)
