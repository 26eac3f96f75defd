"""The late write would be noticed on real verbs: with a target that keeps its queue pairs it lands.

Leans on the build with planted mutants that `make test` makes (plugins/rdma/mutant.h).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PLUGINS = HERE.parents[2] / "build" / "native" / "lib" / "plugins"
TEST = f"{HERE / 'test_rdma_faults.py'}::test_a_write_that_arrives_after_the_end_is_fenced_off"


# The wire must hold a packet that still fits what the target awaits: mostly at the first attempt.
ATTEMPTS = 3


@pytest.mark.timeout(600)
def test_a_target_that_keeps_its_queue_pairs_is_caught() -> None:
    if not (PLUGINS / "libtent_plugin_rdma.so").exists():
        pytest.skip("needs the build with planted mutants: make test, then make test-rdma")
    said = []
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TEST],
            env={**os.environ, "TENT_PLUGIN_PATH": str(PLUGINS), "TENT_MUTANT": "rdma_retire"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        said.append(done.stdout[-3000:])
        if done.returncode == 1 and "bytes were written after the end" in done.stdout:
            return
    pytest.fail("nobody noticed the late write:\n" + "\n".join(said))
