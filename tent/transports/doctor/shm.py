"""Checks of shared memory: who may attach to whom, which peers are met, where sockets are kept.

Nothing here asks how large /dev/shm is: what peers map are memory files (memfd), which count
against the memory of their cgroup and not against that file system.
"""

from __future__ import annotations

from collections.abc import Iterator

from tent.transports.doctor.finding import Case, Finding, in_container, listed, sysctl

_TWICE = "memory that engine.alloc() did not make is copied twice, through a ring, instead of once"


def ptrace(case: Case) -> Iterator[Finding]:
    """Cross-memory attach needs the right to trace the peer."""
    scope = case.topology.limits.ptrace_scope
    if not scope or not _usable(case):
        return
    if scope < 3 and case.able("CAP_SYS_PTRACE"):
        return
    means = {
        1: "only parents may attach to their children",
        2: "only processes with CAP_SYS_PTRACE may attach",
    }.get(scope, "nobody may attach, and only a restart can change that")
    fix = sysctl(case, "kernel.yama.ptrace_scope=0")
    if scope >= 3:
        fix = (fix[1], "then restart the machine: 3 cannot be lowered while it runs")
    else:
        fix += in_container(
            case,
            run="--cap-add SYS_PTRACE",
            pod='or add "SYS_PTRACE" to securityContext.capabilities.add of the container',
        )
    yield Finding(
        "advice",
        "shm",
        "ptrace scope",
        f"kernel.yama.ptrace_scope is {scope}: {means}",
        f"{_TWICE}; memory of engine.alloc() is mapped all the same",
        fix,
    )


def namespaces(case: Case) -> Iterator[Finding]:
    """What a container does not share with others on the machine."""
    own = case.surroundings.own_namespaces
    names = [name for name in ("ipc", "pid", "user") if name in own]
    if not names or not _usable(case):
        return
    costs = {
        "ipc": "engines outside meet it only where both have one /dev/shm, or another common "
        "folder (set shm.directory); else tcp carries what goes to them",
        "pid": f"between it and them {_TWICE}",
        "user": "users have other numbers in it: unless its own is the same outside, engines there "
        "count as other users and are not let in",
    }
    yield Finding(
        "note",
        "shm",
        "namespaces",
        f"this process has its own {listed(names)} namespace{'s' if len(names) > 1 else ''}",
        "; ".join(costs[name] for name in names),
        in_container(case, run=" ".join(_shared(case, name) for name in names), pod=_POD)
        or (
            "start engines that shall meet in common namespaces: nsenter -t PID "
            + " ".join(f"--{name}" for name in names),
        ),
    )


def _shared(case: Case, name: str) -> str:
    if name != "user":
        return f"--{name}=host"
    # Without root podman is in a user namespace of its own whatever it is told.
    return "--userns=keep-id" if case.container == "podman" else "--userns=host"


_POD = (
    "containers of one pod: set shareProcessNamespace: true and mount one emptyDir at /dev/shm in "
    "each; pods of one node: hostIPC, hostPID and hostUsers: true"
)


def folder(case: Case) -> Iterator[Finding]:
    """The first choice for the sockets over which processes meet."""
    trouble = case.surroundings.shm_trouble
    if not trouble or not _usable(case):
        return
    yield Finding(
        "note",
        "shm",
        "/dev/shm",
        trouble,
        "engines keep their sockets in $XDG_RUNTIME_DIR or /tmp instead, which containers seldom "
        "have in common",
        in_container(
            case,
            run="--ipc=shareable",
            pod="mount an emptyDir with medium: Memory at /dev/shm",
        )
        or ("mkdir -p /dev/shm && mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm",),
    )


CHECKS = (ptrace, namespaces, folder)


def _usable(case: Case) -> bool:
    """Where it is not, that is said already, with the reason."""
    shm = case.catalog.find("shm")
    return shm is not None and shm.available
