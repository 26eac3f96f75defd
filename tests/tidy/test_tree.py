"""The house itself: its rooms, no trace of a machine, no page that nobody links to."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import tree

FOLDERS = {"tent", "plugins", "csrc", "tests", "bench", "docs", "examples"}
HIDDEN_FOLDERS = {".ci"}

# Written in pieces, so that this file does not name what it forbids.
HOSTS = ["pypi" + ".org", "python" + "hosted", "anaconda" + ".org", "crates" + ".io", "npm" + "js"]
PATHS = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/"]
TRACES = re.compile(
    "|".join([re.escape(word) for word in HOSTS] + [rf"(?<![\w.}}~]){path}" for path in PATHS])
)
NUMBERS = re.compile(r"(?i)\b(issue|ticket|task|bug|pr)s?[ -]?#?\d+\b|\bGH-\d+")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tree.files():
        if tree.inside(path, "tests/data"):
            continue
        data = path.read_bytes()
        if b"\0" not in data:
            found.append((path, data.decode("utf-8", errors="replace")))
    return found


def test_top_level_folders_are_those_of_the_design() -> None:
    parts = [path.relative_to(tree.ROOT).parts for path in tree.files()]
    folders = {part[0] for part in parts if len(part) > 1}
    assert {name for name in folders if not name.startswith(".")} == FOLDERS
    assert {name for name in folders if name.startswith(".")} <= HIDDEN_FOLDERS


def test_tests_are_no_package() -> None:
    """A tests/__init__.py would put the source folder tent/ before the installed package."""
    assert [tree.name(p) for p in tree.python_files("tests") if p.name == "__init__.py"] == []


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by bare name."""
    names = [p.name for p in tree.python_files("tests") if p.name != "conftest.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_test_helpers_do_not_hide_the_standard_library() -> None:
    names = {path.stem for path in tree.python_files("tests")}
    assert names & set(sys.stdlib_module_names) == set()


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = [
        f"{tree.name(path)}:{number}: {match[0]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := TRACES.search(line))
    ]
    assert not found, "\n".join(found)


def test_no_file_tells_history_by_number() -> None:
    found = [
        f"{tree.name(path)}:{number}: {match[0]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := NUMBERS.search(line))
    ]
    assert not found, "\n".join(found)


def links(page: Path) -> list[tuple[str, Path]]:
    """(as written, file) of every relative link of a page."""
    targets = LINK.findall(re.sub(r"^```.*?^```", "", tree.read(page), flags=re.M | re.S))
    local = [t for t in targets if not re.match(r"[a-z]+:|#", t)]
    return [(t, (page.parent / t.split("#")[0]).resolve()) for t in local]


def test_links_of_pages_lead_somewhere() -> None:
    pages = [path for path in tree.files() if path.suffix == ".md"]
    dead = [f"{tree.name(p)}: {text}" for p in pages for text, to in links(p) if not to.exists()]
    assert not dead, "\n".join(dead)


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached = {tree.ROOT / "README.md"}
    waiting = list(reached)
    while waiting:
        page = waiting.pop()
        news = {to for _, to in links(page) if to.suffix == ".md" and to.exists()} - reached
        reached |= news
        waiting += news
    docs = [path for path in tree.files() if tree.inside(path, "docs")]
    other = {to for page in reached for _, to in links(page)}
    lost = [tree.name(path) for path in docs if path not in reached | other]
    assert not lost, "no page links to:\n" + "\n".join(lost)
