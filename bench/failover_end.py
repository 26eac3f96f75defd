"""One end of the failover benchmark: rail_end's engine, and single large writes watched closely.

    python failover_end.py KEY_FILE

A child of failover.py: one JSON object per line on stdin, answers likewise on stdout. Leans on
rail_end, whose commands it knows as well. Must never judge a number: failover.py does.

    {"do": "descriptor"}                                    -> descriptor
    {"do": "once", "length", "mark", "deadline_s"}          -> mark_ns when `mark` bytes have
        settled; at its end begun_ns, ended_ns, status, samples and events, each sample [time_ns,
        settled per rail, slices retried], each event [time_ns, type, rail]
    {"do": "first", "descriptor", "plan"}      -> connect_ns, write_ns of a fresh
        engine's first MiB
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress

import numpy as np
from rail_end import WAIT_S, End, answer, obey

import tent

LOOK_S = 0.001
HANG_S = 60.0
FIRST = 1 << 20


def descriptor(end: End) -> None:
    answer(descriptor=end.engine.export().hex())


def once(end: End, *, length: int, mark: int, deadline_s: float | None) -> None:
    """One write of `length` bytes, the engine's counters read every LOOK_S."""
    assert end.segment is not None, "connect first"
    engine = end.engine
    engine.events()  # those of before
    begun_ns = time.monotonic_ns()
    batch = engine.submit(
        end.segment,
        op="write",
        local=(end.region, 0),
        remote=("arena", 0),
        length=length,
        deadline=deadline_s,
    )
    samples = [look(engine)]
    start = sum(samples[0][1])
    marked = False
    status = "OK"
    while True:
        try:
            batch.wait(LOOK_S)
            break
        except tent.TentError as error:
            if batch.settled:
                status = type(error).__name__
                break
            if time.monotonic_ns() - begun_ns > HANG_S * 1e9:
                raise SystemExit(f"a write is not terminal after {HANG_S:g} s") from None
        samples.append(look(engine))
        if not marked and sum(samples[-1][1]) - start >= mark:
            marked = True
            answer(mark_ns=samples[-1][0])
    ended_ns = time.monotonic_ns()
    if not marked:
        answer(mark_ns=0)
    samples.append(look(engine))
    batch.close()
    answer(
        begun_ns=begun_ns,
        ended_ns=ended_ns,
        status=status,
        samples=samples,
        events=[[e.time_ns, _name(e.type), e.rail] for e in engine.events()],
    )


def look(engine: tent.Engine) -> tuple[int, list[int], int]:
    """(when, payload bytes settled per rail, slices retried)."""
    rows = engine.counters()
    return (
        time.monotonic_ns(),
        [row.bytes_written + row.bytes_read for row in rows.rails],
        rows.engine.slices_retried,
    )


def _name(kind: tent.EventType | int) -> str:
    return kind.name if isinstance(kind, tent.EventType) else str(kind)


def first(*, plan: str, key_file: str, peer: bytes) -> None:
    """A new engine's way to its first transfer."""
    with tent.Engine(plan=plan, key_file=key_file, name="newcomer") as engine:
        local = engine.register(np.ones(FIRST, dtype=np.uint8))
        begun_ns = time.monotonic_ns()
        segment = engine.open_segment(peer, timeout=WAIT_S)
        connected_ns = time.monotonic_ns()
        engine.write(segment, local=local, remote="arena", timeout=WAIT_S)
        answer(connect_ns=connected_ns - begun_ns, write_ns=time.monotonic_ns() - connected_ns)


def main(key_file: str) -> int:
    end: End | None = None
    for line in sys.stdin:
        values = json.loads(line)
        do = values.pop("do")
        if do == "serve":
            end = End(**values, key_file=key_file, name="bench-target")
            answer(address=end.engine.address)
        elif do == "connect":
            peer = bytes.fromhex(values.pop("descriptor"))
            end = End(**values, listen="none", key_file=key_file, name="bench-initiator")
            end.segment = end.engine.open_segment(peer, timeout=WAIT_S)
            answer(connected=1)
        elif do == "first":
            peer = bytes.fromhex(values["descriptor"])
            first(plan=values["plan"], key_file=key_file, peer=peer)
        elif do == "close":
            if end is not None:
                # A peer that was killed or stopped leaves writes that nobody can fence.
                with suppress(tent.Unfenced):
                    end.engine.close()
            end = None
            answer(closed=1)
        elif end is None:
            raise SystemExit(f"'{do}' before an engine was opened")
        elif do == "descriptor":
            descriptor(end)
        elif do == "once":
            once(end, **values)
        else:
            obey(end, do, values)
    if end is not None:
        with suppress(tent.Unfenced):
            end.engine.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
