"""The rdma transport's tests catch every planted mutant: a protection taken out is a failing test.

They are planted in the native tests' build (plugins/rdma/mutant.h); the claim that holds each
promise runs with its mutant alive, over tests/native/verbs, and needs no device.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from support import ROOT, NativeBuild

HEADER = (ROOT / "plugins" / "rdma" / "mutant.h").read_text(encoding="utf-8")
MUTANTS = re.findall(r"X\((\w+), *\n? *\"", HEADER)

# Which program's claims notice each one: a part of their names.
CAUGHT_BY: dict[str, tuple[str, str]] = {
    "rdma_fence_drain": ("fence", "a_close_waits"),
    "rdma_retire": ("fence", "once_the_target_has_retired"),
    "rdma_window_range": ("fence", "outside_of_the_region"),
    "rdma_window_access": ("fence", "grant_does_not_allow"),
    "rdma_any_qp": ("fence", "own_queue_pair_alone"),
    "rdma_grant": ("setup", "not_granted"),
    "rdma_revoke": ("fence", "region_that_was_released"),
    "rdma_stale": ("fence", "are_stale"),
    "rdma_signal_last": ("data", "none_is_lost"),
    "rdma_cache_keep": ("rails", "let_go_with_its_last_region"),
    "rdma_psn": ("fence", "other_numbers_and_sequences"),
    "rdma_settle": ("data", "settling_waits"),
    "rdma_keys_late": ("setup", "when_its_keys_have_come"),
    "rdma_cq_room": ("data", "never_overrun"),
    "rdma_arm": ("data", "slept_over"),
    "rdma_device_kept": ("rails", "a_device_that_goes_is_let_go_and"),
}
PROGRAMS = sorted({program for program, _ in CAUGHT_BY.values()})


def outcome(
    folder: Path, program: str, claim: str, mutant: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder / "tests" / f"plugin_rdma_{program}_test", claim],
        env={**os.environ, "TENT_MUTANT": mutant, "TENT_TEST_PATIENCE": "2" if mutant else "20"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(native_build: NativeBuild) -> Path:
    """Of the native tests' build, with the programs up to date."""
    for name in PROGRAMS:
        native_build.up_to_date(f"plugin_rdma_{name}_test")
    return native_build.folder


def test_every_mutant_is_expected_to_be_caught() -> None:
    assert set(CAUGHT_BY) == set(MUTANTS)


@pytest.mark.timeout(900)  # the first pays for the build
@pytest.mark.parametrize(("program", "claim"), sorted(set(CAUGHT_BY.values())))
def test_without_a_mutant_the_same_claims_hold(program: str, claim: str, folder: Path) -> None:
    done = outcome(folder, program, claim, "")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_tests_catch(mutant: str, folder: Path) -> None:
    done = outcome(folder, *CAUGHT_BY[mutant], mutant)
    assert done.returncode != 0, f"nobody noticed {mutant}:\n{done.stdout[-3000:]}"
