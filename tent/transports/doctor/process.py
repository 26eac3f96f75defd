"""Checks of what this process may do: pinning, files, huge pages, CPUs, the key."""

from __future__ import annotations

from collections.abc import Iterator

from tent.topology.render.text import size
from tent.transports.doctor.finding import Case, Finding, in_container, quoted, sysctl

MEMLOCK_LEAST = 1 << 30
"""Less than this pins no key-value cache worth a transfer."""
FILES_LEAST = 1024
WORKERS = 1
"""Threads of an engine that moves data, by default."""


def memlock(case: Case) -> Iterator[Finding]:
    """RDMA pins what it moves; the limit counts all of it together."""
    limits = case.topology.limits
    limit = limits.memlock_bytes
    if not case.topology.rdma or not limits.memlock_known or limit is None:
        return
    if case.able("CAP_IPC_LOCK"):
        return
    grave = limit < MEMLOCK_LEAST
    yield Finding(
        "problem" if grave else "advice",
        "rdma",
        "memlock",
        f"this process may pin {size(limit)} only",
        "registering more memory than that for RDMA fails",
        in_container(
            case,
            run="--ulimit memlock=-1",
            pod='add "IPC_LOCK" to securityContext.capabilities.add of the container',
        )
        or (
            "ulimit -l unlimited   # this shell, as far as its hard limit allows",
            "printf '%s\\n' '* - memlock unlimited' > /etc/security/limits.d/90-tent.conf"
            "   # then log in anew",
            "LimitMEMLOCK=infinity   # in [Service] of a systemd unit",
        ),
    )


def open_files(case: Case) -> Iterator[Finding]:
    """Each connection is a descriptor."""
    limit = case.topology.limits.open_files
    if limit is None or limit >= FILES_LEAST:
        return
    count = 1 << 16
    yield Finding(
        "advice",
        "tcp",
        "open files",
        f"this process may open {limit} files only",
        "every peer takes two sockets and more for each pair of rails",
        in_container(
            case,
            run=f"--ulimit nofile={count}",
            pod="raise LimitNOFILE of the node's container runtime",
        )
        or (
            f"ulimit -n {count}   # this shell, as far as its hard limit allows",
            f"LimitNOFILE={count}   # in [Service] of a systemd unit",
        ),
    )


def huge_pages(case: Case) -> Iterator[Finding]:
    """Large registrations are cheaper with them."""
    pages = case.topology.limits.huge_pages
    if not case.topology.rdma or not pages or any(page.total for page in pages):
        return
    yield Finding(
        "note",
        "rdma",
        "huge pages",
        "no huge pages are set aside",
        "a NIC keeps an address for each page: with large ones it registers and misses less",
        sysctl(case, "vm.nr_hugepages=1024"),
    )


def cpus(case: Case) -> Iterator[Finding]:
    """A worker that is throttled stalls every transfer."""
    quota = case.topology.limits.cgroup_cpus
    need = WORKERS + 1
    if quota is None or quota >= need:
        return
    yield Finding(
        "advice",
        "",
        "CPUs",
        f"its cgroup gives this process {quota:g} CPUs; a worker and its user want {need}",
        "a throttled worker stands still for tens of milliseconds, which looks like a bad rail",
        in_container(
            case,
            run=f"--cpus={need}",
            pod=f'raise resources.limits.cpu of the container to "{need}" or more',
        )
        or ("raise CPUQuota= of its systemd unit to 200% or more",),
    )


def balancing(case: Case) -> Iterator[Finding]:
    """The kernel unmaps pages to see who uses them."""
    if not case.surroundings.numa_balancing or not case.several_nodes:
        return
    yield Finding(
        "advice",
        "",
        "NUMA balancing",
        "the kernel moves memory between nodes by itself",
        "buffers that are not pinned wander away from their NIC, and each look costs page faults",
        sysctl(case, "kernel.numa_balancing=0"),
    )


def key(case: Case) -> Iterator[Finding]:
    """Beyond loopback engines talk only with a key."""
    around = case.surroundings
    if not around.live:
        return
    name = around.variables.get("TENT_KEY_FILE", "")
    make = "(umask 077; head -c 32 /dev/urandom | base64 > tent.key)   # one for all machines"
    if name and around.key_trouble:
        mend = (make,)
        if "mode" in around.key_trouble:
            mend = (f"chmod 600 -- {quoted(name)}",)
        yield Finding(
            "problem",
            "",
            "key",
            f"the key file {name} cannot be used: {around.key_trouble}",
            "no engine opens that takes its key from TENT_KEY_FILE",
            mend,
        )
    elif not name:
        listen = around.variables.get("TENT_LISTEN", "")
        beyond = bool(listen) and not _loopback(listen)
        yield Finding(
            "problem" if beyond else "note",
            "",
            "key",
            "TENT_KEY_FILE is not set"
            + (f", and TENT_LISTEN={listen} asks to be seen by others" if beyond else ""),
            "an engine that listens beyond loopback needs a key from there, or from its caller",
            (make, 'export TENT_KEY_FILE="$PWD/tent.key"'),
        )


CHECKS = (memlock, open_files, huge_pages, cpus, balancing, key)


def _loopback(listen: str) -> bool:
    host = listen.rpartition("://")[2].rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")
