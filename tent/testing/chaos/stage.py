"""A fault plan's world on the simulated fabric: processes with their memory, links between them.

Leans on tent.testing.sim and on the engines' native handles: a seed takes milliseconds, so nothing
here goes through more layers than it needs. Must never let chance come from anywhere but the plan's
seed.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tent import _abi
from tent.errors import TentError, error_for
from tent.orchestration.engine import Engine
from tent.resilience.faults import FaultPlan
from tent.testing.chaos.memory import Arena
from tent.testing.fixtures import KEY
from tent.testing.sim import Fabric, Host
from tent.testing.sim_library import NEVER, library
from tent.types import Access, Status

TICK_NS = 200_000
OPEN_NS = 500_000_000  # a link stands within this time, or never
TRACE_ROOM = 1 << 17
SECOND_RUNG = "simb"

# Areas of every process: peers may do what `access` says; `own` is the local side of requests, and
# `void` is nobody's.
AREAS: dict[str, Access] = {
    "rw": Access.READ | Access.WRITE,
    "ro": Access.READ,
    "own": Access.NONE,
}


@cache
def plugin_folder() -> str:
    """A folder with the sim transport under a second name: the ladder's second rung.

    The same file, so the loader takes it for the same library: one fabric for both.
    """
    folder = Path(tempfile.mkdtemp(prefix="tent-chaos-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / f"libtent_plugin_{SECOND_RUNG}.so").symlink_to(
        Path(library().folder) / "libtent_plugin_sim.so"
    )
    return f"{library().folder}:{folder}"


@dataclass
class Process:
    """One life of the engine of a host."""

    name: str
    life: int
    host: Host
    engine: Engine
    pointer: Any
    arena: Arena
    regions: dict[str, int] = field(default_factory=dict)
    alive: bool = True
    frozen: bool = False
    thawed_ns: int = 0
    life_ns: tuple[int, int] = (0, NEVER)  # from its start to its death

    @property
    def native(self) -> _abi.NativeEngine:
        return self.engine.native

    def register(self, area: str) -> None:
        """Registers the area."""
        begin, end = self.arena.areas[area]
        self.regions[area] = self.native.region_register(
            self.arena.address + begin, end - begin, int(AREAS[area]), None, area
        )


@dataclass
class Link:
    """A peer's memory as an initiator holds it."""

    source: Process
    target: Process
    grant: int  # handle at the target; 0: its default grant, opened by address
    descriptor: bytes
    segment: int = 0
    ready: bool = False
    error: int = 0
    revoked: bool = False
    opened_ns: int = 0

    @property
    def usable(self) -> bool:
        """May requests be submitted?"""
        return self.ready and self.error == 0 and self.source.alive


class Stage:
    """The fabric with the processes that live on it now."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self.random = Random(plan.seed * 2 + 1)
        world = plan.world
        self.fabric = Fabric(
            seed=plan.seed,
            control_latency_ns=world.control_latency_ns,
            control_break_ns=world.control_break_ns,
            trace=TRACE_ROOM,
        )
        self.hosts: dict[str, Host] = {}
        for spec in world.hosts:
            host = self.fabric.host(spec.name)
            for rail in spec.rails:
                host.rail(
                    rail.name,
                    bandwidth=rail.bandwidth_bytes_per_s,
                    latency_ns=rail.latency_ns,
                    jitter_ns=rail.jitter_ns,
                    loss=rail.loss,
                    late=rail.late,
                    duplicate=rail.duplicate,
                    corrupt=rail.corrupt,
                    late_ns=rail.late_by_ns,
                    down_detect_ns=rail.down_detect_ns,
                )
            self.hosts[spec.name] = host
        self.arenas: dict[str, Arena] = {}
        self.processes: dict[str, Process] = {}
        self.dead: list[Process] = []
        self.everyone: list[Process] = []  # keeps the ids of these objects unique
        self.opened = 0
        self._driver = _Driver(self)
        for spec in world.hosts:
            self.start(spec.name)

    # ---- processes

    def start(self, name: str) -> Process:
        """A process on the host, in the memory that the one before had."""
        region = self.plan.workload.region_bytes
        if name in self.arenas:
            self.arenas[name].refill()
        else:
            areas = [("rw", region), ("ro", region // 4), ("void", 4096), ("own", region)]
            self.arenas[name] = Arena(areas, self.random)
        host = self.hosts[name]
        self.opened += 1
        limits: dict[str, Any] = {
            "requests_max": 128,
            "slices_max": 256,
            "batches_max": 64,
            "completions_max": 256,
            "events_max": 2048,
            "notices_max": 64,
            **{key: int(value) for key, value in self.plan.world.limits},
        }
        engine = self.fabric.engine(
            host,
            plan=self._plan_text(name),
            seed=self.plan.seed * 1009 + self.opened,
            plugin_path=plugin_folder(),
            key=KEY,
            **limits,
        )
        pointer = library().ffi.cast("struct tent_engine *", engine.native.pointer_value)
        life = sum(1 for process in self.dead if process.name == name)
        process = Process(name, life, host, engine, pointer, self.arenas[name])
        process.life_ns = (self.now_ns, NEVER)
        for area in AREAS:
            process.register(area)
        self.processes[name] = process
        self.everyone.append(process)
        self._driver.changed = True
        return process

    def bury(self, process: Process) -> None:
        """The process was killed: its engine is closed when all is over."""
        process.alive = False
        process.life_ns = (process.life_ns[0], self.now_ns)
        self.dead.append(process)
        self._driver.changed = True

    def living(self) -> list[Process]:
        """The processes that live, frozen ones too, in the order of the plan's hosts."""
        return [process for process in self.processes.values() if process.alive]

    def _plan_text(self, name: str) -> str:
        spec = next(host for host in self.plan.world.hosts if host.name == name)
        transports = ["sim", SECOND_RUNG]
        lines = ["plan 1"]
        rungs: dict[int, list[int]] = {}
        for index, rail in enumerate(spec.rails):
            rungs.setdefault(min(rail.rung, 1), []).append(index)
            lines.append(f"rail {index} {transports[min(rail.rung, 1)]} {name}/{rail.name}")
        lines += [f"set {transports[rung]}.fabric={self.fabric.name}" for rung in rungs]
        lines += [f"set {key}={value}" for key, value in self.plan.world.settings]
        ladder = " ; ".join(
            f"{transports[rung]}[{' '.join(map(str, rungs[rung]))}]" for rung in sorted(rungs)
        )
        return "\n".join([*lines, f"route * : {ladder}"]) + "\n"

    # ---- links

    def link(self, source: Process, target: Process, *, granted: bool) -> Link:
        """Begins to open the target's memory; granted: by a grant of its own."""
        grant, descriptor = 0, b""
        if granted and "rw" in target.regions:
            regions = [target.regions[area] for area in ("rw", "ro")]
            grant = target.native.grant_create(regions, int(Access.READ | Access.WRITE), 0)
            descriptor = target.native.segment_export(grant)
        link = Link(source, target, grant, descriptor, opened_ns=self.now_ns)
        self.open(link)
        return link

    def open(self, link: Link) -> None:
        """Begins anew, after the segment was closed or failed."""
        peer = link.descriptor or link.target.host.address
        link.ready, link.error = False, 0
        link.opened_ns = self.now_ns
        try:
            link.segment = link.source.native.segment_begin(peer)
        except TentError as error:
            link.segment, link.error = 0, error.status

    def _meet(self, link: Link) -> None:
        """By an address one meets whoever listens there by then: a restarted process, maybe."""
        if not link.target.alive:
            link.target = self.processes[link.target.name]

    def look(self, link: Link) -> None:
        """Has it become usable, or failed?"""
        if link.ready or link.error or not link.source.alive:
            return
        try:
            link.ready = link.source.native.segment_wait(link.segment, 0)
            if link.ready and not link.descriptor:
                self._meet(link)
        except TentError as error:
            link.error = error.status

    def drop(self, link: Link) -> None:
        """Forgets the segment; what is in flight on it is cancelled."""
        if link.segment and link.source.alive:
            try:
                link.source.native.segment_close(link.segment)
            except TentError as error:
                if error.status != Status.NOT_FOUND:
                    raise
        link.segment, link.ready = 0, False

    # ---- time

    @property
    def now_ns(self) -> int:
        return int(library().lib.tent_sim_now_ns(self.fabric.native))

    @property
    def trace_mark(self) -> int:
        """How many records the fabric's trace has."""
        sim = library()
        null = sim.ffi.NULL
        return int(sim.lib.tent_sim_trace(self.fabric.native, 0, null, 0, null))

    def run(self, until_ns: int, batches: list[tuple[Process, int]]) -> None:
        """Until one of the batches is terminal, or until_ns."""
        self._driver.run(until_ns, batches)

    def close(self) -> None:
        """Closes everything."""
        self.fabric.close()


class _Driver:
    """tent_sim_run with its structs made once: it is called for every end of a batch."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.changed = True
        sim = library()
        step, poll = _abi.driver_functions()
        self.rows = sim.ffi.new("tent_sim_batch[]", 512)
        self.options = sim.struct(
            "tent_sim_run_options",
            mode=sim.lib.TENT_SIM_ANY,
            step=sim.ffi.cast("int32_t (*)(struct tent_engine *, uint64_t)", step),
            poll=sim.ffi.cast("int32_t (*)(struct tent_engine *, uint64_t)", poll),
            batches=self.rows,
            tick_ns=TICK_NS,
        )
        self.engines: Any = None

    def run(self, until_ns: int, batches: list[tuple[Process, int]]) -> None:
        sim, options = library(), self.options
        if self.changed:
            living = self.stage.living()
            self.engines = sim.ffi.new(
                "struct tent_engine *[]", [process.pointer for process in living]
            )
            options.engines, options.engine_count = self.engines, len(living)
            self.changed = False
        for index, (process, batch) in enumerate(batches):
            row = self.rows[index]
            row.engine, row.batch = process.pointer, batch
        options.batch_count = len(batches)
        options.until_ns = min(until_ns, NEVER - 1)
        status = sim.lib.tent_sim_run(self.stage.fabric.native, options)
        if status not in (Status.OK, Status.TIMEOUT):
            raise error_for(status, sim.ffi.string(sim.lib.tent_sim_last_error()).decode())
