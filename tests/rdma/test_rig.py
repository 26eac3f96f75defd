"""What of the rig can be shown without booting it: files it makes, and what it says where it
cannot be had."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

RIG = ROOT / "tests" / "rdma" / "rig"
sys.path.insert(0, str(RIG))

import boot  # noqa: E402
import initramfs  # noqa: E402
import kernel  # noqa: E402
import machine  # noqa: E402


def bz_image(payload: bytes) -> bytes:
    """A header as Linux's boot protocol has it, three sectors of set-up, the payload."""
    image = bytearray(4 * 512)
    image[0x1F1] = 3
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + bytes(16) + payload + b"what follows"


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bytes])
def test_the_kernel_inside_an_image_is_found(pack: object) -> None:
    elf = kernel.ELF + bytes(range(256))
    assert callable(pack)
    assert kernel.elf_of(bz_image(pack(elf))) == elf


@pytest.mark.parametrize(
    "image",
    [
        b"",
        bytes(4096),
        bz_image(b"\x28\xb5\x2f\xfd packed otherwise"),
        bz_image(b"\xfd7zXZ\0 broken"),
    ],
    ids=["empty", "no image", "unknown packing", "broken"],
)
def test_an_image_that_cannot_be_unpacked_is_booted_as_it_is(image: bytes) -> None:
    assert kernel.elf_of(image) is None


def test_the_archive_of_first_files_is_what_linux_reads() -> None:
    entries = [
        initramfs.Entry("bin", 0o040755),
        initramfs.Entry("init", 0o100755, b"#!/bin/sh\n"),
        initramfs.Entry("odd", 0o100644, b"12345"),
    ]
    data = initramfs.newc(entries)
    found, at = [], 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = data[at + 110 : at + 110 + numbers[11] - 1].decode()
        begin = -(-(at + 110 + numbers[11]) // 4) * 4
        if name == "TRAILER!!!":
            break
        found.append(initramfs.Entry(name, numbers[1], data[begin : begin + numbers[6]]))
        at = -(-(begin + numbers[6]) // 4) * 4
    assert found == entries


def test_modules_are_loaded_behind_those_they_need() -> None:
    dependencies = (
        "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs.ko\n"
        "kernel/net/9p/9pnet.ko:\n"
        "kernel/fs/netfs.ko: kernel/net/9p/9pnet.ko\n"
        "kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko\n"
    )
    order = initramfs.load_order(dependencies, ("builtin", "9p", "9pnet_virtio"))
    assert sorted(order) == sorted(set(order))
    assert order[-1] == "kernel/net/9p/9pnet_virtio.ko.xz"
    assert order.index("kernel/net/9p/9pnet.ko") < order.index("kernel/fs/9p/9p.ko")
    assert order.index("kernel/fs/netfs.ko") < order.index("kernel/fs/9p/9p.ko")


def rig_says(verb: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """On a machine without any program."""
    env = {"PATH": str(tmp_path), "TENT_RIG_CACHE": str(tmp_path / "cache"), **environment}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_PROGRAMS, str(RIG), verb],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# A machine whose system's folders hold no program either.
WITHOUT_PROGRAMS = """
import runpy, shutil, sys
sys.path.insert(0, sys.argv[1])
shutil.which = lambda *words, **more: None
sys.argv = ["rig", *sys.argv[2:]]
runpy.run_path(sys.path[0], run_name="__main__")
"""


def test_a_machine_that_cannot_have_the_rig_skips_and_says_what_is_missing(tmp_path: Path) -> None:
    said = rig_says("test", tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("test-rdma: SKIPPED: "), said.stdout
    assert "qemu-system-x86" in said.stdout


def test_setup_without_the_rig_fails_and_says_what_is_missing(tmp_path: Path) -> None:
    said = rig_says("setup", tmp_path)
    assert said.returncode == 1
    assert "qemu-system-x86" in said.stderr


def test_another_processor_is_no_machine_for_the_rig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(machine.Unable, match="aarch64"):
        machine.check_machine()


def test_a_cache_folder_that_qemu_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(machine.Unable, match="a,b"):
        machine.cache_folder({"TENT_RIG_CACHE": str(tmp_path / "a,b")})
    assert not (tmp_path / "a,b").exists()


class FakeMachine:
    """A folder with a program "setpriv" that stands for QEMU and its guest."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        for name, text in {"setpriv": script, "qemu-system-x86_64": "exit 1"}.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        tree = folder / "kernel"
        (tree / "lib/modules/1").mkdir(parents=True)
        found = kernel.Kernel("1", folder / "vmlinux", tree)
        self.rig = boot.Rig(folder, found, folder / "initrd", "tcg")


# The run's folder is what the console's file stands in.
GUEST = r"""folder=$(grep -o 'file:[^ ]*/console' <<<"$*" | cut -d : -f 2 | xargs dirname)
"""


def test_the_exit_status_of_the_command_is_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = GUEST + 'bash "$folder/command"; echo $? >"$folder/status"'
    rig = FakeMachine(tmp_path, monkeypatch, script).rig
    assert boot.run(rig, boot.Job("exit 42")) == 42
    assert boot.run(rig, boot.Job("true")) == 0
    assert not list(tmp_path.glob("run.*"))


def test_a_guest_that_ends_without_a_status_fails_and_shows_its_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rig = FakeMachine(tmp_path, monkeypatch, GUEST + 'echo "a panic" >"$folder/console"').rig
    assert boot.run(rig, boot.Job("true")) == boot.DIED
    assert "a panic" in capfd.readouterr().err


def test_a_guest_that_hangs_is_ended_at_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rig = FakeMachine(tmp_path, monkeypatch, "exec sleep 600").rig
    assert boot.run(rig, boot.Job("true", limit_s=0.2)) == boot.DIED
    assert "within 0.2 s" in capfd.readouterr().err


def test_a_guest_with_a_wrong_clock_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = GUEST + (
        f'echo boot >>"{tmp_path}/boots"\n'
        f'[ $(wc -l <"{tmp_path}/boots") = 1 ] && seconds=1000 || seconds=0\n'
        'echo $seconds >"$folder/ready.new"; mv "$folder/ready.new" "$folder/ready"\n'
        'until [ -e "$folder/go" ]; do read -t 0.05 <> <(:); done\n'
        'bash "$folder/command"; echo $? >"$folder/status"'
    )
    rig = FakeMachine(tmp_path, monkeypatch, script).rig
    assert boot.run(rig, boot.Job("exit 7", limit_s=30)) == 7
    assert (tmp_path / "boots").read_text(encoding="utf-8") == "boot\n" * 2
    assert "1000 s" in capfd.readouterr().err
