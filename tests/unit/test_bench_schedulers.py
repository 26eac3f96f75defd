"""The scheduler benchmark itself: a small run makes whole rows, which survive JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.append(str(BENCH))  # bench/ is a folder of scripts, not a package

import fabrics  # noqa: E402
import schedulers  # noqa: E402
from scene import Case, Row, Scene, measure  # noqa: E402

from tent.scheduler.bound import Flapping, Fluid, Piecewise  # noqa: E402
from tent.scheduler.bound import Rail as BoundRail  # noqa: E402
from tent.testing.sim import Fabric  # noqa: E402

MIB = 1024 * 1024
STRATEGIES = ("predictive", "round_robin")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    cases = [
        Case("equal", strategy, outstanding, 2 * MIB, requests=4, warmup=2)
        for strategy in STRATEGIES
        for outstanding in (1, 4)
    ]
    return [measure(case) for case in cases]


def test_a_row_says_what_was_measured(rows: list[Row]) -> None:
    for row in rows:
        assert row.fabric == "equal"
        assert row.strategy in STRATEGIES
        assert row.requests >= 4
        assert 0 < row.efficiency <= row.efficiency_max <= 1.0005
        assert 0 < row.p50_ns <= row.p99_ns
        assert len(row.shares) == 8
        assert sum(row.shares) == pytest.approx(1, abs=0.001)
        assert row.hedged_bytes == 0
        assert (row.slice_bound_efficiency is None) == (row.outstanding > 1)


def test_bytes_sent_twice_are_no_efficiency() -> None:
    case = Case("flapping", "predictive", 4, MIB // 16, requests=60, warmup=5, hedge=True)
    with Scene(case) as scene:
        for _ in range(60):
            scene.fabric.run_for(1_000_000 // 7)
            live = [scene.submit(scene.initiators[0]) for _ in range(4)]
            while live:
                done = scene.first_done(live)
                live = [batch for batch in live if batch not in done]
        assert scene.hedged() > 0
        assert scene.landed() == 60 * 4 * case.request_bytes


def test_bytes_are_checked_on_a_fresh_target() -> None:
    with Scene(Case("equal", "predictive", 1, MIB, requests=1, warmup=1)) as scene:
        scene.round()
        scene.initiators[0].source[:] = 7  # what lies in the target is of another round
        scene.check_bytes()
        assert (scene.memory == 7).all()


def test_rows_survive_json(rows: list[Row]) -> None:
    report = schedulers.SchedulerReport({"benchmark": "schedulers"}, rows, [])
    document = json.loads(report.to_json())
    assert all(set(row) == {f.name for f in fields(Row)} for row in document["rows"])
    assert schedulers.rows_of(document) == rows


def test_a_case_gives_the_same_row_again(rows: list[Row]) -> None:
    again = measure(Case("equal", "predictive", 1, 2 * MIB, requests=4, warmup=2))
    assert asdict(again) == asdict(rows[0])


def test_every_strategy_has_a_column(rows: list[Row]) -> None:
    lines = schedulers.strategies_table(rows).splitlines()
    assert all(strategy in lines[0] for strategy in STRATEGIES)
    assert len(lines) == 3  # the head, one and four outstanding


def test_goals_are_judged_on_the_predictive_rows(rows: list[Row]) -> None:
    row = replace(rows[0], request_bytes=schedulers.MAIN_SIZE, efficiency=0.92)
    other = replace(row, strategy="tent_paper", efficiency=0.95)
    checks = {check.name: check for check in schedulers.checks_of([row, other])}
    assert checks["equal: 16 MiB, 1 outstanding"].ok is False
    assert checks["predictive to the best other"].ok is False
    better = replace(row, efficiency=0.94)
    checks = {check.name: check for check in schedulers.checks_of([better, other])}
    assert checks["equal: 16 MiB, 1 outstanding"].ok is True
    assert checks["predictive to the best other"].ok is True


def test_more_than_everything_is_told(rows: list[Row]) -> None:
    for row in rows:
        for efficiency, ok in ((1.0, True), (1.02, False)):
            found = replace(row, efficiency=efficiency, efficiency_max=efficiency)
            name = f"best {'single' if row.outstanding == 1 else 'steady'} figure"
            assert [c.ok for c in schedulers.checks_of([found]) if c.name == name] == [ok]


def test_a_case_that_fails_is_told_and_not_a_row() -> None:
    case = Case("equal", "no_such_strategy", 1, MIB, requests=1, warmup=1)
    found, notes = schedulers.run([case], jobs=1)
    assert found == []
    assert "no_such_strategy" in notes[0]


def test_fabrics_can_carry_what_their_rails_promise() -> None:
    second_ns = 1_000_000_000
    capacities = {f.name: f.fluid().capacity(0, second_ns) / 1e9 for f in fabrics.FABRICS}
    assert capacities == {
        "equal": 200,
        "half": 150,
        "lying": 177.5,
        "flapping": 180,
        "tcp": 178,
        "tiers": 150,
        "backlog": 50,
        "incast": 25,
        "incast2": 50,
        "recovered": 177.5,
    }


def test_the_yardstick_and_the_fabric_mean_the_same_schedules() -> None:
    schedules = [
        Flapping(high=25e9, low=5e9, period_ns=1_000_000, phase_ns=250_000),
        Piecewise([(10_000, 3e9), (700_001, 0), (1_900_000, 7e9)]),
        4e9,
    ]
    with Fabric(seed=1) as fabric:
        host = fabric.host("a")
        for number, schedule in enumerate(schedules):
            rail = host.rail(str(number), bandwidth=schedule)
            for begin_ns, end_ns in ((0, 9_999), (123_456, 789_012), (0, 7_654_321)):
                bound = Fluid((BoundRail(schedule),)).capacity(begin_ns, end_ns)
                assert rail.capacity(begin_ns, end_ns) == bound


def test_a_quick_run_keeps_every_fabric_and_strategy() -> None:
    cases = schedulers.plain_cases(fabrics.FABRICS, schedulers.STRATEGIES, quick=True)
    wanted = {(f.name, s) for f in fabrics.FABRICS if f.plain for s in schedulers.STRATEGIES}
    assert {(case.fabric, case.strategy) for case in cases} == wanted


def test_every_switched_part_is_compared_with_the_whole() -> None:
    cases = set(schedulers.ablation_cases(fabrics.FABRICS, quick=True))
    switched = [case for case in cases if case.variant]
    assert {case.variant for case in switched} == {a.name for a in schedulers.ABLATIONS}
    for case in switched:
        assert case.settings or case.hedge
        assert replace(case, variant="", settings=(), hedge=False) in cases
