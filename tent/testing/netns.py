"""Two network namespaces, A and B, joined by shaped veth links ("rails"), and what can go wrong
with them: other rates, links down, silent loss.

Leans on root, iproute2 (`ip`, `tc`) and the kernel's veth and htb; imports nothing of TENT. What
breaks and heals in mid-transfer (links, silent loss) is one system call each, so that the moment of
a fault is known to microseconds; the rest runs commands. Must never touch a device, an address or a
namespace that it did not make, and must leave nothing behind: what a killed owner could not remove,
the next user removes.

    with Rails() as rails:
        rails.up([1600, 200])               # Mbit/s, in both directions
        subprocess.run([*rails.prefix("a"), "ping", "-c1", rails.address("b", 1)])
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType

RAILS_MAX = 64
RATE_MBIT_MAX = 100_000
COMMAND_TIMEOUT_S = 20.0

SIDES = ("a", "b")
NAME = re.compile(r"tent-rails-(\d+)-(\d+)-\d+-[ab]")
SERIAL = itertools.count()

# A token bucket this deep swallows the timer's coarseness (HZ may be 100) at the highest rates; a
# frame of segmentation offload, 64 KiB, must fit several times.
BURST = "256k"
# What one direction of a rail queues at most, in packets of up to 64 KiB. TCP's own limit of about
# a millisecond per socket (small queues) comes long before.
QUEUE_PACKETS = 1000
# A hardware address no interface here has: what is sent to it leaves the sender and is nobody's.
NOBODY = bytes.fromhex("020000000001")
SILENT_LOSS = (
    "silent loss: a permanent neighbour entry with a hardware address that nobody has; needs "
    "neither a packet filter nor netem"
)

NAMESPACES = Path("/var/run/netns")
CLONE_NEWNET = 0x40000000
# Of linux/sockios.h, linux/if.h and linux/if_arp.h.
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCDARP, SIOCSARP = 0x8913, 0x8914, 0x8953, 0x8955
IFF_UP = 1
ATF_COM, ATF_PERM = 2, 4


class RailsError(Exception):
    """Rails that cannot be made or changed; the sentence says what, where and what to do."""


@dataclass
class _Rail:
    rate_mbit: int
    # Sides whose outgoing packets vanish.
    lost: set[str] = field(default_factory=set)


class Rails:
    """Owner of one pair of namespaces. Not for use by several threads at a time."""

    def __init__(self, *, mtu: int = 9000) -> None:
        self._mtu = mtu
        self._rails: list[_Rail] = []
        base = f"tent-rails-{os.getpid()}-{_start_time(os.getpid())}-{next(SERIAL)}"
        self._names = {side: f"{base}-{side}" for side in SIDES}
        # A socket stays in the namespace it was made in: what is asked of it happens there.
        self._controls: dict[str, socket.socket] = {}

    def __enter__(self) -> Rails:
        if (reason := _missing()) is not None:
            raise RailsError(reason)
        remove_leftovers()
        try:
            for name in self._names.values():
                _run("ip", "netns", "add", name)
                _run("ip", "-n", name, "link", "set", "lo", "up")
            for side, name in self._names.items():
                self._controls[side] = _socket_in(name)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def up(self, rates_mbit: Sequence[int]) -> None:
        """Makes one rail per rate; rails of an earlier call are removed first."""
        if not 0 < len(rates_mbit) <= RAILS_MAX:
            raise RailsError(f"{len(rates_mbit)} rails asked for: 1 to {RAILS_MAX} are possible")
        for rate in rates_mbit:
            _check_rate(rate)
        self.down()
        for rail, rate in enumerate(rates_mbit):
            self._rails.append(_Rail(rate))
            # fmt: off
            _run("ip", "link", "add", self.device("a", rail), "netns", self.namespace("a"),
                 "type", "veth", "peer", "name", self.device("b", rail),
                 "netns", self.namespace("b"))
            # fmt: on
            for side in SIDES:
                self._ip(side, "addr", "add", f"{self.address(side, rail)}/24",
                         "dev", self.device(side, rail))  # fmt: skip
                # No IPv6: its announcements would be traffic of nobody's.
                self._link(side, rail, "mtu", str(self._mtu), "addrgenmode", "none", "up")
                self._shape(side, rail, rate)

    def down(self) -> None:
        """Removes all rails; the namespaces stay."""
        while self._rails:
            # The peer goes with it.
            self._link_remove(len(self._rails) - 1)
            self._rails.pop()

    @property
    def rates_mbit(self) -> tuple[int, ...]:
        return tuple(rail.rate_mbit for rail in self._rails)

    def namespace(self, side: str) -> str:
        return self._names[side]

    def prefix(self, side: str) -> list[str]:
        """Words to put before a command so that it runs in namespace "a" or "b"."""
        return ["ip", "netns", "exec", self.namespace(side)]

    def address(self, side: str, rail: int) -> str:
        """The rail's address on that side; each rail is a subnet of its own."""
        return f"10.77.{rail}.{1 + SIDES.index(side)}"

    def device(self, side: str, rail: int) -> str:
        return f"r{side}{rail}"

    def set_rate(self, rail: int, rate_mbit: int) -> None:
        """Changes both directions at about the same time; what is queued stays queued."""
        self._check(rail)
        _check_rate(rate_mbit)
        _run_together([self._rate_command(side, rail, "change", rate_mbit) for side in SIDES])
        self._rails[rail].rate_mbit = rate_mbit

    def link_down(self, rail: int, *, side: str = "a") -> None:
        """Takes one end down as an operator would; the other end loses its carrier."""
        self._check(rail)
        self._set_up(side, rail, up=False)

    def link_up(self, rail: int, *, side: str = "a") -> None:
        self._check(rail)
        self._set_up(side, rail, up=True)
        # The kernel forgot this end's neighbours with the link.
        if side in self._rails[rail].lost:
            self._lose(side, rail)

    def black_hole(self, rail: int, *, sides: Sequence[str] = SIDES) -> None:
        """What those sides send vanishes silently: links stay up, nobody is told."""
        self._check(rail)
        for side in sides:
            self._lose(side, rail)
            self._rails[rail].lost.add(side)

    def heal(self, rail: int) -> None:
        """Ends black_hole(). What was lost in between is for TCP to send again."""
        self._check(rail)
        for side in sorted(self._rails[rail].lost):
            self._neighbour(side, rail, SIOCDARP, bytes(6))
        self._rails[rail].lost.clear()

    def _check(self, rail: int) -> None:
        if not 0 <= rail < len(self._rails):
            raise RailsError(f"there is no rail {rail}: {len(self._rails)} are up, counted from 0")

    def _ip(self, side: str, *words: str) -> None:
        _run("ip", "-n", self.namespace(side), *words)

    def _link(self, side: str, rail: int, *words: str) -> None:
        self._ip(side, "link", "set", "dev", self.device(side, rail), *words)

    def _lose(self, side: str, rail: int) -> None:
        """A wrong hardware address needs neither a packet filter nor one of tc's actions, which
        small kernels lack, and is honoured from the next packet on."""
        self._neighbour(side, rail, SIOCSARP, NOBODY)

    def _neighbour(self, side: str, rail: int, request: int, hardware: bytes) -> None:
        """struct arpreq: protocol address, hardware address, flags, netmask, device."""
        protocol = struct.pack(
            "=HH4s8x", socket.AF_INET, 0, socket.inet_aton(self.address(_other(side), rail))
        )
        entry = struct.pack("=H6s8x", 1, hardware)
        flags = struct.pack("=i16x", ATF_COM | ATF_PERM)
        device = struct.pack("=16s", self.device(side, rail).encode())
        try:
            fcntl.ioctl(self._controls[side], request, protocol + entry + flags + device)
        except OSError as error:
            # A link that went down took the entry with it.
            if request != SIOCDARP or error.errno != errno.ENXIO:
                raise self._refused("neighbour entry", side, rail, error) from error

    def _set_up(self, side: str, rail: int, *, up: bool) -> None:
        """struct ifreq: name, flags."""
        name = self.device(side, rail).encode()
        control = self._controls[side]
        try:
            told = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("=16sH22x", name, 0))
            flags = struct.unpack("=16sH22x", told)[1]
            flags = flags | IFF_UP if up else flags & ~IFF_UP
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("=16sH22x", name, flags))
        except OSError as error:
            raise self._refused("flags", side, rail, error) from error

    def _refused(self, what: str, side: str, rail: int, error: OSError) -> RailsError:
        return RailsError(
            f"the {what} of {self.device(side, rail)} in {self.namespace(side)} cannot be set: "
            f"{error.strerror} (allow CAP_NET_ADMIN, or see what stands in `ip netns list`)"
        )

    def _shape(self, side: str, rail: int, rate_mbit: int) -> None:
        tc = ["tc", "-n", self.namespace(side)]
        device = ["dev", self.device(side, rail)]
        # r2q only avoids a warning; the quantum that it would choose is given.
        _run(
            *tc,
            "qdisc",
            "add",
            *device,
            *["root", "handle", "1:", "htb", "default", "1", "r2q", "1000"],
        )
        _run(*self._rate_command(side, rail, "add", rate_mbit))
        _run(*tc, "qdisc", "add", *device, "parent", "1:1", "handle", "10:",
             "pfifo", "limit", str(QUEUE_PACKETS))  # fmt: skip

    def _rate_command(self, side: str, rail: int, verb: str, rate_mbit: int) -> list[str]:
        # fmt: off
        return ["tc", "-n", self.namespace(side), "class", verb, "dev", self.device(side, rail),
                "parent", "1:", "classid", "1:1", "htb",
                "rate", f"{rate_mbit}mbit", "ceil", f"{rate_mbit}mbit",
                "burst", BURST, "cburst", BURST, "quantum", "60000"]
        # fmt: on

    def _link_remove(self, rail: int) -> None:
        _run("ip", "-n", self.namespace("a"), "link", "del", "dev", self.device("a", rail))

    def _remove(self) -> None:
        """Takes away whatever of it exists. The links explicitly: a namespace lives on as long as
        a process is in it, and the links with it."""
        for control in self._controls.values():
            control.close()
        self._controls.clear()
        present = set(_namespaces())
        errors = []
        for name in (name for name in self._names.values() if name in present):
            errors += _remove_namespace(name)
        self._rails.clear()
        if errors:
            raise RailsError("; ".join(errors))


def available() -> str | None:
    """None when rails can be made here, else the reason; tried once per process."""
    return _tried()


def remove_leftovers() -> list[str]:
    """Removes namespaces whose owner is dead, and names them."""
    dead = []
    for name in _namespaces():
        match = NAME.fullmatch(name)
        # A number used again belongs to a process that began at another time.
        if match is not None and _start_time(int(match[1])) != int(match[2]):
            dead.append(name)
            # Another process may be cleaning as well; what is gone is fine.
            _remove_namespace(name)
    return dead


@cache
def _tried() -> str | None:
    try:
        with Rails() as rails:
            rails.up([100])
            rails.set_rate(0, 50)
    except RailsError as error:
        return str(error)
    return None


def _socket_in(name: str) -> socket.socket:
    """Made by a thread of its own, for a namespace is entered by a thread and this one stays."""
    made: list[socket.socket | OSError] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with (NAMESPACES / name).open("rb") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
                made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise RailsError(
            f"the namespace {name} cannot be entered: {made[0].strerror} (allow CAP_SYS_ADMIN)"
        )
    return made[0]


def _missing() -> str | None:
    if os.geteuid() != 0:
        return "network namespaces need root: run as root (sudo) or in a privileged container"
    for command in ("ip", "tc"):
        if shutil.which(command) is None:
            return f"there is no '{command}' in PATH: install iproute2"
    return None


def _check_rate(rate_mbit: int) -> None:
    if not 0 < rate_mbit <= RATE_MBIT_MAX:
        raise RailsError(f"a rate of {rate_mbit} Mbit/s: 1 to {RATE_MBIT_MAX} are possible")


def _other(side: str) -> str:
    return SIDES[1 - SIDES.index(side)]


def _start_time(pid: int, *, root: Path = Path("/")) -> int:
    """When the process began, in the kernel's ticks; -1: there is none."""
    try:
        text = (root / "proc" / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return -1
    # The command's name, in parentheses, may hold anything.
    return int(text.rpartition(")")[2].split()[19])


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line.strip()]


def _remove_namespace(name: str) -> list[str]:
    """Its sentence for each thing that could not be removed."""
    try:
        for line in _run("ip", "-n", name, "-o", "link", "show", "type", "veth").splitlines():
            device = line.split(": ")[1].partition("@")[0]
            _run("ip", "-n", name, "link", "del", "dev", device)
        _run("ip", "netns", "del", name)
    except RailsError as error:
        return [str(error)] if name in _namespaces() else []
    return []


def _run(*command: str) -> str:
    return _run_together([list(command)])[0]


def _run_together(commands: Sequence[Sequence[str]]) -> list[str]:
    """Starts all, waits for all, and gives their outputs. They are out of reach of the terminal's
    Ctrl-C, so that a removal that has begun is finished."""
    try:
        # fmt: off
        started = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, start_new_session=True)
            for command in commands
        ]
        # fmt: on
    except FileNotFoundError as error:
        raise RailsError(f"there is no '{error.filename}' in PATH: install iproute2") from None
    outputs = []
    refused = []
    for command, process in zip(commands, started, strict=True):
        try:
            out, words = process.communicate(timeout=COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, words = process.communicate()
            words += f"did not end within {COMMAND_TIMEOUT_S:g} s"
        outputs.append(out)
        if process.returncode != 0:
            refused.append(_refusal(command, words))
    if refused:
        raise RailsError("; ".join(refused))
    return outputs


def _refusal(command: Sequence[str], words: str) -> str:
    said = " ".join(words.split()) or "nothing"
    lower = said.lower()
    if "not permitted" in lower or "permission denied" in lower:
        todo = (
            "root is not enough here: allow CAP_SYS_ADMIN and CAP_NET_ADMIN, or leave the sandbox"
        )
    elif "unknown" in lower or "not supported" in lower or "rtnetlink answers: no such" in lower:
        todo = "the kernel lacks it: load veth and sch_htb, or use one built with CONFIG_VETH " \
               "and CONFIG_NET_SCH_HTB"  # fmt: skip
    else:
        todo = "see what stands in `ip netns list`"
    return f"'{' '.join(command)}' failed: {said} ({todo})"
