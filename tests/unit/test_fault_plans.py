"""Fault plans as data: what is read, what is written back, and what errors say."""

from __future__ import annotations

from pathlib import Path

import pytest

import tent
from tent.resilience.faults import ACTIONS, FaultPlan, FaultPlanError, load, parse, render

PLANS = sorted((Path(tent.__file__).parent / "testing" / "plans").glob("*.yaml"))

SMALL = """
name: small
seed: 9
world:
  hosts:
    - {name: a, rails: [{name: "0", bandwidth: 1600mbit, latency: 50us, late: 0.5, late_by: 2ms}]}
    - {name: b, rails: [{name: "0", bandwidth: 200000000}]}
  settings: {fence_timeout: 100ms}
workload: {initiators: [a], targets: [b], total: 1m}
faults:
  - {at: 1.5ms, do: black_hole, rail: a/0, for: 40ms}
  - {at: 33%+2ms, do: kill, host: b}
"""


def wrong(old: str, new: str) -> str:
    assert old in SMALL
    with pytest.raises(FaultPlanError) as caught:
        parse(SMALL.replace(old, new), source="small.yaml")
    return str(caught.value)


def test_units_become_integers() -> None:
    plan = parse(SMALL)
    rail = plan.world.hosts[0].rails[0]
    assert (rail.bandwidth_bytes_per_s, rail.latency_ns) == (200_000_000, 50_000)
    assert (rail.late, rail.late_by_ns) == (0.5, 2_000_000)
    assert plan.workload.total_bytes == 1 << 20
    assert plan.world.settings == (("fence_timeout", "100ms"),)
    assert [(f.at_ns, f.at_share, f.do) for f in plan.faults] == [
        (1_500_000, -1.0, "black_hole"),
        (2_000_000, 0.33, "kill"),
    ]


def test_what_is_written_reads_back_equal() -> None:
    plan = parse(SMALL)
    assert parse(render(plan)) == plan


def test_an_error_names_file_line_key_and_what_was_expected() -> None:
    assert wrong("bandwidth: 1600mbit", "bandwith: 1600mbit") == (
        "small.yaml:6: plan.world.hosts[0].rails[0]: unknown key 'bandwith', expected one of name, "
        "bandwidth, latency, jitter, loss, late, duplicate, corrupt, late_by, down_detect, rung"
    )
    assert wrong("latency: 50us", "latency: 50").startswith(
        "small.yaml:6: plan.world.hosts[0].rails[0].latency: '50' is no duration, expected one "
    )
    assert wrong("do: kill", "do: murder").startswith(
        "small.yaml:12: plan.faults[1].do: unknown action 'murder', expected one of link_down,"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("late: 0.5", "late: 1.5", "expected a number from 0 to 1"),
        ("total: 1m", "region: 1m", "expected an end"),
        ("host: b}", "rail: a/0}", "'kill' acts on a host"),
        ("rail: a/0,", "rail: a/7,", "no rail 'a/7', expected one of a/0, b/0"),
        ("host: b}", "host: c}", "no host 'c', expected one of a, b"),
        ("targets: [b]", "targets: [c]", "there is no host 'c'"),
        ("for: 40ms", "chance: 0.5", "'black_hole' has no such key"),
        ("do: black_hole", "do: lossy", "missing: 'lossy' needs it"),
        ("seed: 9", "seed: 9\nseed: 10", "'seed' is there twice"),
        ("name: b", "name: a", "each with a name of its own"),
        ("at: 33%+2ms", "at: soon", "or a share of the bytes as 33% or 33%+2ms"),
        ("settings: {", "settings: {{", "this is no YAML"),
        ("workload: {", "work: {", "unknown key 'work'"),
    ],
)
def test_mistakes_are_told(old: str, new: str, said: str) -> None:
    message = wrong(old, new)
    assert said in message
    assert message.startswith("small.yaml:")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(FaultPlanError, match=r"plan: the key 'world' is missing"):
        parse("name: x\nworkload: {initiators: [a], targets: [a], total: 1m}\n")


def test_ready_plans_are_right_and_read_back_equal() -> None:
    assert PLANS, "the package holds no plans"
    for path in PLANS:
        plan = load(path)
        assert parse(render(plan)) == plan, path.name
        assert plan.name != FaultPlan.__dataclass_fields__["name"].default, path.name


def test_every_action_has_a_target() -> None:
    assert {action.target for action in ACTIONS.values()} == {"rail", "host"}
