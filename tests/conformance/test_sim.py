"""The sim transport conforms, in real time: threaded engines, sockets for control."""

from __future__ import annotations

from tent.testing import Fabric, Quirks, TransportConformance

# Lasts as long as this module; engines of either plan reach one another.
FABRIC = Fabric()


def plan_of_host(name: str, *, bandwidth: float) -> str:
    host = FABRIC.host(name)
    for rail in ("0", "1"):
        host.rail(rail, bandwidth=bandwidth, latency_ns=20_000)
    return FABRIC.plan(host, settings={"slice_size": "256k"})


class TestSim(TransportConformance):
    quirks = Quirks(
        plan=plan_of_host("fast", bandwidth=2e9),
        slow_plan=plan_of_host("slow", bandwidth=4e6),
        rails=2,
    )
