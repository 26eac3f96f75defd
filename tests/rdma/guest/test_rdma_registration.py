"""Registration with real devices: what the kernel refuses is said truthfully, and not more is lost
than must be."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from soft_plans import plan

from tent import Denied
from tent.testing import pattern
from tent.testing.fixtures import engine_pair

# As an ordinary user is: locked memory is bounded once CAP_IPC_LOCK is gone.
CHILD = """
import ctypes, json, mmap, resource, sys
import numpy as np
import tent

mine, theirs, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14
said = {}
with tent.Engine(plan=theirs, key=b"k" * 16, name="target") as target:
    there = np.zeros(1 << 20, dtype=np.uint8)
    target.register(there, label="target")
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    libc = ctypes.CDLL(None, use_errno=True)
    # The effective and permitted sets lose it: version 3 of capset's header, two words each.
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for word in range(2):
        sets[word] &= ~(1 << CAP_IPC_LOCK)
    assert libc.capset(header, sets) == 0
    with tent.Engine(plan=mine, key=b"k" * 16, name="initiator") as engine:
        small = np.full(4096, 7, dtype=np.uint8)
        large = np.zeros(4 * limit, dtype=np.uint8)
        regions = {}
        for name, memory in (("small", small), ("large", large)):
            try:
                regions[name] = engine.register(memory, label=name)
                said[name] = "registered"
            except tent.TentError as error:
                said[name] = str(error)
        said["events"] = [event.text for event in engine.events()]
        segment = engine.open_segment(target.address, timeout=30.0)
        if "small" in regions:
            engine.write(segment, local=regions["small"], remote="target", timeout=30.0)
            said["written"] = bool((there[:4096] == 7).all())
        if "large" in regions:
            try:
                engine.write(segment, local=regions["large"][:65536], remote="target", timeout=10.0)
                said["large written"] = [row.name for row in engine.counters().rails
                                         if row.bytes_written >= 65536]
            except tent.TentError as error:
                said["large written"] = str(error)
print(json.dumps(said))
"""

MIB = 1 << 20
LIMIT = 8 * MIB  # the target of the same process has pinned some of it


def limited(mine: str, theirs: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, mine, theirs, str(LIMIT)],
        cwd="/", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(told, dict)
    return told


@pytest.mark.usefixtures("rails")
def test_beyond_the_limit_of_locked_memory_the_sentence_names_the_limit() -> None:
    told = limited(plan("a", tcp=True), plan("b", tcp=True))
    assert told["small"] == "registered"
    assert told["written"] is True
    # Not registered is not lost: the next transport carries it.
    assert told["large"] == "registered"
    said = "\n".join(map(str, told["events"]))
    assert "memlock" in said or "ulimit -l" in said, said
    assert any("tcp" in name for name in told["large written"]), told


@pytest.mark.usefixtures("rails")
def test_memory_that_is_mapped_read_only_can_be_read_by_peers(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    content = pattern(MIB, seed=30)
    file.write_bytes(content.tobytes())
    with (
        file.open("rb") as opened,
        # Private: kernels before 6.2 pin no shared mapping that cannot be written to.
        mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped,
        engine_pair(plan=plan("a"), target_plan=plan("b"), length=MIB) as pair,
        pair.target.register(mapped, access="r", label="weights"),
    ):
        pair.segment.refresh()
        pair.initiator.read(pair.segment, local=pair.local, remote="weights")
        assert np.array_equal(pair.local_bytes, content)
        with pytest.raises(Denied):
            pair.initiator.write(pair.segment, local=pair.local[:8], remote="weights")


@pytest.mark.usefixtures("rails")
def test_a_strict_plan_refuses_what_a_rail_cannot_register() -> None:
    strict = {"rdma.strict": "yes"}
    told = limited(plan("a", tcp=True, settings=strict), plan("b", tcp=True))
    assert told["small"] == "registered"
    assert told["written"] is True
    assert "memlock" in str(told["large"]) or "ulimit -l" in str(told["large"]), told
