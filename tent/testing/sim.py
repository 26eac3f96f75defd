"""Engines on a simulated fabric, in virtual time: hosts, rails, cuts, faults, and a clock.

For tests and benches. Leans on the sim transport's plugin (docs/simulation.md says what it models)
and on manual engines, so everything happens in the calling thread and repeats from the seed:

    with Fabric(seed=1) as fabric:
        a, b = fabric.host("a"), fabric.host("b")
        for host in (a, b):
            host.rail("0", bandwidth=25e9, latency_ns=5000)
        one, two = fabric.engine(a), fabric.engine(b)
        segment = fabric.connect(one, two)

Times are nanoseconds of the fabric's clock, which begins at 0; bandwidths are bytes per second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tent import _abi
from tent.errors import InvalidArgument, Timeout
from tent.orchestration.batch import Batch
from tent.orchestration.engine import Engine
from tent.orchestration.segment import Segment
from tent.scheduler.bound import Bandwidth, Flapping, Piecewise
from tent.testing.fixtures import KEY
from tent.testing.sim_library import NEVER, library
from tent.types import Op, parse_op

SECOND_NS = 1_000_000_000
RUN_NS = 10 * SECOND_NS  # how long run waits for batches, unless told
TRACE_ROOM = 1 << 20
TICK_NS = 100_000

# States of a host's processes; sim.h says what each means.
RUNS, FROZEN, FROZEN_CARD, KILLED, DARK = range(5)
FORGED_SLICE = (1 << 64) - 1  # the id of what `Fabric.forge` posts, in the trace

TRACE_POST, TRACE_COMPLETE, TRACE_LAND, TRACE_DROP, TRACE_DISCARD = 1, 2, 3, 4, 5
TRACE_DTYPE: np.dtype[np.void] = np.dtype(
    [
        ("time_ns", "<u8"),
        ("slice", "<u8"),
        ("bytes", "<u8"),
        ("kind", "<u4"),
        ("op", "<u4"),
        ("host", "<u4"),
        ("rail", "<u4"),
        ("peer_rail", "<u4"),
        ("status", "<i4"),
        ("remote", "<u8"),
        ("endpoint", "<u8"),
    ]
)


@dataclass(frozen=True)
class RailFacts:
    """What a rail is like; `Host.rail` and `Rail.set` say what each means."""

    bandwidth: Bandwidth
    latency_ns: int = 5000
    jitter_ns: int = 0
    loss: float = 0.0
    late: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    late_ns: int = 0
    down_detect_ns: int = 1_000_000
    up: bool = True
    blackhole: bool = False


@dataclass(frozen=True)
class RailCounters:
    """Since the rail was added; queued_bytes is now. tent/sim.h says what each counts."""

    landed_bytes: int
    sent_bytes: int
    dropped_slices: int
    discarded_slices: int
    duplicate_slices: int
    queued_bytes: int


def _bandwidth(bandwidth: Bandwidth) -> tuple[Any, Any]:
    """The C struct, and what it points to."""
    sim = library()
    made = sim.struct("tent_sim_bandwidth")
    points = sim.ffi.NULL
    if isinstance(bandwidth, Piecewise):
        made.kind = sim.lib.TENT_SIM_PIECEWISE
        rows = [(int(time_ns), int(rate)) for time_ns, rate in bandwidth.points]
        points = sim.ffi.new("tent_sim_point[]", rows)
        made.points, made.point_count = points, len(rows)
    elif isinstance(bandwidth, Flapping):
        made.kind = sim.lib.TENT_SIM_FLAPPING
        made.high_bytes_per_s = int(bandwidth.high)
        made.low_bytes_per_s = int(bandwidth.low)
        made.period_ns, made.phase_ns = int(bandwidth.period_ns), int(bandwidth.phase_ns)
    else:
        made = sim.struct("tent_sim_bandwidth", bytes_per_s=_whole("bandwidth", bandwidth))
    return made, points


def _whole(name: str, value: float) -> int:
    try:
        return int(value)
    except (ValueError, OverflowError, TypeError):
        raise InvalidArgument(f"{name} is {value!r}; write a number of bytes per second") from None


def _first_rate(bandwidth: Bandwidth) -> int:
    if isinstance(bandwidth, Piecewise):
        return int(bandwidth.points[0][1])
    if isinstance(bandwidth, Flapping):
        return int(bandwidth.high)
    return _whole("bandwidth", bandwidth)


class Rail:
    """One rail of a host; made by `Host.rail`."""

    def __init__(self, *, host: Host, name: str, index: int, facts: RailFacts) -> None:
        self.host = host
        self.name = name
        self.index = index  # within the fabric, as in the trace
        self.facts = facts

    @property
    def device(self) -> str:
        """The device word of a plan, "a/0"."""
        return f"{self.host.name}/{self.name}"

    def set(self, **changes: Any) -> None:
        """Changes fields of `facts` from now on; slices in service are re-timed.

        up=False: what is on its way vanishes, endpoints fail after down_detect_ns and cannot be set
        up. blackhole=True: whatever passes vanishes without a word.
        """
        facts = replace(self.facts, **changes)
        fabric, sim = self.host.fabric, library()
        options, _keep = _rail_options(facts, bandwidth="bandwidth" in changes, nominal=0, numa=-1)
        sim.check(sim.lib.tent_sim_rail_set(fabric.native, self.index, options))
        sim.check(sim.lib.tent_sim_rail_link(fabric.native, self.index, facts.up, facts.blackhole))
        self.facts = facts

    def capacity(self, begin_ns: int, end_ns: int) -> int:
        """Bytes one direction could have carried in that time."""
        sim = library()
        return int(
            sim.lib.tent_sim_rail_capacity(self.host.fabric.native, self.index, begin_ns, end_ns)
        )

    @property
    def counters(self) -> RailCounters:
        """The rail's counters."""
        sim = library()
        out = sim.ffi.new("tent_sim_counters *")
        size = sim.ffi.sizeof("tent_sim_counters")
        native = self.host.fabric.native
        sim.check(sim.lib.tent_sim_rail_counters(native, self.index, out, size))
        return RailCounters(
            **{name: int(getattr(out, name)) for name in RailCounters.__dataclass_fields__}
        )

    @property
    def landed_bytes(self) -> int:
        """Bytes received by this rail."""
        return self.counters.landed_bytes

    def __repr__(self) -> str:
        return f"<sim rail {self.device}>"


def _rail_options(
    facts: RailFacts, *, bandwidth: bool, nominal: int, numa: int
) -> tuple[Any, tuple[Any, ...]]:
    sim = library()
    rate = _bandwidth(facts.bandwidth)
    options = sim.struct(
        "tent_sim_rail_options",
        bandwidth=rate[0] if bandwidth else sim.ffi.NULL,
        nominal_bytes_per_s=nominal,
        numa=numa,
        **{
            name: getattr(facts, name)
            for name in RailFacts.__dataclass_fields__
            if name not in ("bandwidth", "up", "blackhole")
        },
    )
    return options, rate


class Host:
    """A machine of the fabric; made by `Fabric.host`."""

    def __init__(self, *, fabric: Fabric, name: str, index: int, address: str) -> None:
        self.fabric = fabric
        self.name = name
        self.index = index
        self.address = address
        self.rails: list[Rail] = []

    def rail(
        self,
        name: str,
        *,
        bandwidth: Bandwidth,
        nominal: float | None = None,
        numa: int = -1,
        **facts: Any,
    ) -> Rail:
        """Adds a full-duplex rail; `facts` are the other fields of RailFacts.

        latency_ns: from the last byte leaving to the completion being seen, half before landing.
        jitter_ns: each slice lands up to so much later. loss: chance that a slice vanishes. late,
        late_ns: chance that it lands that much later. duplicate: that a write lands again late_ns
        later. corrupt: that a bit flips. nominal: what the engine is told of its speed, default the
        first or high rate; 0: unknown.
        """
        made = RailFacts(bandwidth=bandwidth, **facts)
        sim = library()
        told = _first_rate(bandwidth) if nominal is None else _whole("nominal", nominal)
        options, _keep = _rail_options(made, bandwidth=True, nominal=told, numa=numa)
        native = self.fabric.native
        index = sim.check(sim.lib.tent_sim_rail(native, self.index, name.encode(), options))
        rail = Rail(host=self, name=name, index=index, facts=made)
        self.rails.append(rail)
        if not (made.up and not made.blackhole):
            sim.check(sim.lib.tent_sim_rail_link(native, index, made.up, made.blackhole))
        return rail

    def set_state(self, state: int, *, deaf: bool = False) -> None:
        """RUNS, FROZEN, FROZEN_CARD, KILLED or DARK, of the engines that are open on it now.

        A killed engine is inert and still to be closed, which takes no time; another may be opened
        in its place. deaf: new control connections are refused.
        """
        sim = library()
        native = self.fabric.native
        sim.check(sim.lib.tent_sim_host_state(native, self.index, state, int(deaf)))

    def __repr__(self) -> str:
        return f"<sim host {self.name} at {self.address}>"


class Cut:
    """A stage that several rails share; made by `Fabric.cut`."""

    def __init__(self, *, fabric: Fabric, name: str, index: int, rails: tuple[Rail, ...]) -> None:
        self.fabric = fabric
        self.name = name
        self.index = index
        self.rails = rails

    def set(self, *, bandwidth: Bandwidth) -> None:
        """Another bandwidth from now on."""
        sim = library()
        rate, _keep = _bandwidth(bandwidth)
        sim.check(sim.lib.tent_sim_cut_set(self.fabric.native, self.index, rate))

    def capacity(self, begin_ns: int, end_ns: int) -> int:
        """Bytes it could have carried (in one direction, unless shared) in that time."""
        sim = library()
        native = self.fabric.native
        return int(sim.lib.tent_sim_cut_capacity(native, self.index, begin_ns, end_ns))


class Fabric:
    """A simulated fabric with its clock. Close it, or use `with`: its engines close first.

    carry_bytes=False moves no byte (for times of large transfers). control_latency_ns: of control
    messages between hosts; control_break_ns: how long they are held without a live rail before
    the connection breaks. trace: True, or how many records to keep.
    """

    def __init__(
        self,
        seed: int = 1,
        *,
        carry_bytes: bool = True,
        control_latency_ns: int = 5000,
        control_break_ns: int = SECOND_NS,
        trace: bool | int = False,
    ) -> None:
        sim = library()
        self.seed = seed
        room = TRACE_ROOM if trace is True else int(trace)
        options = sim.struct(
            "tent_sim_options",
            flags=0 if carry_bytes else sim.lib.TENT_SIM_NO_BYTES,
            seed=seed,
            control_latency_ns=control_latency_ns,
            control_break_ns=control_break_ns,
            trace_room=room,
        )
        out = sim.ffi.new("tent_sim **")
        sim.check(sim.lib.tent_sim_create(options, out))
        self.native: Any = out[0]
        self.name: str = sim.ffi.string(sim.lib.tent_sim_name(out[0])).decode()
        self.hosts: list[Host] = []
        self.cuts: list[Cut] = []
        self._engines: list[Engine] = []
        self._closed = False

    def close(self) -> None:
        """Closes the engines, last opened first, and frees the fabric. A second call does nothing.

        Busy while engines that were opened without `engine` are on it: close them and call again. A
        manual engine closes in time of its own: the clock may be far ahead afterwards.
        """
        if self._closed:
            return
        for engine in reversed(self._engines):
            engine.close()
        sim = library()
        sim.check(sim.lib.tent_sim_destroy(self.native))
        self._closed = True

    def __enter__(self) -> Fabric:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- making

    def host(self, name: str, *, address: str | None = None) -> Host:
        """Adds a host; address "a.b.c.d:port" is where its engine listens, default "10.0.x.y"."""
        sim = library()
        wanted = sim.ffi.NULL if address is None else address.encode()
        index = sim.check(sim.lib.tent_sim_host(self.native, name.encode(), wanted))
        text = sim.ffi.new("char[64]")
        sim.check(sim.lib.tent_sim_host_address(self.native, index, text, 64))
        host = Host(fabric=self, name=name, index=index, address=sim.ffi.string(text).decode())
        self.hosts.append(host)
        return host

    def cut(
        self, name: str, *, rails: Iterable[Rail], bandwidth: Bandwidth, shared: bool = False
    ) -> Cut:
        """Adds a stage that all these rails pass: a PCIe switch, an inter-socket link.

        Slices sent pass it on their way out, received ones on their way in, each direction with
        the whole bandwidth; shared: both directions share it.
        """
        sim = library()
        members = tuple(rails)
        rate, _keep = _bandwidth(bandwidth)
        indexes = sim.ffi.new("uint32_t[]", [rail.index for rail in members])
        flags = sim.lib.TENT_SIM_CUT_SHARED if shared else 0
        index = sim.check(sim.lib.tent_sim_cut(self.native, indexes, len(members), flags, rate))
        cut = Cut(fabric=self, name=name, index=index, rails=members)
        self.cuts.append(cut)
        return cut

    def plan(
        self,
        host: Host,
        *,
        route: str | Sequence[str] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> str:
        """Plan text for an engine on the host: its rails, numbered as they were added.

        route: a line or lines, default everything over all rails in one tier.
        """
        lines = ["plan 1", f"set sim.fabric={self.name}"]
        lines += [f"set {name}={value}" for name, value in (settings or {}).items()]
        lines += [f"rail {number} sim {rail.device}" for number, rail in enumerate(host.rails)]
        if route is None:
            numbers = " ".join(str(number) for number in range(len(host.rails)))
            route = f"route * : sim[{numbers}]"
        lines += [route] if isinstance(route, str) else list(route)
        return "\n".join(lines) + "\n"

    def engine(
        self, host: Host, *, plan: str | None = None, seed: int | None = None, **options: Any
    ) -> Engine:
        """Opens a manual engine that listens at the host's address on the fabric.

        plan: default `self.plan(host)`. seed: default one of the fabric's own and the number of
        engines before it. options: of tent.Engine, e.g. slices_max; listen=f"sim://..." for
        a second engine on the same host.
        """
        wanted: dict[str, Any] = {
            "listen": f"sim://{host.address}",
            "name": host.name,
            "key": KEY,
            "plugin_path": library().folder,
            **options,
        }
        if seed is None:
            seed = (self.seed * 1_000_003 + len(self._engines) + 1) % NEVER
        engine = Engine(manual=True, plan=plan or self.plan(host), seed=seed, **wanted)
        self._engines.append(engine)
        return engine

    def connect(
        self, initiator: Engine, target: Engine | str | bytes, *, timeout_ns: int = RUN_NS
    ) -> Segment:
        """Opens the target's memory (an engine, an address, a descriptor) and runs until usable."""
        peer = target.address if isinstance(target, Engine) else target
        segment = initiator.open_segment(peer, timeout=0)
        self.run_until(lambda: segment.ready, timeout_ns=timeout_ns, what="the segment")
        return segment

    # ---- time

    @property
    def now_ns(self) -> int:
        """The fabric's clock."""
        return int(library().lib.tent_sim_now_ns(self.native))

    @property
    def next_event_ns(self) -> int:
        """When something happens by itself next; 2**64 - 1: nothing will."""
        return int(library().lib.tent_sim_next_event_ns(self.native))

    def run(
        self,
        *,
        until_ns: int | None = None,
        batches: Sequence[Batch] = (),
        mode: Literal["all", "any"] = "all",
        tick_ns: int = TICK_NS,
    ) -> None:
        """Runs virtual time until all (or any) of the batches are terminal, or until_ns.

        Stops at the very time they are. Timeout when until_ns comes first, by default 10 s from
        now. Without batches: until until_ns. Engines are stepped at least every tick_ns.
        """
        if mode not in ("all", "any"):
            raise InvalidArgument(f"mode is {mode!r}, expected 'all' or 'any'")
        waiting = [batch for batch in batches if batch.handle is not None]
        if batches and (not waiting or (mode == "any" and len(waiting) < len(batches))):
            return  # their end was taken before
        if until_ns is None:
            if not batches:
                raise InvalidArgument("run needs batches or until_ns: it would never end")
            until_ns = self.now_ns + RUN_NS
        sim = library()
        engines = [engine for engine in self._engines if not engine.closed]
        pointers = sim.ffi.new(
            "struct tent_engine *[]",
            [self._pointer(engine) for engine in engines],
        )
        rows = sim.ffi.new("tent_sim_batch[]", len(waiting))
        for row, batch in zip(rows, waiting, strict=True):
            row.engine, row.batch = self._pointer(batch.engine), batch.handle
        step, poll = _abi.driver_functions()
        options = sim.struct(
            "tent_sim_run_options",
            mode=sim.lib.TENT_SIM_ALL if mode == "all" else sim.lib.TENT_SIM_ANY,
            step=sim.ffi.cast("int32_t (*)(struct tent_engine *, uint64_t)", step),
            poll=sim.ffi.cast("int32_t (*)(struct tent_engine *, uint64_t)", poll),
            engines=pointers,
            engine_count=len(engines),
            batches=rows,
            batch_count=len(waiting),
            until_ns=until_ns,
            tick_ns=tick_ns,
        )
        sim.check(sim.lib.tent_sim_run(self.native, options))

    def run_for(self, duration_ns: int) -> None:
        """Runs so much virtual time."""
        self.run(until_ns=self.now_ns + duration_ns)

    def run_until(
        self,
        predicate: Callable[[], object],
        *,
        timeout_ns: int = RUN_NS,
        what: str = "the condition",
    ) -> int:
        """Runs from event to event until `predicate()` is true; returns that time."""
        end_ns = self.now_ns + timeout_ns
        self.run(until_ns=self.now_ns)
        while not predicate():
            now_ns = self.now_ns
            if now_ns >= end_ns:
                raise Timeout(f"{what}: not within {timeout_ns} ns of virtual time")
            self.run(until_ns=min(max(self.next_event_ns, now_ns + 1), now_ns + TICK_NS, end_ns))
        return self.now_ns

    def forge(
        self, host: Host, endpoint: int, *, op: Op | str, local: int, remote: int, length: int
    ) -> None:
        """Posts an access that no engine would, over an endpoint of the host's engine.

        For tests of what the target checks: nobody hears of its end but the trace (FORGED_SLICE).
        The memory at address `local` must stay until the fabric is closed.
        """
        sim = library()
        place = sim.ffi.cast("void *", local)
        sim.check(
            sim.lib.tent_sim_forge(
                self.native, host.index, endpoint, int(parse_op(op)), place, remote, length
            )
        )

    def trace(self) -> npt.NDArray[np.void]:
        """What happened to slices so far (TRACE_DTYPE); empty unless the fabric traces."""
        sim = library()
        count = int(sim.lib.tent_sim_trace(self.native, 0, sim.ffi.NULL, 0, sim.ffi.NULL))
        records = np.zeros(count, dtype=TRACE_DTYPE)
        if count:
            room = sim.ffi.cast("tent_sim_record *", records.ctypes.data)
            sim.lib.tent_sim_trace(self.native, 0, room, count, sim.ffi.NULL)
        return records

    @staticmethod
    def _pointer(engine: Engine) -> Any:
        return library().ffi.cast("struct tent_engine *", engine.native.pointer_value)
