"""A process with one engine and some memory, in either role, that does what a test tells it.

Run by tests/procs/shm_peers.py: one JSON line in, one out, until its input ends. The first line is
the setup, {"plan", "listen", "key", "size", "memory", "access"}; each later one is {"do": NAME}
with the arguments of the method NAME of Actor, whose result is the answer. What fails is answered
as {"error": type, "text"}.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import mmap
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tent import Batch, Engine, Grant, Segment, Status, TentError

LABEL = "peer"
# From linux/prctl.h: the process ends with the one that made it.
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
Values = dict[str, Any]


def shared_mappings(permissions: str = "") -> list[tuple[int, int]]:
    """What this process has mapped of engines' memory, begin and end."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    found = [line.split(maxsplit=5) for line in lines if "/memfd:tent" in line]
    spans = [words[0].split("-") for words in found if words[1].startswith(permissions)]
    return [(int(begin, 16), int(end, 16)) for begin, end in spans]


def descriptors() -> dict[int, str]:
    """What this process's descriptors are."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[int(path.name)] = str(path.readlink())
        except FileNotFoundError:  # the one that lists
            continue
    return found


def errno_of(result: int) -> str:
    """ "" or the name of the error that a call of libc has left."""
    return "" if result != -1 else errno.errorcode[ctypes.get_errno()]


class Actor:
    """The engine, its memory, and what may be done with them."""

    def __init__(self, setup: Values) -> None:
        key = setup["key"]
        self.engine = Engine(
            plan=setup["plan"],
            listen=setup["listen"],
            key=None if key is None else bytes.fromhex(key),
            name="peer",
        )
        size: int = setup["size"]
        owner: Any
        if setup["memory"] == "private":
            owner = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.bytes = np.frombuffer(owner, dtype=np.uint8)
        elif setup["memory"] == "read only":
            owner = self.engine.alloc(size, access="r")
            self.bytes = owner.numpy()
        else:
            owner = self.engine.alloc(size)
            self.bytes = owner.numpy()
        self.owner = owner
        self.access: str = setup["access"]
        self.region = self.engine.register(owner, access=self.access, label=LABEL)
        self.base = self.region.address
        self.grants: list[Grant] = []
        self.segment: Segment | None = None
        self.batch: Batch | None = None
        self.unmapped = False

    # ---- memory

    def digest(self) -> Values:
        return {"digest": hashlib.sha256(self.bytes.data).hexdigest()}

    def fill(self, *, value: int) -> Values:
        self.bytes[:] = value
        return {}

    def count(self, *, value: int) -> Values:
        """How many bytes are that."""
        return {"count": int((self.bytes == value).sum())}

    def held(self) -> Values:
        return {"descriptors": sorted(descriptors().values()), "mappings": len(shared_mappings())}

    def truncate(self) -> Values:
        """Tries to make each memfd shorter; what came of it."""
        tried = []
        for number, name in descriptors().items():
            if name.startswith("/memfd:tent"):
                tried.append(errno_of(LIBC.ftruncate(number, ctypes.c_long(0))))
        return {"errors": tried}

    def unmap(self) -> Values:
        """Takes the registered memory away without a word."""
        self.unmapped = True
        at, length = ctypes.c_void_p(self.base), ctypes.c_size_t(len(self.bytes))
        return {"error_name": errno_of(LIBC.munmap(at, length))}

    def make_writable(self) -> Values:
        """Tries to turn each read-only mapping of engines' memory into a writable one."""
        wanted = mmap.PROT_READ | mmap.PROT_WRITE
        tried = []
        for begin, end in shared_mappings("r--s"):
            at, length = ctypes.c_void_p(begin), ctypes.c_size_t(end - begin)
            tried.append(errno_of(LIBC.mprotect(at, length, wanted)))
        return {"errors": tried}

    def map_again(self) -> Values:
        """Tries to open what is mapped read-only anew, for writing, and to map or write it."""
        tried = []
        for begin, end in shared_mappings("r--s"):
            try:
                number = os.open(f"/proc/self/map_files/{begin:x}-{end:x}", os.O_RDWR)
            except OSError as error:
                tried.append(errno.errorcode[error.errno or 0])
                continue
            for attempt in (
                lambda number=number: mmap.mmap(number, mmap.PAGESIZE).close(),
                lambda number=number: os.pwrite(number, b"x", 0),
            ):
                try:
                    attempt()
                    tried.append("")
                except OSError as error:
                    tried.append(errno.errorcode[error.errno or 0])
            os.close(number)
        return {"errors": tried}

    # ---- as the target

    def release(self) -> Values:
        """Takes the region back, and uses its memory at once for something else."""
        self.region.release()
        self.bytes[:] = 0x5A
        return {}

    def register(self) -> Values:
        self.region = self.engine.register(self.owner, access=self.access, label=LABEL)
        return {"base": self.region.address}

    def grant(self, *, access: str = "rw") -> Values:
        self.grants.append(self.engine.grant(access=access))
        return {"descriptor": self.grants[-1].export().hex()}

    def revoke(self) -> Values:
        self.grants.pop().revoke()
        self.bytes[:] = 0x5A
        return {}

    def served(self) -> Values:
        row = self.engine.counters().engine
        return {"written": row.bytes_served_write, "read": row.bytes_served_read}

    def charged(self) -> Values:
        row = self.engine.counters().engine
        return {"charged": row.charged_bytes - row.released_bytes, "refused": row.refused}

    def events(self) -> Values:
        return {"events": [[int(event.type), event.text] for event in self.engine.events()]}

    def notice(self) -> Values:
        notice = self.engine.next_notice(timeout=10)
        return {"notice": None if notice is None else notice.data.decode()}

    # ---- as the initiator

    def open(self, *, peer: str) -> Values:
        """peer: an address, or a descriptor in hex."""
        named = peer if ":" in peer else bytes.fromhex(peer)
        self.segment = self.engine.open_segment(named, timeout=20.0)
        return {}

    def via(self) -> Values:
        assert self.segment is not None
        there = self.segment.region(LABEL)
        told = self.engine.explain(self.segment, op="write", length=4096, remote=there)
        return {"via": [candidate.via for candidate in told.candidates]}

    def move(self, *, op: str = "write", seconds: float = 20.0) -> Values:
        """All of our memory to or from the peer's."""
        assert self.segment is not None
        call = self.engine.write if op == "write" else self.engine.read
        call(self.segment, local=self.region, remote=LABEL, timeout=seconds)
        return {"rails": self.rails()}

    def rails(self) -> dict[str, int]:
        rows = self.engine.counters().rails
        return {row.name.split()[0]: row.bytes_written + row.bytes_read for row in rows}

    def submit(self, *, op: str = "write", part: int = 1 << 20) -> Values:
        """The same in parts of one batch; returns when the first slice has moved."""
        assert self.segment is not None
        starts = np.arange(0, len(self.bytes), part, dtype=np.uint64)
        self.batch = self.engine.submit(
            self.segment,
            op=op,
            local=(self.region, starts),
            remote=(LABEL, starts),
            length=np.minimum(np.uint64(len(self.bytes)) - starts, np.uint64(part)),
        )
        while self.engine.counters().engine.slices == 0 and not self.batch.done:
            pass
        return {"done": self.batch.done}

    def wait(self) -> Values:
        assert self.batch is not None
        try:
            self.batch.wait(30)
        except TentError:
            if not self.batch.settled:
                raise
        return {"statuses": [Status(int(s)).name for s in self.batch.status()["status"]]}

    # ---- both

    def fork(self) -> Values:
        """A child that keeps all it inherited, until it is killed or our input ends."""
        pid = os.fork()
        if pid == 0:
            LIBC.prctl(PR_SET_PDEATHSIG, 0)
            os.close(1)
            signal.pause()
            os._exit(0)
        return {"pid": pid}

    def fork_and_end(self) -> Values:
        """A child that ends as a program does, its engine and all; its exit status."""
        pid = os.fork()
        if pid == 0:
            os.close(1)
            try:
                self.engine.close()
            except TentError:
                os._exit(3)
            os._exit(4)
        return {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}

    def end(self) -> None:
        if self.unmapped:
            os._exit(0)  # the interpreter would unmap that place once more
        self.engine.close()


def answer(values: Values) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    actor = Actor(json.loads(sys.stdin.readline()))
    answer({"address": actor.engine.address, "base": actor.base, "pid": os.getpid()})
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer(getattr(actor, command.pop("do"))(**command))
        except TentError as error:
            answer({"error": type(error).__name__, "text": str(error)})
    actor.end()


if __name__ == "__main__":
    main()
