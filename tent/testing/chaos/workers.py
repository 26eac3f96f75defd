"""Seeds over several processes: verdicts come back as lines, one that dies names its seed.

Leans on subprocess. A worker is the command itself with `--worker`, which reads seeds and writes
verdicts. Must never lose a seed: one that kills or hangs its worker is a violation like others.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import tent
from tent.testing.chaos.verdict import Verdict

CHUNK = 25  # seeds a worker gets at a time: the slowest one ends soon after the others
HANG_S = 60.0
CRASHED = 12
HUNG = 13


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    out: IO[bytes]
    commands: IO[bytes]
    waiting: list[int] = field(default_factory=list)
    buffer: bytes = b""
    heard_s: float = 0.0


def run_seeds(seeds: Iterable[int], jobs: int) -> Iterator[Verdict]:
    """Verdicts in the order in which they come."""
    rest = iter(seeds)
    workers: list[_Worker] = []
    with (
        # A worker that is killed, or crashes, does not clear up what it has made.
        tempfile.TemporaryDirectory(prefix="tent-chaos-") as folder,
        selectors.DefaultSelector() as selector,
    ):
        try:
            for _ in range(jobs):
                worker = _start(folder)
                workers.append(worker)
                selector.register(worker.out, selectors.EVENT_READ, worker)
                _feed(worker, rest)
            while any(worker.waiting for worker in workers):
                ready = selector.select(timeout=1.0)
                for key, _ in ready:
                    yield from _read(key.data, rest)
                for index, worker in enumerate(workers):
                    verdict = _lost(worker)
                    if verdict is None:
                        continue
                    yield verdict
                    selector.unregister(worker.out)
                    fresh = _start(folder)
                    workers[index] = fresh
                    selector.register(fresh.out, selectors.EVENT_READ, fresh)
                    _send(fresh, worker.waiting[1:])
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.wait()
                worker.out.close()
                worker.commands.close()


def work() -> int:
    """The worker's side: seeds on standard input, verdicts on standard output."""
    from tent.testing.chaos.generator import draw
    from tent.testing.chaos.runner import run_plan

    for line in sys.stdin:
        verdict = run_plan(draw(int(line)))
        print(json.dumps(verdict.as_plain()), flush=True)
    return 0


def _start(folder: str) -> _Worker:
    process = subprocess.Popen(
        [sys.executable, "-m", "tent.testing.chaos", "--worker"],
        # "-m" looks for modules where it is started first: not among anybody's sources.
        cwd=Path(tent.__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": folder},
    )
    assert process.stdin is not None and process.stdout is not None
    return _Worker(process, process.stdout, process.stdin, heard_s=time.monotonic())


def _send(worker: _Worker, seeds: list[int]) -> None:
    worker.waiting += seeds
    if not seeds:
        return
    try:
        worker.commands.write("".join(f"{seed}\n" for seed in seeds).encode())
        worker.commands.flush()
    except BrokenPipeError:
        return  # it is found dead in a moment


def _feed(worker: _Worker, rest: Iterator[int]) -> None:
    _send(worker, [seed for _, seed in zip(range(CHUNK), rest)])  # noqa: B905 - the shorter ends it


def _read(worker: _Worker, rest: Iterator[int]) -> Iterator[Verdict]:
    data = worker.out.read1(1 << 16)  # type: ignore[attr-defined]
    worker.heard_s = time.monotonic()
    *lines, worker.buffer = (worker.buffer + data).split(b"\n")
    for line in lines:
        verdict = Verdict.of_plain(json.loads(line))
        worker.waiting.remove(verdict.seed)
        yield verdict
    if not worker.waiting and data:
        _feed(worker, rest)


def _lost(worker: _Worker) -> Verdict | None:
    """The verdict on a seed that its worker did not survive."""
    if not worker.waiting:
        return None
    seed = worker.waiting[0]
    status = worker.process.poll()
    if status is not None:
        return Verdict(seed, CRASHED, f"the process ended with status {status} (negative: signal)")
    if time.monotonic() - worker.heard_s > HANG_S:
        worker.process.kill()
        worker.process.wait()
        return Verdict(seed, HUNG, f"nothing was heard for {HANG_S:.0f} s")
    return None
