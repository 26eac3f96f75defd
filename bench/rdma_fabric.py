"""The rails of the RDMA benchmark: pairs of devices of this machine, their wires, and perftest.

Leans on iproute2 and perftest. The network devices of software devices are shaped and broken here;
a real adapter is never touched. Must never leave a wire otherwise than it was found.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import BenchError, Sample

from tent.topology.discover import discover
from tent.transports.rdma import choose_gid

DEVICES = Path("/sys/class/infiniband")
PERFTEST_S = 60.0
LISTEN_S = 20.0
PORT = 18515
MIB = 1 << 20
QUEUE = 10_000  # packets that a shaped wire holds: software RoCE loses none to it


@dataclass(frozen=True)
class End:
    """One side of a rail."""

    device: str
    gid: int
    netdev: str
    software: bool


@dataclass(frozen=True)
class Rail:
    """A cable from a device of the initiator to one of the target."""

    a: End
    b: End

    @property
    def netdevs(self) -> tuple[str, str]:
        return (self.a.netdev, self.b.netdev)


def words_of(names: Sequence[str], given: Sequence[str] | None) -> list[tuple[str, str]]:
    """Pairs "A:B" as given, else rxaN with rxbN, as the rig makes them."""
    if given:
        pairs = [tuple(word.split(":")) for word in given]
        if any(len(pair) != 2 for pair in pairs):
            raise BenchError("--rails takes pairs of devices: mlx5_0:mlx5_1 mlx5_2:mlx5_3")
        return [(pair[0], pair[1]) for pair in pairs]
    return [
        (name, f"rxb{name[3:]}")
        for name in sorted(names)
        if name.startswith("rxa") and f"rxb{name[3:]}" in names
    ]


def find_rails(given: Sequence[str] | None) -> list[Rail]:
    """With the GIDs that the transport would choose."""
    topology = discover()
    ends = {}
    for device in topology.rdma:
        port = next((port for port in device.ports if port.up), None)
        gid, _ = (None, False) if port is None else choose_gid(port)
        if port is not None and gid is not None:
            ends[device.name] = End(device.name, gid.index, port.netdev or "", device.virtual)
    pairs = words_of([device.name for device in topology.rdma], given)
    for name in (name for pair in pairs for name in pair):
        if name not in ends:
            raise BenchError(f"{name} is no RDMA device with an active port and a GID: tent doctor")
    if not pairs:
        raise BenchError("no rails: name pairs of devices of this machine with --rails A:B")
    return [Rail(ends[a], ends[b]) for a, b in pairs]


# ---- wires ----


def run(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout


def wire(rail: Rail, *words: str) -> None:
    """netem with these words on both ends; none: as it was."""
    for netdev in rail.netdevs:
        if words:
            limit = ("limit", str(QUEUE))
            run(["tc", "qdisc", "replace", "dev", netdev, "root", "netem", *words, *limit])
        else:
            subprocess.run(
                ["tc", "qdisc", "delete", "dev", netdev, "root"], capture_output=True, check=False
            )


@contextmanager
def shaped(rails: Sequence[Rail], mbit: int) -> Iterator[None]:
    """All of them at that rate."""
    try:
        for rail in rails:
            wire(rail, "rate", f"{mbit}mbit")
        yield
    finally:
        for rail in rails:
            wire(rail)


def routes_of(netdev: str) -> list[dict[str, Any]]:
    text = run(["ip", "-j", "-4", "route", "show", "table", "all", "dev", netdev])
    return [{"dev": netdev, **route} for route in json.loads(text or "[]")]


def restore_words(routes: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What makes routes again that a link takes with it when it goes down; the kernel's own come
    back by themselves."""
    found = []
    for route in routes:
        if route.get("protocol") == "kernel" or route.get("type", "unicast") != "unicast":
            continue
        words = ["route", "replace", str(route["dst"]), "dev", str(route["dev"])]
        words += ["src", str(route["prefsrc"])] if "prefsrc" in route else []
        words += ["table", str(route["table"])] if "table" in route else []
        found.append(words)
    return found


class Tool:
    """`ip -batch -` or `tc -batch -`: a line takes effect at once, where a process of its own would
    first have to start."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [name, "-batch", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def say(self, *words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Says what went wrong."""
        _, errors = self._process.communicate(timeout=PERFTEST_S)
        if self._process.returncode != 0:
            raise BenchError(f"a rail could not be broken or mended: {errors.strip()}")


class Breaker:
    """Breaks shaped rails and mends them; a link that was down gets its routes back."""

    def __init__(self, rails: Sequence[Rail], mbit: int) -> None:
        self._rails = rails
        self._shape = ("rate", f"{mbit}mbit", "limit", str(QUEUE))
        self._routes = [restore_words(routes_of(rail.a.netdev)) for rail in rails]
        self._ip, self._tc = Tool("ip"), Tool("tc")
        for number in range(len(rails)):
            self._netem(number)

    def _netem(self, number: int, *words: str) -> None:
        for netdev in self._rails[number].netdevs:
            line = ("qdisc", "replace", "dev", netdev, "root", "netem", *words, *self._shape)
            self._tc.say(*line)

    def cut(self, number: int, fault: str) -> None:
        if fault == "link down":
            self._ip.say("link", "set", "dev", self._rails[number].a.netdev, "down")
        else:
            self._netem(number, "loss", "100%")

    def heal(self, number: int) -> None:
        """Harmless where nothing is broken."""
        self._netem(number, "loss", "0%")
        self._ip.say("link", "set", "dev", self._rails[number].a.netdev, "up")
        for words in self._routes[number]:
            self._ip.say(*words)

    def close(self) -> None:
        for number, rail in enumerate(self._rails):
            self.heal(number)
            wire(rail)
        self._ip.close()
        self._tc.close()


# ---- perftest ----

ROW = re.compile(r"^\s*\d+\s+\d+(?:\s+[\d.]+)+\s*$", re.MULTILINE)


def last_row(text: str) -> list[float]:
    """The numbers of perftest's last line of results."""
    rows = ROW.findall(text)
    if not rows:
        raise BenchError(f"perftest printed no result: {text.strip()[-400:]}")
    return [float(word) for word in rows[-1].split()]


def bandwidth_sample(text: str, cpu_ns: int) -> Sample:
    """Of ib_write_bw and ib_read_bw: bytes, iterations, peak, average in MiB/s."""
    row = last_row(text)
    moved = int(row[0]) * int(row[1])
    elapsed_ns = round(moved * 1e9 / (row[3] * MIB))
    each_ns = round(elapsed_ns / row[1])
    return Sample(moved, int(row[1]), elapsed_ns, cpu_ns, each_ns, each_ns)


def latency_sample(text: str, cpu_ns: int) -> Sample:
    """Of ib_write_lat: bytes, iterations, least, most, typical (the median), average, deviation,
    99 %, in microseconds, each half of a round trip."""
    row = last_row(text)
    moved = int(row[0]) * int(row[1])
    return Sample(
        bytes=moved,
        batches=int(row[1]),
        elapsed_ns=round(row[5] * row[1] * 1e3),
        cpu_ns=cpu_ns,
        p50_ns=round(row[4] * 1e3),
        p99_ns=round(row[7] * 1e3),
    )


def listening(port: int) -> bool:
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if words[1].endswith(wanted) and words[3] == "0A":
                return True
    return False


class Perftest:
    """One of perftest's programs between the two ends of a rail."""

    def __init__(self, rail: Rail) -> None:
        self._rail = rail
        self._port = PORT

    def _ask(self, program: str, *words: str) -> tuple[str, int]:
        """The client's output and the processors' time of both sides."""
        self._port = PORT + (self._port - PORT + 1) % 100  # the last one may not be free yet
        common = ["-F", "-p", str(self._port), *words]
        common += ["-u", "20"] if self._rail.a.software else []  # as ours: rdma.SOFT_PATIENCE

        def side(end: End, *peer: str) -> subprocess.Popen[str]:
            line = [program, "-d", end.device, "-x", str(end.gid), *common, *peer]
            try:
                return subprocess.Popen(
                    line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            except FileNotFoundError:
                raise BenchError(f"no {program}: apt-get install perftest") from None

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with side(self._rail.b) as server:
            try:
                begun_s = time.monotonic()
                while not listening(self._port):
                    if server.poll() is not None or time.monotonic() - begun_s > LISTEN_S:
                        server.kill()
                        raise BenchError(f"{program} does not listen: {server.communicate()[0]}")
                    time.sleep(0.01)
                with side(self._rail.a, "127.0.0.1") as client:
                    text = client.communicate(timeout=PERFTEST_S)[0]
                server.communicate(timeout=PERFTEST_S)
            finally:
                server.kill()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return text, round(used_s * 1e9)

    def bandwidth(
        self, op: str, form: str, *, size: int, count: int, depth: int | None = None
    ) -> Sample:
        """form: a further word for it, or ""."""
        words = ["-s", str(size), "-n", str(count), *form.split()]
        words += [] if depth is None else ["-t", str(depth)]
        return bandwidth_sample(*self._ask(f"ib_{op}_bw", *words))

    def latency(self, *, size: int, count: int) -> Sample:
        return latency_sample(*self._ask("ib_write_lat", "-s", str(size), "-n", str(count)))
