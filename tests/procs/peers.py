"""Starting and ending peer processes from tests."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tent.testing.waiting import eventually

KEY = b"the key of these tests"
ANSWER_S = 20.0
SCRIPT = Path(__file__).with_name("peer.py")


def plan(rails: int = 4, *, throttle: str | None = None, **settings: str) -> str:
    lines = ["plan 1", *(f"set {name}={value}" for name, value in settings.items())]
    if throttle is not None:
        lines.append("decorate tcp fault")
    word = "" if throttle is None else f" fault.throttle={throttle}"
    lines += [f"rail {n} tcp 127.0.0.{n + 1} gbps=4{word}" for n in range(rails)]
    lines.append(f"route * : tcp[{' '.join(map(str, range(rails)))}]")
    return "\n".join(lines) + "\n"


def _thread_states(pid: int) -> list[str]:
    """Of each of its threads, the letter that the kernel shows: T is stopped."""
    files = Path(f"/proc/{pid}/task").glob("*/stat")
    return [file.read_text(encoding="utf-8").rpartition(")")[2].split()[0] for file in files]


class Peer:
    """One peer process."""

    def __init__(self, process: subprocess.Popen[str], setup: dict[str, Any]) -> None:
        self.process = process
        hello = self._ask(setup)
        self.address: str = hello["address"]
        self.base: int = hello["base"]
        # As it sees itself: another number than ours in a process namespace of its own.
        self.pid: int = hello.get("pid", process.pid)

    def ask(self, do: str, **values: Any) -> Any:
        """Sends one command and gives its answer."""
        return self._ask({"do": do, **values})

    def stop(self) -> None:
        """Freezes it, all its threads, and waits for that; its sockets stay open."""
        os.kill(self.process.pid, signal.SIGSTOP)
        eventually(lambda: set(_thread_states(self.process.pid)) == {"T"}, what="a frozen peer")

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Ends it without a chance to say anything, and waits for that."""
        self.process.kill()
        self.process.wait(10)

    def _ask(self, command: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        assert ready, f"the peer did not answer {command} in {ANSWER_S} s"
        line = self.process.stdout.readline()
        assert line, f"the peer ended instead of answering {command}"
        return json.loads(line)


@contextmanager
def peer_process(
    *,
    text: str,
    size: int,
    listen: str = "127.0.0.1:0",
    key: bytes | None = KEY,
    env: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
    script: Path = SCRIPT,
    kind: type[Peer] = Peer,
    **more: Any,
) -> Iterator[Peer]:
    """A peer with that plan and `size` bytes registered as "peer"; `prefix` goes before its
    command, `more` into its setup."""
    process = subprocess.Popen(
        [*prefix, sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    try:
        setup = {
            "plan": text,
            "size": size,
            "listen": listen,
            "key": None if key is None else key.hex(),
            **more,
        }
        yield kind(process, setup)
    finally:
        process.send_signal(signal.SIGCONT)
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
