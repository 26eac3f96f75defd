"""The facts that cross the Python surface: enums and frozen dataclasses.

Leans on the standard library only; never imports the native module, so that tools can read these
words without it. The numbers are those of csrc/include/tent/tent.h; tests/unit/test_header.py holds
the two equal.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

FOREVER_NS = 0xFFFF_FFFF_FFFF_FFFF
BATCH_INDEX = 0xFFFF_FFFF
"""Index in a completion that stands for the batch as a whole."""


class Status(enum.IntEnum):
    """Outcome of a call or a request; negative is failure."""

    OK = 0
    IN_PROGRESS = 1
    INVALID = -1
    AGAIN = -2
    NO_MEMORY = -3
    TIMEOUT = -4
    CANCELLED = -5
    NOT_FOUND = -6
    RANGE = -7
    DENIED = -8
    STALE = -9
    NO_PATH = -10
    PEER = -11
    TRANSPORT = -12
    CORRUPT = -13
    PROTOCOL = -14
    AUTH = -15
    PLAN = -16
    PLUGIN = -17
    BUSY = -18
    CLOSED = -19
    FORKED = -20
    UNFENCED = -21
    UNFENCED_LOCAL = -22
    INTERNAL = -23
    OVERLAP = -24
    SYSTEM = -25
    UNSUPPORTED = -26


class Op(enum.IntEnum):
    """Direction of a request, seen from the engine that submits it."""

    READ = 1
    """remote -> local"""
    WRITE = 2
    """local -> remote"""


class Access(enum.IntFlag):
    """What peers may do with a region."""

    NONE = 0
    READ = 1
    WRITE = 2


class Class(enum.IntEnum):
    """Quality of service class of a batch."""

    NORMAL = 0
    HIGH = 1
    LOW = 2


class State(enum.IntEnum):
    """Health of a rail or an endpoint."""

    CONNECTING = 0
    HEALTHY = 1
    SUSPECT = 2
    QUARANTINED = 3
    PROBING = 4
    TERMINATED = 5


class EventType(enum.IntEnum):
    """What an event reports."""

    PLAN_INSTALLED = 1
    PEER_CONNECTED = 2
    PEER_LOST = 3
    ENDPOINT_READY = 4
    ENDPOINT_FAILED = 5
    ENDPOINT_RETIRED = 6
    FENCED = 7
    UNFENCED = 8
    CONNECTION_REFUSED = 9
    ACCESS_REFUSED = 10
    NOTICE_DROPPED = 11
    REGION_CHANGED = 12
    LOG = 13


@dataclass(frozen=True)
class RegionInfo:
    """A region of a segment: where it lies in the exporter's memory and what we may do with it."""

    region: int
    """The exporter's handle of the region."""
    address: int
    """Absolute address in the exporter's memory."""
    length: int
    access: Access
    location: str
    label: str

    @property
    def end(self) -> int:
        """First address behind the region."""
        return self.address + self.length


@dataclass(frozen=True)
class RequestStatus:
    """Where one request of a batch stands."""

    user_data: int
    bytes: int
    """Bytes known to have been transferred."""
    status: int
    """Status.IN_PROGRESS, or the terminal status."""
    rail: int
    """Local rail of the last slice (the plan's index), -1: none."""


@dataclass(frozen=True)
class Notice:
    """A message that a peer attached to a batch; it is visible here after that batch's data."""

    data: bytes
    sender: str


@dataclass(frozen=True)
class Event:
    """Something the engine did or met by itself."""

    time_ns: int
    """Engine clock (`tent.now_ns()`)."""
    lost: int
    """Events dropped before this one because the ring was full."""
    segment: int
    endpoint: int
    type: EventType | int
    rail: int
    status: int
    text: str


@dataclass(frozen=True)
class CounterRow:
    """Cumulative counters of an engine, rail, endpoint or class since the engine was opened.

    `inflight_*`, `rate_bytes_per_s` and `state` are present values. `bytes_*` are payload.
    """

    name: str
    id: int
    bytes_written: int
    bytes_read: int
    bytes_served_write: int
    bytes_served_read: int
    slices: int
    slices_retried: int
    slices_failed: int
    requests: int
    requests_failed: int
    charged_bytes: int
    released_bytes: int
    inflight_bytes: int
    inflight_slices: int
    rate_bytes_per_s: int
    refused: int
    wakeups: int
    remote_rail: int
    state: State
    rail: int
    latency_ns_base: int
    """Endpoints: the prediction's base latency."""
    window_bytes: int
    """Endpoints: what may be in flight on it."""
    slices_hedged: int
    """Posted a second time because the first was late."""
    bytes_hedged: int


@dataclass(frozen=True)
class Counters:
    """All rows of one engine, read at about the same time."""

    engine: CounterRow
    rails: tuple[CounterRow, ...]
    endpoints: tuple[CounterRow, ...]
    classes: tuple[CounterRow, ...]


def parse_access(access: str | Access) -> Access:
    """Turns "r", "w", "rw" or "" (local use only) into bits."""
    if isinstance(access, Access):
        return access
    known = {
        "": Access.NONE,
        "r": Access.READ,
        "w": Access.WRITE,
        "rw": Access.READ | Access.WRITE,
    }
    if access not in known:
        raise ValueError(f"access is {access!r}; write 'r', 'w', 'rw', or '' for local use only")
    return known[access]


def parse_class(name: str | Class) -> Class:
    """Turns "high", "normal" or "low" into a Class."""
    if isinstance(name, Class):
        return name
    try:
        return Class[name.upper()]
    except KeyError:
        raise ValueError(f"class is {name!r}; write 'high', 'normal' or 'low'") from None


def parse_op(name: str | Op) -> Op:
    """Turns "read" or "write" into an Op."""
    if isinstance(name, Op):
        return name
    try:
        return Op[name.upper()]
    except KeyError:
        raise ValueError(f"op is {name!r}; write 'read' or 'write'") from None
