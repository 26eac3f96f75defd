"""The table of simulated fabrics on which scheduling strategies are compared, as data.

Leans on the schedules of tent.scheduler.bound and report's units. What a fabric looks like to the
scheduler (nominal speeds, tiers) stands beside what it is (bandwidth, latency, cuts). Must never
build anything: scene.py does.
"""

from __future__ import annotations

from dataclasses import dataclass

from report import GIB, KIB, MIB

from tent.scheduler.bound import Bandwidth, Cut, Flapping, Fluid, Piecewise, Rail

GB = 1e9
RDMA = 25 * GB
US = 1000
MS = 1_000_000
SECOND = 1_000_000_000

SIZES = (64 * KIB, MIB, 16 * MIB, 256 * MIB, GIB)


@dataclass(frozen=True)
class RailSpec:
    """A rail of a host: what it does, and what it says of itself."""

    bandwidth: Bandwidth = RDMA
    latency_ns: int = 5 * US
    nominal: float | None = None
    """bytes/s told to the scheduler; None: its (first or highest) bandwidth, 0: it says nothing"""


@dataclass(frozen=True)
class CutSpec:
    """What some of the initiator's rails (by index) pass together."""

    rails: tuple[int, ...]
    bandwidth: float


@dataclass(frozen=True)
class Backlog:
    """Bytes to another peer, posted on one rail just before each request."""

    rail: int
    nbytes: int


@dataclass(frozen=True)
class Goal:
    """Efficiencies wanted of the predictive strategy with 16 MiB requests."""

    one: float
    four: float


@dataclass(frozen=True)
class FabricSpec:
    """Hosts that write to one target. All initiators are alike."""

    name: str
    title: str
    rails: tuple[RailSpec, ...]
    target: tuple[RailSpec, ...]
    initiators: int = 1
    cuts: tuple[CutSpec, ...] = ()
    tiers: str = ""
    """tiers of the rung as in a plan, "0 1 | 2"; "" all rails in one"""
    backlog: Backlog | None = None
    sizes: tuple[int, ...] = SIZES
    outstanding: tuple[int, ...] = (1, 4)
    spread_ns: int = 0
    """requests are spread over at least this much time, so that a period is met everywhere"""
    goal: Goal | None = None
    plain: bool = True
    """False: only for the parts of the scheduler that are switched off in turn"""

    def rung(self) -> str:
        """The tiers, with all rails in one where nothing else is said."""
        return self.tiers or " ".join(str(index) for index in range(len(self.rails)))

    def fluid(self) -> Fluid:
        """All that can carry a round: every initiator's rails, its cuts, the target's ports.

        Queues ahead are not in it; they belong to a request.
        """
        count = len(self.rails)
        paths = tuple(
            Rail(rail.bandwidth, max(rail.latency_ns, min(t.latency_ns for t in self.target)))
            for _ in range(self.initiators)
            for rail in self.rails
        )
        cuts = [
            Cut(frozenset(host * count + rail for rail in cut.rails), cut.bandwidth)
            for host in range(self.initiators)
            for cut in self.cuts
        ]
        ports = sum(_constant(rail) for rail in self.target)
        cuts.append(Cut(frozenset(range(len(paths))), ports))
        return Fluid(paths, tuple(cuts))


def _constant(rail: RailSpec) -> float:
    if not isinstance(rail.bandwidth, float):
        raise ValueError("the target's rails have constant bandwidths; vary the initiator's")
    return rail.bandwidth


_FAST = RailSpec()
_EIGHT = (_FAST,) * 8
_HALF = RailSpec(RDMA / 2)
_TCP = RailSpec(3 * GB, 50 * US)
_FLAPPING = RailSpec(Flapping(high=RDMA, low=RDMA / 5, period_ns=MS), nominal=RDMA)
# The second rail flaps a quarter of a period apart: every combination of states is met.
_FLAPPING_LATER = RailSpec(
    Flapping(high=RDMA, low=RDMA / 5, period_ns=MS, phase_ns=MS // 4), nominal=RDMA
)

FABRICS = (
    FabricSpec("equal", "8 equal rails", _EIGHT, _EIGHT, goal=Goal(0.93, 0.97)),
    FabricSpec(
        "half",
        "4 fast rails, 4 of half the speed",
        (_FAST,) * 4 + (_HALF,) * 4,
        (_FAST,) * 4 + (_HALF,) * 4,
        goal=Goal(0.92, 0.97),
    ),
    FabricSpec(
        "lying",
        "one of 8 rails at 10 % of what it says",
        (RailSpec(RDMA / 10, nominal=RDMA), *_EIGHT[1:]),
        _EIGHT,
        goal=Goal(0.90, 0.97),
    ),
    FabricSpec(
        "flapping",
        "two of 8 rails at 100 / 20 % in turns of half a ms",
        (_FLAPPING, _FLAPPING_LATER, *_EIGHT[2:]),
        _EIGHT,
        spread_ns=30 * MS,
        goal=Goal(0.88, 0.97),
    ),
    FabricSpec(
        "tcp",
        "7 RDMA-class rails, one TCP-class",
        (*_EIGHT[1:], _TCP),
        (*_EIGHT[1:], _TCP),
        goal=Goal(0.90, 0.97),
    ),
    FabricSpec(
        "tiers",
        "tiers of 1, 3 and 4 rails, the last behind a link of half their speed",
        (_FAST,) + (RailSpec(latency_ns=6 * US),) * 3 + (RailSpec(latency_ns=7 * US),) * 4,
        _EIGHT,
        cuts=(CutSpec((4, 5, 6, 7), 2 * RDMA),),
        tiers="0 | 1 2 3 | 4 5 6 7",
    ),
    FabricSpec(
        "backlog",
        "640 KiB to another peer wait on one of 2 rails",
        (_FAST,) * 2,
        (_FAST,) * 2,
        backlog=Backlog(0, 640 * KIB),
        sizes=(2 * MIB,),
        outstanding=(1,),
    ),
    FabricSpec(
        "incast",
        "8 hosts of one rail to one rail",
        (_FAST,),
        (_FAST,),
        initiators=8,
    ),
    FabricSpec(
        "incast2",
        "8 hosts of two rails to two rails",
        (_FAST,) * 2,
        (_FAST,) * 2,
        initiators=8,
    ),
    # Requests stand far apart: what was believed has time to be forgotten.
    FabricSpec(
        "recovered",
        "one of 8 rails at 10 % of what it says for a second, then whole",
        (RailSpec(Piecewise([(0, RDMA / 10), (SECOND, RDMA)]), nominal=RDMA), *_EIGHT[1:]),
        _EIGHT,
        sizes=(MIB, 16 * MIB),
        outstanding=(1,),
        spread_ns=200 * SECOND,
        plain=False,
    ),
)

BY_NAME = {fabric.name: fabric for fabric in FABRICS}
