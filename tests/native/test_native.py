"""Runs every native test: one source file is one program is one test.

A program says what it checked by its exit status and prints its failures; with
TENT_TEST_SANITIZE=address or thread it runs under that sanitizer (`make sanitize`). The sweep of
shm, half a minute of processor time, runs there and with `make test-long`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import SANITIZE, NativeBuild, run

LONG = {"sweep_shm_test"}
ALL = bool(SANITIZE or os.environ.get("TENT_TEST_LONG"))
SOURCES = sorted(
    source for source in Path(__file__).parent.glob("*_test.c*") if ALL or source.stem not in LONG
)
RUN_SECONDS = 400 if SANITIZE == "thread" else 100  # which makes the sweep ten times as long


def test_there_are_native_tests() -> None:
    assert SOURCES, "tests/native holds no *_test.cc"


# The first one pays for the whole build.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_native(source: Path, native_build: NativeBuild, tmp_path: Path) -> None:
    run(*native_build.command(source.stem, "tests"), timeout=RUN_SECONDS, cwd=tmp_path)
