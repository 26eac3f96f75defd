"""Deadlines: the earliest goes first, a missed one ends its request, a wrong one is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests_support import LENGTH

from tent import Batch, InvalidArgument, Status, Timeout
from tent.testing import Pair, engine_pair

# A megabyte takes most of a second, in slices of which few are in flight.
PLAN = (
    "plan 1\nset slice_size=16k\nset window_max=64k\ndecorate tcp fault\n"
    "rail 0 tcp 127.0.0.1 gbps=0.01 fault.throttle=10mbit\nroute * : tcp[0]\n"
)
SMALL = 16 << 10
SOON = 30.0  # far beyond the test: for the order


@pytest.fixture
def queue() -> Iterator[Pair]:
    with engine_pair(plan=PLAN, length=LENGTH) as made:
        yield made


def long_one(pair: Pair) -> Batch:
    return pair.initiator.submit(pair.segment, op="write", local=pair.local, remote="target")


def test_without_a_deadline_the_first_come_is_done_first(queue: Pair) -> None:
    first = long_one(queue)
    queue.initiator.write(queue.segment, local=queue.local[:SMALL], remote="target")
    assert first.poll() == Status.OK
    first.wait()


@pytest.mark.parametrize("verb", ["write", "read"])
def test_a_transfer_with_a_deadline_overtakes(queue: Pair, verb: str) -> None:
    first = long_one(queue)
    move = getattr(queue.initiator, verb)
    move(queue.segment, local=queue.local[:SMALL], remote="target", deadline=SOON)
    assert first.poll() == Status.IN_PROGRESS
    first.close()


@pytest.mark.parametrize("verb", ["write", "read"])
def test_an_awaited_transfer_with_a_deadline_overtakes(queue: Pair, verb: str) -> None:
    first = long_one(queue)

    async def main() -> None:
        move = getattr(queue.initiator.aio, verb)
        await move(queue.segment, local=queue.local[:SMALL], remote="target", deadline=SOON)

    asyncio.run(main())
    assert first.poll() == Status.IN_PROGRESS
    first.close()


def test_a_submit_with_a_deadline_overtakes(queue: Pair) -> None:
    first = long_one(queue)
    with queue.initiator.submit(
        queue.segment, op="write", local=queue.local[:SMALL], remote="target", deadline=SOON
    ) as urgent:
        urgent.wait()
    assert first.poll() == Status.IN_PROGRESS
    first.close()


def test_a_batch_with_the_earlier_deadline_overtakes_one_with_a_later(queue: Pair) -> None:
    with (
        queue.initiator.batch(deadline=60.0) as patient,
        queue.initiator.batch(deadline=SOON) as urgent,
    ):
        patient.write(queue.segment, local=queue.local, remote="target")
        urgent.write(queue.segment, local=queue.local[:SMALL], remote="target")
        urgent.wait()
        assert patient.poll() == Status.IN_PROGRESS


def test_a_missed_deadline_ends_its_request_and_no_other(queue: Pair) -> None:
    with queue.initiator.batch(deadline=60.0) as patient:
        patient.write(queue.segment, local=queue.local[:SMALL], remote="target")
        with pytest.raises(Timeout):
            queue.initiator.write(queue.segment, local=queue.local, remote="target", deadline=0.2)
        patient.wait()
    assert queue.initiator.counters().engine.requests_failed == 1
    assert not queue.initiator.unfenced()


@pytest.mark.parametrize("deadline", [0, 0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(queue: Pair, deadline: float) -> None:
    engine, there = queue.initiator, {"local": queue.local, "remote": "target"}

    async def awaited() -> None:
        await engine.aio.submit(queue.segment, op="write", deadline=deadline, **there)

    for call in (
        lambda: engine.write(queue.segment, deadline=deadline, **there),
        lambda: engine.read(queue.segment, deadline=deadline, **there),
        lambda: engine.submit(queue.segment, op="write", deadline=deadline, **there),
        lambda: engine.batch(deadline=deadline),
        lambda: asyncio.run(engine.aio.write(queue.segment, deadline=deadline, **there)),
        lambda: asyncio.run(awaited()),
    ):
        with pytest.raises(InvalidArgument, match="deadline is"):
            call()
    assert engine.counters().engine.requests == 0
