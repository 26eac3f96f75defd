"""A finding, the case that checks look at, and the parts that commands are put together from.

Leans on distances, the catalog's facts and the surroundings. Names in commands are foreign: every
one goes through `quoted`, so that a printed command can be run as it stands.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tent.topology.distance import Distances
from tent.topology.model import NetDevice, PciDevice, RdmaDevice, RdmaPort, Topology
from tent.transports.doctor.surroundings import Surroundings
from tent.transports.model import Catalog, RailOffer
from tent.transports.offers import offers
from tent.transports.virtual_functions import physical_of

Severity = Literal["problem", "advice", "note"]
"""problem: a transport that could work here does not, or reaches less than it could; advice: it
works, but slower or less safely than it could; note: good to know."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Severity
    transport: str
    """"": of the engine as a whole."""
    subject: str
    """The device, limit or setting."""
    what: str
    why: str
    """What it costs."""
    fix: tuple[str, ...] = ()
    """Commands, or a sentence where no command mends it; the first is the one to try."""


@dataclass(frozen=True)
class Case:
    """Everything that a check may look at."""

    topology: Topology
    catalog: Catalog
    surroundings: Surroundings

    @cached_property
    def distances(self) -> Distances:
        """Of the topology."""
        return Distances(self.topology)

    @cached_property
    def offers(self) -> tuple[RailOffer, ...]:
        """Rails of all transports."""
        return offers(self.catalog, self.topology)

    @cached_property
    def pci(self) -> dict[str, PciDevice]:
        """By address."""
        return {device.address: device for device in reversed(self.topology.pci)}

    @cached_property
    def nets(self) -> dict[str, NetDevice]:
        """By name."""
        return {net.name: net for net in reversed(self.topology.nets)}

    def net_of(self, rdma: RdmaDevice, port: RdmaPort) -> NetDevice | None:
        """The network device of a port, by its word or by the netdev's."""
        found = self.nets.get(port.netdev or "")
        if found is None and len(rdma.ports) == 1:
            found = next((net for net in self.topology.nets if rdma.name in net.rdma), None)
        return found

    @cached_property
    def spare(self) -> frozenset[str]:
        """NICs that are virtual functions beside their physical one: for virtual machines."""
        return frozenset(physical_of(self.topology))

    @property
    def container(self) -> str:
        """Its kind; "" outside."""
        return self.topology.limits.container or ""

    @property
    def several_nodes(self) -> bool:
        """True where distance between nodes matters."""
        return len(self.topology.nodes) > 1

    def able(self, capability: str) -> bool:
        """True where the process is known to have it."""
        return capability in (self.surroundings.capabilities or ())


Check = Callable[[Case], Iterator[Finding]]


def quoted(name: str) -> str:
    """A foreign name as one word of a shell command."""
    return shlex.quote(name)


def listed(names: Iterable[str], most: int = 8) -> str:
    """ "a, b, c and 4 more"."""
    found = list(names)
    if len(found) <= most:
        return ", ".join(found)
    return ", ".join(found[:most]) + f" and {len(found) - most} more"


def in_container(case: Case, *, run: str, pod: str) -> tuple[str, ...]:
    """What to start the container with, for the kind of container it is; () outside of one.

    run: options of docker and podman; pod: a sentence on Kubernetes.
    """
    if case.container == "kubernetes":
        return (pod,)
    if case.container in ("docker", "podman"):
        return (f"{case.container} run {run} ...",)
    return (f"give the container what `docker run {run}` would",) if case.container else ()


def on_host(case: Case) -> str:
    """What a command that a container cannot run is preceded by; "" outside of one."""
    return "on the host: " if case.container else ""


def sysctl(case: Case, *settings: str) -> tuple[str, ...]:
    """Sets kernel parameters now and for later; `settings` as "name=value"."""
    host = on_host(case)
    words = " ".join(quoted(setting) for setting in settings)
    return (
        f"{host}sysctl -w {words}",
        f"{host}printf '%s\\n' {words} >> /etc/sysctl.d/90-tent.conf   # to keep it",
    )
