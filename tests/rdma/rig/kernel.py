"""The guest's kernel: the distribution's package, unpacked and not installed.

Leans on apt-get, dpkg-deb and depmod. What it made stands in the cache folder and is used again.
"""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from machine import Unable, apt_get, apt_refused, program

META_PACKAGE = "linux-image-amd64"
ELF = b"\x7fELF"


@dataclass(frozen=True)
class Kernel:
    """version: as `uname -r` says it. image: what QEMU boots. tree: the package's own root."""

    version: str
    image: Path
    tree: Path

    @property
    def modules(self) -> Path:
        return (self.tree / "lib" / "modules" / self.version).resolve()


def elf_of(bz_image: bytes) -> bytes | None:
    """The ELF kernel in a bzImage, which QEMU boots at its PVH entry: an emulated processor then
    need not unpack it. None: packed in a way that is not read here (the bzImage boots as well).

    Layout: Documentation/arch/x86/boot.rst of Linux: setup_sects, payload_offset, payload_length.
    """
    if len(bz_image) < 0x250 or bz_image[0x202:0x206] != b"HdrS":
        # 0x202 holds the magic's place in old protocols too; without it this is no bzImage.
        return None
    offset, length = struct.unpack_from("<II", bz_image, 0x248)
    begin = ((bz_image[0x1F1] or 4) + 1) * 512 + offset
    payload = bz_image[begin : begin + length]
    try:
        if payload.startswith(b"\xfd7zXZ\0"):
            payload = lzma.LZMADecompressor().decompress(payload)
        elif payload.startswith(b"\x1f\x8b"):
            payload = gzip.decompress(payload)
    except (lzma.LZMAError, OSError, EOFError):
        return None
    return payload if payload.startswith(ELF) else None


def prepare(cache: Path) -> Kernel:
    """Fetches it unless the cache has it."""
    facts = cache / "kernel.json"
    tree = cache / "kernel"
    if facts.exists():
        found = json.loads(facts.read_text(encoding="utf-8"))
        return Kernel(found["version"], cache / found["image"], tree)
    shutil.rmtree(tree, ignore_errors=True)
    package = _fetch(cache)
    subprocess.run([program("dpkg-deb"), "-x", package, tree], check=True)
    package.unlink()
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    images = sorted((tree / "boot").glob("vmlinuz-*"))
    if not images:
        raise Unable(f"{package.name} holds no boot/vmlinuz-*")
    version = images[0].name.removeprefix("vmlinuz-")
    subprocess.run([program("depmod"), "-b", tree, version], check=True)
    image = images[0]
    if (elf := elf_of(image.read_bytes())) is not None:
        image = cache / "vmlinux"
        image.write_bytes(elf)
    # Last: what stands there is whole.
    told = {"version": version, "image": str(image.relative_to(cache))}
    facts.write_text(json.dumps(told) + "\n", encoding="utf-8")
    return Kernel(version, image, tree)


def _fetch(cache: Path) -> Path:
    """The .deb that the meta package depends on."""
    for old in cache.glob("linux-image-*.deb"):
        old.unlink()
    try:
        asked = subprocess.run(
            ["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise Unable("there is no apt-cache: the rig takes its kernel from Debian's") from None
    words = [line.split() for line in asked.stdout.splitlines()]
    names = [word[1] for word in words if word[:1] == ["Depends:"]]
    if not names:
        raise Unable(f"apt knows no {META_PACKAGE}: not Debian, or apt-get update never ran")
    print(f"rig: fetching the kernel, {names[0]}", file=sys.stderr)
    done = apt_get("download", names[0], cwd=cache)
    found = sorted(cache.glob("linux-image-*.deb"))
    if done.returncode != 0 or not found:
        raise apt_refused(f"{names[0]} cannot be fetched", done)
    return found[0]
