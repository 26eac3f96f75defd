"""Checks of the catalog: plugins that are not there or not available, transports without a rail."""

from __future__ import annotations

from collections.abc import Iterator

from tent.transports.doctor.finding import Case, Finding, Severity, in_container, listed
from tent.transports.known import known_transports
from tent.transports.model import RailOffer, Transport


def unavailable(case: Case) -> Iterator[Finding]:
    """A transport that does not load: grave where this machine has something for it."""
    for transport in case.catalog.transports:
        if transport.available:
            continue
        wanted = _hardware(case, transport)
        severity: Severity = "problem" if wanted else "note"
        yield Finding(
            severity,
            transport.name,
            transport.library or "plugin",
            transport.reason or "its plugin is not available and gives no reason",
            f"{wanted} cannot be used by it" if wanted else "it is not used",
            _mend(transport) if wanted else (),
        )


def _mend(transport: Transport) -> tuple[str, ...]:
    known = next((known for known in known_transports() if known.name == transport.name), None)
    if known is not None and known.absent and not transport.library:
        return (known.absent,)
    return ("see the reason; `tent transports` says where plugins are sought",)


def no_rail(case: Case) -> Iterator[Finding]:
    """An available transport of the network without a rail that reaches another machine."""
    for transport in case.catalog.transports:
        if not transport.available or transport.decorates or not transport.auto:
            continue
        if transport.name != "tcp" and not (
            transport.name == "rdma" and _hardware(case, transport)
        ):
            continue
        rails = [rail for rail in case.offers if rail.transport == transport.name]
        wire = [rail for rail in rails if not rail.loopback]
        usable = [rail for rail in wire if rail.usable]
        # Where not even loopback is known, nobody looked at network devices (an import).
        if not usable and (wire or (transport.name == "tcp" and case.topology.nets)):
            yield _without(case, transport.name, wire)
        elif usable and transport.name == "tcp" and all(rail.virtual for rail in usable):
            yield _only_virtual(case, usable)


CHECKS = (unavailable, no_rail)


def _hardware(case: Case, transport: Transport) -> str:
    """What there is here for a transport; "" if nothing."""
    if transport.name == "rdma":
        return listed(rdma.name for rdma in case.topology.rdma if not rdma.iwarp)
    if transport.name == "cuda":
        return listed(f"cuda:{gpu.index}" for gpu in case.topology.gpus)
    # Others with a plugin were installed to be used; those without one are named for completeness.
    return "this machine" if transport.library and transport.auto else ""


def _without(case: Case, name: str, wire: list[RailOffer]) -> Finding:
    reasons = listed((f"{rail.device}: {rail.why}" for rail in wire), 4)
    return Finding(
        "problem",
        name,
        "rails",
        f"no rail of {name} reaches another machine" + (f" ({reasons})" if reasons else ""),
        "only peers on this machine can be reached" if name == "tcp" else f"{name} is not used",
        in_container(
            case,
            run="--network=host",
            pod="give the pod a network, or set hostNetwork: true in its spec",
        )
        or ("mend one of the devices named here, or add one; see the findings about each",),
    )


def _only_virtual(case: Case, usable: list[RailOffer]) -> Finding:
    fix = in_container(
        case,
        run="--network=host",
        pod="set hostNetwork: true in the pod's spec, or attach a NIC (SR-IOV, Multus)",
    )
    return Finding(
        "advice" if case.container else "note",
        "tcp",
        "rails",
        f"only virtual devices carry traffic: {listed(rail.device for rail in usable)}",
        "every byte takes a detour through the host's network stack, and the speed is not known",
        fix,
    )
