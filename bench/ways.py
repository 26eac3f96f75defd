"""The transports that can be measured, and the ways each has: plan, memory, yardstick, goals.

Leans on references and shapes. Adding a transport is one entry in TRANSPORTS; the rows and checks
of transports.py are the same for all. Must never measure.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import BenchError
from references import CopyReference, Reference, SocketReference
from toolchain import Job

RATIO_WANTED = 0.95
RATIO_BLOCK_MIN = 1024 * 1024


@dataclass(frozen=True)
class Setting:
    """What one run of a way is made with."""

    connections: int
    arena: int
    page_kib: int  # of the engines' memory


@dataclass(frozen=True)
class Goals:
    """None: for information."""

    stream_ratio: float | None = RATIO_WANTED  # blocks of RATIO_BLOCK_MIN and more
    cache_ratio: float | None = None
    latency_ratio: float | None = None
    latency_above_ns: float | None = None
    requests_per_s: float | None = None


@dataclass(frozen=True)
class Way:
    """One way for bytes: the plan that leaves no other, and what it is compared with."""

    name: str
    plan: Callable[[int], str]
    goals: Goals
    reference_job: Callable[[Path], Job]
    reference: Callable[[Path, Setting], Reference]
    memory: str = "private"  # of the arenas: "private", or the "engine"'s own
    cache: bool = False  # are the cache's rows measured?


@dataclass(frozen=True)
class Transport:
    """Ways share how many connections are usual, where a transport has any."""

    ways: tuple[Way, ...]
    connections_option: str | None = None
    connections_default: int = 1


def _tcp_plan(connections: int) -> str:
    return f"plan 1\nset tcp.connections={connections}\nrail 0 tcp 127.0.0.1\nroute * : tcp[0]\n"


def _tcp_reference(program: Path, setting: Setting) -> Reference:
    return SocketReference(program, connections=setting.connections, arena=setting.arena)


SHM_WAYS = ("mapped", "attach", "ring")


def _shm_plan(way: str) -> Callable[[int], str]:
    closed = "".join(f"set shm.{other}=no\n" for other in SHM_WAYS if other != way)
    return lambda _: f"plan 1\n{closed}rail 0 shm host\nroute * : shm[0]\n"


def _copy_reference(mode: str) -> Callable[[Path, Setting], Reference]:
    def make(program: Path, setting: Setting) -> Reference:
        return CopyReference(
            program,
            mode=mode,
            arena=setting.arena,
            page_kib=setting.page_kib,
            cores=len(os.sched_getaffinity(0)),
        )

    return make


def _shm_way(name: str, mode: str, goals: Goals, *, memory: str = "private") -> Way:
    return Way(
        name=name,
        plan=_shm_plan(name),
        goals=goals,
        reference_job=CopyReference.job,
        reference=_copy_reference(mode),
        memory=memory,
        cache=True,
    )


TRANSPORTS = {
    "tcp": Transport(
        ways=(
            Way(
                name="",
                plan=_tcp_plan,
                goals=Goals(latency_ratio=1 / 1.3, requests_per_s=300_000),
                reference_job=SocketReference.job,
                reference=_tcp_reference,
            ),
        ),
        connections_option="tcp.connections",
        connections_default=1,  # the plugin's own default
    ),
    "shm": Transport(
        ways=(
            _shm_way(
                "mapped",
                "mapped",
                Goals(cache_ratio=0.9, latency_above_ns=1000, requests_per_s=1_000_000),
                memory="engine",
            ),
            _shm_way("attach", "attach", Goals()),
            _shm_way("ring", "pipe", Goals()),
        ),
    ),
}


def choose_ways(transport: str, way: str | None) -> tuple[Way, ...]:
    """The one named, or all of the transport's."""
    ways = TRANSPORTS[transport].ways
    if way is None:
        return ways
    found = tuple(one for one in ways if one.name == way)
    if not found:
        known = " ".join(one.name for one in ways if one.name) or "it has only one"
        raise BenchError(f"{transport} has no way called '{way}': {known}")
    return found


def plan_connections(text: str, option: str | None) -> int | None:
    """Connections per endpoint as the plan says, None when it does not."""
    if option is None:
        return None
    found = re.findall(rf"^\s*set\s+{re.escape(option)}\s*=\s*(\d+)", text, flags=re.MULTILINE)
    return int(found[-1]) if found else None


def choose_plan(arguments: argparse.Namespace, transport: Transport, way: Way) -> tuple[str, int]:
    """The plan's text and its connections, which both sides will have."""
    wanted: int | None = arguments.connections
    if wanted is not None and transport.connections_option is None:
        raise BenchError(f"{arguments.transport} has no connections: drop --connections")
    if arguments.plan is None:
        connections = transport.connections_default if wanted is None else wanted
        return way.plan(connections), connections
    if len(choose_ways(arguments.transport, arguments.way)) > 1:
        raise BenchError("--plan says which way bytes go: name it with --way as well")
    text = Path(arguments.plan).read_text(encoding="utf-8")
    said = plan_connections(text, transport.connections_option)
    if said is not None and wanted is not None and said != wanted:
        raise BenchError(
            f"the plan sets {transport.connections_option}={said}, --connections says {wanted}: "
            "the two sides must be equal, drop one of them"
        )
    if said is None and wanted is not None and transport.connections_option is not None:
        text = text.rstrip("\n") + f"\nset {transport.connections_option}={wanted}\n"
    return text, said or wanted or transport.connections_default
