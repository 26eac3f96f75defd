"""What one scheduling decision costs, in ns: pick + charge + settle, compiled from csrc/sched.

    python bench/sched_cost.py [--rails 1 8 64] [--json FILE]

Leans on a C++ compiler (CXX, or g++) and the source tree beside it; the package is not needed. The
figure is the CPU's: run it on a quiet machine. Must never write into the source tree.
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
FLAGS = ("-std=c++20", "-O3", "-DNDEBUG")
WANTED_NS = 60.0
WANTED_RAILS = 8


def build(folder: Path) -> Path:
    """Compiles bench/sched_cost.cc with the scheduler's own source."""
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    if shutil.which(compiler[0]) is None:
        sys.exit(f"no C++ compiler '{compiler[0]}': install one or name one in CXX")
    program = folder / "sched_cost"
    include = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}"]
    sources = [ROOT / "bench" / "sched_cost.cc", ROOT / "csrc" / "sched" / "pick.cc"]
    done = subprocess.run(
        [*compiler, *FLAGS, *include, *map(str, sources), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"compiling bench/sched_cost.cc failed:\n{done.stderr}")
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description="cost of a scheduling decision")
    parser.add_argument("--rails", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("rails  ns per slice: min  median  max")
    with tempfile.TemporaryDirectory(prefix="tent-bench-") as folder:
        program = build(Path(folder))
        for rails in options.rails:
            out = subprocess.run([program, str(rails)], capture_output=True, text=True, check=True)
            row = json.loads(out.stdout)
            rows.append(row)
            low, mid, high = (row[f"ns_per_slice_{name}"] for name in ("min", "median", "max"))
            wanted = ""
            if rails == WANTED_RAILS:
                verdict = "ok" if mid <= WANTED_NS else "MISSED"
                wanted = f"   wanted: <= {WANTED_NS:.0f} {verdict}"
            print(f"{rails:5}  {low:17.1f}  {mid:6.1f}  {high:6.1f}{wanted}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
