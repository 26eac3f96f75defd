"""How fast this processor copies by the shm transport's ways, in GB/s: what its presets rest on.

    python bench/shm_copy.py [blocks | footprints | reader | split ...] [--seconds S] [--json FILE]

blocks: by block size, in the second-level cache, the third, and beyond; footprints: by the size of
sources and destinations together; reader: the destination is read right after each block; split:
one block by one thread, or half of it by a second one that has to be woken. Median of windows of
8 MiB, and the best window, which a busy machine disturbs less.

Leans on a C++ compiler (CXX, or g++) and the source tree beside it; the package is not needed.
Must never write into the source tree.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("-std=c++20", "-O3", "-DNDEBUG", "-pthread")
KINDS = ("blocks", "footprints", "reader", "split")


def build(folder: Path) -> Path:
    """Compiles bench/shm_copy.cc with the transport's own copies."""
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    if shutil.which(compiler[0]) is None:
        sys.exit(f"no C++ compiler '{compiler[0]}': install one or name one in CXX")
    program = folder / "shm_copy"
    sources = [ROOT / "bench" / "shm_copy.cc", ROOT / "plugins" / "shm" / "copy.cc"]
    done = subprocess.run(
        [*compiler, *FLAGS, f"-I{ROOT / 'plugins'}", *map(str, sources), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"compiling bench/shm_copy.cc failed:\n{done.stderr}")
    return program


def size_text(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def show(rows: list[dict[str, Any]]) -> None:
    """One line per setting, the ways beside one another: median (best)."""
    settings: dict[tuple[str, int, str, str], dict[str, str]] = {}
    for row in rows:
        pages = "huge" if row["huge"] else "4 KiB"
        key = (pages, row["threads"], size_text(row["footprint"]), size_text(row["block"]))
        figure = f"{row['median']:.1f} ({row['best']:.1f})"
        settings.setdefault(key, {})[row["way"]] = figure
    print("pages  threads  footprint  block    " + "GB/s: median (best window)")
    for (pages, threads, footprint, block), ways in settings.items():
        figures = "  ".join(f"{way} {figure:15}" for way, figure in ways.items())
        print(f"{pages:5}  {threads:7}  {footprint:>9}  {block:>7}  {figures}")


def main() -> int:
    parser = argparse.ArgumentParser(description="copies by the shm transport's ways")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="; ".join(KINDS))
    parser.add_argument("--seconds", type=float, default=0.03, help="of each figure")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="tent-bench-") as folder:
        program = build(Path(folder))
        for kind in options.kinds or KINDS:
            command = [program, kind, str(options.seconds)]
            out = subprocess.run(command, capture_output=True, text=True, check=True)
            lines = [json.loads(line) for line in out.stdout.splitlines()]
            print(f"\n{kind}")
            if kind == "split":
                for line in lines:
                    print(
                        f"{size_text(line['split']):>7}  alone {line['alone_us']:6.1f} us  "
                        f"by two {line['split_us']:6.1f} us  waking {line['wake_us']:5.1f} us"
                    )
            else:
                show(lines)
            rows += [{"kind": kind, **line} for line in lines]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
