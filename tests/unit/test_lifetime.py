"""Who keeps what alive, and what happens to those who forget to close."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from tests_support import KEY, PLAN

from tent import (
    Busy,
    Closed,
    Engine,
    Forked,
    InvalidArgument,
    Memory,
    NotFound,
    Status,
    TentError,
)
from tent.testing import Pair, engine_pair, eventually

pytest_plugins = ["tests_fixtures"]


class Array(np.ndarray):  # type: ignore[type-arg]
    """An array that can be watched for its end."""


def test_a_registered_buffer_lives_until_it_is_released() -> None:
    with Engine(key=KEY) as engine:
        array = np.zeros(100, dtype=np.uint8).view(Array)
        watch = weakref.ref(array)
        region = engine.register(array)
        del array
        gc.collect()
        assert watch() is not None
        region.release()
        region.release()
        gc.collect()
        assert watch() is None
        with pytest.raises(NotFound):
            region.engine._release(region)


def test_a_forgotten_region_object_does_not_release_its_memory() -> None:
    with Engine(key=KEY) as engine:
        engine.register(bytearray(100), label="kept")
        gc.collect()
        assert [info.label for info in engine.regions] == ["kept"]


def test_a_region_in_use_is_not_released(slow: Pair) -> None:
    with slow.initiator.submit(
        slow.segment, op="write", local=slow.local, remote="target", length=1 << 20
    ) as batch:
        with pytest.raises(Busy, match="in flight"):
            slow.local.release()
        assert not slow.local.released
        batch.cancel()
        eventually(lambda: batch.done, what="the cancelled batch's end")
    slow.local.release()


def test_memory_outlives_its_engine_and_guards_its_views() -> None:
    with Engine(key=KEY) as engine:
        memory = engine.alloc(5000)
        array = memory.numpy(np.uint32)
        region = engine.register(memory)
        with pytest.raises(Busy, match="5000 bytes"):
            memory.close()
    array[0] = 7
    assert memory.view()[0] == 7
    assert region.engine.closed
    del array
    memory.close()
    memory.close()
    with pytest.raises(Closed):
        memory.view()


@pytest.mark.parametrize("length", [0, -1])
def test_memory_of_no_bytes_is_refused(length: int) -> None:
    with pytest.raises(InvalidArgument):
        Memory(length)


def test_a_closed_engine_says_so(pair: Pair) -> None:
    engine, segment = pair.initiator, pair.segment
    engine.close()
    engine.close()
    assert segment.closed
    segment.close()
    for call in (
        lambda: engine.address,
        lambda: engine.register(bytearray(1)),
        lambda: engine.write(segment, local=pair.local, remote=1),
        lambda: engine.events(),
        lambda: engine.counters(),
        lambda: engine.next_notice(timeout=1),
        lambda: engine.open_segment("127.0.0.1:1"),
        lambda: segment.regions,
        lambda: engine.alloc(10),
    ):
        with pytest.raises(Closed):
            call()
    assert "closed" in repr(engine)


def test_a_dropped_batch_warns_and_its_memory_stays_safe(slow: Pair) -> None:
    batch = slow.initiator.submit(
        slow.segment, op="write", local=slow.local, remote="target", length=1 << 20
    )
    assert batch.poll() == Status.IN_PROGRESS
    with pytest.warns(ResourceWarning, match="without wait"):
        del batch
        gc.collect()

    # The engine ends it at its next batch; then the region is free.
    def released() -> bool:
        slow.initiator.batch().close()
        try:
            slow.local.release()
        except Busy:
            return False
        return True

    eventually(released, what="the dropped batch's end")


def test_a_dropped_engine_warns_and_is_closed() -> None:
    engine = Engine(key=KEY)
    native = engine.native
    with pytest.warns(ResourceWarning, match="without close"):
        del engine
        gc.collect()
    assert native.closed


def test_a_finished_batch_needs_no_close(pair: Pair, recwarn: pytest.WarningsRecorder) -> None:
    batch = pair.initiator.submit(
        pair.segment, op="write", local=pair.local, remote="target", length=10
    )
    batch.wait(10)
    assert batch.request(0).bytes == 10
    assert batch.settled
    del batch
    gc.collect()
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]


def test_sync_batches_never_fill_the_completion_ring() -> None:
    with engine_pair(
        plan=PLAN,
        length=64,
        initiator_options={"completions_max": 16},
    ) as pair:
        for _ in range(100):
            pair.initiator.submit(
                pair.segment, op="write", local=pair.local, remote="target", length=8
            ).wait(10)


def test_a_batch_larger_than_the_pool_goes_in_instalments() -> None:
    count = 1000
    with engine_pair(
        plan=PLAN,
        length=count,
        initiator_options={"requests_max": 64},
    ) as pair:
        pair.local_bytes[:] = np.arange(count) % 251
        at = np.arange(count, dtype=np.uint64)
        batch = pair.initiator.submit(
            pair.segment, op="write", local=(pair.local, at), remote=("target", at), length=1
        )
        batch.wait(30)
        assert np.array_equal(pair.remote_bytes, pair.local_bytes)
        rows = batch.status()
        assert rows["user_data"].tolist() == list(range(count))
        assert (rows["bytes"] == 1).all()


def test_closing_wakes_a_thread_that_waits_for_a_notice(pair: Pair) -> None:
    ended = threading.Event()

    def wait() -> None:
        assert list(pair.target.notices()) == []
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    pair.target.close()
    thread.join(10)
    assert ended.is_set()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_cannot_use_the_engine_nor_harm_it(pair: Pair) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = b"?"
        try:
            pair.initiator.write(pair.segment, local=pair.local, remote="target")
        except Forked:
            code = b"F"
        except TentError:
            code = b"E"
        finally:
            try:
                pair.initiator.close()
                pair.target.close()
                with Engine(key=KEY) as own:  # an engine of its own is fine
                    code += b"O" if own.address else b"?"
            finally:
                os.write(writer, code)
                os._exit(0)
    os.close(writer)
    try:
        assert os.read(reader, 10) == b"FO"
    finally:
        os.close(reader)
        os.waitpid(child, 0)
    pair.local_bytes[:] = 3
    pair.initiator.write(pair.segment, local=pair.local, remote="target")
    assert (pair.remote_bytes == 3).all()


def run_script(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        cwd=folder,  # not the source tree: its tent/ has no native part
        timeout=60,
        check=False,
    )


def test_an_interpreter_that_just_ends_is_safe(tmp_path: Path) -> None:
    result = run_script(
        """
        from tent import Engine
        key = b"0123456789abcdef"
        target, engine = Engine(key=key), Engine(key=key)
        target.register(bytearray(1 << 20), label="t")
        local = engine.register(bytearray(1 << 20))
        segment = engine.open_segment(target.address)
        batch = engine.submit(segment, op="write", local=local, remote="t", length=1 << 20)
        print("ends now")
        """,
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "ends now\n"


def test_a_wait_hears_ctrl_c(tmp_path: Path) -> None:
    result = run_script(
        """
        import signal, threading, os, time
        from tent.testing import engine_pair
        plan = ("plan 1\\ndecorate tcp fault\\n"
                "rail 0 tcp 127.0.0.1 gbps=0.01 fault.throttle=10mbit\\nroute * : tcp[0]\\n")
        with engine_pair(plan=plan, length=64 << 20) as pair:
            def interrupt():
                while pair.initiator.counters().engine.requests == 0:
                    time.sleep(0.001)
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=interrupt).start()
            begin = time.monotonic()
            try:
                pair.initiator.write(pair.segment, local=pair.local, remote="target")
            except KeyboardInterrupt:
                print("heard", time.monotonic() - begin < 5)
        """,
        tmp_path,
    )
    assert result.stdout == "heard True\n", result.stderr
    assert result.returncode == 0
