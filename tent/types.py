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
    ENDPOINT_SUSPECT = 14
    ENDPOINT_HEALED = 15
    RAIL_DOWN = 16
    RAIL_UP = 17


class Strategy(enum.IntEnum):
    """How a rung of the plan chooses the endpoint of a slice."""

    PREDICTIVE = 0
    ROUND_ROBIN = 1
    STATIC = 2
    TENT_PAPER = 3


class Verdict(enum.IntEnum):
    """What became of a candidate for a slice."""

    CHOSEN = 0
    SLOWER = 1
    """Open, but its score is higher."""
    FULL = 2
    """Its window has no room."""
    AWAITED = 3
    """Full, and still the earliest: the slice waits for it."""
    PASSED_OVER = 4
    """Open, but waiting for a full one is quicker."""
    FARTHER = 5
    """Of a farther tier, and would not finish earlier."""
    NOT_READY = 6
    """Connecting, failed or fencing."""
    LATER_RUNG = 7
    """An earlier rung of the ladder is usable."""
    UNREACHABLE = 8
    """Not bound: its set-ups failed while others to the peer stand; asked again after a while."""


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
class MemoryInfo:
    """What an allocation has become."""

    access: Access
    """What peers may be granted."""
    address: int
    length: int
    """As rounded up to pages."""
    page_size: int
    """Of the pages it was made of; 2 MiB or 1 GiB: reserved ones."""
    node: int
    """The NUMA node it is bound to; -1: to none."""
    transparent: bool
    """The kernel was asked to join its pages to huge ones."""
    mappable: bool
    """Peers on the same host can map it."""
    why: str
    """Not mappable: the reason."""
    label: str


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
class UnfencedRange:
    """A peer's memory that a write of ours may still change: what is behind an `Unfenced` error."""

    batch: int
    user_data: int
    """Of the request."""
    segment: int
    remote: int
    """Absolute address at the peer."""
    length: int
    """Bytes."""
    endpoint: int
    time_ns: int
    """When it became so, by the engine's clock."""
    index: int
    """Of the request in its batch."""
    proven: bool
    """The peer has retired the endpoint since, or its process is gone: nothing can land."""


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
    """Endpoint rows: what a completion takes beside its bytes."""
    window_bytes: int
    """Endpoint rows: what may be in flight on it."""
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


@dataclass(frozen=True)
class Candidate:
    """An endpoint that a request could use, and why it would carry its first slice or would not."""

    rung: int
    """Of the route, counted from 0."""
    tier: int
    """Of the rung, counted from 1."""
    penalty: int
    """Factor on the slice's size in the score."""
    rail: int
    """Local rail, the plan's index."""
    remote_rail: int
    """The peer's rail, its plan's index."""
    state: State
    verdict: Verdict
    inflight_bytes: int
    """On the endpoint."""
    inflight_local_bytes: int
    """On its local rail, over all peers."""
    inflight_remote_bytes: int
    """On its remote rail, as far as known here."""
    rate_bytes_per_s: int
    """Of the endpoint: measured, or nominal before any measurement."""
    nominal_bytes_per_s: int
    """The smaller of both ends; 0: unknown."""
    latency_ns_base: int
    window_bytes: int
    predicted_ns: int
    """Until the slice would be done, without penalty; 0 where it is not ready."""
    score_ns: int
    """The same with the tier's penalty: what is compared."""
    transport: str
    name: str
    via: str = ""
    """Which of several ways the transport would take, in its words; "": it has one, or does not
    say."""


@dataclass(frozen=True)
class Explanation:
    """What would be decided now for the first slice of a request; `Engine.explain` gives it."""

    row: str
    """The route line of the plan; in parentheses why there is none."""
    route: int
    """Row of the plan, counted from 0; -1: none matches, or none is needed."""
    rung: int
    """Rung that would be used, counted from 0; -1: none has a ready endpoint."""
    strategy: Strategy
    winner: int
    """Index in candidates; -1: none; -2: the slice waits for a better one."""
    slice_bytes: int
    """Of the first slice, as the winner would get it."""
    backlog_bytes: int
    """Waiting on the segment in this class, with this request."""
    generation: int
    """Of the plan."""
    candidates: tuple[Candidate, ...]
    """Of all rungs, in the plan's order."""
    class_: Class = Class.NORMAL
    """It would travel in: the row's, else the one asked for."""
    integrity: bool = False
    """The row has its bytes checked."""
    deadline_ns: int = 0
    """The row's, for a batch that has none; 0: none."""


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
