"""Feeds every fuzz target for a moment, from a fixed and from a fresh seed.

A target is fuzz_<name>.cc with LLVMFuzzerTestOneInput and its first inputs; standalone.cc mutates
them. Findings of a longer run are kept as files in tests/fuzz/corpus/<name>.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support import NativeBuild, run

HERE = Path(__file__).parent
TARGETS = sorted(HERE.glob("fuzz_*.cc"))
FIXED_SEED = 20240601
CASES = 20_000
RUN_SECONDS = 90


def corpus(target: Path) -> list[Path]:
    folder = HERE / "corpus" / target.stem.removeprefix("fuzz_")
    return sorted(path for path in folder.glob("*") if path.is_file())


def test_there_are_fuzz_targets() -> None:
    assert TARGETS, "tests/fuzz holds no fuzz_*.cc"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.stem)
def test_neither_former_findings_nor_mutations_break_it(
    target: Path, native_build: NativeBuild, tmp_path: Path
) -> None:
    command = native_build.command(target.stem, "fuzz")
    if findings := corpus(target):
        run(*command, *findings, timeout=RUN_SECONDS)
    for seed in (FIXED_SEED, random.SystemRandom().randrange(1, 2**31)):
        result = run(*command, CASES, seed, timeout=RUN_SECONDS, cwd=tmp_path)
        assert f"with seed {seed}, no finding" in result.stdout
