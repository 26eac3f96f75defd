"""A rail of the rig and what can go wrong with it: links, silent loss, delay, rates, devices.

Leans on ip, tc and rdma of the guest and on the names that tests/rdma/rig/rails.sh gives. Imports
nothing of TENT.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tent.testing.waiting import eventually

SIDES = ("a", "b")
COMMAND_TIMEOUT_S = 60.0
DEVICES = Path("/sys/class/infiniband")


def run(*words: str, check: bool = True) -> str:
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


@dataclass(eq=False)
class SoftRail:
    """Rail `index`: devices rxa<i> and rxb<i> over ra<i> and rb<i>."""

    index: int
    # Sides whose link was touched, and whose packets were.
    _moved: set[str] = field(default_factory=set)
    _shaped: set[str] = field(default_factory=set)

    def device(self, side: str) -> str:
        return f"rx{side}{self.index}"

    def netdev(self, side: str) -> str:
        return f"r{side}{self.index}"

    def address(self, side: str) -> str:
        return f"10.77.{self.index}.{1 + SIDES.index(side)}"

    def sent_bytes(self, side: str) -> int:
        """What left that side's network device so far, headers included."""
        file = Path("/sys/class/net", self.netdev(side), "statistics/tx_bytes")
        return int(file.read_text(encoding="ascii"))

    def active(self, side: str) -> bool:
        file = DEVICES / self.device(side) / "ports/1/state"
        return file.exists() and "ACTIVE" in file.read_text(encoding="ascii")

    # ---- links

    def link_down(self, side: str = "a") -> None:
        """As an operator would; the other side loses its carrier."""
        self._moved.add(side)
        run("ip", "link", "set", self.netdev(side), "down")

    def link_up(self, side: str = "a") -> None:
        run("ip", "link", "set", self.netdev(side), "up")
        # It went with the link.
        me, you = self.address(side), self.address(_other(side))
        table = str((1000 if side == "a" else 2000) + self.index)
        run("ip", "route", "replace", f"{you}/32", "dev", self.netdev(side), "src", me,
            "table", table)  # fmt: skip

    # ---- packets; each replaces what was said of that side before

    def netem(self, side: str, *words: str) -> None:
        self._shaped.add(side)
        run("tc", "qdisc", "replace", "dev", self.netdev(side), "root", "netem", *words)

    def black_hole(self) -> None:
        """Silent: both links stay up, nothing arrives."""
        for side in SIDES:
            self.netem(side, "loss", "100%")

    def shape(self, mbit: int) -> None:
        """Both directions. The queue is longer than what the devices have under way at a time: a
        lost packet would cost RoCE far more than its share."""
        for side in SIDES:
            self.netem(side, "rate", f"{mbit}mbit", "limit", "100000")

    def heal(self) -> None:
        while self._shaped:
            run("tc", "qdisc", "del", "dev", self.netdev(self._shaped.pop()), "root")

    # ---- devices

    def remove(self, side: str = "a") -> subprocess.Popen[str]:
        """Begins to take the RDMA device away: the kernel ends that once nobody has it open."""
        return subprocess.Popen(
            ["rdma", "link", "delete", self.device(side)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def add(self, side: str = "a") -> None:
        run("rdma", "link", "add", self.device(side), "type", "rxe", "netdev", self.netdev(side))

    def restore(self) -> None:
        """As rails.sh made it. Commands are slow on an emulated processor: only what is due."""
        self.heal()
        while self._moved:
            self.link_up(self._moved.pop())
        for side in SIDES:
            if not (DEVICES / self.device(side)).exists():
                self.add(side)
        for side in SIDES:
            eventually(lambda side=side: self.active(side), what=f"{self.device(side)} active")


def _other(side: str) -> str:
    return SIDES[1 - SIDES.index(side)]
