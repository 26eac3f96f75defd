"""The README's example: one write between two engines of this process, verified."""

import numpy as np

import tent

with tent.Engine(name="target") as target, tent.Engine(name="initiator") as initiator:
    there = np.zeros(1 << 20, dtype=np.uint8)
    here = np.random.default_rng(1).integers(0, 256, 1 << 20, dtype=np.uint8)
    target.register(there, label="cache")
    region = initiator.register(here)

    segment = initiator.open_segment(target.address)
    initiator.write(segment, local=region, remote="cache")

    assert np.array_equal(here, there)
    print(initiator.counters().engine.bytes_written, "bytes written and verified")
