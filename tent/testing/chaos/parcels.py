"""Batches in flight and what their ends must look like: every byte, every status, at once.

The moment a request ends, both its places are filled with new canaries: whatever still reads or
writes there is seen, here or later. Leans on stage.py and memory.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tent.testing.chaos.memory import Range
from tent.testing.chaos.stage import Link, Process, Stage
from tent.testing.chaos.verdict import Violation
from tent.types import Op, Status

SLACK_NS = 1_500_000  # a deadline is looked at this often at least, the watch's looks included
# Within this time a request must be done if it has a usable path: silence is noticed, what was lost
# is sent again. The generator's worlds are fast and impatient in proportion.
AMPLE_NS = 60_000_000
NEVER_ENDS = (Status.INTERNAL, Status.INVALID, Status.UNFENCED_LOCAL, Status.AUTH, Status.FORKED)


@dataclass(slots=True, eq=False)
class Flight:
    """One request."""

    parcel: Parcel
    index: int
    local: Range
    remote: Range
    sure: bool  # a usable path is there all the time
    void: bool = False  # its remote bytes are somebody else's by now: they are not compared
    doomed: bool = False  # its peer was gone, or its grant revoked, before it was submitted
    end_ns: int = 0
    end_mark: int = 0  # records of the trace when its end was seen
    status: int = Status.IN_PROGRESS


@dataclass(slots=True, eq=False)
class Parcel:
    """One batch."""

    link: Link
    handle: int
    op: Op
    begin_ns: int
    deadline_ns: int  # absolute; 0: none
    integrity: bool
    notice: bytes
    begin_mark: int  # records of the trace when it was submitted
    cancelled: bool = False
    flights: list[Flight] = field(default_factory=list)
    left: int = 0

    @property
    def source(self) -> Process:
        return self.link.source

    @property
    def target(self) -> Process:
        return self.link.target

    def remote_address(self, flight: Flight) -> int:
        return self.target.arena.address + flight.remote[0]


class Ledger:
    """All parcels: those in flight, and those that have ended, for the trace."""

    def __init__(self, stage: Stage, tally: Counter[str], corrupting: bool) -> None:
        self.stage = stage
        self.tally = tally
        self.corrupting = corrupting  # some rail flips bits
        self.open: dict[tuple[int, int], Parcel] = {}  # by (engine, handle)
        self.ended: list[Parcel] = []
        self.out: dict[int, int] = {}  # id of a process -> its parcels in flight
        self.closed: set[tuple[int, int]] = set()
        # Remote ranges behind an UNFENCED, until it is proven: (source, endpoint) -> places
        self.unproven: dict[tuple[int, int], list[tuple[Process, Range]]] = {}
        self.bytes_ended = 0

    def waiting(self) -> list[tuple[Process, int]]:
        """What the driver waits for."""
        return [(parcel.source, parcel.handle) for parcel in self.open.values()]

    def add(self, parcel: Parcel) -> None:
        """It was submitted."""
        self.open[id(parcel.source), parcel.handle] = parcel
        self.out[id(parcel.source)] = self.out.get(id(parcel.source), 0) + 1
        for flight in parcel.flights:
            if parcel.op == Op.READ:
                parcel.source.arena.unknown.append(flight.local)
            elif not flight.doomed:
                parcel.target.arena.unknown.append(flight.remote)
        self.tally["requests"] += len(parcel.flights)

    # ---- ends

    def collect(self, process: Process) -> bool:
        """Takes the completions of a process; True when there were some."""
        rows = process.native.completion_rows()
        if len(rows) == 0:
            return False
        columns = (rows[name].tolist() for name in ("batch", "index", "status"))
        for batch, index, status in zip(*columns, strict=True):
            key = (id(process), batch)
            parcel = self.open.get(key)
            if parcel is None:
                late = "after its batch was closed" if key in self.closed else "of no batch of ours"
                raise Violation(1, f"{process.name}: a completion {late}: status {status}")
            if index >= len(parcel.flights):
                raise Violation(1, f"{process.name}: a completion of a request {index} never made")
            self._end(parcel, parcel.flights[index], status)
            if parcel.left == 0:
                self._close(parcel)
        return True

    def _close(self, parcel: Parcel) -> None:
        native = parcel.source.native
        rows = native.batch_status(parcel.handle, 0, len(parcel.flights))
        told = [flight.status for flight in parcel.flights]
        if rows["status"].tolist() != told:
            raise Violation(1, f"statuses {rows['status'].tolist()} after completions of {told}")
        status, _ = native.batch_poll(parcel.handle)
        if status == Status.IN_PROGRESS:
            raise Violation(1, "every request has ended, and the batch has not")
        key = (id(parcel.source), parcel.handle)
        native.batch_close(parcel.handle)
        del self.open[key]
        self.out[key[0]] -= 1
        self.closed.add(key)
        self.ended.append(parcel)

    def _end(self, parcel: Parcel, flight: Flight, status: int) -> None:
        if flight.status != Status.IN_PROGRESS:
            raise Violation(1, f"{self.words(flight)} ended twice: {flight.status}, then {status}")
        flight.status = status
        flight.end_ns = self.stage.now_ns
        flight.end_mark = self.stage.trace_mark
        parcel.left -= 1
        self.tally[f"ended {Status(status).name}"] += 1
        self.bytes_ended += flight.local[1] - flight.local[0]
        self._judge(parcel, flight)
        if status == Status.OK and not flight.void:
            self._verify(parcel, flight)
        self._reuse(parcel, flight)

    def _judge(self, parcel: Parcel, flight: Flight) -> None:
        """Is this status possible?"""
        status, words = flight.status, self.words(flight)
        if status in NEVER_ENDS:
            raise Violation(8, f"{words} ended as {Status(status).name}")
        if status == Status.OK and flight.doomed:
            raise Violation(
                9, f"{words} ended well although its peer was gone or its grant revoked"
            )
        if status == Status.CANCELLED and not parcel.cancelled:
            raise Violation(8, f"{words} was cancelled, and nobody asked")
        if status == Status.CORRUPT and not self.corrupting:
            raise Violation(10, f"{words} is said to be corrupt, and nothing was")
        deadline_ns = parcel.deadline_ns
        if status == Status.TIMEOUT and not deadline_ns:
            raise Violation(8, f"{words} timed out without a deadline")
        if deadline_ns and flight.end_ns > max(deadline_ns, parcel.source.thawed_ns) + SLACK_NS:
            late_us = (flight.end_ns - deadline_ns) // 1000
            raise Violation(8, f"{words} ended {late_us} us after its deadline, status {status}")
        allowed = [Status.OK, Status.CANCELLED]
        if parcel.integrity:
            allowed.append(Status.CORRUPT)
        if deadline_ns and deadline_ns - parcel.begin_ns < AMPLE_NS:
            allowed += [Status.TIMEOUT, Status.UNFENCED]  # no time to ask the peer either
        if flight.sure and status not in allowed:
            raise Violation(8, f"{words} had a usable path and ended as {Status(status).name}")

    def _verify(self, parcel: Parcel, flight: Flight) -> None:
        near, far = parcel.source.arena, parcel.target.arena
        if parcel.op == Op.WRITE:
            right = far.holds(flight.remote, near, flight.local)
        else:
            right = near.holds(flight.local, far, flight.remote)
        if not right and not (self.corrupting and not parcel.integrity):
            raise Violation(10, f"{self.words(flight)} ended well with wrong bytes")
        self.tally["bytes verified"] += flight.local[1] - flight.local[0]

    def _reuse(self, parcel: Parcel, flight: Flight) -> None:
        """Both places get canaries at once, but for what is said to be unfenced."""
        near, far = parcel.source.arena, parcel.target.arena
        near.end(flight.local)
        near.watch(flight.local)
        near.fill(flight.local)
        open_ranges = self._unfenced(parcel, flight)
        if flight.doomed or not self._same_life(parcel.target):
            return
        far.end(flight.remote)
        far.watch(flight.remote)
        far.fill(flight.remote)
        for endpoint, place in open_ranges:
            far.unknown.append(place)
            known = self.unproven.setdefault((id(parcel.source), endpoint), [])
            known.append((parcel.target, place))

    def _same_life(self, process: Process) -> bool:
        return self.stage.processes[process.name] is process

    def _unfenced(self, parcel: Parcel, flight: Flight) -> list[tuple[int, Range]]:
        """(endpoint, range in the target's arena) that this request's end leaves open."""
        if flight.status != Status.UNFENCED:
            return []
        if parcel.op == Op.READ:
            raise Violation(2, f"{self.words(flight)}: a read cannot be unfenced")
        base = parcel.target.arena.address
        found = []
        for row in parcel.source.native.unfenced(forget_proven=False):
            if row.batch != parcel.handle or row.index != flight.index:
                continue
            begin = row.remote - base
            place = (begin, begin + row.length)
            if not flight.remote[0] <= place[0] < place[1] <= flight.remote[1]:
                raise Violation(2, f"{self.words(flight)}: unfenced range {place} is not within it")
            if not row.proven:
                found.append((row.endpoint, place))
                self.tally["unfenced ranges"] += 1
        return found

    def prove(self, process: Process) -> None:
        """Ranges that were proven safe meanwhile get their canaries."""
        if not any(key[0] == id(process) for key in self.unproven):
            return
        for row in process.native.unfenced(forget_proven=True):
            if not row.proven:
                continue
            for target, place in self.unproven.pop((id(process), row.endpoint), []):
                if self._same_life(target):
                    target.arena.watch(place)
                    target.arena.fill(place)
                self.tally["unfenced ranges proven"] += 1

    # ---- what happens to others

    def killed(self, process: Process) -> None:
        """The process is gone: its requests end with it, those to it are void."""
        for key, parcel in list(self.open.items()):
            if parcel.source is process:
                del self.open[key]
                if parcel.op == Op.WRITE:
                    # What was on the wire may still land, and nobody will say when not; also where
                    # the memory was taken away in between and given back.
                    for flight in parcel.flights:
                        if flight.status == Status.IN_PROGRESS and not flight.doomed:
                            parcel.target.arena.unknown.append(flight.remote)
                    continue
                for flight in parcel.flights:
                    if flight.status == Status.IN_PROGRESS and not flight.doomed:
                        parcel.target.arena.busy.remove(flight.remote)
            elif parcel.target is process:
                for flight in parcel.flights:
                    flight.void = True

    def revoked(self, link: Link | None, target: Process, *, area: Range | None) -> None:
        """From now on nothing of these requests may touch the target's memory."""
        arena = target.arena
        for parcel in self.open.values():
            if parcel.target is not target or (link is not None and parcel.link is not link):
                continue
            for flight in parcel.flights:
                inside = area is None or (area[0] <= flight.remote[0] < area[1])
                if flight.status != Status.IN_PROGRESS or flight.doomed or not inside:
                    continue
                flight.void = True
                if parcel.op == Op.WRITE:
                    arena.watch(flight.remote)
                    arena.fill(flight.remote)
        self.tally["revoked or released"] += 1

    def words(self, flight: Flight) -> str:
        """The request, for people."""
        parcel = flight.parcel
        size = flight.local[1] - flight.local[0]
        return (
            f"{parcel.op.name.lower()} of {size} bytes {parcel.source.name} -> {parcel.target.name}"
            f" ({parcel.target.arena.name_of(flight.remote[0])}, submitted at {parcel.begin_ns} ns)"
        )
