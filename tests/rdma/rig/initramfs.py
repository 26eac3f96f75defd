"""The guest's first files: busybox, the modules that show the host's tree, and init.sh.

Leans on the kernel's modules.dep. Written by hand in the format "newc" (Linux,
Documentation/driver-api/early-userspace/buffer-format.rst): cpio is on no fresh machine. Nothing is
packed, since unpacking would be the emulated processor's work.
"""

from __future__ import annotations

import io
import lzma
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from kernel import Kernel
from machine import program

HERE = Path(__file__).resolve().parent
# To see the host's tree with; the rest is loaded from there.
MODULES = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay")
# The kernel asks for modules in this first root; they are in the second.
MODPROBE = '#!/bin/busybox sh\nexec /bin/busybox chroot /r /sbin/modprobe "$@"\n'


@dataclass(frozen=True)
class Entry:
    """A file, or with a mode of S_IFDIR a folder."""

    name: str
    mode: int
    data: bytes = b""


def newc(entries: list[Entry]) -> bytes:
    out = io.BytesIO()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], 1):
        name = entry.name.encode() + b"\0"
        # fmt: off
        numbers = [number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0]
        # fmt: on
        out.write(b"070701" + b"".join(b"%08X" % each for each in numbers) + name)
        out.write(bytes(-out.tell() % 4))
        out.write(entry.data)
        out.write(bytes(-out.tell() % 4))
    return out.getvalue()


def load_order(dependencies: str, names: tuple[str, ...]) -> list[str]:
    """Files of modules.dep in the order to load them in; names that it does not list are built into
    the kernel."""
    needs = {}
    for line in dependencies.splitlines():
        file, _, others = line.partition(":")
        needs[file] = others.split()
    by_name = {Path(file).name.partition(".ko")[0]: file for file in needs}
    order: list[str] = []
    for name in names:
        if name in by_name:
            wanted = by_name[name]
            order += [each for each in [*reversed(needs[wanted]), wanted] if each not in order]
    return order


def _module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def write(kernel: Kernel, target: Path) -> None:
    """Writes the archive that `kernel` starts from."""
    folder, program_mode = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    dependencies = (kernel.modules / "modules.dep").read_text(encoding="utf-8")
    files = load_order(dependencies, MODULES)
    names = [Path(file).name.removesuffix(".xz") for file in files]
    entries = [Entry(name, folder) for name in ("bin", "dev", "proc", "sys", "sbin", "mod")]
    entries += [
        Entry("bin/busybox", program_mode, Path(program("busybox")).read_bytes()),
        Entry("sbin/modprobe", program_mode, MODPROBE.encode()),
        Entry("init", program_mode, (HERE / "init.sh").read_bytes()),
        Entry("mod/order", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in names).encode()),
    ]
    entries += [
        Entry(f"mod/{name}", stat.S_IFREG | 0o644, _module(kernel.modules / file))
        for file, name in zip(files, names, strict=True)
    ]
    # A guest of another run may be starting from it.
    made = target.with_name(f"{target.name}.{os.getpid()}")
    made.write_bytes(newc(entries))
    made.replace(target)
