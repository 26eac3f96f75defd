"""Which of the rails that a machine offers stand in its plan, and under which numbers.

Leans on the offers and the policy as values. Pure: equal arguments, equal answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from tent.orchestration.plan import Rail
from tent.orchestration.policy.model import Finding, Policy
from tent.transports.model import RailOffer

RAILS_MAX = 64
"""As many as a plan holds (docs/plan-format.md)."""
SLOWEST_SHARE = 32
"""A rail slower than this part of its transport's fastest is left out unless it is named: a
management port beside the ports for data would cost connections and bring nothing."""


Key = tuple[str, str]
"""Transport and device of a rail."""


def key(offer: RailOffer) -> Key:
    """What names the rail in every plan."""
    return offer.transport, offer.device


def matches(offer: RailOffer, globs: Iterable[str]) -> bool:
    """Whether one of the globs means this rail: by device, by "transport:device", or by its NIC."""
    names = [offer.device, f"{offer.transport}:{offer.device}"]
    if offer.nic:
        names.append(offer.nic)
    return any(fnmatchcase(name, glob) for glob in globs for name in names)


def select(
    offers: Sequence[RailOffer],
    policy: Policy,
    transports: Sequence[str],
    *,
    loopback_only: bool,
    held: Collection[Key] = (),
) -> tuple[list[RailOffer], list[Finding]]:
    """The offers that become rails, those of preferred transports first.

    held: rails that stay though they cannot carry anything at the moment.
    """
    offers = [
        replace(offer, usable=True) if key(offer) in held and not offer.by_name else offer
        for offer in offers
    ]
    chosen: list[RailOffer] = []
    findings: list[Finding] = []
    for transport in transports:
        own = [offer for offer in offers if offer.transport == transport]
        chosen += _of_transport(own, policy, loopback_only, findings)
    kept = _at_most(chosen, RAILS_MAX)
    if len(kept) < len(chosen):
        findings.append(
            Finding(
                error=False,
                what=f"{len(chosen)} rails are usable and a plan holds {RAILS_MAX}: the fastest "
                "of every transport and node were taken; choose with rails.include",
                where="rails",
            )
        )
    return kept, findings


def _of_transport(
    offers: list[RailOffer], policy: Policy, loopback_only: bool, findings: list[Finding]
) -> list[RailOffer]:
    include, exclude = policy.rails.include, policy.rails.exclude
    allowed = [offer for offer in offers if not matches(offer, exclude)]
    if loopback_only:
        allowed = [offer for offer in allowed if offer.loopback]
    named = [offer for offer in allowed if matches(offer, include)]
    for offer in named:
        if not offer.usable and not offer.by_name:
            what = f"{offer.transport} {offer.device} is left out: {offer.why or 'not usable'}"
            findings.append(Finding(error=False, what=what, where="rails.include"))
    if include:
        return [offer for offer in named if offer.usable or offer.by_name]
    usable = [offer for offer in allowed if offer.usable]
    # Loopback only where nothing else is, and then virtual devices before it.
    inside = [offer for offer in usable if offer.inside]
    real = [offer for offer in usable if not offer.loopback and not offer.virtual]
    virtual = [offer for offer in usable if not offer.loopback and offer.virtual]
    stopgap = [offer for offer in usable if offer.loopback and not offer.inside]
    return inside + _quick(real or virtual or ([] if inside else stopgap), policy, findings)


def _quick(offers: list[RailOffer], policy: Policy, findings: list[Finding]) -> list[RailOffer]:
    """Without those that are slower by far than the fastest."""
    speeds = {offer: speed(offer, policy) for offer in offers}
    fastest = max((gbps for gbps in speeds.values() if gbps), default=0.0)
    kept = []
    for offer, gbps in speeds.items():
        if gbps is None or gbps * SLOWEST_SHARE >= fastest:
            kept.append(offer)
            continue
        findings.append(
            Finding(
                error=False,
                what=f"{offer.transport} {offer.device} is left out: {gbps:g} Gbit/s beside rails "
                f"of {fastest:g}; name it in rails.include if it shall carry data",
                where="rails",
            )
        )
    return kept


def speed(offer: RailOffer, policy: Policy) -> float | None:
    """Nominal Gbit/s: the policy's last word, else what was found."""
    found = offer.gbps
    for glob, gbps in policy.rails.gbps.items():
        if matches(offer, (glob,)):
            found = gbps
    return found


def options(offer: RailOffer, policy: Policy) -> dict[str, str]:
    """The rail's options: what the device needs, over it what the policy says."""
    found = dict(offer.options)
    for glob, values in policy.rails.options.items():
        if matches(offer, (glob,)):
            found.update(values)
    return found


def _at_most(offers: list[RailOffer], room: int) -> list[RailOffer]:
    """In turn from every (transport, node), the fastest of each first; in the order given."""
    if len(offers) <= room:
        return offers
    groups: dict[tuple[str, int | None], list[RailOffer]] = {}
    for offer in sorted(offers, key=lambda o: -(o.gbps or 0.0)):
        groups.setdefault((offer.transport, offer.numa), []).append(offer)
    taken: list[RailOffer] = []
    while len(taken) < room:
        for group in groups.values():
            if group and len(taken) < room:
                taken.append(group.pop(0))
    return [offer for offer in offers if offer in set(taken)]


def numbered(offers: Sequence[RailOffer], previous: Sequence[Rail | None]) -> dict[RailOffer, int]:
    """A plan index for every rail; those that stood in the plan before keep theirs.

    Peers know rails by number, and the engine keeps a rail open whose line did not change.
    """
    known = {(rail.transport, rail.device): i for i, rail in enumerate(previous) if rail}
    numbers = {offer: known[key(offer)] for offer in offers if key(offer) in known}
    free = iter(sorted(set(range(RAILS_MAX)) - set(numbers.values())))
    return {offer: numbers[offer] if offer in numbers else next(free) for offer in offers}


def with_settings(
    offer: RailOffer, policy: Policy, tier1: Sequence[str], tier2: Sequence[str]
) -> Rail:
    """The plan's rail of an offer."""
    return Rail(
        transport=offer.transport,
        device=offer.device,
        numa=offer.numa,
        gbps=speed(offer, policy),
        options=options(offer, policy),
        tier1=tuple(tier1),
        tier2=tuple(tier2),
    )
