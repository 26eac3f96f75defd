"""Checks of RDMA's ports: their state, GIDs, MTU; and of GPU memory. verbs.py has the rest."""

from __future__ import annotations

from collections.abc import Iterator

from tent.topology.model import Gid, NetDevice, RdmaDevice, RdmaPort
from tent.transports.doctor.finding import Case, Finding, listed, on_host, quoted
from tent.transports.rdma import choose_gid

ROCE_HEADERS = 96
"""Bytes that the kernel takes off a netdev's MTU: GRH, UDP, BTH, extended headers, ICRC."""
MTUS = (4096, 2048, 1024, 512, 256)
NETDEV_MTU = 9000
_OVER = ("vlan", "macvlan", "vxlan")
"""Devices that share the one below, which keeps addresses of its own."""
_DMA_BUF_KERNEL = (5, 12)


def ports(case: Case) -> Iterator[Finding]:
    """Ports that do not carry traffic."""
    active = any(port.up for rdma in case.topology.rdma for port in rdma.ports)
    for rdma in _meant(case):
        for port in rdma.ports:
            if port.up:
                continue
            nearest = [
                f"cuda:{gpu.index}"
                for gpu in case.topology.gpus
                if case.distances.tier(f"cuda:{gpu.index}", rdma.name) == 1
            ]
            grave = bool(nearest) or not active
            state = port.state + (f", {port.physical_state}" if port.physical_state else "")
            yield Finding(
                "problem" if grave else "advice",
                "rdma",
                f"{rdma.name} port {port.number}",
                f"the port is not active: {state}",
                f"it is a nearest NIC of {listed(nearest, 4)}"
                if nearest
                else "there is no active port"
                if not active
                else "one rail less",
                _mend_port(case, rdma, port),
            )


def gids(case: Case) -> Iterator[Finding]:
    """RoCE: which of its addresses a port speaks from."""
    for rdma, port, word in _roce_ports(case):
        chosen, ambiguous = choose_gid(port)
        if chosen is None:
            yield Finding(
                "problem",
                "rdma",
                word,
                "the port has no usable GID",
                "it has no address to speak from",
                _address_fix(case, rdma, port),
            )
        elif ambiguous:
            yield _ambiguous(word, port, chosen)
        elif chosen.kind == "RoCE v1":
            yield Finding(
                "advice",
                "rdma",
                word,
                "the port has GIDs of RoCE v1 only",
                "no router passes them on, and peers that speak v2 only are not reached",
                ("use an adapter that speaks RoCE v2, or keep both ends in one Ethernet segment",),
            )
        elif not _routable(chosen):
            yield Finding(
                "advice",
                "rdma",
                word,
                "the port has link-local GIDs only" + _bare(case, rdma, port),
                "peers beyond its own link are not reached",
                _address_fix(case, rdma, port),
            )


def mtus(case: Case) -> Iterator[Finding]:
    """RDMA packets carry 4096 bytes where the Ethernet beneath lets them."""
    found: dict[int, list[str]] = {}
    for rdma, port, word in _roce_ports(case):
        net = case.net_of(rdma, port)
        below = net.mtu if net else None
        fits = None if below is None else next((m for m in MTUS if m <= below - ROCE_HEADERS), 256)
        mtu = port.mtu if port.mtu is not None else fits
        if mtu is None:
            continue
        found.setdefault(mtu, []).append(word)
        fix = _mtu_fix(case, net)
        if port.mtu is not None and fits is not None and port.mtu > fits:
            yield Finding(
                "advice",
                "rdma",
                word,
                f"RDMA uses {port.mtu} bytes a packet, but {net.name if net else '?'} "
                f"(MTU {below}) takes {fits}",
                "full packets are lost on the way",
                fix,
            )
        elif mtu < MTUS[0]:
            yield Finding(
                "advice",
                "rdma",
                word,
                f"RDMA uses {mtu} bytes a packet, {MTUS[0]} are possible"
                + (f": {net.name} has MTU {below}" if net and below is not None else ""),
                "more headers and more packets for the same data",
                fix,
            )
    if len(found) > 1:
        yield Finding(
            "advice",
            "rdma",
            "MTU",
            "ports have different MTUs: "
            + "; ".join(f"{mtu}: {listed(words, 4)}" for mtu, words in sorted(found.items())),
            "a pair of rails takes the smaller one of both ends",
            ("give all of them the same MTU, on every machine and switch between",),
        )


def peer_memory(case: Case) -> Iterator[Finding]:
    """NICs reach GPU memory through dma-buf or a module of NVIDIA's driver."""
    real = [rdma for rdma in case.topology.rdma if not rdma.virtual]
    if not real or not case.topology.gpus:
        return
    loaded = case.topology.limits.modules
    if "nvidia_peermem" in loaded or "nv_peer_mem" in loaded:
        return
    shut = [gpu for gpu in case.topology.gpus if gpu.peer_memory is False]
    unknown = [gpu for gpu in case.topology.gpus if gpu.peer_memory is None]
    host = on_host(case)
    kernel = _kernel(case.topology.host.kernel)
    dma_buf = "or, for dma-buf: NVIDIA's open kernel modules, driver 515 or newer"
    if kernel is not None and kernel < _DMA_BUF_KERNEL:
        dma_buf += f", and Linux 5.12 or newer (here {case.topology.host.kernel})"
    fix = (
        f"{host}modprobe nvidia_peermem",
        f"{host}echo nvidia_peermem > /etc/modules-load.d/nvidia-peermem.conf   # to keep it",
        dma_buf,
    )
    if shut:
        yield Finding(
            "problem",
            "rdma",
            listed(f"cuda:{gpu.index}" for gpu in shut),
            "NICs cannot reach the memory of these GPUs",
            "everything takes a detour through host memory",
            fix,
        )
    elif unknown and loaded:
        yield Finding(
            "advice",
            "rdma",
            listed(f"cuda:{gpu.index}" for gpu in unknown),
            "nvidia_peermem is not loaded, and whether dma-buf works is not known",
            "without either, everything takes a detour through host memory",
            fix,
        )


CHECKS = (ports, gids, mtus, peer_memory)


def _meant(case: Case) -> list[RdmaDevice]:
    return [rdma for rdma in case.topology.rdma if rdma.name not in case.spare and not rdma.iwarp]


def _roce_ports(case: Case) -> Iterator[tuple[RdmaDevice, RdmaPort, str]]:
    for rdma in _meant(case):
        for port in rdma.ports:
            if port.up and port.link_layer == "Ethernet":
                yield rdma, port, f"{rdma.name} port {port.number}"


def _routable(gid: Gid) -> bool:
    return gid.gid.lower()[:3] not in ("fe8", "fe9", "fea", "feb")


def _ambiguous(word: str, port: RdmaPort, chosen: Gid) -> Finding:
    same = [g for g in port.gids if g.kind == chosen.kind and _routable(g) == _routable(chosen)]
    rail = word.partition(" ")[0] + (f":{port.number}" if port.number != 1 else "")
    return Finding(
        "advice",
        "rdma",
        word,
        f"{len(same)} GIDs are as good as each other; {chosen.index} would be taken ({chosen.gid})",
        "if that one belongs to another VLAN than the peers', they are not reached",
        (
            f'in the policy: rails: {{options: {{"rdma:{rail}": {{gid: {chosen.index}}}}}}}'
            f"   # or one of {', '.join(str(gid.index) for gid in same)}",
        ),
    )


def _bare(case: Case, rdma: RdmaDevice, port: RdmaPort) -> str:
    net = case.net_of(rdma, port)
    if net is None or net.addresses:
        return ""
    return f", and {net.name} has no IP address"


def _address_fix(case: Case, rdma: RdmaDevice, port: RdmaPort) -> tuple[str, ...]:
    net = case.net_of(rdma, port)
    # A member's addresses are those of the device that speaks for it (a bond, Hyper-V's pair).
    above = [n for n in case.topology.nets if net and net.name in n.lower and n.kind not in _OVER]
    net = above[0] if above else net
    device = quoted(net.name) if net else "DEVICE"
    return (f"{on_host(case)}ip address add ADDRESS/PREFIX dev {device}",)


def _mtu_fix(case: Case, net: NetDevice | None) -> tuple[str, ...]:
    device = quoted(net.name) if net else "DEVICE"
    return (
        f"{on_host(case)}ip link set dev {device} mtu {NETDEV_MTU}"
        "   # every machine and switch between as well",
    )


def _mend_port(case: Case, rdma: RdmaDevice, port: RdmaPort) -> tuple[str, ...]:
    cable = "see to its cable and transceiver, and to the port of the switch"
    if port.state in ("INIT", "ARMED") and port.link_layer != "Ethernet":
        return (
            "systemctl start opensm   # on one machine of the fabric (package opensm)",
            "or start the subnet manager of a switch",
        )
    net = case.net_of(rdma, port)
    if port.link_layer == "InfiniBand":
        if port.physical_state == "Disabled":
            name = quoted(rdma.name)
            return (
                f"{on_host(case)}ibportstate -C {name} -P {port.number} -D 0 {port.number} enable",
            )
        return (cable,)
    if net is not None and net.up is False:
        return (f"{on_host(case)}ip link set dev {quoted(net.name)} up",)
    if net is not None and net.virtual and net.carrier is False:
        return (f"{on_host(case)}bring up what {quoted(net.name)} leads to: it has no carrier",)
    if port.physical_state == "Disabled" and net is not None:
        return (f"{on_host(case)}ip link set dev {quoted(net.name)} up", cable)
    return (cable,)


def _kernel(release: str) -> tuple[int, int] | None:
    parts = release.split(".")
    if len(parts) < 2:
        return None
    minor = "".join(c for c in parts[1][:4] if c.isdecimal())
    return (int(parts[0]), int(minor)) if parts[0].isdecimal() and minor else None
