"""What the doctor needs to know beyond the topology: environment, privileges, a few settings.

Leans on the topology's model. `look` is the only part of the doctor that touches the machine, and
only the one it runs on; for a recorded machine everything here is unknown (None, empty), and
checks that need it find nothing.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tent.topology.model import Topology

_CAPABILITIES = {"CAP_IPC_LOCK": 14, "CAP_SYS_PTRACE": 19}
_FIRST_NAMESPACES = {"ipc": 0xEFFFFFFF, "pid": 0xEFFFFFFC, "user": 0xEFFFFFFD}
"""include/linux/proc_ns.h (PROC_IPC_INIT_INO, ...): the same on every machine."""
_LIBIBVERBS = "libibverbs.so.1"
_KEY_BYTES = (16, 4096)
_NETS_MAX = 256
"""Network devices whose settings are read."""


@dataclass(frozen=True)
class Surroundings:
    """Facts about this process and its system; None: not known."""

    variables: Mapping[str, str] = field(default_factory=dict)
    """The environment."""
    capabilities: frozenset[str] | None = None
    """Of CAP_IPC_LOCK and CAP_SYS_PTRACE those held in the first user namespace."""
    uverbs: bool | None = None
    """There are device files of RDMA devices."""
    uverbs_denied: bool = False
    """There are some, and this user may use none of them."""
    gpu_files: bool | None = None
    """There are device files of NVIDIA's driver."""
    libibverbs: bool | None = None
    verbs_devices: frozenset[str] | None = None
    """RDMA devices that libibverbs has a provider for."""
    pynvml: bool | None = None
    numa_balancing: bool | None = None
    sysctls: Mapping[str, int] = field(default_factory=dict)
    """Of network devices: "eth0/rp_filter" -> what counts, the greater of it and of "all"."""
    translated: frozenset[str] = frozenset()
    """PCI addresses whose accesses the IOMMU translates."""
    own_namespaces: frozenset[str] = frozenset()
    """Of "ipc", "pid" and "user" those that are not the machine's first ones."""
    shm_trouble: str = ""
    """Why no socket can be kept in /dev/shm."""
    memfd_trouble: str = ""
    """Why no memory file can be made."""
    shmem_huge_off: str = ""
    """The file whose setting keeps memory files from transparent huge pages of 2 MiB."""
    key_trouble: str = ""
    """What is wrong with the file of TENT_KEY_FILE."""
    live: bool = False
    """This process runs on the machine of the topology."""


def look(
    topology: Topology, *, variables: Mapping[str, str], root: str | Path = "/"
) -> Surroundings:
    """Reads the surroundings of this process."""
    base = Path(root)
    libibverbs = variables.get("TENT_LIBIBVERBS") or _LIBIBVERBS
    addresses = {gpu.pci for gpu in topology.gpus} | {rdma.pci for rdma in topology.rdma}
    return Surroundings(
        variables=dict(variables),
        capabilities=_capabilities(base),
        uverbs=_has_files(base / "dev/infiniband", r"uverbs\d+"),
        uverbs_denied=_denied(base / "dev/infiniband", r"uverbs\d+"),
        gpu_files=_has_files(base / "dev", r"nvidia\d+|dxg"),
        libibverbs=_loads(libibverbs),
        verbs_devices=_verbs_devices(libibverbs),
        pynvml=importlib.util.find_spec("pynvml") is not None,
        numa_balancing=_flag(base / "proc/sys/kernel/numa_balancing"),
        sysctls=_net_settings(base, [net.name for net in topology.nets]),
        translated=frozenset(a for a in addresses if a and _translated(base, a)),
        own_namespaces=_own_namespaces(base),
        shm_trouble=_shm_trouble(base),
        memfd_trouble=_memfd_trouble(),
        shmem_huge_off=_shmem_huge_off(base),
        key_trouble=_key_trouble(variables.get("TENT_KEY_FILE", "")),
        live=True,
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return None


def _flag(path: Path) -> bool | None:
    text = _text(path)
    return int(text) != 0 if text is not None and text.isdecimal() else None


def _has_files(folder: Path, pattern: str) -> bool:
    try:
        return any(re.fullmatch(pattern, entry.name) for entry in folder.iterdir())
    except OSError:
        return False


def _denied(folder: Path, pattern: str) -> bool:
    try:
        files = [entry for entry in folder.iterdir() if re.fullmatch(pattern, entry.name)]
    except OSError:
        return False
    return bool(files) and not any(os.access(file, os.R_OK | os.W_OK) for file in files)


def _verbs_devices(library: str) -> frozenset[str] | None:
    """ibv_get_device_list: devices without a provider's library are not in it."""
    try:
        verbs = ctypes.CDLL(library)
        names, get = verbs.ibv_get_device_name, verbs.ibv_get_device_list
    except (OSError, AttributeError):
        return None
    get.restype = ctypes.POINTER(ctypes.c_void_p)
    names.restype, names.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    count = ctypes.c_int(0)
    devices = get(ctypes.byref(count))
    if not devices:
        return None
    found = {names(devices[index]).decode(errors="replace") for index in range(count.value)}
    verbs.ibv_free_device_list(devices)
    return frozenset(found)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _capabilities(root: Path) -> frozenset[str] | None:
    status = _text(root / "proc/self/status") or ""
    line = next((row for row in status.splitlines() if row.startswith("CapEff:")), "")
    try:
        bits = int(line.partition(":")[2], 16)
    except ValueError:
        return None
    # Inside another user namespace these bits count for nothing that the host guards.
    mapped = (_text(root / "proc/self/uid_map") or "0 0 4294967295").split()
    if mapped != ["0", "0", "4294967295"]:
        return frozenset()
    return frozenset(name for name, bit in _CAPABILITIES.items() if bits >> bit & 1)


def _own_namespaces(root: Path) -> frozenset[str]:
    found = set()
    for name, first in _FIRST_NAMESPACES.items():
        try:
            target = (root / "proc/self/ns" / name).readlink()
        except OSError:
            continue
        number = re.fullmatch(rf"{name}:\[(\d+)\]", str(target))
        if number is not None and int(number[1]) != first:
            found.add(name)
    return frozenset(found)


def _shm_trouble(root: Path) -> str:
    folder = root / "dev/shm"
    if not folder.is_dir():
        return "there is no /dev/shm"
    return "" if os.access(folder, os.W_OK | os.X_OK) else "/dev/shm cannot be written to"


def _memfd_trouble() -> str:
    try:
        os.close(os.memfd_create("tent:doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _shmem_huge_off(root: Path) -> str:
    # Since Linux 6.11 each size has a setting of its own, which may hand on to the common one.
    for name in ("hugepages-2048kB/shmem_enabled", "shmem_enabled"):
        setting = f"/sys/kernel/mm/transparent_hugepage/{name}"
        chosen = re.search(r"\[(\w+)\]", _text(root / setting[1:]) or "")
        if chosen is None or chosen[1] == "inherit":
            continue
        return setting if chosen[1] in ("never", "deny") else ""
    return ""


def _net_settings(root: Path, names: list[str]) -> dict[str, int]:
    found = {}
    base = root / "proc/sys/net/ipv4/conf"
    for setting in ("rp_filter", "arp_ignore", "arp_announce"):
        everywhere = _text(base / "all" / setting)
        for name in names[:_NETS_MAX]:
            if "/" in name or name.startswith("."):
                continue  # no name of a device; the record is foreign
            own = _text(base / name / setting)
            values = [int(v) for v in (everywhere, own) if v is not None and v.isdecimal()]
            if own is not None and values:
                found[f"{name}/{setting}"] = max(values)
    return found


def _translated(root: Path, address: str) -> bool:
    if not set(address) <= set("0123456789abcdef:."):
        return False
    kind = _text(root / "sys/bus/pci/devices" / address / "iommu_group/type")
    return kind is not None and kind.startswith("DMA")


def _key_trouble(name: str) -> str:
    """What an engine would refuse about the key file; its rules stand in docs/security.md."""
    if not name:
        return ""
    try:
        facts = Path(name).stat()
        if not stat.S_ISREG(facts.st_mode):
            return "it is no regular file"
        mode = stat.S_IMODE(facts.st_mode)
        if facts.st_uid == os.geteuid():
            if mode & 0o077:
                return f"its mode is {mode:04o}, others may use it"
        elif facts.st_uid != 0:
            return "it belongs to another user"
        elif mode & 0o037:
            return f"its mode is {mode:04o}, others may use it"
        if not os.access(name, os.R_OK):
            return "it cannot be read"
    except OSError as error:
        return error.strerror or str(error)
    if not _KEY_BYTES[0] <= facts.st_size <= _KEY_BYTES[1] + 1:
        return f"it has {facts.st_size} bytes, a key has {_KEY_BYTES[0]} to {_KEY_BYTES[1]}"
    return ""
