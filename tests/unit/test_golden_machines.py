"""Machines -> topology -> plan, held to what was once found right.

A folder of tests/data/machines is a machine: its source (a record, an XML file of another tool,
our JSON, a synthetic one-liner, or the path of one of these), perhaps a policy, what is assumed to
be installed, and the two golden files.
TENT_UPDATE_GOLDEN=1 writes those anew: read the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tent
from tent.orchestration.policy.compile import compile_plan
from tent.orchestration.policy.reader import default_policy, read_policy
from tent.topology.codec import from_json, to_json
from tent.topology.distance import Distances, locations, nics
from tent.topology.load import load
from tent.topology.model import Topology
from tent.topology.synthetic import synthetic
from tent.transports.offers import assumed_catalog

MACHINES = sorted(
    path for path in (Path(__file__).parents[1] / "data" / "machines").iterdir() if path.is_dir()
)


def source(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.name.startswith("machine."))


def topology_of(folder: Path) -> Topology:
    path = source(folder)
    if path.suffix == ".txt":
        return synthetic(path.read_text().strip())
    name = path.read_text().strip() if path.suffix == ".ref" else path.name
    # By a relative name: a golden file says nothing of where the repository lies.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return load(name)


def golden(path: Path, text: str) -> None:
    if os.environ.get("TENT_UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.exists(), f"{path.name} is missing; TENT_UPDATE_GOLDEN=1 writes it"
    assert text == path.read_text(), f"{path} differs; TENT_UPDATE_GOLDEN=1 writes it anew"


def test_there_are_machines_enough() -> None:
    assert len(MACHINES) >= 10


@pytest.mark.parametrize("folder", MACHINES, ids=lambda path: path.name)
def test_machine_has_its_topology_and_its_plan(folder: Path) -> None:
    topology = topology_of(folder)
    golden(folder / "topology.json", to_json(topology))
    assert from_json(to_json(topology), source="golden").facts() == topology.facts()

    policy = folder / "policy.yaml"
    named = folder / "transports.txt"
    transports = named.read_text().split() if named.exists() else ["shm", "rdma", "tcp"]
    compiled = compile_plan(
        topology,
        read_policy(policy) if policy.exists() else default_policy(),
        assumed_catalog(transports),
    )
    findings = "".join(f"# {finding.what}\n" for finding in compiled.findings)
    golden(folder / "plan.txt", tent.plan_render(compiled.plan.render()) + findings)


@pytest.mark.parametrize("folder", MACHINES, ids=lambda path: path.name)
def test_every_memory_orders_all_nics_of_the_machine_into_tiers(folder: Path) -> None:
    topology = topology_of(folder)
    distances = Distances(topology)
    for location in locations(topology):
        tiers = distances.tiers(location)
        groups = [tiers.near, tiers.node, tiers.far, [name for name, _ in tiers.unusable]]
        assert sorted(name for group in groups for name in group) == sorted(nics(topology))
