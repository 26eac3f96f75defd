"""The engine in event loops: the same verbs, awaited; the loop goes on; cancelling is clean."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests_support import KEY

from tent import AsyncEngine, Cancelled, Closed, Engine, OutOfRange, Status, Timeout
from tent.testing import Pair

pytest_plugins = ["tests_fixtures"]


def test_the_whole_way() -> None:
    async def main() -> None:
        async with Engine(key=KEY) as target, Engine(key=KEY, name="writer") as engine:
            assert isinstance(engine, AsyncEngine)
            memory = target.alloc(1 << 20)
            target.register(memory, label="there")
            data = np.random.default_rng(1).integers(0, 256, 1 << 20, dtype=np.uint8)
            local = engine.register(data)
            segment = await engine.open_segment(target.address)
            await engine.write(segment, local=local, remote="there", notice=b"done")
            notice = await target.next_notice(timeout=10)
            assert notice is not None
            assert (notice.data, notice.sender) == (b"done", "writer")
            assert np.array_equal(memory.numpy(), data)
            back = np.zeros(1 << 20, dtype=np.uint8)
            engine.register(back)
            await engine.read(segment, local=back, remote="there")
            assert np.array_equal(back, data)
            late = target.register(bytearray(8), label="late")
            assert "late" in {info.label for info in await engine.refresh(segment)}
            await target.release(late)
            await engine.close_segment(segment)

    asyncio.run(main())


def test_hundreds_of_transfers_at_a_time(pair: Pair) -> None:
    size = 1 << 12
    pair.local_bytes[:] = np.random.default_rng(2).integers(0, 256, 1 << 20, dtype=np.uint8)

    async def main() -> None:
        engine = pair.initiator.aio
        await asyncio.gather(
            *(
                engine.write(
                    pair.segment,
                    local=pair.local[at : at + size],
                    remote=("target", at),
                )
                for at in range(0, 1 << 20, size)
            )
        )

    asyncio.run(main())
    assert np.array_equal(pair.local_bytes, pair.remote_bytes)


def test_a_batch_of_the_sync_interface_can_be_awaited(pair: Pair) -> None:
    async def main() -> None:
        batch = pair.initiator.submit(
            pair.segment, op="write", local=pair.local, remote="target", length=1000
        )
        await batch
        await batch
        assert batch.request(0).bytes == 1000
        done = pair.initiator.submit(
            pair.segment, op="read", local=pair.local, remote="target", length=1000
        )
        while not done.done:
            await asyncio.sleep(0)
        await done  # its completion may have been taken before anybody waited

    asyncio.run(main())


def test_the_loop_goes_on_while_a_transfer_is_slow(slow: Pair) -> None:
    async def main() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        ticker = asyncio.create_task(tick())
        await slow.initiator.aio.write(slow.segment, local=slow.local, remote="target")
        ticker.cancel()
        return ticks

    assert asyncio.run(main()) > 20


def test_a_cancelled_task_leaves_its_buffers_free(slow: Pair) -> None:
    slow.local_bytes[:] = 1

    async def main() -> None:
        task = asyncio.create_task(
            slow.initiator.aio.write(slow.segment, local=slow.local, remote="target")
        )
        while slow.initiator.counters().engine.slices_retried == 0 and not any(
            row.inflight_bytes for row in slow.initiator.counters().rails
        ):
            await asyncio.sleep(0.001)
        task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        slow.remote_bytes[:] = 9
        slow.local_bytes[:] = 2
        await slow.initiator.aio.write(slow.segment, local=slow.local[:1], remote="target")

    asyncio.run(main())
    assert slow.remote_bytes[0] == 2
    assert (slow.remote_bytes[1:] == 9).all()
    slow.local.release()  # nothing holds it any more


def test_cancelling_again_while_it_is_being_cancelled_waits_all_the_same(slow: Pair) -> None:
    async def main() -> None:
        batch = slow.initiator.submit(
            slow.segment, op="write", local=slow.local, remote="target", length=1 << 20
        )

        async def wait() -> None:
            await batch

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert batch.done
        assert batch.request(0).status in (Status.CANCELLED, Status.OK)
        with pytest.raises(Cancelled):
            await batch

    asyncio.run(main())


def test_running_out_of_time(slow: Pair) -> None:
    async def main() -> None:
        begin = time.monotonic()
        with pytest.raises(Timeout, match="nothing touches the memory"):
            await slow.initiator.aio.write(
                slow.segment, local=slow.local, remote="target", timeout=0.1
            )
        assert time.monotonic() - begin < 10
        assert await slow.target.aio.next_notice(timeout=0.01) is None

    asyncio.run(main())


def test_errors_are_those_of_the_sync_interface(pair: Pair) -> None:
    async def main() -> None:
        with pytest.raises(OutOfRange, match="0x1000"):
            await pair.initiator.aio.write(pair.segment, local=pair.local[:8], remote=4096)

    asyncio.run(main())


def test_closing_the_engine_ends_the_tasks_that_wait(slow: Pair) -> None:
    async def main() -> None:
        engine = slow.initiator.aio
        write = asyncio.create_task(engine.write(slow.segment, local=slow.local, remote="target"))
        notice = asyncio.create_task(engine.next_notice())
        await asyncio.sleep(0.05)
        await engine.close()
        for task in (write, notice):
            with pytest.raises((Closed, Cancelled)):
                await asyncio.wait_for(task, 10)

    asyncio.run(main())


def test_two_loops_share_an_engine(pair: Pair) -> None:
    pair.local_bytes[:] = 5
    half = 1 << 19

    async def work(begin: int) -> None:
        engine = pair.initiator.aio
        for at in range(begin, begin + half, 1 << 14):
            await engine.write(
                pair.segment, local=pair.local[at : at + (1 << 14)], remote=("target", at)
            )

    failures: list[BaseException | None] = []

    def run(begin: int) -> None:
        try:
            asyncio.run(asyncio.wait_for(work(begin), 60))
            failures.append(None)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(begin,)) for begin in (0, half)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == [None, None]
    assert (pair.remote_bytes == 5).all()


def test_no_descriptor_stays_open(pair: Pair) -> None:
    async def main() -> None:
        await pair.initiator.aio.write(pair.segment, local=pair.local[:8], remote="target")

    def event_descriptors() -> int:
        return sum("eventfd" in str(link.readlink()) for link in links() if link.is_symlink())

    def links() -> list[Path]:
        return list(Path("/proc/self/fd").iterdir())

    asyncio.run(main())
    before = event_descriptors()
    for _ in range(5):
        asyncio.run(main())
    assert event_descriptors() == before


def test_notices_as_an_iterator(pair: Pair) -> None:
    async def main() -> list[bytes]:
        engine = pair.initiator.aio
        for number in range(5):
            await engine.write(
                pair.segment, local=pair.local[:8], remote="target", notice=b"%d" % number
            )
        return [notice.data async for notice in pair.target.aio.notices(timeout=0.5)]

    assert asyncio.run(main()) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    "verb",
    sorted(
        name
        for name in vars(AsyncEngine)
        if not name.startswith("_") and callable(getattr(Engine, name, None))
    ),
)
def test_awaited_verbs_take_what_blocking_ones_take(verb: str) -> None:
    blocking = inspect.signature(getattr(Engine, verb)).parameters
    awaited = inspect.signature(getattr(AsyncEngine, verb)).parameters
    assert [(p.name, p.kind, p.default) for p in awaited.values()] == [
        (p.name, p.kind, p.default) for p in blocking.values()
    ]
