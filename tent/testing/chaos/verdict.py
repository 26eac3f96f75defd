"""What a run found: the violation that ended it, or figures that show it was no empty one.

Leans on nothing. The numbers of invariants are those of the design's list.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

INVARIANTS = {
    1: "each request ends exactly once, none after its batch is closed",
    2: "terminal means quiescent: no late read, no late write",
    3: "slices are disjoint, not empty, and add up to their request",
    4: "charged equals released at rest",
    5: "a quarantined endpoint carries probes only, and probes never touch user memory",
    8: "a request with a usable path ends well in time; every request ends",
    9: "no access outside of what is granted",
    10: "the bytes are right",
    11: "notices come once, in order, after their data",
}
# 6 (no allocation per slice) is a native test's, 7 (progress without Python) has no meaning where
# Python turns the clock.


class Violation(Exception):
    """A promise was broken."""

    def __init__(self, invariant: int, what: str) -> None:
        super().__init__(what)
        self.invariant = invariant
        self.what = what


@dataclass
class Verdict:
    """One seed's."""

    seed: int
    invariant: int = 0  # 0: all held
    what: str = ""
    trace_hash: str = ""
    virtual_ns: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)  # the last things that happened

    @property
    def held(self) -> bool:
        """Were all promises kept?"""
        return self.invariant == 0

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "tally": dict(self.tally)}

    @staticmethod
    def of_plain(plain: dict[str, Any]) -> Verdict:
        """Back from JSON."""
        return Verdict(**{**plain, "tally": Counter(plain["tally"])})
