"""Rails of real libibverbs break in mid-transfer: every byte arrives, the application sees no
error, and what is whole again carries again."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import peers
import pytest
from peers import KEY, peer_process
from soft_plans import PATIENT, plan
from soft_rails import SoftRail, run
from soft_world import LENGTH, WAIT_S, World, world

from tent import Engine, EventType, PeerLost, StaleSegment, Status, TransportFailed, Unfenced
from tent.testing import eventually, pattern

BROKEN = 0
# Longer than any test: whoever notices silence before is not ibverbs.
NO_ACK_TIMEOUT = {"rdma.ack_timeout": "26"}


def carries_again(made: World, rail: int) -> None:
    """Transfers go on until the rail has carried a good part of one."""
    before, seed = made.moved()[rail], 1000

    def carried() -> bool:
        nonlocal seed
        seed += 1
        made.move("read" if seed % 2 else "write", seed=seed)
        return made.moved()[rail] - before > LENGTH // 4

    eventually(carried, what=f"rail {rail} carries again", timeout=WAIT_S)


def carried_by(made: World, act: Callable[[], None]) -> list[int]:
    before = made.moved()
    act()
    return [after - then for after, then in zip(made.moved(), before, strict=True)]


@pytest.mark.parametrize("op", ["write", "read"])
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_link_that_goes_down_costs_a_retry_and_no_error(
    rails: list[SoftRail], op: str, side: str
) -> None:
    with world(rails) as made:
        with made.begin(op) as transfer:
            transfer.until(0.25)
            retried = made.retried()
            rails[BROKEN].link_down(side)
            transfer.ends_well()
        assert made.retried() > retried
        eventually(
            lambda: made.saw(EventType.RAIL_DOWN, rail=BROKEN), what="word of the rail that is down"
        )
        alone = carried_by(made, lambda: made.move(op, seed=2))
        assert alone[BROKEN] == 0
        rails[BROKEN].link_up(side)
        carries_again(made, BROKEN)
        assert made.saw(EventType.RAIL_UP, rail=BROKEN)
        made.settle()


@pytest.mark.parametrize("op", ["write", "read"])
def test_silent_loss_is_noticed_by_the_slices_deadline(rails: list[SoftRail], op: str) -> None:
    """ibverbs would wait for an acknowledgement longer than this test lasts."""
    with world(rails, settings=NO_ACK_TIMEOUT) as made:
        with made.begin(op) as transfer:
            transfer.until(0.25)
            rails[BROKEN].black_hole()
            transfer.ends_well()
        assert made.retried() > 0
        assert all(rails[BROKEN].active(side) for side in ("a", "b"))
        assert not made.saw(EventType.RAIL_DOWN, rail=BROKEN)
        rails[BROKEN].heal()
        carries_again(made, BROKEN)
        made.settle()


def test_a_port_that_flaps_disturbs_nobody(rails: list[SoftRail]) -> None:
    with world(rails) as made:
        for seed in range(3):
            with made.begin("write" if seed % 2 else "read", seed=seed) as transfer:
                transfer.until(0.1)
                rails[BROKEN].link_down()
                rails[BROKEN].link_up()
                transfer.ends_well()
        carries_again(made, BROKEN)
        made.settle()


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_device_taken_away_is_let_go_of_and_used_again(rails: list[SoftRail], side: str) -> None:
    with world(rails) as made:
        with made.begin() as transfer:
            transfer.until(0.25)
            # Ends only once nobody has it open.
            gone = rails[BROKEN].remove(side)
            transfer.ends_well()
        said, _ = gone.communicate(timeout=WAIT_S)
        assert gone.returncode == 0, said
        assert carried_by(made, lambda: made.move(seed=2))[BROKEN] == 0
        rails[BROKEN].add(side)
        carries_again(made, BROKEN)
        made.settle()


@pytest.mark.parametrize("fault", ["link down", "silent loss"])
def test_tcp_serves_while_all_rails_are_broken_and_rdma_comes_back(
    rails: list[SoftRail], fault: str
) -> None:
    with world(rails, tcp=True) as made:
        tcp = made.tcp_rail
        assert tcp is not None
        assert made.moved()[tcp] == 0
        with made.begin() as transfer:
            transfer.until(0.25)
            for rail in rails:
                if fault == "link down":
                    rail.link_down()
                else:
                    rail.black_hole()
            transfer.ends_well()
        assert made.moved()[tcp] > 0
        for rail in rails:
            rail.heal()
            if fault == "link down":
                rail.link_up()
        for index in range(len(rails)):
            carries_again(made, index)
        assert carried_by(made, lambda: made.move("read", seed=3))[tcp] == 0
        made.settle()


def queued_packets(rail: SoftRail, side: str) -> int:
    said = run("tc", "-s", "qdisc", "show", "dev", rail.netdev(side))
    found = re.search(r"backlog \S+ (\d+)p", said)
    assert found, said
    return int(found[1])


def test_a_write_that_arrives_after_the_end_is_fenced_off(rails: list[SoftRail]) -> None:
    """Packets of an abandoned attempt stand in a wire of several seconds; when they come out, the
    memory is long somebody else's."""
    late = rails[BROKEN]
    # Canaries would keep the wire from getting empty.
    settings = {**NO_ACK_TIMEOUT, "probe_first": "40s", "probe_max": "40s"}
    with world(rails, mbit=[16, 16], settings=settings) as made:
        with made.begin() as transfer:
            transfer.until(0.25)
            late.netem("a", "delay", "8s", "limit", "100000")
            transfer.ends_well()
            held = queued_packets(late, "a")
        made.pair.remote_bytes[:] = 0x5A
        made.pair.local_bytes[:] = 0xA5
        assert held > 0, "nothing was under way any more: this proves nothing"
        eventually(lambda: queued_packets(late, "a") < held, what="packets that arrive late")
        eventually(lambda: queued_packets(late, "a") == 0, what="an empty wire", timeout=WAIT_S)
        assert (made.pair.remote_bytes == 0x5A).all(), "bytes were written after the end"


def test_a_killed_peer_ends_each_request_once(
    rails: list[SoftRail], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "ANSWER_S", WAIT_S)
    text = {"settings": PATIENT, "slice_size": "256k", "rails": len(rails)}
    with (
        peer_process(text=plan("b", **text), size=LENGTH) as peer,
        Engine(plan=plan("a", **text), key=KEY, name="tester") as engine,
    ):
        data = engine.alloc(LENGTH).numpy()
        data[:] = pattern(LENGTH, seed=5)
        local = engine.register(data)
        segment = engine.open_segment(peer.address, timeout=WAIT_S)
        for rail in rails:
            rail.shape(32)
        starts = np.arange(8, dtype=np.uint64) * np.uint64(LENGTH // 8)
        with engine.submit(
            segment, op="write", local=(local, starts), remote=("peer", starts),
            length=LENGTH // 8,
        ) as batch:  # fmt: skip
            eventually(lambda: engine.counters().engine.slices > 4, what="a transfer under way")
            assert not batch.done
            peer.kill()
            with pytest.raises((PeerLost, TransportFailed, Unfenced, StaleSegment)):
                batch.wait(WAIT_S)
            statuses = batch.status()["status"]
            assert (statuses < 0).any()
            assert not (statuses == Status.IN_PROGRESS).any()
        row = engine.counters().engine
        assert row.charged_bytes == row.released_bytes
