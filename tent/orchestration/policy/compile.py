"""Machine + policy + transports -> plan: a pure function.

Leans on topology's distances, the catalog's offers and the plan as values. It must never look at
the machine, and for equal arguments it gives equal plans.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tent.errors import PolicyError
from tent.orchestration.plan import Plan, Rail, Route, Rung, Value
from tent.orchestration.policy import select
from tent.orchestration.policy.model import AUTO, Finding, Match, Policy, Rule, Span, Use
from tent.topology.distance import Distances, locations
from tent.topology.model import Topology
from tent.transports.model import Catalog, Memory, RailOffer
from tent.transports.offers import offers

ROUTES_MAX = 256
"""As many as a plan holds (docs/plan-format.md)."""
LOCATIONS_SIZE_MAX = 255
"""Bytes of a rail's list of near locations."""

Reach = Literal["all", "loopback"]

Groups = tuple[tuple[int, ...], ...]
"""Rail numbers by tier."""


@dataclass(frozen=True)
class Compiled:
    """A plan, and what its author should know: devices left out, rules that nothing can serve."""

    plan: Plan
    findings: tuple[Finding, ...] = ()

    @property
    def rails(self) -> frozenset[select.Key]:
        """Transport and device of every rail."""
        return frozenset((rail.transport, rail.device) for rail in self.plan.rails if rail)


def compile_plan(
    topology: Topology,
    policy: Policy,
    catalog: Catalog,
    *,
    reach: Reach = "all",
    previous: Plan | None = None,
    held: Collection[select.Key] = (),
) -> Compiled:
    """The plan for this machine under this policy with these transports.

    reach: "loopback" leaves out every rail that other machines could see; for engines that listen
    on loopback. previous: the plan in force; rails that stay keep their numbers. held: rails that
    stay as they stood there though they are down at the moment. Raises
    PolicyError when the policy names unknown transports, or asks for more than a plan can hold;
    what this machine merely lacks now is a finding, and requests that need it are refused.
    """
    return _Compiler(topology, policy, catalog, reach, previous, held).run()


class _Compiler:
    def __init__(
        self,
        topology: Topology,
        policy: Policy,
        catalog: Catalog,
        reach: Reach,
        previous: Plan | None,
        held: Collection[select.Key],
    ) -> None:
        self.policy = policy
        self.catalog = catalog
        self.findings: list[Finding] = []
        self.distances = Distances(topology)
        self.locations = locations(topology)
        self.has_gpus = bool(topology.gpus)
        self.order = self._order()
        offered = offers(catalog, topology)
        # Their lines stay to the letter: a device that is down may have lost its address, and the
        # engine keeps a rail open whose line did not change.
        down = {select.key(offer) for offer in offered if not offer.usable} & set(held)
        self.lines = {
            (rail.transport, rail.device): rail
            for rail in (previous.rails if previous else ())
            if rail is not None and (rail.transport, rail.device) in down
        }
        kept, findings = select.select(
            offered,
            policy,
            self._wanted(),
            loopback_only=reach == "loopback",
            # One that stood in no plan has nothing to keep.
            held=self.lines,
        )
        self.findings += findings
        self.numbers = select.numbered(kept, previous.rails if previous else ())
        self.near = {
            (offer, place): self._tier(offer, place) for offer in kept for place in self.locations
        }

    def run(self) -> Compiled:
        """All of it."""
        routes: list[Route] = []
        for rule in self._rules():
            routes += [*self._routes(rule), *self._strict(rule)]
        # A plan has a route at least: a closed policy without rules refuses everything.
        routes = _reachable(routes) or [Route(ladder=())]
        if len(routes) > ROUTES_MAX:
            raise PolicyError(
                f"{self.policy.source}: {len(self.policy.rules)} rules over {len(self.locations)} "
                f"memory locations need {len(routes)} routes, and a plan holds {ROUTES_MAX}; let "
                "rules name the location they are for, or join some"
            )
        plan = Plan(
            rails=self._rails(),
            routes=routes,
            settings=self._settings(),
        )
        return Compiled(plan=plan, findings=tuple(dict.fromkeys(self.findings)))

    def _rules(self) -> Iterator[Rule]:
        """Up to the first that matches all; the default one where none does."""
        for rule in self.policy.rules:
            yield rule
            if not _pairs(rule.match):
                return
        if not self.policy.closed:
            yield Rule(name="the default rule")

    # ---- transports and rails

    def _order(self) -> tuple[str, ...]:
        """What `auto` stands for."""
        if not self.policy.transports:
            return tuple(t.name for t in self.catalog.transports if t.auto and not t.decorates)
        policy = self.policy
        for name in policy.transports:
            self._known(name, policy.overridden.get("transports", f"{policy.source}: transports"))
        return self.policy.transports

    def _wanted(self) -> tuple[str, ...]:
        """Every transport that a route may name, the preferred first."""
        wanted = dict.fromkeys(self.order)
        for rule in self.policy.rules:
            if rule.use.transports == AUTO:
                continue
            line = f":{rule.line}" if rule.line else ""
            for name in rule.use.transports:
                self._known(name, f'{self.policy.source}{line}: rule "{rule.name}"')
                wanted[name] = None
        return tuple(name for name in wanted if self._available(name))

    def _known(self, name: str, where: str) -> None:
        if self.catalog.find(name) is None:
            close = difflib.get_close_matches(name, self.catalog.names, n=1)
            hint = f'; did you mean "{close[0]}"?' if close else ""
            raise PolicyError(
                f'{where}: no transport is named "{name}", known are '
                f"{', '.join(self.catalog.names) or 'none'}{hint}"
            )

    def _available(self, name: str) -> bool:
        transport = self.catalog.find(name)
        return transport is not None and transport.available and not transport.decorates

    def _tier(self, offer: RailOffer, place: str) -> int:
        """What the policy says of the distance, else what the machine is."""
        for location, glob, tier in self.policy.rails.tiers:
            if location == place and select.matches(offer, (glob,)):
                return tier
        return 1 if offer.nic is None else self.distances.tier(place, offer.nic)

    def _rails(self) -> list[Rail | None]:
        rails: list[Rail | None] = [None] * (max(self.numbers.values(), default=-1) + 1)
        for offer, number in self.numbers.items():
            tier1, tier2 = self._neighbours(offer)
            rails[number] = self.lines.get(select.key(offer)) or select.with_settings(
                offer, self.policy, tier1, tier2
            )
        return rails

    def _neighbours(self, offer: RailOffer) -> tuple[list[str], list[str]]:
        """Locations of tiers 1 and 2, without what the rail's node says already."""
        tiers: dict[int, list[str]] = {1: [], 2: [], 3: []}
        if offer.nic is None or len(self.locations) == 1:
            return [], []
        implied = None if offer.numa is None else f"cpu:{offer.numa}"
        for place in self.locations:
            tier = self.near[offer, place]
            if not (tier == 1 and place == implied):
                tiers[tier].append(place)
        return self._fitting(offer, tiers[1]), self._fitting(offer, tiers[2])

    def _fitting(self, offer: RailOffer, places: list[str]) -> list[str]:
        size = 0
        for count, place in enumerate(places):
            size += len(place) + 1
            if size - 1 > LOCATIONS_SIZE_MAX:
                what = (
                    f"peers are not told of all {len(places)} locations that {offer.device} is near"
                )
                self.findings.append(Finding(error=False, what=what, where="rails"))
                return places[:count]
        return places

    def _settings(self) -> dict[str, Value]:
        used = {offer.transport for offer in self.numbers}
        settings: dict[str, Value] = dict(self.policy.parameters)
        for transport, values in self.policy.transport_options.items():
            self._known(transport, f"{self.policy.source}: transport options")
            if transport in used:
                settings.update({f"{transport}.{name}": value for name, value in values.items()})
        return settings

    # ---- routes

    def _routes(self, rule: Rule) -> list[Route]:
        """The rule's rows: one for every group of local locations with another ladder."""
        local = rule.match.local
        if local is not None and ":" in local:
            place = local if local in self.locations else None
            return [self._row(rule, local, self._ladder(rule, place, local))]
        flat = self._ladder(rule, None, local)
        rows: list[Route] = []
        covered = 0
        classes = [local] if local else sorted({_class(place) for place in self.locations})
        for class_ in classes:
            places = [place for place in self.locations if _class(place) == class_]
            ladders = {place: self._ladder(rule, place, class_) for place in places}
            if not places or all(ladder == flat for ladder in ladders.values()):
                continue
            if len({*map(_key, ladders.values())}) == 1:
                rows.append(self._row(rule, class_, ladders[places[0]]))
                covered += class_ == local
                continue
            rows += [self._row(rule, place, ladder) for place, ladder in ladders.items()]
        return rows if covered else [*rows, self._row(rule, local, flat)]

    def _strict(self, rule: Rule) -> list[Route]:
        """A rule that names transports or devices never falls through to the next.

        Without this row, requests to a peer that none of its rails reaches would: a plan's row
        counts only for the peers that one of its rails reaches.
        """
        if rule.use.transports == AUTO and not rule.use.devices:
            return []
        return [self._row(rule, rule.match.local, ())]

    def _ladder(self, rule: Rule, place: str | None, local: str | None) -> tuple[Rung, ...]:
        """The rungs for memory at this place; None: any that is not known here."""
        use = rule.use
        names = self.order if use.transports == AUTO else use.transports
        rungs = []
        for name in names:
            chosen = [
                offer
                for offer in self.numbers
                if offer.transport == name
                and (not use.devices or select.matches(offer, use.devices))
            ]
            if not chosen:
                continue
            via = self._via(rule, name, local, inside=all(offer.inside for offer in chosen))
            if via == "never":
                continue
            rungs.append(
                Rung(
                    transport=name,
                    tiers=self._tiers(chosen, place),
                    options=_rung_options(use, via),
                )
            )
        if not rungs:
            on = f" on {', '.join(use.devices)}" if use.devices else ""
            whose = f" for memory at {local}" if local and local != rule.match.local else ""
            what = (
                f'rule "{rule.name}" has no usable rail here{whose} '
                f"({', '.join(names) or 'no transport'}{on}): its requests are refused"
            )
            where = f"{self.policy.source}:{rule.line}" if rule.line else self.policy.source
            self.findings.append(Finding(error=False, what=what, where=where))
        return tuple(rungs)

    def _tiers(self, chosen: Sequence[RailOffer], place: str | None) -> Groups:
        groups: dict[int, list[int]] = {1: [], 2: [], 3: []}
        for offer in chosen:
            near = 1 if place is None else self.near[offer, place]
            groups[near].append(self.numbers[offer])
        return tuple(tuple(sorted(group)) for group in groups.values() if group)

    def _via(self, rule: Rule, transport: str, local: str | None, *, inside: bool) -> str:
        """How the bytes get to memory that the transport does not reach; "": directly.

        "never": by this transport not at all. What stays inside the machine is not staged unless a
        rule says so: where device memory can be copied to the host, it can be copied to the peer.
        """
        staging = rule.use.staging
        if staging in ("host", "local", "remote", "both"):
            return staging
        found = self.catalog.find(transport)
        if found is None or Memory.CUDA in found.memory:
            return ""
        remote = rule.match.remote
        device = "cuda" in (_class(local or ""), _class(remote or ""))
        # Peers of a machine with GPUs have GPUs: where nothing is said of the remote side, it may
        # be one.
        if not device and (remote is not None or not self.has_gpus):
            return ""
        if staging == "never" or inside:
            return "never" if device else ""
        return "host"

    def _row(self, rule: Rule, local: str | None, ladder: tuple[Rung, ...]) -> Route:
        match = _pairs(rule.match)
        if local is not None:
            match["local"] = local
        words: dict[str, Value] = {}
        if not ladder:
            return Route(ladder=(), match=match)
        use = rule.use
        if use.class_ is not None:
            words["class"] = use.class_
        if use.deadline_ns is not None:
            words["deadline"] = f"{use.deadline_ns}ns"
        if use.integrity:
            words["integrity"] = True
        if use.retry_budget is not None:
            words["retry_budget"] = use.retry_budget
        return Route(ladder=ladder, match=match, use=words)


def _class(place: str) -> str:
    return place.split(":")[0]


def _key(ladder: Iterable[Rung]) -> tuple[object, ...]:
    return tuple((r.transport, r.tiers, tuple(sorted(r.options.items()))) for r in ladder)


def _pairs(match: Match) -> dict[str, Value]:
    """The conditions of a plan's route, in its order."""
    found: dict[str, Value] = {}
    if match.op is not None:
        found["op"] = match.op
    if match.local is not None:
        found["local"] = match.local
    if match.remote is not None:
        found["remote"] = match.remote
    if match.same_host is not None:
        found["same_host"] = match.same_host
    if match.size is not None:
        found["size"] = _span(match.size)
    if match.class_ is not None:
        found["class"] = match.class_
    if match.label is not None:
        found["label"] = match.label
    if match.peer is not None:
        found["peer"] = match.peer
    return found


def _span(span: Span) -> str:
    least = "" if span.least is None else str(span.least)
    return f"{least}..{'' if span.most is None else span.most}"


def _rung_options(use: Use, via: str) -> dict[str, Value]:
    options: dict[str, Value] = {}
    if via:
        options["via"] = via
    if use.slice is not None:
        least, most = use.slice.least, use.slice.most
        options["slice"] = str(most) if least is None else _span(use.slice)
    if use.window_bytes is not None:
        options["window"] = use.window_bytes
    if use.strategy is not None:
        options["strategy"] = use.strategy
    if use.hedge is not None:
        options["hedge"] = use.hedge
    return options


def _reachable(routes: Sequence[Route]) -> list[Route]:
    """Without rows behind one that serves or refuses the same requests for sure."""
    kept: list[Route] = []
    seen: dict[tuple[object, ...], bool] = {}
    for route in routes:
        key = tuple(sorted((name, str(value)) for name, value in route.match.items()))
        refusing = not route.ladder
        if seen.get(key, False) or (key in seen and not refusing):
            continue
        seen[key] = refusing
        kept.append(route)
    return kept
