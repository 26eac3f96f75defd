"""A fault plan against real processes: two of them, in network namespaces, over shaped rails.

    report = run(load("plans/real-silent.yaml"))

The plan's two hosts become processes in namespaces of their own, rail i of one joined to rail i of
the other; its faults become link changes, silent loss, rates and signals. real_worker.py is what
runs in the processes, real_lanes.py its workload and checker. Leans on tent.testing.netns (root,
iproute2). Must never leave a process or a namespace behind, however it ends.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tent.resilience.faults import SHM_WAYS, Fault, FaultPlan, FaultPlanError, Workload, load
from tent.testing.chaos.real_lanes import slot_size
from tent.testing.chaos.real_report import Line, Report
from tent.testing.netns import SIDES, SILENT_LOSS, Rails, RailsError

# The fabric's only: nothing here makes a packet late, twice or wrong.
FABRIC_ONLY = ("lossy", "late", "duplicate", "corrupt")
RAIL_CHANCES = ("loss", "late", "duplicate", "corrupt")
# A killed initiator takes what its lanes knew with it: only a workload that ends by time goes on.
TARGETS_ONLY = ("power_off", "release", "revoke", "listener_gone")
START_S = 30.0
# Beyond the workload's own time: a request that hangs is told by the lane after 60 s.
GRACE_S = 120.0
# What is still on its way when the work is done gets this long to land where it must not.
SETTLE_S = 0.3
END_S = 5.0
# Of an initiator that is started when the work's time is over already.
MIN_LIFE_NS = 300_000_000
MBIT = 125_000
READY = Path(__file__).resolve().parent.parent / "plans"


class RealRunError(Exception):
    """A run that could not be carried out; the sentence says what, where and what to do."""


class _Process:
    """One worker, its lines going to a queue shared by all."""

    def __init__(
        self,
        command: list[str],
        setup: dict[str, Any],
        news: queue.SimpleQueue[dict[str, Any]],
        folder: Path,
    ) -> None:
        self.role: str = setup["role"]
        # "python -m" looks for modules where it is started first: not among anybody's sources.
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._news = news
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.tell(**setup)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._news.put({**json.loads(line), "from": self})
        self._news.put({"news": "ended", "from": self})

    def tell(self, **command: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # "ended" tells it
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it without a word; it is gone when this returns."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends it: its input first, then by force. Stopped or not."""
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


def check(plan: FaultPlan) -> None:
    """Raises FaultPlanError when real rails cannot do what the plan asks for."""
    hosts, work = plan.world.hosts, plan.workload
    if len(hosts) != 2 or len(hosts[0].rails) != len(hosts[1].rails):
        raise FaultPlanError("real rails join two hosts with equally many rails each")
    if len(work.initiators) != 1 or len(work.targets) != 1 or work.initiators == work.targets:
        raise FaultPlanError("on real rails one host is the initiator and the other the target")
    if slot_size(work) < work.size_min:
        raise FaultPlanError(
            f"region: {work.region_bytes} bytes in {work.batches} x {work.requests} parts are "
            f"less than size_min; expected at least {work.size_min * work.batches * work.requests}"
        )
    for host in hosts:
        for rail in host.rails:
            wrong = [name for name in RAIL_CHANCES if getattr(rail, name)]
            if wrong:
                raise FaultPlanError(f"rail {host.name}/{rail.name}: {wrong[0]} is the fabric's")
    for index, fault in enumerate(plan.faults):
        if fault.do in FABRIC_ONLY:
            raise FaultPlanError(f"faults[{index}]: '{fault.do}' exists on the fabric only")
        if fault.do in TARGETS_ONLY and fault.host != work.targets[0]:
            raise FaultPlanError(f"faults[{index}]: '{fault.do}' is for the target here")
        if fault.do == "kill" and fault.host == work.initiators[0] and not work.time_ns:
            raise FaultPlanError(f"faults[{index}]: who kills the initiator gives the work a time")


def all_must_be_ok(plan: FaultPlan) -> bool:
    """Whether each request has a usable path all the time, and nobody ends it early."""
    work = plan.workload
    if work.cancels or work.deadlines or any(fault.host for fault in plan.faults):
        return False
    broken = {fault.rail.partition("/")[2] for fault in plan.faults if fault.do != "rate"}
    names = [rail.name for rail in plan.world.hosts[0].rails]
    # The rails of the other host have names of their own for the same links.
    other = {b.name: a for a, b in zip(names, plan.world.hosts[1].rails, strict=True)}
    return {other.get(name, name) for name in broken} < set(names)


def command(name: str) -> int:
    """`--real NAME`: a file, or the NAME of a ready plan real-NAME.yaml. The exit status."""
    try:
        path = Path(name)
        if not path.exists():
            path = READY / f"real-{name}.yaml"
        if not path.exists():
            known = ", ".join(sorted(p.stem.removeprefix("real-") for p in READY.glob("real-*")))
            raise FaultPlanError(f"{name} is neither a file nor a ready plan: {known}")
        report = run(load(path), say=lambda text: print(text, file=sys.stderr))
    except (FaultPlanError, RailsError, RealRunError, OSError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    print(report.to_text(), end="")
    return 0 if report.ok else 1


def run(plan: FaultPlan, *, say: Callable[[str], None] = lambda text: None) -> Report:
    """Carries the plan out and tells what happened. Blocks; needs root. `say` gets progress."""
    check(plan)
    with ExitStack() as stack:
        rails = stack.enter_context(Rails())
        rails.up([_mbit(plan, rail) for rail in range(len(plan.world.hosts[0].rails))])
        ram = "/dev/shm"
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(
                prefix="tent-chaos-", dir=ram if os.access(ram, os.W_OK) else None
            )
        )
        world = _World(plan, rails, Path(folder) / "memory", say)
        stack.callback(world.close)
        world.start()
        return world.run()


def _mbit(plan: FaultPlan, rail: int) -> int:
    slower = min(host.rails[rail].bandwidth_bytes_per_s for host in plan.world.hosts)
    return max(slower // MBIT, 1)


class _World:
    """The running processes, and what is still going to happen to them."""

    def __init__(
        self, plan: FaultPlan, rails: Rails, memory: Path, say: Callable[[str], None]
    ) -> None:
        self.plan = plan
        self.rails = rails
        self.say = say
        self.news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.memory = memory
        # What can be mapped by peers is made by its owner, anew in each life.
        self.place = ("", 0) if plan.world.shm == "mapped" else (str(memory), 0)
        with memory.open("wb") as file:
            file.truncate(plan.workload.region_bytes)
        self.key = secrets.token_hex(32)
        self.sides = {host.name: side for host, side in zip(plan.world.hosts, SIDES, strict=True)}
        self.processes: list[_Process] = []
        self.target_alive = self.initiator_alive = True
        self.seed = plan.seed
        self.begin_ns = 0
        self.faults: list[Line] = []
        self.violations: list[str] = []
        self.rest = b""  # digest of the target's memory while there is no initiator; "": unknown
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._flaps: dict[int, int] = {}  # rail -> which flap of it may still act

    def start(self) -> None:
        """Both processes, up to the point where the workload may begin."""
        work, rails = self.plan.workload, self.rails
        target = work.targets[0]
        listen = f"{rails.address(self.sides[target], 0)}:0"
        self.target = self._start("target", self.sides[target], listen)
        self._follow(self._await("ready", self.target))
        self._start_initiator()

    def _follow(self, ready: dict[str, Any]) -> None:
        """What the target says of itself, at first and with each grant or life."""
        self.address, self.descriptor = str(ready["address"]), str(ready["descriptor"])
        self.place = (str(ready["memory"]), int(ready["offset"]))

    def _start_initiator(self) -> None:
        side = self.sides[self.plan.workload.initiators[0]]
        self.initiator = self._start("initiator", side, "none")
        self.initiator_alive = True
        self._await("ready", self.initiator)

    # ---- processes

    def _start(self, role: str, side: str, listen: str) -> _Process:
        work, world = self.plan.workload, self.plan.world
        command = [*self.rails.prefix(side), sys.executable, "-m"]
        own = role == "target" and world.shm == "mapped"
        process = _Process(
            [*command, "tent.testing.chaos.real_worker"],
            {
                "role": role,
                "plan": self._plan_of(side),
                "listen": listen,
                "key": self.key,
                "limits": {name: int(value) for name, value in world.limits},
                "memory": "" if own else self.place[0],
                "offset": self.place[1],
                "length": work.region_bytes,
            },
            self.news,
            self.memory.parent,
        )
        self.processes.append(process)
        return process

    def _plan_of(self, side: str) -> str:
        world = self.plan.world
        lines = ["plan 1", *(f"set {name}={value}" for name, value in world.settings)]
        used = range(len(self.rails.rates_mbit))
        lines += [f"rail {rail} tcp {self.rails.address(side, rail)}" for rail in used]
        tcp = f"tcp[{' '.join(map(str, used))}]"
        if world.shm:
            ways = SHM_WAYS[: SHM_WAYS.index(world.shm)]  # each way comes before what it replaces
            lines += [f"set shm.{way}=no" for way in ways]
            lines.append(f"rail {len(used)} shm host")
            tcp = f"shm[{len(used)}] ; {tcp}"
        return "\n".join([*lines, f"route * : {tcp}"]) + "\n"

    def close(self) -> None:
        for process in reversed(self.processes):
            process.close()

    def _await(self, news: str, process: _Process, *, timeout_s: float = START_S) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        while True:
            try:
                told = self.news.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                raise RealRunError(
                    f"the {process.role} did not say '{news}' within {timeout_s:g} s"
                ) from None
            if told["from"] is process and told["news"] == news:
                return told
            self._hear(told)

    def _hear(self, told: dict[str, Any]) -> None:
        """News that nobody waits for just now."""
        process = told["from"]
        match told["news"]:
            case "failed":
                raise RealRunError(f"the {process.role}: {told['text']}")
            case "ended" if (process is self.initiator and self.initiator_alive) or (
                process is self.target and self.target_alive
            ):
                raise RealRunError(f"the {process.role} ended by itself; its words are above")
            case "ready" if process is self.target:
                self._follow(told)
                path, offset = self.place
                self.initiator.tell(
                    do="descriptor", descriptor=self.descriptor, memory=path, offset=offset
                )

    # ---- the run

    def run(self) -> Report:
        work = self.plan.workload
        shares = [fault for fault in self.plan.faults if fault.at_share >= 0]
        marks = {round(fault.at_share * work.total_bytes) for fault in shares}
        self.begin_ns = self._go(work, sorted(marks))
        for fault in self.plan.faults:
            if fault.at_share < 0:
                self._at(self.begin_ns + fault.at_ns, self._doer(fault))
        last_ns = max((f.at_ns + f.for_ns for f in self.plan.faults), default=0)
        limit_ns = self.begin_ns + work.time_ns + last_ns + round(GRACE_S * 1e9)
        done_ns = 0
        while not done_ns:
            told = self._next(limit_ns)
            if told is None:
                self.violations.append(
                    f"invariant 8: the workload did not end within {GRACE_S:g} s of its time"
                )
                self.initiator.tell(do="stop")
                break
            if told["news"] == "mark":
                for fault in shares:
                    if round(fault.at_share * work.total_bytes) == told["bytes"]:
                        self._doer(fault)()
            elif told["news"] == "done" and told["from"] is self.initiator:
                done_ns = told["time_ns"]
            else:
                self._hear(told)
        return self._report(done_ns or time.monotonic_ns())

    def _go(self, work: Workload, marks: list[int]) -> int:
        """Lets the initiator begin; the time at which it did."""
        self.initiator.tell(
            do="go", seed=self.seed, work=asdict(work), marks=marks, descriptor=self.descriptor
        )
        return int(self._await("begun", self.initiator)["time_ns"])

    def _next(self, limit_ns: int) -> dict[str, Any] | None:
        """The next news, carrying out what falls due meanwhile; None: the limit has passed."""
        while True:
            now_ns = time.monotonic_ns()
            if now_ns >= limit_ns:
                return None
            if self._due and self._due[0][0] <= now_ns:
                heapq.heappop(self._due)[2]()
                continue
            until_ns = min(self._due[0][0] if self._due else limit_ns, limit_ns)
            with suppress(queue.Empty):
                return self.news.get(timeout=(until_ns - now_ns) / 1e9)

    def _at(self, time_ns: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time_ns, next(self._serial), action))

    # ---- faults

    def _doer(self, fault: Fault) -> Callable[[], None]:
        def act() -> None:
            now_ns = time.monotonic_ns()
            self._note(now_ns, f"{fault.do} {fault.rail or fault.host}")
            self._apply(fault, now_ns)
            if fault.for_ns and fault.do != "flap":
                self._at(now_ns + fault.for_ns, lambda: self._undo(fault))

        return act

    def _note(self, time_ns: int, what: str) -> None:
        self.faults.append(Line(time_ns - self.begin_ns, what))
        self.say(f"{(time_ns - self.begin_ns) / 1e6:.1f} ms: {what}")

    def _place(self, fault: Fault) -> tuple[str, int]:
        """Side and number of the fault's rail."""
        host_name, _, rail_name = fault.rail.partition("/")
        host = next(host for host in self.plan.world.hosts if host.name == host_name)
        return self.sides[host_name], [rail.name for rail in host.rails].index(rail_name)

    def _apply(self, fault: Fault, now_ns: int) -> None:
        if fault.rail:
            side, rail = self._place(fault)
            self._apply_rail(fault, side, rail, now_ns)
        elif fault.host == self.plan.workload.initiators[0]:
            self._apply_initiator(fault)
        else:
            self._apply_target(fault)

    def _apply_rail(self, fault: Fault, side: str, rail: int, now_ns: int) -> None:
        match fault.do:
            case "link_down":
                self.rails.link_down(rail, side=side)
            case "link_up":
                self.rails.link_up(rail, side=side)
            case "black_hole":
                self.rails.black_hole(rail)
            case "heal":
                self._heal(rail)
            case "rate":
                self.rails.set_rate(rail, max(fault.bandwidth_bytes_per_s // MBIT, 1))
            case "flap":
                self._flaps[rail] = serial = next(self._serial)
                self._flap(fault, side, rail, now_ns, serial, down=True)

    def _flap(
        self, fault: Fault, side: str, rail: int, begin_ns: int, serial: int, *, down: bool
    ) -> None:
        """Half a period down, half up, and up at the end; a heal or a later flap ends it."""
        if self._flaps.get(rail) != serial:
            return
        over = time.monotonic_ns() >= begin_ns + fault.for_ns
        down = down and not over
        if fault.silent:
            self.rails.black_hole(rail) if down else self.rails.heal(rail)
        else:
            (self.rails.link_down if down else self.rails.link_up)(rail, side=side)
        if not over:
            self._at(
                time.monotonic_ns() + fault.period_ns // 2,
                lambda: self._flap(fault, side, rail, begin_ns, serial, down=not down),
            )

    def _heal(self, rail: int) -> None:
        self._flaps.pop(rail, None)
        for side in SIDES:
            self.rails.link_up(rail, side=side)
        self.rails.heal(rail)
        if self.rails.rates_mbit[rail] != _mbit(self.plan, rail):
            self.rails.set_rate(rail, _mbit(self.plan, rail))

    def _apply_initiator(self, fault: Fault) -> None:
        match fault.do:
            case "freeze":
                self.initiator.signal(signal.SIGSTOP)
            case "thaw":
                self.initiator.signal(signal.SIGCONT)
            case "cancel":
                self.initiator.tell(do="cancel")
            case "kill":
                self._kill_initiator()
            case "restart":
                self._restart_initiator()

    def _apply_target(self, fault: Fault) -> None:
        match fault.do:
            case "kill":
                self._kill()
            case "power_off":
                for rail in range(len(self.rails.rates_mbit)):
                    self.rails.black_hole(rail)
                self._kill()
            case "restart":
                side = self.sides[self.plan.workload.targets[0]]
                self.target = self._start("target", side, self.address)
                self.target_alive = True
            case "freeze":
                self.target.signal(signal.SIGSTOP)
            case "thaw":
                self.target.signal(signal.SIGCONT)
            case "listener_gone":
                self.target.tell(do="hide_listener")
            case "revoke" | "release":
                self.target.tell(do=fault.do)

    def _kill(self) -> None:
        self.target_alive = False
        self.rest = b""
        self.target.signal(signal.SIGKILL)

    def _kill_initiator(self) -> None:
        """Nothing it had begun may reach the target's memory any more, once what was on its way
        has landed or was refused."""
        self.initiator_alive = False
        self.initiator.kill()
        self._at(time.monotonic_ns() + round(SETTLE_S * 1e9), self._note_rest)

    def _note_rest(self) -> None:
        if self.target_alive and not self.initiator_alive:
            self.rest = self._digest()

    def _digest(self) -> bytes:
        """Of the target's memory, as any process may read it."""
        return hashlib.sha256(Path(self.place[0]).read_bytes()).digest()

    def _restart_initiator(self) -> None:
        """Another life with other requests; what was known of the last one is gone with it."""
        if self.rest and self.target_alive and self.rest != self._digest():
            self.violations.append(
                "invariant 2: the target's memory changed long after its only initiator was killed"
            )
        self.rest = b""
        self.seed += 1
        self._start_initiator()
        over_ns = time.monotonic_ns() - self.begin_ns
        left_ns = max(self.plan.workload.time_ns - over_ns, MIN_LIFE_NS)
        self._go(replace(self.plan.workload, time_ns=left_ns), [])

    def _undo(self, fault: Fault) -> None:
        self._note(time.monotonic_ns(), f"end of {fault.do} {fault.rail or fault.host}")
        if fault.rail:
            side, rail = self._place(fault)
            match fault.do:
                case "link_down":
                    self.rails.link_up(rail, side=side)
                case "black_hole":
                    self.rails.heal(rail)
                case "rate":
                    self.rails.set_rate(rail, _mbit(self.plan, rail))
        elif fault.do == "freeze":
            at_target = fault.host == self.plan.workload.targets[0]
            (self.target if at_target else self.initiator).signal(signal.SIGCONT)
        elif fault.do == "listener_gone":
            self.target.tell(do="show_listener")

    # ---- the end

    def _report(self, done_ns: int) -> Report:
        """Everything heals, what is late may land, then the memory is looked at once more."""
        self._due.clear()
        for rail in range(len(self.rails.rates_mbit)):
            self._heal(rail)
        if self.target_alive:
            self.target.signal(signal.SIGCONT)
        time.sleep(SETTLE_S)
        self.initiator.tell(do="report")
        told = self._await("report", self.initiator, timeout_s=GRACE_S)
        events = [("initiator", *event) for event in told["events"]]
        charged = {"initiator": told["charged"]}
        if self.target_alive:
            self.target.tell(do="rest")
            rest = self._await("rest", self.target)
            events += [("target", *event) for event in rest["events"]]
            charged["target"] = rest["charged"]
        self._judge(told, charged)
        return Report(
            name=self.plan.name,
            seed=self.plan.seed,
            method=SILENT_LOSS,
            duration_ns=done_ns - self.begin_ns,
            bytes_ok=told["bytes_ok"],
            statuses=told["statuses"],
            refusals=told["refusals"],
            latencies_ns=tuple(told["latencies_ns"]),
            late_ms=tuple(told["late_ms"]),
            samples=tuple((t - self.begin_ns, moved, n) for t, moved, n in told["samples"]),
            faults=tuple(self.faults),
            events=tuple(
                Line(at - self.begin_ns, f"{who}: {kind} rail {rail}: {text}")
                for who, at, kind, rail, text in sorted(events, key=lambda event: event[1])
                if at >= self.begin_ns
            ),
            retried=told["retried"],
            reopened=told["reopened"],
            rails=tuple((name, moved) for name, moved in told["rails"]),
            violations=tuple(self.violations),
            notes=("latency and jitter of the plan's rails are the real ones' own",),
        )

    def _judge(self, told: dict[str, Any], charged: dict[str, int]) -> None:
        self.violations += told["violations"]
        for role, left in charged.items():
            if left:
                self.violations.append(
                    f"invariant 4: {left} bytes are still charged at the {role}, at rest"
                )
        bad = {name: count for name, count in told["statuses"].items() if name != "OK"}
        bad |= told["refusals"]
        if bad and all_must_be_ok(self.plan):
            self.violations.append(
                f"invariant 8: one rail was whole all the time, and still not all were OK: {bad}"
            )
        if self.plan.workload.total_bytes > told["bytes_ok"] and not self.plan.workload.time_ns:
            self.violations.append(
                f"invariant 8: only {told['bytes_ok']} bytes of "
                f"{self.plan.workload.total_bytes} ended well"
            )
