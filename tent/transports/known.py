"""The transports that TENT knows by name: their order for `auto`, and what they need.

Leans on the model. Other transports come from plugins and need no entry here. It must never look at
the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from tent.transports.model import Memory


@dataclass(frozen=True)
class Known:
    """A transport of the house, whether its plugin is here or not."""

    name: str
    memory: Memory
    summary: str
    needs: str
    """What a machine must have for it, for the sentence that says why it is not available."""
    absent: str = ""
    """How an installation comes to lack its plugin, and what mends that."""


_HOST_AND_CUDA = Memory.HOST | Memory.CUDA
_KNOWN = (
    Known(
        name="cuda",
        memory=_HOST_AND_CUDA,
        summary="copies between GPUs of one machine, and between them and host memory",
        needs="NVIDIA GPUs with their driver (libcuda.so.1)",
    ),
    Known(
        name="shm",
        memory=Memory.HOST,
        summary="copies between processes of one machine",
        needs="Linux 5.1 or newer (sealed memory files) and a folder for its Unix sockets",
    ),
    Known(
        name="rdma",
        memory=_HOST_AND_CUDA,
        summary="RDMA over InfiniBand and RoCE",
        needs="RDMA adapters, /dev/infiniband and libibverbs.so.1",
        absent="TENT was built without the headers of libibverbs: apt-get install libibverbs-dev "
        "(Debian, Ubuntu) or dnf install rdma-core-devel (Fedora, RHEL), then install TENT again",
    ),
    Known(
        name="tcp",
        memory=Memory.HOST,
        summary="TCP sockets over any IP network",
        needs="a network device with an IP address",
    ),
    Known(
        name="file",
        memory=Memory.HOST | Memory.FILE,
        summary="reads and writes files",
        needs="a mounted file system",
    ),
)


def known_transports() -> tuple[Known, ...]:
    """In the order in which `auto` prefers them."""
    return _KNOWN


def without_plugin(known: Known, missing: str) -> str:
    """Why it is not available. missing: where its plugin was looked for."""
    words = (missing, known.absent, f"it needs {known.needs}")
    return "; ".join(word for word in words if word)


def rank(name: str, *, auto: bool = True) -> tuple[int, int, str]:
    """Sort key of a catalog: cuda, shm, rdma, tcp, then all others by name, those for tests last.

    The first four by speed where several can do the work: a copy engine, the processor's copy,
    an adapter's, a socket's.
    """
    names = [known.name for known in _KNOWN if known.name != "file"]
    return (0 if auto else 1, names.index(name) if name in names else len(names), name)
