"""Plans for the rails of the rig, one side's or the other's.

Leans on the names that tests/rdma/rig/rails.sh gives. Every plan pins its transports: both engines
of a test are on one machine, where shared memory would win.
"""

from __future__ import annotations

from collections.abc import Mapping

# An emulated processor pauses for a good part of a second and nobody is at fault; and a shaped
# rail keeps packets longer than ibverbs' usual 67 ms without an acknowledgement.
PATIENT = {
    "deadline_floor": "400ms",
    "deadline_initial": "4s",
    "last_path_patience": "4s",
    "probe_timeout": "4s",
    "connect_timeout": "20s",
    "fence_timeout": "20s",
    "rdma.ack_timeout": "20",
}


def plan(
    side: str,
    *,
    rails: int = 2,
    tcp: bool = False,
    throttle: str = "",
    slice_size: str = "",
    settings: Mapping[str, str] | None = None,
) -> str:
    """rdma over that side's rails; tcp: behind it. throttle: of each rdma rail, by `fault`."""
    lines = ["plan 1", *(f"set {name}={value}" for name, value in (settings or {}).items())]
    word = f" fault.throttle={throttle}" if throttle else ""
    if throttle:
        lines.append("decorate rdma fault")
    lines += [f"rail {number} rdma rx{side}{number}{word}" for number in range(rails)]
    ladder = f"rdma[{' '.join(map(str, range(rails)))}]"
    if slice_size:
        ladder += f" slice={slice_size}"
    if tcp:
        lines.append(f"rail {rails} tcp 127.0.0.1")
        ladder += f" ; tcp[{rails}]"
    return "\n".join([*lines, f"route * : {ladder}"]) + "\n"
