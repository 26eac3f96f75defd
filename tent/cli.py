"""The `tent` command: argument parsing, and errors for people.

Leans on the public package. Exit status 0: done; 1: it was tried and failed, with one sentence on
stderr; 2: the command line is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import secrets
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tent
from tent import demo
from tent.errors import TentError
from tent.scheduler.explain import render
from tent.units import parse_size

INPUT_SIZE_MAX = 16 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.run is _chaos:
        options.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int = options.run(options)
    except TentError as error:
        print(f"tent: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"tent: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tent: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tent", description="TENT moves registered memory between processes and machines."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("version", help="versions of the package and its library")
    command.set_defaults(run=_version)

    command = commands.add_parser(
        "demo", help="move memory between two processes over four unequal rails, one of them cut"
    )
    command.add_argument("--size", type=_size, default="256m", help="bytes to move (256m)")
    command.add_argument("--no-cut", action="store_true", help="leave all rails whole")
    command.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    command.set_defaults(run=_demo)

    command = commands.add_parser("config", help="paths for compiling against the library")
    command.add_argument("--cflags", action="store_true", help="compiler flags")
    command.add_argument("--libs", action="store_true", help="linker flags")
    command.add_argument("--cmakedir", action="store_true", help="folder for CMake's tent_DIR")
    command.add_argument("--plugins", action="store_true", help="folder of the transport plugins")
    command.set_defaults(run=_config)

    plan = commands.add_parser("plan", help="check and print plans").add_subparsers(
        required=True, metavar="ACTION"
    )
    for action, help_text in (
        ("check", "say whether a plan is right, or where it is not"),
        ("render", "print a plan in canonical form"),
    ):
        command = plan.add_parser(action, help=help_text)
        command.add_argument("file", help="plan file, - for standard input")
        command.set_defaults(run=_plan, action=action)

    command = commands.add_parser(
        "explain", help="say over which rail a request would go now, and why not over the others"
    )
    command.add_argument("--plan", metavar="FILE", help="plan file, - for standard input")
    command.add_argument(
        "--peer", metavar="HOST:PORT", help="engine to ask about (a second one in this process)"
    )
    command.add_argument(
        "--op", choices=["write", "read"], default="write", help="direction (write)"
    )
    command.add_argument("--size", type=_size, default="16m", help="bytes of the request (16m)")
    command.add_argument("--local", default="cpu:0", help="location of the memory here (cpu:0)")
    command.add_argument(
        "--remote", default="cpu:0", help="location, or a region's label, at the peer (cpu:0)"
    )
    command.add_argument(
        "--class",
        dest="class_",
        choices=["high", "normal", "low"],
        default="normal",
        help="class of the batch (normal)",
    )
    command.add_argument("--label", help="label of the batch")
    command.add_argument("--json", action="store_true", help="print the facts as JSON")
    command.set_defaults(run=_explain)

    help_text = "run a workload against faults and check every promise"
    commands.add_parser("chaos", help=help_text, add_help=False).set_defaults(run=_chaos)

    command = commands.add_parser("descriptor", help="print what a descriptor describes")
    command.add_argument("file", help="file of descriptor bytes, - for standard input")
    command.set_defaults(run=_descriptor)
    return parser


def _chaos(options: argparse.Namespace) -> int:
    # The harness needs pytest, the other commands do not: it is asked for late, and reads its
    # arguments itself.
    try:
        from tent.testing.chaos.main import main as chaos
    except ModuleNotFoundError as error:
        raise TentError(
            f"the test harness needs the module {error.name}: pip install 'tent[test]'"
        ) from error
    return chaos(options.rest)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _version(_: argparse.Namespace) -> int:
    print(f"tent {tent.__version__}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    return demo.main(size=options.size, cut=not options.no_cut, peer=options.peer)


def _config(options: argparse.Namespace) -> int:
    root = Path(tent.__file__).resolve().parent
    lib = root / "lib"
    answers = [
        (options.cflags, f"-I{root / 'include'}"),
        (options.libs, f"-L{lib} -Wl,-rpath,{lib} -ltent"),
        (options.cmakedir, str(lib / "cmake" / "tent")),
        (options.plugins, str(lib / "plugins")),
    ]
    wanted = [text for asked, text in answers if asked]
    if not wanted:
        print("tent config: name one of --cflags --libs --cmakedir --plugins", file=sys.stderr)
        return 2
    print(" ".join(wanted))
    return 0


def _plan(options: argparse.Namespace) -> int:
    text = _read(options.file).decode("utf-8", "replace")
    if options.action == "render":
        print(tent.plan_render(text), end="")
    else:
        tent.plan_check(text)
        print(f"{options.file}: the plan is right")
    return 0


def _explain(options: argparse.Namespace) -> int:
    plan = None if options.plan is None else _read(options.plan).decode("utf-8", "replace")
    with ExitStack() as stack:
        # Two engines of one process need no key but a common one.
        key = secrets.token_bytes(32) if options.peer is None else None
        engine = stack.enter_context(tent.Engine(plan=plan, key=key, name="explain"))
        address = options.peer
        if address is None:
            peer = stack.enter_context(tent.Engine(plan=plan, key=key, name="peer"))
            address = peer.address
        explanation = engine.explain(
            engine.open_segment(address),
            op=options.op,
            length=options.size,
            class_=options.class_,
            label=options.label,
            local=options.local,
            remote=options.remote,
        )
    print(_json(explanation) if options.json else render(explanation), end="")
    return 0


def _json(explanation: tent.Explanation) -> str:
    """The explanation's fields by name; enums as their words."""

    def words(facts: list[tuple[str, Any]]) -> dict[str, Any]:
        return {n: v.name.lower() if isinstance(v, enum.Enum) else v for n, v in facts}

    return json.dumps(dataclasses.asdict(explanation, dict_factory=words), indent=2) + "\n"


def _descriptor(options: argparse.Namespace) -> int:
    print(tent.descriptor_print(_read(options.file)), end="")
    return 0


def _read(name: str) -> bytes:
    if name == "-":
        data = sys.stdin.buffer.read(INPUT_SIZE_MAX + 1)
    else:
        with Path(name).open("rb") as file:
            data = file.read(INPUT_SIZE_MAX + 1)
    if len(data) > INPUT_SIZE_MAX:
        raise TentError(
            f"{name}: longer than {INPUT_SIZE_MAX} bytes; that is no plan or descriptor"
        )
    return data
