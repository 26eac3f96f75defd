"""A simulated fabric is freed once, and only when no engine is left on it."""

from __future__ import annotations

import pytest

from tent import Busy, Engine, InvalidArgument
from tent.testing.fixtures import KEY
from tent.testing.sim import Fabric
from tent.testing.sim_library import library


def open_alone(fabric: Fabric) -> Engine:
    """An engine that the fabric's object does not know of."""
    host = fabric.hosts[0]
    return Engine(
        manual=True,
        plan=fabric.plan(host),
        listen=f"sim://{host.address}",
        key=KEY,
        plugin_path=library().folder,
    )


def test_a_fabric_that_was_busy_can_be_closed_afterwards() -> None:
    fabric = Fabric()
    fabric.host("a").rail("0", bandwidth=1e9)
    engine = open_alone(fabric)
    with pytest.raises(Busy, match="engines are open"):
        fabric.close()
    engine.close()
    fabric.close()
    with pytest.raises(InvalidArgument, match="has no fabric"):
        open_alone(fabric)
    fabric.close()
