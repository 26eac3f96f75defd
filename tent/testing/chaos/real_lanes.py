"""The workload of a real run and its checker: lanes that submit, wait, verify and reuse at once.

A lane is a thread with slots of memory of its own, at the same offsets here and at the target. The
target's memory is a file that both processes map, so the checker plays the application on both
sides: the moment a request is terminal it verifies the bytes, fills both places with canaries, and
looks at them again before the next use and at the end. A byte that moved in between was moved after
the terminal status. Leans on the public package and numpy. Must never touch a range that the engine
called unfenced until it is proven.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tent import (
    Batch,
    Closed,
    Denied,
    Engine,
    NotFound,
    PeerLost,
    Region,
    Segment,
    StaleSegment,
    Status,
    TentError,
)
from tent.resilience.faults import Workload

Bytes = npt.NDArray[np.uint8]

LABEL = "arena"
# What a submit says when its segment is of no use any more.
LOST = (PeerLost, StaleSegment, Denied, Closed, NotFound)
# A request that is not terminal after this hangs: no timeout of the engine is longer.
HANG_S = 60.0
REOPEN_S = 1.0
PAUSE_S = 0.05
VIOLATIONS_MAX = 20
SPREAD = 1 << 22


class Contents:
    """Any number of byte patterns, each known by its tag, cut from one block of random bytes."""

    def __init__(self, *, seed: int, length_max: int) -> None:
        self._block = np.frombuffer(
            np.random.default_rng(seed).bytes(SPREAD + length_max), dtype=np.uint8
        )

    def of(self, tag: int, offset: int, length: int) -> Bytes:
        """`length` bytes of the pattern of that tag, from `offset` on."""
        start = (tag * 2654435761) % SPREAD + offset
        return self._block[start : start + length]


@dataclass(frozen=True)
class Unproven:
    """A range of a slot's remote memory that an abandoned write may still change."""

    offset: int  # in the slot
    length: int
    tag: int  # of the request, and of what it carries
    carried_at: int  # where in the request's bytes the range begins
    left: int  # tag of the canary that stood there


@dataclass
class Slot:
    """A piece of both memories, and the canaries that stand in it while no request uses it."""

    begin: int
    length: int
    here: int = 0
    there: int = 0
    unproven: list[Unproven] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """tag: of its bytes, and its user_data; remote: its address at the target."""

    slot: Slot
    offset: int
    length: int
    tag: int
    remote: int


class Session:
    """The segment that all lanes use, opened anew by whichever lane first finds it lost."""

    def __init__(self, engine: Engine, descriptor: bytes, there: Bytes) -> None:
        self.engine = engine
        # The target's memory; of another life perhaps new. Set before the descriptor of that life,
        # so that no lane looks into the old one for what a new segment has moved.
        self.there = there
        self.descriptor = descriptor
        self.reopened = -1
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._segment: Segment | None = None

    def segment(self) -> Segment | None:
        """An open one; None when the work ended before there was any."""
        while not self.stop.is_set():
            with self._lock:
                if self._segment is not None:
                    return self._segment
                with suppress(TentError):
                    self._segment = self.engine.open_segment(self.descriptor, timeout=REOPEN_S)
                    self.reopened += 1
                    continue
            time.sleep(PAUSE_S)
        return None

    def lost(self, segment: Segment) -> None:
        """That one is of no use any more. Not closed: other lanes' requests may still end on it."""
        with self._lock:
            if self._segment is segment:
                self._segment = None


@dataclass
class Tally:
    """What all lanes did; every change under the lock."""

    bytes_ok: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    latencies_ns: list[int] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def violation(self, text: str) -> None:
        with self.lock:
            if len(self.violations) < VIOLATIONS_MAX:
                self.violations.append(text)


class Lane(threading.Thread):
    """One batch after another on slots of its own, until the session stops or the work is done."""

    def __init__(
        self,
        *,
        index: int,
        seed: int,
        work: Workload,
        session: Session,
        region: Region,
        here: Bytes,
        contents: Contents,
        tally: Tally,
    ) -> None:
        super().__init__(name=f"lane-{index}", daemon=True)
        self.index = index
        self.work = work
        self.session = session
        self.region = region
        self.here = here
        self.there = session.there
        self.contents = contents
        self.tally = tally
        self.current: Batch | None = None
        self._chance = random.Random(seed * 1000 + index)
        self._tag = index << 40
        size = slot_size(work)
        begin = index * work.requests * size
        self.slots = [Slot(begin + n * size, size) for n in range(work.requests)]

    def run(self) -> None:
        for slot in self.slots:
            self._rest(slot)
        while not self.session.stop.is_set() and not self._enough():
            segment = self.session.segment()
            if segment is None:
                break
            self._move_in()
            slots = [slot for slot in self.slots if self._usable(slot)]
            if not slots:
                time.sleep(PAUSE_S)  # all wait for a proof
                continue
            self._batch(segment, slots)

    def cancel(self) -> None:
        """From another thread: asks the running batch for an early end."""
        batch = self.current
        if batch is not None:
            with suppress(NotFound):
                batch.cancel()

    def verify_rest(self) -> None:
        """All slots hold what they were left with: nothing was written, or read, late."""
        for slot in self.slots:
            self._verify(slot)

    # ---- one batch

    def _batch(self, segment: Segment, slots: list[Slot]) -> None:
        chance, work = self._chance, self.work
        op = "read" if chance.random() < work.reads else "write"
        base = next((r.address for r in segment.regions if r.label == LABEL), 0)
        count = chance.randint(1, len(slots))
        requests = [self._prepare(op, slot, base) for slot in slots[:count]]
        starts = np.array([r.slot.begin + r.offset for r in requests], dtype=np.uint64)
        begin_ns = time.monotonic_ns()
        deadline = work.deadline_ns / 1e9 if chance.random() < work.deadlines else None
        pick = chance.random()
        try:
            batch = self.session.engine.submit(
                segment,
                op=op,
                local=(self.region, starts),
                remote=(LABEL, starts),
                length=np.array([r.length for r in requests], dtype=np.uint64),
                user_data=np.array([r.tag for r in requests], dtype=np.uint64),
                class_="high" if pick < work.high else "low" if pick > 1 - work.low else "normal",
                integrity=chance.random() < work.integrity,
                notice=b"lane" if chance.random() < work.notices else None,
                deadline=deadline,
            )
        except TentError as error:
            with self.tally.lock:
                self.tally.refusals[type(error).__name__] += 1
            for request in requests:
                self._settle(op, request, Status.INVALID)
            if isinstance(error, LOST):
                self.session.lost(segment)
            time.sleep(PAUSE_S)
            return
        self._follow(batch, op, requests, begin_ns, deadline)
        if self._ended(batch, op, requests, begin_ns):
            self.session.lost(segment)

    def _follow(
        self, batch: Batch, op: str, requests: list[Request], begin_ns: int, deadline: float | None
    ) -> None:
        """Waits for the end, perhaps after a cancel; notes a missed deadline."""
        self.current = batch
        if self._chance.random() < self.work.cancels:
            with suppress(TentError):
                batch.wait(self._chance.random() * PAUSE_S)
            batch.cancel()
        try:
            batch.wait(HANG_S)
        except TentError as error:
            if not batch.settled:
                self.tally.violation(
                    f"invariant 1: {op} of {len(requests)} requests in lane {self.index} has no "
                    f"terminal status after {HANG_S:g} s ({error})"
                )
                batch.close()
        self.current = None
        over_ns = time.monotonic_ns() - begin_ns - round((deadline or HANG_S) * 1e9)
        if deadline is not None and over_ns > 0:
            with self.tally.lock:
                self.tally.late.append(f"{over_ns / 1e6:.1f}")

    def _ended(self, batch: Batch, op: str, requests: list[Request], begin_ns: int) -> bool:
        """Judges and tells each request; True when the peer was lost."""
        took_ns = time.monotonic_ns() - begin_ns
        rows = batch.status()
        lost = False
        for request, row in zip(requests, rows, strict=True):
            status = int(row["status"])
            self._settle(op, request, status)
            with self.tally.lock:
                self.tally.statuses[Status(status).name] += 1
                if status == Status.OK:
                    self.tally.bytes_ok += request.length
                    self.tally.latencies_ns.append(took_ns)
            lost |= status in (Status.PEER, Status.STALE, Status.CLOSED, Status.DENIED)
        batch.close()
        return lost

    def _prepare(self, op: str, slot: Slot, base: int) -> Request:
        """Checks what the slot was left with, and puts the request's bytes at its source."""
        self._verify(slot)
        length = self._chance.randint(self.work.size_min, min(self.work.size_max, slot.length))
        offset = self._chance.randint(0, slot.length - length)
        tag = self._next_tag()
        request = Request(slot, offset, length, tag, base + slot.begin + offset)
        source = self.here if op == "write" else self.there
        self._span(source, request)[:] = self.contents.of(request.tag, 0, length)
        return request

    def _settle(self, op: str, request: Request, status: int) -> None:
        """The request is terminal: verify its bytes and reuse both places at once."""
        slot, sink = request.slot, self.there if op == "write" else self.here
        canary = slot.there if op == "write" else slot.here
        got = self._span(sink, request)
        wanted = self.contents.of(request.tag, 0, request.length)
        if status == Status.OK:
            if not np.array_equal(got, wanted):
                self._wrong("invariant 2", op, request, "an OK request's bytes are wrong", got)
        else:
            left = self.contents.of(canary, request.offset, request.length)
            if not ((got == wanted) | (got == left)).all():
                self._wrong("invariant 9", op, request, "bytes neither old nor new", got)
        if status == Status.UNFENCED and op == "write":
            self._except(request)
        self._rest(slot)

    def _except(self, request: Request) -> None:
        """The engine must name what it could not fence; only that may change from now on."""
        slot = request.slot
        named = [e for e in self.session.engine.unfenced() if e.user_data == request.tag]
        for entry in named:
            at = entry.remote - request.remote
            if not 0 <= at < at + entry.length <= request.length:
                self._wrong("invariant 2", "write", request, "unfenced beyond its range", None)
                continue
            offset = request.offset + at
            slot.unproven.append(Unproven(offset, entry.length, request.tag, at, slot.there))
        if not named:
            self._wrong("invariant 2", "write", request, "UNFENCED, and no range is named", None)

    # ---- memory

    def _move_in(self) -> None:
        """Into the target's memory of a new life: nothing that was left in the old one matters."""
        if self.there is self.session.there:
            return
        self.there = self.session.there
        for slot in self.slots:
            slot.unproven.clear()
            self._rest(slot)

    def _rest(self, slot: Slot) -> None:
        """Fills both places with canaries, but leaves alone what may still change."""
        slot.here, slot.there = self._next_tag(), self._next_tag()
        begin, end = slot.begin, slot.begin + slot.length
        self.here[begin:end] = self.contents.of(slot.here, 0, slot.length)
        canary = self.contents.of(slot.there, 0, slot.length)
        if not slot.unproven:
            self.there[begin:end] = canary
            return
        free = np.ones(slot.length, dtype=bool)
        for part in slot.unproven:
            free[part.offset : part.offset + part.length] = False
        self.there[begin:end][free] = canary[free]

    def _verify(self, slot: Slot) -> None:
        begin, end = slot.begin, slot.begin + slot.length
        here = self.here[begin:end] == self.contents.of(slot.here, 0, slot.length)
        got = self.there[begin:end]
        there = got == self.contents.of(slot.there, 0, slot.length)
        for part in slot.unproven:
            span = slice(part.offset, part.offset + part.length)
            carried = self.contents.of(part.tag, part.carried_at, part.length)
            left = self.contents.of(part.left, part.offset, part.length)
            there[span] = (got[span] == carried) | (got[span] == left)
        for right, where in ((here, "source"), (there, "destination")):
            if not right.all():
                self.tally.violation(
                    f"invariant 2: {int((~right).sum())} bytes of the {where} memory of lane "
                    f"{self.index} changed after their request was terminal, the first at offset "
                    f"{begin + int(np.argmin(right))}"
                )
        if not (here.all() and there.all()):
            self._rest(slot)

    def _usable(self, slot: Slot) -> bool:
        """A slot with a range that a write may still change is no place for another one."""
        if not slot.unproven:
            return True
        self._verify(slot)
        tags = {part.tag for part in slot.unproven}
        named = [entry for entry in self.session.engine.unfenced() if entry.user_data in tags]
        if not all(entry.proven for entry in named):
            return False
        slot.unproven.clear()
        self._rest(slot)
        return True

    def _span(self, memory: Bytes, request: Request) -> Bytes:
        begin = request.slot.begin + request.offset
        return memory[begin : begin + request.length]

    def _next_tag(self) -> int:
        self._tag += 1
        return self._tag

    def _wrong(self, rule: str, op: str, request: Request, what: str, got: Bytes | None) -> None:
        where = request.slot.begin + request.offset
        seen = "" if got is None else f" (begins with {got[:8].tobytes().hex()})"
        self.tally.violation(
            f"{rule}: {op} of {request.length} bytes at offset {where}, lane {self.index}: "
            f"{what}{seen}"
        )

    def _enough(self) -> bool:
        return bool(self.work.total_bytes) and self.tally.bytes_ok >= self.work.total_bytes


def slot_size(work: Workload) -> int:
    """Bytes of one slot: the region in equal parts for all requests that may be in flight."""
    return min(work.region_bytes // (work.batches * work.requests), work.size_max)


def lanes_of(
    *,
    seed: int,
    work: Workload,
    session: Session,
    region: Region,
    here: Bytes,
    tally: Tally,
) -> Iterator[Lane]:
    """One lane per batch that the workload keeps in flight."""
    contents = Contents(seed=seed, length_max=slot_size(work))
    for index in range(work.batches):
        yield Lane(
            index=index,
            seed=seed,
            work=work,
            session=session,
            region=region,
            here=here,
            contents=contents,
            tally=tally,
        )
