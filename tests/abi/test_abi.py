"""The binary interface: what it promised it holds, for what was compiled long ago, by strict C11.

layout.json is the promise (freeze.py writes it); tiny.c and consumer.c are a plugin and a program
that see nothing but the installed headers.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import freeze
import pytest
from support import Package, run
from tiny_plugin import STRICT, build_plugin

HERE = Path(__file__).parent
UNKNOWN_ABI = 4242
PLUGIN_STATUS = -17


def test_nothing_promised_has_changed() -> None:
    assert freeze.broken(freeze.frozen(), freeze.read()) == []


def test_what_is_new_is_promised_too() -> None:
    assert freeze.read() == freeze.frozen(), "run: .venv/bin/python tests/abi/freeze.py"


def test_a_change_that_is_no_growth_is_found() -> None:
    now = freeze.read()
    old = freeze.read()
    old["structs"]["tent_request"]["fields"][1] = ["flags", 8, "uint64_t"]
    old["structs"]["tent_gone"] = {"size": 8, "fields": []}
    old["constants"]["TENT_E_RANGE"] = -99
    old["functions"]["tent_batch_open"] = "int32_t tent_batch_open(void)"
    assert len(freeze.broken(old, now)) == 4
    old = freeze.read()
    now["structs"]["tent_request"]["fields"].append(["more", 48, "uint64_t"])
    now["structs"]["tent_request"]["size"] = 56
    assert freeze.broken(old, now) == []


def test_what_was_reserved_may_get_a_name_but_no_other_type_or_place() -> None:
    old, now = freeze.read(), freeze.read()
    fields = now["structs"]["tent_grant_options"]["fields"]
    at = [name for name, *_ in fields].index("reserved")
    _, offset, kind = fields[at]
    fields[at] = ["named", offset, kind]
    assert freeze.broken(old, now) == []
    fields[at] = ["named", offset, "int32_t"]
    assert len(freeze.broken(old, now)) == 1
    fields[at] = ["named", offset + 4, kind]
    assert len(freeze.broken(old, now)) == 1


def test_status_values_are_used_once() -> None:
    values = [
        value
        for name, value in freeze.frozen()["constants"].items()
        if name.startswith("TENT_E_") or name in ("TENT_OK", "TENT_IN_PROGRESS")
    ]
    assert len(values) == len(set(values))


def assertions() -> str:
    """The promise as C: the compiler's layout, not only a parser's."""
    promise = freeze.frozen()
    lines = ["#include <stddef.h>", "#include <tent/plugin.h>"]
    for name, struct in promise["structs"].items():
        lines.append(f'_Static_assert(sizeof({name}) >= {struct["size"]}, "size of {name}");')
        for field, offset, _ in struct["fields"]:
            lines.append(
                f'_Static_assert(offsetof({name}, {field}) == {offset}, "{name}.{field}");'
            )
    for name, value in promise["constants"].items():
        lines.append(f'_Static_assert({name} == {value}{"u" if value > 2**31 else ""}, "{name}");')
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("standard", ["c11", "c17"])
def test_the_compiler_lays_structs_out_as_promised(
    standard: str, package: Package, cc: str, tmp_path: Path
) -> None:
    source = tmp_path / "promise.c"
    source.write_text(assertions(), encoding="utf-8")
    run(cc, f"-std={standard}", *STRICT[1:], f"-I{package.include}", "-fsyntax-only", source)


def test_headers_compile_alone_as_cxx(package: Package, tmp_path: Path) -> None:
    for header in ("tent.h", "plugin.h"):
        source = tmp_path / "alone.cc"
        source.write_text(f"#include <tent/{header}>\n", encoding="utf-8")
        run(
            os.environ.get("CXX", "g++"), "-std=c++11", *STRICT[1:], f"-I{package.include}",
            "-fsyntax-only", source,
        )  # fmt: skip


@pytest.fixture(scope="module")
def consumer(package: Package, cc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("abi") / "consumer"
    run(
        cc, *STRICT, f"-I{package.include}", HERE / "consumer.c", "-o", program,
        f"-L{package.lib}", "-ltent", f"-Wl,-rpath,{package.lib}",
    )  # fmt: skip
    return program


def consume(consumer: Path, what: str, plugin_path: Path) -> str:
    result = subprocess.run(
        [consumer, what],
        env={**os.environ, "TENT_PLUGIN_PATH": str(plugin_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, f"{result.returncode}: {result.stdout}{result.stderr}"
    return result.stdout


@pytest.mark.parametrize("what", ["move", "grow"])
def test_a_c_program_moves_bytes_over_a_foreign_plugin(
    what: str, consumer: Path, package: Package, cc: str, tmp_path: Path
) -> None:
    folder = build_plugin(package, cc, tmp_path)
    assert consume(consumer, what, folder) == "moved 100000 bytes there and back\n"


def refusal(consumer: Path, plugin_path: Path) -> str:
    status, _, sentence = consume(consumer, "open", plugin_path).strip().partition(" ")
    assert int(status) == PLUGIN_STATUS, sentence
    return sentence


def test_a_plugin_of_an_unknown_abi_is_refused_with_a_sentence(
    consumer: Path, package: Package, cc: str, tmp_path: Path
) -> None:
    folder = build_plugin(package, cc, tmp_path, f"-DTINY_ABI={UNKNOWN_ABI}u")
    sentence = refusal(consumer, folder)
    assert "tiny" in sentence and "interface version" in sentence, sentence


def test_a_plugin_that_declines_our_abi_is_refused_with_a_sentence(
    consumer: Path, package: Package, cc: str, tmp_path: Path
) -> None:
    sentence = refusal(consumer, build_plugin(package, cc, tmp_path, "-DTINY_DECLINES"))
    assert "tiny" in sentence and "interface version" in sentence, sentence


def test_a_missing_plugin_is_refused_with_its_name(consumer: Path, tmp_path: Path) -> None:
    assert "tiny" in refusal(consumer, tmp_path)


def test_a_file_that_is_no_library_is_refused_with_its_path(consumer: Path, tmp_path: Path) -> None:
    (tmp_path / "libtent_plugin_tiny.so").write_text("no library", encoding="utf-8")
    assert str(tmp_path) in refusal(consumer, tmp_path)
