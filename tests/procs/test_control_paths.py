"""The control channel over real rails: what a rail that dies takes with it, and what not."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from peers import KEY, Peer, peer_process

from tent.testing import eventually, netns
from tent.testing.netns import Rails

MIB = 1 << 20
SIZE = 64 * MIB
# What the loss of a rail may cost anything that goes over the control channel.
LIMIT_S = 0.3

# Obeys one JSON line at a time and tells when it was done, by the clock all processes share.
INITIATOR = """
import json, sys, time
import numpy as np
import tent

setup = json.loads(sys.stdin.readline())
def answer(**values):
    print(json.dumps({"at": time.monotonic(), **values}), flush=True)
def await_event(part):
    end = time.monotonic() + 15
    while time.monotonic() < end:
        for event in engine.events():
            seen.append(event.text)
            if part in event.text:
                return
        time.sleep(0.001)
    raise SystemExit(f"no event says {part!r}: {seen}")

seen = []
with tent.Engine(plan=setup["plan"], key=bytes.fromhex(setup["key"])) as engine:
    local = engine.register(np.zeros(setup["size"], dtype=np.uint8))
    segment = engine.open_segment(setup["address"], timeout=20.0)
    await_event("one more control path")
    answer()
    for line in sys.stdin:
        match json.loads(line)["do"]:
            case "notice":
                engine.write(segment, local=local[:4096], remote="peer", notice=b"here", timeout=10)
                answer()
            case "import":
                other = engine.open_segment(setup["address"], timeout=10.0)
                answer(regions=len(other.regions))
            case "fence":
                batch = engine.submit(segment, op="write", local=local, remote="peer")
                while engine.counters().engine.slices < 4:
                    time.sleep(0.001)
                begin = time.monotonic()
                batch.cancel()
                try:
                    batch.wait(10)
                except tent.TentError as error:
                    answer(begin=begin, kind=type(error).__name__)
            case "loss":
                await_event("refuses connections")
                answer()
"""


class Initiator:
    def __init__(self, process: subprocess.Popen[str], setup: dict[str, Any]) -> None:
        self._process = process
        self.say(**setup)
        self.hear()

    def say(self, **values: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(values) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the initiator has ended"
        told: dict[str, Any] = json.loads(line)
        return told

    @property
    def has_answered(self) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])


@pytest.fixture(autouse=True)
def needs_rails() -> None:
    if (reason := netns.available()) is not None:
        pytest.skip(reason)


@contextmanager
def connected(folder: Path) -> Iterator[tuple[Rails, Peer, Initiator]]:
    """Two rails. Control begins on rail 0; all data goes by rail 1, which is slow enough to be
    caught in the act."""

    def plan(side: str) -> str:
        lines = [f"rail {n} tcp {rails.address(side, n)}" for n in range(2)]
        lines.append("set cancel_grace=10ms")
        return "\n".join(["plan 1", *lines, "route * : tcp[1] slice=1m"]) + "\n"

    with Rails() as rails:
        rails.up([1000, 1000])
        listen = f"{rails.address('b', 0)}:0"
        with peer_process(
            text=plan("b"), size=SIZE, listen=listen, prefix=rails.prefix("b")
        ) as peer:
            command = [*rails.prefix("a"), sys.executable, "-c", INITIATOR]
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            try:
                setup = {"plan": plan("a"), "key": KEY.hex(), "size": SIZE, "address": peer.address}
                yield rails, peer, Initiator(process, setup)
            finally:
                process.kill()
                process.wait(10)
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()


@pytest.mark.parametrize("first", ["notice", "import"])
def test_a_silent_rail_holds_up_neither_notice_nor_import_nor_fence(
    first: str, tmp_path: Path
) -> None:
    with connected(tmp_path) as (rails, peer, initiator):
        rails.black_hole(0)
        took = {}
        for do in (first, "notice" if first == "import" else "import"):
            begin = time.monotonic()
            initiator.say(do=do)
            if do == "notice":
                assert peer.ask("notice")["notice"] == "here"
                took[do] = time.monotonic() - begin
                initiator.hear()
            else:
                told = initiator.hear()
                took[do] = told["at"] - begin
                assert told["regions"] == 1
        initiator.say(do="fence")
        told = initiator.hear()
        took["fence"] = told["at"] - told["begin"]
        assert told["kind"] == "Cancelled"  # and not Unfenced: the peer has confirmed
        assert all(seconds < LIMIT_S for seconds in took.values()), took


def test_a_peer_cut_off_on_both_rails_is_met_again(tmp_path: Path) -> None:
    with connected(tmp_path) as (rails, peer, initiator):
        for rail in range(2):
            rails.black_hole(rail)
        initiator.say(do="import")
        with pytest.raises(AssertionError, match="not within"):
            eventually(lambda: initiator.has_answered, what="an answer", timeout=0.5)
        for rail in range(2):
            rails.heal(rail)
        assert initiator.hear()["regions"] == 1
        initiator.say(do="notice")
        assert peer.ask("notice")["notice"] == "here"
        initiator.hear()


def test_a_killed_peer_is_lost_at_once(tmp_path: Path) -> None:
    with connected(tmp_path) as (_, peer, initiator):
        initiator.say(do="loss")
        begin = time.monotonic()
        peer.kill()
        took = initiator.hear()["at"] - begin
        assert took < 0.1 + LIMIT_S  # the process takes its time to die


def test_a_peer_killed_behind_a_silent_rail_is_lost_soon(tmp_path: Path) -> None:
    with connected(tmp_path) as (rails, peer, initiator):
        rails.black_hole(0)
        initiator.say(do="loss")
        begin = time.monotonic()
        peer.kill()
        took = initiator.hear()["at"] - begin
        assert took < 1.0
