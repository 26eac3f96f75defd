"""Thousands of drawn worlds and faults, and not one promise broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig

import pytest

ELSEWHERE = sysconfig.get_path("platlib")  # "-m" would find the source tree first
SEEDS = int(os.environ.get("TENT_CHAOS_SEEDS", "2000"))
# What must have happened for the run to mean something.
EXERCISED = (
    "fault", "ENDPOINT_FAILED", "ENDPOINT_HEALED", "FENCED", "UNFENCED", "failovers", "TIMEOUT",
    "late slices fenced off", "forged accesses refused", "probes", "unfenced ranges proven",
)  # fmt: skip


@pytest.mark.timeout(600)
def test_no_seed_breaks_a_promise() -> None:
    jobs = str(os.cpu_count() or 2)
    command = [sys.executable, "-m", "tent.testing.chaos", "--sim", "--jobs", jobs]
    done = subprocess.run(
        [*command, "--seeds", str(SEEDS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=580,
        check=False,
        cwd=ELSEWHERE,
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0
    assert f"{SEEDS} seeds in" in done.stdout
    for what in EXERCISED:
        assert re.search(rf"{what}[a-z_: ]* [1-9]", done.stdout), f"nothing of '{what}'"
