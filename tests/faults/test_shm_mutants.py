"""The shm transport's tests catch every planted mutant: a protection taken out is a failing test.

They are planted in the native tests' build (plugins/shm/mutant.h); the program that holds each
promise runs with its mutant alive.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from support import ROOT, NativeBuild

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


def program(build: NativeBuild, name: str) -> Path:
    return Path(build.command(f"plugin_shm_{name}_test", "tests")[-1])


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


def test_every_mutant_is_expected_to_be_caught() -> None:
    assert set(CAUGHT_BY) == set(MUTANTS)


@pytest.mark.timeout(900)  # the first one pays for the build
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_tests_catch(mutant: str, native_build: NativeBuild) -> None:
    try:
        done = outcome(program(native_build, CAUGHT_BY[mutant]), mutant)
    except subprocess.TimeoutExpired:
        return  # it hangs, which would have failed the test
    assert done.returncode != 0, f"nobody noticed {mutant}:\n{done.stdout[-3000:]}"
