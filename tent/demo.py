"""`tent demo`: the whole job on one machine: two processes, four unequal rails, one of them cut.

Leans on the public package and the fault plugin (which makes rails slow and cuts them). It must
end by itself, in seconds, and say plainly whether every byte arrived.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tent import Batch, CounterRow, Engine, EventType, Plan, Rail, Segment, State, TentError, spread
from tent.units import format_rate, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

RATES_MBIT = (4000, 4000, 2000, 500)
CUT_RAIL = 1
REQUEST_SIZE = 1 << 20
PHASE_LIMIT_S = 60.0
PEER_LIMIT_S = 30.0

Bytes = npt.NDArray[np.uint8]


class DemoFailed(Exception):
    """The demo did not do what it promises; the sentence says what went wrong."""


@dataclass(frozen=True)
class Phase:
    """What one direction did: seconds, and each rail's counters before and after."""

    verb: str
    seconds: float
    before: tuple[CounterRow, ...]
    after: tuple[CounterRow, ...]


def demo_plan(size: int, *, cut: bool) -> Plan:
    """Four loopback rails; rail 1 breaks half-way through its share of the first phase."""
    rails = []
    for index, mbit in enumerate(RATES_MBIT):
        options: dict[str, str] = {"fault.throttle": f"{mbit}mbit"}
        if cut and index == CUT_RAIL:
            options["fault.cut_after"] = str(size * mbit // sum(RATES_MBIT) // 2)
        rails.append(
            Rail(transport="tcp", device=f"127.0.0.{index + 1}", gbps=mbit / 1000, options=options)
        )
    return spread("tcp", rails, settings={"slice_size": "1m"}, decorations={"tcp": "fault"})


# ---- the peer: a process that only holds memory ------------------------------------------------


def run_peer(*, commands: IO[str], answers: IO[str]) -> int:
    """Serves memory until its commands end. One JSON line in, one out."""

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    setup = json.loads(commands.readline())
    with Engine(plan=setup["plan"], key=bytes.fromhex(setup["key"]), name="demo-peer") as engine:
        memory = engine.alloc(setup["size"])
        engine.register(memory, label="demo")
        answer(address=engine.address)
        for _ in commands:
            answer(digest=digest(memory.numpy()))
    return 0


def digest(data: Bytes) -> str:
    """Hash of all bytes."""
    return hashlib.blake2b(data.data, digest_size=16).hexdigest()


class Peer:
    """The other process, as its parent sees it."""

    def __init__(self, process: subprocess.Popen[str], setup: dict[str, Any]) -> None:
        self._process = process
        self.address: str = self.ask(json.dumps(setup))["address"]

    def ask(self, line: str) -> Any:
        """Sends one line and waits for the answer, at most PEER_LIMIT_S."""
        commands, answers = self._process.stdin, self._process.stdout
        assert commands is not None
        assert answers is not None
        try:
            commands.write(line + "\n")
            commands.flush()
        except BrokenPipeError:
            raise DemoFailed("the second process ended early; its message is above") from None
        ready, _, _ = select.select([answers], [], [], PEER_LIMIT_S)
        if not ready:
            raise DemoFailed(f"the second process did not answer in {PEER_LIMIT_S:g} s")
        text = answers.readline()
        if not text:
            raise DemoFailed("the second process ended early; its message is above")
        return json.loads(text)


@contextmanager
def started_peer(setup: dict[str, Any]) -> Iterator[Peer]:
    """Starts the second process; ends it in any case."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tent", "demo", "--peer"],
        cwd=Path(__file__).resolve().parent.parent,  # the same package, wherever we were started
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        # The key goes through the pipe: an argument could be read by every user of the machine.
        yield Peer(process, setup)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


# ---- the job ------------------------------------------------------------------------------------


def run_demo(*, size: int, cut: bool, out: IO[str]) -> int:
    """Writes `size` random bytes to the peer, reads them back, verifies, reports. 0: all well."""

    def say(text: str = "") -> None:
        print(text, file=out, flush=True)

    plan, key = demo_plan(size, cut=cut), secrets.token_bytes(32)
    rails = ", ".join(f"{mbit / 1000:g}" for mbit in RATES_MBIT)
    say(f"tent demo: {format_size(size)} to a second process and back over four loopback rails")
    say(
        f"of {rails} Gbit/s, {format_size(REQUEST_SIZE)} a request",
    )
    if cut:
        say(f"rail {CUT_RAIL} will break in mid-transfer")
    setup = {"plan": demo_plan(size, cut=False).render(), "key": key.hex(), "size": size}
    with started_peer(setup) as peer, Engine(plan=plan, key=key, name="demo") as engine:
        source, back = engine.alloc(size), engine.alloc(size)
        source_bytes, back_bytes = source.numpy(), back.numpy()
        fill(source_bytes)
        expected = digest(source_bytes)
        engine.register(source, access="", label="source")
        engine.register(back, access="", label="back")
        segment = engine.open_segment(peer.address, timeout=20.0)

        phases = [run_phase(engine, segment, "write", source_bytes)]
        if peer.ask("digest")["digest"] != expected:
            raise DemoFailed("the bytes in the second process differ from those written")
        phases.append(run_phase(engine, segment, "read", back_bytes))
        if not np.array_equal(source_bytes, back_bytes):
            raise DemoFailed("the bytes read back differ from those written")
        events = engine.events()
        for phase in phases:
            say()
            report(phase, size, say)
        if cut:
            failed = [e for e in events if e.type == EventType.ENDPOINT_FAILED]
            if not failed:
                raise DemoFailed(f"rail {CUT_RAIL} was not cut: nothing failed")
            say()
            say(f"what happened: {failed[0].text}")
            retried = engine.counters().engine.slices_retried
            say(f"{retried} slices were sent again over the other rails")
    say()
    say(f"OK: {format_size(size)} written and read back, every byte verified on both sides")
    return 0


def fill(data: Bytes) -> None:
    """Random bytes, no two requests alike."""
    words = data[: len(data) // 8 * 8].view(np.uint64)
    words[:] = np.random.default_rng().integers(0, 2**64, len(words), dtype=np.uint64)


def run_phase(engine: Engine, segment: Segment, verb: str, data: Bytes) -> Phase:
    """Moves all of `data` in one batch."""
    size = len(data)
    starts = np.arange(0, size, REQUEST_SIZE, dtype=np.uint64)
    lengths = np.minimum(np.uint64(size) - starts, np.uint64(REQUEST_SIZE))
    base = np.uint64(data.__array_interface__["data"][0])
    before, begin = engine.counters().rails, time.perf_counter()
    batch: Batch
    with engine.submit(
        segment, op=verb, local=base + starts, remote=("demo", starts), length=lengths
    ) as batch:
        batch.wait(PHASE_LIMIT_S)
    seconds = time.perf_counter() - begin
    return Phase(verb=verb, seconds=seconds, before=before, after=engine.counters().rails)


def report(phase: Phase, size: int, say: Any) -> None:
    """One direction as a table."""
    total = size / phase.seconds
    whole = [row for row in phase.before if row.state == State.HEALTHY]
    nominal = sum(RATES_MBIT[row.id] for row in whole) * 1e6 / 8
    say(
        f"{phase.verb}  {phase.seconds:.2f} s  {format_rate(total)} together, "
        f"{100 * total / nominal:.0f} % of the {len(whole)} rails' sum at its begin"
    )
    say("  rail             speed        bytes  slices  again        rate   share  state")
    for before, after in zip(phase.before, phase.after, strict=True):
        moved = after.bytes_written + after.bytes_read - before.bytes_written - before.bytes_read
        slices = after.slices - before.slices
        retried = after.slices_retried - before.slices_retried
        say(
            f"  {after.id} {after.name[-13:]:<13}{RATES_MBIT[after.id] / 1000:>5g} Gbit/s"
            f"{format_size(moved):>11}{slices:>8}{retried:>7}"
            f"{format_rate(moved / phase.seconds):>13}{100 * moved / size:>6.1f} %"
            f"  {after.state.name.lower()}"
        )


def main(*, size: int, cut: bool, peer: bool) -> int:
    """Entry of `tent demo`."""
    if peer:
        return run_peer(commands=sys.stdin, answers=sys.stdout)
    try:
        return run_demo(size=size, cut=cut, out=sys.stdout)
    except (DemoFailed, TentError) as error:
        print(f"tent demo: FAILED: {error}", file=sys.stderr)
        return 1
