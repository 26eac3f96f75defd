"""Public test harness: the conformance suite that every transport passes, and its parts.

Needs pytest (the `test` extra).
"""
# ruff: noqa: E402 - pytest must know the modules with assertions before they are imported

import pytest

pytest.register_assert_rewrite(
    "tent.testing.conformance", "tent.testing.conformance_memory", "tent.testing.fixtures"
)

from tent.scheduler.bound import Flapping, Piecewise
from tent.testing.conformance import TransportConformance
from tent.testing.fixtures import Pair, engine_pair, pattern
from tent.testing.quirks import Quirks
from tent.testing.sim import Fabric
from tent.testing.waiting import eventually

__all__ = [
    "Fabric",
    "Flapping",
    "Pair",
    "Piecewise",
    "Quirks",
    "TransportConformance",
    "engine_pair",
    "eventually",
    "pattern",
]
