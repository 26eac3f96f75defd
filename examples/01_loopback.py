"""Two engines in one process: register, open, write, read back.

Run it: python 01_loopback.py
"""

import numpy as np

import tent

# Each engine listens on a free loopback port. Without a key, engines of the same user find each
# other by a key file that is made on first use; a real deployment gives key= or key_file=.
with tent.Engine(name="server") as server, tent.Engine(name="client") as client:
    # The server offers a million zeros under a label.
    offered = server.alloc(1_000_000)
    server.register(offered, label="weights")

    # The client opens the server's memory by its address and sees what is there.
    segment = client.open_segment(server.address)
    for region in segment.regions:
        print(f"{region.label}: {region.length} bytes, peers may {region.access!r}")

    # Any buffer can be registered: numpy arrays, bytearrays, memory maps, host tensors.
    source = np.random.default_rng(0).integers(0, 256, 1_000_000, dtype=np.uint8)
    local = client.register(source)
    client.write(segment, local=local, remote="weights")
    assert np.array_equal(offered.numpy(), source)

    # Pieces are named by slices here and by offsets there.
    back = np.zeros(1000, dtype=np.uint8)
    client.register(back)
    client.read(segment, local=back, remote=("weights", 5000))
    assert np.array_equal(back, source[5000:6000])

    # Thousands of requests go in one call, as columns.
    starts = np.arange(0, 1_000_000, 1000, dtype=np.uint64)
    with client.submit(
        segment, op="write", local=(local, starts), remote=("weights", starts[::-1]), length=1000
    ) as batch:
        batch.wait(timeout=10)
    assert np.array_equal(offered.numpy().reshape(-1, 1000), source.reshape(-1, 1000)[::-1])
    print(f"{len(batch)} requests, {batch.status()['bytes'].sum()} bytes: all well")
