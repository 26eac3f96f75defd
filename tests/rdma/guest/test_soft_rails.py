"""The rig's own promises, on which the tests of the transport stand: rails are real RDMA devices,
and each fault of soft_rails.py does what it says."""

from __future__ import annotations

import subprocess
from pathlib import Path

from soft_rails import SIDES, SoftRail

from tent.testing.waiting import eventually


def ping_pong(rail: SoftRail, *, timeout: float = 60.0) -> bool:
    """Whether perftest's library neighbours exchange messages over both ends of the rail."""
    words = ["ibv_rc_pingpong", "-g", "1", "-n", "20", "-s", "4096", "-p", str(18515 + rail.index)]
    # fmt: off
    server = subprocess.Popen([*words, "-d", rail.device("b")], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    # fmt: on
    try:
        eventually(lambda: _listens(18515 + rail.index), what="the server of ibv_rc_pingpong")
        client = subprocess.run(
            [*words, "-d", rail.device("a"), "127.0.0.1"],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        return client.returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        server.kill()
        server.communicate()


def _listens(port: int) -> bool:
    files = [Path("/proc/net", name).read_text(encoding="ascii") for name in ("tcp", "tcp6")]
    lines = [line.split() for text in files for line in text.splitlines()]
    return any(words[1].endswith(f":{port:04X}") and words[3] == "0A" for words in lines)


def test_messages_cross_the_wire_of_each_rail_and_no_other(rails: list[SoftRail]) -> None:
    for rail in rails:
        before = {other: other.sent_bytes("a") for other in rails}
        assert ping_pong(rail)
        sent = {other: other.sent_bytes("a") - before[other] for other in rails}
        assert sent[rail] > 20 * 4096
        assert all(sent[other] < 4096 for other in rails if other != rail)


def test_a_link_that_is_down_takes_the_port_of_both_ends_along(rails: list[SoftRail]) -> None:
    for side in SIDES:
        rails[0].link_down(side)
        for end in SIDES:
            eventually(lambda end=end: not rails[0].active(end), what="a port that is down")
        assert rails[1].active("a")
        rails[0].link_up(side)
        for end in SIDES:
            eventually(lambda end=end: rails[0].active(end), what="a port that is up")
    assert ping_pong(rails[0])


def test_silent_loss_leaves_the_ports_active_and_nothing_arrives(rails: list[SoftRail]) -> None:
    rails[0].black_hole()
    assert not ping_pong(rails[0], timeout=3)
    assert all(rails[0].active(side) for side in SIDES)
    rails[0].heal()
    assert ping_pong(rails[0])


def test_a_device_goes_and_comes_back(rails: list[SoftRail]) -> None:
    gone = rails[0].remove()
    said, _ = gone.communicate(timeout=30)
    assert gone.returncode == 0, said
    assert not rails[0].active("a")
    rails[0].add()
    eventually(lambda: rails[0].active("a"), what="the device that came back")
    assert ping_pong(rails[0])
