"""Two engines on a simulated fabric: a rail slows down, in virtual time. Needs the `test` extra."""

import numpy as np

from tent.testing import Fabric, Flapping

with Fabric(seed=1) as fabric:
    a, b = fabric.host("a"), fabric.host("b")
    for host in (a, b):
        host.rail("0", bandwidth=25e9, latency_ns=5000)
        host.rail("1", bandwidth=25e9, latency_ns=5000)

    initiator, target = fabric.engine(a), fabric.engine(b)
    there = target.alloc(16 << 20).numpy()
    target.register(there, label="cache")
    here = np.random.default_rng(1).integers(0, 256, 16 << 20, dtype=np.uint8)
    region = initiator.register(here)
    segment = fabric.connect(initiator, target)

    def write_ns() -> int:
        begin_ns = fabric.now_ns
        batch = initiator.submit(segment, op="write", local=region, remote="cache", length=16 << 20)
        fabric.run(batches=[batch])
        batch.wait()
        return fabric.now_ns - begin_ns

    print("two equal rails:", write_ns(), "ns")
    a.rails[1].set(bandwidth=Flapping(high=25e9, low=5e9, period_ns=1_000_000))
    print("one of them flapping:", write_ns(), "ns")
    b.rails[0].set(up=False)
    print("the other one down:", write_ns(), "ns")

    assert np.array_equal(here, there)
    capacity = a.rails[1].capacity(0, fabric.now_ns)
    print("rail a/1 sent", a.rails[1].counters.sent_bytes, "of", capacity, "bytes it could have")
