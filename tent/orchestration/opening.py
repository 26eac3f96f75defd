"""What an engine is opened with: arguments, over the policy, over what was always so.

Leans on the planner. An engine is *steered* when a policy makes its plans: one was given, the
environment has a word in it, or the engine listens to other machines and was given no plan. Else it
has the plan it was given, or a plain one for this machine alone, shared memory and behind it a
loopback rail, and looks at nothing.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tent import _abi
from tent.errors import InvalidArgument, PluginError
from tent.orchestration.plan import Plan, Rail, Route, Rung

if TYPE_CHECKING:
    from tent.orchestration.planner import Planner
    from tent.orchestration.policy.model import Policy


# Of the environment: with one of them set, an engine without a plan is steered. Equal to what
# policy/environment reads, which costs too much to import for engines that are not.
VARIABLES = (
    "TENT_POLICY",
    "TENT_TRANSPORTS",
    "TENT_RAILS",
    "TENT_RAILS_EXCLUDE",
    "TENT_LISTEN",
    "TENT_NAME",
    "TENT_REGISTRY",
)
PathList = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
_ADDRESS = re.compile(r"(?:[^\s:/]+|\[[0-9A-Fa-f:.%]+[^\]]*\]):\d{1,5}|[a-z][a-z0-9_-]*://\S+")
_RAIL_TRANSPORT = re.compile(r"^\s*rail\s+\S+\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class RegistryWish:
    """Where names are kept, and how it is reached."""

    url: str
    options: Mapping[str, Any]
    lease_s: float | None = None


@dataclass(frozen=True)
class Opening:
    """Arguments of the native engine, and who makes its plans from now on."""

    texts: dict[str, str | None]
    numbers: dict[str, int]
    planner: Planner | None = None
    """None: the plan is the user's own."""
    registry: RegistryWish | None = None
    """None: peers are found by address alone."""


def settle(
    *,
    texts: Mapping[str, str | None],
    numbers: Mapping[str, int],
    plan: str | Plan | None,
    policy: str | os.PathLike[str] | Policy | None,
    plugin_path: PathList,
    has_key: bool,
    manual: bool,
) -> Opening:
    """Decides by what the engine runs, and makes its first plan if that is ours to make.

    texts: name, listen, advertise, key_file as given; numbers: the limits. Raises PolicyError,
    TopologyError, or InvalidArgument when both a plan and a policy were given.
    """
    if plan is not None and policy is not None:
        raise InvalidArgument(
            "plan and policy are both given: a plan is used as it is, a policy makes one; leave "
            "one of them out"
        )
    path = path_list(plugin_path)
    text = plan.render() if isinstance(plan, Plan) else plan
    steered = policy is not None or (text is None and not manual and _asked_for(texts["listen"]))
    if not steered:
        if text is not None and _has_strangers(text):
            path = _with_entry_points(path)
        if text is None and not manual:
            text = _plain_plan(texts["listen"], path)
        return Opening(texts={**texts, "plan": text, "plugin_path": path}, numbers={**numbers})
    return _steered(texts, numbers, policy, path, has_key=has_key)


def _steered(
    texts: Mapping[str, str | None],
    numbers: Mapping[str, int],
    policy: str | os.PathLike[str] | Policy | None,
    path: str | None,
    *,
    has_key: bool,
) -> Opening:
    # Here, so that an engine with a plan of its own pays for none of this.
    from tent.orchestration.planner import Planner

    planner = Planner(policy, plugin_path=path)
    engine = planner.policy.engine
    wishes = {
        "name": engine.name,
        "listen": engine.listen,
        "advertise": engine.advertise,
        "key_file": None if has_key else planner.policy.security.key_file,
    }
    merged = {name: texts[name] or wishes[name] for name in wishes}
    limits = {**engine.limits}
    if engine.spin_ns is not None:
        limits["spin_ns"] = engine.spin_ns
    if engine.workers is not None:
        limits["workers"] = engine.workers
    plan = planner.first(reach="loopback" if is_loopback(merged["listen"]) else "all")
    return Opening(
        texts={**merged, "plan": plan, "plugin_path": _with_entry_points(path)},
        numbers={**limits, **{name: value for name, value in numbers.items() if value}},
        planner=planner,
        registry=_registry_of(planner.policy),
    )


def _registry_of(policy: Policy) -> RegistryWish | None:
    """None for p2p without names: addresses are all it knows."""
    wish = policy.registry
    if wish.url == "p2p" and not wish.peers:
        return None
    options: dict[str, Any] = dict(wish.options)
    if wish.peers:
        options["peers"] = wish.peers
    return RegistryWish(wish.url, options, wish.lease_s)


def is_loopback(listen: str | None) -> bool:
    """Whether an engine that listens there is seen by this machine only."""
    if listen is None:
        return True
    if listen == "none":
        return False
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_address(peer: str) -> bool:
    """Whether the text is "host:port", which needs no registry."""
    return _ADDRESS.fullmatch(peer) is not None


def path_list(path: PathList) -> str | None:
    """Folders as the native library takes them, ":" between."""
    if path is None or isinstance(path, str):
        return path
    if isinstance(path, os.PathLike):
        return os.fspath(path)
    return ":".join(os.fspath(entry) for entry in path)


def _asked_for(listen: str | None) -> bool:
    if any(os.environ.get(name) for name in VARIABLES):
        return True
    # Control messages over a transport, as in "sim://host:port", are no address of a machine.
    return not is_loopback(listen) and listen != "none" and "://" not in (listen or "")


def _plain_plan(listen: str | None, path: str | None) -> str | None:
    """For an engine that only this machine can see; None: the native default, one tcp rail.

    The compiler of policies makes the same rows; but it reads the machine, which a first engine
    need not pay for.
    """
    if "://" in (listen or ""):
        return None
    try:
        devices = [str(rail["device"]) for rail in _abi.transport_rails(path or "", "shm")]
    except PluginError:  # no plugin, or the kernel refuses what it needs; tent transports says why
        return None
    host = "" if listen is None else listen.rpartition(":")[0].strip("[]")
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:  # a name of this machine, or none
        address = "127.0.0.1"
    if not devices:
        return None
    return Plan(
        rails=[Rail("shm", devices[0]), Rail("tcp", address)],
        routes=[Route(ladder=[Rung("shm", [[0]]), Rung("tcp", [[1]])])],
    ).render()


def _has_strangers(plan: str) -> bool:
    """Whether it names transports whose plugins are not the package's own."""
    installed = Path(__file__).resolve().parent.parent / "lib" / "plugins"
    names = set(_RAIL_TRANSPORT.findall(plan))
    return any(not (installed / f"libtent_plugin_{name}.so").exists() for name in names)


def _with_entry_points(path: str | None) -> str | None:
    from tent.transports.catalog import plugin_path_with_entry_points

    return plugin_path_with_entry_points(path) or None
