"""Faults of a plan, as they come and go on the simulated fabric: one list of them in time.

Leans on stage.py. A rail may suffer from several at once: each is an overlay of its facts, and what
is taken back is that overlay. Must never touch what engines do; the runner does that part.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from tent.resilience.faults import Fault, FaultPlan
from tent.testing.sim import Rail

_OVERLAYS: dict[str, Callable[[Fault], dict[str, Any]]] = {
    "link_down": lambda fault: {"up": False},
    "black_hole": lambda fault: {"blackhole": True},
    "rate": lambda fault: {"bandwidth": fault.bandwidth_bytes_per_s},
    "lossy": lambda fault: {"loss": fault.chance},
    "late": lambda fault: {"late": fault.chance, "late_ns": fault.late_by_ns},
    "duplicate": lambda fault: {"duplicate": fault.chance, "late_ns": fault.late_by_ns},
    "corrupt": lambda fault: {"corrupt": fault.chance},
}


class Agenda:
    """What happens when: (time, what, with what), earliest first, then as it was added."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str, Any]] = []
        self._count = 0

    def add(self, at_ns: int, what: str, thing: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at_ns, self._count, what, thing))

    @property
    def next_ns(self) -> int | None:
        """When the next thing happens."""
        return self._heap[0][0] if self._heap else None

    def take(self, now_ns: int) -> tuple[str, Any] | None:
        """The next thing that is due."""
        if not self._heap or self._heap[0][0] > now_ns:
            return None
        _, _, what, thing = heapq.heappop(self._heap)
        return what, thing


class Weather:
    """The rails' faults."""

    def __init__(self, plan: FaultPlan, rails: dict[str, Rail], agenda: Agenda) -> None:
        self.rails = rails
        self.agenda = agenda
        self.calm = {name: rail.facts for name, rail in rails.items()}
        self.overlays: dict[str, list[tuple[int, dict[str, Any]]]] = {name: [] for name in rails}
        self._count = 0

    def strike(self, fault: Fault, now_ns: int) -> None:
        """One fault of a rail begins."""
        name = fault.rail
        if fault.do == "heal":
            self.overlays[name].clear()
        elif fault.do == "link_up":
            self.overlays[name] = [item for item in self.overlays[name] if item[1].get("up", True)]
        elif fault.do == "flap":
            change = {"blackhole": True} if fault.silent else {"up": False}
            half_ns = fault.period_ns // 2
            for begin_ns in range(0, fault.for_ns, fault.period_ns):
                self.agenda.add(now_ns + begin_ns, "overlay", (name, change, half_ns))
            return
        else:
            self.lay((name, _OVERLAYS[fault.do](fault), fault.for_ns), now_ns)
            return
        self._apply(name)

    def lay(self, thing: tuple[str, dict[str, Any], int], now_ns: int) -> None:
        """An overlay comes, for so long (0: for good)."""
        name, change, for_ns = thing
        self._count += 1
        self.overlays[name].append((self._count, change))
        if for_ns:
            self.agenda.add(now_ns + for_ns, "lift", (name, self._count))
        self._apply(name)

    def lift(self, thing: tuple[str, int]) -> None:
        """An overlay goes, if nothing healed it before."""
        name, number = thing
        self.overlays[name] = [item for item in self.overlays[name] if item[0] != number]
        self._apply(name)

    def calm_down(self) -> None:
        """All rails are as the plan's world says; chances of theirs end, too."""
        for name, rail in self.rails.items():
            self.overlays[name].clear()
            self.calm[name] = type(rail.facts)(
                bandwidth=self.calm[name].bandwidth,
                latency_ns=self.calm[name].latency_ns,
                down_detect_ns=self.calm[name].down_detect_ns,
            )
            self._apply(name)

    def _apply(self, name: str) -> None:
        facts = {**vars(self.calm[name])}
        for _, change in self.overlays[name]:
            facts.update(change)
        rail = self.rails[name]
        changes = {key: value for key, value in facts.items() if getattr(rail.facts, key) != value}
        if changes:
            rail.set(**changes)
