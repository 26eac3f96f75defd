"""Two workers on one machine: decode fetches the KV blocks that prefill has made, in one copy.

No transport is named: the engines find out that they run under one kernel, and share memory.
Run it: python 08_same_host.py
"""

import multiprocessing
import secrets
import time
from multiprocessing.connection import Connection

import numpy as np

import tent

BLOCK = 144 << 10  # 128 KiB and 16 KiB of a layer, for 64 tokens
BLOCKS = 488


def prefill(pipe: Connection) -> None:
    """The process that makes the blocks."""
    with tent.Engine(key=pipe.recv(), name="prefill") as engine:
        # Memory of alloc() can be mapped by peers. Any other memory can be offered as well.
        cache = engine.alloc(BLOCK * BLOCKS)
        blocks = cache.numpy().reshape(BLOCKS, BLOCK)
        blocks[:] = np.random.default_rng(1).integers(0, 256, (BLOCKS, BLOCK), dtype=np.uint8)
        scratch = np.full(BLOCK, 7, dtype=np.uint8)
        # Decode may read the blocks and nothing else: the kernel gives it no writable mapping.
        regions = [
            engine.register(cache, access="r", label="kv"),
            engine.register(scratch, access="r", label="scratch"),
        ]
        pipe.send(engine.grant(regions=regions, access="r").export())
        pipe.recv()  # decode is done


def main() -> None:
    # 'spawn', because an engine does not survive a fork.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=prefill, args=(theirs,))
    worker.start()
    key = secrets.token_bytes(32)
    ours.send(key)
    with tent.Engine(key=key, name="decode") as engine:
        segment = engine.open_segment(ours.recv())
        memory = engine.alloc(BLOCK * BLOCKS)
        local = engine.register(memory, access="")

        # All blocks in one call, as columns: block i of theirs becomes block i of ours.
        offsets = np.arange(BLOCKS, dtype=np.uint64) * BLOCK
        for turn in ("first", "second"):
            begin = time.perf_counter()
            with engine.submit(
                segment, op="read", local=(local, offsets), remote=("kv", offsets), length=BLOCK
            ) as batch:
                batch.wait(timeout=30)
            rate = BLOCK * BLOCKS / (time.perf_counter() - begin) / 1e9
            print(f"{turn} time: {BLOCKS} blocks of {BLOCK >> 10} KiB at {rate:.1f} GB/s")

        # Asked for each of their regions: which way do its bytes take?
        for label in ("kv", "scratch"):
            told = engine.explain(segment, op="read", length=BLOCK, remote=label)
            chosen = told.candidates[told.winner]
            print(f"{label} is fetched over {chosen.transport}: {chosen.via}")

        expected = np.random.default_rng(1).integers(0, 256, (BLOCKS, BLOCK), dtype=np.uint8)
        assert np.array_equal(memory.numpy().reshape(BLOCKS, BLOCK), expected)
        try:
            engine.write(segment, local=local, remote="kv", length=BLOCK)
        except tent.TentError as error:
            print(f"a write is refused as it should be: {error}")
        ours.send("done")
    worker.join(30)
    assert worker.exitcode == 0


if __name__ == "__main__":
    main()
