"""What is public: the names of `tent`, the functions of libtent.so, those of a plugin."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest
import tree
from support import Package

SYSTEM_LIBRARIES = re.compile(r"lib(c|m|dl|pthread|rt)\.so\.\d+|ld-linux[-\w]*\.so\.\d+")


def declared(header: Path) -> set[str]:
    text = tree.bare_cpp(tree.read(header))
    return set(re.findall(r"TENT_API[^;(]*?\b(tent_\w+)\s*\(", text))


def exported(library: Path) -> set[str]:
    lines = subprocess.run(
        ["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return {line.split()[-1].split("@")[0] for line in lines}


def needed(library: Path) -> set[str]:
    out = subprocess.run(
        ["readelf", "-d", library], check=True, capture_output=True, text=True
    ).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", out))


def shared_objects(package: Package) -> list[Path]:
    return [package.libtent, *sorted(package.plugins.glob("*.so"))]


def test_libtent_exports_exactly_what_the_header_declares(package: Package) -> None:
    assert exported(package.libtent) == declared(tree.ROOT / "csrc/include/tent/tent.h")


def test_plugins_export_their_query_and_what_their_own_header_declares(package: Package) -> None:
    plugins = sorted(package.plugins.glob("*.so"))
    assert plugins, f"{package.plugins} holds no plugin"
    for plugin in plugins:
        assert plugin.name.startswith("libtent_plugin_")
        name = plugin.stem.removeprefix("libtent_plugin_")
        header = tree.ROOT / "plugins" / name / f"{name}.h"
        own = declared(header) if header.exists() else set()
        assert exported(plugin) == {"tent_plugin_query"} | own, plugin.name
        assert not own or (package.root / "include/tent" / header.name).exists()


def test_every_plugin_folder_is_installed(package: Package) -> None:
    folders = {path.parent.name for path in tree.cpp_files("plugins")}
    installed = {path.stem.removeprefix("libtent_plugin_") for path in package.plugins.glob("*.so")}
    assert installed == folders


def test_libraries_need_only_the_system(package: Package) -> None:
    for library in shared_objects(package):
        strangers = [name for name in needed(library) if not SYSTEM_LIBRARIES.fullmatch(name)]
        assert not strangers, f"{library.name} needs {strangers}"


def test_package_holds_what_c_programs_and_type_checkers_need(package: Package) -> None:
    expected = [
        "py.typed",
        "include/tent/tent.h",
        "include/tent/plugin.h",
        "include/tent/sim.h",
        "include/tent/fault.h",
        "lib/cmake/tent/tentConfig.cmake",
        "lib/cmake/tent/tentConfigVersion.cmake",
    ]
    assert [name for name in expected if not (package.root / name).exists()] == []
    assert not (package.root / "_build_ffi.py").exists()


@pytest.fixture(scope="module")
def init() -> ast.Module:
    return ast.parse(tree.read(tree.ROOT / "tent/__init__.py"))


def test_init_only_reexports(init: ast.Module) -> None:
    for node in init.body[1:]:  # the first is the docstring
        allowed = isinstance(node, ast.ImportFrom) or (
            isinstance(node, ast.Assign | ast.AnnAssign)
            and ast.unparse(node).split(" ")[0].rstrip(":") in ("__all__", "__version__")
        )
        assert allowed, f"tent/__init__.py:{node.lineno}: {ast.unparse(node)[:60]}"


def test_all_names_exactly_what_init_imports(init: ast.Module) -> None:
    names = {
        alias.asname or alias.name
        for node in init.body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    public = {name for name in names if not name.startswith("_")}
    tent = importlib.import_module("tent")
    assert set(tent.__all__) - {"__version__"} == public
    assert len(tent.__all__) == len(set(tent.__all__))
    assert all(hasattr(tent, name) for name in tent.__all__)


def test_version_is_said_once() -> None:
    found = re.search(r'^version = "(.*)"$', tree.read(tree.ROOT / "pyproject.toml"), re.MULTILINE)
    assert found
    # The package asks the library, the library was told by the build, the build read this line.
    assert importlib.import_module("tent").__version__ == found[1]
    assert importlib.metadata.version("tent") == found[1]
