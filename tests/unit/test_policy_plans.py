"""From YAML to a plan: whatever a policy may say, the plan that follows is one the engine takes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from tests_policies import POLICIES
from tests_support import examples

from tent.orchestration.policy.check import check_policy
from tent.orchestration.policy.compile import compile_plan
from tent.orchestration.policy.model import AUTO, Policy
from tent.orchestration.policy.reader import parse_policy
from tent.topology.model import (
    Address,
    Gid,
    Gpu,
    NetDevice,
    Node,
    RdmaDevice,
    RdmaPort,
    Topology,
)
from tent.transports.offers import assumed_catalog

GID = Gid(3, "0000:0000:0000:0000:0000:ffff:0a00:0001", "RoCE v2")
MACHINE = Topology(
    nodes=(Node(0, cpus=(0,)), Node(1, cpus=(1,))),
    gpus=(Gpu(0), Gpu(1)),
    nets=tuple(
        NetDevice(name, up=True, carrier=True, gbps=100, addresses=(Address(f"10.0.{i}.1", 24),))
        for i, name in enumerate(["eth0", "eth1", "ens5", "ens6"])
    ),
    rdma=tuple(
        RdmaDevice(f"mlx5_{i}", ports=(RdmaPort(1, state="ACTIVE", gbps=400, gids=(GID,)),))
        for i in range(8)
    ),
)
CATALOG = assumed_catalog(["shm", "rdma", "tcp"])
PAGE = (Path(__file__).resolve().parents[2] / "docs/policy.md").read_text()
PAGES_EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)


@pytest.mark.parametrize("number", range(len(PAGES_EXAMPLES)))
def test_examples_of_the_page_become_plans(number: int) -> None:
    policy = parse_policy(PAGES_EXAMPLES[number])
    policy = replace(policy, transport_options={})  # of a transport that wraps others
    assert [found for found in check_policy(policy, MACHINE, CATALOG) if found.error] == []
    compile_plan(MACHINE, policy, CATALOG).plan.check()


@given(POLICIES)
@examples(20)
def test_every_policy_on_known_transports_becomes_a_plan(policy: Policy) -> None:
    rules = [
        replace(
            rule,
            use=replace(
                rule.use, transports=AUTO if rule.use.transports == AUTO else ("tcp", "rdma")
            ),
        )
        for rule in policy.rules
    ]
    policy = replace(policy, transports=("rdma",), transport_options={}, rules=tuple(rules))
    check_policy(policy, MACHINE, CATALOG)
    compile_plan(MACHINE, policy, CATALOG).plan.check()


def test_held_rail_stays_to_the_letter_though_its_address_went_with_its_link() -> None:
    policy = Policy(transports=("tcp",))
    before = compile_plan(MACHINE, policy, CATALOG).plan
    nets = (replace(MACHINE.nets[0], up=False, addresses=()), *MACHINE.nets[1:])
    down = replace(MACHINE, nets=nets)
    held = compile_plan(down, policy, CATALOG, previous=before, held={("tcp", "eth0")}).plan
    assert held.render() == before.render()
    assert "addr=10.0.0.1" in held.render()
    again = compile_plan(down, policy, CATALOG, previous=before).plan
    assert "tcp eth0" not in again.render()
    nowhere = compile_plan(down, policy, CATALOG, previous=again, held={("tcp", "eth0")}).plan
    assert nowhere.render() == again.render()
