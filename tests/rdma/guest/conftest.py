"""Fixtures of the tests that run in the rig's guest, and their skipping everywhere else.

Leans on soft_rails.py. These tests take network devices down and RDMA devices away: they run in the
machine that tests/rdma/rig boots for them and in no other.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from soft_rails import SoftRail

# For peers.py: a peer in a process of its own is the same everywhere.
sys.path.append(str(Path(__file__).resolve().parents[2] / "procs"))

# What stage2.sh has sourced: nothing but the rig's guest has it.
IN_GUEST = Path("/run/rig/settings").exists()


class Elsewhere(pytest.Module):
    """A test module where there is no rig."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        pytest.skip("needs RDMA devices of its own: make test-rdma", allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    return None if IN_GUEST else Elsewhere.from_parent(parent, path=module_path)


@pytest.fixture
def rails() -> Iterator[list[SoftRail]]:
    """All rails of the guest, whole again after the test."""
    names = sorted(path.name for path in Path("/sys/class/net").glob("ra*"))
    found = [SoftRail(int(name.removeprefix("ra"))) for name in names]
    assert found, "the guest has no rails: see tests/rdma/rig/rails.sh"
    yield found
    for rail in found:
        rail.restore()
