"""One case of the scheduler benchmark: builds its simulated fabric, runs requests, makes a row.

Leans on tent.testing.sim (virtual time: the machine's speed changes nothing) and on the bounds of
tent.scheduler.bound. Must never keep state between cases: a case gives the same row in any process
and any order.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from fabrics import BY_NAME, MS, FabricSpec, RailSpec
from harness import BenchError
from report import KIB, MIB

from tent import Batch, Engine, Segment, Timeout
from tent.testing.sim import Fabric, Host

SLICE = 64 * KIB
REQUEST_TIMEOUT_NS = 2_000 * MS
CARRIED_MAX = MIB
"""Requests up to this size carry real bytes, which are checked; larger ones only their sizes."""
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Case:
    """What one row measures."""

    fabric: str
    strategy: str
    outstanding: int
    request_bytes: int
    requests: int
    warmup: int
    slice_bytes: int = SLICE
    settings: tuple[tuple[str, str], ...] = ()
    hedge: bool = False
    variant: str = ""
    """name of what differs from the plain case; "" for the plain one"""
    seed: int = 1


@dataclass(frozen=True)
class Row:
    """Times are virtual. Outstanding counts requests per initiator, requests those measured."""

    fabric: str
    strategy: str
    variant: str
    outstanding: int
    request_bytes: int
    slice_bytes: int
    requests: int
    warmup: int
    efficiency: float
    """one outstanding: mean of T*/T; more: bytes landed, each counted once, over what could have
    been carried"""
    efficiency_max: float
    slice_bound_efficiency: float | None
    """one outstanding: mean of T*/slice bound, what a scheduler that knows all rates reaches"""
    p50_ns: int
    p99_ns: int
    shares: tuple[float, ...]
    """of the bytes, by rail of an initiator"""
    hedged_bytes: int


def measure(case: Case) -> Row:
    """Runs one case. Raises BenchError, or what the engine raised, when a request fails."""
    with Scene(case) as scene:
        if case.outstanding == 1:
            result = _sequential(scene)
        else:
            result = _steady(scene)
        scene.check_bytes()
    return result


def wall_ms(case: Case) -> float:
    """Median real time to simulate one request of the case, in milliseconds."""
    times = []
    with Scene(case) as scene:
        for index in range(case.warmup + case.requests):
            begin = time.perf_counter()
            scene.round()
            if index >= case.warmup:
                times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


@dataclass
class Initiator:
    """An engine that writes, and what it writes from and to."""

    engine: Engine
    segment: Segment
    other: Segment | None
    source: np.ndarray


class Scene:
    """A fabric as its specification says, with engines that are connected and idle."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.spec = BY_NAME[case.fabric]
        self.fluid = self.spec.fluid()
        self.carried = case.request_bytes <= CARRIED_MAX
        self._stack = ExitStack()
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _build(self) -> None:
        case, spec = self.case, self.spec
        fabric = Fabric(seed=case.seed, carry_bytes=self.carried)
        self.fabric = self._stack.enter_context(fabric)
        hosts = [self._host(f"i{n}", spec.rails) for n in range(spec.initiators)]
        for number, cut in enumerate(spec.cuts):
            for host in hosts:
                rails = [host.rails[index] for index in cut.rails]
                name = f"{host.name}-{number}"
                fabric.cut(name, rails=rails, bandwidth=cut.bandwidth)
        target_host = self._host("target", spec.target)
        self.target_rails = target_host.rails
        target = fabric.engine(target_host, plan=fabric.plan(target_host), seed=case.seed + 1)
        self.memory = np.empty(case.request_bytes, dtype=np.uint8)
        target.register(self.memory, label="target")
        others = self._other() if spec.backlog else None
        route = route_lines(spec, case)
        self.initiators = []
        for number, host in enumerate(hosts):
            plan = fabric.plan(host, route=route, settings=dict(case.settings))
            engine = fabric.engine(host, plan=plan, seed=case.seed + 2 + number)
            source = np.empty(case.request_bytes, dtype=np.uint8)
            if self.carried:
                source[:] = np.random.default_rng(case.seed).integers(0, 256, len(source), np.uint8)
            engine.register(source, access="")
            segment = fabric.connect(engine, target)
            other = fabric.connect(engine, others) if others else None
            self.initiators.append(Initiator(engine, segment, other, source))

    def _host(self, name: str, rails: Sequence[RailSpec]) -> Host:
        host = self.fabric.host(name)
        for number, rail in enumerate(rails):
            host.rail(
                str(number),
                bandwidth=rail.bandwidth,
                latency_ns=rail.latency_ns,
                nominal=rail.nominal,
            )
        return host

    def _other(self) -> Engine:
        """The peer that a backlog goes to."""
        assert self.spec.backlog is not None
        host = self._host("other", self.spec.target)
        engine = self.fabric.engine(host, plan=self.fabric.plan(host), seed=self.case.seed + 1000)
        engine.register(np.empty(self.spec.backlog.nbytes, dtype=np.uint8), label="other")
        return engine

    def submit(self, initiator: Initiator) -> Batch:
        """One request of the case, from now on."""
        size = self.case.request_bytes
        return initiator.engine.submit(
            initiator.segment,
            op="write",
            local=int(initiator.source.ctypes.data),
            remote="target",
            length=size,
        )

    def backlog(self) -> list[Batch]:
        """Posts the backlog and returns it; nothing where there is none."""
        backlog = self.spec.backlog
        if backlog is None:
            return []
        waiting = [
            initiator.engine.submit(
                initiator.other,
                op="write",
                local=int(initiator.source.ctypes.data),
                remote="other",
                length=backlog.nbytes,
                label="backlog",
            )
            for initiator in self.initiators
            if initiator.other is not None
        ]
        self.fabric.run(until_ns=self.fabric.now_ns)  # posted, but no time passes
        return waiting

    def first_done(self, batches: Sequence[Batch]) -> list[Batch]:
        """Lets time pass until one of the batches is done at least; returns all that are."""
        limit_ns = self.fabric.now_ns + REQUEST_TIMEOUT_NS
        try:
            self.fabric.run(until_ns=limit_ns, batches=list(batches), mode="any")
        except Timeout as error:
            raise BenchError(
                f"no request was done after {REQUEST_TIMEOUT_NS // MS} ms of virtual time"
            ) from error
        done = [batch for batch in batches if batch.done]
        for batch in done:
            batch.wait()
            batch.close()
        return done

    def round(self) -> tuple[int, list[int]]:
        """One request of every initiator at once: when it began, and how long each took."""
        begin_ns = self.fabric.now_ns
        ahead = self.backlog()
        live = [self.submit(initiator) for initiator in self.initiators]
        times = []
        while live:
            done = self.first_done(live)
            times += [self.fabric.now_ns - begin_ns] * len(done)
            live = [batch for batch in live if batch not in done]
        while ahead:
            done = self.first_done(ahead)
            ahead = [batch for batch in ahead if batch not in done]
        return begin_ns, times

    def queued(self) -> dict[int, int]:
        """Bytes that a round finds ahead of it, by rail."""
        backlog = self.spec.backlog
        return {backlog.rail: backlog.nbytes} if backlog else {}

    def sent(self) -> list[int]:
        """Bytes that initiators wrote so far, by rail index, without backlogs."""
        totals = [0] * len(self.spec.rails)
        for initiator in self.initiators:
            for row in initiator.engine.counters().rails:
                totals[row.id] += row.bytes_written
        return totals

    def hedged(self) -> int:
        """Bytes posted a second time because the first were late."""
        return sum(i.engine.counters().engine.bytes_hedged for i in self.initiators)

    def landed(self) -> int:
        """Bytes that reached the target so far, those sent a second time counted once."""
        return sum(rail.landed_bytes for rail in self.target_rails) - self.hedged()

    def check_bytes(self) -> None:
        """One more round whose carried bytes must be where they were written to, else BenchError.

        Every round writes the same bytes to the same place: without a fresh target the first one
        would do for all.
        """
        if not self.carried:
            return
        self.memory.fill(0)
        self.round()
        if not all(np.array_equal(self.memory, i.source) for i in self.initiators):
            raise BenchError("the target's bytes are not the source's")


def route_lines(spec: FabricSpec, case: Case) -> str:
    """The plan's routes: all rails by the case's strategy, and a lane for the backlog."""
    words = [f"slice={_size_word(case.slice_bytes)}", f"strategy={case.strategy}"]
    if case.hedge:
        words.append("hedge=yes")
    routes = [f"route * : sim[{spec.rung()}] {' '.join(words)}"]
    if spec.backlog is not None:
        # One slice holds all of it: the whole backlog is in the rail's queue, not in the engine's.
        size = _size_word(spec.backlog.nbytes)
        routes.insert(0, f"route label=backlog : sim[{spec.backlog.rail}] slice={size}")
    return "\n".join(routes)


def _size_word(size: int) -> str:
    return f"{size // MIB}m" if size % MIB == 0 else f"{size // KIB}k"


def _sequential(scene: Scene) -> Row:
    """One request per initiator at a time, each against the bounds at its own beginning."""
    case, spec = scene.case, scene.spec
    nbytes = case.request_bytes * spec.initiators
    for _ in range(case.warmup):
        scene.round()
    bounds = _Bounds(scene, nbytes)
    sent, hedged = scene.sent(), scene.hedged()
    first_ns = scene.fabric.now_ns
    times: list[int] = []
    efficiencies: list[float] = []
    slice_efficiencies: list[float] = []
    for index in range(case.requests):
        # Spread unevenly, so that no multiple of the spacing is a period of the fabric.
        step = (index + GOLDEN * index % 1.0) * spec.spread_ns / case.requests
        scene.fabric.run_for(max(0, first_ns + int(step) - scene.fabric.now_ns))
        begin_ns, ends = scene.round()
        fluid_ns, slice_ns = bounds.at(begin_ns)
        times += ends
        efficiencies.append(fluid_ns / max(ends))
        slice_efficiencies.append(fluid_ns / slice_ns)
    return _row(
        scene,
        efficiency=statistics.fmean(efficiencies),
        efficiency_max=max(efficiencies),
        slice_efficiency=statistics.fmean(slice_efficiencies),
        times=times,
        sent=sent,
        hedged=hedged,
    )


def _steady(scene: Scene) -> Row:
    """Always so many requests in flight per initiator; what landed between two moments counts."""
    case, spec, fabric = scene.case, scene.spec, scene.fabric
    live: dict[Batch, tuple[Initiator, int]] = {}

    def refill(initiator: Initiator) -> None:
        live[scene.submit(initiator)] = (initiator, fabric.now_ns)

    def turn() -> list[int]:
        times = []
        for batch in scene.first_done(list(live)):
            initiator, begin_ns = live.pop(batch)
            times.append(fabric.now_ns - begin_ns)
            refill(initiator)
        return times

    for initiator in scene.initiators:
        for _ in range(case.outstanding):
            refill(initiator)
    done = 0
    while done < case.warmup * spec.initiators:
        done += len(turn())
    sent, hedged, landed, first_ns = scene.sent(), scene.hedged(), scene.landed(), fabric.now_ns
    times: list[int] = []
    enough, most = case.requests * spec.initiators, 4 * case.requests * spec.initiators
    while len(times) < enough or (fabric.now_ns - first_ns < spec.spread_ns and len(times) < most):
        times += turn()
    capacity = scene.fluid.capacity(first_ns, fabric.now_ns)
    efficiency = (scene.landed() - landed) / capacity
    row = _row(
        scene,
        efficiency=efficiency,
        efficiency_max=efficiency,
        slice_efficiency=None,
        times=times,
        sent=sent,
        hedged=hedged,
    )
    while live:
        for batch in scene.first_done(list(live)):
            del live[batch]
    return row


class _Bounds:
    """T* and the slice bound at any moment; computed once where no rate ever changes."""

    def __init__(self, scene: Scene, nbytes: int) -> None:
        self._fluid = scene.fluid.with_queued(scene.queued())
        self._nbytes = nbytes
        self._slice_bytes = scene.case.slice_bytes
        varies = any(not isinstance(rail.bandwidth, float) for rail in scene.spec.rails)
        self._same = None if varies else self._compute(0)

    def at(self, begin_ns: int) -> tuple[int, int]:
        return self._same or self._compute(begin_ns)

    def _compute(self, begin_ns: int) -> tuple[int, int]:
        return (
            self._fluid.bound_ns(self._nbytes, begin_ns=begin_ns),
            self._fluid.slice_bound_ns(
                self._nbytes, slice_bytes=self._slice_bytes, begin_ns=begin_ns
            ),
        )


def _row(
    scene: Scene,
    *,
    efficiency: float,
    efficiency_max: float,
    slice_efficiency: float | None,
    times: Sequence[int],
    sent: Sequence[int],
    hedged: int,
) -> Row:
    case = scene.case
    moved = [now - before for now, before in zip(scene.sent(), sent, strict=True)]
    if scene.spec.backlog is not None:  # it went over its rail too
        moved[scene.spec.backlog.rail] -= scene.spec.backlog.nbytes * case.requests
    ordered = sorted(times)
    return Row(
        fabric=case.fabric,
        strategy=case.strategy,
        variant=case.variant,
        outstanding=case.outstanding,
        request_bytes=case.request_bytes,
        slice_bytes=case.slice_bytes,
        requests=len(times),
        warmup=case.warmup,
        efficiency=efficiency,
        efficiency_max=efficiency_max,
        slice_bound_efficiency=slice_efficiency,
        p50_ns=_percentile(ordered, 50),
        p99_ns=_percentile(ordered, 99),
        shares=tuple(round(m / max(sum(moved), 1), 4) for m in moved),
        hedged_bytes=scene.hedged() - hedged,
    )


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """The nearest rank."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
