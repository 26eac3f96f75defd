"""The doctor against real misconfigurations: each is made in the guest, seen, and mended again.

Leans on ip, rdma and chmod. Runs in the guest only: it changes the machine it is on.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tent.topology.discover import discover
from tent.transports.doctor import Finding, examine, look
from tent.transports.doctor.report import render
from tent.transports.offers import assumed_catalog

CATALOG = assumed_catalog(["rdma", "tcp"])
DEVICES = sorted(path.name for path in Path("/sys/class/infiniband").glob("rxa*"))


def sh(*commands: str) -> None:
    """Each through a shell; the first that fails says what it said."""
    for command in commands:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def nothing() -> None:
    pass


def findings(first: Callable[[], None] = nothing) -> tuple[Finding, ...]:
    """Of RDMA, as `tent doctor` would give them, in a child that has done `first`.

    Forked, not started: imports take long here.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever happens, the child must not go on with the tests.
        try:
            os.close(reader)
            first()
            with os.fdopen(writer, "w") as pipe:
                json.dump([dataclasses.astuple(finding) for finding in looked()], pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    assert text, "the child failed: see what it printed"
    return tuple(Finding(*row[:5], fix=tuple(row[5])) for row in json.loads(text))


def looked() -> list[Finding]:
    topology = discover()
    found = examine(topology, CATALOG, environment=look(topology, variables={}))
    return [finding for finding in found if finding.transport == "rdma"]


@dataclass(frozen=True)
class Fault:
    """What breaks it, what mends it, and what the doctor is to say."""

    make: tuple[str, ...]
    mend: tuple[str, ...]
    severity: str
    subject: str
    what: str
    fix: str


PROVIDER = next(iter(Path("/usr/lib").glob("*/libibverbs/librxe-rdmav*.so")), Path("librxe.so"))
FILES = "/dev/infiniband/uverbs*"
FAULTS = {
    "port down": Fault(
        ("ip link set dev ra0 down",),
        ("ip link set dev ra0 up",),
        "advice", "rxa0 port 1", "the port is not active: DOWN", "ip link set dev ra0 up",
    ),
    "the other end down": Fault(
        ("ip link set dev rb0 down",),
        ("ip link set dev rb0 up",),
        "advice", "rxa0 port 1", "DOWN",
        "bring up what ra0 leads to: it has no carrier",
    ),
    "no IPv4 address": Fault(
        ("ip -4 address flush dev ra0",),
        ("ip address add 10.77.0.1/24 dev ra0",),
        "advice", "rxa0 port 1", "the port has link-local GIDs only",
        "ip address add ADDRESS/PREFIX dev ra0",
    ),
    "two addresses": Fault(
        ("ip address add 10.78.0.1/24 dev ra0",),
        ("ip address delete 10.78.0.1/24 dev ra0",),
        "advice", "rxa0 port 1", "2 GIDs are as good as each other",
        'in the policy: rails: {options: {"rdma:rxa0": {gid: 1}}}   # or one of 1, 2',
    ),
    "small MTU": Fault(
        ("ip link set dev ra0 mtu 1500",),
        ("ip link set dev ra0 mtu 4200",),
        "advice", "rxa0 port 1", "RDMA uses 1024 bytes a packet, 4096 are possible",
        "ip link set dev ra0 mtu 9000",
    ),
    "MTUs that differ": Fault(
        ("ip link set dev ra0 mtu 1500",),
        ("ip link set dev ra0 mtu 4200",),
        "advice", "MTU", "1024: rxa0 port 1; 4096: ", "give all of them the same MTU",
    ),
    "no device files": Fault(
        ("mkdir /tmp/away", f"mv {FILES} /tmp/away"),
        ("mv /tmp/away/* /dev/infiniband", "rmdir /tmp/away"),
        "problem", "/dev/infiniband", "there are no device files",
        "udevadm trigger --subsystem-match=infiniband_verbs",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _outside_of_containers() -> Iterator[None]:
    """The guest sees the files of its host, which may be a container; its mends are others."""
    marks = [Path(name) for name in ("/.dockerenv", "/run/.containerenv")]
    away = [mark for mark in marks if mark.exists()]
    for mark in away:
        mark.rename(f"{mark}.away")
    yield
    for mark in away:
        Path(f"{mark}.away").rename(mark)


@pytest.fixture
def machine() -> Iterator[Callable[[Fault], None]]:
    """Breaks it; mends it in the end."""
    broken: list[Fault] = []

    def make(fault: Fault) -> None:
        broken.append(fault)
        sh(*fault.make)

    yield make
    for fault in broken:
        sh(*fault.mend)


def test_a_sound_guest_has_nothing_but_its_software_devices() -> None:
    rest = [f for f in findings() if f.subject != "huge pages"]
    assert [f.severity for f in rest] == ["note"], render(rest)
    assert "in software" in rest[0].what
    assert all(device in rest[0].subject for device in DEVICES)


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_with_what_mends_it(name: str, machine: Callable[[Fault], None]) -> None:
    fault = FAULTS[name]
    machine(fault)
    found = findings()
    right = [
        f
        for f in found
        if f.severity == fault.severity and fault.subject in f.subject and fault.what in f.what
    ]
    assert len(right) == 1, render(found)
    assert right[0].fix[0].startswith(fault.fix), render(found)


def test_a_device_without_its_provider_is_told_of_by_the_command() -> None:
    """In a process of its own: libibverbs looks for providers once."""
    sh(f"mv {PROVIDER} {PROVIDER}.away")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tent", "doctor", "--json", "rdma"],
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
    finally:
        sh(f"mv {PROVIDER}.away {PROVIDER}")
    assert done.returncode == 1, done.stderr
    found = [row for row in json.loads(done.stdout) if "driver is missing" in row["what"]]
    assert [row["severity"] for row in found] == ["problem"], done.stdout
    assert all(device in found[0]["subject"] for device in DEVICES)
    assert found[0]["fix"][0].startswith("apt-get install ibverbs-providers")


NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000  # sched.h


def become_nobody() -> None:
    """And lose all capabilities."""
    os.setgroups([])
    os.setresuid(NOBODY, NOBODY, NOBODY)


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 << 10, 64 << 10))
    become_nobody()


def elsewhere() -> None:
    """Into the network namespace "away", and /sys as it is seen from there (ip netns exec)."""
    file = os.open("/run/netns/away", os.O_RDONLY)
    assert LIBC.setns(file, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    assert LIBC.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    sh("mount --make-rslave /", "mount -t sysfs sysfs /sys")


def test_a_small_limit_of_pinned_memory_is_a_problem() -> None:
    right = [f for f in findings(limited) if f.subject == "memlock"]
    assert [(f.severity, f.what) for f in right] == [
        ("problem", "this process may pin 64 KiB only")
    ]


def test_another_user_is_told_of_files_that_are_closed_to_it() -> None:
    sh(f"chmod 600 {FILES}")
    try:
        found = findings(become_nobody)
    finally:
        sh(f"chmod 666 {FILES}")
    right = [f for f in found if f.subject == "/dev/infiniband"]
    assert [f.severity for f in right] == ["problem"], render(found)
    assert "this user may not read and write" in right[0].what


def test_a_namespace_without_the_network_devices_is_told_of() -> None:
    sh("ip netns add away")
    try:
        found = findings(elsewhere)
    finally:
        sh("ip netns delete away")
    right = [f for f in found if "not in this network namespace" in f.what]
    assert [f.severity for f in right] == ["advice"], render(found)
    assert f"{DEVICES[0]} (ra0)" in right[0].subject


def test_devices_of_another_namespace_alone_are_missed() -> None:
    sh("rdma system set netns exclusive")
    try:
        sh("ip netns add away")
        found = findings(elsewhere)
    finally:
        sh("ip netns delete away", "rdma system set netns shared")
    right = [f for f in found if f.subject == "devices"]
    assert [f.severity for f in right] == ["problem"], render(found)
    assert "no RDMA device can be seen" in right[0].what
