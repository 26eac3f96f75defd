"""Every Python example runs to its end, and the pages show nothing but their lines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
SAYS = {"08_same_host": "kv is fetched over shm: mapped read-only"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    env.pop("TENT_KEY_FILE", None)
    result = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(path)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Warning" not in result.stderr
    assert SAYS.get(path.stem, "") in result.stdout


@pytest.mark.parametrize(
    ("page", "blocks_min"),
    [("README.md", 1), ("docs/quickstart.md", 5), ("docs/simulation.md", 3)],
)
def test_a_page_shows_lines_of_the_examples(page: str, blocks_min: int) -> None:
    sources = [path.read_text() for path in EXAMPLES]
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    assert len(blocks) >= blocks_min
    for block in blocks:
        # A block may be indented less than in its file.
        fitting = [
            indent
            for indent in ("", "    ", "        ")
            for source in sources
            if re.sub(r"^(?=.)", indent, block, flags=re.M) in source
        ]
        assert fitting, f"not in any example:\n{block}"
