"""The chaos harness catches every planted mutant: a protection taken out is a promise broken.

Runs the installed package on the native tests' libtent, where they are planted
(csrc/base/mutant.h).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support import ROOT, NativeBuild, Package

SEEDS_MAX = 1000
ELSEWHERE = sysconfig.get_path("platlib")  # "-m" would find the source tree first
HEADER = (ROOT / "csrc" / "base" / "mutant.h").read_text(encoding="utf-8")
MUTANTS = re.findall(r"X\((\w+), \"", HEADER)

# Which promise each one breaks, by the number of its invariant (tent/testing/chaos/verdict.py).
# Where there are several, it depends on what happens first.
BREAKS: dict[str, set[int]] = {
    "fence_remote": {2},
    "fence_local": {1, 2, 8, 10},
    "fence_order": {2},
    "unfenced_silent": {2},
    "unfenced_range": {2},
    "epoch_check": {9, 11},
    "charge_release": {4, 8},
    "exactly_once": {1},
    "last_path": {8},
    "bounds_check": {2, 9, 10},
    "direction_check": {2, 9, 10},
    "revoke_check": {9},
    "retry_offset": {3, 10},
    "retry_lost": {10},
    "slice_overlap": {3, 10},
    "quarantine_leak": {5},
    "canary_place": {2, 5},
    "deadline_ignored": {8},
    "late_ignored": {8},
    "pin_released": {9},
}


def chaos(library: Path, mutant: str, seeds: int) -> str:
    environment = {**os.environ, "LD_PRELOAD": str(library), "TENT_MUTANT": mutant}
    command = [sys.executable, "-m", "tent.testing.chaos", "--sim", "--seeds", str(seeds)]
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
        cwd=ELSEWHERE,
    )
    return done.stdout


@pytest.fixture(scope="module")
def library(native_build: NativeBuild) -> Path:
    """libtent with mutants."""
    return native_build.library()


@pytest.fixture(scope="module")
def found(library: Path) -> Iterator[dict[str, Future[str]]]:
    """What the harness says of each mutant; two at a time."""
    pool = ThreadPoolExecutor(2)
    yield {name: pool.submit(chaos, library, name, SEEDS_MAX) for name in MUTANTS}
    pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(900)  # the first one pays for the build
def test_the_library_with_mutants_is_the_one_in_use(library: Path, package: Package) -> None:
    script = "import tent; print(open('/proc/self/maps').read())"
    maps = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ELSEWHERE,
    ).stdout
    mapped = {line.split()[-1] for line in maps.splitlines() if "libtent.so" in line}
    assert mapped == {str(library)}, mapped
    assert str(package.libtent) not in maps


@pytest.mark.timeout(300)
def test_without_a_mutant_the_same_library_breaks_no_promise(library: Path) -> None:
    assert ": 0 violations" in chaos(library, "", 100)


def test_every_mutant_is_expected_to_break_something() -> None:
    assert set(BREAKS) == set(MUTANTS)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MUTANTS)
def test_the_harness_catches(name: str, found: dict[str, Future[str]]) -> None:
    out = found[name].result()
    caught = re.search(r"VIOLATION in seed (\d+), invariant (\d+)", out)
    assert caught is not None, f"{name} was not caught in {SEEDS_MAX} seeds:\n{out[-3000:]}"
    print(f"{name}: seed {caught[1]}, invariant {caught[2]}")
    assert int(caught[2]) in BREAKS[name], out[-3000:]
    assert f"TENT_MUTANT={name} python -m tent.testing.chaos" in out  # how to replay it
