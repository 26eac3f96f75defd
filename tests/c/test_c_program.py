"""The C example builds against the installed package, with CMake and in one line, and works.

No file outside the package and the example's folder is used: what works here works for a user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import BIN, ROOT, Package, run

EXAMPLE = ROOT / "examples" / "05_c_program"
VERIFIED = "verified: what came back is what was sent"
SECONDS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that nothing is built in the tree and nothing is reached beside the example."""
    return Path(shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("c") / "example"))


def config(package: Package, *flags: str) -> list[str]:
    # From a folder without a `tent` in it: the installed command and nothing else.
    return run(package.command, "config", *flags, cwd=package.root).stdout.split()


@pytest.fixture(scope="module")
def program(folder: Path, package: Package, cc: str) -> Path:
    out = folder / "one-line"
    warnings = ["-std=c11", "-pedantic-errors", "-Wall", "-Wextra", "-Werror"]
    flags = config(package, "--cflags", "--libs")
    run(cc, *warnings, "main.c", *flags, "-o", out, cwd=folder)
    return out


def test_the_one_line_build_moves_bytes_by_the_saved_plan(program: Path, folder: Path) -> None:
    assert VERIFIED in run(program, cwd=folder, timeout=SECONDS).stdout


def test_the_cmake_build_moves_bytes_by_the_saved_plan(folder: Path, package: Package) -> None:
    (cmake_dir,) = config(package, "--cmakedir")
    build = folder / "build"
    run(
        BIN / "cmake", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}", "-S", folder,
        "-B", build, f"-Dtent_DIR={cmake_dir}",
    )  # fmt: skip
    run(BIN / "cmake", "--build", build)
    assert VERIFIED in run(build / "main", cwd=folder, timeout=SECONDS).stdout


def test_two_processes_move_bytes(program: Path, folder: Path) -> None:
    with subprocess.Popen(
        [program, "serve"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            greeting, _, address = server.stdout.readline().strip().rpartition(" ")
            assert greeting == "serving at"
            assert VERIFIED in run(program, "send", address, cwd=folder, timeout=SECONDS).stdout
            server.communicate(timeout=SECONDS)
            assert server.returncode == 0
        finally:
            server.kill()


def test_a_wrong_plan_is_refused_with_its_place(program: Path, folder: Path) -> None:
    plan = folder / "wrong.txt"
    plan.write_text("plan 1\nrail 0 tcp lo\nroute * : tcp[0] turbo=yes\n", encoding="utf-8")
    result = run(program, plan, cwd=folder, timeout=SECONDS, check=False)
    assert result.returncode == 1
    assert "TENT_E_PLAN" in result.stdout and "line 3" in result.stdout


def test_the_program_needs_no_python(program: Path) -> None:
    maps = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0] for line in maps.splitlines()}
    assert "libtent.so" in names
    assert not [name for name in names if "python" in name or "stdc++" in name]


def test_find_package_refuses_a_later_version(folder: Path, package: Package) -> None:
    (cmake_dir,) = config(package, "--cmakedir")
    other = folder / "later"
    other.mkdir()
    text = (folder / "CMakeLists.txt").read_text(encoding="utf-8")
    (other / "CMakeLists.txt").write_text(
        text.replace("find_package(tent 0.1", "find_package(tent 9.0"), encoding="utf-8"
    )
    shutil.copy(folder / "main.c", other)
    result = run(
        BIN / "cmake", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}", "-S", other,
        "-B", other / "build", f"-Dtent_DIR={cmake_dir}", check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert "9.0" in result.stdout


def test_the_package_may_be_moved(package: Package, folder: Path, cc: str) -> None:
    """The CMake files and the library hold no absolute path: a copy elsewhere serves as well."""
    moved = Path(shutil.copytree(package.root, folder / "elsewhere"))
    build = folder / "build-moved"
    run(
        BIN / "cmake", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}", "-S", folder,
        "-B", build, f"-Dtent_DIR={moved / 'lib/cmake/tent'}",
    )  # fmt: skip
    run(BIN / "cmake", "--build", build)
    maps = subprocess.run(["ldd", build / "main"], capture_output=True, text=True, check=True)
    assert str(moved) in maps.stdout
    assert VERIFIED in run(build / "main", cwd=folder, timeout=SECONDS).stdout
    assert str(package.root) not in os.fsdecode((moved / "lib/libtent.so").read_bytes())
