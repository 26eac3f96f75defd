"""The native library's structs, already read into plain values, as the facts of tent.types.

Leans on tent.types. Field names are those of tent.h; a test holds both equal. Must never touch a
C value: reading those is _abi's alone.
"""

from __future__ import annotations

from typing import Any

from tent.types import (
    Access,
    Candidate,
    Class,
    CounterRow,
    Event,
    EventType,
    Explanation,
    MemoryInfo,
    RegionInfo,
    State,
    Strategy,
    UnfencedRange,
    Verdict,
)

Values = dict[str, Any]
"""Field -> number or text."""


def region_info(values: Values) -> RegionInfo:
    """Of tent_region_info."""
    return RegionInfo(**{**values, "access": Access(values["access"])})


def memory_info(values: Values) -> MemoryInfo:
    """Of tent_memory_info."""
    said = {name: bool(values[name]) for name in ("transparent", "mappable")}
    return MemoryInfo(**{**values, **said, "access": Access(values["access"])})


def event(values: Values) -> Event:
    """Of tent_event; types that a newer library may have stay numbers."""
    number = values["type"]
    known = number in EventType._value2member_map_
    return Event(**{**values, "type": EventType(number) if known else number})


def unfenced_range(values: Values) -> UnfencedRange:
    """Of tent_unfenced_range."""
    return UnfencedRange(**{**values, "proven": bool(values["proven"])})


def counter_row(values: Values) -> CounterRow:
    """Of tent_counters."""
    return CounterRow(**{**values, "state": State(values["state"])})


def candidate(values: Values) -> Candidate:
    """Of tent_candidate."""
    state, verdict = State(values["state"]), Verdict(values["verdict"])
    return Candidate(**{**values, "state": state, "verdict": verdict})


def explanation(values: Values, candidates: tuple[Candidate, ...]) -> Explanation:
    """Of tent_explanation."""
    said = {
        "strategy": Strategy(values["strategy"]),
        "class_": Class(values["class_"]),
        "integrity": bool(values["integrity"]),
    }
    return Explanation(**{**values, **said, "candidates": candidates})
