"""Slices are sprayed over real RDMA devices: over all of them, and by their speed."""

from __future__ import annotations

import pytest
from soft_rails import SoftRail
from soft_world import LENGTH, world


@pytest.mark.parametrize("op", ["write", "read"])
def test_both_rails_carry_bytes_and_each_counts_its_own(rails: list[SoftRail], op: str) -> None:
    side = "a" if op == "write" else "b"
    with world(rails) as made:
        moved, sent = made.moved(), [rail.sent_bytes(side) for rail in rails]
        made.move(op)
        moved = [after - before for after, before in zip(made.moved(), moved, strict=True)]
        sent = [rail.sent_bytes(side) - before for rail, before in zip(rails, sent, strict=True)]
        assert sum(moved) == LENGTH
        for counted, wire in zip(moved, sent, strict=True):
            assert counted >= LENGTH // 4
            # Headers come on top, and slices that went twice.
            assert counted <= wire <= 1.5 * LENGTH
        made.settle()


@pytest.mark.parametrize("op", ["write", "read"])
def test_unequal_rails_carry_by_their_speed(rails: list[SoftRail], op: str) -> None:
    with world(rails, mbit=[96, 32]) as made:
        # The first transfers taught what the rails are worth.
        made.move(op)
        before = made.moved()
        for seed in range(2):
            made.move(op, seed=seed)
        fast, slow = (after - then for after, then in zip(made.moved(), before, strict=True))
        assert fast + slow == 2 * LENGTH
        assert 2 * slow < fast, "the rail of three times the speed carried less than twice as much"
        assert slow > 0
