"""From a seed to a fault plan: a small world, a workload in it, and faults.

Leans on tent.resilience.faults. Everything is small, so that a seed takes milliseconds: kilobytes
instead of gigabytes, and the engines' patience in proportion. Most worlds keep one rail that
nothing happens to, because a request that has one must end well.
"""

from __future__ import annotations

from dataclasses import replace
from math import log
from random import Random
from typing import Any

from tent.resilience.faults import Fault, FaultPlan, Host, Rail, Workload, World

US, MS = 1_000, 1_000_000

_RAIL_ACTIONS = (
    "link_down", "black_hole", "rate", "rate", "flap", "lossy", "late", "late", "duplicate",
    "corrupt",
)  # fmt: skip


def draw(seed: int) -> FaultPlan:
    """The plan of this seed."""
    random = Random(f"chaos {seed}")
    shape = random.random()
    initiators: tuple[str, ...] = ("a",)
    targets: tuple[str, ...] = ("b",)
    if shape > 0.9:
        initiators, targets = ("a", "b"), ("a", "b")
    elif shape > 0.8:
        initiators = ("a", "c")
    elif shape > 0.7:
        targets = ("b", "c")
    names = sorted({*initiators, *targets})
    rail_count = random.choice((1, 2, 2, 2, 3, 4))
    world = _world(random, names, rail_count)
    integrity_only = random.random() < 0.15  # where bits may flip, only checksums help
    workload = _workload(random, initiators, targets)
    if integrity_only:
        workload = replace(workload, integrity=1.0)
    clean = random.randrange(rail_count) if random.random() < 0.6 else -1
    faults = _rail_faults(random, world, clean, integrity_only)
    if random.random() < 0.5:
        faults += _host_faults(random, workload, sure=clean >= 0 and random.random() < 0.5)
    if random.random() < 0.4:
        faults += _engine_faults(random, workload)
    return FaultPlan(
        world=world, workload=workload, faults=tuple(faults), name=f"seed {seed}", seed=seed
    )


def _moment(random: Random) -> dict[str, Any]:
    """Mostly in the thick of the work, wherever in time that is."""
    delay_ns = int(random.triangular(0, 3 * MS, 20 * US)) if random.random() < 0.7 else 0
    if random.random() < 0.15:
        return {"at_ns": 4 * delay_ns}
    return {"at_ns": delay_ns, "at_share": round(random.uniform(0, 0.9), 2)}


def _span(random: Random, least_ns: int, most_ns: int) -> int:
    """Of all orders of magnitude alike."""
    return int(least_ns * (most_ns / least_ns) ** random.random())


def _world(random: Random, names: list[str], rail_count: int) -> World:
    second = rail_count > 1 and random.random() < 0.3
    rails = []
    for index in range(rail_count):
        latency_ns = _span(random, 2 * US, 60 * US)
        rails.append(
            Rail(
                name=str(index),
                bandwidth_bytes_per_s=_span(random, 20_000_000, 1_000_000_000),
                latency_ns=latency_ns,
                jitter_ns=random.choice((0, 0, latency_ns // 2, 4 * latency_ns)),
                down_detect_ns=_span(random, 10 * US, 2 * MS),
                rung=1 if second and index == rail_count - 1 else 0,
            )
        )
    return World(
        hosts=tuple(Host(name, tuple(rails)) for name in names),
        control_latency_ns=_span(random, 2 * US, 200 * US),
        control_break_ns=_span(random, 1 * MS, 50 * MS),
        settings=_settings(random),
    )


def _settings(random: Random) -> tuple[tuple[str, str], ...]:
    """Patience in proportion to worlds in which everything is over in milliseconds."""
    fence_us = random.choice((2000, 5000, 20_000))
    return (
        ("slice_size", random.choice(("4k", "16k", "64k", "1m"))),
        ("slice_size_min", "4k"),
        ("window_max", random.choice(("64k", "1m", "16m"))),
        ("fence_timeout", f"{fence_us}us"),
        ("cancel_grace", random.choice(("0", "100us", "1ms"))),
        ("connect_timeout", "100ms"),
        ("retries_max", "100"),
        ("deadline_floor", random.choice(("200us", "1ms", "2ms"))),
        ("deadline_initial", random.choice(("1ms", "3ms", "10ms"))),
        ("probe_first", random.choice(("1ms", "2ms"))),
        ("probe_max", "10ms"),
        ("probe_idle", random.choice(("10ms", "50ms"))),
        ("probe_timeout", random.choice(("2ms", "10ms"))),
        ("last_path_patience", random.choice(("2ms", "10ms"))),
        ("peer_timeout", random.choice(("30ms", "200ms"))),
        ("fence_reserve", random.choice(("0", "500us", "2ms"))),
    )


def _workload(random: Random, initiators: tuple[str, ...], targets: tuple[str, ...]) -> Workload:
    large = random.random() < 0.08
    region = 2 << 20 if large else random.choice((128 << 10, 256 << 10))
    size_max = 512 << 10 if large else random.choice((16 << 10, 32 << 10, 64 << 10))
    size_min = random.choice((1, 4096, 4096, min(16_384, size_max // 2)))
    # Sizes of all orders of magnitude alike have this mean.
    mean = int((size_max - size_min) / log(size_max / size_min))
    return Workload(
        initiators=initiators,
        targets=targets,
        region_bytes=region,
        size_min=size_min,
        size_max=size_max,
        total_bytes=random.choice((15, 25, 40)) * mean,
        time_ns=200 * MS,
        batches=random.choice((1, 3, 5, 8)),
        requests=random.choice((1, 3, 6)),
        reads=random.choice((0.0, 0.3, 0.5, 1.0)),
        high=random.choice((0.0, 0.2)),
        low=random.choice((0.0, 0.2)),
        integrity=random.choice((0.0, 0.3)),
        notices=random.choice((0.0, 0.3)),
        cancels=random.choice((0.0, 0.0, 0.2)),
        deadlines=random.choice((0.0, 0.3, 1.0)),
        deadline_ns=_span(random, 500 * US, 150 * MS),
        mischief=random.choice((0.0, 0.1)),
    )


def _rail_faults(random: Random, world: World, clean: int, corrupt: bool) -> list[Fault]:
    """Faults of rails other than number `clean` of each host."""
    names = [
        f"{host.name}/{rail.name}"
        for host in world.hosts
        for index, rail in enumerate(host.rails)
        if index != clean
    ]
    faults: list[Fault] = []
    for _ in range(random.choice((0, 1, 1, 2, 3, 5)) if names else 0):
        name = random.choice(names)
        do = random.choice(_RAIL_ACTIONS if corrupt else _RAIL_ACTIONS[:-1])
        # A path has one delay for both, that of the later of its rails.
        other = {"late": "duplicate", "duplicate": "late"}.get(do)
        if any(fault.do == other for fault in faults):
            continue
        fault = Fault(**_moment(random), do=do, rail=name)
        for_ns = _span(random, 100 * US, 40 * MS) if random.random() < 0.8 else 0
        if do == "rate":
            rate = random.choice((0, 100_000, 10_000_000))
            fault = replace(fault, bandwidth_bytes_per_s=rate, for_ns=for_ns)
        elif do == "flap":
            period_ns = _span(random, 200 * US, 8 * MS)
            count = random.randint(2, 8)
            fault = replace(
                fault, period_ns=period_ns, for_ns=count * period_ns, silent=random.random() < 0.5
            )
        elif do in ("lossy", "corrupt"):
            fault = replace(fault, chance=random.choice((0.02, 0.2, 0.6)), for_ns=for_ns)
        elif do == "late":
            late_ns = _span(random, 50 * US, 20 * MS)
            fault = replace(
                fault, chance=random.choice((0.1, 0.5)), late_by_ns=late_ns, for_ns=for_ns
            )
        elif do == "duplicate":
            # Before the completion is seen: no engine can know of a later one.
            latency_ns = min(rail.latency_ns for host in world.hosts for rail in host.rails)
            fault = replace(fault, chance=0.3, late_by_ns=latency_ns // 4, for_ns=for_ns)
        else:
            fault = replace(fault, for_ns=for_ns)
        faults.append(fault)
    upper = [name for name in names if name.startswith("a/") and not name.endswith(_last(world))]
    if world.hosts[0].rails[-1].rung and random.random() < 0.5:
        # The whole first rung at once: its work moves to the next.
        do = random.choice(("black_hole", "link_down"))
        for_ns = _span(random, 2 * MS, 40 * MS)
        at = _moment(random)
        faults += [Fault(**at, do=do, rail=name, for_ns=for_ns) for name in upper]
    return faults


def _last(world: World) -> str:
    return "/" + world.hosts[0].rails[-1].name


def _host_faults(random: Random, work: Workload, *, sure: bool) -> list[Fault]:
    host = random.choice(sorted({*work.initiators, *work.targets}))
    at = _moment(random)
    kinds = ("kill", "kill", "power_off", "freeze", "freeze", "freeze")
    do = "listener_gone" if sure else random.choice(kinds)
    fault = Fault(**at, do=do, host=host)
    for_ns = _span(random, 500 * US, 60 * MS)
    if do in ("freeze", "listener_gone"):
        return [replace(fault, for_ns=for_ns if random.random() < 0.8 else 0)]
    if random.random() < 0.7:
        gap_ns = _span(random, 50 * US, 30 * MS)
        return [fault, replace(fault, do="restart", at_ns=fault.at_ns + gap_ns)]
    return [fault]


def _engine_faults(random: Random, work: Workload) -> list[Fault]:
    faults = []
    for _ in range(random.choice((1, 1, 2))):
        do = random.choice(("cancel", "revoke", "release"))
        host = random.choice(work.initiators if do == "cancel" else work.targets)
        faults.append(Fault(**_moment(random), do=do, host=host))
    return faults
