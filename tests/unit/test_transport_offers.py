"""Which rails a machine offers: what is left out, what it is called, and why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_support import examples

from tent.errors import InvalidArgument
from tent.orchestration.plan import Plan, Rail, Route, Rung
from tent.topology.model import (
    Address,
    Gid,
    Host,
    NetDevice,
    PciDevice,
    RdmaDevice,
    RdmaPort,
    Topology,
)
from tent.transports.model import Catalog, Memory, RailOffer, Transport
from tent.transports.offers import assumed_catalog, offers

V4 = (Address("10.0.0.7", 24),)
LINK_LOCAL = Address("fe80::1", 64)


def net(name: str, **facts: Any) -> NetDevice:
    """An Ethernet device that could carry something, but for what is said."""
    return NetDevice(**{"name": name, "up": True, "carrier": True, "addresses": V4, **facts})


def tcp(*nets: NetDevice, pci: tuple[PciDevice, ...] = ()) -> dict[str, RailOffer]:
    found = offers(assumed_catalog(["tcp"]), Topology(nets=nets, pci=pci))
    return {offer.device: offer for offer in found}


def rdma(*ports: RdmaPort, **facts: Any) -> list[RailOffer]:
    device = RdmaDevice(**{"name": "mlx5_0", "ports": ports, **facts})
    return list(offers(assumed_catalog(["rdma"]), Topology(rdma=(device,))))


def gid(index: int, address: str, kind: str = "RoCE v2") -> Gid:
    return Gid(index=index, gid=address, kind=kind)


MAPPED = "0000:0000:0000:0000:0000:ffff:0a00:0001"
MAPPED_2 = "0000:0000:0000:0000:0000:ffff:0a00:0002"
GLOBAL = "fd00:0000:0000:0000:0000:0000:0000:0001"
LOCAL = "fe80:0000:0000:0000:0000:0000:0000:0001"


# ---- tcp ----------------------------------------------------------------------------------------


def test_a_card_is_a_rail_with_its_speed_node_and_address() -> None:
    card = PciDevice("0000:3b:00.0", numa=1)
    offer = tcp(net("eth0", gbps=25.0, pci=card.address), pci=(card,))["eth0"]
    assert offer == RailOffer(
        transport="tcp",
        device="eth0",
        numa=1,
        gbps=25.0,
        nic="eth0",
        options=(("addr", "10.0.0.7"),),
    )


def test_a_changed_address_is_a_changed_offer() -> None:
    before = tcp(net("eth0"))["eth0"]
    after = tcp(net("eth0", addresses=(Address("10.0.0.8", 24),)))["eth0"]
    assert before != after


@pytest.mark.parametrize(
    ("addresses", "chosen"),
    [
        ((Address("fd00::2", 64), Address("10.0.0.7", 24)), "10.0.0.7"),
        ((Address("10.9.9.9", 32), Address("10.0.0.7", 24)), "10.0.0.7"),
        ((Address("10.9.9.9", 32), Address("fd00::2", 64)), "10.9.9.9"),
        ((Address("169.254.3.1", 16), Address("fd00::2", 64)), "fd00::2"),
        ((LINK_LOCAL, Address("2001:db8::5", 128)), "2001:db8::5"),
        ((Address("garbage", 24), Address("10.0.0.7", 24)), "10.0.0.7"),
    ],
)
def test_of_several_addresses_the_one_that_most_peers_can_use(
    addresses: tuple[Address, ...], chosen: str
) -> None:
    assert tcp(net("eth0", addresses=addresses))["eth0"].options == (("addr", chosen),)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"up": False}, "ip link set eth0 up"),
        ({"carrier": False}, "no carrier"),
        ({"addresses": ()}, "no IP address: ip address add"),
        ({"addresses": (LINK_LOCAL,)}, "only link-local addresses"),
        ({"addresses": (Address("169.254.3.1", 16),)}, "only link-local addresses"),
    ],
)
def test_what_cannot_carry_anything_says_what_mends_it(facts: dict[str, Any], why: str) -> None:
    offer = tcp(net("eth0", **facts))["eth0"]
    assert not offer.usable and not offer.by_name
    assert why in offer.why


def test_what_nobody_looked_at_is_taken_for_usable() -> None:
    """An imported machine has cards, and neither states nor addresses."""
    offer = tcp(NetDevice("eth0", gbps=100.0))["eth0"]
    assert offer.usable and offer.options == ()


def test_a_bond_speaks_for_its_members() -> None:
    found = tcp(
        net("bond0", kind="bond", lower=("eth0", "eth1")),
        net("eth0", gbps=100.0, numa=1, addresses=()),
        net("eth1", gbps=100.0, numa=1, addresses=()),
    )
    assert found["bond0"].usable and not found["bond0"].virtual
    assert (found["bond0"].numa, found["bond0"].gbps) == (1, 100.0)
    assert not found["eth0"].usable and "member of bond0" in found["eth0"].why


def test_a_bond_over_two_nodes_is_of_none() -> None:
    found = tcp(
        net("bond0", kind="bond", lower=("eth0", "eth1")),
        net("eth0", numa=0),
        net("eth1", numa=1),
    )
    assert found["bond0"].numa is None


def test_a_vlan_is_a_rail_beside_the_card_under_it() -> None:
    found = tcp(net("eth0", numa=1, gbps=25.0), net("eth0.5", kind="vlan", lower=("eth0",)))
    assert found["eth0"].usable and found["eth0.5"].usable
    assert found["eth0.5"].numa == 1 and found["eth0.5"].gbps == 25.0
    assert found["eth0.5"].why == "shares eth0"


def test_a_bridge_over_a_card_is_the_hosts_own_way_out() -> None:
    found = tcp(
        net("br0", kind="bridge", lower=("eth0", "vnet3")),
        net("eth0", numa=1, addresses=()),
        net("vnet3", kind="tun", addresses=()),
    )
    assert found["br0"].usable and not found["br0"].virtual and found["br0"].numa == 1
    assert not found["eth0"].usable and "member of br0" in found["eth0"].why


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("docker0", "bridge"),
        ("virbr0", "bridge"),
        ("tailscale0", "tun"),
        ("wg0", "virtual"),
        ("flannel.1", "vxlan"),
        ("dummy0", "dummy"),
    ],
)
def test_inner_networks_and_tunnels_are_taken_only_where_they_are_named(
    name: str, kind: str
) -> None:
    offer = tcp(net(name, kind=kind))[name]
    assert (offer.usable, offer.by_name) == (False, True)
    assert "only where a policy names it" in offer.why


def test_a_containers_own_end_of_its_cable_is_taken_at_need() -> None:
    offer = tcp(net("eth0", kind="veth", gbps=10.0))["eth0"]
    assert offer.usable and offer.virtual and offer.why == "virtual"
    assert offer.gbps is None, "the kernel makes this figure up"


def test_the_hosts_end_of_a_containers_cable_is_never_taken() -> None:
    found = tcp(
        net("docker0", kind="bridge", lower=("veth1",)),
        net("veth1", kind="veth", addresses=(LINK_LOCAL,)),
        net("cali9", kind="veth", addresses=()),
    )
    assert not found["veth1"].usable and not found["cali9"].usable


def test_ip_over_infiniband_is_usable_and_its_rate_is_measured() -> None:
    offer = tcp(net("ib0", kind="infiniband", gbps=400.0))["ib0"]
    assert offer.usable and offer.gbps is None and "slower" in offer.why


def test_the_loopback_is_the_last_and_marked() -> None:
    lo = net("lo", kind="loopback", addresses=(Address("127.0.0.1", 8),))
    found = list(tcp(lo, net("zeth")).values())
    assert [offer.device for offer in found] == ["zeth", "lo"]
    assert found[-1] == RailOffer(
        "tcp", "lo", why="reaches this machine only", virtual=True, loopback=True
    )
    assert list(tcp()) == ["127.0.0.1"], "an import names no loopback, yet every machine has one"
    assert not tcp(net("lo", kind="loopback", up=False))["lo"].usable


@pytest.mark.parametrize("name", ["my card", "a=b", "öth0", "#eth", "x" * 64, "", "e\x07"])
def test_a_name_that_no_plan_can_hold_is_not_usable(name: str) -> None:
    offer = next(iter(tcp(net(name)).values()))
    assert not offer.usable and not offer.by_name
    assert "name" in offer.why


def test_names_stand_in_the_order_people_count() -> None:
    found = tcp(*(net(name) for name in ("eth10", "eth2", "eth1")))
    assert list(found)[:3] == ["eth1", "eth2", "eth10"]


# ---- rdma ---------------------------------------------------------------------------------------


def test_each_port_is_a_rail_and_the_first_needs_no_number() -> None:
    found = rdma(
        RdmaPort(2, state="ACTIVE", gbps=100.0), RdmaPort(1, state="ACTIVE", gbps=400.0), numa=1
    )
    assert found == [
        RailOffer("rdma", "mlx5_0", numa=1, gbps=400.0, nic="mlx5_0"),
        RailOffer("rdma", "mlx5_0:2", numa=1, gbps=100.0, nic="mlx5_0"),
    ]


@pytest.mark.parametrize(
    ("port", "why"),
    [
        (RdmaPort(1, state="INIT"), "no subnet manager"),
        (RdmaPort(1, state="DOWN"), "cable"),
        (RdmaPort(1, state="DOWN", netdev="eth3"), "ip link set eth3 up"),
        (RdmaPort(1), "is not known"),
        (RdmaPort(1, state="NOP"), "in state NOP"),
    ],
)
def test_a_port_that_is_not_active_says_what_mends_it(port: RdmaPort, why: str) -> None:
    [offer] = rdma(port)
    assert not offer.usable and why in offer.why


def roce(*gids: Gid) -> RailOffer:
    [offer] = rdma(
        RdmaPort(1, state="ACTIVE", link_layer="Ethernet", gids=gids, netdev="eth3", gbps=400.0)
    )
    assert offer.usable
    return offer


def test_a_gid_is_named_only_where_several_are_as_good() -> None:
    assert roce(gid(0, LOCAL, "RoCE v1"), gid(1, LOCAL), gid(3, MAPPED)).options == ()
    both = roce(gid(5, MAPPED_2), gid(1, LOCAL), gid(3, MAPPED))
    assert both.options == (("gid", "3"),)
    assert roce(gid(2, GLOBAL), gid(4, GLOBAL)).options == (("gid", "2"),)


def test_gids_that_no_router_passes_on_are_remarked() -> None:
    assert roce(gid(3, MAPPED)).why == ""
    assert roce(gid(3, GLOBAL)).why == ""
    assert "link-local" in roce(gid(1, LOCAL)).why and "eth3" in roce(gid(1, LOCAL)).why
    assert "RoCE v1" in roce(gid(0, MAPPED, "RoCE v1")).why
    assert roce(gid(0, "garbage")).options == ()


def test_infiniband_needs_no_gid() -> None:
    port = RdmaPort(1, state="ACTIVE", link_layer="InfiniBand", gids=(gid(0, LOCAL, "IB"),) * 2)
    assert rdma(port)[0].options == () and rdma(port)[0].why == ""


def test_an_adapter_without_reliable_connections_is_taken_only_where_it_is_named() -> None:
    place = "0000:14:00.0"
    device = RdmaDevice("rdmap20s0", place, ports=(RdmaPort(1, "ACTIVE", gbps=100.0),))
    topology = Topology(pci=(PciDevice(place, driver="efa"),), rdma=(device,))
    (offer,) = offers(assumed_catalog(["rdma"]), topology)
    assert (offer.usable, offer.by_name) == (False, True)
    assert "no reliable connections" in offer.why


def test_software_rdma_is_taken_at_need() -> None:
    [offer] = rdma(RdmaPort(1, state="ACTIVE", gbps=2.5), virtual=True, name="rxe0")
    assert offer.usable and offer.virtual and offer.gbps is None


# ---- others -------------------------------------------------------------------------------------


# ---- virtual functions --------------------------------------------------------------------------

PHYSICAL, VIRTUAL = "0000:3b:00.0", "0000:3b:01.2"


def sriov(*gids: Gid, seen: bool = True, up: bool = True) -> dict[str, RailOffer]:
    """Rails of a card and a virtual function of it with an address; gids: those of the card."""
    card = RdmaPort(1, "ACTIVE" if up else "DOWN", link_layer="Ethernet", gids=gids)
    port = RdmaPort(1, "ACTIVE", link_layer="Ethernet", gids=(gid(1, MAPPED_2),))
    topology = Topology(
        pci=(PciDevice(PHYSICAL), PciDevice(VIRTUAL, function_of=PHYSICAL)),
        rdma=(
            RdmaDevice("mlx5_0", PHYSICAL, ports=(card,)),
            RdmaDevice("mlx5_1", VIRTUAL, ports=(port,)),
        ),
        nets=(*([net("eth0", pci=PHYSICAL, up=up)] if seen else []), net("eth0v2", pci=VIRTUAL)),
    )  # fmt: skip
    return {offer.device: offer for offer in offers(assumed_catalog(["rdma", "tcp"]), topology)}


def test_a_virtual_function_beside_its_card_is_taken_only_where_it_is_named() -> None:
    found = sriov(gid(1, MAPPED))
    for card, virtual in (("mlx5_0", "mlx5_1"), ("eth0", "eth0v2")):
        assert found[card].usable
        assert (found[virtual].usable, found[virtual].by_name) == (False, True)
        assert f"a virtual function of {card}" in found[virtual].why


def test_a_virtual_function_counts_where_its_card_carries_nothing() -> None:
    found = sriov(gid(1, MAPPED), up=False)
    assert (found["mlx5_1"].usable, found["eth0v2"].usable) == (True, True)


def test_a_virtual_function_that_reaches_farther_than_its_card_is_taken() -> None:
    assert sriov(gid(1, LOCAL))["mlx5_1"].usable


def test_a_virtual_function_counts_in_a_container_that_has_not_the_card() -> None:
    found = sriov(gid(1, MAPPED), seen=False)
    assert (found["mlx5_1"].usable, found["eth0v2"].usable) == (True, True)


def test_other_transports_offer_what_their_plugins_found() -> None:
    devices = (
        RailOffer("x", "ring10", numa=5000, gbps=0.0),
        RailOffer("x", "eth0", numa=0, gbps=8.0),
        RailOffer("x", "a b"),
        RailOffer("x", "eth0", numa=0, gbps=8.0),
    )
    catalog = Catalog((Transport("x", devices=devices),))
    found = offers(catalog, Topology(nets=(net("eth0"),)))
    assert [offer.device for offer in found] == ["a b", "eth0", "ring10"]
    assert [offer.nic for offer in found] == [None, "eth0", None]
    assert [offer.usable for offer in found] == [False, True, True]
    assert (found[2].numa, found[2].gbps) == (None, None), "no plan could say these"


@pytest.mark.parametrize("kernel", ["", "6.8.0-45-generic", "5.1.0", "10.0", "x.y"])
def test_shared_memory_is_one_rail_of_this_machine_beside_all_devices(kernel: str) -> None:
    machine = Topology(host=Host(kernel=kernel), nets=(net("eth0"),))
    [rail] = offers(assumed_catalog(["shm"]), machine)
    assert rail == RailOffer("shm", "host", why="reaches this machine only", loopback=True)
    assert rail.usable and rail.inside


def test_a_loopback_device_is_no_path_inside_the_machine() -> None:
    [lo] = offers(assumed_catalog(["tcp"]), Topology())
    assert lo.loopback and not lo.inside


@pytest.mark.parametrize("kernel", ["3.10.0-1160.el7", "5.0.21", "4.18.0-553.el8"])
def test_shared_memory_needs_a_kernel_that_seals_memory_against_writing(kernel: str) -> None:
    machine = Topology(host=Host(kernel=kernel))
    [rail] = offers(assumed_catalog(["shm"]), machine)
    assert not rail.usable
    assert f"kernel {kernel}" in rail.why and "5.1 is the first" in rail.why


def test_what_is_not_available_and_what_decorates_offers_nothing() -> None:
    catalog = Catalog(
        (
            Transport("tcp", available=False, reason="torn"),
            Transport("fault", decorates=True, devices=(RailOffer("fault", "x"),)),
        )
    )
    assert offers(catalog, Topology(nets=(net("eth0"),))) == ()


def test_assumed_transports_stand_in_the_order_of_auto() -> None:
    catalog = assumed_catalog(["tcp", "rdma", "cuda", "shm", "tcp"])
    assert catalog.names == ("cuda", "shm", "rdma", "tcp")
    assert all(found.available and found.auto and found.assumed for found in catalog.transports)
    assert catalog.transports[2].memory == Memory.HOST | Memory.CUDA


def test_an_assumed_transport_must_be_known() -> None:
    with pytest.raises(InvalidArgument, match=r"'rmda'.*known are cuda, shm, rdma, tcp, file"):
        assumed_catalog(["tcp", "rmda"])


# ---- whatever the machine -----------------------------------------------------------------------

names = st.one_of(
    st.sampled_from(["eth0", "eth1", "bond0", "lo", "docker0", "a b", "#x", "mlx5_0", "x=y"]),
    st.text(max_size=70),
)
addresses = st.builds(
    Address,
    ip=st.one_of(st.ip_addresses().map(str), st.text(max_size=5)),
    prefix=st.integers(-1, 200),
)
nets = st.builds(
    NetDevice,
    name=names,
    kind=st.sampled_from(["ethernet", "infiniband", "loopback", "bond", "bridge", "vlan", "tun"]),
    numa=st.one_of(st.none(), st.integers(-5, 5000)),
    gbps=st.one_of(st.none(), st.floats(allow_nan=True)),
    up=st.sampled_from([None, True, False]),
    carrier=st.sampled_from([None, True, False]),
    addresses=st.lists(addresses, max_size=3).map(tuple),
    lower=st.lists(names, max_size=3).map(tuple),
)
ports = st.builds(
    RdmaPort,
    number=st.integers(-1, 300),
    state=st.sampled_from(["ACTIVE", "DOWN", "INIT", "?"]),
    link_layer=st.sampled_from([None, "Ethernet", "InfiniBand"]),
    gbps=st.one_of(st.none(), st.floats()),
    gids=st.lists(
        st.builds(
            Gid,
            index=st.integers(-1, 300),
            gid=st.one_of(st.sampled_from([MAPPED, GLOBAL, LOCAL]), st.text(max_size=5)),
            kind=st.sampled_from(["IB", "RoCE v1", "RoCE v2", "?"]),
        ),
        max_size=4,
    ).map(tuple),
)
devices = st.builds(
    RdmaDevice,
    name=names,
    numa=st.one_of(st.none(), st.integers(-5, 5000)),
    virtual=st.booleans(),
    ports=st.lists(ports, max_size=3).map(tuple),
)
machines = st.builds(
    Topology,
    nets=st.lists(nets, max_size=6).map(tuple),
    rdma=st.lists(devices, max_size=3).map(tuple),
)


@examples(80)
@given(machine=machines)
def test_every_usable_offer_of_any_machine_can_stand_in_a_plan(machine: Topology) -> None:
    catalog = assumed_catalog(["rdma", "tcp"])
    found = offers(catalog, machine)
    assert found == offers(catalog, machine)
    assert all(offer.usable or offer.why for offer in found)
    for offer in found:
        if not (offer.usable or offer.by_name):
            continue
        rail = Rail(offer.transport, offer.device, offer.numa, offer.gbps, dict(offer.options))
        rung = Rung(transport=offer.transport, tiers=[[0]])
        Plan(rails=[rail], routes=[Route(ladder=[rung])]).check()


@examples(30)
@given(machine=machines, order=st.randoms())
def test_the_order_of_devices_in_a_record_does_not_matter(machine: Topology, order: Any) -> None:
    unique = {device.name: device for device in machine.nets}
    shuffled = list(unique.values())
    order.shuffle(shuffled)
    catalog = assumed_catalog(["tcp"])
    first = offers(catalog, Topology(nets=tuple(unique.values())))
    again = offers(catalog, Topology(nets=tuple(shuffled)))
    # Two masters of one member contradict each other: which of them is named is not fixed.
    assert [(o.device, o.usable) for o in first] == [(o.device, o.usable) for o in again]


def test_iwarp_is_offered_as_what_this_transport_does_not_speak() -> None:
    port = RdmaPort(1, state="ACTIVE", link_layer="Ethernet", gids=(gid(0, MAPPED, "RoCE v1"),))
    [offer] = rdma(port, iwarp=True)
    assert not offer.usable and not offer.by_name
    assert "iWARP" in offer.why
