"""The compiler of policies: which rails stand in a plan, which rows it has, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_support import examples

import tent
from tent.errors import PolicyError
from tent.orchestration.policy.compile import Compiled, Reach, compile_plan
from tent.orchestration.policy.environment import apply_environment
from tent.orchestration.policy.model import Match, Policy, Rails, Rule, Span, Use
from tent.topology.model import Address, NetDevice, Topology
from tent.topology.synthetic import synthetic
from tent.transports.model import Catalog
from tent.transports.offers import assumed_catalog

HGX = "socket:2 switch:2 gpu:2 nic:2@400"
ALL = assumed_catalog(["shm", "rdma", "tcp"])
BOTH = assumed_catalog(["rdma", "tcp"])
TCP = assumed_catalog(["tcp"])
SHM = assumed_catalog(["shm", "tcp"])


def compiled(
    machine: str | Topology,
    *rules: Rule,
    catalog: Catalog = BOTH,
    reach: Reach = "all",
    **policy: object,
) -> Compiled:
    topology = synthetic(machine) if isinstance(machine, str) else machine
    made = compile_plan(
        topology,
        replace(Policy(), rules=rules, **policy),  # type: ignore[arg-type]
        catalog,
        reach=reach,
    )
    tent.plan_check(made.plan.render())
    return made


def rows(found: Compiled) -> list[str]:
    return [line for line in found.plan.render().splitlines() if line.startswith("route")]


def devices(found: Compiled) -> list[str]:
    return [f"{rail.transport}:{rail.device}" for rail in found.plan.rails if rail]


def said(found: Compiled) -> str:
    return "\n".join(finding.what for finding in found.findings)


def rule(name: str, match: Match | None = None, **use: object) -> Rule:
    return Rule(name=name, match=match or Match(), use=Use(**use))  # type: ignore[arg-type]


def test_each_gpu_gets_the_nics_of_its_switch_first_then_its_node_then_the_rest() -> None:
    found = rows(compiled(HGX, catalog=assumed_catalog(["rdma"])))
    assert "route local=cuda:0 : rdma[0 1 | 2 3 | 4 5 6 7]" in found
    assert "route local=cuda:6 : rdma[6 7 | 4 5 | 0 1 2 3]" in found
    assert "route local=cpu:1 : rdma[4 5 6 7 | 0 1 2 3]" in found
    assert found[-1] == "route * : rdma[0 1 2 3 4 5 6 7]"


def test_rdma_comes_before_tcp_and_tcp_reaches_gpus_through_the_host() -> None:
    found = rows(compiled(HGX))
    assert all(row.index("rdma[") < row.index("tcp[") for row in found)
    cuda = [row for row in found if "local=cuda" in row]
    assert len(cuda) == 8
    assert all(row.endswith("via=host") for row in cuda)


def test_memory_of_this_machine_is_shared_first_and_networks_stand_behind_it() -> None:
    found = compiled("nic:2@100", catalog=ALL)
    assert devices(found)[0] == "shm:host"
    assert rows(found) == ["route * : shm[0] ; rdma[1 2] ; tcp[3 4]"]
    assert rows(compiled(HGX, catalog=SHM, reach="loopback"))[-1].startswith("route * : shm[0] ; ")


def test_shared_memory_is_beside_a_network_and_never_in_its_place() -> None:
    found = compiled(Topology(), catalog=SHM)
    assert devices(found) == ["shm:host", "tcp:127.0.0.1"]


def test_shared_memory_is_no_rung_for_memory_of_gpus() -> None:
    found = rows(compiled(HGX, catalog=ALL))
    assert [row for row in found if "local=cuda" in row and "shm" in row] == []
    assert len([row for row in found if "local=cuda:" in row]) == 8
    assert all(" : shm[0] ; " in row for row in found if "local=cuda" not in row)
    to_gpus = rule("gpus", Match(remote="cuda"))
    assert "shm" not in rows(compiled(HGX, to_gpus, catalog=SHM))[0]
    asked = rule("asked", Match(remote="cuda"), transports=("shm",), staging="host")
    assert rows(compiled(HGX, asked, catalog=SHM))[0] == "route remote=cuda : shm[0] via=host"


def test_plan_of_a_machine_with_a_gpu_says_which_memory_is_shared() -> None:
    machine = replace(synthetic("gpu:1"), nets=())
    assert rows(compiled(machine, catalog=SHM)) == [
        "route local=cuda : tcp[1] via=host",
        "route * : shm[0] ; tcp[1] via=host",
    ]


def test_rule_that_cannot_serve_some_memory_says_which() -> None:
    machine = replace(synthetic("gpu:1"), nets=())
    found = compiled(machine, rule("here", transports=("shm",)), catalog=SHM)
    assert rows(found) == ["route local=cuda : none", "route * : shm[0]", "route * : none"]
    assert 'rule "here" has no usable rail here for memory at cuda (shm)' in said(found)


def test_machine_of_one_node_needs_one_row() -> None:
    assert rows(compiled("nic:2@100", catalog=TCP)) == ["route * : tcp[0 1]"]


def test_engine_on_loopback_has_rails_of_this_machine_only() -> None:
    found = compiled(HGX, catalog=TCP, reach="loopback")
    assert devices(found) in (["tcp:lo"], ["tcp:127.0.0.1"])


def test_machine_without_network_has_its_loopback() -> None:
    assert rows(compiled(Topology(), catalog=TCP)) == ["route * : tcp[0]"]


def test_included_and_excluded_rails_are_chosen_by_glob() -> None:
    only = compiled(HGX, rails=Rails(include=("mlx5_[01]", "tcp:*"), exclude=("tcp:*",)))
    assert devices(only) == ["rdma:mlx5_0", "rdma:mlx5_1"]


def test_management_port_is_left_out_unless_it_is_named() -> None:
    machine = synthetic("nic:2@100")
    address = Address("10.9.0.1", 24)
    port = NetDevice(name="mgmt0", gbps=1, up=True, carrier=True, addresses=(address,))
    machine = replace(machine, nets=(*machine.nets, port))
    found = compiled(machine, catalog=TCP)
    assert "tcp:mgmt0" not in devices(found)
    assert "mgmt0 is left out: 1 Gbit/s beside rails of 100" in said(found)
    named = compiled(machine, catalog=TCP, rails=Rails(include=("mgmt0",)))
    assert devices(named) == ["tcp:mgmt0"]


def test_rules_come_in_order_with_what_they_ask_for() -> None:
    urgent = rule(
        "kv",
        Match(op="read", label="kv", size=Span(most=1 << 20), peer="decode-*"),
        transports=("tcp",),
        class_="high",
        deadline_ns=50_000_000,
        slice=Span(least=1 << 16, most=1 << 18),
        window_bytes=1 << 22,
        integrity=True,
        retry_budget=64,
    )
    found = compiled("nic:2@100", urgent, catalog=TCP)
    canonical = tent.plan_render(found.plan.render()).splitlines()
    assert [line for line in canonical if line.startswith("route")] == [
        "route op=read size=..1m label=kv peer=decode-* use class=high deadline=50ms integrity=yes "
        "retry_budget=64 : tcp[0 1] slice=64k..256k window=4m",
        "route op=read size=..1m label=kv peer=decode-* : none",
        "route * : tcp[0 1]",
    ]


def test_rule_of_one_location_gets_its_tiers_only() -> None:
    one = rule("gpu", Match(local="cuda:3"), transports=("rdma",))
    assert rows(compiled(HGX, one))[0] == "route local=cuda:3 : rdma[2 3 | 0 1 | 4 5 6 7]"


def test_rule_that_nothing_here_can_serve_refuses_and_says_so() -> None:
    strict = rule("secret", Match(label="secret"), devices=("mlx5_99",))
    found = compiled("nic:1@100", strict)
    assert rows(found)[0] == "route label=secret : none"
    assert 'rule "secret" has no usable rail here' in said(found)


def test_rule_that_names_transports_does_not_fall_through_to_the_next() -> None:
    found = rows(compiled("nic:1@100", rule("kv", Match(label="kv"), transports=("rdma",))))
    assert found[:2] == ["route label=kv : rdma[0]", "route label=kv : none"]


def test_closed_policy_has_no_default_row() -> None:
    found = compiled("nic:1@100", rule("kv", Match(label="kv")), closed=True, catalog=TCP)
    assert rows(found) == ["route label=kv : tcp[0]"]


def test_policy_that_leaves_nothing_makes_a_plan_that_refuses_everything() -> None:
    assert rows(compiled(HGX, closed=True)) == ["route * : none"]
    without = compiled(HGX, rails=Rails(exclude=("*",)))
    assert (devices(without), rows(without)) == ([], ["route * : none"])


def test_nothing_stands_behind_a_rule_that_matches_all() -> None:
    found = compiled("nic:1@100", rule("all"), rule("late", Match(label="kv")), catalog=TCP)
    assert rows(found) == ["route * : tcp[0]"]


def test_unknown_transport_is_refused_with_the_closest_known() -> None:
    with pytest.raises(PolicyError, match=r'named "rmda".*did you mean "rdma"'):
        compiled(HGX, rule("typo", transports=("rmda",)))


def test_distances_of_the_policy_win() -> None:
    near = Rails(tiers=(("cpu:0", "mlx5_7", 1),))
    found = compiled(HGX, catalog=assumed_catalog(["rdma"]), rails=near)
    assert "route local=cpu:0 : rdma[0 1 2 3 7 | 4 5 6]" in rows(found)


def test_rails_keep_their_numbers_when_another_goes() -> None:
    machine = synthetic("nic:3@100")
    first = compiled(machine, catalog=TCP)
    gone = replace(machine, nets=tuple(net for net in machine.nets if net != machine.nets[0]))
    gone = replace(gone, rdma=())
    second = compile_plan(gone, Policy(), TCP, previous=first.plan)
    lost = first.plan.rails[0]
    assert lost is not None
    assert second.plan.rails == [None, *first.plan.rails[1:]]
    back = compile_plan(machine, Policy(), TCP, previous=second.plan)
    assert back.plan == first.plan


def test_more_rails_than_a_plan_holds_are_cut_down_fairly() -> None:
    found = compiled("socket:2 nic:48@100", catalog=assumed_catalog(["rdma"]))
    kept = [rail for rail in found.plan.rails if rail]
    assert len(kept) == 64
    assert {node: sum(rail.numa == node for rail in kept) for node in (0, 1)} == {0: 32, 1: 32}
    assert "96 rails are usable and a plan holds 64" in said(found)


def test_four_thousand_nics_are_no_trouble() -> None:
    assert len(rows(compiled("nic:4096@100", catalog=TCP))) == 1


def test_more_rows_than_a_plan_holds_are_refused() -> None:
    many = [rule(f"r{n}", Match(label=f"l{n}")) for n in range(30)]
    with pytest.raises(PolicyError, match=r"30 rules over 10 memory locations need \d+ routes"):
        compiled(HGX, *many)


def test_never_staged_leaves_out_what_cannot_reach_the_memory() -> None:
    direct = rule("direct", Match(local="cuda"), staging="never")
    row = rows(compiled(HGX, direct))[0]
    assert "tcp" not in row


WORDS = st.sampled_from(["kv", "weights", None])
MATCHES = st.builds(
    Match,
    op=st.sampled_from(["read", "write", None]),
    local=st.sampled_from(["cuda", "cuda:1", "cpu", "cpu:9", "file", None]),
    remote=st.sampled_from(["cuda", "cpu:0", None]),
    same_host=st.sampled_from([True, False, None]),
    size=st.sampled_from([None, Span(least=1), Span(most=1 << 20), Span(4096, 8192)]),
    class_=st.sampled_from(["high", None]),
    label=WORDS,
    peer=st.sampled_from(["a*", None]),
)
USES = st.builds(
    Use,
    transports=st.sampled_from(
        [("auto",), ("tcp",), ("rdma", "tcp"), ("rdma",), ("shm",), ("shm", "tcp")]
    ),
    devices=st.sampled_from([(), ("mlx5_*",), ("*0",), ("nothing",)]),
    class_=st.sampled_from(["low", None]),
    slice=st.sampled_from([None, Span(most=1 << 20), Span(1 << 16, 1 << 20)]),
    staging=st.sampled_from([None, "never", "both"]),
    hedge=st.sampled_from([None, True]),
)
RULES = st.lists(st.builds(Rule, name=st.just("r"), match=MATCHES, use=USES), max_size=5)
MACHINES = st.sampled_from(
    [HGX, "nic:1@100", "socket:2 nic:1@200", "socket:2 switch:1 gpu:4 nic:1@200 eth:1@25", ""]
)


@examples(150)
@given(machine=MACHINES, rules=RULES, closed=st.booleans())
def test_compile_is_total_and_deterministic_and_its_plans_read_back(
    machine: str, rules: list[Rule], closed: bool
) -> None:
    topology = synthetic(machine) if machine else Topology()
    policy = Policy(rules=tuple(rules), closed=closed)
    first = compile_plan(topology, policy, ALL)
    assert compile_plan(topology, policy, ALL) == first
    canonical = tent.plan_render(first.plan.render())
    assert tent.plan_render(canonical) == canonical


def test_an_unknown_transport_is_told_where_it_was_named() -> None:
    machine, catalog = synthetic("nic:1@100"), assumed_catalog(["tcp"])
    by_environment = apply_environment(Policy(source="p.yaml"), {"TENT_TRANSPORTS": "quic"})
    with pytest.raises(PolicyError, match=r'^TENT_TRANSPORTS: no transport is named "quic"'):
        compile_plan(machine, by_environment, catalog)
    by_rule = Policy(source="p.yaml", rules=(replace(rule("r", transports=("quic",)), line=7),))
    by_rule = apply_environment(by_rule, {"TENT_TRANSPORTS": "tcp"})
    with pytest.raises(PolicyError, match=r'^p\.yaml:7: rule "r": no transport is named "quic"'):
        compile_plan(machine, by_rule, catalog)
