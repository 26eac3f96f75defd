"""Links of real rails: what an engine hears of an interface that goes down and comes back."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peers import KEY, peer_process

from tent.testing import netns
from tent.testing.netns import Rails

RAIL_DOWN, RAIL_UP = 16, 17
ENDPOINT_FAILED, ENDPOINT_RETIRED = 5, 6
# Far above what it takes: milliseconds are bench/'s to measure, on a machine that is not busy.
HEARD_S = 1.0
MIB = 1 << 20

# Prints each event as it comes; with an address, after it has opened that segment.
LISTENER = """
import json, os, select, sys
import tent
plan, key, address = sys.argv[1:]
with tent.Engine(plan=plan, key=bytes.fromhex(key)) as engine:
    if address:
        segment = engine.open_segment(address, timeout=20.0)
    descriptor = engine.native.event_fd()
    print(json.dumps(["open"]), flush=True)
    while True:
        for event in engine.events():
            print(json.dumps([int(event.type), event.rail, event.text]), flush=True)
        ready = select.select([descriptor, sys.stdin], [], [])[0]
        if sys.stdin in ready:
            break
        os.read(descriptor, 8)
"""


class Heard:
    """What one engine reports, as it reports it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.events: list[list[object]] = []
        self._left = b""

    def next(self, timeout_s: float) -> list[object]:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._left:
            ready, _, _ = select.select([descriptor], [], [], timeout_s)
            assert ready, f"nothing within {timeout_s} s; so far: {self.events}"
            got = os.read(descriptor, 65536)
            assert got, f"the engine ended; so far: {self.events}"
            self._left += got
        line, _, self._left = self._left.partition(b"\n")
        self.events.append(json.loads(line))
        return self.events[-1]

    def wait(self, kind: int, rail: int) -> str:
        """The sentence of the next such event."""
        end_s = time.monotonic() + HEARD_S
        while True:
            event = self.next(max(0.0, end_s - time.monotonic()))
            if event[:2] == [kind, rail]:
                return str(event[2])


@contextmanager
def listening(rails: Rails, cwd: Path, *, address: str = "") -> Iterator[Heard]:
    words = [plan(rails, "a"), KEY.hex(), address]
    process = subprocess.Popen(
        [*rails.prefix("a"), sys.executable, "-c", LISTENER, *words],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        heard = Heard(process)
        while heard.next(20.0) != ["open"]:
            pass
        yield heard
    finally:
        process.kill()
        process.communicate()


def plan(rails: Rails, side: str) -> str:
    lines = [f"rail {n} tcp {rails.address(side, n)}" for n in range(len(rails.rates_mbit))]
    return "\n".join(["plan 1", *lines, "route * : tcp[0 1] slice=64k"]) + "\n"


@pytest.fixture
def rails() -> Iterator[Rails]:
    if (reason := netns.available()) is not None:
        pytest.skip(reason)
    with Rails() as made:
        made.up([1000, 1000])
        yield made


def address(rails: Rails, verb: str) -> None:
    words = [f"{rails.address('a', 0)}/24", "dev", rails.device("a", 0)]
    command = ["ip", "-n", rails.namespace("a"), "addr", verb, *words]
    subprocess.run(command, check=True, timeout=20)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_link_that_goes_down_is_heard_of_and_so_is_its_return(
    rails: Rails, tmp_path: Path, side: str
) -> None:
    with listening(rails, tmp_path) as heard:
        rails.link_down(1, side=side)
        why = {"a": "is down", "b": "has no carrier"}[side]
        assert f"interface {rails.device('a', 1)} {why}" in heard.wait(RAIL_DOWN, 1)
        rails.link_up(1, side=side)
        heard.wait(RAIL_UP, 1)
        assert not [event for event in heard.events if event[0] == RAIL_DOWN and event[1] == 0]


def test_a_rail_whose_address_goes_is_down_until_it_is_back(rails: Rails, tmp_path: Path) -> None:
    with listening(rails, tmp_path) as heard:
        address(rails, "del")
        assert f"no interface has address {rails.address('a', 0)}" in heard.wait(RAIL_DOWN, 0)
        address(rails, "add")
        heard.wait(RAIL_UP, 0)


def test_both_ends_give_up_the_endpoints_of_a_rail_that_one_end_loses(
    rails: Rails, tmp_path: Path
) -> None:
    listen = f"{rails.address('b', 0)}:0"
    with (
        peer_process(
            text=plan(rails, "b"), size=MIB, listen=listen, prefix=rails.prefix("b")
        ) as peer,
        listening(rails, tmp_path, address=peer.address) as heard,
    ):
        # An operator's act at the target: the initiator's own end only loses its carrier.
        rails.link_down(1, side="b")
        # Which of the two comes first is the kernel's affair.
        heard.wait(RAIL_DOWN, 1)
        if not any(event[:2] == [ENDPOINT_FAILED, 1] for event in heard.events):
            heard.wait(ENDPOINT_FAILED, 1)
        kinds: set[int] = set()
        end_s = time.monotonic() + HEARD_S
        while not {RAIL_DOWN, ENDPOINT_RETIRED} <= kinds:
            assert time.monotonic() < end_s, kinds
            kinds |= {kind for kind, _ in peer.ask("events")["events"]}
