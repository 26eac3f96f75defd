"""A rail falls silent in mid-transfer and heals: what an application sees of it, and what not.

Run it: python 04_failover.py
"""

import time

import numpy as np

import tent

SIZE = 192 << 20
TICK_S = 0.1

# Two rails of 1 Gbit/s. The second one swallows everything, silently, once it has carried 24 MiB,
# and works again 400 ms later. The fault plugin does that at the sender; nobody tells the engine.
RAILS = "rail 0 tcp 127.0.0.1{0}\nrail 1 tcp 127.0.0.2{1}\nroute * : tcp[0 1] slice=256k\n"
WHOLE = "plan 1\n" + RAILS.format("", "")
BREAKING = "plan 1\ndecorate tcp fault\n" + RAILS.format(
    " gbps=1 fault.throttle=1gbit",
    " gbps=1 fault.throttle=1gbit fault.cut_after=24m fault.cut=hang fault.cut_for=400ms",
)

with (
    tent.Engine(name="target", plan=WHOLE) as target,
    tent.Engine(name="initiator", plan=BREAKING) as initiator,
):
    there = target.alloc(SIZE).numpy()
    target.register(there, label="cache")
    here = np.random.default_rng(1).integers(0, 256, SIZE, dtype=np.uint8)
    local = initiator.register(here)
    segment = initiator.open_segment(target.address)
    initiator.events()  # takes what was told so far
    begin_ns = tent.now_ns()

    # One request; it has two seconds and a half.
    with initiator.submit(
        segment, op="write", local=local, remote="cache", length=SIZE, deadline=2.5
    ) as batch:
        before = [0, 0]
        while not batch.done:
            time.sleep(TICK_S)
            moved = [rail.bytes_written for rail in initiator.counters().rails]
            rates = [(now - was) / TICK_S / 1e6 for now, was in zip(moved, before, strict=True)]
            bars = "   ".join(f"rail {n} {'#' * round(r / 8):17}" for n, r in enumerate(rates))
            print(f"{(tent.now_ns() - begin_ns) / 1e6:5.0f} ms   {bars}")
            before = moved
        batch.wait()  # raises what went wrong: nothing did

    assert np.array_equal(here, there)
    retried = initiator.counters().engine.slices_retried
    print(f"{SIZE >> 20} MiB arrived, every byte of them; {retried} slices took another way")
    assert retried > 0
    # Beside these: when it was suspect, and when it carried slices again.
    told = (tent.EventType.ENDPOINT_FAILED, tent.EventType.FENCED, tent.EventType.ENDPOINT_READY)
    for event in (event for event in initiator.events() if event.type in told):
        print(f"{(event.time_ns - begin_ns) / 1e6:5.0f} ms   {event.text}")
