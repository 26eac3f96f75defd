"""Whatever requests one call holds, memory ends as a numpy model of them says."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tent.testing import Pair, pattern

pytest_plugins = ["tests_fixtures"]

ROOM = 1 << 20


@st.composite
def scatters(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], ...]:
    """(from, to, length) columns with disjoint destinations in any order, sources anywhere."""
    seed = draw(st.integers(0, 2**32 - 1))
    count = draw(st.integers(1, 300))
    longest = draw(st.sampled_from([1, 7, 64, 4096, 100_000]))
    random = np.random.default_rng(seed)
    lengths = random.integers(1, min(longest, ROOM // count) + 1, count).astype(np.uint64)
    gaps = random.integers(0, (ROOM - int(lengths.sum())) // count + 1, count).astype(np.uint64)
    to = np.cumsum(lengths + gaps) - lengths
    source = (random.random(count) * (ROOM - lengths)).astype(np.uint64)
    order = random.permutation(count)
    return source[order], to[order], lengths[order]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(scatter=scatters(), op=st.sampled_from(["read", "write"]), seed=st.integers(0, 1000))
def test_scatter_and_gather(
    pair: Pair, scatter: tuple[np.ndarray[Any, Any], ...], op: str, seed: int
) -> None:
    begin, to, length = scatter
    source, target = pair.local_bytes, pair.remote_bytes
    local, remote = begin, to
    if op == "read":
        source, target = target, source
        local, remote = to, begin
    source[:] = pattern(ROOM, seed=seed)
    target[:] = 0
    pair.initiator.submit(
        pair.segment,
        op=op,
        local=(pair.local, local),
        remote=("target", remote),
        length=length,
        check_overlap=True,
    ).wait(30)
    expected = np.zeros(ROOM, dtype=np.uint8)
    for f, t, n in zip(begin.tolist(), to.tolist(), length.tolist(), strict=True):
        expected[t : t + n] = source[f : f + n]
    assert np.array_equal(target, expected)
