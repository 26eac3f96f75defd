"""What must be refused, tried: accesses outside of the grant, a release of memory in use.

An access goes straight into the fabric, over an endpoint of an engine that knows nothing of it: the
target alone is there to refuse it. Whether it did, the canaries and the trace tell. Leans on the
runner whose run it disturbs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tent import _abi
from tent.errors import Busy, TentError
from tent.testing.chaos.stage import Link, Process
from tent.testing.chaos.verdict import Violation
from tent.types import Op

if TYPE_CHECKING:
    from tent.testing.chaos.runner import Runner

RELEASES = 0.3  # share of mischief that is a release
LENGTHS = (1, 64, 4096)


def mischief(runner: Runner, process: Process, link: Link) -> None:
    """One attempt, over an endpoint of the process."""
    if runner.random.random() < RELEASES:
        _release_in_use(runner, process)
    elif link.target.alive:
        _forge(runner, process, link)


def _forge(runner: Runner, process: Process, link: Link) -> None:
    random, arena = runner.random, link.target.arena
    rows = [row for row in process.native.counters(_abi.COUNTERS_ENDPOINT) if row.rail >= 0]
    if not rows:
        return
    length = random.choice(LENGTHS)
    places = {
        "void": (Op.WRITE, arena.areas["void"][0]),
        "read void": (Op.READ, arena.areas["void"][0]),
        "beyond": (Op.WRITE, arena.areas["rw"][1] - length // 2),
        "before": (Op.WRITE, arena.areas["rw"][0] - length // 2 - 1),
        "read only": (Op.WRITE, arena.areas["ro"][0] + 512),
        "own": (Op.WRITE, arena.areas["own"][0]),
    }
    op, at = places[random.choice(list(places))]
    try:
        runner.stage.fabric.forge(
            process.host,
            random.choice(rows).id,
            op=op,
            local=process.arena.address + process.arena.areas["void"][0],
            remote=arena.address + at,
            length=length,
        )
    except TentError:
        return  # that endpoint is not connected, or is one of the other role
    runner.tally["forged accesses"] += 1


def _release_in_use(runner: Runner, process: Process) -> None:
    if not any(p.source is process and p.left for p in runner.ledger.open.values()):
        return
    try:
        process.native.region_release(process.regions["own"])
    except Busy:
        runner.tally["releases refused"] += 1
        return
    raise Violation(9, f"a region of {process.name} was released while requests use it")
