"""Fault plans against real processes that share memory, and the checker that judges them."""

from __future__ import annotations

import os

import pytest
from shm_peers import WAYS

from tent.resilience.faults import FaultPlan, FaultPlanError, parse, render
from tent.testing import netns
from tent.testing.chaos import real
from tent.testing.chaos.runner import run_plan

# Longer soaks: TENT_SHM_CHAOS_ROUNDS=50 pytest tests/procs/test_shm_chaos.py
ROUNDS = int(os.environ.get("TENT_SHM_CHAOS_ROUNDS", "1"))

PLAN = """
name: a test
seed: {seed}
world:
  shm: {way}
  settings: {{fence_timeout: 300ms}}
  hosts:
    - {{name: a, rails: [{{name: "0", bandwidth: 800mbit}}]}}
    - {{name: b, rails: [{{name: "0", bandwidth: 800mbit}}]}}
workload:
  {{initiators: [a], targets: [b], region: 16m, size_min: 1k, size_max: 1m, {work}}}
faults: [{faults}]
"""


def plan_of(way: str, work: str, *faults: str, seed: int = 1) -> FaultPlan:
    return parse(PLAN.format(way=way, work=work, faults=", ".join(faults), seed=seed))


@pytest.fixture
def needs_rails() -> None:
    if (reason := netns.available()) is not None:
        pytest.skip(reason)


@pytest.mark.usefixtures("needs_rails")
@pytest.mark.timeout(60 * ROUNDS)
@pytest.mark.parametrize("way", WAYS)
def test_kills_on_either_side_revokes_and_releases_break_no_promise(way: str) -> None:
    for seed in range(1, ROUNDS + 1):
        report = real.run(
            plan_of(
                way,
                "time: 2500ms, cancels: 0.05, notices: 0.1, integrity: 0.1",
                "{at: 200ms, do: freeze, host: b, for: 60ms}",
                "{at: 400ms, do: revoke, host: b}",
                "{at: 500ms, do: release, host: b}",
                "{at: 700ms, do: kill, host: b}",
                "{at: 750ms, do: restart, host: b}",
                "{at: 1500ms, do: kill, host: a}",
                "{at: 1900ms, do: restart, host: a}",
                seed=seed,
            )
        )
        assert report.ok, f"seed {seed}\n{report.to_text()}"
        assert report.statuses.get("OK", 0) > 10, report.to_text()
        moved = dict(report.rails)
        shm = next(count for name, count in moved.items() if name.startswith("shm"))
        assert shm > 0, report.to_text()


@pytest.mark.usefixtures("needs_rails")
def test_without_faults_all_bytes_go_over_shared_memory() -> None:
    plan = plan_of("mapped", "total: 64m")
    assert real.all_must_be_ok(plan)
    report = real.run(plan)
    assert report.ok, report.to_text()
    assert set(report.statuses) == {"OK"}, report.to_text()
    assert [moved > 0 for _, moved in report.rails] == [False, True], report.rails


def test_a_plan_with_shared_memory_is_written_as_it_is_read() -> None:
    plan = plan_of("ring", "time: 1s", "{at: 1ms, do: kill, host: a}")
    assert parse(render(plan)) == plan
    assert plan.world.shm == "ring"


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(FaultPlanError, match="expected one of mapped, attach, ring"):
        plan_of("telepathy", "time: 1s")


def test_the_fabric_shares_no_memory() -> None:
    with pytest.raises(FaultPlanError, match="--real"):
        run_plan(plan_of("mapped", "total: 1m"))


def test_who_kills_the_initiator_gives_the_work_a_time() -> None:
    with pytest.raises(FaultPlanError, match="time"):
        real.check(plan_of("mapped", "total: 1m", "{at: 1ms, do: kill, host: a}"))
