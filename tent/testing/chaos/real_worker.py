"""One process of a real run, in the namespace it was started in.

    python -m tent.testing.chaos.real_worker

One JSON object per line on stdin, answers and news likewise on stdout. The first line is the setup,
{"role": "initiator" or "target", "plan", "listen", "key", "limits", "memory", "offset", "length"};
`memory` is the file that is the target's memory, which the initiator maps as well; "" for a target:
it makes its own, by engine.alloc, and tells where it is found. Ends with its input, and is killed
when its parent is, even while it is stopped. Leans on the public package. Must never judge what it
was told to break: real.py knows.

    target     {"do": "hide_listener"}, {"do": "show_listener"}, {"do": "revoke"}, {"do": "release"}
               {"do": "rest"} -> {"news": "rest", "charged"}
    initiator  {"do": "go", "seed", "work", "marks", "descriptor"} -> {"news": "begun"}, a
               {"news": "mark"} for each number of bytes in marks, {"news": "done"}
               {"do": "descriptor", "descriptor", "memory", "offset"}, {"do": "cancel"}
               {"do": "report"} -> {"news": "report", ...}
    both       {"news": "ready", "address", "descriptor", "memory", "offset"}
               {"news": "failed", "text"}
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import queue
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tent import Busy, Engine, Event, EventType, Grant, Region, TentError, Unfenced
from tent.resilience.faults import Workload
from tent.testing.chaos.real_lanes import LABEL, Bytes, Lane, Session, Tally, lanes_of

TICK_S = 0.002
# Samples of the timeline: one per this much time.
SAMPLE_NS = 10_000_000
EVENTS_MAX = 4000
REST_S = 10.0
RELEASE_S = 10.0
LISTENING = "0A"
PR_SET_PDEATHSIG = 1


def say(news: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"news": news, **values}) + "\n")
    sys.stdout.flush()


def mapped(path: str, offset: int, length: int) -> Bytes:
    """The file's bytes, shared with whoever else maps it."""
    with Path(path).open("r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), length, offset=offset), dtype=np.uint8)


def found_at(address: int) -> tuple[str, int]:
    """Where others find the memory of this process at an address: a file of theirs, and offset."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        span, _, offset, *_ = line.split()
        begin, end = (int(word, 16) for word in span.split("-"))
        if begin <= address < end:
            path = f"/proc/{os.getpid()}/map_files/{span}"
            return path, int(offset, 16) + address - begin
    raise AssertionError(f"nothing is mapped at {address:#x}")


def listening_sockets(*, root: Path = Path("/")) -> list[socket.socket]:
    """Duplicates of this process's own listening TCP sockets."""
    process = root / "proc" / "self"
    inodes = set()
    for table in ("tcp", "tcp6"):
        path = process / "net" / table
        for line in path.read_text(encoding="ascii").splitlines()[1:] if path.exists() else []:
            words = line.split()
            if words[3] == LISTENING:
                inodes.add(f"socket:[{words[9]}]")
    numbers = {}
    for entry in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists
            if (inode := str(entry.readlink())) in inodes:
                numbers[inode] = int(entry.name)
    return [socket.socket(fileno=os.dup(number)) for number in numbers.values()]


Hidden = tuple[socket.socket, Any]


def hide(listeners: list[socket.socket]) -> list[Hidden]:
    """They listen no more, though their owner does not know; gives them with their addresses."""
    hidden = [(listener, listener.getsockname()) for listener in listeners]
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
    return hidden


def show(hidden: list[Hidden]) -> None:
    """They listen again, for their owner, where they did."""
    for listener, address in hidden:
        try:
            listener.bind(address)  # a port that the system had chosen is free again
        except OSError as error:
            if error.errno != errno.EINVAL:  # bound still: the port was asked for
                raise
        listener.listen()
        listener.close()


class Worker:
    """What both roles have: the engine, its events, its memory."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.stack = ExitStack()
        self.events: list[Event] = []
        self.engine = self.stack.enter_context(
            Engine(
                plan=setup["plan"],
                listen=setup["listen"],
                key=bytes.fromhex(setup["key"]),
                name=setup["role"],
                **setup["limits"],
            )
        )

    def take_events(self) -> None:
        self.events += self.engine.events()
        del self.events[:-EVENTS_MAX]

    def events_told(self) -> list[list[Any]]:
        return [[e.time_ns, _name(e), e.rail, e.text] for e in self.events]

    def charged(self) -> int:
        """Bytes still charged once nothing moves any more."""
        end = time.monotonic() + REST_S
        while True:
            rows = self.engine.counters()
            left = sum(
                abs(row.charged_bytes - row.released_bytes) + row.inflight_bytes
                for row in (rows.engine, *rows.rails, *rows.endpoints)
            )
            if left == 0 or time.monotonic() > end:
                return left
            time.sleep(TICK_S)

    def released(self, region: Region) -> None:
        """Releases it, waiting while requests use it."""
        end = time.monotonic() + RELEASE_S
        while True:
            try:
                return region.release()
            except Busy:
                if time.monotonic() > end:
                    raise
                time.sleep(TICK_S)


def _name(event: Event) -> str:
    return event.type.name if isinstance(event.type, EventType) else str(event.type)


class Target(Worker):
    """Holds memory; hides its listener, takes its grant or its region back when told to."""

    def __init__(self, setup: dict[str, Any]) -> None:
        super().__init__(setup)
        self.owner: Any
        if setup["memory"]:
            self.owner = mapped(setup["memory"], 0, setup["length"])
            self.place = (setup["memory"], 0)
        else:
            self.owner = self.engine.alloc(setup["length"])
            self.place = found_at(self.owner.numpy().ctypes.data)
        self.region = self.engine.register(self.owner, label=LABEL)
        self.hidden: list[Hidden] = []
        self.grant: Grant = self.engine.grant()
        self.ready()

    def ready(self) -> None:
        descriptor = self.grant.export().hex()
        path, offset = self.place
        say(
            "ready",
            address=self.engine.address,
            descriptor=descriptor,
            memory=path,
            offset=offset,
        )

    def obey(self, command: dict[str, Any]) -> None:
        match command["do"]:
            case "hide_listener":
                self.hidden = hide(listening_sockets())
            case "show_listener":
                show(self.hidden)
                self.hidden = []
            case "revoke":
                self.grant.revoke()
                self.grant = self.engine.grant()
                self.ready()
            case "release":
                self.released(self.region)
                self.region = self.engine.register(self.owner, label=LABEL)
                self.ready()
            case "rest":
                self.take_events()
                say("rest", charged=self.charged(), events=self.events_told())

    def tick(self) -> None:
        self.take_events()


class Initiator(Worker):
    """Runs the lanes, and watches the engine's counters beside them."""

    def __init__(self, setup: dict[str, Any]) -> None:
        super().__init__(setup)
        self.length: int = setup["length"]
        self.place = (setup["memory"], setup["offset"])
        self.own = self.engine.alloc(setup["length"]).numpy()
        self.region = self.engine.register(self.own, access="", label="own")
        self.tally = Tally()
        self.session: Session | None = None
        self.lanes: list[Lane] = []
        self.marks: list[int] = []
        self.samples: list[tuple[int, int, int]] = []
        self.end_ns = 0
        self.done = False
        say("ready", address="", descriptor="", memory="", offset=0)

    def obey(self, command: dict[str, Any]) -> None:
        match command["do"]:
            case "go":
                self.go(command)
            case "descriptor":
                self.follow(command)
            case "cancel":
                for lane in self.lanes:
                    lane.cancel()
            case "stop":
                assert self.session is not None
                self.session.stop.set()
            case "report":
                self.report()

    def follow(self, command: dict[str, Any]) -> None:
        """The target has a new grant, or a new life, perhaps with other memory."""
        assert self.session is not None
        place = (command["memory"], command["offset"])
        if place != self.place:
            try:
                self.session.there = mapped(*place, self.length)
            except FileNotFoundError:
                return  # dead already
            self.place = place
        self.session.descriptor = bytes.fromhex(command["descriptor"])

    def go(self, command: dict[str, Any]) -> None:
        words = command["work"]
        names = {name: tuple(words[name]) for name in ("initiators", "targets")}
        work = Workload(**{**words, **names})
        there = mapped(*self.place, self.length)
        self.session = Session(self.engine, bytes.fromhex(command["descriptor"]), there)
        self.marks = sorted(command["marks"])
        self.lanes = list(
            lanes_of(
                seed=command["seed"],
                work=work,
                session=self.session,
                region=self.region,
                here=self.own,
                tally=self.tally,
            )
        )
        if self.session.segment() is None:
            return
        now_ns = time.monotonic_ns()
        self.end_ns = now_ns + work.time_ns if work.time_ns else 0
        say("begun", time_ns=now_ns)
        for lane in self.lanes:
            lane.start()

    def tick(self) -> None:
        self.take_events()
        if not self.lanes or self.done or self.session is None:
            return
        now_ns = time.monotonic_ns()
        rows = self.engine.counters()
        moved = sum(row.bytes_written + row.bytes_read for row in rows.rails)
        if not self.samples or now_ns - self.samples[-1][0] >= SAMPLE_NS:
            self.samples.append((now_ns, moved, rows.engine.slices_retried))
        while self.marks and max(moved, self.tally.bytes_ok) >= self.marks[0]:
            say("mark", bytes=self.marks.pop(0), time_ns=now_ns)
        if self.end_ns and now_ns >= self.end_ns:
            self.session.stop.set()
        if not any(lane.is_alive() for lane in self.lanes):
            self.done = True
            say("done", time_ns=now_ns)

    def report(self) -> None:
        for lane in self.lanes:
            lane.join()
            lane.verify_rest()
        self.take_events()
        rows, tally = self.engine.counters(), self.tally
        assert self.session is not None
        say(
            "report",
            statuses=dict(tally.statuses),
            refusals=dict(tally.refusals),
            bytes_ok=tally.bytes_ok,
            latencies_ns=sorted(tally.latencies_ns),
            late_ms=tally.late,
            violations=tally.violations,
            samples=self.samples,
            events=self.events_told(),
            charged=self.charged(),
            reopened=self.session.reopened,
            retried=rows.engine.slices_retried,
            rails=[[row.name, row.bytes_written + row.bytes_read] for row in rows.rails],
        )


def read_commands(commands: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        commands.put(line)
    commands.put("")


def main() -> int:
    # A stopped process does not see its input end.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Ctrl-C reaches the whole foreground group; the parent ends us in its own order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setup = json.loads(sys.stdin.readline())
    try:
        worker = Target(setup) if setup["role"] == "target" else Initiator(setup)
    except TentError as error:
        say("failed", text=str(error))
        return 1
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=read_commands, args=(commands,), daemon=True).start()
    # What the engine could not fence by its end is in the report already.
    with suppress(Unfenced), worker.stack:
        serve(worker, commands)
    return 0


def serve(worker: Target | Initiator, commands: queue.SimpleQueue[str]) -> None:
    """Obeys until the input ends."""
    while True:
        try:
            line = commands.get(timeout=TICK_S)
        except queue.Empty:
            worker.tick()
            continue
        if not line:
            return
        try:
            worker.obey(json.loads(line))
        except TentError as error:
            say("failed", text=f"{line.strip()[:60]}: {error}")


if __name__ == "__main__":
    raise SystemExit(main())
