"""Fixtures every test may use: the installed package, a compiler, the native build.

Leans on support.py. Must never let the source folder tent/ be imported in place of the installed
package: it holds no native module.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest
from support import ROOT, SANITIZE, NativeBuild, Package

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


@pytest.fixture(scope="session")
def native_build() -> NativeBuild:
    return NativeBuild(ROOT / "build" / (SANITIZE or "native"))


@pytest.fixture(scope="session")
def package() -> Package:
    """The installed package, found without importing it: C tests depend on no Python code."""
    root = Path(sysconfig.get_path("platlib")) / "tent"
    if not (root / "lib" / "libtent.so").exists():
        pytest.fail(f"{root} holds no lib/libtent.so: run make build first.", False)
    return Package(root)


@pytest.fixture(scope="session")
def cc() -> str:
    return os.environ.get("CC", "gcc")
