"""Pairs of engines for the tests beside it, which name this module in `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests_support import LENGTH, PLAN, SLOW_PLAN

from tent.testing import Pair, engine_pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    with engine_pair(plan=PLAN, length=LENGTH) as made:
        yield made


@pytest.fixture
def slow() -> Iterator[Pair]:
    """A megabyte takes most of a second."""
    with engine_pair(plan=SLOW_PLAN, length=LENGTH) as made:
        yield made
