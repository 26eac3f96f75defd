"""The tcp transport conforms: over two rails, and over one rail of three connections."""

from tent import Rail, spread
from tent.testing import Quirks, TransportConformance


def plan(rails: int, *, connections: int = 1, throttle: str | None = None) -> str:
    options = {} if throttle is None else {"fault.throttle": throttle}
    return spread(
        "tcp",
        [Rail("tcp", f"127.0.0.{n + 1}", gbps=10.0, options=options) for n in range(rails)],
        settings={"tcp.connections": connections},
        decorations={} if throttle is None else {"tcp": "fault"},
    ).render()


class TestTcp(TransportConformance):
    quirks = Quirks(plan=plan(2), slow_plan=plan(2, throttle="32mbit"), rails=2)


class TestTcpOfManyConnections(TransportConformance):
    quirks = Quirks(
        plan=plan(1, connections=3),
        slow_plan=plan(1, connections=3, throttle="64mbit"),
        rails=1,
    )
