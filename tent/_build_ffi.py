"""Generates the C source of tent._native from the public header; runs at build time only.

The declarations are cut from csrc/include/tent/tent.h between its "cdef: begin" and "cdef: end"
marks, so the header is the only place where they are written. Leans on cffi (API mode, stable ABI).
Must never know a declaration itself, and is not part of the installed package.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cffi import FFI

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_BLANK_LINES = re.compile(r"\n\s*\n+")


def cdef(header: str) -> str:
    """The declarations between the marks, as cffi reads them: no comments, no export attribute."""
    begin = header.find("/* cdef: begin")
    end = header.find("/* cdef: end")
    if begin < 0 or end < begin:
        raise ValueError('tent.h lacks the marks "cdef: begin" and "cdef: end", in this order')
    text = _COMMENT.sub("", header[begin:end])
    return _BLANK_LINES.sub("\n", text.replace("TENT_API ", "")).strip() + "\n"


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: _build_ffi.py path/to/tent.h out.c", file=sys.stderr)
        return 2
    header, out = (Path(argument) for argument in arguments)
    builder = FFI()
    builder.cdef(cdef(header.read_text(encoding="utf-8")))
    builder.set_source("tent._native", "#include <tent/tent.h>\n", py_limited_api=True)
    builder.emit_c_code(str(out))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
