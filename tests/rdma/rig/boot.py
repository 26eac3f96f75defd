"""Boots the guest with QEMU, runs one command in it, and gives its exit status.

Leans on the files that kernel.py and initramfs.py made and on the scripts beside it. The guest has
no network and writes nothing of the host's but its own run folder and the share. No QEMU outlives
this process: it dies with it (setpriv), also when it is killed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import initramfs
import kernel
from kernel import Kernel
from machine import MEMORY_MIB, program

HERE = Path(__file__).resolve().parent
DIED = 125  # the guest ended, or was ended, without an exit status of the command
CPUS_MAX = 4
BOOTS_MAX = 4
LOOK_S = 0.1
# Of a kernel that has nothing to do but start. Hardware acceleration that is there and does not
# work either ends QEMU at once or never shows a byte.
PROBE_SILENT_S = 5.0
PROBE_S = 20.0
ACCELERATORS = {
    "kvm": ["-accel", "kvm", "-cpu", "host"],
    "tcg": ["-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max"],
}
# What the emulated processor would spend time on for nothing. Its fast clock is the host's and
# needs no comparing with slow ones; but on a busy host the kernel may measure it wrong, by a factor
# of five even, and everything there goes by a wrong time: such a guest is started anew.
KERNEL_WORDS = (
    "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable "
    "random.trust_cpu=on"
)


@dataclass(frozen=True)
class Rig:
    """A machine that can boot: what `prepare` gives."""

    cache: Path
    kernel: Kernel
    initrd: Path
    accelerator: str


@dataclass(frozen=True)
class Job:
    """A command for the guest's shell, and what it wants there. limit_s: from boot to the end."""

    command: str
    rails: int = 2
    mtu: int = 4200
    share: Path | None = None
    limit_s: float = 300.0
    folder: Path = Path("/")
    verbose: bool = False


def prepare(cache: Path) -> Rig:
    """Makes what is missing in the cache folder; an Unable says why it cannot."""
    found = kernel.prepare(cache)
    initrd = cache / "initrd"
    initramfs.write(found, initrd)
    return Rig(cache, found, initrd, _accelerator(cache, found, initrd))


def qemu_command(accelerator: str, image: Path, initrd: Path, *, words: str = "") -> list[str]:
    return [
        *(program("setpriv"), "--pdeathsig", "KILL", program("qemu-system-x86_64")),
        *("-M", "q35,hpet=off", *ACCELERATORS[accelerator], "-m", str(MEMORY_MIB)),
        *("-smp", str(min(os.cpu_count() or 1, CPUS_MAX)), "-nodefaults", "-no-user-config"),
        *("-display", "none", "-no-reboot", "-kernel", str(image), "-initrd", str(initrd)),
        *("-append", f"{KERNEL_WORDS} {words}".strip()),
    ]


def _accelerator(cache: Path, found: Kernel, initrd: Path) -> str:
    """By trying it out, once per kernel and host kernel."""
    known = cache / "accelerator.json"
    asked = {"guest": found.version, "host": os.uname().release}
    if known.exists():
        told = json.loads(known.read_text(encoding="utf-8"))
        if {name: told.get(name) for name in asked} == asked:
            return str(told["accelerator"])
    why = _why_no_kvm(cache, found, initrd)
    accelerator = "tcg" if why else "kvm"
    how = f"emulated processor: {why}" if why else "hardware acceleration"
    print(f"rig: {how}", file=sys.stderr)
    told = {**asked, "accelerator": accelerator, "why": why}
    known.write_text(json.dumps(told) + "\n", encoding="utf-8")
    return accelerator


def _why_no_kvm(cache: Path, found: Kernel, initrd: Path) -> str:
    """ "": it works."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is not there, or not ours to use"
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        console = Path(folder, "console")
        console.touch()
        command = qemu_command("kvm", found.image, initrd, words="rig.probe")
        command += ["-serial", f"file:{console}"]
        silent = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent)
        try:
            begun = time.monotonic()
            while process.poll() is None:
                spent = time.monotonic() - begun
                if spent > PROBE_S or (spent > PROBE_SILENT_S and not console.stat().st_size):
                    return f"/dev/kvm is there, and a guest did not start in {spent:.0f} s"
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        if b"rig: init runs" not in console.read_bytes():
            return f"/dev/kvm is there, and QEMU with it ended with {process.returncode}"
    return ""


class WrongClock(Exception):
    """The guest's time is not ours."""


def run(rig: Rig, job: Job) -> int:
    """The command's own streams become ours; what it leaves in the share stays."""
    for _ in range(BOOTS_MAX):
        with tempfile.TemporaryDirectory(prefix="run.", dir=rig.cache) as made:
            try:
                return _run(Path(made), rig, job)
            except WrongClock as why:
                print(f"rig: {why}", file=sys.stderr)
    return DIED


def _run(folder: Path, rig: Rig, job: Job) -> int:
    _fill(folder, rig, job)
    begun = time.monotonic()
    why = _boot(folder, rig, job)
    status = _told(folder, "status")
    if job.verbose:
        took = f"{time.monotonic() - begun:.1f} s; rails ready after {_told(folder, 'ready')} s"
        ended = f"command ended after {_told(folder, 'ended')} s of the guest's"
        print(f"rig: {rig.accelerator}, {took}, {ended}", file=sys.stderr)
    if status.isdigit():
        return int(status)
    console = (folder / "console").read_text(encoding="utf-8", errors="replace")
    print(f"rig: the guest ended without a status {why}; console:\n{console}", file=sys.stderr)
    return DIED


def _told(folder: Path, name: str) -> str:
    file = folder / name
    return (file.read_text(encoding="utf-8").strip() if file.exists() else "") or "?"


def _fill(folder: Path, rig: Rig, job: Job) -> None:
    """Writes what the guest finds in /run/rig."""
    settings = {
        "RIG_MODULES": rig.kernel.modules,
        "RIG_FOLDER": job.folder,
        "RIG_SHARE": job.share or "",
        "RIG_RAILS": job.rails,
        "RIG_MTU": job.mtu,
    }
    lines = [f"export {name}={shlex.quote(str(value))}\n" for name, value in settings.items()]
    (folder / "settings").write_text("".join(lines), encoding="utf-8")
    (folder / "command").write_text(job.command + "\n", encoding="utf-8")
    (folder / "console").touch()
    for script in ("stage2.sh", "rails.sh"):
        shutil.copy(HERE / script, folder / script)


def _boot(folder: Path, rig: Rig, job: Job) -> str:
    """Waits for the guest's end; gives why it was ended, if it was."""
    command = qemu_command(rig.accelerator, rig.kernel.image, rig.initrd)
    command += ["-serial", f"file:{folder}/console", "-device", "virtio-serial-pci"]
    trees = {"hostroot": (Path("/"), ",readonly=on"), "rundir": (folder, "")}
    if job.share is not None:
        trees["share"] = (job.share.resolve(), "")
    for tag, (path, more) in trees.items():
        command += [
            "-fsdev",
            f"local,id={tag},path={path},security_model=none,multidevs=remap{more}",
        ]
        command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    with ExitStack() as stack:
        streams = []
        sys.stdout.flush()
        for number, name in enumerate(("out", "err"), 1):
            # QEMU takes no standard stream that way, but a copy of one.
            copy = os.dup(number)
            stack.callback(os.close, copy)
            streams.append(copy)
            command += ["-add-fd", f"fd={copy},set={number}"]
            command += ["-chardev", f"file,id={name},path=/dev/fdset/{number},append=on"]
            command += ["-device", f"virtserialport,chardev={name},name={name}"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=streams)
        try:
            return _watch(process, folder, job.limit_s)
        finally:
            process.kill()
            process.wait()


def _watch(process: subprocess.Popen[bytes], folder: Path, limit_s: float) -> str:
    begun = time.monotonic()
    gone_on = False
    while (spent := time.monotonic() - begun) < limit_s:
        ready = _told(folder, "ready")
        if not gone_on and ready != "?":
            # It begins a little after QEMU and waits for our word.
            if not spent / 2 - 5 < float(ready) < spent + 1:
                raise WrongClock(f"the guest counts {ready} s of {spent:.1f}: started anew")
            (folder / "go").touch()
            gone_on = True
        try:
            return f"(QEMU's own is {process.wait(LOOK_S if not gone_on else limit_s - spent)})"
        except subprocess.TimeoutExpired:
            pass
    return f"within {limit_s:g} s"
