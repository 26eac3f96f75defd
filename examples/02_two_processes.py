"""Two processes over four loopback rails: the descriptor travels by a pipe, the data by TENT.

Run it: python 02_two_processes.py
"""

import multiprocessing
import secrets
from multiprocessing.connection import Connection

import numpy as np

import tent

SIZE = 64 << 20
PLAN = tent.spread("tcp", [tent.Rail("tcp", f"127.0.0.{n}") for n in (1, 2, 3, 4)])


def serve(pipe: Connection) -> None:
    """The process that owns the memory."""
    with tent.Engine(plan=PLAN, key=pipe.recv(), name="owner") as engine:
        memory = engine.alloc(SIZE)
        region = engine.register(memory, label="cache")
        # Whoever holds these bytes, and the key, may write this region for as long as the grant
        # stands.
        grant = engine.grant(regions=[region], access="w")
        pipe.send(grant.export())
        # A notice is visible after the data it came with.
        notice = engine.next_notice(timeout=30)
        assert notice is not None
        print(f"owner: {notice.sender} says {notice.data.decode()!r}")
        grant.revoke()
        pipe.send(int(memory.numpy().sum(dtype=np.uint64)))


def main() -> None:
    # 'spawn', because an engine does not survive a fork.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    owner = context.Process(target=serve, args=(theirs,))
    owner.start()
    key = secrets.token_bytes(32)
    ours.send(key)
    with tent.Engine(plan=PLAN, key=key, name="writer") as engine:
        data = np.random.default_rng().integers(0, 256, SIZE, dtype=np.uint8)
        segment = engine.open_segment(ours.recv())
        local = engine.register(data)
        engine.write(segment, local=local, remote="cache", notice=b"it is all there")
        assert ours.recv() == int(data.sum(dtype=np.uint64))
        for rail in engine.counters().rails:
            print(f"writer: {rail.name} carried {rail.bytes_written >> 20} MiB")
        try:
            engine.read(segment, local=data, remote="cache")
        except tent.TentError as error:
            print(f"writer: a read is refused as it should be: {error}")
    owner.join(30)
    assert owner.exitcode == 0


if __name__ == "__main__":
    main()
