"""Helpers of the tests beside it."""

from __future__ import annotations

import os
import socket

from hypothesis import HealthCheck, settings

KEY = b"0123456789abcdef"
LENGTH = 1 << 20
PLAN = "plan 1\nrail 0 tcp 127.0.0.1\nroute * : tcp[0]\n"
SLOW_PLAN = (
    "plan 1\ndecorate tcp fault\nrail 0 tcp 127.0.0.1 gbps=0.01 fault.throttle=10mbit\n"
    "route * : tcp[0]\n"
)


def closed_port() -> int:
    """A loopback port on which nobody listens (it was free a moment ago)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def examples(count: int) -> settings:
    """So many drawn cases, the same in every run; TENT_TEST_EXAMPLES multiplies them for a hunt."""
    return settings(
        max_examples=count * int(os.environ.get("TENT_TEST_EXAMPLES", "1")),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
