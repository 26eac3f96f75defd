"""Fault plans as data: a world, a workload in it, and what goes wrong when. From YAML and back.

The same plan drives the simulated fabric (`tent chaos --sim --plan FILE`) and real processes over
real rails (`tent chaos --real FILE`). Leans on PyYAML and tent.errors only; it does nothing itself.
Must never guess: an unknown key, a missing one or a wrong value is an error that names the file,
the line, the key and what was expected.

    name: one of two rails falls silent
    seed: 7
    world:
      hosts:
        - name: a
          rails: [{name: "0", bandwidth: 1600mbit}, {name: "1", bandwidth: 1600mbit, latency: 50us}]
        - name: b
          rails: [{name: "0", bandwidth: 1600mbit}, {name: "1", bandwidth: 1600mbit}]
      settings: {fence_timeout: 100ms}         # `set` lines of every engine's plan
    workload:
      {initiators: [a], targets: [b], region: 1m, size_min: 4k, size_max: 512k, total: 64m}
    faults:
      - {at: 5ms, do: black_hole, rail: a/0, for: 40ms}
      - {at: 33%+2ms, do: kill, host: b}       # 2 ms after a third of `total` has ended

Durations have a unit (ns, us, ms, s), sizes a binary one (k, m, g, t) or none, bandwidths kbit,
mbit or gbit (decimal, per second) or none (bytes per second), chances lie in 0..1. A fault with
`for` is taken back after that time. `Fault`, `Workload` and `Rail` say what each key means;
ACTIONS says what each action is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from tent.errors import InvalidArgument

PLAN_BYTES_MAX = 1 << 20

_DURATIONS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_RATES = {"": 8, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([a-z]*)")


class FaultPlanError(InvalidArgument):
    """A fault plan has a mistake; the sentence says where and what was expected."""


def _key(kind: str, default: Any = MISSING) -> Any:
    """A field that stands in the plan; kind: how its value is written."""
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class Action:
    """What an action acts on ("rail" or "host"), which keys it needs and which it may have."""

    target: str
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


# `heal` ends every other fault of its rail. A frozen process holds its sockets and answers nothing
# (SIGSTOP); a killed one is gone and its connections with it (SIGKILL); of a host without power
# nothing comes any more, not even the news. `restart` starts a killed process on the same address.
# cancel and release act in the engine of the host: all batches in flight; a region, registered anew
# at once. revoke ends the grants that the host's peers hold; they open it anew.
ACTIONS: Mapping[str, Action] = {
    "link_down": Action("rail", may=("for",)),
    "link_up": Action("rail"),
    "black_hole": Action("rail", may=("for",)),
    "heal": Action("rail"),
    "rate": Action("rail", needs=("bandwidth",), may=("for",)),
    "flap": Action("rail", needs=("period", "for"), may=("silent",)),
    "lossy": Action("rail", needs=("chance",), may=("for",)),
    "late": Action("rail", needs=("chance", "late_by"), may=("for",)),
    "duplicate": Action("rail", needs=("chance", "late_by"), may=("for",)),
    "corrupt": Action("rail", needs=("chance",), may=("for",)),
    "kill": Action("host"),
    "power_off": Action("host"),
    "restart": Action("host"),
    "freeze": Action("host", may=("for",)),
    "thaw": Action("host"),
    "listener_gone": Action("host", may=("for",)),
    "cancel": Action("host"),
    "revoke": Action("host"),
    "release": Action("host"),
}


SHM_WAYS = ("mapped", "attach", "ring")


@dataclass(frozen=True)
class Rail:
    """A rail of a host. Chances are per slice and exist on the simulated fabric only."""

    name: str = _key("name")
    bandwidth_bytes_per_s: int = _key("rate")
    latency_ns: int = _key("duration", 5_000)
    jitter_ns: int = _key("duration", 0)
    loss: float = _key("chance", 0.0)  # of a slice: lands nowhere, never completes
    late: float = _key("chance", 0.0)  # lands late_by later
    duplicate: float = _key("chance", 0.0)  # a write lands again, late_by later
    corrupt: float = _key("chance", 0.0)  # one bit flips
    late_by_ns: int = _key("duration", 0)  # of late and of duplicate
    down_detect_ns: int = _key("duration", 1_000_000)  # from link down to the endpoints' failure
    # 0: the first rung of the ladder; 1: another transport, which serves when the first cannot
    rung: int = _key("count", 0)


@dataclass(frozen=True)
class Host:
    """A machine with one engine."""

    name: str = _key("name")
    rails: tuple[Rail, ...] = _key("rails")


@dataclass(frozen=True)
class World:
    """The machines; settings: `set` lines of every engine's plan; limits: engine options.

    shm: the hosts are processes of one machine, which use shared memory first, without the ways
    that come before this one: "mapped", "attach" or "ring" (real processes only).
    """

    hosts: tuple[Host, ...] = _key("hosts")
    shm: str = _key("way", "")
    control_latency_ns: int = _key("duration", 5_000)
    control_break_ns: int = _key("duration", 1_000_000_000)
    settings: tuple[tuple[str, str], ...] = _key("words", ())
    limits: tuple[tuple[str, str], ...] = _key("words", ())


@dataclass(frozen=True)
class Workload:
    """What the engines of `initiators` ask of those of `targets`, drawn from the plan's seed.

    Every initiator keeps `batches` batches of up to `requests` requests in flight until total_bytes
    were asked for or time_ns is over (0: no such end, but one of them is needed).
    """

    initiators: tuple[str, ...] = _key("names")
    targets: tuple[str, ...] = _key("names")
    region_bytes: int = _key("size", 1 << 20)  # of each engine's memory; a request lies in it
    size_min: int = _key("size", 4 << 10)
    size_max: int = _key("size", 512 << 10)
    total_bytes: int = _key("size", 0)
    time_ns: int = _key("duration", 0)
    batches: int = _key("count", 4)
    requests: int = _key("count", 4)
    reads: float = _key("chance", 0.5)  # share of batches that read
    high: float = _key("chance", 0.0)  # share of class high
    low: float = _key("chance", 0.0)  # share of class low
    integrity: float = _key("chance", 0.0)  # share with checksums
    notices: float = _key("chance", 0.0)  # share sealed with a notice
    cancels: float = _key("chance", 0.0)  # share cancelled some time after their submit
    deadlines: float = _key("chance", 0.0)  # share with a deadline
    deadline_ns: int = _key("duration", 0)  # of those, after submit
    # share after which something forbidden is tried: an access outside of the grant, a release of
    # memory in use (simulated fabric only)
    mischief: float = _key("chance", 0.0)


@dataclass(frozen=True)
class Fault:
    """One thing that happens: at a time after the workload began, or at a share of its bytes."""

    at_ns: int = _key("moment")
    do: str = _key("action")
    rail: str = _key("word", "")  # "host/rail"
    host: str = _key("word", "")
    for_ns: int = _key("duration", 0)  # taken back after this time; 0: stays
    period_ns: int = _key("duration", 0)  # flap: half of it down, half up
    bandwidth_bytes_per_s: int = _key("rate", 0)  # rate
    chance: float = _key("chance", 0.0)  # lossy, late, duplicate, corrupt
    late_by_ns: int = _key("duration", 0)  # late, duplicate
    silent: bool = _key("switch", False)  # flap: black holes instead of link down
    # of total_bytes, from "at: 33%" or "at: 33%+2ms" (at_ns counts from there); below 0: none
    at_share: float = -1.0


@dataclass(frozen=True)
class FaultPlan:
    """A whole plan."""

    world: World = field(metadata={"kind": "world"})
    workload: Workload = field(metadata={"kind": "workload"})
    faults: tuple[Fault, ...] = _key("faults", ())
    name: str = _key("text", "unnamed")
    seed: int = _key("count", 1)

    def rail_names(self) -> list[str]:
        """ "host/rail" of all."""
        return [f"{host.name}/{rail.name}" for host in self.world.hosts for rail in host.rails]


def load(path: str | Path) -> FaultPlan:
    """The plan in a file. Raises FaultPlanError, or OSError."""
    with Path(path).open("rb") as file:
        data = file.read(PLAN_BYTES_MAX + 1)
    return parse(data.decode("utf-8", "replace"), source=str(path))


def parse(text: str, *, source: str = "plan") -> FaultPlan:
    """The plan that the YAML text says; source: its name in errors."""
    if len(text) > PLAN_BYTES_MAX:
        raise FaultPlanError(f"{source}: longer than {PLAN_BYTES_MAX} bytes; that is no fault plan")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark is not None else 1
        raise FaultPlanError(f"{source}:{line}: this is no YAML: {error.problem}") from error
    if root is None:
        raise FaultPlanError(f"{source}:1: the file is empty, expected world, workload, faults")
    plan: FaultPlan = _Reader(source).record(root, FaultPlan, "plan")
    return plan


def render(plan: FaultPlan) -> str:
    """The plan as YAML that `parse` reads back equal; defaults are left out."""
    document = yaml.safe_dump(_plain(plan), sort_keys=False, default_flow_style=None, width=100)
    return str(document)


# ---- reading


def _key_of(name: str) -> str:
    """The word in the plan of a field: its unit stands in the value."""
    for unit in ("_bytes_per_s", "_ns", "_bytes"):
        name = name.removesuffix(unit)
    return name


def _fields_of(kind: type) -> dict[str, Any]:
    """Key -> field."""
    return {_key_of(item.name): item for item in fields(kind) if "kind" in item.metadata}


class _Reader:
    """Walks YAML nodes, which know their lines."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, node: yaml.Node, what: str) -> FaultPlanError:
        return FaultPlanError(f"{self.source}:{node.start_mark.line + 1}: {what}")

    def record(self, node: yaml.Node, kind: type, where: str) -> Any:
        """A mapping as a dataclass."""
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"{where}: expected keys and values, not a list or a word")
        known = _fields_of(kind)
        values: dict[str, Any] = {}
        nodes: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key not in known:
                raise self.fail(
                    key_node, f"{where}: unknown key '{key}', expected one of {', '.join(known)}"
                )
            item = known[key]
            if item.name in values:
                raise self.fail(key_node, f"{where}: '{key}' is there twice")
            nodes[key] = value_node
            values[item.name] = self.value(value_node, item.metadata["kind"], f"{where}.{key}")
        missing = [key for key, item in known.items() if key not in nodes and _needed(item)]
        if missing:
            raise self.fail(node, f"{where}: the key '{missing[0]}' is missing")
        if kind is Fault:
            values.update(self.moment(nodes["at"], f"{where}.at"))
        made = kind(**values)
        for key, what in _mistakes(made):
            raise self.fail(nodes.get(key, node), f"{where}.{key}: {what}")
        return made

    def value(self, node: yaml.Node, kind: str, where: str) -> Any:
        lists: dict[str, type] = {"rails": Rail, "hosts": Host, "faults": Fault}
        records: dict[str, type] = {"world": World, "workload": Workload}
        if kind in lists:
            return tuple(
                self.record(child, lists[kind], f"{where}[{index}]")
                for index, child in enumerate(self.items(node, where))
            )
        if kind in records:
            return self.record(node, records[kind], where)
        if kind == "names":
            return tuple(self.word(child, where) for child in self.items(node, where))
        if kind == "words":
            if not isinstance(node, yaml.MappingNode):
                raise self.fail(node, f"{where}: expected names and values")
            return tuple((self.word(k, where), self.word(v, where)) for k, v in node.value)
        if kind == "moment":
            return 0  # `moment` reads it with what belongs to it
        text = self.word(node, where)
        parsers: dict[str, Callable[[str], Any]] = {
            "duration": duration_ns,
            "size": size_bytes,
            "rate": rate_bytes_per_s,
            "chance": _chance,
            "count": _count,
            "switch": _switch,
            "action": _action,
            "name": _name,
            "way": _way,
        }
        if kind not in parsers:
            return text
        try:
            return parsers[kind](text)
        except ValueError as error:
            raise self.fail(node, f"{where}: {error}") from None

    def items(self, node: yaml.Node, where: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.fail(node, f"{where}: expected a list")
        return list(node.value)

    def word(self, node: yaml.Node, where: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.fail(node, f"{where}: expected a single value")
        return str(node.value)

    def moment(self, node: yaml.Node, where: str) -> dict[str, Any]:
        text = self.word(node, where)
        try:
            if "%" not in text:
                return {"at_ns": duration_ns(text), "at_share": -1.0}
            share, plus, delay = text.partition("+")
            return {"at_ns": duration_ns(delay) if plus else 0, "at_share": _percent(share)}
        except ValueError as error:
            raise self.fail(
                node, f"{where}: {error}, or a share of the bytes as 33% or 33%+2ms"
            ) from None


def _needed(item: Any) -> bool:
    return item.default is MISSING


def _scaled(text: str, units: Mapping[str, int], what: str) -> int:
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r} is no {what}")
    whole, _, part = match[1].partition(".")
    scale: int = 10 ** len(part)
    return int(whole + part) * units[match[2]] // scale


def duration_ns(text: str) -> int:
    """ "250ms" -> nanoseconds; "0" needs no unit."""
    if text.strip() == "0":
        return 0
    return _scaled(text, _DURATIONS, "duration, expected one with a unit as 250us, 10ms, 1.5s")


def size_bytes(text: str) -> int:
    """ "64k" -> bytes."""
    return _scaled(text, _SIZES, "size, expected one as 4096, 64k, 1m")


def rate_bytes_per_s(text: str) -> int:
    """ "1600mbit" -> bytes per second."""
    return _scaled(text, _RATES, "bandwidth, expected one as 1600mbit, 25gbit or bytes/s") // 8


def _chance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{text!r} is no chance, expected a number from 0 to 1")
    return value


def _percent(text: str) -> float:
    try:
        return _chance(str(float(text.strip().removesuffix("%")) / 100))
    except ValueError:
        raise ValueError(f"{text!r} is no moment, expected a duration as 10ms") from None


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is no count, expected a whole number")
    return int(text)


def _switch(text: str) -> bool:
    words = {"true": True, "yes": True, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError(f"{text!r} is no switch, expected yes or no")
    return words[text.lower()]


def _action(text: str) -> str:
    if text not in ACTIONS:
        raise ValueError(f"unknown action {text!r}, expected one of {', '.join(ACTIONS)}")
    return text


def _way(text: str) -> str:
    if text not in SHM_WAYS:
        raise ValueError(f"unknown way {text!r}, expected one of {', '.join(SHM_WAYS)}")
    return text


def _name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,20}", text) is None:
        raise ValueError(f"{text!r} is no name, expected at most 20 of A-Z a-z 0-9 _ . -")
    return text


# ---- what a record as a whole must be: (key, what is wrong)


def _mistakes(made: Any) -> Iterator[tuple[str, str]]:
    if isinstance(made, Fault):
        yield from _fault_mistakes(made)
    elif isinstance(made, Workload):
        yield from _workload_mistakes(made)
    elif isinstance(made, World):
        names = [host.name for host in made.hosts]
        if len(set(names)) < len(names) or not names:
            yield "hosts", "expected at least one host, each with a name of its own"
    elif isinstance(made, Host):
        names = [rail.name for rail in made.rails]
        if len(set(names)) < len(names) or not names:
            yield "rails", "expected at least one rail, each with a name of its own"
    elif isinstance(made, FaultPlan):
        yield from _plan_mistakes(made)


def _fault_mistakes(fault: Fault) -> Iterator[tuple[str, str]]:
    action = ACTIONS[fault.do]
    other = "host" if action.target == "rail" else "rail"
    if not getattr(fault, action.target):
        yield action.target, f"missing: '{fault.do}' acts on a {action.target}"
    if getattr(fault, other):
        yield other, f"'{fault.do}' acts on a {action.target}, not on a {other}"
    for key, item in _fields_of(Fault).items():
        if key in ("at", "do", "rail", "host"):
            continue
        given = getattr(fault, item.name) != item.default
        if given and key not in action.needs + action.may:
            yield key, f"'{fault.do}' has no such key"
        if key in action.needs and key != "bandwidth" and not given:
            yield key, f"missing: '{fault.do}' needs it"
    if fault.do == "flap" and fault.period_ns < 2:
        yield "period", "expected at least 2 ns"


def _workload_mistakes(work: Workload) -> Iterator[tuple[str, str]]:
    if not work.total_bytes and not work.time_ns:
        yield "total", "expected an end: total (bytes), time, or both"
    if not 0 < work.size_min <= work.size_max <= work.region_bytes:
        yield "size_max", "expected 0 < size_min <= size_max <= region"
    if work.deadlines and not work.deadline_ns:
        yield "deadline", "missing: 'deadlines' says that some batches have one"
    if not work.initiators or not work.targets:
        yield "initiators", "expected at least one initiator and one target"
    if work.batches < 1 or work.requests < 1:
        yield "batches", "expected at least one batch of one request"
    if work.high + work.low > 1:
        yield "high", "the shares of high and low are more than 1 together"


def _plan_mistakes(plan: FaultPlan) -> Iterator[tuple[str, str]]:
    hosts = [host.name for host in plan.world.hosts]
    for name in (*plan.workload.initiators, *plan.workload.targets):
        if name not in hosts:
            yield "workload", f"there is no host '{name}', expected one of {', '.join(hosts)}"
    rails = plan.rail_names()
    for index, fault in enumerate(plan.faults):
        if fault.rail and fault.rail not in rails:
            yield "faults", f"[{index}]: no rail '{fault.rail}', expected one of {', '.join(rails)}"
        if fault.host and fault.host not in hosts:
            yield "faults", f"[{index}]: no host '{fault.host}', expected one of {', '.join(hosts)}"
        if fault.at_share >= 0 and not plan.workload.total_bytes:
            yield "faults", f"[{index}]: a share of the bytes needs the workload's total"


# ---- writing


def _written(value: Any, kind: str) -> Any:
    if kind == "duration":
        for unit, factor in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
            if value and value % factor == 0:
                return f"{value // factor}{unit}"
        return f"{value}ns" if value else 0
    if kind == "size":
        for unit in ("g", "m", "k"):
            if value and value % _SIZES[unit] == 0:
                return f"{value // _SIZES[unit]}{unit}"
    if kind == "words":
        return dict(value)
    if kind == "names":
        return list(value)
    return value


def _plain(made: Any) -> dict[str, Any]:
    """A record as what YAML writes."""
    out: dict[str, Any] = {}
    for key, item in _fields_of(type(made)).items():
        value, kind = getattr(made, item.name), item.metadata["kind"]
        if kind == "moment":
            share = f"{made.at_share * 100:g}%"
            delay = f"+{_written(value, kind='duration')}" if value else ""
            out[key] = _written(value, "duration") if made.at_share < 0 else share + delay
        elif value == item.default and not _needed(item):
            continue
        elif kind in ("rails", "hosts", "faults"):
            out[key] = [_plain(child) for child in value]
        elif kind in ("world", "workload"):
            out[key] = _plain(value)
        else:
            out[key] = _written(value, kind)
    return out
