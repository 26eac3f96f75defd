"""The C interface of the simulated fabric, from the installed plugin: loading, errors, structs.

Leans on cffi (ABI mode) and the installed sim.h, where alone the declarations are written. Must
open the very file that engines load, or fabric and engines would not find one another.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from cffi import FFI

import tent
from tent.errors import InvalidArgument, PluginError, error_for

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
NEVER = (1 << 64) - 1


class Library:
    """The functions of sim.h; a negative status becomes an exception."""

    def __init__(self, root: Path) -> None:
        """root: the folder of the installed package."""
        self.folder = root / "lib" / "plugins"
        header = root / "include" / "tent" / "sim.h"
        plugin = self.folder / "libtent_plugin_sim.so"
        for file in (header, plugin):
            if not file.exists():
                raise PluginError(f"{file} is missing: this installation has no simulated fabric")
        self.ffi: Any = FFI()
        self.ffi.cdef(_declarations(header.read_text(encoding="utf-8")))
        self.lib: Any = self.ffi.dlopen(str(plugin), os.RTLD_NOW | os.RTLD_LOCAL)

    def check(self, status: int) -> int:
        """The status, if it is none of failure."""
        if status < 0:
            raise error_for(status, self.ffi.string(self.lib.tent_sim_last_error()).decode())
        return status

    def struct(self, name: str, **fields: Any) -> Any:
        """A struct with its size set. Raises InvalidArgument for what a field cannot hold."""
        made = self.ffi.new(f"{name} *")
        made.size = self.ffi.sizeof(name)
        for field, value in fields.items():
            try:
                setattr(made, field, value)
            except (OverflowError, TypeError) as error:
                raise InvalidArgument(f"{field} is {value!r}: {error}") from error
        return made


def _declarations(header: str) -> str:
    begin, end = header.index("/* cdef: begin"), header.index("/* cdef: end")
    return _COMMENT.sub("", header[begin:end]).replace("TENT_API ", "")


@cache
def library() -> Library:
    """The installed one, loaded once."""
    return Library(Path(tent.__file__).parent)
