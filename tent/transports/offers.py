"""Which rails a machine offers to the transports of a catalog: pure facts in, pure facts out.

Leans on one module per transport. It must never look at the machine: for a recorded machine the
answer is that machine's.
"""

from __future__ import annotations

from collections.abc import Iterable

from tent.errors import InvalidArgument
from tent.topology.model import Topology
from tent.transports.generic import generic_offers
from tent.transports.known import known_transports, rank
from tent.transports.model import Catalog, RailOffer, Transport
from tent.transports.rdma import rdma_offers
from tent.transports.shm import shm_offers
from tent.transports.tcp import tcp_offers
from tent.transports.virtual_functions import without_twins


def offers(catalog: Catalog, topology: Topology) -> tuple[RailOffer, ...]:
    """All rails that could be in a plan, by transport in the catalog's order, then by name.

    Transports that are not available offer nothing (their `reason` says why), nor do decorators.
    Devices that cannot carry anything now are there with usable=False and the reason.
    """
    special = {"tcp": tcp_offers, "rdma": rdma_offers, "shm": shm_offers}
    found: list[RailOffer] = []
    for transport in catalog.transports:
        if not transport.available or transport.decorates:
            continue
        if (of_topology := special.get(transport.name)) is not None:
            found += without_twins(of_topology(topology), topology)
        else:
            found += generic_offers(transport, topology)
    return tuple(found)


def assumed_catalog(names: Iterable[str]) -> Catalog:
    """A catalog that pretends that these transports are available, for machines that are not this.

    Raises InvalidArgument for a name that TENT does not know: nothing is known of its rails.
    """
    known = {transport.name: transport for transport in known_transports()}
    wanted = set(names)
    if strange := sorted(wanted - known.keys()):
        raise InvalidArgument(
            f"nothing is known of a transport {strange[0]!r} without its plugin; "
            f"known are {', '.join(known)}"
        )
    return Catalog(
        tuple(
            Transport(
                name=name,
                summary=known[name].summary,
                memory=known[name].memory,
                assumed=True,
            )
            for name in sorted(wanted, key=rank)
        )
    )
