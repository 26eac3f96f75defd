"""Manual mode: nothing moves but in step(), and what would wait says so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
from tests_support import KEY, PLAN

from tent import Engine, InvalidArgument, Status

STEP_NS = 50_000
STEPS_MAX = 200_000


class Clock:
    """Steps both engines through a time of its own."""

    def __init__(self, *engines: Engine) -> None:
        self.engines = engines
        self.now_ns = 1_000_000

    def until(self, condition: Callable[[], bool], *, what: str) -> None:
        for _ in range(STEPS_MAX):
            if condition():
                return
            self.now_ns += STEP_NS
            for engine in self.engines:
                engine.step(self.now_ns)
        raise AssertionError(f"{what}: not in {STEPS_MAX} steps")


def test_two_manual_engines_move_bytes() -> None:
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(Engine(plan=PLAN, key=KEY, manual=True, seed=1))
        engine = stack.enter_context(Engine(plan=PLAN, key=KEY, manual=True, seed=2))
        clock = Clock(target, engine)
        memory = target.alloc(1 << 16).numpy()
        target.register(memory, label="target")
        source = np.random.default_rng(1).integers(0, 256, 1 << 16, dtype=np.uint8)
        local = engine.register(source)
        segment = engine.open_segment(target.address, timeout=0)
        clock.until(lambda: segment.ready, what="the segment")
        batch = engine.submit(
            segment, op="write", local=local, remote="target", length=1 << 16, notice=b"n"
        )
        assert batch.poll() == Status.IN_PROGRESS
        with pytest.raises(InvalidArgument, match=r"step\(\)"):
            batch.wait()
        with pytest.raises(InvalidArgument, match=r"step\(\)"):
            engine.write(segment, local=local, remote="target")
        clock.until(lambda: batch.done, what="the batch")
        batch.wait()
        assert np.array_equal(memory, source)
        clock.until(lambda: target.next_notice() is not None, what="the notice")


def test_time_does_not_run_back() -> None:
    with Engine(plan=PLAN, key=KEY, manual=True) as engine:
        engine.step(1000)
        with pytest.raises(InvalidArgument):
            engine.step(999)


def test_a_threaded_engine_has_no_steps() -> None:
    with Engine(plan=PLAN, key=KEY) as engine, pytest.raises(InvalidArgument, match="step it"):
        engine.step(1)
