"""What is read of real RDMA devices, soft RoCE over the guest's cables, and what is made of it.

Leans on discovery, the catalog and the policy. Runs in the guest only.
"""

from __future__ import annotations

import importlib.util
from ipaddress import IPv6Address
from pathlib import Path

import pytest

import tent
from tent.orchestration.planner import Planner
from tent.topology.discover import discover
from tent.topology.model import RdmaDevice, Topology
from tent.transports.catalog import load_catalog
from tent.transports.offers import offers

DEVICES = sorted(path.name for path in Path("/sys/class/infiniband").glob("rx*"))


@pytest.fixture(scope="module")
def topology() -> Topology:
    return discover()


@pytest.fixture
def first(topology: Topology) -> RdmaDevice:
    return next(device for device in topology.rdma if device.name == "rxa0")


def test_every_device_is_seen_as_the_software_it_is(topology: Topology) -> None:
    assert sorted(device.name for device in topology.rdma) == DEVICES
    assert all(device.virtual and device.pci is None for device in topology.rdma)


def test_a_port_is_active_and_its_speed_is_not_believed(first: RdmaDevice) -> None:
    (port,) = first.ports
    assert (port.number, port.state, port.link_layer) == (1, "ACTIVE", "Ethernet")
    assert port.gbps is None


def test_a_port_knows_its_network_device(topology: Topology, first: RdmaDevice) -> None:
    assert first.ports[0].netdev == "ra0"
    assert "ra0" in {net.name for net in topology.nets}


def test_the_gid_of_the_ipv4_address_is_of_roce_v2(first: RdmaDevice) -> None:
    kinds = {
        IPv6Address(gid.gid).ipv4_mapped: (gid.kind, gid.netdev) for gid in first.ports[0].gids
    }
    mapped = {str(address): told for address, told in kinds.items() if address is not None}
    assert mapped == {"10.77.0.1": ("RoCE v2", "ra0")}


@pytest.mark.skipif(
    importlib.util.find_spec("pyverbs") is None, reason="needs pyverbs: python3-pyverbs"
)
def test_pyverbs_tells_the_mtu(first: RdmaDevice) -> None:
    assert first.ports[0].mtu == 4096  # of a network device with 4200


def test_each_port_is_offered_as_a_rail(topology: Topology) -> None:
    catalog = load_catalog()
    rdma = catalog.find("rdma")
    assert rdma is not None
    assert rdma.available, rdma.reason
    found = [offer for offer in offers(catalog, topology) if offer.transport == "rdma"]
    assert [offer.device for offer in found] == DEVICES
    assert all(offer.usable and offer.virtual and offer.gbps is None for offer in found)


def test_the_plugin_itself_names_the_same_devices() -> None:
    rdma = load_catalog().find("rdma")
    assert rdma is not None
    assert sorted(offer.device for offer in rdma.devices) == DEVICES


@pytest.fixture(scope="module")
def plan() -> str:
    """Of an engine that listens to other machines and has no policy."""
    return Planner(environment={}).first(reach="all")


def test_rdma_stands_before_tcp_in_the_plan_of_auto(plan: str) -> None:
    routes = [line for line in plan.splitlines() if line.startswith("route ")]
    ladders = [[rung.split("[")[0].strip() for rung in line.partition(" : ")[2].split(";")]
               for line in routes]  # fmt: skip
    assert any("rdma" in ladder for ladder in ladders), plan
    for ladder in ladders:
        if "rdma" in ladder:
            assert ladder.index("tcp") == ladder.index("rdma") + 1, plan


def test_the_plan_can_be_installed_and_names_every_rail(plan: str) -> None:
    rails = [line.split() for line in plan.splitlines() if line.startswith("rail ")]
    assert [words[3] for words in rails if words[2] == "rdma"] == DEVICES
    with tent.Engine(plan=plan, listen="127.0.0.1:0", key=b"k" * 32) as engine:
        rows = engine.counters().rails
    assert len(rows) == len(rails)
