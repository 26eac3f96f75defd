"""The catalog of this installation: what is there, in which order, why the rest is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tent import _abi
from tent.cli.main import main
from tent.errors import PluginError
from tent.transports.catalog import load_catalog, plugin_path_with_entry_points
from tent.transports.known import known_transports, without_plugin
from tent.transports.model import Memory, Option, OptionKind

NOBODY: dict[str, str] = {}


def test_transports_stand_in_the_order_of_auto_and_those_for_tests_last() -> None:
    catalog = load_catalog(environment=NOBODY)
    assert catalog.names == ("cuda", "shm", "rdma", "tcp", "file", "fault", "null", "sim")
    assert [found.name for found in catalog.transports if not found.auto] == [
        "fault",
        "null",
        "sim",
    ]
    assert [found.name for found in catalog.transports if found.decorates] == ["fault"]


def test_tcp_is_usable_and_says_what_it_is() -> None:
    tcp = load_catalog(environment=NOBODY).find("tcp")
    assert tcp is not None
    assert tcp.available and tcp.auto and tcp.reason == ""
    assert tcp.memory == Memory.HOST
    assert Path(tcp.library).is_file()
    assert "lo" in {offer.device for offer in tcp.devices}
    assert tcp.option("connections", rail=True) == Option(
        name="connections",
        kind=OptionKind.COUNT,
        default="2",
        least="1",
        most="16",
        rail=True,
        meaning="sockets per endpoint; the initiator's value counts",
    )
    assert tcp.option("addr", rail=False) is None
    assert tcp.option("absent") is None


def test_a_known_transport_without_a_plugin_says_where_it_was_looked_for(tmp_path: Path) -> None:
    cuda = load_catalog(str(tmp_path), environment=NOBODY).find("cuda")
    assert cuda is not None
    assert not cuda.available and cuda.library == "" and cuda.options == ()
    assert cuda.memory == Memory.HOST | Memory.CUDA
    assert str(tmp_path) in cuda.reason and "libtent_plugin_cuda.so" in cuda.reason
    assert "needs NVIDIA GPUs" in cuda.reason


def test_an_installation_without_rdma_says_how_to_get_it() -> None:
    rdma = next(known for known in known_transports() if known.name == "rdma")
    reason = without_plugin(rdma, "no plugin for transport 'rdma'")
    assert reason.startswith("no plugin for transport 'rdma'; TENT was built without the headers")
    assert "apt-get install libibverbs-dev" in reason and "install TENT again" in reason
    assert reason.endswith("it needs RDMA adapters, /dev/infiniband and libibverbs.so.1")


def test_a_torn_plugin_hides_nothing_but_itself(tmp_path: Path) -> None:
    (tmp_path / "libtent_plugin_rdma.so").write_text("torn", encoding="utf-8")
    catalog = load_catalog(str(tmp_path), environment=NOBODY)
    rdma, tcp = catalog.find("rdma"), catalog.find("tcp")
    assert rdma is not None and tcp is not None
    assert tcp.available
    assert not rdma.available and "cannot load plugin" in rdma.reason
    assert rdma.library == str(tmp_path / "libtent_plugin_rdma.so")
    assert rdma.memory == Memory.HOST | Memory.CUDA
    assert catalog.names[2] == "rdma"


def test_a_folder_that_is_not_there_is_a_remark(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    catalog = load_catalog(gone, environment=NOBODY)
    [remark] = catalog.remarks
    assert remark.where == gone and "No such file" in remark.what
    assert catalog.names == load_catalog(environment=NOBODY).names


def test_the_environments_folders_come_after_those_asked_for(tmp_path: Path) -> None:
    variables = {"TENT_PLUGIN_PATH": f"{tmp_path / 'b'}::{tmp_path / 'a'}"}
    path = plugin_path_with_entry_points(f"{tmp_path / 'a'}:", environment=variables)
    assert path.split(":")[:2] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert path.count(str(tmp_path / "a")) == 1


def test_a_transport_that_is_not_there_raises_the_engines_sentence() -> None:
    with pytest.raises(PluginError, match="no plugin for transport 'absent'"):
        _abi.transport_options("", "absent")
    with pytest.raises(PluginError, match=r"no transport can be called '\.\./tcp'"):
        _abi.transport_rails("", "../tcp")


# ---- the command --------------------------------------------------------------------------------


def test_the_command_shows_what_is_usable_and_why_the_rest_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["transports"]) == 0
    out = capsys.readouterr().out
    table, _, lacking = out.partition("not usable here")
    lines = {line.split()[0]: line.split()[1] for line in table.splitlines() if line.strip()}
    assert lines["tcp"] == "yes" and lines["cuda"] == "no"
    assert "libtent_plugin_cuda.so" in lacking and "tcp" not in lacking


def test_the_command_shows_one_transport_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transports", "tcp"]) == 0
    out = capsys.readouterr().out
    assert "connect_timeout" in out and "1ms..600s" in out and "reaches this machine only" in out
    assert main(["transports", "fault"]) == 0
    assert "decorator" in capsys.readouterr().out


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    assert main(["transports", "--json", "--plugin-path", gone]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [remark["where"] for remark in facts["remarks"]] == [gone]
    [tcp] = [found for found in facts["transports"] if found["name"] == "tcp"]
    assert tcp["memory"] == ["host"]
    assert {rail["device"] for rail in tcp["rails"] if rail["loopback"]} == {"lo"}
    assert {option["kind"] for option in tcp["options"]} == {"count", "size", "duration", "text"}


def test_an_unknown_transport_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transports", "rmda"]) == 1
    assert "no transport 'rmda' is known here; there are cuda, shm" in capsys.readouterr().err
