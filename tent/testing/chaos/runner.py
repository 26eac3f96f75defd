"""One seed on the simulated fabric: submit, break, collect, drain, and judge.

Leans on its siblings. Everything is drawn from the plan's seed, so that the same plan gives the
same events to the nanosecond. Must never end a run with requests still in flight: that is a
violation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from random import Random
from typing import Any

from tent import _abi
from tent.errors import Busy, TentError
from tent.resilience.faults import Fault, FaultPlan, FaultPlanError
from tent.testing.chaos.checker import check_rest, check_trace
from tent.testing.chaos.memory import Range
from tent.testing.chaos.mischief import mischief
from tent.testing.chaos.parcels import Flight, Ledger, Parcel
from tent.testing.chaos.stage import AREAS, OPEN_NS, Link, Process, Stage
from tent.testing.chaos.verdict import Verdict, Violation
from tent.testing.chaos.weather import Agenda, Weather
from tent.testing.sim import DARK, FROZEN, FROZEN_CARD, KILLED, RUNS, TRACE_DTYPE
from tent.types import Class, Event, Op, Status

REOPEN_NS = 500_000  # a link that failed is tried again so much later
LOOK_NS = 1_000_000  # between looks at what does not announce itself
IDLE_NS = 60_000_000  # with nothing in flight and nothing to come, the workload ends
DRAIN_NS = 4_000_000_000  # everything has ended so long after the last fault, or never will
STORY_MAX = 40
COMPARE_EVERY = 6  # ends between comparisons of all memory
CHANGES_MEMORY_RIGHTS = ("revoke", "release")


class Runner:
    """One run of one plan."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self.work = plan.workload
        self.random = Random(plan.seed)
        self.tally: Counter[str] = Counter()
        self.story: list[str] = []
        self.events: dict[int, list[Event]] = {}  # by id of the process
        self.stage = Stage(plan)
        rails = {
            f"{host.name}/{rail.name}": rail
            for host in self.stage.hosts.values()
            for rail in host.rails
        }
        self.agenda = Agenda()
        self.weather = Weather(plan, rails, self.agenda)
        self.ledger = Ledger(self.stage, self.tally, may_corrupt(plan))
        self.links: list[Link] = []
        self.ghosts: list[Link] = []  # opened with descriptors of revoked grants
        self.retry_ns: dict[int, int] = {}  # by id of a link
        self.submitted = 0
        self.ends = 0
        self.notices_sent: dict[str, list[tuple[int, Parcel]]] = {}
        self.notices_seen: dict[tuple[str, int], list[str]] = {}
        self.serial = 0
        self.compared_mark = -1
        self._sure: dict[tuple[str, str], bool] = {}
        self.shares = [fault for fault in plan.faults if fault.at_share >= 0]
        self.shares.sort(key=lambda fault: fault.at_share)

    def tell(self, what: str) -> None:
        """One line of the story, of which the last ones are kept."""
        self.story.append(f"{self.stage.now_ns:>12} ns  {what}")
        if len(self.story) > 2 * STORY_MAX:
            del self.story[:STORY_MAX]

    # ---- phases

    def run(self) -> None:
        """All of it. Raises Violation."""
        self.set_up()
        begin_ns = self.stage.now_ns
        for fault in self.plan.faults:
            if fault.at_share < 0:
                self.agenda.add(begin_ns + fault.at_ns, "fault", fault)
        self.end_ns = begin_ns + (self.work.time_ns or IDLE_NS * 100)
        idle_since_ns = begin_ns
        while True:
            now_ns = self.stage.now_ns
            if self.ledger.open or self.agenda.next_ns is not None:
                idle_since_ns = now_ns
            if now_ns >= self.end_ns or now_ns - idle_since_ns > IDLE_NS:
                break
            self.submit_all()
            if self.finished and not self.ledger.open and self.agenda.next_ns is None:
                break
            self.advance(min(self.end_ns, now_ns + LOOK_NS))
        self.drain()
        self.settle()

    @property
    def finished(self) -> bool:
        """Has all been asked for that should be?"""
        return bool(self.work.total_bytes) and self.submitted >= self.work.total_bytes

    def set_up(self) -> None:
        for source in self.work.initiators:
            for target in self.work.targets:
                if source != target:
                    self.connect(source, target)
        limit_ns = self.stage.now_ns + OPEN_NS
        while not all(link.ready for link in self.links):
            for link in self.links:
                self.stage.look(link)
                if link.error:
                    raise Violation(8, f"nothing is wrong yet, and a link fails: {link.error}")
            if self.stage.now_ns > limit_ns:
                raise Violation(8, "nothing is wrong yet, and the links do not stand")
            self.stage.run(self.stage.now_ns + 50_000, [])

    def connect(self, source: str, target: str) -> None:
        """A link, half of them by a grant of its own, which can be revoked."""
        processes = self.stage.processes
        granted = self.random.random() < 0.5
        link = self.stage.link(processes[source], processes[target], granted=granted)
        self.links.append(link)
        self.tally["links"] += 1

    def advance(self, until_ns: int) -> None:
        """Runs to the next end, fault or look, and deals with it."""
        next_ns = self.agenda.next_ns
        if next_ns is not None:
            until_ns = min(until_ns, next_ns)
        self.stage.run(until_ns, self.ledger.waiting())
        ended = False
        for process in self.stage.living():
            if self.ledger.out.get(id(process)):
                ended |= self.ledger.collect(process)
        self.ends += ended
        if not ended or self.ends % COMPARE_EVERY == 0:
            self.look()
        while (item := self.agenda.take(self.stage.now_ns)) is not None:
            self.happen(*item)
        total = self.work.total_bytes
        while self.shares and self.ledger.bytes_ended >= self.shares[0].at_share * total:
            fault = self.shares.pop(0)
            self.agenda.add(self.stage.now_ns + fault.at_ns, "fault", fault)

    def look(self) -> None:
        """What does not announce itself: links, notices, events, proofs, damage."""
        for process in self.stage.living():
            if process.frozen:
                continue
            self.take_events(process)
            self.ledger.prove(process)
            while (notice := process.native.notice()) is not None:
                self.notice(process, notice.data)
        for link in self.links:
            self.mend(link)
        for ghost in list(self.ghosts):
            self.stage.look(ghost)
            if ghost.ready:
                raise Violation(9, f"a revoked grant of {ghost.target.name} opens its memory")
            if ghost.error or not ghost.source.alive:
                self.ghosts.remove(ghost)
        mark = self.stage.trace_mark
        if mark != self.compared_mark:  # else nothing has landed anywhere
            self.compare()
            self.compared_mark = mark

    def compare(self) -> None:
        """Is every byte of every living process what it must be?"""
        for process in self.stage.living():
            wrong = process.arena.damage()
            if wrong is None:
                continue
            begin, end = wrong
            where = process.arena.name_of(begin)
            inside = any(where.startswith(f"{area}+") for area in AREAS)
            raise Violation(
                2 if inside else 9,
                f"memory of {process.name} changed behind everybody's back: {end - begin} bytes "
                f"from {where}",
            )

    def take_events(self, process: Process) -> None:
        kept = self.events.setdefault(id(process), [])
        for event in process.native.events():
            kept.append(event)
            name = event.type.name if hasattr(event.type, "name") else str(event.type)
            self.tally[f"event {name}"] += 1
            self.story.append(f"{event.time_ns:>12} ns  {process.name}: {name} {event.text}")

    def drain(self) -> None:
        """The weather calms down, the stopped go on, and everything has to end."""
        while self.agenda.take(1 << 62) is not None:
            pass
        self.shares.clear()
        self.weather.calm_down()
        for process in self.stage.living():
            if process.frozen:
                self.thaw(process)
        self.tell("calm")
        limit_ns = self.stage.now_ns + DRAIN_NS
        while self.ledger.open:
            if self.stage.now_ns >= limit_ns:
                parcel = next(iter(self.ledger.open.values()))
                flight = next(f for f in parcel.flights if f.status == Status.IN_PROGRESS)
                raise Violation(8, f"{self.ledger.words(flight)} never ends")
            self.advance(self.stage.now_ns + 20 * LOOK_NS)

    def settle(self) -> None:
        """Time for whatever is late, then everything is compared at rest."""
        late_ns = max(
            [rail.late_by_ns for host in self.plan.world.hosts for rail in host.rails]
            + [fault.late_by_ns for fault in self.plan.faults]
        )
        for _ in range(2):
            self.stage.run(self.stage.now_ns + late_ns + 10 * LOOK_NS, [])
            self.look()
        self.compare()
        for process in self.stage.living():
            self.ledger.collect(process)
            check_rest(process)
        self.check_notices()
        check_trace(self)

    # ---- work

    def submit_all(self) -> None:
        for name in self.work.initiators:
            process = self.stage.processes[name]
            if not process.alive or process.frozen:
                continue
            out = self.ledger.out.get(id(process), 0)
            while out < self.work.batches and not self.finished and self.submit(process):
                out += 1

    def submit(self, process: Process) -> bool:
        """One batch; False: nothing could be submitted now."""
        links = [link for link in self.links if link.source is process and link.usable]
        if not links:
            return False
        link, work, random = self.random.choice(links), self.work, self.random
        op = Op.READ if random.random() < work.reads else Op.WRITE
        places = self.places(link, op)
        if not places:
            return False
        draw = random.random()
        class_ = (
            Class.HIGH
            if draw < work.high
            else Class.LOW
            if draw < work.high + work.low
            else Class.NORMAL
        )
        integrity = random.random() < work.integrity
        relative_ns = 0
        if random.random() < work.deadlines:
            relative_ns = int(work.deadline_ns * random.uniform(0.5, 1.5))
        parcel = Parcel(
            link=link,
            handle=0,
            op=op,
            begin_ns=self.stage.now_ns,
            deadline_ns=self.stage.now_ns + relative_ns if relative_ns else 0,
            integrity=integrity,
            notice=b"",
            begin_mark=self.stage.trace_mark,
        )
        doomed = link.revoked or not link.target.alive
        doomed |= self.stage.processes[link.target.name] is not link.target
        sure = not doomed and self.is_sure(link)
        parcel.flights = [
            Flight(parcel, index, local, remote, sure=sure, void=doomed, doomed=doomed)
            for index, (local, remote) in enumerate(places)
        ]
        parcel.left = len(places)
        if not self.hand_over(parcel, class_, relative_ns):
            for local, remote in places:
                process.arena.end(local)
                if not doomed:
                    link.target.arena.end(remote)
            return False
        if random.random() < work.cancels:
            delay_ns = int(random.expovariate(1 / 400_000))
            self.agenda.add(self.stage.now_ns + delay_ns, "cancel", parcel)
        if random.random() < work.mischief:
            mischief(self, process, link)
        return True

    def places(self, link: Link, op: Op) -> list[tuple[Range, Range]]:
        """Local and remote ranges of a batch's requests, taken."""
        work, random = self.work, self.random
        near, far = link.source.arena, link.target.arena
        same = self.stage.processes[link.target.name] is link.target
        found = []
        for _ in range(1 if random.random() < 0.5 else random.randint(1, work.requests)):
            span = work.size_max / work.size_min
            length = min(work.size_max, int(work.size_min * span ** random.random()))
            area = "ro" if op == Op.READ and random.random() < 0.3 else "rw"
            local = near.take("own", length)
            if local is None:
                break
            if same and link.target.alive:
                remote = far.take(area, length)
            else:
                begin, end = far.areas[area]
                remote = (begin, begin + length) if length <= end - begin else None
            if remote is None:
                near.end(local)
                break
            found.append((local, remote))
        return found

    def hand_over(self, parcel: Parcel, class_: Class, relative_ns: int) -> bool:
        native, link = parcel.source.native, parcel.link
        flags = _abi.INTEGRITY if parcel.integrity else 0
        parcel.handle = native.batch_open(
            (flags, int(class_), _abi.COMPLETIONS_EACH, None, relative_ns)
        )
        near = parcel.source.arena.address
        error = int(Status.OK)
        accepted = 0
        for flight in parcel.flights:
            begin, end = flight.local
            record = (
                int(parcel.op), 0, link.segment, near + begin, parcel.remote_address(flight),
                end - begin, flight.index,
            )  # fmt: skip
            error, _, sentence = native.submit_one(parcel.handle, record, 0)
            if error != Status.OK:
                break
            accepted += 1
        if accepted == 0:
            native.batch_close(parcel.handle)
            self.refused(link, error, sentence)
            return False
        for flight in parcel.flights[accepted:]:
            parcel.source.arena.end(flight.local)
            if not flight.doomed:
                link.target.arena.end(flight.remote)
        del parcel.flights[accepted:]
        parcel.left = accepted
        self.seal(parcel)
        self.ledger.add(parcel)
        self.submitted += sum(f.local[1] - f.local[0] for f in parcel.flights)
        if relative_ns:
            self.tally["with deadline"] += 1
        return True

    def refused(self, link: Link, status: int, sentence: str) -> None:
        """A submit was refused at once: the link is of no use any more, or the pools are full."""
        if status == Status.AGAIN:
            return
        if self.is_sure(link) and not link.revoked:
            raise Violation(8, f"a submit to {link.target.name} was refused: {sentence}")
        self.tally["submits refused"] += 1
        if status != Status.RANGE:  # the news of a region that was registered anew is on its way
            link.error = status
        self.retry_ns[id(link)] = self.stage.now_ns + REOPEN_NS

    def seal(self, parcel: Parcel) -> None:
        if self.random.random() < self.work.notices:
            self.serial += 1
            source, target = parcel.source, parcel.target
            sender = f"{source.name} {source.life}"
            parcel.notice = f"{target.life} {sender} {self.serial}".encode()
            try:
                parcel.source.native.batch_seal(parcel.handle, parcel.link.segment, parcel.notice)
                key = parcel.target.name
                self.notices_sent.setdefault(key, []).append((self.serial, parcel))
                return
            except TentError:  # the peer is lost: sealed without
                parcel.notice = b""
        parcel.source.native.batch_seal(parcel.handle, 0, b"")

    def is_sure(self, link: Link) -> bool:
        """Does the plan leave a path between the two alone all the time?"""
        pair = (link.source.name, link.target.name)
        known: bool | None = self._sure.get(pair)
        if known is None:
            known = self._sure[pair] = sure_pair(self.plan, *pair)
        return known

    # ---- notices

    def notice(self, process: Process, data: bytes) -> None:
        self.tally["notices"] += 1
        seen = self.notices_seen.setdefault((process.name, process.life), [])
        text = data.decode()
        if text in seen:
            raise Violation(11, f"notice {text} came twice to {process.name}")
        if text.split(" ", 1)[0] != str(process.life):
            raise Violation(11, f"notice {text} was for another life of {process.name}")
        serial = int(text.rsplit(" ", 1)[1])
        sender = text.rsplit(" ", 1)[0]
        before = [int(t.rsplit(" ", 1)[1]) for t in seen if t.rsplit(" ", 1)[0] == sender]
        if before and before[-1] > serial:
            raise Violation(11, f"notice {text} came to {process.name} after {before[-1]}")
        seen.append(text)
        for number, parcel in self.notices_sent.get(process.name, ()):
            if number != serial:
                continue
            for flight in parcel.flights:
                # The initiator may learn of the end later than the notice overtakes it.
                if flight.status not in (Status.OK, Status.IN_PROGRESS):
                    raise Violation(11, f"notice {text} came, its batch failed: {flight.status}")

    def check_notices(self) -> None:
        for name, sent in self.notices_sent.items():
            process = self.stage.processes[name]
            seen = self.notices_seen.get((name, process.life), [])
            for _, parcel in sent:
                ok = all(flight.status == Status.OK for flight in parcel.flights)
                text = parcel.notice.decode()
                if ok and self.is_sure(parcel.link) and text not in seen:
                    raise Violation(11, f"notice {text} never came to {name}")

    # ---- faults

    def happen(self, what: str, thing: Any) -> None:
        if what == "fault":
            self.strike(thing)
        elif what == "overlay":
            self.weather.lay(thing, self.stage.now_ns)
        elif what == "lift":
            self.weather.lift(thing)
        elif what == "cancel":
            self.cancel(thing)
        elif what == "thaw":
            self.thaw(thing)
        elif what == "hear":
            thing.set_state(RUNS)
        elif what == "haunt" and thing.source.alive and not thing.source.frozen:
            self.stage.open(thing)
            self.ghosts.append(thing)
        elif what == "register":
            self.register_anew(*thing)

    def strike(self, fault: Fault) -> None:
        self.tally[f"fault {fault.do}"] += 1
        self.tell(f"fault: {fault.do} {fault.rail or fault.host}")
        if fault.rail:
            self.weather.strike(fault, self.stage.now_ns)
            return
        process = self.stage.processes[fault.host]
        if fault.do == "restart":
            if not process.alive:
                self.restart(process)
            return
        if not process.alive:
            return
        if fault.do in ("kill", "power_off"):
            self.compare()
            self.take_events(process)  # nobody will later
            process.host.set_state(KILLED if fault.do == "kill" else DARK)
            self.ledger.killed(process)
            self.stage.bury(process)
        elif fault.do == "freeze" and not process.frozen:
            process.frozen = True
            process.host.set_state(FROZEN_CARD if self.random.random() < 0.3 else FROZEN)
            if fault.for_ns:
                self.agenda.add(self.stage.now_ns + fault.for_ns, "thaw", process)
        elif fault.do == "thaw":
            self.thaw(process)
        elif fault.do == "listener_gone" and not process.frozen:
            process.host.set_state(RUNS, deaf=True)
            if fault.for_ns:
                self.agenda.add(self.stage.now_ns + fault.for_ns, "hear", process.host)
        elif fault.do == "cancel":
            for parcel in list(self.ledger.open.values()):
                if parcel.source is process:
                    self.cancel(parcel)
        elif fault.do == "revoke" and not process.frozen:
            self.revoke(process)
        elif fault.do == "release" and not process.frozen:
            self.release(process)

    def cancel(self, parcel: Parcel) -> None:
        if parcel.left and parcel.source.alive and not parcel.source.frozen:
            parcel.cancelled = True
            parcel.source.native.batch_cancel(parcel.handle)
            self.tally["cancels"] += 1

    def thaw(self, process: Process) -> None:
        if process.frozen and process.alive:
            process.frozen = False
            process.thawed_ns = self.stage.now_ns
            process.host.set_state(RUNS)

    def restart(self, process: Process) -> None:
        process.host.set_state(RUNS)
        fresh = self.stage.start(process.name)
        self.links = [link for link in self.links if link.source is not process]
        for name in self.work.targets:
            if fresh.name in self.work.initiators and name != fresh.name:
                self.connect(fresh.name, name)

    def revoke(self, process: Process) -> None:
        """Ends the grants that peers hold of its memory, and hands out new ones."""
        for link in self.links:
            if link.target is not process or link.revoked or not link.grant:
                continue
            process.native.grant_revoke(link.grant)
            link.revoked = True
            self.ledger.revoked(link, process, area=None)
            # The old descriptor once more, when all have heard: it must open nothing.
            ghost = Link(link.source, process, link.grant, link.descriptor)
            self.agenda.add(self.stage.now_ns + 3 * LOOK_NS, "haunt", ghost)

    def release(self, process: Process) -> None:
        """Takes its memory away from everybody, and gives it back a little later."""
        if "rw" not in process.regions:
            return
        self.agenda.add(self.stage.now_ns + 3 * LOOK_NS, "register", (process, "rw"))
        process.native.region_release(process.regions.pop("rw"))
        self.ledger.revoked(None, process, area=process.arena.areas["rw"])

    def register_anew(self, process: Process, area: str) -> None:
        if not process.alive or area in process.regions:
            return
        if process.frozen:  # it does nothing before it goes on
            self.agenda.add(self.stage.now_ns + LOOK_NS, "register", (process, area))
            return
        # A request of before that is still trying may be let in again.
        for parcel in self.ledger.open.values():
            if parcel.target is process and parcel.op == Op.WRITE:
                for flight in parcel.flights:
                    if flight.status == Status.IN_PROGRESS and not flight.doomed:
                        process.arena.watch(flight.remote)
                        process.arena.unknown.append(flight.remote)
        process.register(area)

    # ---- links

    def mend(self, link: Link) -> None:
        """Opens anew what failed, was revoked, or leads to a process that was restarted."""
        source = link.source
        if not source.alive or source.frozen:
            return
        self.stage.look(link)
        if link.usable and not link.revoked:
            return
        if not link.error and not link.revoked:
            if self.is_sure(link) and self.stage.now_ns - link.opened_ns > OPEN_NS:
                raise Violation(8, f"the link to {link.target.name} does not come up")
            return
        now_ns = self.stage.now_ns
        if now_ns < self.retry_ns.setdefault(id(link), now_ns + REOPEN_NS):
            return
        if link.error and self.is_sure(link) and not link.revoked:
            raise Violation(8, f"the link to {link.target.name} failed: {link.error}")
        target = self.stage.processes[link.target.name]
        if any(parcel.link is link for parcel in self.ledger.open.values()) or not target.alive:
            return
        if target.frozen:
            return  # a grant of its own would have to be made by it
        try:
            self.stage.drop(link)
        except Busy:
            return
        del self.retry_ns[id(link)]
        granted = bool(link.grant)
        self.links[self.links.index(link)] = self.stage.link(source, target, granted=granted)
        self.tally["links opened anew"] += 1


def may_corrupt(plan: FaultPlan) -> bool:
    """May some rail flip bits?"""
    rails = [rail for host in plan.world.hosts for rail in host.rails]
    return any(rail.corrupt for rail in rails) or any(f.do == "corrupt" for f in plan.faults)


def sure_pair(plan: FaultPlan, source: str, target: str) -> bool:
    """Is one path between the two left alone, and are both processes?"""
    hosts = {host.name: host for host in plan.world.hosts}
    harmed = {fault.rail for fault in plan.faults if fault.rail}
    for fault in plan.faults:
        if fault.host not in (source, target) or fault.do == "cancel":
            continue
        if fault.do not in CHANGES_MEMORY_RIGHTS or fault.host == target:
            return False
    for near in hosts[source].rails:
        for far in hosts[target].rails:
            if near.name != far.name or near.rung != far.rung:
                continue
            facts = [(r.loss, r.late, r.duplicate, r.corrupt) for r in (near, far)]
            named = {f"{source}/{near.name}", f"{target}/{far.name}"}
            if not harmed & named and not any(any(chances) for chances in facts):
                return True
    return False


# Runs that broke a promise: their engines are left as they are, closing one might not end well.
_WRECKS: list[Runner] = []


def _trace_hash(runner: Runner) -> str:
    """Of all that happened; addresses differ from process to process and are left out."""
    digest = hashlib.blake2b(digest_size=12)
    trace = runner.stage.fabric.trace()
    for name in TRACE_DTYPE.names or ():
        if name != "remote":
            digest.update(trace[name].tobytes())
    for parcel in runner.ledger.ended:
        for flight in parcel.flights:
            digest.update(f"{flight.end_ns} {flight.status} {flight.local}".encode())
    return digest.hexdigest()


def run_plan(plan: FaultPlan) -> Verdict:
    """Runs the plan on the simulated fabric and judges it."""
    if plan.world.shm:
        raise FaultPlanError("world.shm: the fabric's hosts share no memory; run it with --real")
    verdict = Verdict(plan.seed)
    runner = Runner(plan)
    try:
        runner.run()
    except Violation as violation:
        for process in runner.stage.living():
            runner.take_events(process)
        verdict.invariant, verdict.what = violation.invariant, violation.what
        verdict.story = runner.story[-STORY_MAX:]
    verdict.virtual_ns = runner.stage.now_ns
    verdict.trace_hash = _trace_hash(runner)
    verdict.tally = runner.tally
    if verdict.held:
        runner.stage.close()
    else:
        _WRECKS.append(runner)
    return verdict
