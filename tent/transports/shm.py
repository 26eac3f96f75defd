"""The rail of the shm transport: one, for all memory that processes of this machine share.

Leans on the topology's model. There is no device behind it and no distance: it is as near to one
memory as to another. Whether the kernel grants what it needs is the plugin's word (`available`),
and which of its ways serves a pair of processes is proven when they meet. It must never look at the
machine.
"""

from __future__ import annotations

from tent.topology.model import Topology
from tent.transports.model import RailOffer

TRANSPORT = "shm"
DEVICE = "host"
_KERNEL_LEAST = (5, 1)
"""The first whose memory files can be sealed against writing by others (F_SEAL_FUTURE_WRITE)."""


def shm_offers(topology: Topology) -> tuple[RailOffer, ...]:
    """Its one rail; not usable where the machine's kernel is known to be too old for it."""
    kernel = _version(topology.host.kernel)
    trouble = ""
    if kernel is not None and kernel < _KERNEL_LEAST:
        least = ".".join(map(str, _KERNEL_LEAST))
        trouble = (
            f"kernel {topology.host.kernel} cannot seal memory files against writing "
            f"(F_SEAL_FUTURE_WRITE): {least} is the first that can"
        )
    return (
        RailOffer(
            transport=TRANSPORT,
            device=DEVICE,
            usable=not trouble,
            why=trouble or "reaches this machine only",
            loopback=True,
        ),
    )


def _version(kernel: str) -> tuple[int, int] | None:
    """Of "6.8.0-45-generic"; None: not known."""
    words = kernel.split(".")
    if len(words) < 2 or not (words[0].isdecimal() and words[1].isdecimal()):
        return None
    return int(words[0]), int(words[1])
