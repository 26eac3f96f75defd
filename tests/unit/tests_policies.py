"""Drawn policies: everything that a policy may say, as values."""

from __future__ import annotations

from hypothesis import strategies as st

from tent.orchestration.policy.model import (
    AUTO,
    EngineSettings,
    Match,
    Policy,
    Rails,
    RegistrySettings,
    Rule,
    Security,
    Span,
    Use,
)

PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F))
SIZE_MAX = 1 << 50

WORDS = st.text(PRINTABLE, min_size=1, max_size=31)
# What YAML has its own opinion of: all of them are ordinary words here.
TRAPPING = (
    "no yes null ~ 010 1e3 0x1f 12:30 * a* &a !x - # {} [ a:b ' \" % @ ` ? | > << = 2001-01-01 .inf"
)
TRAPS = st.sampled_from(TRAPPING.split())
# Words of a plan's routes end at these.
ENDS = set(";[]|")
LABELS = (WORDS | TRAPS).filter(lambda word: not ENDS & set(word))
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
TRANSPORTS = NAMES.filter(lambda name: name != "auto")
GLOBS = st.text(PRINTABLE.replace("=", ""), min_size=1, max_size=20)
LOCATIONS = st.sampled_from(["cpu", "cuda", "file"]) | st.from_regex(
    r"(cpu|cuda):(0|[1-9][0-9]{0,2})", fullmatch=True
)
CLASSES = st.sampled_from(["high", "normal", "low"])
DURATIONS_NS = st.integers(1, 86_400 * 10**9) | st.sampled_from([1000, 10**6, 50 * 10**6, 10**9])
PATHS = st.text("abc/._ é", min_size=1, max_size=200)
RATES = st.integers(1, 1000).map(float) | st.floats(0.001, 1000.0).map(lambda x: round(x, 9))
OPTIONS = st.dictionaries(NAMES, WORDS | TRAPS, max_size=3)


def maybe(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


def spans(least: int, most: int) -> st.SearchStrategy[Span]:
    sizes = st.integers(least, most)
    both = st.tuples(sizes, sizes).map(lambda pair: Span(min(pair), max(pair)))
    return both | sizes.map(lambda n: Span(least=n)) | sizes.map(lambda n: Span(most=n))


MATCHES = st.builds(
    Match,
    op=maybe(st.sampled_from(["read", "write"])),
    local=maybe(LOCATIONS),
    remote=maybe(LOCATIONS),
    same_host=maybe(st.booleans()),
    size=maybe(spans(1, SIZE_MAX)),
    class_=maybe(CLASSES),
    label=maybe(LABELS),
    peer=maybe(LABELS.filter(lambda peer: peer != "*")),
)
USES = st.builds(
    Use,
    transports=st.just(AUTO) | st.lists(TRANSPORTS, min_size=1, max_size=3, unique=True).map(tuple),
    devices=st.lists(GLOBS, max_size=3, unique=True).map(tuple),
    class_=maybe(CLASSES),
    deadline_ns=maybe(DURATIONS_NS),
    slice=maybe(spans(4096, 1 << 30)),
    window_bytes=maybe(st.integers(64 << 10, 16 << 30)),
    strategy=maybe(st.sampled_from(["predictive", "round_robin", "static", "tent_paper"])),
    hedge=maybe(st.booleans()),
    integrity=maybe(st.booleans()),
    retry_budget=maybe(st.integers(0, 10**9)),
    staging=maybe(st.sampled_from(["never", "host", "local", "remote", "both"])),
)
RULES = st.lists(
    st.tuples(
        st.text(PRINTABLE + "   ", min_size=1, max_size=127).filter(lambda n: n[-1] != " ")
    ).flatmap(lambda name: st.builds(Rule, name=st.just(name[0]), match=MATCHES, use=USES)),
    max_size=4,
    unique_by=lambda rule: rule.name,
).map(tuple)
LIMITS = ["requests_max", "slices_max", "batches_max", "completions_max", "events_max"]
PARAMETERS = {
    "slice_size": st.sampled_from(["64k", "1m", "1048576"]),
    "window_gain": st.sampled_from(["125", "10000"]),
    "ecf": st.sampled_from(["yes", "no"]),
    "rate_prior_gbps": st.sampled_from(["0.5", "400"]),
    "probe_first": st.sampled_from(["10ms", "1500us"]),
    "retries_max": st.sampled_from(["0", "8"]),
}
POLICIES = st.builds(
    Policy,
    engine=st.builds(
        EngineSettings,
        name=maybe(WORDS),
        listen=maybe(st.sampled_from(["none", "0.0.0.0:0", "[::]:7471", "host-1:80"])),
        advertise=maybe(st.sampled_from(["10.0.0.1", "a:1,b:2"])),
        workers=maybe(st.integers(0, 16)),
        spin_ns=maybe(DURATIONS_NS),
        limits=st.dictionaries(st.sampled_from(LIMITS), st.integers(1, 2**32 - 1)),
    ),
    transports=st.lists(TRANSPORTS, max_size=3, unique=True).map(tuple),
    transport_options=st.dictionaries(NAMES, OPTIONS.filter(bool), max_size=2),
    rails=st.builds(
        Rails,
        include=st.lists(GLOBS, max_size=3, unique=True).map(tuple),
        exclude=st.lists(GLOBS, max_size=3, unique=True).map(tuple),
        gbps=st.dictionaries(GLOBS, RATES, max_size=3),
        options=st.dictionaries(GLOBS, OPTIONS.filter(bool), max_size=2),
        tiers=st.lists(st.tuples(LOCATIONS, GLOBS, st.integers(1, 3)), max_size=2).map(tuple),
    ),
    rules=RULES,
    closed=st.booleans(),
    parameters=st.fixed_dictionaries({}, optional=PARAMETERS),
    quota=st.fixed_dictionaries(
        {},
        optional={"share": st.sampled_from(["1", "7"]), "limit": st.sampled_from(["100", "0.5"])},
    ),
    security=st.builds(Security, key_file=maybe(PATHS)),
    registry=st.builds(
        RegistrySettings,
        url=st.sampled_from(["p2p", "etcd://a:1,b:2/x", "rediss://u:p%40@h/0", "https://h:1/x"]),
        lease_s=st.sampled_from([0.5, 1.0, 10.0, 3600.0]),
        options=st.fixed_dictionaries(
            {}, optional={"user": WORDS, "prefix": NAMES, "poll_s": st.sampled_from(["1", "0.25"])}
        ),
        peers=st.dictionaries(WORDS, st.just("10.0.0.1:7471"), max_size=2),
    ),
)
