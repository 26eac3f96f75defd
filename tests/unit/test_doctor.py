"""The doctor: every finding where it belongs, none on a sound machine, commands that can be run."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests_machines import SYS, Machine, gids_of
from tests_pictures import (
    GIB,
    device,
    hgx,
    laptop,
    netdev,
    with_limits,
    with_net,
    with_pci,
    with_port,
)

from tent.topology.discover import discover
from tent.topology.model import (
    Address,
    Gid,
    Gpu,
    HugePages,
    NetDevice,
    Node,
    RdmaDevice,
    RdmaPort,
    Topology,
)
from tent.transports.doctor import Finding, Surroundings, examine
from tent.transports.doctor.report import render, to_json
from tent.transports.model import Catalog, Transport
from tent.transports.offers import assumed_catalog

CATALOG = assumed_catalog(["cuda", "shm", "rdma", "tcp"])
HERE = Surroundings(
    variables={"TENT_KEY_FILE": "/etc/tent.key"},
    capabilities=frozenset(),
    uverbs=True,
    gpu_files=True,
    libibverbs=True,
    pynvml=True,
    numa_balancing=False,
    live=True,
)
HGX = hgx()
DOCKER = with_limits(HGX, container="docker")
NIC, NET = "0000:15:00.0", "eth0"  # of mlx5_0


def around(**facts: object) -> Surroundings:
    return replace(HERE, **facts)  # type: ignore[arg-type]


def found(
    topology: Topology, surroundings: Surroundings = HERE, catalog: Catalog = CATALOG
) -> tuple[Finding, ...]:
    return examine(topology, catalog, environment=surroundings)


def infiniband(topology: Topology, name: str, **facts: object) -> Topology:
    return with_port(topology, name, link_layer="InfiniBand", gids=(), netdev=None, **facts)


def gpus(topology: Topology, **facts: object) -> Topology:
    changed = tuple(replace(gpu, **facts) for gpu in topology.gpus)  # type: ignore[arg-type]
    return replace(topology, gpus=changed)


def only(topology: Topology, *names: str) -> Topology:
    """Without the other RDMA devices, their cards, and netdevs."""
    gone = {rdma.pci for rdma in topology.rdma if rdma.name not in names}
    return replace(
        topology,
        pci=tuple(device for device in topology.pci if device.address not in gone),
        rdma=tuple(rdma for rdma in topology.rdma if rdma.name in names),
        nets=tuple(net for net in topology.nets if net.name in names),
    )


def gid(index: int, text: str, kind: str = "RoCE v2") -> Gid:
    return Gid(index, text, kind, NET)


SHMEM = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
V4 = "0000:0000:0000:0000:0000:ffff:0a00:0001"
OTHER_V4 = "0000:0000:0000:0000:0000:ffff:0a63:0001"
LOCAL = "fe80:0000:0000:0000:0000:00ff:fe00:0001"
TWO_NODES = (Node(0, 0, (0, 1), GIB, (10, 21)), Node(1, 1, (2, 3), GIB, (21, 10)))


def lost_numa(topology: Topology) -> Topology:
    """A NIC on a host bridge that says nothing of its node."""
    topology = with_pci(topology, "0000:a1:00.0", numa=None, root="pci0000:ff")
    rdma = tuple(replace(r, numa=None) if r.name == "mlx5_8" else r for r in topology.rdma)
    return replace(topology, rdma=rdma)


def far_gpu(topology: Topology) -> Topology:
    """All NICs of node 1 are down."""
    for name in ("mlx5_4", "mlx5_5", "mlx5_6", "mlx5_7", "mlx5_9"):
        topology = with_port(topology, name, state="DOWN")
    return topology


def one_subnet(topology: Topology) -> Topology:
    return with_net(topology, "eth1", addresses=(Address("10.0.0.9", 24),))


def dual_port() -> Topology:
    """One card with two ports of 200 Gbit/s on a link of 252."""
    second = device("0000:a1:00.1", None, class_code=0x020000, root="pci0000:a0", numa=0,
                    link_gts=16.0, link_gts_max=16.0)  # fmt: skip
    other = RdmaDevice("mlx5_10", second.address, 0, ports=HGX.rdma[8].ports)
    return replace(HGX, pci=(*HGX.pci, second), rdma=(*HGX.rdma, other))


def soft(**facts: object) -> Topology:
    """A laptop with soft RoCE over its card."""
    found = {
        "state": "ACTIVE", "link_layer": "Ethernet", "gids": (gid(1, V4),), "netdev": "enp1s0",
        **facts,
    }  # fmt: skip
    port = RdmaPort(1, **found)  # type: ignore[arg-type]
    return replace(laptop(), rdma=(RdmaDevice("rxe0", virtual=True, ports=(port,)),))


SETTLED = {
    f"{name}/{setting}": value
    for name in ("eth0", "eth1")
    for setting, value in (("arp_ignore", 1), ("arp_announce", 2), ("rp_filter", 2))
}

# name: (machine, surroundings, (severity, transport, subject), a part of `what`, the first fix)
FIRES: dict[str, tuple[Topology, Surroundings, tuple[str, str, str], str, str]] = {
    "memlock": (
        with_limits(HGX, memlock_bytes=64 << 10), HERE, ("problem", "rdma", "memlock"),
        "64 KiB only", "ulimit -l unlimited   # this shell, as far as its hard limit allows",
    ),
    "memlock in docker": (
        with_limits(DOCKER, memlock_bytes=64 << 10), HERE, ("problem", "rdma", "memlock"),
        "64 KiB only", "docker run --ulimit memlock=-1 ...",
    ),
    "memlock in podman": (
        with_limits(HGX, memlock_bytes=64 << 10, container="podman"), HERE,
        ("problem", "rdma", "memlock"), "64 KiB only", "podman run --ulimit memlock=-1 ...",
    ),
    "memlock large": (
        with_limits(HGX, memlock_bytes=4 << 30), HERE, ("advice", "rdma", "memlock"), "4.0 GiB",
        "ulimit -l unlimited   # this shell, as far as its hard limit allows",
    ),
    "ptrace": (
        with_limits(HGX, ptrace_scope=1), HERE, ("advice", "shm", "ptrace scope"), "is 1",
        "sysctl -w kernel.yama.ptrace_scope=0",
    ),
    "ptrace 3": (
        with_limits(HGX, ptrace_scope=3), around(capabilities=frozenset({"CAP_SYS_PTRACE"})),
        ("advice", "shm", "ptrace scope"), "only a restart",
        "printf '%s\\n' kernel.yama.ptrace_scope=0 >> /etc/sysctl.d/90-tent.conf   # to keep it",
    ),
    "own namespaces": (
        HGX, around(own_namespaces=frozenset({"ipc", "pid", "user"})),
        ("note", "shm", "namespaces"), "its own ipc, pid, user namespaces",
        "start engines that shall meet in common namespaces: nsenter -t PID --ipc --pid --user",
    ),
    "own user namespace in podman": (
        with_limits(HGX, container="podman"), around(own_namespaces=frozenset({"user"})),
        ("note", "shm", "namespaces"), "its own user namespace",
        "podman run --userns=keep-id ...",
    ),
    "own pid namespace in docker": (
        DOCKER, around(own_namespaces=frozenset({"pid"})), ("note", "shm", "namespaces"),
        "its own pid namespace", "docker run --pid=host ...",
    ),
    "no /dev/shm": (
        HGX, around(shm_trouble="there is no /dev/shm"), ("note", "shm", "/dev/shm"),
        "there is no /dev/shm",
        "mkdir -p /dev/shm && mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm",
    ),
    "no memory files": (
        HGX, around(memfd_trouble="Operation not permitted"), ("advice", "shm", "memory files"),
        "memfd_create fails: Operation not permitted",
        "allow memfd_create in the filter that this process runs under (seccomp, LSM)",
    ),
    "no memory files in docker": (
        DOCKER, around(memfd_trouble="Function not implemented"),
        ("advice", "shm", "memory files"), "not implemented",
        "docker run --security-opt seccomp=with-memfd-create.json ...",
    ),
    "huge pages of memory files": (
        with_limits(HGX, huge_pages=(HugePages(2 << 20, 8, 0), HugePages(2 << 20, 8, 8, node=0))),
        around(shmem_huge_off=SHMEM), ("note", "shm", "huge pages"), "gets normal pages",
        f"echo advise > {SHMEM}",
    ),
    "huge pages of memory files in docker": (
        with_limits(DOCKER, huge_pages=(HugePages(64 << 10, 8, 8),)),
        around(shmem_huge_off=SHMEM), ("note", "shm", "huge pages"), "gets normal pages",
        f"on the host: echo advise > {SHMEM}",
    ),
    "open files": (
        with_limits(HGX, open_files=256), HERE, ("advice", "tcp", "open files"), "256 files",
        "ulimit -n 65536   # this shell, as far as its hard limit allows",
    ),
    "huge pages": (
        with_limits(HGX, huge_pages=(HugePages(2 << 20, 0, 0),)), HERE,
        ("note", "rdma", "huge pages"), "no huge pages", "sysctl -w vm.nr_hugepages=1024",
    ),
    "cgroup CPUs": (
        with_limits(DOCKER, cgroup_cpus=0.5), HERE, ("advice", "", "CPUs"), "0.5 CPUs",
        "docker run --cpus=2 ...",
    ),
    "NUMA balancing": (
        HGX, around(numa_balancing=True), ("advice", "", "NUMA balancing"), "by itself",
        "sysctl -w kernel.numa_balancing=0",
    ),
    "no key": (
        HGX, around(variables={}), ("note", "", "key"), "not set",
        "(umask 077; head -c 32 /dev/urandom | base64 > tent.key)   # one for all machines",
    ),
    "no key beyond loopback": (
        HGX, around(variables={"TENT_LISTEN": "0.0.0.0:7000"}), ("problem", "", "key"),
        "TENT_LISTEN=0.0.0.0:7000",
        "(umask 077; head -c 32 /dev/urandom | base64 > tent.key)   # one for all machines",
    ),
    "open key": (
        HGX, around(key_trouble="its mode is 0644, others may use it"), ("problem", "", "key"),
        "0644", "chmod 600 -- /etc/tent.key",
    ),
    "library": (
        HGX, around(libibverbs=False), ("problem", "rdma", "libibverbs"), "not installed",
        "apt-get install libibverbs1 ibverbs-providers   # Debian, Ubuntu",
    ),
    "device files": (
        HGX, around(uverbs=False), ("problem", "rdma", "/dev/infiniband"), "no device files",
        "modprobe ib_uverbs",
    ),
    "device files in docker": (
        DOCKER, around(uverbs=False), ("problem", "rdma", "/dev/infiniband"), "no device files",
        "docker run --device=/dev/infiniband ...",
    ),
    "device files, module loaded": (
        with_limits(HGX, modules=("ib_uverbs", "nvidia_peermem")), around(uverbs=False),
        ("problem", "rdma", "/dev/infiniband"), "no device files",
        "udevadm trigger --subsystem-match=infiniband_verbs",
    ),
    "device files of others": (
        HGX, around(uverbs_denied=True), ("problem", "rdma", "/dev/infiniband"),
        "this user may not",
        "chmod a+rw /dev/infiniband/uverbs*   # until the next boot",
    ),
    "no provider": (
        soft(), around(verbs_devices=frozenset()), ("problem", "rdma", "rxe0"),
        "libibverbs does not", "apt-get install ibverbs-providers   # Debian, Ubuntu",
    ),
    "netdev in another namespace": (
        soft(netdev="ra0"), HERE, ("advice", "rdma", "rxe0 (ra0)"), "not in this network namespace",
        "nsenter -t PID --net   # of a process in the namespace that has them",
    ),
    "netdev in another namespace, in docker": (
        with_limits(soft(netdev="ra0"), container="docker"), HERE,
        ("advice", "rdma", "rxe0 (ra0)"), "not in this network", "docker run --network=host ...",
    ),
    "devices in another namespace": (
        laptop(), HERE, ("problem", "rdma", "devices"), "no RDMA device can be seen",
        "rdma system set netns shared   # in the first namespace, before others are made",
    ),
    "software device": (
        soft(), HERE, ("note", "rdma", "rxe0"), "in software",
        'in the policy: rails: {exclude: ["rdma:rxe0"]}   # where it shall not carry data',
    ),
    "link-local GID, and no address": (
        with_net(soft(gids=(gid(0, LOCAL),)), "enp1s0", addresses=()), HERE,
        ("advice", "rdma", "rxe0 port 1"), "GIDs only, and enp1s0 has no IP address",
        "ip address add ADDRESS/PREFIX dev enp1s0",
    ),
    "port down behind a pair's other end": (
        with_net(soft(state="DOWN"), "enp1s0", kind="veth", carrier=False), HERE,
        ("problem", "rdma", "rxe0 port 1"), "DOWN",
        "bring up what enp1s0 leads to: it has no carrier",
    ),
    "uverbs module": (
        with_limits(HGX, modules=("nvidia_peermem",)), around(uverbs=None),
        ("advice", "rdma", "/dev/infiniband"), "ib_uverbs", "modprobe ib_uverbs",
    ),
    "RDMA driver": (
        with_pci(replace(HGX, rdma=HGX.rdma[1:]), NIC, class_code=0x020700), HERE,
        ("problem", "rdma", NIC), "no RDMA device", "modprobe mlx5_ib",
    ),
    "port down, nearest": (
        with_net(with_port(HGX, "mlx5_0", state="DOWN", physical_state="Disabled"), NET, up=False),
        HERE, ("problem", "rdma", "mlx5_0 port 1"), "DOWN, Disabled", "ip link set dev eth0 up",
    ),
    "port down, one of many": (
        with_port(HGX, "mlx5_8", state="DOWN", physical_state="Polling"), HERE,
        ("advice", "rdma", "mlx5_8 port 1"), "DOWN, Polling",
        "see to its cable and transceiver, and to the port of the switch",
    ),
    "port disabled, InfiniBand": (
        infiniband(HGX, "mlx5_8", state="DOWN", physical_state="Disabled"), HERE,
        ("advice", "rdma", "mlx5_8 port 1"), "Disabled",
        "ibportstate -C mlx5_8 -P 1 -D 0 1 enable",
    ),
    "no subnet manager": (
        infiniband(HGX, "mlx5_0", state="INIT", physical_state="LinkUp"), HERE,
        ("problem", "rdma", "mlx5_0 port 1"), "INIT",
        "systemctl start opensm   # on one machine of the fabric (package opensm)",
    ),
    "ambiguous GID": (
        with_port(HGX, "mlx5_0", gids=(gid(3, V4), gid(5, OTHER_V4))), HERE,
        ("advice", "rdma", "mlx5_0 port 1"), "2 GIDs are as good as each other; 3 would be taken",
        'in the policy: rails: {options: {"rdma:mlx5_0": {gid: 3}}}   # or one of 3, 5',
    ),
    "no GID": (
        with_port(HGX, "mlx5_0", gids=()), HERE, ("problem", "rdma", "mlx5_0 port 1"),
        "no usable GID", "ip address add ADDRESS/PREFIX dev eth0",
    ),
    "RoCE v1": (
        with_port(HGX, "mlx5_0", gids=(gid(0, V4, "RoCE v1"),)), HERE,
        ("advice", "rdma", "mlx5_0 port 1"), "RoCE v1 only",
        "use an adapter that speaks RoCE v2, or keep both ends in one Ethernet segment",
    ),
    "link-local GID": (
        with_port(HGX, "mlx5_0", gids=(gid(0, LOCAL),)), HERE,
        ("advice", "rdma", "mlx5_0 port 1"), "link-local", "ip address add ADDRESS/PREFIX dev eth0",
    ),
    "small RDMA MTU": (
        with_net(with_port(HGX, "mlx5_0", mtu=1024), NET, mtu=1500), HERE,
        ("advice", "rdma", "mlx5_0 port 1"), "1024 bytes a packet, 4096 are possible",
        "ip link set dev eth0 mtu 9000   # every machine and switch between as well",
    ),
    "RDMA MTU above the netdev's": (
        with_net(HGX, NET, mtu=1500), HERE, ("advice", "rdma", "mlx5_0 port 1"),
        "RDMA uses 4096 bytes a packet, but eth0 (MTU 1500) takes 1024",
        "ip link set dev eth0 mtu 9000   # every machine and switch between as well",
    ),
    "different RDMA MTUs": (
        with_net(with_port(HGX, "mlx5_0", mtu=2048), NET, mtu=3000), HERE,
        ("advice", "rdma", "MTU"), "2048: mlx5_0 port 1; 4096: ",
        "give all of them the same MTU, on every machine and switch between",
    ),
    "no peer memory": (
        gpus(HGX, peer_memory=False), HERE,
        ("problem", "rdma", ", ".join(f"cuda:{n}" for n in range(8))), "cannot reach the memory",
        "modprobe nvidia_peermem",
    ),
    "peer memory not known": (
        with_limits(gpus(HGX, peer_memory=None), modules=("ib_uverbs",)), HERE,
        ("advice", "rdma", ", ".join(f"cuda:{n}" for n in range(8))), "nvidia_peermem",
        "modprobe nvidia_peermem",
    ),
    "netdev down": (
        with_net(laptop(), "enp1s0", up=False), HERE, ("note", "tcp", "enp1s0"), "is down",
        "ip link set dev enp1s0 up",
    ),
    "the only netdev without carrier": (
        only(laptop(), "enp1s0"), HERE, ("advice", "tcp", "enp1s0"), "no carrier",
        "see to its cable and transceiver, and to the port of the switch",
    ),
    "no address": (
        with_net(HGX, NET, addresses=()), HERE, ("advice", "tcp", "eth0"), "no IP address",
        "ip address add ADDRESS/PREFIX dev eth0",
    ),
    "link-local address": (
        with_net(HGX, NET, addresses=(Address("fe80::1", 64),)), HERE, ("advice", "tcp", "eth0"),
        "but a link-local one", "ip address add ADDRESS/PREFIX dev eth0",
    ),
    "IPv6 only": (
        with_net(HGX, NET, addresses=(Address("2001:db8::1", 64),)), HERE, ("note", "tcp", "eth0"),
        "IPv6 addresses only", "ip address add ADDRESS/PREFIX dev eth0",
    ),
    "memlock in another container": (
        with_limits(HGX, memlock_bytes=64 << 10, container="lxc"), HERE,
        ("problem", "rdma", "memlock"), "64 KiB only",
        "give the container what `docker run --ulimit memlock=-1` would",
    ),
    "one subnet": (
        one_subnet(HGX), HERE, ("advice", "tcp", "eth0, eth1"), "in one subnet, 10.0.0.0/24",
        "sysctl -w net/ipv4/conf/eth0/arp_ignore=1 net/ipv4/conf/eth0/arp_announce=2 "
        "net/ipv4/conf/eth0/rp_filter=2",
    ),
    "one subnet, settings made": (
        one_subnet(HGX), around(sysctls=SETTLED), ("note", "tcp", "eth0, eth1"), "in one subnet",
        "sysctl -w net/ipv4/conf/eth0/arp_ignore=1 net/ipv4/conf/eth0/arp_announce=2 "
        "net/ipv4/conf/eth0/rp_filter=2",
    ),
    "small frames": (
        replace(laptop(), nets=(netdev("e0", "10.0.0.1", mtu=1500, gbps=100.0),)), HERE,
        ("advice", "tcp", "e0"), "MTU 1500 at 100 Gbit/s",
        "ip link set dev e0 mtu 9000   # every machine and switch between as well; "
        "some clouds allow less",
    ),
    "narrow link": (
        with_pci(HGX, NIC, link_width=4), HERE, ("advice", "rdma", "mlx5_0"),
        "runs at 32 GT/s x4 of x16",
        f"lspci -vv -s {NIC}   # LnkCap: what it can, LnkSta: what it does",
    ),
    "narrow link that is wide enough": (
        with_pci(HGX, "0000:a1:00.0", link_gts_max=32.0), HERE, ("note", "rdma", "mlx5_8"),
        "16 GT/s x16 of 32 GT/s", "",
    ),
    "port faster than its card": (
        with_pci(HGX, NIC, link_gts=16.0, link_gts_max=16.0), HERE, ("advice", "rdma", "mlx5_0"),
        "runs at 16 GT/s x16",
        f"lspci -vv -s {NIC}   # LnkCap: what it can, LnkSta: what it does",
    ),
    "GPU with few lanes": (
        with_pci(HGX, "0000:13:00.0", link_width=8), HERE, ("advice", "", "cuda:0"), "x8 of x16",
        "lspci -vv -s 0000:13:00.0   # LnkCap: what it can, LnkSta: what it does",
    ),
    "two ports on one link": (
        dual_port(), HERE, ("note", "rdma", "mlx5_8, mlx5_10"), "share one PCIe link", "",
    ),
    "node not known": (
        lost_numa(HGX), HERE, ("advice", "rdma", "mlx5_8"), "NUMA node is not known",
        "tent topo overrides > tiers.yaml   # say its tiers there, then --overrides tiers.yaml",
    ),
    "GPU far from every NIC": (
        far_gpu(HGX), HERE, ("advice", "", "cuda:4"), "across the machine",
        "bring up mlx5_4, mlx5_5",
    ),
    "GPU without a NIC on its switch": (
        only(HGX, *(f"mlx5_{n}" for n in (0, 1, 2, 3, 4, 5)), "eth0"), HERE,
        ("advice", "", "cuda:6"), "no usable NIC shares a PCIe switch",
        "move a NIC into a slot of its switch or node; `tent topo --tree` shows them",
    ),
    "no NVML package": (
        gpus(HGX, memory_bytes=None), around(pynvml=False), ("advice", "cuda", "cuda:0"),
        "Python package", "pip install nvidia-ml-py",
    ),
    "NVML fails": (
        gpus(HGX, memory_bytes=None), HERE, ("advice", "cuda", "cuda:0"), "NVML does not tell",
        "nvidia-smi   # says what is wrong with driver and library",
    ),
    "nouveau": (
        with_pci(gpus(HGX, memory_bytes=None), "0000:13:00.0", driver="nouveau"), HERE,
        ("advice", "cuda", "cuda:0"), "driven by nouveau",
        "modprobe nvidia   # after installing its driver",
    ),
    "container without GPUs": (
        DOCKER, around(gpu_files=False),
        ("problem", "cuda", ", ".join(f"cuda:{n}" for n in range(8))), "no device files",
        "docker run --gpus all ...",
    ),
    "IOMMU": (
        HGX, around(translated=frozenset({NIC})), ("advice", "rdma", "IOMMU"), NIC,
        "grubby --update-kernel=ALL --args=iommu=pt   # Fedora, RHEL; then restart",
    ),
    "no rail": (
        Topology(nets=(NetDevice("lo", "loopback", up=True),)), HERE, ("problem", "tcp", "rails"),
        "no rail of tcp reaches another machine",
        "mend one of the devices named here, or add one; see the findings about each",
    ),
    "no rail of rdma": (
        only(with_port(HGX, "mlx5_0", state="DOWN"), "mlx5_0"), HERE,
        ("problem", "rdma", "rails"), "no rail of rdma",
        "mend one of the devices named here, or add one; see the findings about each",
    ),
    "only virtual, in docker": (
        replace(
            Topology(nets=(netdev("eth0", "172.17.0.2", kind="veth", gbps=None),)),
            limits=DOCKER.limits,
        ),
        HERE, ("advice", "tcp", "rails"), "only virtual devices", "docker run --network=host ...",
    ),
}  # fmt: skip

QUIET: dict[str, tuple[Topology, Surroundings]] = {
    "a sound HGX": (HGX, HERE),
    "a sound HGX, of a record": (HGX, Surroundings()),
    "huge pages set aside for memory files": (
        with_limits(HGX, huge_pages=(HugePages(2 << 20, 8, 1),)),
        around(shmem_huge_off=SHMEM),
    ),
    "pinning is a capability": (
        with_limits(HGX, memlock_bytes=64 << 10),
        around(capabilities=frozenset({"CAP_IPC_LOCK"})),
    ),
    "every device has its provider": (
        HGX,
        around(verbs_devices=frozenset(rdma.name for rdma in HGX.rdma)),
    ),
    "limit not known": (with_limits(HGX, memlock_known=False), HERE),
    "attaching is a capability": (
        with_limits(HGX, ptrace_scope=2),
        around(capabilities=frozenset({"CAP_SYS_PTRACE"})),
    ),
    "a small /dev/shm, in which no memory lies": (with_limits(HGX, shm_bytes=64 << 10), HERE),
    "a GPU that slows its link down when idle": (
        with_pci(HGX, "0000:13:00.0", link_gts=2.5),
        HERE,
    ),
    "the kernel balances one node": (
        replace(only(HGX, "mlx5_0", "eth0"), nodes=HGX.nodes[:1], gpus=HGX.gpus[:2], disks=()),
        around(numa_balancing=True),
    ),
    "no RDMA, and no limit that it minds": (
        with_limits(
            replace(laptop(), nets=laptop().nets[1:]),
            ptrace_scope=0,
            huge_pages=(HugePages(2 << 20, 0, 0),),
        ),
        around(
            libibverbs=False,
            verbs_devices=frozenset(),
            uverbs=False,
            translated=frozenset({"0000:00:00.0"}),
        ),
    ),
    "modules say peermem": (
        with_limits(gpus(HGX, peer_memory=None), modules=("ib_uverbs", "nvidia_peermem")),
        HERE,
    ),
    "MTUs that hold 4096": (with_net(HGX, NET, mtu=4200), HERE),
    "one address twice in a subnet of one NIC": (
        with_net(HGX, NET, addresses=(Address("10.0.0.1", 24), Address("10.0.0.2", 24))),
        HERE,
    ),
    "an import without drivers and network devices": (
        replace(
            gpus(HGX, memory_bytes=None),
            nets=(),
            pci=tuple(replace(d, driver=None) for d in HGX.pci),
        ),
        Surroundings(),
    ),
    "iWARP beside tcp, and no rdma for it": (
        replace(
            HGX,
            rdma=tuple(replace(rdma, iwarp=rdma.name == "mlx5_8") for rdma in HGX.rdma),
            nets=tuple(replace(net, rdma=()) if "mlx5_8" in net.rdma else net for net in HGX.nets),
        ),
        HERE,
    ),
    "IPv6 everywhere": (
        replace(
            laptop(),
            limits=HGX.limits,
            nets=(netdev("e0", None, addresses=(Address("2001:db8::1", 64),)),),
        ),
        around(uverbs=False),
    ),
    "a tun beside the NICs": (
        replace(HGX, nets=(*HGX.nets, NetDevice("tun0", "tun", up=True, mtu=1400))),
        HERE,
    ),
    "loopback listener needs no key": (
        HGX,
        around(variables={"TENT_KEY_FILE": "k", "TENT_LISTEN": "127.0.0.1:0"}),
    ),
}


def matching(findings: Sequence[Finding], head: tuple[str, str, str], what: str) -> list[Finding]:
    return [f for f in findings if (f.severity, f.transport, f.subject) == head and what in f.what]


@pytest.mark.parametrize("name", FIRES)
def test_finding_is_made_with_its_fix(name: str) -> None:
    topology, surroundings, head, what, fix = FIRES[name]
    findings = found(topology, surroundings)
    right = matching(findings, head, what)
    assert len(right) == 1, render(findings)
    assert (right[0].fix or ("",))[0] == fix
    assert right[0].why


@pytest.mark.parametrize("name", QUIET)
def test_no_finding_where_nothing_is_wrong(name: str) -> None:
    topology, surroundings = QUIET[name]
    findings = found(topology, surroundings)
    assert not findings, render(findings)


def test_every_check_is_shown_to_fire() -> None:
    from tent.transports.doctor.examine import CHECKS
    from tent.transports.doctor.finding import Case

    cases = [Case(topology, CATALOG, around) for topology, around, *_ in FIRES.values()]
    cases.append(Case(HGX, Catalog((Transport("rdma", available=False),)), HERE))
    silent = [c.__qualname__ for c in CHECKS if not any(list(c(case)) for case in cases)]
    assert silent == []


@pytest.mark.parametrize("name", FIRES)
def test_commands_are_valid_shell(name: str) -> None:
    topology, surroundings, *_ = FIRES[name]
    commands = [
        fix.removeprefix("on the host: ")
        for finding in found(topology, surroundings)
        for fix in finding.fix
    ]
    words = ("sysctl", "ip ", "printf", "modprobe", "ulimit", "echo", "docker", "chmod", "(umask")
    shell = [command for command in commands if command.startswith(words)]
    done = subprocess.run(
        ["bash", "-n"], input="\n".join(shell), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_foreign_names_are_one_word_of_a_command() -> None:
    evil = "e0;reboot $(x)"
    topology = with_net(HGX, NET, name=evil, addresses=(), rdma=(), mtu=1500)
    topology = replace(topology, nets=(*topology.nets, netdev("e 1", "10.1.0.9")))
    commands = [fix for f in found(topology) for fix in f.fix if fix.startswith(("ip ", "sysctl "))]
    assert any("reboot" in command for command in commands)
    for command in commands:
        for part in command.partition("   #")[0].split(" && "):
            assert "reboot" not in shlex.split(part)
            assert not any(word.startswith("$(") for word in shlex.split(part))
    assert any("net/ipv4/conf/e 1/rp_filter=2" in shlex.split(command) for command in commands)


def test_an_unavailable_transport_is_a_problem_where_its_hardware_is() -> None:
    catalog = Catalog(
        (
            Transport("cuda", available=False, reason="libcuda.so.1 is missing"),
            Transport("rdma", available=False, reason="no plugin"),
            Transport("sim", library="/x.so", available=False, reason="broken", auto=False),
            Transport("tcp"),
        )
    )
    grave = {f.transport: f.severity for f in found(HGX, catalog=catalog)}
    assert grave == {"cuda": "problem", "rdma": "problem", "sim": "note"}
    plain = {f.transport: f.severity for f in found(QUIET["no RDMA, and no limit that it minds"][0],
                                                    catalog=catalog)}  # fmt: skip
    assert plain == {"cuda": "note", "rdma": "note", "sim": "note"}


def test_a_build_without_verbs_headers_says_what_to_install() -> None:
    catalog = Catalog((Transport("rdma", available=False, reason="no plugin"), Transport("tcp")))
    fixes = [f.fix for f in found(HGX, catalog=catalog) if f.subject == "plugin"]
    assert len(fixes) == 1
    assert "apt-get install libibverbs-dev" in fixes[0][0]
    broken = replace(catalog.transports[0], library="/lib/libtent_plugin_rdma.so")
    others = [f.fix for f in found(HGX, catalog=Catalog((broken,))) if f.subject == broken.library]
    assert len(others) == 1
    assert "libibverbs-dev" not in others[0][0]


def test_findings_are_ordered_and_the_same_every_time() -> None:
    topology = with_limits(one_subnet(with_pci(HGX, NIC, link_width=4)), memlock_bytes=1 << 16)
    findings = found(topology)
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities, key=["problem", "advice", "note"].index)
    assert findings == found(topology)


def test_any_machine_can_be_examined() -> None:
    port = RdmaPort(1, state="")
    broken = Topology(
        gpus=(Gpu(0, "nowhere"),),
        rdma=(RdmaDevice("\x1b[2J", ports=(port, RdmaPort(1, state="ACTIVE"))), RdmaDevice("x")),
        nets=(NetDevice("b", "bond", lower=("b",), up=True, addresses=(Address("x", 99),)),),
        nodes=TWO_NODES,
        pci=(device("a", "b", class_code=0x020700, vendor=0x15B3), device("b", "a")),
    )
    text = render(found(broken))
    assert "\x1b" not in text
    assert render(found(Topology()))


def test_report_counts_and_never_breaks_commands() -> None:
    findings = found(*FIRES["one subnet"][:2])
    from tent.topology.render.text import Style

    text = render(findings, style=Style(width=60))
    assert "1 piece of advice" in text
    assert FIRES["one subnet"][4] in text
    assert '"severity": "advice"' in to_json(findings)
    assert render(()) == "nothing found\n"


def test_virtual_functions_that_wait_for_their_machines_are_no_findings() -> None:
    machine = Machine()
    card = machine.nic("0000:3b:00.0", netdev="eth0", rdma="mlx5_0", addresses=[("10.0.0.1", 24)])
    for at, up in ((1, True), (2, False)):
        address = f"0000:3b:01.{at}"
        machine.nic(address, netdev=f"eth0v{at}", rdma=f"mlx5_{at}", up=up, gts=None)
        folder = f"{SYS}/pci0000:3b"
        machine.link(f"{folder}/{address}/physfn", f"{folder}/{card}")
    subjects = {finding.subject for finding in found(discover(machine.done().tree()))}
    assert not {name for name in subjects if "v1" in name or "v2" in name}
    assert not {name for name in subjects if name.startswith(("mlx5_1", "mlx5_2"))}


def test_a_card_whose_bond_has_the_rdma_device_misses_none() -> None:
    """RoCE LAG: two functions, one RDMA device, at the first."""
    machine = Machine()
    for at in (0, 1):
        machine.nic(f"0000:11:00.{at}", netdev=f"ens1f{at}", gbps=100)
    machine.bond("bond0", ["ens1f0", "ens1f1"], speed=200000, addresses=[("10.0.0.5", 24)])
    machine.rdma(
        "mlx5_bond_0",
        folder=f"{SYS}/pci0000:11/0000:11:00.0/infiniband/mlx5_bond_0",
        gids=gids_of([("10.0.0.5", 24)], number=1),
        netdev="bond0",
    )
    topology = discover(machine.done().tree())
    assert not [finding for finding in found(topology) if "no RDMA device" in finding.what]


def test_an_address_is_asked_for_where_it_belongs() -> None:
    """Hyper-V: the synthetic device speaks for the virtual function under it."""
    machine = Machine()
    machine.nic("7870:00:02.0", netdev="enP30832s1", rdma="mlx5_0", gbps=50)
    bus = f"{SYS}/LNXSYSTM:00/LNXSYBUS:00/VMBUS:00/000d3a11-1111-1111-1111-000d3a111111"
    machine.net("eth0", folder=f"{bus}/net/eth0", device=bus, speed=50000, lower=["enP30832s1"])
    fixes = [fix for finding in found(discover(machine.done().tree())) for fix in finding.fix]
    asked = {fix.split()[-1] for fix in fixes if fix.startswith("ip address add")}
    assert asked == {"eth0"}
