"""Discovery finds what a machine is made of: nodes, PCI tree, GPUs, NICs, drives, limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests_machines import GIB, SYS, Machine, cloud_vm, dual_socket, grid, hgx, laptop, machine_tree

from tent.topology.discover import discover
from tent.topology.model import (
    NICS_MAX,
    Address,
    HugePages,
    NetDevice,
    NvLink,
    PciDevice,
    RdmaDevice,
    Topology,
)
from tent.topology.tree import MapTree


def net(machine: Topology, name: str) -> NetDevice:
    return next(found for found in machine.nets if found.name == name)


def rdma(machine: Topology, name: str) -> RdmaDevice:
    return next(found for found in machine.rdma if found.name == name)


def pci(machine: Topology, address: str) -> PciDevice:
    return next(found for found in machine.pci if found.address == address)


def found(machine: Machine) -> Topology:
    return discover(machine.done().tree())


def test_hgx_has_all_its_parts_and_nothing_to_remark() -> None:
    machine = discover(hgx().tree())
    assert machine.warnings == ()
    counts = (machine.nodes, machine.gpus, machine.rdma, machine.disks, machine.mounts)
    assert [len(part) for part in counts] == [2, 8, 10, 8, 2]
    assert [gpu.numa for gpu in machine.gpus] == [0] * 4 + [1] * 4
    assert machine.host.product == "DGX H100"
    assert machine.host.cpu_count == 16
    assert machine.host.memory_bytes == 2048 * GIB
    assert machine.limits.modules[:4] == ("ib_uverbs", "mlx5_core", "mlx5_ib", "nvidia")


def test_a_gpu_and_its_nic_stand_below_one_switch() -> None:
    machine = discover(hgx().tree())
    gpu, nic = machine.gpus[0], rdma(machine, "mlx5_0")
    assert gpu.pci == "0000:03:00.0" and nic.pci == "0000:05:00.0"
    above = [pci(machine, address).parent for address in (gpu.pci, nic.pci)]
    assert above == ["0000:02:00.0", "0000:02:02.0"]
    assert {pci(machine, port or "").parent for port in above} == {"0000:01:00.0"}
    upstream = pci(machine, "0000:01:00.0")
    assert upstream.parent == "0000:00:01.0" and upstream.is_bridge
    assert pci(machine, "0000:00:01.0").parent is None
    assert {device.root for device in machine.pci if device.numa == 0} == {
        "pci0000:00", "pci0000:1e", "pci0000:20", "pci0000:60",
    }  # fmt: skip


def test_gpus_have_what_nvml_tells() -> None:
    gpu = discover(hgx().tree()).gpus[3]
    assert gpu.name == "NVIDIA H100 80GB HBM3"
    assert gpu.memory_bytes == 80 * GIB
    assert gpu.driver == "550.54.15"
    assert gpu.nvlinks == (NvLink(None, 18, pytest.approx(3824.928)),)
    assert gpu.peer_memory is True


def test_nvlinks_name_their_peer_by_its_index() -> None:
    machine = Machine()
    pair = ["0000:01:00.0", "0000:02:00.0"]
    for own, other in (pair, pair[::-1]):
        machine.gpu(own, nvlinks=[{"peer": other, "links": 4, "gbps": 800.0}])
    stranger = {"peer": "0009:01:00.0", "links": 2, "gbps": None}
    machine.gpu_answers[0]["nvlinks"].append(stranger)
    first, second = found(machine).gpus
    assert first.nvlinks == (NvLink(1, 4, 800.0),)
    assert second.nvlinks == (NvLink(0, 4, 800.0),)


def test_gpus_without_nvml_are_numbered_by_address_with_a_remark() -> None:
    machine = Machine(sockets=2)
    machine.gpu("0000:81:00.0", numa=1)
    machine.gpu("0000:01:00.0", numa=0)
    machine.nvml = False
    topology = found(machine)
    assert [(gpu.index, gpu.pci, gpu.numa) for gpu in topology.gpus] == [
        (0, "0000:01:00.0", 0),
        (1, "0000:81:00.0", 1),
    ]
    assert topology.gpus[0].driver == "550.54.15"
    assert topology.gpus[0].memory_bytes is None
    assert any("NVLink" in remark.what for remark in topology.warnings)


def test_a_gpu_of_another_driver_or_maker_is_no_cuda_gpu() -> None:
    machine = Machine()
    machine.nvml = False
    machine.gpu("0000:01:00.0", driver="vfio-pci")
    machine.pci("0000:02:00.0", class_code=0x030200, vendor=0x1002, driver="amdgpu")
    topology = found(machine)
    assert topology.gpus == ()
    assert [remark.where for remark in topology.warnings] == ["0000:01:00.0"]


def test_a_gpu_that_nvml_hides_is_remarked_on() -> None:
    machine = hgx()
    del machine.gpu_answers[-1]
    topology = found(machine)
    assert len(topology.gpus) == 7
    assert [remark.where for remark in topology.warnings] == ["0000:a4:00.0"]


@pytest.mark.parametrize(
    ("driver", "kernel", "expected"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15", "6.8.0", True),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15", "5.4.0", False),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05", "6.8.0", False),
        (None, "6.8.0", None),
    ],
)
def test_peer_memory_without_a_module_needs_dma_buf(
    driver: str | None, kernel: str, expected: bool | None
) -> None:
    machine = Machine(kernel=kernel)
    machine.gpu("0000:01:00.0")
    if driver is not None:
        machine.put("/proc/driver/nvidia/version", driver)
    assert found(machine).gpus[0].peer_memory is expected


def test_links_have_speed_and_width_as_trained_and_as_possible() -> None:
    machine = Machine()
    machine.pci("0000:01:00.0", class_code=0x020000, gts=8.0, width=8, gts_max=16.0)
    machine.pci("0000:02:00.0", class_code=0x020000, gts=5.0)
    machine.put(f"{SYS}/pci0000:02/0000:02:00.0/current_link_speed", "Unknown")
    machine.put(f"{SYS}/pci0000:02/0000:02:00.0/max_link_width", 255)
    topology = found(machine)
    first, second = topology.pci
    assert (first.link_gts, first.link_width, first.link_gts_max) == (8.0, 8, 16.0)
    assert first.gbps == pytest.approx(63.0, abs=0.1)
    assert (second.link_gts, second.link_gts_max, second.link_width_max) == (None, 5.0, None)
    assert topology.warnings == ()


def test_infiniband_port_has_its_netdev_by_function_and_no_roce_version() -> None:
    device = rdma(discover(hgx().tree()), "mlx5_0")
    (port,) = device.ports
    assert (port.state, port.physical_state, port.link_layer) == ("ACTIVE", "LinkUp", "InfiniBand")
    assert (port.gbps, port.lid, port.netdev, port.up) == (400.0, 1, "ib0", True)
    assert [(gid.index, gid.kind) for gid in port.gids] == [(0, "IB")]
    assert (device.firmware, device.board, device.virtual) == ("28.39.1002", "MT_0000000838", False)


def test_roce_port_has_gids_with_their_version_and_netdev() -> None:
    machine = discover(cloud_vm().tree())
    (port,) = rdma(machine, "rdmap5s0").ports
    assert [(gid.index, gid.kind, gid.netdev) for gid in port.gids] == [
        (0, "RoCE v1", "ens5"),
        (1, "RoCE v2", "ens5"),
        (2, "RoCE v1", "ens5"),
        (3, "RoCE v2", "ens5"),
    ]
    assert port.gids[3].gid.endswith("ffff:0a00:0105")
    assert port.netdev == "ens5"
    assert net(machine, "ens5").rdma == ("rdmap5s0",)


def test_a_port_that_is_down_has_no_speed() -> None:
    machine = Machine()
    machine.nic("0000:01:00.0", netdev="eth0", rdma="mlx5_0", up=False)
    topology = found(machine)
    (port,) = topology.rdma[0].ports
    assert (port.state, port.up, port.gbps) == ("DOWN", False, None)
    assert (net(topology, "eth0").up, net(topology, "eth0").carrier) == (False, None)
    assert net(topology, "eth0").gbps is None
    assert topology.warnings == ()


def test_software_rdma_is_virtual_and_named_by_its_carrier() -> None:
    machine = Machine()
    machine.virtio_net("eth0", "0000:00:03.0", addresses=[("10.0.0.2", 24)])
    gid = ("0000:0000:0000:0000:0000:ffff:0a00:0002", "RoCE v2")
    machine.rdma("rxe0", gids=[gid], netdev="eth0", gbps=10)
    topology = found(machine)
    device = rdma(topology, "rxe0")
    assert (device.virtual, device.pci, device.numa) == (True, None, None)
    assert (device.ports[0].gbps, device.ports[0].netdev) == (None, "eth0")
    assert net(topology, "eth0").rdma == ("rxe0",)


def test_virtio_nic_is_a_device_of_the_pci_function_around_it() -> None:
    machine = Machine()
    machine.virtio_net("eth0", "0000:00:03.0", addresses=[("10.0.0.2", 24), ("fd00::2", 64)])
    device = net(found(machine), "eth0")
    assert (device.kind, device.virtual, device.pci) == ("ethernet", False, "0000:00:03.0")
    assert (device.driver, device.gbps, device.numa) == ("virtio_net", None, 0)
    assert device.addresses == (Address("10.0.0.2", 24), Address("fd00::2", 64))


def nest() -> Machine:
    machine = Machine(sockets=2)
    machine.nic("0000:01:00.0", netdev="eth0", numa=0, gbps=100)
    machine.nic("0000:02:00.0", netdev="eth1", numa=0, gbps=100)
    machine.nic("0000:81:00.0", netdev="eth2", numa=1, gbps=100)
    machine.bond("bond0", ["eth0", "eth1"], speed=200000)
    machine.net("bond0.7", devtype="vlan", lower=["bond0"], speed=200000)
    machine.bond("bond1", ["eth1", "eth2"], speed=200000)
    machine.veth("veth0")
    machine.bond("bond2", ["veth0"], speed=10000)
    machine.net("mv0", lower=["eth0"], iflink=1, speed=100000)
    machine.net("br0", devtype="bridge", lower=["eth2"], speed=100000)
    machine.net("vx0", devtype="vxlan", speed=10)
    machine.net("dummy0", speed=10)
    machine.net("tun0", sort=65534)
    machine.net("tap0")
    machine.put(f"{SYS}/virtual/net/tap0/tun_flags", "0x1002")
    machine.net("wg0", sort=65534, devtype="wireguard")
    machine.net("ifb0")
    return machine


def test_kinds_of_network_devices_are_told_apart() -> None:
    kinds = {device.name: device.kind for device in found(nest()).nets}
    assert kinds == {
        "bond0": "bond", "bond0.7": "vlan", "bond1": "bond", "bond2": "bond", "br0": "bridge",
        "dummy0": "dummy", "eth0": "ethernet", "eth1": "ethernet", "eth2": "ethernet",
        "ifb0": "virtual", "lo": "loopback", "mv0": "macvlan", "tap0": "tun", "tun0": "tun",
        "veth0": "veth", "vx0": "vxlan", "wg0": "tun",
    }  # fmt: skip


def test_stacked_devices_have_the_node_and_the_true_speed_of_those_below() -> None:
    topology = found(nest())
    inherited = {device.name: (device.numa, device.gbps) for device in topology.nets}
    assert inherited["bond0"] == (0, 200.0)
    assert inherited["bond0.7"] == (0, 200.0)
    assert inherited["bond1"] == (None, 200.0)
    assert inherited["mv0"] == (0, 100.0)
    # Its driver invents 10 Gbit/s for any veth.
    assert inherited["veth0"] == (None, None)
    assert inherited["bond2"] == (None, None)
    assert inherited["br0"] == (1, None)
    assert net(topology, "bond0").lower == ("eth0", "eth1")


def test_a_representor_is_no_nic() -> None:
    machine = Machine()
    machine.nic("0000:01:00.0", netdev="eth0")
    folder = f"{SYS}/pci0000:01/0000:01:00.0/net"
    for name, port in (("eth0", "p0"), ("eth0_0", "pf0vf0")):
        if name != "eth0":
            machine.net(name, folder=f"{folder}/{name}")
        machine.put(f"{folder}/{name}/phys_port_name", port)
    kinds = {device.name: device.kind for device in found(machine).nets}
    assert kinds == {"eth0": "ethernet", "eth0_0": "virtual", "lo": "loopback"}


def test_a_virtual_function_names_its_physical_one() -> None:
    machine = Machine()
    card = machine.nic("0000:3b:00.0", netdev="eth0", rdma="mlx5_0")
    virtual = machine.nic("0000:3b:01.2", netdev="eth0v2", rdma="mlx5_1")
    folder = f"{SYS}/pci0000:3b"
    machine.link(f"{folder}/{virtual}/physfn", f"{folder}/{card}")
    found = {pci.address: pci.function_of for pci in discover(machine.done().tree()).pci}
    assert found == {card: None, virtual: card}


def test_laptop_is_read_with_a_remark_on_its_display_gpu() -> None:
    topology = discover(laptop().tree())
    assert topology.gpus == ()
    assert [remark.what.split(":")[0] for remark in topology.warnings] == ["a GPU bound to nouveau"]
    assert net(topology, "wlp0s20f3").kind == "ethernet"
    assert net(topology, "enxa8b9c0d1e2f3").pci == "0000:00:14.0"
    assert net(topology, "docker0").kind == "bridge"
    assert topology.mounts[0].disk == "nvme0n1"


@pytest.mark.parametrize("sockets", [1, 2])
def test_numa_of_devices_that_do_not_tell_is_that_of_the_only_node(sockets: int) -> None:
    topology = discover(grid(sockets=sockets, numa_known=False).tree())
    expected = {0} if sockets == 1 else {None}
    assert {device.numa for device in topology.pci} == expected
    assert {gpu.numa for gpu in topology.gpus} == expected


def test_numa_is_inherited_from_the_nearest_bridge_that_knows() -> None:
    machine = Machine(sockets=2)
    port = machine.bridge("0000:80:01.0", numa=1)
    inner = machine.bridge("0000:81:00.0", below=port)
    machine.nic("0000:82:00.0", rdma="mlx5_0", below=inner)
    topology = found(machine)
    assert {device.numa for device in topology.pci} == {1}
    assert topology.rdma[0].numa == 1


def test_numa_is_that_of_the_host_bridges_bus_else_of_the_nearby_cpus() -> None:
    machine = Machine(sockets=2)
    for bus in ("80", "90", "a0"):
        machine.pci(f"0000:{bus}:00.0", class_code=0x020000)
    affinity = f"{SYS}/pci0000:80/pci_bus/0000:80/cpulistaffinity"
    machine.put(affinity, machine.cpulist(1))
    machine.put(f"{SYS}/pci0000:90/0000:90:00.0/local_cpulist", machine.cpulist(0))
    topology = found(machine)
    assert [device.numa for device in topology.pci] == [1, 0, None]


def test_a_machine_without_numa_has_one_node_of_all_cpus() -> None:
    (node,) = discover(Machine(sockets=2, numa=False).done().tree()).nodes
    assert (node.index, node.cpus, node.memory_bytes) == (0, tuple(range(8)), 64 * GIB)


def test_nodes_have_package_memory_and_distances() -> None:
    nodes = discover(Machine(sockets=2, nodes_per_socket=2).done().tree()).nodes
    assert [node.package for node in nodes] == [0, 0, 1, 1]
    assert [node.memory_bytes for node in nodes] == [16 * GIB] * 4
    assert nodes[1].distances == (12, 10, 21, 21)


def test_devices_behind_vmd_stand_below_it() -> None:
    machine = Machine()
    machine.pci("0000:00:0e.0", class_code=0x010400, driver="vmd")
    folder = f"{SYS}/pci0000:00/0000:00:0e.0/pci10000:00/10000:00:02.0/10000:01:00.0"
    for address, path in (("10000:00:02.0", folder.rpartition("/")[0]), ("10000:01:00.0", folder)):
        machine.link(f"/sys/bus/pci/devices/{address}", path)
        machine.put(f"{path}/uevent", "PCI_CLASS=10802\nPCI_ID=8086:0A54")
    topology = found(machine)
    drive, port = pci(topology, "10000:01:00.0"), pci(topology, "10000:00:02.0")
    assert (drive.parent, port.parent) == ("10000:00:02.0", "0000:00:0e.0")
    assert drive.root == "pci0000:00"


def test_drives_are_whole_and_have_their_model_but_no_serial() -> None:
    machine = Machine()
    machine.nvme(0, "0000:01:00.0")
    machine.disk("sda", f"{SYS}/pci0000:00/0000:00:17.0/ata1/block/sda", sectors=8, rotational=1)
    machine.disk("loop0", f"{SYS}/virtual/block/loop0", sectors=8)
    machine.disk("mmcblk0", f"{SYS}/platform/mmc/block/mmcblk0", sectors=0)
    topology = found(machine)
    assert [(disk.name, disk.pci, disk.rotational) for disk in topology.disks] == [
        ("nvme0n1", "0000:01:00.0", False),
        ("sda", "0000:00:17.0", True),
    ]
    assert topology.disks[0].model == "SAMSUNG MZQL23T8HCLS-00A07"
    assert topology.disks[0].bytes == 3576 * GIB


def test_a_multipath_drive_has_the_function_of_its_controller() -> None:
    machine = Machine()
    machine.pci("0000:01:00.0", class_code=0x010802)
    subsystem = f"{SYS}/virtual/nvme-subsystem/nvme-subsys0"
    machine.disk("nvme0n1", f"{subsystem}/nvme0n1", sectors=8)
    machine.put(f"{SYS}/pci0000:01/0000:01:00.0/nvme/nvme0/model", "Drive")
    machine.link(f"{subsystem}/nvme0", f"{SYS}/pci0000:01/0000:01:00.0/nvme/nvme0")
    assert found(machine).disks[0].pci == "0000:01:00.0"


def mapped() -> Machine:
    """/data on LVM on LUKS on a partition; /fast on a RAID of two drives at one node."""
    machine = Machine(sockets=2)
    for number in range(2):
        machine.nvme(number, f"0000:8{number + 1}:00.0", numa=1)
    for name, below in (
        ("dm-0", ["nvme0n1p1"]),
        ("dm-1", ["dm-0"]),
        ("md0", ["nvme0n1", "nvme1n1"]),
    ):
        folder = f"{SYS}/virtual/block/{name}"
        machine.disk(name, folder, sectors=1 << 20)
        for slave in below:
            machine.link(f"{folder}/slaves/{slave}", f"/sys/class/block/{slave}")
    machine.mount("/data", device="dm-1")
    machine.mount("/fast", device="md0", kind="xfs")
    return machine


def test_a_mount_names_the_drive_below_its_mappings() -> None:
    topology = found(mapped())
    assert {mount.path: mount.disk for mount in topology.mounts} == {
        "/data": "nvme0n1",
        "/fast": "md0",
    }
    assert {disk.name: disk.numa for disk in topology.disks} == {
        "md0": 1, "nvme0n1": 1, "nvme1n1": 1,
    }  # fmt: skip


def test_mounts_are_those_that_hold_data() -> None:
    machine = Machine()
    machine.nvme(0, "0000:01:00.0")
    machine.mount("/", device="nvme0n1p1")
    machine.mount("/my data", kind="nfs4", device="filer:/export", options="ro,vers=4.2")
    machine.mount("/proc", kind="proc")
    machine.mount("/run/user/0", kind="tmpfs")
    machine.mount("/etc/hosts", device="nvme0n1p1")
    machine.mount("/dev/shm", kind="tmpfs")
    machine.mount("/mnt", kind="fuse.juicefs", device="jfs:vol")
    machine.mount("/mnt", kind="xfs", device="nvme0n1p1")
    machine.answer("limits", file_systems={"/": [1000, 10]})
    mounts = {mount.path: mount for mount in found(machine).mounts}
    assert sorted(mounts) == ["/", "/dev/shm", "/mnt", "/my data"]
    assert (mounts["/"].bytes, mounts["/"].free_bytes) == (1000, 10)
    assert mounts["/mnt"].kind == "xfs"
    assert mounts["/my data"].read_only and not mounts["/"].read_only
    assert mounts["/my data"].bytes is None


def test_memory_lock_limit_is_the_soft_one_unless_the_process_may_lock_all() -> None:
    machine = Machine()
    machine.limits(memlock=8 << 20, open_files=2048)
    limits = found(machine).limits
    assert (limits.memlock_known, limits.memlock_bytes, limits.open_files) == (True, 8 << 20, 2048)
    machine.status(cpus="0-1,3", capabilities=1 << 14)
    limits = found(machine).limits
    assert (limits.memlock_known, limits.memlock_bytes, limits.cpus) == (True, None, (0, 1, 3))
    # A rootless container: root inside its own user name space only.
    machine.put("/proc/self/uid_map", "         0     100000      65536")
    assert found(machine).limits.memlock_bytes == 8 << 20


def test_the_narrowest_cgroup_limit_counts() -> None:
    machine = Machine()
    machine.put("/proc/self/cgroup", "0::/a/b/c")
    machine.put("/sys/fs/cgroup/a/memory.max", 4 << 30)
    machine.put("/sys/fs/cgroup/a/b/memory.max", 8 << 30)
    machine.put("/sys/fs/cgroup/a/b/c/memory.max", "max")
    machine.put("/sys/fs/cgroup/a/cpu.max", "400000 100000")
    machine.put("/sys/fs/cgroup/a/b/cpu.max", "150000 100000")
    limits = found(machine).limits
    assert (limits.cgroup_memory_bytes, limits.cgroup_cpus) == (4 << 30, 1.5)


def test_cgroups_of_version_1_are_read_and_no_limit_is_none() -> None:
    machine = Machine()
    machine.put("/proc/self/cgroup", "5:memory:/job\n4:cpu,cpuacct:/job\n0::/")
    machine.put("/sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    machine.put("/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", 50000)
    machine.put("/sys/fs/cgroup/cpu/job/cpu.cfs_period_us", 100000)
    machine.put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1)
    limits = found(machine).limits
    assert (limits.cgroup_memory_bytes, limits.cgroup_cpus) == (None, 0.5)
    machine.put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", 1 << 30)
    assert found(machine).limits.cgroup_memory_bytes == 1 << 30


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("/.dockerenv", "", "docker"),
        ("/run/.containerenv", "", "podman"),
        ("/run/systemd/container", "lxc", "lxc"),
        ("/run/secrets/kubernetes.io/serviceaccount/token", "x", "kubernetes"),
        ("/proc/self/cgroup", "0::/kubepods.slice/kubepods-pod1.slice", "kubernetes"),
        ("/proc/1/cgroup", "0::/system.slice/docker-0123456789abcdef.scope", "docker"),
        ("/nothing", "", None),
    ],
)
def test_containers_are_recognised(path: str, text: str, expected: str | None) -> None:
    machine = Machine()
    machine.put(path, text)
    assert found(machine).limits.container == expected


def test_huge_pages_are_counted_by_machine_and_node() -> None:
    machine = Machine()
    for folder in ("/sys/kernel/mm/hugepages", f"{SYS}/system/node/node0/hugepages"):
        machine.put(f"{folder}/hugepages-2048kB/nr_hugepages", 512)
        machine.put(f"{folder}/hugepages-2048kB/free_hugepages", 500)
    assert found(machine).limits.huge_pages == (
        HugePages(2 << 20, total=512, free=500),
        HugePages(1 << 30, total=0, free=0),
        HugePages(2 << 20, total=512, free=500, node=0),
    )


def test_arm_cpus_have_a_name() -> None:
    machine = Machine()
    machine.put("/proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f")
    machine.put("/sys/firmware/devicetree/base/model", b"Example Board\0")
    del machine.files["/sys/class/dmi/id/product_name"]
    host = found(machine).host
    assert (host.cpu_model, host.product) == ("Neoverse V2", "Example Board")


@pytest.mark.parametrize("count", [0, 4096])
def test_no_nic_and_very_many_are_both_fine(count: int) -> None:
    machine = Machine()
    for number in range(count):
        machine.net(f"eth{number}", folder=f"{SYS}/pci0000:00/0000:00:01.0/net/eth{number}")
    del machine.links["/sys/class/net/lo"]
    topology = found(machine)
    assert len(topology.nets) == count
    assert topology.warnings == ()


def test_nics_beyond_the_most_are_left_out_with_a_remark() -> None:
    machine = Machine()
    for number in range(NICS_MAX + 1):
        machine.net(f"eth{number}")
    topology = found(machine)
    assert len(topology.nets) == NICS_MAX
    assert [remark.where for remark in topology.warnings] == ["/sys/class/net"]


def test_a_folder_and_its_memory_tell_the_same(tmp_path: Path) -> None:
    shape = {"switches": 1, "drives": 1}
    written = discover(machine_tree(tmp_path, **shape))
    assert written.facts() == discover(grid(**shape).tree()).facts()
    assert written.source == str(tmp_path)


def test_equal_machines_are_equal() -> None:
    assert discover(dual_socket().tree()).facts() == discover(dual_socket().tree()).facts()


def test_a_tree_that_is_no_machine_is_remarked_on() -> None:
    topology = discover(MapTree({"/README": b"hello"}))
    assert topology.nodes == () and topology.nets == ()
    assert "neither /sys nor /proc" in topology.warnings[0].what


def test_reading_a_record_asks_nobody(tmp_path: Path) -> None:
    hgx().write(tmp_path)
    code = (
        "import sys; import tent.topology.discover as d; before = set(sys.modules);"
        f"d.discover({str(tmp_path)!r}); news = set(sys.modules) - before;"
        "print(sorted(n for n in news if n.split('.')[0] in ('psutil', 'pynvml', 'pyverbs')))"
    )
    # Elsewhere than in the source, which would hide the installed package.
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(("kind", "iwarp"), [("4: RNIC", True), ("1: CA", False), ("", False)])
def test_iwarp_is_told_apart_by_the_kind_of_node(kind: str, iwarp: bool) -> None:
    machine = Machine()
    machine.rdma("rdmap0")
    machine.put(f"{SYS}/virtual/infiniband/rdmap0/node_type", kind)
    (device,) = discover(machine.done().tree()).rdma
    assert device.iwarp == iwarp
