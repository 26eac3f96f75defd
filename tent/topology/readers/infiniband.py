"""RDMA devices as sysfs shows them: ports, their state and speed, GIDs with their RoCE version.

Leans on files and pci. Verbs add the path MTU where they were asked. Never read: node GUIDs and
descriptions, which name the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tent.topology.model import NICS_MAX, Gid, RdmaDevice, RdmaPort
from tent.topology.readers.answers import Answers, Facts
from tent.topology.readers.files import Files, Notes, shown, whole
from tent.topology.readers.pci import Numa, address_of
from tent.topology.tree import Tree

DEVICES = "/sys/class/infiniband"
PORTS_MAX = 64
GIDS_MAX = 1024
GBPS_MAX = 10_000.0
MTUS = (256, 512, 1024, 2048, 4096)
IWARP = "4:"
"""node_type, "4: RNIC" (RDMA_NODE_RNIC of the kernel's ib_verbs.h)."""
NO_GID = "0000:0000:0000:0000:0000:0000:0000:0000"
GID_KINDS = {"RoCE v2": "RoCE v2", "IB/RoCE v1": "RoCE v1"}
LINK_LAYERS = ("Ethernet", "InfiniBand")


def read_infiniband(
    tree: Tree, notes: Notes, *, answers: Answers, numa: Numa
) -> tuple[RdmaDevice, ...]:
    """All RDMA devices, sorted by name; () where the machine has none."""
    files = Files(tree, notes)
    names = files.names(DEVICES)
    if len(names) > NICS_MAX:
        notes(DEVICES, f"{len(names)} devices; those after {NICS_MAX} are left out")
    ports = {name: _port_numbers(files, name) for name in names[:NICS_MAX]}
    verbs = answers.verbs(ports)
    if verbs.get("error"):
        notes("verbs", str(verbs["error"]))
    told = _table(verbs, "devices")
    return tuple(
        _device(files, name, numbers, numa=numa, told=_table(told, name))
        for name, numbers in ports.items()
    )


def _table(facts: Mapping[str, Any], key: str) -> Facts:
    found = facts.get(key)
    return found if isinstance(found, dict) else {}


def _port_numbers(files: Files, name: str) -> list[int]:
    found = [whole(word) for word in files.names(f"{DEVICES}/{name}/ports", required=True)]
    numbers = sorted(number for number in found if number is not None and 0 < number < 256)
    if len(numbers) != len(found) or len(numbers) > PORTS_MAX:
        files.notes(f"{DEVICES}/{name}/ports", "holds names that are no port numbers; left out")
    return numbers[:PORTS_MAX]


def _device(
    files: Files, name: str, numbers: list[int], *, numa: Numa, told: Mapping[str, Any]
) -> RdmaDevice:
    folder = f"{DEVICES}/{name}"
    real = files.real(folder, required=True)
    pci = address_of(real) if real is not None else None
    virtual = real is not None and pci is None
    firmware = files.word(f"{folder}/fw_ver")
    if firmware is None and isinstance(told.get("firmware"), str):
        firmware = told["firmware"] or None
    ports = _table(told, "ports")
    return RdmaDevice(
        name,
        pci=pci,
        numa=None if virtual else numa.of(pci),
        firmware=firmware,
        board=files.word(f"{folder}/board_id"),
        virtual=virtual,
        iwarp=(files.word(f"{folder}/node_type") or "").startswith(IWARP),
        ports=tuple(
            _port(files, folder, number, virtual=virtual, told=_table(ports, str(number)))
            for number in numbers
        ),
    )


def _port(
    files: Files, device: str, number: int, *, virtual: bool, told: Mapping[str, Any]
) -> RdmaPort:
    folder = f"{device}/ports/{number}"
    state = _after_colon(files, f"{folder}/state", required=True) or "UNKNOWN"
    layer = files.word(f"{folder}/link_layer")
    gids = _gids(files, folder, layer)
    mtu = told.get("mtu")
    # A port that is down reports the speed of its slowest mode, a software device any.
    trusted = state == "ACTIVE" and not virtual
    return RdmaPort(
        number,
        state=state,
        physical_state=_after_colon(files, f"{folder}/phys_state"),
        link_layer=layer if layer in LINK_LAYERS else None,
        gbps=_rate(files, f"{folder}/rate") if trusted else None,
        lid=files.number(f"{folder}/lid", high=0xFFFF_FFFF, base=16),
        gids=gids,
        netdev=next((gid.netdev for gid in gids if gid.netdev is not None), None),
        mtu=mtu if mtu in MTUS else None,
    )


def _after_colon(files: Files, path: str, *, required: bool = False) -> str | None:
    """ "4: ACTIVE" -> "ACTIVE"."""
    text = files.word(path, required=required)
    if text is None:
        if required and files.text(path) == "":
            files.notes(path, "is empty")
        return None
    number, mark, word = text.partition(":")
    if not mark or whole(number) is None or not word.strip():
        files.garbled(path, text, 'a state as "4: ACTIVE"')
        return None
    return word.strip()


def _rate(files: Files, path: str) -> float | None:
    """ "400 Gb/sec (4X NDR)" -> 400.0"""
    text = files.word(path)
    if text is None:
        return None
    number, _, unit = text.partition(" ")
    digits, _, tenths = number.partition(".")
    if number.isascii() and digits.isdecimal() and (tenths or "0").isdecimal():
        gbps = float(number)
        if 0 < gbps <= GBPS_MAX and unit.startswith("Gb/sec"):
            return gbps
    files.garbled(path, text, 'a rate as "400 Gb/sec (4X NDR)"')
    return None


def _gids(files: Files, port: str, layer: str | None) -> tuple[Gid, ...]:
    found = []
    for name in files.names(f"{port}/gids"):
        index = whole(name)
        if index is None or not 0 <= index < GIDS_MAX:
            files.notes(f"{port}/gids", f"holds {shown(name)}, which is no index below {GIDS_MAX}")
            continue
        path = f"{port}/gids/{name}"
        gid = files.text(path)
        if gid is None or gid == NO_GID:
            continue
        if not _is_gid(gid):
            files.garbled(path, gid, "eight groups of four hexadecimal digits")
            continue
        kind = _gid_kind(files, f"{port}/gid_attrs/types/{name}", layer)
        if kind is not None:
            netdev = files.word(f"{port}/gid_attrs/ndevs/{name}")
            found.append(Gid(index, gid.lower(), kind, netdev))
    return tuple(sorted(found, key=lambda gid: gid.index))


def _is_gid(text: str) -> bool:
    groups = text.split(":")
    return len(groups) == 8 and all(
        len(group) == 4 and whole(group, base=16) is not None and group.isalnum()
        for group in groups
    )


def _gid_kind(files: Files, path: str, layer: str | None) -> str | None:
    """None: a kind that cannot be told, with which the address is of no use."""
    if layer != "Ethernet":
        return "IB"
    text = files.word(path)
    if text is None:
        # A kernel without the attribute (before 4.5) knows RoCE v1 only; one with it that gives
        # no answer has just removed this address.
        return None if files.tree.exists(path) else "RoCE v1"
    if text not in GID_KINDS:
        files.garbled(path, text, " or ".join(GID_KINDS))
    return GID_KINDS.get(text)
