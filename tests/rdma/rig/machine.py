"""What the rig needs of this machine: packages of the distribution, and a folder to keep things in.

Leans on apt-get, and on root only when a package is missing. Must never install anything into a
virtual environment, and must say in one sentence why a machine cannot have the rig (Unable).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
APT_SECONDS = 300
MEMORY_MIB = 2560  # of the guest

# A file that shows that the package is there, and the package. Programs are looked up in PATH and
# in the folders of the system's administrator.
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "/usr/share/seabios/bios-256k.bin": "seabios",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "ip": "iproute2",
    "rdma": "iproute2",
    "setpriv": "util-linux",
    "/usr/share/doc/rdma-core/copyright": "rdma-core",
    "/usr/include/infiniband/verbs.h": "libibverbs-dev",
    "/usr/share/doc/ibverbs-providers/copyright": "ibverbs-providers",
    "ibv_devinfo": "ibverbs-utils",
    "ib_write_bw": "perftest",
    "/usr/lib/python3/dist-packages/pyverbs/__init__.py": "python3-pyverbs",
}
PYVERBS = Path("/usr/lib/python3/dist-packages/pyverbs")


class Unable(Exception):
    """This machine cannot have the rig; the sentence says what is missing and what mends it."""


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where the kernel and what was found out stay between runs."""
    folder = Path(environment.get("TENT_RIG_CACHE") or ROOT / "build" / "rig").resolve()
    if set(str(folder)) & set(" ,="):
        raise Unable(f"QEMU cannot be given the folder {folder}: its name has a blank, ',' or '='")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_machine() -> None:
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise Unable(f"the rig's kernel is for x86-64 Linux, this is {platform.machine()}")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) >> 10
    if free < MEMORY_MIB + 512:
        raise Unable(f"the guest wants {MEMORY_MIB} MiB of memory and 512 beside it, {free} free")


def program(name: str) -> str:
    """Its path; a system's administrator has more folders than others have in PATH."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise Unable(f"there is no '{name}': install {PACKAGES.get(name, name)}")
    return found


def _there(mark: str) -> bool:
    if mark.startswith("/"):
        return any(Path("/").glob(mark[1:]))
    try:
        program(mark)
    except Unable:
        return False
    return True


def missing_packages() -> list[str]:
    return sorted({package for mark, package in PACKAGES.items() if not _there(mark)})


def apt_get(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = ["apt-get", "-qq", *words]
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=APT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise Unable(
            "there is no apt-get: the rig takes its parts from Debian's packages"
        ) from None
    except subprocess.TimeoutExpired:
        raise Unable(f"`{' '.join(command)}` took longer than {APT_SECONDS} s") from None


def apt_refused(what: str, done: subprocess.CompletedProcess[str]) -> Unable:
    said = [line for line in done.stdout.splitlines() if line.startswith("E:")]
    return Unable(f"{what}: {' '.join(said) or 'apt-get failed'} (is the network reachable?)")


def install_packages() -> None:
    """Does nothing when all are there."""
    missing = missing_packages()
    if not missing:
        return
    words = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise Unable(f"{words} missing, and there is no apt-get to install them from Debian's")
    if os.geteuid() != 0:
        raise Unable(f"{words} missing: as root, apt-get install {words}")
    print(f"rig: installing {words}", file=sys.stderr)
    apt_get("update")  # old lists may do
    done = apt_get("install", "-y", "--no-install-recommends", *missing)
    if done.returncode != 0:
        raise apt_refused(f"{words} cannot be installed", done)
    if still := missing_packages():
        raise Unable(f"apt-get installed {words}, and {' '.join(still)} are not there all the same")
