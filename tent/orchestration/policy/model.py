"""A policy as values: what the YAML of a user means once it was found to be right.

Leans on the standard library. `reader` makes these from a file, `compile` turns them into a plan
together with the topology and the catalog. Nothing here looks at the machine. Globs are
fnmatch's (`mlx5_*`), compared with the device's name or with "transport:device".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

AUTO = ("auto",)
"""Transports: the fastest that both sides support, then the next, ..."""


@dataclass(frozen=True)
class Span:
    """Sizes from least to most bytes, both included; None: no bound."""

    least: int | None = None
    most: int | None = None


@dataclass(frozen=True)
class Match:
    """Which requests a rule is for; None: any."""

    op: str | None = None
    """ "read" or "write"."""
    local: str | None = None
    """Location or its class: "cuda:0", "cuda", "cpu"."""
    remote: str | None = None
    same_host: bool | None = None
    size: Span | None = None
    class_: str | None = None
    label: str | None = None
    peer: str | None = None
    """Name of the peer's engine; globs are allowed."""


@dataclass(frozen=True)
class Use:
    """What a rule's requests use; None: what the plan has by default."""

    transports: tuple[str, ...] = AUTO
    """Rungs in fallback order."""
    devices: tuple[str, ...] = ()
    """Globs; of the rails, only those. (): all."""
    class_: str | None = None
    """In place of the batch's."""
    deadline_ns: int | None = None
    """From submission, for batches without one."""
    slice: Span | None = None
    """most: bytes of a slice; least: what the end game shrinks it to."""
    window_bytes: int | None = None
    """Most in flight on one endpoint."""
    strategy: str | None = None
    hedge: bool | None = None
    integrity: bool | None = None
    """CRC32C on every slice, also for batches that did not ask."""
    retry_budget: int | None = None
    staging: str | None = None
    """ "auto" (None): where a transport cannot reach the memory; "never": such a transport is left
    out; "host", "local", "remote", "both": always."""


@dataclass(frozen=True)
class Rule:
    """Rules are tried from first to last."""

    name: str
    match: Match = field(default_factory=Match)
    use: Use = field(default_factory=Use)
    line: int | None = field(default=None, compare=False)
    """In the file it was read from."""


@dataclass(frozen=True)
class Rails:
    """Which rails there are, before any rule."""

    include: tuple[str, ...] = ()
    """Globs; (): all that are usable, virtual ones only where no other is."""
    exclude: tuple[str, ...] = ()
    gbps: Mapping[str, float] = field(default_factory=dict)
    """Glob -> nominal speed in Gbit/s, the last match counts."""
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Glob -> options of the rail."""
    tiers: tuple[tuple[str, str, int], ...] = ()
    """(location, device glob, tier): distances that are known better than the tree knows them."""


@dataclass(frozen=True)
class EngineSettings:
    """How the engine is opened; None: its own default. Changing it takes a new engine."""

    name: str | None = None
    listen: str | None = None
    advertise: str | None = None
    workers: int | None = None
    """Threads: one drives the rails, the others help to copy; 0: by cores."""
    spin_ns: int | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    """requests_max, slices_max, batches_max, completions_max, events_max, notices_max."""


@dataclass(frozen=True)
class Security:
    """Where the shared key is; never the key itself."""

    key_file: str | None = None


@dataclass(frozen=True)
class RegistrySettings:
    """Where names are kept."""

    url: str = "p2p"
    """ "p2p", "etcd://host:2379", "redis://host:6379/0", "http://host:port", their TLS forms."""
    lease_s: float = 10.0
    options: Mapping[str, str] = field(default_factory=dict)
    """user, password_file, ca_file, cert_file, key_file, prefix; `peers` of p2p: see docs."""
    peers: Mapping[str, str] = field(default_factory=dict)
    """p2p: name -> "host:port"."""


@dataclass(frozen=True)
class Policy:
    """A whole policy. The default values are the embedded default policy's."""

    engine: EngineSettings = field(default_factory=EngineSettings)
    transports: tuple[str, ...] = ()
    """Order and choice for `auto`; (): all available ones, in the catalog's order."""
    transport_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Transport -> options of the transport as a whole (`set tcp.x=y`)."""
    rails: Rails = field(default_factory=Rails)
    rules: tuple[Rule, ...] = ()
    """In the end of every policy stands, unsaid, a rule that matches all and uses `auto`, unless
    `closed`."""
    closed: bool = False
    """What no rule matches is refused (NO_PATH)."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Of the plan (`set name=value`), from the sections scheduler and health."""
    quota: Mapping[str, str] = field(default_factory=dict)
    security: Security = field(default_factory=Security)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    source: str = field(default="the embedded default", compare=False)
    """File it was read from. Policies that decide the same are equal, wherever they stand."""
    overridden: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Key ("rails.include") -> the environment variable that decided it."""


@dataclass(frozen=True)
class Finding:
    """Something about a policy that its author should know; `error` means that it is refused."""

    error: bool
    what: str
    where: str = ""
    """ "policy.yaml:12", "rules[2].use.devices"."""
