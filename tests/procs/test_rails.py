"""Real rails in network namespaces: they come, break, heal and go, and two processes use them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import KEY, peer_process

from tent.testing import netns
from tent.testing.netns import Rails, RailsError

MIB = 1 << 20
RATES = (1600, 800)

# How a connection attempt through a rail ends; nobody listens, so a whole rail answers at once.
KNOCK = """
import socket, sys
source, target = sys.argv[1:]
knock = socket.socket()
knock.settimeout(0.15)
knock.bind((source, 0))
try:
    knock.connect((target, 9))
except OSError as error:
    print(type(error).__name__)
"""

MOVER = """
import hashlib, json, sys
import numpy as np
import tent
address, plan, key, size = sys.argv[1:]
size = int(size)
source = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
back = np.zeros_like(source)
with tent.Engine(plan=plan, key=bytes.fromhex(key)) as engine:
    segment = engine.open_segment(address, timeout=20.0)
    engine.write(segment, local=engine.register(source), remote="peer", timeout=20.0)
    engine.read(segment, local=engine.register(back), remote="peer", timeout=20.0)
    rails = [row.bytes_written + row.bytes_read for row in engine.counters().rails]
digests = [hashlib.sha256(data.data).hexdigest() for data in (source, back)]
print(json.dumps({"digests": digests, "rails": rails}))
"""

ABANDONED = """
import os, signal, sys
from tent.testing.netns import Rails
rails = Rails().__enter__()
rails.up([100])
print(rails.namespace("a"), rails.namespace("b"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def needs_rails() -> None:
    if (reason := netns.available()) is not None:
        pytest.skip(reason)


@pytest.fixture
def rails() -> Iterator[Rails]:
    with Rails() as made:
        made.up(RATES)
        yield made


def present() -> set[str]:
    lines = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in lines.stdout.splitlines() if line.strip()}


def knock(rails: Rails, rail: int, *, side: str = "a") -> str:
    other = "b" if side == "a" else "a"
    addresses = [rails.address(side, rail), rails.address(other, rail)]
    command = [*rails.prefix(side), sys.executable, "-S", "-c", KNOCK, *addresses]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=20
    ).stdout.strip()


def plan(rails: Rails, side: str) -> str:
    lines = [f"rail {n} tcp {rails.address(side, n)}" for n in range(len(rails.rates_mbit))]
    return "\n".join(["plan 1", *lines, "route * : tcp[0 1] slice=64k"]) + "\n"


class Interrupted(BaseException):
    """Something that no handler of ordinary errors catches, as Ctrl-C."""


def test_namespaces_go_when_the_body_raises() -> None:
    with pytest.raises(Interrupted), Rails() as rails:
        rails.up(RATES)
        mine = {rails.namespace("a"), rails.namespace("b")}
        assert mine <= present()
        raise Interrupted
    assert not mine & present()


def test_namespaces_go_when_a_rail_cannot_be_made() -> None:
    with Rails(mtu=10) as rails:  # less than the least that Ethernet allows
        mine = {rails.namespace("a"), rails.namespace("b")}
        with pytest.raises(RailsError, match="mtu"):
            rails.up(RATES)
        rails.down()
        assert rails.rates_mbit == ()
    assert not mine & present()


def test_only_what_a_dead_owner_left_is_removed(rails: Rails, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ABANDONED]
    dead = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    left = set(dead.stdout.split())
    assert len(left) == 2
    assert left <= present()
    assert left <= set(netns.remove_leftovers())
    assert not left & present()
    assert {rails.namespace("a"), rails.namespace("b")} <= present()


def test_a_missing_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RailsError, match="no 'ip' in PATH: install iproute2"), Rails():
        pass


def test_without_root_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RailsError, match="need root"), Rails():
        pass


def test_a_rail_that_is_not_there_is_refused(rails: Rails) -> None:
    with pytest.raises(RailsError, match="no rail 2: 2 are up"):
        rails.set_rate(2, 100)
    with pytest.raises(RailsError, match="rate of 0 Mbit/s"):
        rails.set_rate(0, 0)


def test_a_new_rate_holds_in_both_directions(rails: Rails) -> None:
    rails.set_rate(1, 50)
    assert rails.rates_mbit == (1600, 50)
    for side in ("a", "b"):
        command = ["tc", "-n", rails.namespace(side), "class", "show", "dev", f"r{side}1"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert re.search(r"\brate 50Mbit ceil 50Mbit\b", shown), shown


def test_a_black_hole_is_silent_and_outlives_its_link(rails: Rails) -> None:
    rails.black_hole(0, sides=["b"])
    assert knock(rails, 0) == "TimeoutError"
    assert knock(rails, 1) == "ConnectionRefusedError"
    rails.link_down(0, side="b")
    rails.link_up(0, side="b")
    assert knock(rails, 0) == "TimeoutError"
    rails.heal(0)
    assert knock(rails, 0) == "ConnectionRefusedError"


def test_a_link_that_is_down_refuses_and_comes_back(rails: Rails) -> None:
    rails.link_down(0)
    assert knock(rails, 0) == "OSError"  # no route to the host
    rails.link_up(0)
    assert knock(rails, 0) == "ConnectionRefusedError"


def test_two_processes_move_every_byte_over_two_shaped_rails(rails: Rails, tmp_path: Path) -> None:
    size = 16 * MIB
    with peer_process(
        text=plan(rails, "b"),
        size=size,
        listen=f"{rails.address('b', 0)}:0",
        prefix=rails.prefix("b"),
    ) as peer:
        words = [peer.address, plan(rails, "a"), KEY.hex(), str(size)]
        command = [*rails.prefix("a"), sys.executable, "-c", MOVER, *words]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["digests"] == [peer.ask("digest")["digest"]] * 2
        assert sum(told["rails"]) == 2 * size
        assert all(moved > 0 for moved in told["rails"]), told["rails"]
