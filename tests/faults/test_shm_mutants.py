"""The shm transport's tests catch every planted mutant: a protection taken out is a failing test.

Builds the plugin's native tests once more with TENT_MUTANTS (plugins/shm/mutant.h), and runs the
one that holds each promise with its mutant alive.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from support import ROOT, build_mutants

HEADER = (ROOT / "plugins" / "shm" / "mutant.h").read_text(encoding="utf-8")
MUTANTS = re.findall(r"X\((\w+), \"", HEADER)

# Which program notices each one.
CAUGHT_BY: dict[str, str] = {
    "shm_lane": "jobs",
    "shm_retired": "jobs",
    "shm_generation": "jobs",
    "shm_generation_end": "peers",
    "shm_release_wait": "peers",
    "shm_retire_wait": "region",
    "shm_peer_lives": "attach",
    "shm_peer_dead": "peers",
    "shm_grant": "messages",
    "shm_read_only": "messages",
    "shm_seals": "messages",
    "shm_size": "messages",
    "shm_secret": "messages",
    "shm_user": "peers",
    "shm_proof": "peers",
    "shm_ring_grant": "ring_hostile",
    "shm_ring_bell": "setup",
    "shm_leftovers": "peers",
}
PROGRAMS = sorted(set(CAUGHT_BY.values()))


def program(folder: Path, name: str) -> Path:
    return folder / "tests" / f"plugin_shm_{name}_test"


def outcome(path: Path, mutant: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [path],
        env={**os.environ, "TENT_MUTANT": mutant},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def folder() -> Path:
    """The programs with mutants."""
    return build_mutants(*(f"plugin_shm_{name}_test" for name in PROGRAMS))


@pytest.mark.timeout(900)  # pays for the build
@pytest.mark.parametrize("name", PROGRAMS)
def test_without_a_mutant_the_same_program_passes(name: str, folder: Path) -> None:
    done = outcome(program(folder, name), "")
    assert done.returncode == 0, done.stdout[-3000:]


def test_every_mutant_is_expected_to_be_caught() -> None:
    assert set(CAUGHT_BY) == set(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_tests_catch(mutant: str, folder: Path) -> None:
    try:
        done = outcome(program(folder, CAUGHT_BY[mutant]), mutant)
    except subprocess.TimeoutExpired:
        return  # it hangs, which would have failed the test
    assert done.returncode != 0, f"nobody noticed {mutant}:\n{done.stdout[-3000:]}"
