"""The chaos runner itself: it repeats, it says what it found, and it exits accordingly."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import tent
from tent.resilience.faults import load, parse, render
from tent.testing.chaos.generator import draw
from tent.testing.chaos.main import main
from tent.testing.chaos.memory import Arena
from tent.testing.chaos.runner import run_plan, sure_pair
from tent.testing.chaos.workers import run_seeds

PLANS = Path(tent.__file__).parent / "testing" / "plans"


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tent.testing.chaos", *arguments]
    away = Path(tent.__file__).parent.parent  # "-m" would find the source tree first
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, cwd=away
    )


@pytest.mark.parametrize("seed", [3, 17, 101])
def test_the_same_seed_gives_the_same_trace_in_another_process(seed: int) -> None:
    hashes = {run_plan(draw(seed)).trace_hash for _ in range(2)}
    out = chaos("--sim", "--first", str(seed), "--seeds", "1", "--trace").stdout
    hashes.add(out.split(f"seed {seed}: trace ", 1)[1].split()[0])
    assert len(hashes) == 1, hashes


def test_different_seeds_give_different_traces() -> None:
    hashes = [run_plan(draw(seed)).trace_hash for seed in range(8)]
    assert len(set(hashes)) == len(hashes)


def test_drawn_plans_are_plans_as_one_could_write_them() -> None:
    for seed in range(200):
        plan = draw(seed)
        assert parse(render(plan), source=f"seed {seed}") == plan


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("silent-rail", "faults: black_hole 1"),
        ("frozen-peer", "UNFENCED"),
        ("restarted-peer", "faults: kill 1, restart 1"),
    ],
)
def test_a_ready_plan_runs_and_exits_with_0(
    name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--sim", "--plan", str(PLANS / f"{name}.yaml")]) == 0
    out = capsys.readouterr().out
    assert "0 violations" in out
    assert said in out


def test_a_wrong_plan_exits_with_2_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("name: x\nworld: 7\n")
    done = chaos("--plan", str(path))
    assert done.returncode == 2
    assert f"{path}:2: plan.world: expected keys and values" in done.stderr


def test_a_violation_names_its_seed_and_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    # No mutant is needed: bits flip, and the plan is made to hide that they may.
    plan = load(PLANS / "silent-rail.yaml")
    text = render(plan).replace("do: black_hole", "do: corrupt, chance: 1.0")
    flipping = parse(text)
    monkeypatch.setattr("tent.testing.chaos.runner.may_corrupt", lambda plan: False)
    first, second = run_plan(flipping), run_plan(flipping)
    assert first.invariant == 10
    assert "ended well with wrong bytes" in first.what
    assert (first.what, first.trace_hash) == (second.what, second.trace_hash)
    assert any("fault: corrupt" in line for line in first.story)


def test_workers_return_every_seed_once() -> None:
    seeds = range(40, 70)
    found = sorted(verdict.seed for verdict in run_seeds(seeds, 2))
    assert found == list(seeds)


def test_workers_leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are killed when the seeds are done, and clear up nothing themselves."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert all(verdict.held for verdict in run_seeds(range(4), 2))
    assert not list(tmp_path.iterdir())


def test_an_arena_sees_a_single_changed_byte() -> None:
    from random import Random

    arena = Arena([("x", 4096), ("y", 64)], Random(1))
    assert arena.damage() is None
    begin = arena.areas["y"][0]
    arena.bytes[begin + 7] ^= 1
    assert arena.damage() == (begin + 7, begin + 8)
    arena.unknown.append((begin, begin + 64))
    assert arena.damage() is None


def test_a_pair_is_sure_of_a_path_only_where_nothing_happens() -> None:
    plan = load(PLANS / "silent-rail.yaml")
    assert sure_pair(plan, "a", "b")
    both = render(plan).replace(
        "- {at: 33%, do", "- {at: 0, do: link_down, rail: b/0}\n- {at: 33%, do"
    )
    assert not sure_pair(parse(both), "a", "b")
    killed = render(plan).replace("- {at: 33%, do", "- {at: 0, do: kill, host: b}\n- {at: 33%, do")
    assert not sure_pair(parse(killed), "a", "b")
