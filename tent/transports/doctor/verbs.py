"""Checks of what RDMA needs before a port counts: library, providers, device files, drivers.

And of what can be seen of devices: other network namespaces, software devices.
"""

from __future__ import annotations

from collections.abc import Iterator

from tent.transports.doctor.finding import Case, Finding, in_container, listed

_DRIVERS = {0x15B3: "mlx5_ib", 0x14E4: "bnxt_re", 0x8086: "irdma", 0x1D0F: "efa", 0x1077: "qedr"}
"""Vendor -> kernel module that makes RDMA devices of its NICs."""
_MLX4 = range(0x1000, 0x1010)
"""Device numbers of ConnectX-2 and -3, which have a driver of their own."""
_MAKE_FILES = (
    "udevadm trigger --subsystem-match=infiniband_verbs",
    "without udev: mknod -m 666 /dev/infiniband/uverbsN c MAJOR MINOR, with the numbers of "
    "/sys/class/infiniband_verbs/uverbsN/dev",
)


def library(case: Case) -> Iterator[Finding]:
    """Verbs are called through libibverbs."""
    if case.surroundings.libibverbs is False and case.topology.rdma:
        yield Finding(
            "problem",
            "rdma",
            "libibverbs",
            "libibverbs.so.1 is not installed",
            f"{_names(case)} cannot be used",
            (
                "apt-get install libibverbs1 ibverbs-providers   # Debian, Ubuntu",
                "dnf install libibverbs   # Fedora, RHEL and their kin",
            ),
        )


def providers(case: Case) -> Iterator[Finding]:
    """Behind libibverbs stands one library for each driver, which packages part from it."""
    known = case.surroundings.verbs_devices
    if known is None or not case.surroundings.uverbs:
        return
    strange = [rdma.name for rdma in case.topology.rdma if rdma.name not in known]
    if strange:
        yield Finding(
            "problem",
            "rdma",
            listed(strange),
            "the kernel has them, libibverbs does not: the library of their driver is missing "
            "(libibverbs/lib*-rdmav*.so)",
            "they cannot be opened",
            (
                "apt-get install ibverbs-providers   # Debian, Ubuntu",
                "dnf install libibverbs rdma-core   # Fedora, RHEL and their kin",
                "or the library of the adapter's own driver package (MLNX_OFED and the like)",
            ),
        )


def device_files(case: Case) -> Iterator[Finding]:
    """Programs reach RDMA devices through /dev/infiniband/uverbs*."""
    if not case.topology.rdma:
        return
    files = case.surroundings.uverbs
    modules = case.topology.limits.modules
    if files or (files is None and (not modules or "ib_uverbs" in modules)):
        return
    yield Finding(
        "problem" if files is False else "advice",
        "rdma",
        "/dev/infiniband",
        "there are no device files /dev/infiniband/uverbs*"
        if files is False
        else "the kernel module ib_uverbs is not among the loaded ones",
        ("" if files is False else "unless it is built into the kernel, ")
        + f"{_names(case)} cannot be opened",
        in_container(
            case,
            run="--device=/dev/infiniband",
            pod="ask for the RDMA resource of the node's device plugin in resources.limits",
        )
        or (_MAKE_FILES if files is False and "ib_uverbs" in modules else ("modprobe ib_uverbs",)),
    )


def denied(case: Case) -> Iterator[Finding]:
    """The files are meant for all users: the kernel keeps users of verbs apart by itself."""
    if case.surroundings.uverbs_denied:
        yield Finding(
            "problem",
            "rdma",
            "/dev/infiniband",
            "this user may not read and write /dev/infiniband/uverbs*",
            f"{_names(case) or 'RDMA devices'} cannot be opened",
            in_container(
                case,
                run="--device=/dev/infiniband",
                pod="ask for the RDMA resource of the node's device plugin in resources.limits",
            )
            or (
                "chmod a+rw /dev/infiniband/uverbs*   # until the next boot",
                "apt-get install rdma-core   # to keep it: its udev rules say so",
            ),
        )


def drivers(case: Case) -> Iterator[Finding]:
    """A card that the PCI tree shows and verbs do not."""
    cards = {rdma.pci for rdma in case.topology.rdma} | _bonded(case)
    for device in case.topology.pci:
        if device.address in cards or device.function_of is not None:
            continue
        if device.class_code is None or device.vendor is None:
            continue
        infiniband = device.class_code >> 8 == 0x0207
        mellanox = device.class_code >> 8 == 0x0200 and device.driver == "mlx5_core"
        module = _DRIVERS.get(device.vendor)
        if not (infiniband or mellanox) or module is None or device.driver == "vfio-pci":
            continue
        if device.vendor == 0x15B3 and device.device in _MLX4:
            module = "mlx4_ib"
        yield Finding(
            "problem" if infiniband else "advice",
            "rdma",
            device.address,
            "this adapter has no RDMA device",
            "its RDMA is not used",
            # A container may lack what its host has.
            in_container(
                case,
                run="--network=host --device=/dev/infiniband",
                pod="ask for the RDMA resource of the node's device plugin in resources.limits",
            )
            or (f"modprobe {module}",),
        )


def namespaces(case: Case) -> Iterator[Finding]:
    """A port speaks from the addresses of its network device, wherever that is."""
    away = [
        f"{rdma.name} ({port.netdev})"
        for rdma in case.topology.rdma
        for port in rdma.ports
        if case.topology.nets and port.netdev and port.netdev not in case.nets
    ]
    if not away:
        return
    yield Finding(
        "advice",
        "rdma",
        listed(away, 4),
        "the network devices of these are not in this network namespace",
        "their state, MTU and addresses are not seen from here, and a link that goes down is "
        "noticed by what is lost",
        in_container(
            case,
            run="--network=host",
            pod="set hostNetwork: true in the pod's spec, or attach the device (SR-IOV, Multus)",
        )
        or ("nsenter -t PID --net   # of a process in the namespace that has them",),
    )


def hidden(case: Case) -> Iterator[Finding]:
    """`rdma system set netns exclusive`: a device is seen in one network namespace only."""
    around = case.surroundings
    if case.topology.rdma or not around.uverbs or not around.live:
        return
    yield Finding(
        "problem",
        "rdma",
        "devices",
        "there are device files /dev/infiniband/uverbs*, but no RDMA device can be seen",
        "each belongs to another network namespace: rdma is not used",
        in_container(
            case,
            run="--network=host",
            pod="set hostNetwork: true in the pod's spec, or attach the device (SR-IOV, Multus)",
        )
        or (
            "rdma system set netns shared   # in the first namespace, before others are made",
            "rdma dev set DEVICE netns NAME   # from where `rdma dev` shows it; its network "
            "device has to go there as well",
        ),
    )


def software(case: Case) -> Iterator[Finding]:
    """rxe and siw: RDMA by the kernel, over any network device."""
    names = [rdma.name for rdma in case.topology.rdma if rdma.virtual]
    if not names:
        return
    globs = ", ".join(f'"rdma:{name}"' for name in names)
    yield Finding(
        "note",
        "rdma",
        listed(names),
        "RDMA in software (rxe, siw)",
        "it is for tests: processors do all the work, and tcp over the same network device is "
        "usually faster",
        (f"in the policy: rails: {{exclude: [{globs}]}}   # where it shall not carry data",),
    )


CHECKS = (
    library,
    providers,
    device_files,
    denied,
    drivers,
    namespaces,
    hidden,
    software,
)


def _names(case: Case) -> str:
    return listed(rdma.name for rdma in case.topology.rdma)


def _bonded(case: Case) -> set[str | None]:
    """Functions whose port the RDMA device of a bond speaks for (RoCE LAG): theirs is gone."""
    bonds = [net for net in case.topology.nets if net.kind == "bond" and net.rdma]
    return {below.pci for bond in bonds for name in bond.lower if (below := case.nets.get(name))}
