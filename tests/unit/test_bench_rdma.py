"""The benchmark of rdma: what it reads of perftest, its plans, its wires, its arithmetic on faults.

Nothing here needs an RDMA device; what is printed below is what perftest 4.5 prints.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.append(str(BENCH))  # bench/ is a folder of scripts, not a package

import rdma  # noqa: E402
import rdma_fabric  # noqa: E402
import rdma_faults  # noqa: E402
import transports  # noqa: E402
from harness import BenchError  # noqa: E402
from rdma_fabric import End, Rail  # noqa: E402

BANDWIDTH = """
 remote address: LID 0000 QPN 0x0013 PSN 0x75d40d RKey 0x00040d VAddr 0x007fd5c8b10000
 GID: 00:00:00:00:00:00:00:00:00:00:255:255:10:77:00:02
---------------------------------------------------------------------------------------
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
 1048576    60               52.20              40.00  \t\t   0.000042
---------------------------------------------------------------------------------------
"""
LATENCY = """
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]
 4096    200          52.59          5997.60      70.00    \t       324.04      \t936.29 \t\t5641.61
---------------------------------------------------------------------------------------
"""
RAILS = [
    Rail(End("rxa0", 1, "ra0", True), End("rxb0", 2, "rb0", True)),
    Rail(End("rxa1", 1, "ra1", True), End("rxb1", 1, "rb1", True)),
]


def test_a_bandwidth_is_the_average_in_mebibytes() -> None:
    found = rdma_fabric.bandwidth_sample(BANDWIDTH, 7)
    assert (found.bytes, found.batches, found.cpu_ns) == (60 << 20, 60, 7)
    assert found.bytes_per_s == pytest.approx(40 * (1 << 20))


def test_a_latency_is_the_median() -> None:
    found = rdma_fabric.latency_sample(LATENCY, 0)
    assert (found.p50_ns, found.p99_ns) == (70_000, 5_641_610)
    assert found.elapsed_ns == 200 * 324_040


def test_output_without_a_result_is_an_error_that_shows_it() -> None:
    with pytest.raises(BenchError, match="Unable to init"):
        rdma_fabric.bandwidth_sample("Unable to init the socket connection", 0)


def test_rails_are_the_rigs_unless_named() -> None:
    names = ["rxb1", "rxa0", "rxb0", "rxa1", "rxa2", "mlx5_0"]
    assert rdma_fabric.words_of(names, None) == [("rxa0", "rxb0"), ("rxa1", "rxb1")]
    assert rdma_fabric.words_of(names, ["mlx5_0:mlx5_1"]) == [("mlx5_0", "mlx5_1")]
    with pytest.raises(BenchError, match="pairs of devices"):
        rdma_fabric.words_of(names, ["mlx5_0"])


def test_each_side_has_a_plan_of_its_own_devices_and_gids() -> None:
    mine, theirs = rdma.plans(RAILS)
    rails = "rail 0 rdma rxa0 gid=1\nrail 1 rdma rxa1 gid=1\n"
    assert mine == f"plan 1\nset rdma.ack_timeout=20\n{rails}route * : rdma[0 1]\n"
    assert "rail 0 rdma rxb0 gid=2\n" in theirs


def test_tcp_stands_behind_where_rails_are_broken() -> None:
    mine, _ = rdma.plans(RAILS, behind="tcp 127.0.0.1", words=" slice=256k")
    rail, route = mine.splitlines()[-2:]
    assert rail == "rail 2 tcp 127.0.0.1"
    assert route == "route * : rdma[0 1] slice=256k ; tcp[2] slice=256k"


def test_routes_that_go_with_a_link_are_made_again() -> None:
    routes = [
        {"dst": "10.77.1.0/24", "dev": "ra1", "protocol": "kernel", "prefsrc": "10.77.1.1"},
        {"type": "local", "dst": "10.77.1.1", "dev": "ra1", "table": "local"},
        {"dst": "10.77.1.2", "dev": "ra1", "table": "1001", "prefsrc": "10.77.1.1"},
    ]
    words = "route replace 10.77.1.2 dev ra1 src 10.77.1.1 table 1001"
    assert [" ".join(line) for line in rdma_fabric.restore_words(routes)] == [words]


SAMPLES = [
    [0, [0, 0, 0]],
    [10, [8, 8, 0]],
    [20, [8, 8, 0]],
    [30, [8, 8, 5]],
    [40, [9, 8, 6]],
    [50, [18, 8, 7]],
]


def test_a_rail_carries_from_the_first_sample_with_more_than_before() -> None:
    assert rdma_faults.carried(SAMPLES, 12, [2]) == 18
    assert rdma_faults.carried(SAMPLES, 32, [0, 1]) == 8
    assert rdma_faults.carried(SAMPLES, 45, [1]) is None
    with pytest.raises(ValueError, match="reach"):
        rdma_faults.carried(SAMPLES, -1, [0])


def test_a_share_is_of_what_moved_since() -> None:
    assert rdma_faults.share(SAMPLES, 40, [0, 1]) == 0.9
    assert rdma_faults.share(SAMPLES, 50, [0, 1]) == 0.0


def test_only_the_word_rdma_takes_the_other_way() -> None:
    assert transports.is_rdma(["--quick", "--transport", "rdma"])
    assert transports.is_rdma(["--transport=rdma"])
    assert not transports.is_rdma(["--transport", "shm", "--json", "rdma"])
