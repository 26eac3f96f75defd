"""What is checked at rest: the books, and what the fabric saw of every slice.

Leans on the fabric's trace, engines' counters and events. Must never take a figure for granted that
another source tells as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tent import _abi
from tent.resilience.faults import duration_ns
from tent.testing.chaos.stage import Process
from tent.testing.chaos.verdict import Violation
from tent.testing.sim import (
    FORGED_SLICE,
    TRACE_COMPLETE,
    TRACE_DISCARD,
    TRACE_DROP,
    TRACE_LAND,
    TRACE_POST,
)
from tent.types import Event, EventType, Op, Status

if TYPE_CHECKING:
    from tent.testing.chaos.runner import Runner

Trace = npt.NDArray[np.void]


# Discarded: it came to an endpoint that was fenced already. Each would have been a late access.
_SEEN = {TRACE_DROP: "slices lost", TRACE_DISCARD: "late slices fenced off"}


def check_rest(process: Process) -> None:
    """Invariant 4: nothing is charged any more."""
    for kind in (_abi.COUNTERS_ENGINE, _abi.COUNTERS_RAIL, _abi.COUNTERS_ENDPOINT):
        for row in process.native.counters(kind):
            if row.charged_bytes != row.released_bytes or row.inflight_bytes:
                raise Violation(
                    4,
                    f"{process.name}, at rest, '{row.name}': {row.charged_bytes} bytes charged, "
                    f"{row.released_bytes} released, {row.inflight_bytes} in flight",
                )


def check_trace(runner: Runner) -> None:
    """Invariants 3, 5 and 9, by what was posted and what landed."""
    trace = runner.stage.fabric.trace()
    forged = trace["slice"] == FORGED_SLICE
    landed = trace[forged & (trace["kind"] == TRACE_LAND)]
    if np.any(landed["status"] == Status.OK):
        raise Violation(9, "a forged access was let in")
    runner.tally["forged accesses refused"] += len(landed)
    posts = trace[(trace["kind"] == TRACE_POST) & ~forged]
    runner.tally["slices posted"] += len(posts)
    for kind, name in _SEEN.items():
        runner.tally[name] += int(np.count_nonzero(trace["kind"] == kind))
    claimed = np.zeros(len(posts), dtype=bool)
    number = np.flatnonzero((trace["kind"] == TRACE_POST) & ~forged)  # within the trace
    doomed = [
        (
            parcel.target.arena.address + flight.remote[0],
            parcel.target.arena.address + flight.remote[1],
        )
        for parcel in runner.ledger.ended
        for flight in parcel.flights
        if flight.doomed
    ]
    for parcel in runner.ledger.ended:
        base = parcel.target.arena.address
        ours = (posts["host"] == parcel.source.host.index) & (posts["op"] == int(parcel.op))
        ours &= number >= parcel.begin_mark
        for flight in parcel.flights:
            begin, end = base + flight.remote[0], base + flight.remote[1]
            mine = ours & (posts["remote"] >= begin) & (posts["remote"] < end)
            mine &= number < flight.end_mark
            claimed |= mine
            # A doomed one names bytes of a life that is gone, which others may use by now.
            if not flight.doomed and not any(b < end and begin < e for b, e in doomed):
                _check_slices(runner, posts[mine], begin, end, flight)
    _check_strays(runner, posts[~claimed])
    _check_endpoints(runner, trace, posts)
    _check_order(runner, trace)


def _check_slices(runner: Runner, posts: Trace, begin: int, end: int, flight: Any) -> None:
    """A retry is the same range again; different ranges must not meet, nor leave gaps."""
    at = begin
    for first, length in sorted(
        set(zip(posts["remote"].tolist(), posts["bytes"].tolist(), strict=True))
    ):
        if first < at:
            raise Violation(
                3,
                f"{runner.ledger.words(flight)}: slices overlap at {first - begin}, or it is one "
                f"of another request ({length} bytes)",
            )
        if flight.status == Status.OK and first != at:
            raise Violation(3, f"{runner.ledger.words(flight)}: no slice for {at - begin}..")
        at = first + length
    if at > end or (flight.status == Status.OK and at != end):
        raise Violation(3, f"{runner.ledger.words(flight)}: slices end at {at - begin} bytes")


def _check_strays(runner: Runner, posts: Trace) -> None:
    """What belongs to no request: probes, which touch nobody's memory, or a killed process's."""
    spans = [(a.address, a.address + a.length) for a in runner.stage.arenas.values()]
    dead = {process.host.index for process in runner.stage.dead}
    for post in posts:
        runner.tally["probes"] += 1
        inside = any(
            b < int(post["remote"]) + int(post["bytes"]) and int(post["remote"]) < e
            for b, e in spans
        )
        if inside and int(post["host"]) not in dead:
            raise Violation(5, f"a slice of no request was posted into user memory: {post}")


def _check_endpoints(runner: Runner, trace: Trace, posts: Trace) -> None:
    """Invariants 5 and 8, by what each engine says of its endpoints."""
    user = np.zeros(len(posts), dtype=bool)
    for arena in runner.stage.arenas.values():
        begin, end = arena.address, arena.address + arena.length
        user |= (posts["remote"] >= begin) & (posts["remote"] < end)
    for process in runner.stage.everyone:
        events = [e for e in runner.events.get(id(process), []) if e.endpoint]
        if any(event.lost for event in events):
            continue  # nobody knows what those said
        # Numbers of endpoints begin anew with each life.
        _check_quarantine(process, events, _own(process, posts[user]))
        _check_last_path(runner, process, events, _own(process, trace))


def _own(process: Process, records: Trace) -> Trace:
    """Those of this life of the initiator."""
    born_ns, died_ns = process.life_ns
    times = records["time_ns"]
    alive = (times >= born_ns) & (times <= died_ns)
    own: Trace = records[alive & (records["host"] == process.host.index)]
    return own


def _check_quarantine(process: Process, events: list[Event], posts: Trace) -> None:
    """No user's slice from its exclusion, or from its new connection, until it is healthy again."""
    closed: dict[int, int] = {}
    known: set[tuple[int, str]] = set()
    windows: list[tuple[int, int, int]] = []
    for event in events:
        title = (event.segment, event.text.partition(" is ready")[0])
        if event.type in (EventType.ENDPOINT_FAILED, EventType.ENDPOINT_SUSPECT):
            closed.setdefault(event.endpoint, event.time_ns)
        elif event.type == EventType.ENDPOINT_READY and title in known:
            closed.setdefault(event.endpoint, -1)  # a new one in place of one that failed
        elif event.type == EventType.ENDPOINT_READY:
            known.add(title)
        elif event.type == EventType.ENDPOINT_HEALED and event.endpoint in closed:
            windows.append((event.endpoint, closed.pop(event.endpoint), event.time_ns))
    windows += [(endpoint, since_ns, 1 << 62) for endpoint, since_ns in closed.items()]
    for endpoint, since_ns, until_ns in windows:
        times = posts["time_ns"][posts["endpoint"] == endpoint].tolist()
        wrong = [at_ns for at_ns in times if since_ns < at_ns < until_ns]
        if wrong:
            raise Violation(
                5,
                f"{process.name}: endpoint {endpoint}, excluded from {since_ns} to {until_ns} ns, "
                f"carried a slice at {wrong[0]} ns",
            )


def _check_last_path(runner: Runner, process: Process, events: list[Event], trace: Trace) -> None:
    """An endpoint is not closed for a short silence when it is the only one of its segment."""
    settings = dict(runner.plan.world.settings)
    patience_ns = duration_ns(settings.get("last_path_patience", "300ms"))
    ready: dict[int, set[int]] = {}
    for event in events:
        others = ready.setdefault(event.segment, set())
        if event.type in (EventType.ENDPOINT_READY, EventType.ENDPOINT_HEALED):
            others.add(event.endpoint)
        elif event.type in (EventType.ENDPOINT_FAILED, EventType.ENDPOINT_SUSPECT):
            others.discard(event.endpoint)
            if others or "silent for" not in event.text:
                continue
            mine = trace["endpoint"] == event.endpoint
            times = trace["time_ns"][mine & (trace["kind"] == TRACE_POST)]
            if len(times) and event.time_ns - int(times.min()) < patience_ns:
                raise Violation(
                    8,
                    f"{process.name}: the last path was excluded: {event.text}, at "
                    f"{event.time_ns} ns",
                )


def _check_order(runner: Runner, trace: Trace) -> None:
    """Invariant 2: a write goes over another transport only when the first one is fenced."""
    rungs = {
        rail.index: spec.rung
        for host in runner.plan.world.hosts
        for spec, rail in zip(host.rails, runner.stage.hosts[host.name].rails, strict=True)
    }
    if len(set(rungs.values())) < 2:
        return
    fenced: dict[tuple[int, int], int] = {}
    for process in runner.stage.everyone:
        for event in runner.events.get(id(process), []):
            if event.type in (EventType.FENCED, EventType.UNFENCED):
                fenced.setdefault((process.host.index, event.endpoint), event.time_ns)
    # A slice keeps its number from attempt to attempt.
    ended = {
        (int(row["slice"]), int(row["endpoint"])): int(row["status"])
        for row in trace[trace["kind"] == TRACE_COMPLETE]
    }
    for parcel in runner.ledger.ended:
        if parcel.op != Op.WRITE:
            continue
        base, host = parcel.target.arena.address, parcel.source.host.index
        for flight in parcel.flights:
            if flight.doomed:
                continue  # several may name the same bytes of a life that is gone
            rows = trace[parcel.begin_mark : flight.end_mark]
            rows = rows[
                (rows["kind"] == TRACE_POST)
                & (rows["host"] == host)
                & (rows["remote"] >= base + flight.remote[0])
                & (rows["remote"] < base + flight.remote[1])
            ]
            first: dict[int, np.void] = {}
            for row in rows:
                before = first.setdefault(int(row["remote"]), row)
                if rungs[int(row["rail"])] == rungs[int(before["rail"])]:
                    continue
                first[int(row["remote"])] = row
                runner.tally["failovers"] += 1
                attempt = (int(before["slice"]), int(before["endpoint"]))
                if ended.get(attempt) == Status.CORRUPT:
                    continue
                at_ns = fenced.get((host, int(before["endpoint"])))
                if at_ns is None or at_ns > int(row["time_ns"]):
                    raise Violation(
                        2,
                        f"{runner.ledger.words(flight)}: a slice went over another transport at "
                        f"{int(row['time_ns'])} ns, the first was fenced at {at_ns}",
                    )
