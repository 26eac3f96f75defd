"""`python tests/rdma/rig`: a throw-away machine whose kernel has software RoCE.

    python tests/rdma/rig setup                    # packages, kernel, which `run` and `test` do too
    python tests/rdma/rig run [options] -- CMD...  # boots it and runs a command in there
    python tests/rdma/rig test [PYTEST WORDS]      # tests/rdma/guest in there (make test-rdma)

`test` says SKIPPED and why, and ends well, on a machine that cannot have the rig; the others fail.
Nothing here is for more than one run at a time in one cache folder's first setup.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import boot
from boot import Job, Rig
from machine import PYVERBS, ROOT, Unable, cache_folder, check_machine, install_packages

# From boot to the end, on two emulated processors; the run takes a good part of it.
TEST_LIMIT_S = 900.0
TEST_TIMEOUT_S = 240  # of one test: an emulated processor is some 20 times slower


def prepared() -> Rig:
    check_machine()
    cache = cache_folder(os.environ)
    install_packages()
    return boot.prepare(cache)


def pyverbs_words() -> str:
    """The distribution's pyverbs, alone, for an interpreter that is not the distribution's own; it
    loads where the versions are equal and is left out where they are not."""
    return f"mkdir -p /run/pyverbs && ln -s {PYVERBS} /run/pyverbs/pyverbs\n"


def test_job(words: Sequence[str]) -> Job:
    pytest = [str(Path(sys.executable).with_name("pytest")), "tests/rdma/guest"]
    pytest += ["-p", "no:cacheprovider", "-o", f"timeout={TEST_TIMEOUT_S}"]
    command = pyverbs_words() + "export PYTHONPATH=/run/pyverbs${PYTHONPATH:+:$PYTHONPATH}\n"
    if "PYTHONPATH" in os.environ:
        command = f"export PYTHONPATH={shlex.quote(os.environ['PYTHONPATH'])}\n" + command
    command += shlex.join([*pytest, *words])
    return Job(command, folder=ROOT, limit_s=TEST_LIMIT_S, verbose=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rig", description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("setup")
    run = verbs.add_parser("run")
    run.add_argument("--rails", type=int, default=2, help="pairs of devices rxaN, rxbN")
    run.add_argument("--mtu", type=int, default=4200, help="of the wire; 4200: RoCE MTU 4096")
    run.add_argument("--share", type=Path, help="a folder that the guest may write to")
    run.add_argument("--limit", type=float, default=300.0, help="seconds from boot to the end")
    run.add_argument("--verbose", action="store_true")
    run.add_argument("command", nargs="+")
    verbs.add_parser("test")
    # pytest's words may be anything.
    parsed, words = parser.parse_known_args(arguments)
    if words and parsed.verb != "test":
        parser.error(f"unknown: {' '.join(words)}")
    parsed.words = words
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = parse(arguments)
    try:
        rig = prepared()
    except Unable as why:
        if parsed.verb == "test":
            print(f"test-rdma: SKIPPED: {why}")
            return 0
        print(f"rig: {why}", file=sys.stderr)
        return 1
    if parsed.verb == "setup":
        return 0
    if parsed.verb == "test":
        return boot.run(rig, test_job(parsed.words))
    command = parsed.command
    # One word is a line for the shell, as with ssh.
    line = command[0] if len(command) == 1 else shlex.join(command)
    job = Job(
        line,
        rails=parsed.rails,
        mtu=parsed.mtu,
        share=parsed.share,
        limit_s=parsed.limit,
        folder=Path.cwd(),
        verbose=parsed.verbose,
    )
    return boot.run(rig, job)


def ended(number: int, _: FrameType | None) -> None:
    """So that what was begun is tidied up."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, ended)
    raise SystemExit(main())
