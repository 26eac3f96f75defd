"""The command line: what it prints, and its exit statuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tent
from tent import Engine
from tent.cli import main

GOOD = "plan 1\nrail 0 tcp lo   # a comment\nroute * : tcp[0]\n"


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan"
    path.write_text(GOOD)
    return path


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"tent {tent.__version__}\n"


def test_plan_check(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "check", str(plan_file)]) == 0
    assert "right" in capsys.readouterr().out
    plan_file.write_text(GOOD + "rial 1 tcp lo\n")
    assert main(["plan", "check", str(plan_file)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "line 4, column 1" in captured.err
    assert "rail" in captured.err


def test_plan_render(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "render", str(plan_file)]) == 0
    assert capsys.readouterr().out == "plan 1\nrail 0 tcp lo\nroute * : tcp[0]\n"


def test_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "check", "/nonexistent/plan"]) == 1
    assert "/nonexistent/plan" in capsys.readouterr().err


def test_descriptor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "descriptor"
    with Engine(key=b"0123456789abcdef", name="exporter") as engine:
        region = engine.register(bytearray(100), label="weights")
        path.write_bytes(engine.export(regions=[region], access="r"))
    assert main(["descriptor", str(path)]) == 0
    text = capsys.readouterr().out
    for word in ("exporter", "weights", "length=100", "access=read"):
        assert word in text
    path.write_bytes(b"no descriptor")
    assert main(["descriptor", str(path)]) == 1
    assert capsys.readouterr().err.startswith("tent: ")


def test_config_points_at_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--cflags"]) == 0
    include = capsys.readouterr().out.strip().removeprefix("-I")
    assert (Path(include) / "tent" / "tent.h").is_file()
    assert main(["config", "--plugins"]) == 0
    assert list(Path(capsys.readouterr().out.strip()).glob("libtent_plugin_tcp.so"))
    assert main(["config", "--cmakedir"]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "tentConfig.cmake").is_file()
    assert main(["config", "--libs"]) == 0
    assert "-ltent" in capsys.readouterr().out
    assert main(["config"]) == 2


@pytest.mark.parametrize("words", [[], ["nosuch"], ["plan"], ["demo", "--size", "big"]])
def test_a_wrong_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_the_demo_moves_verifies_and_survives_a_cut(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tent", "demo", "--size", "32m"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1].startswith("OK: 32 MiB written and read back")
    assert sum(line.startswith("  0 ") for line in lines) == 2
    assert any("sent again" in line for line in lines)
