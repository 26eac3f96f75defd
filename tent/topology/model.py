"""What a machine is made of, as facts: nodes, PCI devices, GPUs, NICs, drives, limits.

Leans on the standard library. Every reader and importer makes a `Topology`, every other part of
TENT takes one: nothing behind this file looks at the machine. A fact that is not known is None,
never a guess; what could not be read stands in `warnings`. Sequences are sorted by their key, so
equal machines compare equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

NICS_MAX = 4096
"""Most network devices, and most RDMA devices, of one machine."""
PCI_DEVICES_MAX = 65536


@dataclass(frozen=True)
class Node:
    """A NUMA node."""

    index: int
    package: int | None = None
    """The socket its CPUs belong to."""
    cpus: tuple[int, ...] = ()
    memory_bytes: int | None = None
    distances: tuple[int, ...] = ()
    """To every node, in the order of the nodes (ACPI SLIT; 10 is the node itself)."""


@dataclass(frozen=True)
class PciDevice:
    """A function or a bridge of the PCI tree."""

    address: str
    """ "0000:3b:00.0", lower case."""
    parent: str | None = None
    """Address of the bridge above; None: it hangs on the host bridge `root`."""
    root: str | None = None
    """Host bridge, "pci0000:3a"; None: not known."""
    class_code: int | None = None
    """24 bits, 0x020000 an Ethernet controller, 0x060400 a bridge."""
    vendor: int | None = None
    device: int | None = None
    numa: int | None = None
    driver: str | None = None
    link_gts: float | None = None
    """Transfers a second and lane, in giga, as trained now."""
    link_width: int | None = None
    """Lanes, as trained now."""
    link_gts_max: float | None = None
    link_width_max: int | None = None
    link_gbps: float | None = None
    """Of the link as trained, one direction, where no more than that is known of it (hwloc)."""
    name: str = ""
    """For people; may be empty."""
    function_of: str | None = None
    """Address of the physical function, where this is a virtual one of it (SR-IOV)."""

    @property
    def is_bridge(self) -> bool:
        """True for bridges and the ports of switches."""
        return self.class_code is not None and self.class_code >> 8 == 0x0604

    @property
    def gbps(self) -> float | None:
        """Gbit/s of the link as trained, one direction, after line coding."""
        trained = _link_gbps(self.link_gts, self.link_width)
        return self.link_gbps if trained is None else trained

    @property
    def gbps_max(self) -> float | None:
        """Gbit/s of the link as it could be trained."""
        return _link_gbps(self.link_gts_max, self.link_width_max)


@dataclass(frozen=True)
class NvLink:
    """Links between a GPU and one peer."""

    peer: int | None
    """Index of the other GPU; None: a switch, through which all GPUs on it are reached."""
    links: int
    gbps: float | None = None
    """Of all these links together, one direction."""


@dataclass(frozen=True)
class Gpu:
    """A GPU; its location is `cuda:<index>`."""

    index: int
    pci: str | None = None
    name: str = ""
    numa: int | None = None
    memory_bytes: int | None = None
    driver: str | None = None
    nvlinks: tuple[NvLink, ...] = ()
    peer_memory: bool | None = None
    """NICs can reach its memory: dma-buf or a peer memory module."""


@dataclass(frozen=True)
class Gid:
    """An address of an RDMA port."""

    index: int
    gid: str
    """As the kernel writes it: eight groups of four hexadecimal digits."""
    kind: str
    """ "IB", "RoCE v1" or "RoCE v2"."""
    netdev: str | None = None


@dataclass(frozen=True)
class RdmaPort:
    """A port of an RDMA device."""

    number: int
    state: str = "UNKNOWN"
    """ "ACTIVE", "DOWN", "INIT", "ARMED", ..."""
    physical_state: str | None = None
    """ "LinkUp", "Disabled", "Polling", ..."""
    link_layer: str | None = None
    """ "Ethernet" or "InfiniBand"."""
    gbps: float | None = None
    lid: int | None = None
    gids: tuple[Gid, ...] = ()
    netdev: str | None = None
    mtu: int | None = None
    """Bytes, of the RDMA path; not the netdev's."""

    @property
    def up(self) -> bool:
        """True where it can carry traffic."""
        return self.state == "ACTIVE"


@dataclass(frozen=True)
class RdmaDevice:
    """An RDMA device, a NIC as verbs see it."""

    name: str
    pci: str | None = None
    numa: int | None = None
    firmware: str | None = None
    board: str | None = None
    virtual: bool = False
    """Software RoCE, or without a PCI device for another reason."""
    iwarp: bool = False
    """It speaks iWARP, RDMA over TCP, whose connections are made through rdma_cm alone."""
    ports: tuple[RdmaPort, ...] = ()


@dataclass(frozen=True)
class Address:
    """An IP address of a network device."""

    ip: str
    prefix: int

    @property
    def is_v6(self) -> bool:
        """True for IPv6."""
        return ":" in self.ip


@dataclass(frozen=True)
class NetDevice:
    """A network device as the kernel sees it."""

    name: str
    kind: str = "ethernet"
    """ "ethernet", "infiniband", "loopback", or of virtual ones "bond", "bridge", "vlan", "veth",
    "tun", "macvlan", "vxlan", "dummy", "virtual"."""
    pci: str | None = None
    numa: int | None = None
    gbps: float | None = None
    mtu: int | None = None
    up: bool | None = None
    """Administratively up."""
    carrier: bool | None = None
    addresses: tuple[Address, ...] = ()
    rdma: tuple[str, ...] = ()
    """RDMA devices that it carries, or that carry it."""
    lower: tuple[str, ...] = ()
    """Devices below it: the members of a bond, the one under a VLAN."""
    driver: str | None = None

    @property
    def virtual(self) -> bool:
        """True where no device of the machine is behind it: loopback, bridge, veth, bond."""
        return self.kind not in ("ethernet", "infiniband")


@dataclass(frozen=True)
class Disk:
    """A block device, NVMe before all."""

    name: str
    pci: str | None = None
    numa: int | None = None
    bytes: int | None = None
    model: str = ""
    rotational: bool | None = None


@dataclass(frozen=True)
class Mount:
    """A mounted file system that can hold data."""

    path: str
    device: str
    kind: str
    """ "ext4", "xfs", "nfs4", "tmpfs", ..."""
    disk: str | None = None
    """The Disk under it."""
    bytes: int | None = None
    free_bytes: int | None = None
    read_only: bool = False


@dataclass(frozen=True)
class HugePages:
    """Huge pages of one size."""

    page_bytes: int
    total: int
    free: int
    node: int | None = None
    """None: of the machine as a whole."""


@dataclass(frozen=True)
class Limits:
    """What this process may use."""

    memlock_bytes: int | None = None
    """Memory it may pin; None: no limit, or not known (`memlock_known`)."""
    memlock_known: bool = False
    open_files: int | None = None
    ptrace_scope: int | None = None
    """Yama's; 0 lets processes of one user attach to each other's memory."""
    container: str | None = None
    """ "docker", "podman", "kubernetes", "lxc", ...; None: none was recognised."""
    cgroup_memory_bytes: int | None = None
    cgroup_cpus: float | None = None
    """CPUs' worth of time; None: no limit."""
    cpus: tuple[int, ...] = ()
    """CPUs it may run on."""
    huge_pages: tuple[HugePages, ...] = ()
    shm_bytes: int | None = None
    """Size of /dev/shm."""
    modules: tuple[str, ...] = ()
    """Loaded kernel modules that transports ask for: nvidia_peermem, rdma_rxe, ib_uverbs, ..."""


@dataclass(frozen=True)
class Host:
    """The system itself. No name, no serial number: a record may be published."""

    kernel: str = ""
    architecture: str = ""
    cpu_model: str = ""
    cpu_count: int | None = None
    memory_bytes: int | None = None
    product: str = ""
    """Of the maker, "DGX H100"; may be empty."""


@dataclass(frozen=True)
class Remark:
    """Something that could not be read, or that contradicts itself."""

    where: str
    """The file, or the element of the input."""
    what: str


@dataclass(frozen=True)
class Topology:
    """One machine, as far as it is known."""

    source: str = ""
    """Where the facts come from: "/", a file, "synthetic"."""
    host: Host = field(default_factory=Host)
    limits: Limits = field(default_factory=Limits)
    nodes: tuple[Node, ...] = ()
    pci: tuple[PciDevice, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    rdma: tuple[RdmaDevice, ...] = ()
    nets: tuple[NetDevice, ...] = ()
    disks: tuple[Disk, ...] = ()
    mounts: tuple[Mount, ...] = ()
    overrides: tuple[Override, ...] = ()
    """What a person said about distances, over what was found."""
    warnings: tuple[Remark, ...] = ()

    def facts(self) -> dict[str, Any]:
        """The fields by name, to compare machines without their source and warnings."""
        skipped = ("source", "warnings")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}


@dataclass(frozen=True)
class Override:
    """`device` is of this tier for memory at `location`, whatever the tree says."""

    location: str
    device: str
    tier: int
    """1 to 3."""


def _link_gbps(gts: float | None, width: int | None) -> float | None:
    """Line coding takes 1/5 up to 5 GT/s (8b/10b), 2/130 from 8 GT/s on (128b/130b)."""
    if gts is None or width is None:
        return None
    return gts * width * (0.8 if gts <= 5.0 else 128 / 130)
