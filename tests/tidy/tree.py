"""The project's own files, and small readers of C and C++ text, for the tidy tests.

Leans on git for the list of files (what is ignored is not ours) and walks the tree where there is
no git. Must never judge: the rules live in the tests.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CPP_SUFFIXES = {".cc", ".c", ".h"}
NOT_OURS = {".git", ".venv", "build", "dist", "__pycache__", ".hypothesis"}
NOT_OURS |= {".pytest_cache", ".mypy_cache", ".ruff_cache"}

_TOKEN = re.compile(
    r"""(?P<blank>//[^\n]*|/\*.*?\*/|^[ \t]*\#(?:\\\n|[^\n])*)
      |(?P<text>R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"
               |(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+')""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


@cache
def files() -> tuple[Path, ...]:
    """Every file that is or would be committed, sorted."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True, text=True,
        ).stdout.split("\0")  # fmt: skip
        found = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        found = []
        for folder, subfolders, names in os.walk(ROOT):
            subfolders[:] = [name for name in subfolders if name not in NOT_OURS]
            found += [Path(folder, name) for name in names]
    return tuple(sorted(path for path in found if path.is_file()))


def cpp_files(*folders: str) -> list[Path]:
    return [p for p in files() if p.suffix in CPP_SUFFIXES and (not folders or inside(p, *folders))]


def python_files(*folders: str) -> list[Path]:
    return [p for p in files() if p.suffix == ".py" and (not folders or inside(p, *folders))]


def inside(path: Path, *folders: str) -> bool:
    return any(path.is_relative_to(ROOT / folder) for folder in folders)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def includes(path: Path) -> list[tuple[int, str, str]]:
    """(line, '<' or '"', what) of each #include."""
    pattern = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
    matches = ((n, pattern.match(line)) for n, line in enumerate(read(path).splitlines(), 1))
    return [(n, match[1], match[2]) for n, match in matches if match]


def bare_cpp(text: str) -> str:
    """The text with comments, literals and preprocessor lines blanked, line numbers kept."""

    def blank(match: re.Match[str]) -> str:
        lines = "\n" * match[0].count("\n")
        return lines if match["blank"] is not None else f'""{lines}'

    return _TOKEN.sub(blank, text)


@dataclass(frozen=True)
class Function:
    name: str
    line: int
    line_count: int


_SCOPE = re.compile(r"\b(namespace|struct|class|union|enum|extern)\b")
_BEFORE = re.compile(r"(?:\s|(?:public|private|protected)\s*:(?!:))*")
_CONSTRUCTOR = re.compile(r"\)\s*(?:noexcept\s*)?:(?!:)")
_NAME = re.compile(r"(operator[^\s(]+|operator\s*\(\)|~?\w+)\s*\(")


def functions(text: str) -> list[Function]:
    """The outermost functions of C++ text: blocks with parentheses in their head."""
    bare = bare_cpp(text)
    found: list[Function] = []
    stack: list[tuple[str, str, int]] = []  # (kind, head, where the head begins)
    head_begin = 0
    parentheses = 0
    for at, char in enumerate(bare):
        if char in "()":
            parentheses += 1 if char == "(" else -1
        elif char == "{":
            head = bare[head_begin:at]
            stack.append((_kind(head, stack, parentheses), head, head_begin))
            if stack[-1][0] not in ("initializer", "inside"):
                head_begin = at + 1
        elif char == "}" and stack:
            kind, head, begin = stack.pop()
            if kind == "function":
                found.append(_function(bare, head, begin, at))
            if kind not in ("initializer", "inside"):
                head_begin = at + 1
        elif char == ";" and parentheses == 0 and not any(k == "function" for k, _, _ in stack):
            head_begin = at + 1
    return found


def _kind(head: str, stack: list[tuple[str, str, int]], parentheses: int) -> str:
    if parentheses or (stack and stack[-1][0] != "scope"):
        return "inside"
    last = head.rstrip()[-1:]
    if _CONSTRUCTOR.search(head) and (last.isalnum() or last in "_>"):
        return "initializer"
    if "(" in head and last != "=" and not re.search(r"=\s*\w*$", head):
        return "function"
    return "scope" if _SCOPE.search(head) else "other"


def _function(bare: str, head: str, begin: int, end: int) -> Function:
    start = begin + _BEFORE.match(head).end()  # type: ignore[union-attr]
    match = _NAME.search(head)
    line = bare.count("\n", 0, start) + 1
    return Function(match[1] if match else "?", line, bare.count("\n", 0, end) + 2 - line)
