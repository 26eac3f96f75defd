"""Requests submitted from Python as numpy columns: what the interpreter adds.

    python python_submit.py PLAN_FILE private|engine

A child of transports.py: commands as lines on stdin, one JSON object per command on stdout. Both
engines live in this process, joined over the plan's transport; what is measured is the cost of the
calls. Leans on the installed package and numpy. Must never be used to judge throughput.

    submit BLOCK BATCH ROUNDS                    time of Batch.submit alone
    rate BLOCK BATCH OUTSTANDING DURATION_NS     writes, OUTSTANDING batches at a time
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import numpy.typing as npt

import tent

FOOTPRINT = 32 << 20
WAIT_S = 20.0

U64 = npt.NDArray[np.uint64]


class Pair:
    """Two connected engines of this process and their memory."""

    def __init__(self, plan: str, memory: str) -> None:
        key = secrets.token_bytes(32)
        self.target = tent.Engine(name="bench-target", plan=plan, key=key)
        self.initiator = tent.Engine(name="bench-initiator", plan=plan, key=key)
        if memory == "engine":
            self._memory = (self.target.alloc(FOOTPRINT), self.initiator.alloc(FOOTPRINT))
        else:
            self._memory = (tent.Memory(FOOTPRINT), tent.Memory(FOOTPRINT))
        for one in self._memory:
            one.numpy()[::4096] = 1  # brings the pages in, so that no transfer pays for them
        self._remote = self.target.register(self._memory[0]).address
        self._local = self.initiator.register(self._memory[1]).address
        self.segment = self.initiator.open_segment(self.target.address, timeout=WAIT_S)

    def columns(self, block: int, batch: int) -> tuple[U64, U64]:
        offsets = np.arange(batch, dtype=np.uint64) * np.uint64(block)
        if batch * block > FOOTPRINT:
            raise ValueError(f"a batch of {batch} x {block} bytes exceeds {FOOTPRINT} bytes")
        return offsets + np.uint64(self._local), offsets + np.uint64(self._remote)

    def submit(self, block: int, batch: int, rounds: int) -> dict[str, int]:
        local, remote = self.columns(block, batch)
        cpu: list[int] = []
        wall: list[int] = []
        for _ in range(rounds):
            work = self.initiator.batch()
            cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
            work.submit(self.segment, op="write", local=local, remote=remote, length=block)
            wall.append(time.perf_counter_ns() - wall_ns)
            cpu.append(time.thread_time_ns() - cpu_ns)
            work.wait(WAIT_S)
        cpu.sort()
        return {
            "cpu_p50_ns": cpu[rounds // 2],
            "cpu_p99_ns": cpu[rounds * 99 // 100],
            "wall_p50_ns": sorted(wall)[rounds // 2],
        }

    def rate(self, block: int, batch: int, outstanding: int, duration_ns: int) -> dict[str, int]:
        local, remote = self.columns(block, batch)
        running: deque[tent.Batch] = deque()
        done = 0
        begin_ns = time.perf_counter_ns()
        while time.perf_counter_ns() - begin_ns < duration_ns:
            if len(running) == outstanding:
                running.popleft().wait(WAIT_S)
                done += batch
            running.append(
                self.initiator.submit(
                    self.segment, op="write", local=local, remote=remote, length=block
                )
            )
        for work in running:
            work.wait(WAIT_S)
            done += batch
        return {"requests": done, "elapsed_ns": time.perf_counter_ns() - begin_ns}

    def close(self) -> None:
        self.initiator.close()
        self.target.close()


def main() -> int:
    pair = Pair(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2])
    print(json.dumps({"ready": 1}), flush=True)
    for line in sys.stdin:
        word, *numbers = line.split()
        values = [int(number) for number in numbers]
        if word == "submit":
            print(json.dumps(pair.submit(*values)), flush=True)
        elif word == "rate":
            print(json.dumps(pair.rate(*values)), flush=True)
        else:
            raise SystemExit(f"unknown command: {line.strip()}")
    pair.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
