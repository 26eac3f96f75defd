"""Processes on the simulated fabric that freeze, die and come back, with engines in them."""

from __future__ import annotations

from tent import Engine, Status
from tent.errors import TentError
from tent.testing.sim import DARK, FROZEN, KILLED, RUNS, Fabric, Host

MS = 1_000_000


def pair(fabric: Fabric) -> tuple[Host, Host, Engine, Engine]:
    hosts = fabric.host("a"), fabric.host("b")
    for host in hosts:
        host.rail("0", bandwidth=1e9, latency_ns=10_000)
    return (*hosts, fabric.engine(hosts[0]), fabric.engine(hosts[1]))


def test_a_frozen_engine_is_not_stepped_and_goes_on_where_it_was() -> None:
    with Fabric() as fabric:
        _, b, initiator, target = pair(fabric)
        memory = target.alloc(4096)
        target.register(memory, label="x")
        local = initiator.register(initiator.alloc(4096))
        segment = fabric.connect(initiator, target)
        b.set_state(FROZEN)
        batch = initiator.submit(segment, op="write", local=local, remote="x", length=4096)
        fabric.run_for(MS)
        assert batch.poll() == Status.IN_PROGRESS
        b.set_state(RUNS)
        fabric.run(batches=[batch])
        batch.wait()


def test_closing_a_killed_engine_moves_no_clock_and_its_address_is_free() -> None:
    with Fabric() as fabric:
        _, b, initiator, target = pair(fabric)
        target.register(target.alloc(4096), label="x")
        fabric.connect(initiator, target)
        b.set_state(KILLED)
        fabric.run_for(MS)
        now_ns = fabric.now_ns
        target.close()
        assert fabric.now_ns == now_ns
        b.set_state(RUNS)
        again = fabric.engine(b)
        again.register(again.alloc(4096), label="y")
        segment = fabric.connect(initiator, again)
        assert [region.label for region in segment.regions] == ["y"]


def test_a_dark_host_refuses_nothing_and_answers_nothing() -> None:
    with Fabric(control_break_ns=50 * MS) as fabric:
        _, b, initiator, _ = pair(fabric)
        b.set_state(DARK)
        segment = initiator.open_segment(b.address, timeout=0)
        fabric.run_for(10 * MS)
        assert not segment.ready
        fabric.run_for(5_000 * MS)
        try:
            segment.wait(0)
        except TentError as error:
            assert error.status in (Status.TIMEOUT, Status.PEER)
        else:
            raise AssertionError("a machine without power answered")


def test_a_deaf_host_keeps_its_sessions_and_takes_no_new_ones() -> None:
    with Fabric() as fabric:
        _, b, initiator, target = pair(fabric)
        target.register(target.alloc(4096), label="x")
        local = initiator.register(initiator.alloc(4096))
        segment = fabric.connect(initiator, target)
        b.set_state(RUNS, deaf=True)
        c = fabric.host("c")
        c.rail("0", bandwidth=1e9)
        late = fabric.engine(c).open_segment(b.address, timeout=0)
        batch = initiator.submit(segment, op="write", local=local, remote="x", length=4096)
        fabric.run(batches=[batch])
        batch.wait()
        fabric.run_for(MS)
        try:
            assert not late.ready
        except TentError as error:
            assert error.status == Status.PEER
        b.set_state(RUNS)
        assert fabric.connect(fabric.engine(c, listen=f"sim://{c.address.split(':')[0]}:0"), target)
