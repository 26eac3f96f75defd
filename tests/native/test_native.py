"""Runs every native test: one source file is one program is one test.

A program says what it checked by its exit status and prints its failures; with
TENT_TEST_SANITIZE=address or thread it runs under that sanitizer (`make sanitize`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support import SANITIZE, NativeBuild, run

SOURCES = sorted(Path(__file__).parent.glob("*_test.c*"))
RUN_SECONDS = 400 if SANITIZE == "thread" else 100  # which makes the sweep ten times as long


def test_there_are_native_tests() -> None:
    assert SOURCES, "tests/native holds no *_test.cc"


# The first one pays for the whole build.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_native(source: Path, native_build: NativeBuild, tmp_path: Path) -> None:
    run(*native_build.command(source.stem, "tests"), timeout=RUN_SECONDS, cwd=tmp_path)
