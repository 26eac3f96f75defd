"""Processes that share memory with one another, and plans of the shm transport, for its tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peers import KEY, Peer, peer_process

MIB = 1 << 20
SCRIPT = Path(__file__).with_name("shm_peer.py")
# Way: what `tent explain` says of it begins so, the memory that it is tested with, settings.
WAYS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mapped": ("mapped", "shared", {}),
    "attach": ("process_vm", "private", {}),
    "ring": ("ring", "shared", {"mapped": "no", "attach": "no"}),
}
# Of a core that need not wait long for a peer that is gone.
PATIENCE = {"fence_timeout": "500ms", "connect_timeout": "2s"}


def plan(
    *, throttle: str | None = None, tcp: bool = False, core: dict[str, str] | None = None,
    faults: str = "", **settings: str,
) -> str:  # fmt: skip
    """One shm rail; faults: more options of it; tcp: another rung behind it; core: other `set`
    lines than those of shm."""
    lines = ["plan 1"]
    lines += [f"set {name}={value}" for name, value in {**PATIENCE, **(core or {})}.items()]
    lines += [f"set shm.{name}={value}" for name, value in settings.items()]
    if throttle is not None:
        faults += f" fault.throttle={throttle}"
    if faults:
        lines.append("decorate shm fault")
    lines.append(f"rail 0 shm host {faults}".rstrip())
    if tcp:
        lines.append("rail 1 tcp 127.0.0.1")
    lines.append("route * : shm[0]" + (" ; tcp[1]" if tcp else ""))
    return "\n".join(lines) + "\n"


def way_plan(way: str, *, throttle: str | None = None, **settings: str) -> str:
    return plan(throttle=throttle, **{**WAYS[way][2], **settings})


class ActorFailed(AssertionError):
    """The other process could not do what it was told; `name` is the type of its error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Actor(Peer):
    """Another process with an engine; see shm_peer.py for what it can do."""

    def ask(self, do: str, **values: Any) -> Any:
        told = super().ask(do, **values)
        if "error" in told:
            raise ActorFailed(told["error"], told["text"])
        return told


@contextmanager
def actor(
    text: str,
    *,
    size: int = MIB,
    memory: str = "shared",
    access: str = "rw",
    listen: str = "127.0.0.1:0",
    prefix: Sequence[str] = (),
) -> Iterator[Actor]:
    """memory: "shared" (engine.alloc's), "read only" (its, so for peers for good), "private"."""
    with peer_process(
        text=text, size=size, listen=listen, key=KEY, prefix=prefix, script=SCRIPT,
        memory=memory, access=access, kind=Actor,
    ) as made:  # fmt: skip
        assert isinstance(made, Actor)
        yield made
