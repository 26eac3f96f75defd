"""Compiles the C side of the benchmarks into a folder that vanishes afterwards.

Leans on a C compiler (CC, or cc) and, for programs that use TENT, on `tent config`, so that what is
measured is the installed library. Must never write into the source tree.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import BenchError

SOURCES = Path(__file__).resolve().parent
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra")


@dataclass(frozen=True)
class Job:
    """One program: its sources, and the flags behind them."""

    output: Path
    sources: tuple[str, ...]
    flags: tuple[str, ...] = ()


def compile_all(jobs: Sequence[Job], *, env: Mapping[str, str] | None = None) -> None:
    """Compiles the jobs side by side. Raises BenchError with the compiler's words."""
    compiler = shlex.split((os.environ if env is None else env).get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise BenchError(f"no C compiler '{compiler[0]}': install one or name one in CC")
    running = [
        subprocess.Popen(
            [
                *compiler,
                *FLAGS,
                "-o",
                str(job.output),
                *(str(SOURCES / name) for name in job.sources),
                *job.flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for job in jobs
    ]
    results = [(process.communicate()[0], process.returncode) for process in running]
    for job, (output, code) in zip(jobs, results, strict=True):
        if code != 0:
            raise BenchError(f"compiling {' '.join(job.sources)} failed:\n{output}")


def tent_flags() -> tuple[str, ...]:
    """What `tent config --cflags --libs` of this Python's environment says."""
    beside = Path(sys.executable).parent
    command = shutil.which("tent", path=str(beside)) or shutil.which("tent")
    if command is None:
        raise BenchError(
            f"no 'tent' command beside {sys.executable} nor in PATH: "
            "install the package into this environment first (pip install .)"
        )
    done = subprocess.run(
        [command, "config", "--cflags", "--libs"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"'tent config --cflags --libs' failed: {done.stderr.strip()}")
    return tuple(shlex.split(done.stdout))
