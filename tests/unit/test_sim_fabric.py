"""Engines on the simulated fabric: bytes, exact times, repeatability, faults, capacities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tent import (
    Batch,
    Busy,
    Engine,
    InvalidArgument,
    Region,
    Segment,
    Status,
    TentError,
    Timeout,
)
from tent.errors import PluginError
from tent.testing import Fabric, Flapping, Piecewise, pattern
from tent.testing.sim import (
    TRACE_COMPLETE,
    TRACE_DROP,
    TRACE_DTYPE,
    TRACE_LAND,
    TRACE_POST,
    Host,
    Rail,
    RailCounters,
)
from tent.testing.sim_library import Library, library

LENGTH = 1 << 20
SLICE = 65536


@dataclass
class World:
    """Hosts a and b with engines, and memory of LENGTH bytes that one can write to the other."""

    fabric: Fabric
    a: Host
    b: Host
    initiator: Engine
    target: Engine
    local: Region
    source: npt.NDArray[np.uint8]
    memory: npt.NDArray[np.uint8]
    segment: Segment

    def submit(self, op: str = "write", *, offset: int = 0, length: int = LENGTH) -> Batch:
        span = self.local[offset : offset + length]
        return self.initiator.submit(
            self.segment, op=op, local=span, remote=("target", offset), length=length
        )

    def transfer_ns(self, op: str = "write", *, length: int = LENGTH) -> int:
        begin_ns = self.fabric.now_ns
        batch = self.submit(op, length=length)
        self.fabric.run(batches=[batch])
        batch.wait()
        return self.fabric.now_ns - begin_ns


def world_on(fabric: Fabric, *, rails: int = 2, **facts: object) -> World:
    a, b = fabric.host("a"), fabric.host("b")
    described = {"bandwidth": 1e9, "latency_ns": 10_000, **facts}
    for host in (a, b):
        for number in range(rails):
            host.rail(str(number), **described)  # type: ignore[arg-type]
    settings = {"slice_size": "64k"}
    initiator = fabric.engine(a, plan=fabric.plan(a, settings=settings))
    target = fabric.engine(b, plan=fabric.plan(b, settings=settings))
    source = pattern(LENGTH, seed=1)
    memory = target.alloc(LENGTH).numpy()
    target.register(memory, label="target")
    local = initiator.register(source)
    segment = fabric.connect(initiator, target)
    return World(fabric, a, b, initiator, target, local, source, memory, segment)


@pytest.fixture
def world() -> Iterator[World]:
    with Fabric(seed=5, trace=True) as fabric:
        yield world_on(fabric)


def test_written_and_read_bytes_arrive(world: World) -> None:
    world.transfer_ns("write")
    assert np.array_equal(world.memory, world.source)
    world.source[:] = 0
    world.memory[:] = pattern(LENGTH, seed=2)
    world.transfer_ns("read")
    assert np.array_equal(world.memory, world.source)
    assert sum(rail.landed_bytes for rail in world.a.rails) == LENGTH
    assert sum(rail.landed_bytes for rail in world.b.rails) == LENGTH
    assert world.initiator.counters().engine.bytes_written == LENGTH


@pytest.mark.parametrize("op", ["write", "read"])
def test_a_lone_slice_takes_exactly_its_bytes_and_the_latency(world: World, op: str) -> None:
    assert world.transfer_ns(op, length=SLICE) == SLICE + 10_000
    assert world.transfer_ns(op, length=1) == 1 + 10_000


def test_the_segment_is_usable_after_a_few_control_latencies() -> None:
    with Fabric(control_latency_ns=7_000) as fabric:
        world_on(fabric)
        assert 0 < fabric.now_ns < 200_000


def traced(seed: int, *, jitter_ns: int) -> npt.NDArray[np.void]:
    with Fabric(seed=seed, trace=True) as fabric:
        world = world_on(fabric, jitter_ns=jitter_ns)
        for _ in range(3):
            world.transfer_ns("write")
            world.transfer_ns("read")
        return fabric.trace()


def test_the_same_seed_gives_the_same_trace() -> None:
    first, second = traced(3, jitter_ns=2_000), traced(3, jitter_ns=2_000)
    assert len(first) > 100
    assert np.array_equal(first, second)
    assert not np.array_equal(first["time_ns"], traced(4, jitter_ns=2_000)["time_ns"])


def test_every_posted_slice_lands_and_completes(world: World) -> None:
    world.transfer_ns()
    trace = world.fabric.trace()
    slices = LENGTH // SLICE
    for kind in (TRACE_POST, TRACE_LAND, TRACE_COMPLETE):
        rows = trace[trace["kind"] == kind]
        assert len(rows) == slices
        assert rows["bytes"].sum() == LENGTH
        assert set(rows["host"]) == {world.a.index}
        assert set(rows["rail"]) == {rail.index for rail in world.a.rails}
        assert set(rows["peer_rail"]) == {rail.index for rail in world.b.rails}
    assert (np.diff(trace["time_ns"].astype(np.int64)) >= 0).all()


def test_run_stops_when_any_or_all_batches_end(world: World) -> None:
    begin_ns = world.fabric.now_ns
    short, long = world.submit(length=1000), world.submit(offset=4096, length=SLICE * 8)
    world.fabric.run(batches=[short, long], mode="any")
    assert short.done and not long.done
    assert world.fabric.now_ns - begin_ns == 11_000
    world.fabric.run(batches=[short, long])
    assert long.done
    short.wait()
    long.wait()
    now_ns = world.fabric.now_ns
    world.fabric.run(batches=[short, long])  # their ends were taken: nothing to wait for
    assert world.fabric.now_ns == now_ns


def test_run_that_takes_too_long_is_a_timeout(world: World) -> None:
    batch = world.submit()
    until_ns = world.fabric.now_ns + 20_000
    with pytest.raises(Timeout):
        world.fabric.run(batches=[batch], until_ns=until_ns)
    assert world.fabric.now_ns == until_ns
    assert batch.poll() == Status.IN_PROGRESS
    world.fabric.run(batches=[batch])
    with pytest.raises(Timeout, match="the moon"):
        world.fabric.run_until(lambda: False, timeout_ns=300_000, what="the moon")
    with pytest.raises(InvalidArgument, match="never end"):
        world.fabric.run()
    with pytest.raises(InvalidArgument, match="some"):
        world.fabric.run(batches=[batch], mode="some")  # type: ignore[arg-type]


def test_run_for_moves_the_clock_by_that_much(world: World) -> None:
    begin_ns = world.fabric.now_ns
    world.fabric.run_for(123_457)
    assert world.fabric.now_ns == begin_ns + 123_457


def test_a_notice_travels_over_the_fabric(world: World) -> None:
    batch = world.initiator.submit(
        world.segment, op="write", local=world.local, remote="target", length=LENGTH, notice=b"done"
    )
    notices = []
    world.fabric.run_until(lambda: notices.append(world.target.next_notice()) or notices[-1])
    assert notices[-1] is not None and notices[-1].data == b"done"
    assert np.array_equal(world.memory, world.source)
    assert batch.done


def test_a_rail_that_goes_down_leaves_the_work_to_the_other(world: World) -> None:
    batch = world.submit()
    world.fabric.run_for(50_000)
    world.a.rails[1].set(up=False)
    world.fabric.run(batches=[batch])
    batch.wait()
    assert np.array_equal(world.memory, world.source)
    assert world.a.rails[1].counters.dropped_slices > 0
    assert (world.fabric.trace()["kind"] == TRACE_DROP).any()


def test_a_slower_rail_is_felt_at_once(world: World) -> None:
    quick_ns = world.transfer_ns()
    for rail in world.b.rails:
        rail.set(bandwidth=1e8)
    assert world.transfer_ns() > 5 * quick_ns
    for rail in world.b.rails:
        rail.set(bandwidth=1e9, latency_ns=500_000)
    assert world.transfer_ns(length=SLICE) == SLICE + 500_000


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"bandwidth": -1}, "bytes_per_s is -1"),
        ({"bandwidth": float("nan")}, "bandwidth is nan"),
        ({"bandwidth": float("inf")}, "bandwidth is inf"),
        ({"bandwidth": "fast"}, "bandwidth is 'fast'"),
        ({"bandwidth": 1e9, "nominal": -5}, "nominal_bytes_per_s is -5"),
        ({"bandwidth": 1e9, "latency_ns": -5}, "latency_ns is -5"),
        ({"bandwidth": 1e9, "latency_ns": 0.5}, "latency_ns is 0.5"),
    ],
)
def test_a_rail_that_cannot_be_is_refused_by_name(facts: dict[str, Any], name: str) -> None:
    with Fabric(seed=1) as fabric:
        host = fabric.host("a")
        with pytest.raises(InvalidArgument, match=name):
            host.rail("0", **facts)
        assert not host.rails


def test_a_setting_keeps_what_it_does_not_name(world: World) -> None:
    rail = world.a.rails[0]
    rail.set(loss=0.5)
    rail.set(jitter_ns=7)
    assert (rail.facts.loss, rail.facts.jitter_ns, rail.facts.latency_ns) == (0.5, 7, 10_000)
    with pytest.raises(TypeError):
        rail.set(colour="red")
    with pytest.raises(InvalidArgument, match="probability"):
        rail.set(loss=2.0)
    assert rail.facts.loss == 0.5


def test_without_bytes_large_transfers_take_their_time_and_no_more() -> None:
    length = 1 << 30
    with Fabric(carry_bytes=False) as fabric:
        a, b = fabric.host("a"), fabric.host("b")
        for host in (a, b):
            for number in range(4):
                host.rail(str(number), bandwidth=25e9)
        route = "route * : sim[0 1 2 3] slice=16m"
        initiator = fabric.engine(a, plan=fabric.plan(a, route=route))
        target = fabric.engine(b, plan=fabric.plan(b, route=[route]))
        # Never touched, so never there: no byte is copied.
        local = initiator.register(np.empty(length, dtype=np.uint8))
        target.register(np.empty(length, dtype=np.uint8), label="target")
        segment = fabric.connect(initiator, target)
        begin_ns = fabric.now_ns
        batch = initiator.submit(segment, op="write", local=local, remote="target", length=length)
        fabric.run(batches=[batch])
        batch.wait()
        assert length / 100e9 * 1e9 <= fabric.now_ns - begin_ns <= length / 90e9 * 1e9


def test_incast_is_limited_by_the_receiving_rail() -> None:
    with Fabric() as fabric:
        hosts = [fabric.host(f"h{number}") for number in range(4)]
        for host in hosts:
            host.rail("0", bandwidth=1e9, latency_ns=10_000)
        target, *initiators = [fabric.engine(host) for host in hosts]
        memory = target.alloc(3 * SLICE).numpy()
        target.register(memory, label="target")
        batches = []
        segments = [fabric.connect(engine, target) for engine in initiators]
        begin_ns = fabric.now_ns
        for number, (engine, segment) in enumerate(zip(initiators, segments, strict=True)):
            local = engine.register(pattern(SLICE, seed=number))
            remote = ("target", number * SLICE)
            batches.append(
                engine.submit(segment, op="write", local=local, remote=remote, length=SLICE)
            )
        fabric.run(batches=batches)
        assert fabric.now_ns - begin_ns == 3 * SLICE + 10_000
        for number in range(3):
            part = memory[number * SLICE : (number + 1) * SLICE]
            assert np.array_equal(part, pattern(SLICE, seed=number))


def test_a_cut_is_shared_by_its_rails() -> None:
    with Fabric() as fabric:
        world = world_on(fabric, bandwidth=8e9)
        cut = fabric.cut("socket", rails=world.a.rails, bandwidth=1e9)
        through_ns = world.transfer_ns()
        assert through_ns >= LENGTH
        assert cut.capacity(0, 1000) == 1000
        cut.set(bandwidth=16e9)
        assert world.transfer_ns() < through_ns / 4


rates = st.integers(0, 10**10)


@given(
    points=st.lists(
        st.tuples(st.integers(0, 10**6), rates), min_size=1, max_size=8, unique_by=lambda p: p[0]
    ),
    begin=st.integers(0, 2 * 10**6),
    length=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_piecewise_capacities_are_integrals(
    points: list[tuple[int, int]], begin: int, length: int
) -> None:
    points.sort()
    with Fabric() as fabric:
        rail = fabric.host("a").rail("0", bandwidth=Piecewise(points))
        edges = [0, *(time_ns for time_ns, _ in points[1:]), 1 << 62]
        work = sum(
            rate * max(0, min(end, begin + length) - max(start, begin))
            for (_, rate), start, end in zip(points, edges, edges[1:], strict=False)
        )
        assert rail.capacity(begin, begin + length) == work // 10**9


@given(
    high=rates,
    low=rates,
    half=st.integers(1, 10**5),
    phase=st.integers(0, 10**6),
    begin=st.integers(0, 10**6),
    length=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_flapping_capacities_are_integrals(
    high: int, low: int, half: int, phase: int, begin: int, length: int
) -> None:
    def work_until(time_ns: int) -> int:
        periods, place = divmod(time_ns + phase, 2 * half)
        return periods * half * (high + low) + min(place, half) * high + max(0, place - half) * low

    with Fabric() as fabric:
        bandwidth = Flapping(high=high, low=low, period_ns=2 * half, phase_ns=phase)
        rail = fabric.host("a").rail("0", bandwidth=bandwidth)
        expected = (work_until(begin + length) - work_until(begin)) // 10**9
        assert rail.capacity(begin, begin + length) == expected


def test_the_engine_is_told_the_nominal_speed_alone() -> None:
    with Fabric() as fabric:
        a, b = fabric.host("a"), fabric.host("b")
        for host in (a, b):
            host.rail("0", bandwidth=Flapping(high=2e9, low=1e9, period_ns=1000))
            host.rail("1", bandwidth=Piecewise([(0, 3e9), (10, 1e9)]))
            host.rail("2", bandwidth=1e9, nominal=25e9)
        target, engine = fabric.engine(b), fabric.engine(a)
        target.register(target.alloc(4096).numpy(), label="target")
        fabric.connect(engine, target)
        rates = [row.rate_bytes_per_s for row in engine.counters().endpoints]
        assert sorted(rates) == [2_000_000_000, 3_000_000_000, 25_000_000_000]


def test_plans_name_the_fabric_its_rails_and_the_route() -> None:
    with Fabric() as fabric:
        host = fabric.host("a")
        for name in ("x", "y"):
            host.rail(name, bandwidth=1e9)
        assert fabric.plan(host, settings={"retries_max": 3}) == (
            f"plan 1\nset sim.fabric={fabric.name}\nset retries_max=3\n"
            "rail 0 sim a/x\nrail 1 sim a/y\nroute * : sim[0 1]\n"
        )
        assert fabric.plan(host, route="route * : sim[0 | 1]").endswith("route * : sim[0 | 1]\n")


def test_one_host_has_one_listener_unless_another_port_is_named() -> None:
    with Fabric() as fabric:
        host = fabric.host("a", address="10.1.2.3:900")
        host.rail("0", bandwidth=1e9)
        assert fabric.engine(host).address == "10.1.2.3:900"
        with pytest.raises(Busy):
            fabric.engine(host)
        assert fabric.engine(host, listen="sim://10.1.2.3:0").address == "10.1.2.3:901"


def test_a_closed_engine_is_not_stepped_any_more(world: World) -> None:
    world.transfer_ns()
    world.initiator.close()
    world.fabric.run_for(1_000_000)
    world.fabric.close()
    world.fabric.close()


def test_errors_are_sentences() -> None:
    with Fabric() as fabric:
        host = fabric.host("a")
        with pytest.raises(TentError, match="host a"):
            fabric.host("a")
        with pytest.raises(InvalidArgument, match="no name"):
            host.rail("a b", bandwidth=1)
        with pytest.raises(InvalidArgument, match="bandwidth"):
            host.rail("0", bandwidth=1e18)
        with pytest.raises(InvalidArgument, match="rail 'a/9'"):
            host.rail("0", bandwidth=1)
            fabric.engine(host, plan=fabric.plan(host).replace("a/0", "a/9"))


def test_an_installation_without_the_plugin_says_so(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no simulated fabric"):
        Library(tmp_path)


def test_python_and_c_agree_on_the_structs() -> None:
    ffi = library().ffi
    record = ffi.typeof("tent_sim_record")
    assert TRACE_DTYPE.itemsize == ffi.sizeof(record)
    assert [(name, field.offset) for name, field in record.fields] == [
        (name, TRACE_DTYPE.fields[name][1])
        for name in TRACE_DTYPE.names or ()
        if TRACE_DTYPE.fields
    ]
    counters = [name for name, _ in ffi.typeof("tent_sim_counters").fields]
    assert counters == [field.name for field in fields(RailCounters)]
    kinds = {"POST": TRACE_POST, "COMPLETE": TRACE_COMPLETE, "LAND": TRACE_LAND, "DROP": TRACE_DROP}
    for name, number in kinds.items():
        assert getattr(library().lib, f"TENT_SIM_TRACE_{name}") == number


def test_representations_say_what_they_are() -> None:
    with Fabric() as fabric:
        host = fabric.host("a")
        rail: Rail = host.rail("0", bandwidth=1)
        assert (repr(host), repr(rail)) == ("<sim host a at 10.0.0.1:7000>", "<sim rail a/0>")
