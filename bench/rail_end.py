"""One end of the rail comparison: an engine in the namespace it was started in.

    python rail_end.py KEY_FILE

A child of rails.py: one JSON object per line on stdin, answers likewise on stdout. The target only
holds memory; the initiator keeps a deep stream of requests going and reads its engine's counters
beside it. Leans on the installed package and numpy. Must never judge a number: rails.py does.

    {"do": "serve", "plan", "listen", "size"}              -> address
    {"do": "connect", "plan", "address", "size"}           -> connected
    {"do": "fill", "seed"}                                 -> digest of the new content
    {"do": "digest"}                                       -> digest
    {"do": "stream", "op", "depth", "warm_ns", "measure_ns"} -> elapsed_ns, bytes (per rail)
    {"do": "watch", as stream}                             -> begun_ns; at its end samples, each
                                                              [time_ns, settled, in flight per rail]
    {"do": "close"}                                        -> closed
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

import numpy as np

import tent

REQUEST = 1 << 20
BATCH = 4 << 20
WAIT_S = 20.0
# How often finished batches are sent again and, in a watch, counters are read.
TICK_NS = 5_000_000


def answer(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def sample(engine: tent.Engine) -> tuple[int, list[int], list[int]]:
    """(when, payload bytes settled per rail, bytes in flight on each rail)."""
    rails = engine.counters().rails
    return (
        time.monotonic_ns(),
        [row.bytes_written + row.bytes_read for row in rails],
        [row.inflight_bytes for row in rails],
    )


class End:
    """The engine, its memory and, at the initiator, the open segment."""

    def __init__(self, *, plan: str, listen: str, key_file: str, size: int, name: str) -> None:
        self.engine = tent.Engine(plan=plan, listen=listen, key_file=key_file, name=name)
        memory = self.engine.alloc(size)
        self.bytes = memory.numpy()
        self.region = self.engine.register(memory, label="arena")
        self.segment: tent.Segment | None = None

    def fill(self, seed: int) -> None:
        words = self.bytes.view(np.uint64)
        words[:] = np.random.default_rng(seed).integers(0, 2**64, len(words), dtype=np.uint64)

    def digest(self) -> str:
        return hashlib.blake2b(self.bytes.data, digest_size=16).hexdigest()

    def submit(self, op: str, starts: Any) -> tent.Batch:
        assert self.segment is not None, "connect first"
        return self.engine.submit(
            self.segment,
            op=op,
            local=(self.region, starts),
            remote=("arena", starts),
            length=REQUEST,
        )

    def stream(self, *, op: str, depth: int, warm_ns: int, measure_ns: int) -> list[Any]:
        """Samples every TICK_NS after `warm_ns`, with `depth` bytes of requests outstanding."""
        offsets = np.arange(0, BATCH, REQUEST, dtype=np.uint64)
        parts = [np.uint64(start) + offsets for start in range(0, depth, BATCH)]
        running = [self.submit(op, part) for part in parts]
        samples = []
        begin_ns = tick_ns = time.monotonic_ns()
        while True:
            for index, batch in enumerate(running):
                if batch.done:
                    batch.wait(0)  # raises what went wrong
                    batch.close()
                    running[index] = self.submit(op, parts[index])
            now_ns = time.monotonic_ns()
            if now_ns - begin_ns >= warm_ns:
                samples.append(sample(self.engine))
            if now_ns - begin_ns >= warm_ns + measure_ns:
                break
            tick_ns = max(tick_ns + TICK_NS, now_ns)
            time.sleep((tick_ns - now_ns) / 1e9)
        for batch in running:
            batch.wait(WAIT_S)
            batch.close()
        return samples


def obey(end: End, do: str, values: dict[str, Any]) -> None:
    match do:
        case "fill":
            end.fill(values["seed"])
            answer(digest=end.digest())
        case "digest":
            answer(digest=end.digest())
        case "stream":
            samples = end.stream(**values)
            (begin_ns, begin, _), (end_ns, last, _) = samples[0], samples[-1]
            moved = [after - before for before, after in zip(begin, last, strict=True)]
            answer(elapsed_ns=end_ns - begin_ns, bytes=moved)
        case "watch":
            answer(begun_ns=time.monotonic_ns())
            answer(samples=end.stream(**values))
        case _:
            raise SystemExit(f"unknown command: {do}")


def main(key_file: str) -> int:
    end: End | None = None
    for line in sys.stdin:
        values = json.loads(line)
        do = values.pop("do")
        if do == "serve":
            end = End(**values, key_file=key_file, name="bench-target")
            answer(address=end.engine.address)
        elif do == "connect":
            address = values.pop("address")
            end = End(**values, listen="127.0.0.1:0", key_file=key_file, name="bench-initiator")
            end.segment = end.engine.open_segment(address, timeout=WAIT_S)
            answer(connected=1)
        elif do == "close":
            if end is not None:
                end.engine.close()
            end = None
            answer(closed=1)
        elif end is None:
            raise SystemExit(f"'{do}' before an engine was opened")
        else:
            obey(end, do, values)
    if end is not None:
        end.engine.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
