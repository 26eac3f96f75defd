"""What is known of transports: their plugins, options, and the rails this machine offers to them.

Leans on the topology's model. Plain facts: `catalog` fills them from the plugins, tests by hand.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tent.topology.model import Remark


class Memory(enum.IntFlag):
    """Kinds of memory that a transport reaches by itself; the numbers of plugin.h."""

    HOST = 1
    CUDA = 2
    FILE = 4


class OptionKind(enum.IntEnum):
    """What an option's value is; the numbers of plugin.h."""

    TEXT = 0
    COUNT = 1
    SIZE = 2
    """Bytes, with unit k, m, g or t."""
    DURATION = 3
    RATE = 4
    """Gbit/s."""
    SWITCH = 5
    """yes or no."""
    CHOICE = 6
    """One of `choices`."""


@dataclass(frozen=True)
class Option:
    """One word of a plan that a transport understands."""

    name: str
    kind: OptionKind = OptionKind.TEXT
    default: str = ""
    least: str = ""
    most: str = ""
    choices: tuple[str, ...] = ()
    """Of a CHOICE all it may be; of other kinds words that may stand in a value's place (auto)."""
    rail: bool = True
    """Of a rail (`rail N tcp eth0 connections=2`); False: of the transport (`set tcp.x=y`)."""
    meaning: str = ""


@dataclass(frozen=True)
class Transport:
    """A plugin that was found."""

    name: str
    version: str = ""
    summary: str = ""
    library: str = ""
    """Its file; "" where the transport is known but has no plugin here."""
    available: bool = True
    reason: str = ""
    """Why it is not available, and what mends that."""
    memory: Memory = Memory.HOST
    options: tuple[Option, ...] = ()
    decorates: bool = False
    """It wraps another transport (fault) and has no rails of its own."""
    auto: bool = True
    """`auto` may choose it; False: for tests, only where a policy or plan names it."""
    assumed: bool = False
    """Pretended, to plan for another machine: its options are not known, so not judged."""
    devices: tuple[RailOffer, ...] = ()
    """Rails that the plugin itself says this machine has."""

    def option(self, name: str, *, rail: bool | None = None) -> Option | None:
        """The option of that name; rail: only as one of a rail (True), of the transport (False)."""
        return next(
            (
                option
                for option in self.options
                if option.name == name and rail in (None, option.rail)
            ),
            None,
        )


@dataclass(frozen=True)
class RailOffer:
    """A rail that could be in a plan."""

    transport: str
    device: str
    """The plan's device word."""
    numa: int | None = None
    gbps: float | None = None
    """Nominal speed; None: to be measured."""
    nic: str | None = None
    """The device of the topology whose distance counts; None: none (loopback, rings)."""
    usable: bool = True
    why: str = ""
    """Why it is not usable ("the port is down"), or usable only at need ("virtual")."""
    by_name: bool = False
    """Not usable unasked (a container bridge, a tunnel), but right where a policy names it."""
    virtual: bool = False
    """No device of the machine is behind it: taken where nothing better is."""
    loopback: bool = False
    """Reaches this machine only."""
    options: tuple[tuple[str, str], ...] = ()
    """Rail options that the device needs (a GID index)."""

    @property
    def inside(self) -> bool:
        """It leads from memory to memory inside the machine, as shared memory does: a path of its
        own kind beside every network, where a loopback device is a stopgap for one."""
        return self.loopback and self.nic is None and not self.virtual


@dataclass(frozen=True)
class Catalog:
    """All transports known here, by name, in the order in which `auto` prefers them."""

    transports: tuple[Transport, ...] = ()
    remarks: tuple[Remark, ...] = ()
    """Folders that were to be searched and cannot be."""

    def find(self, name: str) -> Transport | None:
        """The transport of that name."""
        return next((found for found in self.transports if found.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all of them."""
        return tuple(transport.name for transport in self.transports)
