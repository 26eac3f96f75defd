"""Runs all checks on a case. Pure."""

from __future__ import annotations

from tent.topology.distance import natural
from tent.topology.model import Topology
from tent.transports.doctor import memory, network, pcie, plugins, process, rdma, shm, verbs
from tent.transports.doctor.finding import Case, Check, Finding, Severity
from tent.transports.doctor.surroundings import Surroundings
from tent.transports.model import Catalog

_ORDER: dict[Severity, int] = {"problem": 0, "advice": 1, "note": 2}
CHECKS: tuple[Check, ...] = (
    *plugins.CHECKS,
    *process.CHECKS,
    *shm.CHECKS,
    *memory.CHECKS,
    *verbs.CHECKS,
    *rdma.CHECKS,
    *network.CHECKS,
    *pcie.CHECKS,
)


def examine(
    topology: Topology, catalog: Catalog, *, environment: Surroundings | None = None
) -> tuple[Finding, ...]:
    """All findings, the worst first, then by transport and subject.

    environment: what is known beyond the topology; None for a machine that is not this one.
    """
    case = Case(topology, catalog, environment or Surroundings())
    found = [finding for check in CHECKS for finding in check(case)]
    ranks = {name: rank for rank, name in enumerate(catalog.names)}

    def order(finding: Finding) -> tuple[object, ...]:
        transport = ranks.get(finding.transport, len(ranks))
        return (_ORDER[finding.severity], transport, finding.transport, natural(finding.subject))

    return tuple(sorted(dict.fromkeys(found), key=order))
