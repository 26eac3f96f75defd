"""Which ports of RDMA devices can be rails of the rdma transport.

Leans on the topology's model. A rail is a port; its device word is the device's name for port 1
("mlx5_0") and "mlx5_0:2" for another. It must never look at the machine.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

from tent.topology.distance import natural
from tent.topology.model import Gid, RdmaDevice, RdmaPort, Topology
from tent.transports.model import RailOffer
from tent.transports.words import checked, plan_gbps, plan_numa

TRANSPORT = "rdma"

_NO_RC = (
    "an Elastic Fabric Adapter, which has no reliable connections (RC): taken only where a policy "
    "names it"
)
_IWARP = (
    "it speaks iWARP, whose connections are made through rdma_cm alone: this transport does not, "
    "tcp goes over its network device"
)
_NO_GID = 4
"""The rank of what nobody can speak from."""


def rdma_offers(topology: Topology) -> tuple[RailOffer, ...]:
    """A rail for each port of each device, by name and number."""
    nodes = {device.address: device.numa for device in topology.pci}
    efas = {device.address for device in topology.pci if device.driver == "efa"}
    devices = sorted(
        {device.name: device for device in topology.rdma}.values(),
        key=lambda device: natural(device.name),
    )
    found = []
    for device in devices:
        numa = device.numa
        if numa is None and device.pci is not None:
            numa = nodes.get(device.pci)
        for port in sorted(device.ports, key=lambda port: port.number):
            offer = _offer(device, port, plan_numa(numa))
            if device.iwarp:
                offer = replace(offer, usable=False, why=_IWARP)
            elif offer.usable and device.pci in efas:
                offer = replace(offer, usable=False, by_name=True, why=_NO_RC)
            found.append(checked(offer))
    return tuple(found)


def choose_gid(port: RdmaPort) -> tuple[Gid | None, bool]:
    """The GID to speak from, and whether others are as good, so that a plan must name it.

    RoCE v2 of an IPv4 address first (routable, and what peers have most likely), then v2 of a
    global IPv6 address, v2 of a link-local one, RoCE v1; of equal ones the lowest index.
    """
    ranked = sorted((_gid_rank(gid), gid.index, place) for place, gid in enumerate(port.gids))
    ranked = [entry for entry in ranked if entry[0] < _NO_GID]
    if not ranked:
        return None, False
    best, _, place = ranked[0]
    return port.gids[place], sum(1 for rank, _, _ in ranked if rank == best) > 1


def _offer(device: RdmaDevice, port: RdmaPort, numa: int | None) -> RailOffer:
    word = device.name if port.number == 1 else f"{device.name}:{port.number}"
    options: tuple[tuple[str, str], ...] = ()
    why = "virtual" if device.virtual else ""
    if port.link_layer == "Ethernet":
        gid, ambiguous = choose_gid(port)
        if gid is not None and ambiguous:
            options = (("gid", str(gid.index)),)
        if gid is not None and _gid_rank(gid) >= 2:
            why = _narrow_reach(gid, port)
    trouble = _state_trouble(word, port)
    return RailOffer(
        transport=TRANSPORT,
        device=word,
        numa=numa,
        gbps=None if device.virtual else plan_gbps(port.gbps),
        nic=device.name,
        usable=not trouble,
        why=trouble or why,
        virtual=device.virtual,
        options=options,
    )


def _state_trouble(word: str, port: RdmaPort) -> str:
    if port.up:
        return ""
    if port.state in ("INIT", "ARMED"):
        return (
            f"port {port.number} of {word.partition(':')[0]} is {port.state}: no subnet manager "
            "has made it active; start one (opensm, or the switch's)"
        )
    if port.state == "DOWN":
        mend = "see to its cable, or to the switch's port"
        if port.netdev:
            mend = f"ip link set {port.netdev} up, or " + mend
        return f"{word} is down: {mend}"
    if port.state == "UNKNOWN":
        return f"the state of {word} is not known"
    return f"{word} is in state {port.state}, not ACTIVE"


def _gid_rank(gid: Gid) -> int:
    """0 is the best."""
    try:
        address = IPv6Address(gid.gid)
    except ValueError:
        return _NO_GID
    if address == IPv6Address(0):
        return _NO_GID
    if gid.kind == "RoCE v2":
        if address.ipv4_mapped is not None:
            return 0
        return 2 if address.is_link_local else 1
    return 3 if gid.kind == "RoCE v1" else _NO_GID


def _narrow_reach(gid: Gid, port: RdmaPort) -> str:
    device = port.netdev or gid.netdev or "its network device"
    kind = "link-local" if gid.kind == "RoCE v2" else "RoCE v1"
    return f"only {kind} GIDs, which no router passes on: give {device} an IP address"
