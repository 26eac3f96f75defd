"""Reads the layout of the public headers, and writes it down in layout.json when it has grown.

    python tests/abi/freeze.py          writes layout.json; refuses a change that is no growth

Leans on cffi's parser (no compiler). layout.json is the promise to programs and plugins already
compiled: it may gain structs, fields at the end, constants and functions; nothing in it may change
or go.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from cffi import FFI

HERE = Path(__file__).resolve().parent
HEADERS = HERE.parents[1] / "csrc" / "include" / "tent"
FROZEN = HERE / "layout.json"
Layout = dict[str, dict[str, Any]]

_DROP = re.compile(
    r"/\*.*?\*/|^#ifdef __cplusplus\n.*?^#endif\n|^#(?:ifndef|endif|include|define \w+_H$)[^\n]*"
    r"|^#define TENT_API[^\n]*|\bTENT_API\s+",
    re.DOTALL | re.MULTILINE,
)
_CONSTANT = re.compile(r"^#define\s+(TENT_\w+)\s+(-?\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"^(?!typedef)(\w[\w *]*?\b(tent_\w+)\([^;{]*\));", re.MULTILINE)


def declarations() -> str:
    texts = [(HEADERS / name).read_text(encoding="utf-8") for name in ("tent.h", "plugin.h")]
    return "\n".join(_DROP.sub("", text) for text in texts)


def read() -> Layout:
    """The layout as the headers say it now."""
    text = declarations()
    ffi = FFI()
    ffi.cdef(text)
    structs = {}
    for name in ffi.list_types()[0]:
        kind = ffi.typeof(name)
        if kind.kind != "struct" or kind.fields is None:  # opaque ones promise nothing
            continue
        fields = [[field, f.offset, f.type.cname] for field, f in kind.fields]
        structs[name] = {"size": ffi.sizeof(name), "fields": fields}
    constants = {name: _number(value) for name, value in _CONSTANT.findall(text)}
    functions = {name: " ".join(whole.split()) for whole, name in _FUNCTION.findall(text)}
    return {"structs": structs, "constants": constants, "functions": functions}


def _number(text: str) -> int:
    return int(text.rstrip("uUlL"), 0)


def frozen() -> Layout:
    loaded: Layout = json.loads(FROZEN.read_text(encoding="utf-8"))
    return loaded


def broken(old: Layout, new: Layout) -> list[str]:
    """What of the old promise the new layout no longer holds, a sentence each."""
    found = []
    for part in ("constants", "functions"):
        for name, value in old[part].items():
            if new[part].get(name) != value:
                found.append(f"{name} was {value!r}, is {new[part].get(name)!r}")
    for name, was in old["structs"].items():
        now = new["structs"].get(name)
        if now is None:
            found.append(f"struct {name} is gone")
            continue
        if now["size"] < was["size"]:
            found.append(f"struct {name} shrank from {was['size']} to {now['size']} bytes")
        for before, after in zip(was["fields"], now["fields"], strict=False):
            if before[0].startswith("reserved") and before[1:] == after[1:]:
                continue  # it was kept for a field to come: programs and plugins set it to 0
            if before != after:
                found.append(f"struct {name}: field {before} is now {after}")
    return found


def main() -> int:
    new = read()
    if FROZEN.exists() and "--first" not in sys.argv[1:]:
        problems = broken(frozen(), new)
        if problems:
            print("the interface may only grow, but:", *problems, sep="\n  ", file=sys.stderr)
            return 1
    text = json.dumps(new, indent=1)
    # One field a line: fit for reading and for diffs.
    text = re.sub(r"\[\s+(\"\w+\"),\s+(\d+),\s+(\"[^\"]*\")\s+\]", r"[\1, \2, \3]", text)
    FROZEN.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
