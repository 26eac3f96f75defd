"""What tests share beside fixtures: running commands, the native build, the installed package.

Leans on cmake and ninja of the environment that runs the tests. Must never import the package: C
tests use this too.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sysconfig.get_path("scripts"))
SANITIZE = os.environ.get("TENT_TEST_SANITIZE", "")
COMPILE_SECONDS = 600

# A failed check of a sanitizer ends the program at once, with a status that no test uses.
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=99:second_deadlock_stack=1",
}


def run(
    *command: object, timeout: float = COMPILE_SECONDS, cwd: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; with check, a failure fails the test and shows what it printed."""
    words = [str(word) for word in command]
    result = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        cwd=cwd,
        env={**os.environ, **SANITIZER_OPTIONS},
        check=False,
    )
    if check and result.returncode != 0:
        pytest.fail(f"{' '.join(words)}\nended with {result.returncode}:\n{result.stdout}", False)
    return result


@dataclass
class NativeBuild:
    """The build folder of the native tests; ninja decides what is out of date.

    Mutants (csrc/base/mutant.h) are planted but where a sanitizer looks: TENT_MUTANT wakes one.
    """

    folder: Path
    _whole: subprocess.CompletedProcess[str] | None = field(default=None, repr=False)

    def configure(self) -> None:
        run(
            BIN / "cmake",
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}",
            "-DCMAKE_BUILD_TYPE=Debug",
            "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1",  # lines for traces: all of it takes a third longer
            "-DTENT_PRECOMPILE=ON",
            "-DTENT_CHECKED=ON",
            "-DTENT_NATIVE_TESTS=ON",
            "-DTENT_WERROR=ON",
            f"-DTENT_SANITIZE={SANITIZE}",
            f"-DTENT_MUTANTS={'OFF' if SANITIZE else 'ON'}",
            "-S",
            ROOT,
            "-B",
            self.folder,
        )

    def up_to_date(self, name: str) -> None:
        """Builds the target `name`, and with the first all; compile errors fail the test."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:  # against the other workers of pytest-xdist
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._whole is None:
                self.configure()
                # All at once and past errors: each test then reports its own.
                jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 2)
                ninja = (BIN / "ninja", "-C", self.folder, "-k", "0", "-j", jobs)
                self._whole = run(*ninja, check=False)
            if self._whole.returncode != 0:
                run(BIN / "ninja", "-C", self.folder, name)

    def command(self, name: str, kind: str) -> list[str | Path]:
        """The up-to-date program `name` of kind "tests" or "fuzz"."""
        self.up_to_date(name)
        return [*thread_sanitizer_runner(), self.folder / kind / name]

    def library(self) -> Path:
        """The up-to-date libtent.so."""
        self.up_to_date("tent")
        return self.folder / "lib" / "libtent.so"


def thread_sanitizer_runner() -> list[str | Path]:
    """Where addresses are random beyond what gcc's thread sanitizer can map, they must not be."""
    bits = Path("/proc/sys/vm/mmap_rnd_bits")
    if SANITIZE != "thread" or not bits.exists() or int(bits.read_text()) <= 28:
        return []
    return ["setarch", "-R"]


@dataclass(frozen=True)
class Package:
    """Where the installed package keeps what C programs need."""

    root: Path

    @property
    def include(self) -> Path:
        return self.root / "include"

    @property
    def lib(self) -> Path:
        return self.root / "lib"

    @property
    def libtent(self) -> Path:
        return self.lib / "libtent.so"

    @property
    def plugins(self) -> Path:
        return self.lib / "plugins"

    @property
    def command(self) -> Path:
        return BIN / "tent"
