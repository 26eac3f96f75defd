"""Fault plans against real processes over shaped rails, and the checker that judges them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from peers import KEY

import tent
from tent.resilience.faults import FaultPlan, FaultPlanError, Workload, load, parse
from tent.testing import eventually, netns
from tent.testing.chaos import real
from tent.testing.chaos.real_lanes import LABEL, Lane, Session, Tally, lanes_of
from tent.testing.chaos.real_report import Report, bucket_rates
from tent.testing.chaos.real_worker import hide, listening_sockets, show

MIB = 1 << 20
PLANS = sorted(
    (path for path in files("tent.testing").joinpath("plans").iterdir() if "real-" in path.name),
    key=lambda path: path.name,
)

PLAN = """
name: a test
seed: {seed}
world:
  hosts:
    - {{name: a, rails: [{{name: "0", bandwidth: 800mbit}}, {{name: "1", bandwidth: 800mbit}}]}}
    - {{name: b, rails: [{{name: "0", bandwidth: 800mbit}}, {{name: "1", bandwidth: 800mbit}}]}}
workload:
  {{initiators: [a], targets: [b], region: 16m, size_min: 64k, size_max: 1m, {work}}}
faults: [{faults}]
"""


def plan_of(work: str, *faults: str, seed: int = 1) -> FaultPlan:
    return parse(PLAN.format(work=work, faults=", ".join(faults), seed=seed))


@pytest.fixture
def needs_rails() -> None:
    if (reason := netns.available()) is not None:
        pytest.skip(reason)


def run(plan: FaultPlan) -> Report:
    report = real.run(plan)
    assert report.ok, report.to_text()
    assert len(report.faults) >= len(plan.faults), report.to_text()
    return report


@pytest.mark.usefixtures("needs_rails")
@pytest.mark.parametrize("fault", ["link_down", "black_hole"])
def test_requests_end_well_while_one_rail_of_two_is_broken(fault: str) -> None:
    plan = plan_of(
        "total: 160m, notices: 0.2",
        f"{{at: 20%, do: {fault}, rail: a/1, for: 300ms}}",
        "{at: 70%, do: rate, rail: a/0, bandwidth: 80mbit, for: 100ms}",
    )
    assert real.all_must_be_ok(plan)
    report = run(plan)
    assert set(report.statuses) == {"OK"}, report.to_text()
    assert report.bytes_ok >= 160 * MIB
    assert all(moved > 0 for _, moved in report.rails), report.to_text()


@pytest.mark.usefixtures("needs_rails")
def test_a_frozen_peer_cannot_hold_requests_beyond_their_deadline() -> None:
    frozen = "{at: 300ms, do: freeze, host: b, for: 1200ms}"
    report = run(plan_of("time: 2500ms, deadlines: 1, deadline: 300ms", frozen))
    ended = {name for name in report.statuses if name != "OK"}
    assert ended & {"TIMEOUT", "UNFENCED"}, report.to_text()
    assert report.latencies_ns
    # Far beyond what a busy machine adds, far below the 1200 ms of the freeze.
    assert all(float(late) < 600 for late in report.late_ms), report.to_text()


@pytest.mark.usefixtures("needs_rails")
def test_a_killed_peer_ends_requests_and_its_successor_serves_new_ones() -> None:
    report = run(
        plan_of(
            "time: 3s",
            "{at: 500ms, do: kill, host: b}",
            "{at: 1s, do: restart, host: b}",
        )
    )
    assert set(report.statuses) - {"OK"}, report.to_text()
    assert report.reopened >= 1
    last_ns, moved, _ = report.samples[-1]
    before = [bytes_ for at, bytes_, _ in report.samples if at < 1_000_000_000]
    assert moved > before[-1], f"nothing moved after the restart, up to {last_ns} ns"


@pytest.mark.usefixtures("needs_rails")
def test_a_lost_listener_disturbs_no_transfer() -> None:
    report = run(plan_of("total: 120m", "{at: 20%, do: listener_gone, host: b, for: 400ms}"))
    assert set(report.statuses) == {"OK"}, report.to_text()


@pytest.mark.usefixtures("needs_rails")
def test_cancels_revokes_and_releases_amid_silence_leave_no_late_byte() -> None:
    report = run(
        plan_of(
            "time: 2s, cancels: 0.3",
            "{at: 200ms, do: black_hole, rail: a/1, for: 500ms}",
            "{at: 400ms, do: cancel, host: a}",
            "{at: 900ms, do: revoke, host: b}",
            "{at: 1400ms, do: release, host: b}",
        )
    )
    assert report.statuses.get("CANCELLED", 0) > 0, report.to_text()
    assert report.bytes_ok > 0


def test_a_hidden_listener_refuses_and_comes_back_where_it_was() -> None:
    with (
        tent.Engine(key=KEY) as target,
        tent.Engine(key=KEY, listen="none") as initiator,
    ):
        hidden = hide(listening_sockets())
        assert len(hidden) == 1
        with pytest.raises(tent.PeerLost, match="refuses connections"):
            initiator.open_segment(target.address)
        show(hidden)
        initiator.open_segment(target.address)


# ---- nothing stays behind


def namespaces() -> set[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines() if line.strip()}


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]


@pytest.mark.usefixtures("needs_rails")
def test_ctrl_c_leaves_no_process_and_no_namespace(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        PLAN.format(work="time: 60s", faults="{at: 100ms, do: freeze, host: b}", seed=1)
    )
    script = (
        "import sys; from tent.resilience.faults import load; from tent.testing.chaos import real\n"
        "real.run(load(sys.argv[1]), say=lambda text: print(text, flush=True))"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert runner.stdout is not None
        assert "freeze" in runner.stdout.readline()
        started = children(runner.pid)
        mine = {name for name in namespaces() if f"-{runner.pid}-" in name}
        assert len(started) == 2
        assert len(mine) == 2
        runner.send_signal(signal.SIGINT)
        assert runner.wait(30) != 0
    finally:
        runner.kill()
        runner.wait()
        assert runner.stdout is not None
        runner.stdout.close()
    assert not mine & namespaces()
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# ---- what cannot be


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_ready_plans_can_be_run_on_real_rails(path: Path) -> None:
    real.check(load(path))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("{at: 1ms, do: corrupt, rail: a/0, chance: 0.5}", "'corrupt' exists on the fabric only"),
        ("{at: 1ms, do: power_off, host: a}", "'power_off' is for the target"),
        ("{at: 1ms, do: kill, host: a}", "who kills the initiator gives the work a time"),
    ],
)
def test_what_real_rails_cannot_do_is_refused_before_anything_starts(fault: str, said: str) -> None:
    with pytest.raises(FaultPlanError, match=said):
        real.check(plan_of("total: 1m", fault))


def test_a_region_too_small_for_its_requests_is_refused() -> None:
    plan = plan_of("total: 1m")
    with pytest.raises(FaultPlanError, match="expected at least"):
        real.check(replace(plan, workload=replace(plan.workload, batches=300)))


def test_only_plans_that_leave_a_rail_whole_demand_that_all_is_well() -> None:
    down = "{{at: 1ms, do: link_down, rail: {}}}"
    one = plan_of("total: 1m", down.format("a/1"), down.format("b/1"))
    both = plan_of("total: 1m", down.format("a/1"), down.format("b/0"))
    assert real.all_must_be_ok(one)
    assert not real.all_must_be_ok(both)
    assert not real.all_must_be_ok(plan_of("total: 1m, cancels: 0.1"))


def test_a_timeline_counts_each_byte_in_its_own_bucket() -> None:
    samples = [(0, 0, 0), (90_000_000, 9, 0), (310_000_000, 12, 0)]
    assert bucket_rates(samples) == [90.0, 0.0, 0.0, 30.0]


# ---- the checker


@contextmanager
def lanes(work: Workload) -> Iterator[tuple[list[Lane], Tally]]:
    """A workload between two engines of this process; its lanes have ended when it yields."""
    with (
        tent.Engine(key=KEY, name="target") as target,
        tent.Engine(key=KEY, name="initiator") as initiator,
    ):
        there = target.alloc(work.region_bytes).numpy()
        target.register(there, label=LABEL)
        here = initiator.alloc(work.region_bytes).numpy()
        tally, session = Tally(), Session(initiator, target.export(), there)
        made = list(
            lanes_of(
                seed=1,
                work=work,
                session=session,
                region=initiator.register(here),
                here=here,
                tally=tally,
            )
        )
        for lane in made:
            lane.start()
        eventually(lambda: not any(lane.is_alive() for lane in made), what="the end of the lanes")
        yield made, tally


WORK = Workload(("a",), ("b",), region_bytes=MIB, size_min=1024, size_max=65536, total_bytes=MIB)


def test_a_workload_without_faults_breaks_no_promise() -> None:
    with lanes(WORK) as (made, tally):
        for lane in made:
            lane.verify_rest()
        assert tally.violations == []
        assert set(tally.statuses) == {"OK"}
        assert tally.bytes_ok >= MIB


@pytest.mark.parametrize("memory", ["here", "there"])
def test_one_byte_that_changes_after_its_request_is_caught(memory: str) -> None:
    with lanes(WORK) as (made, tally):
        lane = made[1]
        slot = lane.slots[2]
        getattr(lane, memory)[slot.begin + 100] ^= 1
        for each in made:
            each.verify_rest()
        assert len(tally.violations) == 1
        assert tally.violations[0].startswith("invariant 2: 1 bytes")
        assert f"offset {slot.begin + 100}" in tally.violations[0]
