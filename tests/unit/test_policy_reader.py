"""What a policy's words mean, and that its mistakes are named: file, line, key, expected, found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tent.errors import PolicyError
from tent.orchestration.policy.model import AUTO, Match, Policy, Span, Use
from tent.orchestration.policy.reader import (
    default_policy,
    default_text,
    parse_policy,
    read_policy,
)
from tent.orchestration.policy.schema import load_schema
from tent.types import Strategy

ROOT = Path(__file__).resolve().parents[2]


def rule_of(match: str = "{}", use: str = "{}") -> Any:
    policy = parse_policy(f"version: 1\nrules:\n  - match: {match}\n    use: {use}\n")
    return policy.rules[0]


def refusal(text: str | bytes, source: str = "policy.yaml") -> str:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, source=source)
    return str(caught.value)


# ---- the default, the schema


def test_the_embedded_default_says_what_an_empty_policy_says() -> None:
    assert parse_policy(default_text()) == parse_policy("version: 1") == default_policy()


def test_every_commented_example_of_the_default_is_right() -> None:
    """Each `# key: value` line is uncommented in place of the line or section it stands in."""
    text = re.sub(r"^( +)# (\w+: .*)$", r"\1\2", default_text(), flags=re.M)
    text = re.sub(r"^# ?( +(- name|match|use): .*)$", r" \1", text, flags=re.M)
    text = text.replace("rules: []", "rules:").replace("<pid>", "7").replace("host:port ", "h:1 ")
    policy = parse_policy(text)
    assert policy.rules[0].use.deadline_ns == 50_000_000
    assert policy.rails.exclude == ("docker0", "veth*")
    assert policy.engine.spin_ns == 50_000


def test_schema_is_one_and_every_key_is_described() -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(load_schema())
    missing: list[str] = []

    def look(schema: Any, where: str) -> None:
        for key, inner in schema.get("properties", {}).items():
            if key != "version" and "description" not in inner:
                missing.append(f"{where}.{key}")
            look(inner, f"{where}.{key}")
        if isinstance(schema.get("items"), dict):
            look(schema["items"], f"{where}[]")

    look(load_schema(), "")
    assert missing == []


def test_schema_names_the_parameters_of_the_plan() -> None:
    """csrc/plan/parameters.h is held equal to this table by another test."""
    page = (ROOT / "docs/plan-format.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|(?:[^|]*\|){4} (.*) \|$", page, re.M))
    sections = [load_schema()["properties"][name]["properties"] for name in ("scheduler", "health")]
    assert not sections[0].keys() & sections[1].keys()
    said = {name: row["description"] for name, row in {**sections[0], **sections[1]}.items()}
    assert said == rows


def test_schema_names_the_strategies() -> None:
    use = load_schema()["properties"]["rules"]["items"]["properties"]["use"]["properties"]
    assert use["strategy"]["enum"] == [strategy.name.lower() for strategy in Strategy]


# ---- what words mean


@pytest.mark.parametrize("word", ["yes", "true", "on", "Yes", "TRUE", '"yes"', "'on'"])
def test_all_spellings_of_yes(word: str) -> None:
    assert parse_policy(f"version: 1\nclosed: {word}").closed is True


@pytest.mark.parametrize("word", ["no", "false", "off", "No", '"false"'])
def test_all_spellings_of_no(word: str) -> None:
    assert rule_of(use=f"{{hedge: {word}}}").use.hedge is False


@pytest.mark.parametrize(
    "label", ["no", "yes", "010", "1e3", "12:30", "0x1f", "2001-01-01", "3.10"]
)
def test_a_label_is_the_text_that_stands_there(label: str) -> None:
    assert rule_of(f"{{label: {label}}}").match.label == label
    assert rule_of(f"{{label: '{label}'}}").match.label == label


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("..64k", Span(most=64 << 10)),
        ("64k..1M", Span(64 << 10, 1 << 20)),
        ("1m..", Span(least=1 << 20)),
        ("1..4096", Span(1, 4096)),
        ("0..4k", Span(most=4096)),
        ("0k..", None),
        ("{min: 64k}", Span(least=64 << 10)),
        ("{min: 4096, max: 1t}", Span(4096, 1 << 40)),
        ("{min: 0, max: 8}", Span(most=8)),
    ],
)
def test_ranges_of_sizes(text: str, span: Span | None) -> None:
    assert rule_of(f"{{size: {text}}}").match.size == span


def test_a_whole_rule() -> None:
    rule = rule_of(
        "{op: read, local: cuda:0, remote: cuda, same_host: no, class: low, label: kv, peer: 'a*'}",
        "{transports: [rdma, tcp], devices: 'mlx5_*', class: high, deadline: 1.5s, slice: 64k, "
        "window: 4194304, strategy: static, hedge: yes, integrity: on, retry_budget: 7, "
        "staging: never}",
    )
    assert rule.match == Match("read", "cuda:0", "cuda", False, None, "low", "kv", "a*")
    assert rule.use == Use(
        transports=("rdma", "tcp"),
        devices=("mlx5_*",),
        class_="high",
        deadline_ns=1_500_000_000,
        slice=Span(most=64 << 10),
        window_bytes=4 << 20,
        strategy="static",
        hedge=True,
        integrity=True,
        retry_budget=7,
        staging="never",
    )
    assert (rule.name, rule.line) == ("rules[0]", 3)


def test_any_is_no_condition() -> None:
    assert rule_of("{local: '*', remote: '*', peer: '*'}").match == Match()
    assert rule_of(use="{transports: auto, staging: auto}").use == Use(transports=AUTO)


def test_one_transport_needs_no_list() -> None:
    assert parse_policy("version: 1\ntransports: tcp").transports == ("tcp",)
    assert parse_policy("version: 1\ntransports: auto").transports == ()
    assert parse_policy("version: 1\ntransports: [auto]").transports == ()


def test_speeds_in_any_unit_and_spelling() -> None:
    text = "version: 1\nrails: {speeds: {a: 400, b: '0.5', c: 100mbit, d: 1.5tbit, e: 25gbit}}"
    assert parse_policy(text).rails.gbps == {"a": 400, "b": 0.5, "c": 0.1, "d": 1500, "e": 25}


def test_options_are_texts_and_switches_are_yes_or_no() -> None:
    text = "version: 1\ntransport_options: {tcp: {a: 010, b: true, c: off, d: 'true', e: 1_000}}"
    found = parse_policy(text).transport_options["tcp"]
    assert found == {"a": "010", "b": "yes", "c": "no", "d": "true", "e": "1_000"}


def test_parameters_of_both_sections_become_one_map() -> None:
    policy = parse_policy(
        "version: 1\nscheduler: {ecf: false, slice_size: 2m}\nhealth: {probe_first: 1.5ms}"
    )
    assert policy.parameters == {"ecf": "no", "slice_size": "2m", "probe_first": "1500us"}


def test_a_section_whose_lines_are_all_comments_is_as_if_it_were_not_there() -> None:
    assert (
        parse_policy("version: 1\nrules:\n  # - name: x\nengine:\nrails:\n  tiers:\n") == Policy()
    )


def test_json_is_yaml() -> None:
    document = {"version": 1, "closed": True, "rules": [{"match": {"size": "..64k"}}]}
    policy = parse_policy(json.dumps(document))
    assert policy.closed and policy.rules[0].match.size == Span(most=64 << 10)


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert parse_policy(b"\xef\xbb\xbfversion: 1\n") == Policy()


def test_policies_that_decide_the_same_are_equal_wherever_they_stand() -> None:
    one = parse_policy("version: 1\nrules: [{name: a}]", source="one")
    other = parse_policy("version: 1\n# comment\n\nrules: [{name: a}]", source="other")
    assert one == other
    assert (one.source, other.rules[0].line) == ("one", 4)


def test_registry_settings() -> None:
    policy = parse_policy(
        "version: 1\nregistry: {url: 'etcds://a:1,b:2', lease: 1500ms, user: u, password_file: /p, "
        "timeout: 2s, poll: 250ms, peers: {a: 'h:1'}}"
    )
    assert policy.registry.lease_s == 1.5
    assert policy.registry.options == {
        "user": "u",
        "password_file": "/p",
        "timeout_s": "2",
        "poll_s": "0.25",
    }
    assert policy.registry.peers == {"a": "h:1"}


# ---- mistakes


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("engin: {}", 'engin: unknown key; did you mean "engine"?'),
        ("engine: {wrkers: 1}", 'engine.wrkers: unknown key; did you mean "workers"?'),
        ("security: {zzz: 1}", "security.zzz: unknown key; expected key_file"),
        ("closed: maybe", 'closed: expected yes or no, found "maybe"'),
        ("closed:", "closed: expected yes or no, found nothing"),
        ("closed: [yes]", "closed: expected yes or no, found a list"),
        ("rules: {a: b}", "rules: expected a list of rules, found keys and values"),
        ("rules: [7]", 'rules[0]: expected a rule: name, match, use, found "7"'),
        (
            "transports: []",
            "transports: expected auto, a transport, or a list of transports, found none",
        ),
        ("transports: [tcp, tcp]", 'transports: "tcp" is there twice'),
        ("transports: [tcp, auto]", "transports: auto stands alone"),
        (
            "transports: [TCP]",
            "transports[0]: expected the name of a transport "
            '(small letters, digits, _ and -), found "TCP"',
        ),
        (
            "engine: {workers: 17}",
            "engine.workers: expected a count from 0 to 16 (one drives the rails, the others help "
            'to copy; 0: by cores), found "17"',
        ),
        ("engine: {spin: 0}", "engine.spin: expected a duration with its unit"),
        (
            "engine: {limits: {slices_max: 0}}",
            "engine.limits.slices_max: expected a count from 1 to 4294967295",
        ),
        ("engine: {name: a b}", "engine.name: expected a name of at most 63 printable"),
        (
            "rails: {speeds: {eth0: 0}}",
            "rails.speeds.eth0: expected a rate in Gbit/s as 400 or 0.5, "
            'or with a unit as 100mbit, found "0"',
        ),
        ("rails: {speeds: {'eth*': fast}}", 'rails.speeds["eth*"]: expected a rate in Gbit/s'),
        (
            "rails: {speeds: {eth0: 200000}}",
            "rails.speeds.eth0: expected a rate in Gbit/s from 0.001 to 100000",
        ),
        ("rails: {include: 'a=b'}", "rails.include: expected a glob as mlx5_*, or a list of globs"),
        ("rails: {speeds: {'a b': 1}}", 'rails.speeds["a b"]: expected a device or a glob'),
        (
            "rails: {tiers: [{location: cuda:0, device: x}]}",
            'rails.tiers[0]: the key "tier" is missing, expected location, device, tier',
        ),
        (
            "rails: {tiers: [{location: cuda:0, device: x, tier: 4}]}",
            "rails.tiers[0].tier: expected 1, 2 or 3",
        ),
        (
            "rules: [{match: {op: raed}}]",
            'rules[0].match.op: expected read or write, found "raed"; did you mean "read"?',
        ),
        (
            "rules: [{match: {size: 64k}}]",
            "rules[0].match.size: expected a range as ..64k, 64k..1m or 1m.., found",
        ),
        (
            "rules: [{match: {size: 2m..1m}}]",
            "rules[0].match.size: expected the smaller size first",
        ),
        (
            "rules: [{match: {size: {}}}]",
            "rules[0].match.size: expected a range as ..64k, 64k..1m or 1m.., found none",
        ),
        ("rules: [{match: {label: a b}}]", "rules[0].match.label: expected a label of at most 31"),
        (
            "rules: [{match: {local: CUDA:0}}]",
            "rules[0].match.local: expected a location as cuda:0",
        ),
        (
            "rules: [{use: {slice: 1k}}]",
            'rules[0].use.slice: expected a size from 4k to 1g, found "1k"',
        ),
        (
            "rules: [{use: {slice: {min: 1k, max: 1m}}}]",
            'rules[0].use.slice.min: expected a size from 4k to 1g, found "1k"',
        ),
        ("rules: [{use: {window: 32g}}]", "rules[0].use.window: expected a size from 64k to 16g"),
        (
            "rules: [{use: {deadline: 50}}]",
            "rules[0].use.deadline: expected a duration with its unit",
        ),
        (
            "rules: [{use: {deadline: 0ms}}]",
            "rules[0].use.deadline: expected a duration from 1ns to 86400s",
        ),
        (
            "rules: [{use: {deadline: 0.5ns}}]",
            "rules[0].use.deadline: duration is '0.5ns'; it is no whole",
        ),
        ("rules: [{use: {class: urgent}}]", "rules[0].use.class: expected high, normal or low"),
        ("rules: [{name: a}, {name: a}]", "rules[1].name: rules[0] has this name already"),
        (
            "scheduler: {slice_size: 3}",
            'scheduler.slice_size: expected a size from 4k to 1g, found "3"',
        ),
        (
            "scheduler: {slice_sise: 3}",
            'scheduler.slice_sise: unknown key; did you mean "slice_size"?',
        ),
        (
            "scheduler: {probe_first: 1ms}",
            "scheduler.probe_first: unknown key; it belongs to health",
        ),
        ("health: {ecf: yes}", "health.ecf: unknown key; it belongs to scheduler"),
        ("health: {retries_max: 2.5}", "health.retries_max: expected a count from 0 to 1000"),
        ("security: {key: abc}", "security.key: the key itself must not stand in a policy"),
        ("registry: {password: abc}", "registry.password: a password must not stand in a policy"),
        (
            "registry: {url: 'ftp://x'}",
            "registry.url: the registry 'ftp://x' is of no known kind: write p2p",
        ),
        (
            "registry: {url: 'redis://a,b'}",
            "registry.url: the registry 'redis://a,b' names 2 hosts",
        ),
        ("registry: {peers: {a: b}}", "registry: the registry 'p2p': the address 'b'"),
        ("registry: {lease: 1ms}", "registry.lease: expected a duration from 500ms to 86400s"),
        ("quota: {share: 0}", "quota.share: expected a weight from 1 to 1000"),
        ("closed: no\nclosed: yes", "closed: this key is there twice, first in line 2"),
        ("engine: {name: 'a\n\n  b'}", "engine.name: expected one line, found several"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_key(line: str, sentence: str) -> None:
    found = refusal(f"version: 1\n{line}\n", source="p.yaml")
    assert re.match(r"p\.yaml:[23]: ", found)
    assert re.sub(r"^p\.yaml:\d+: ", "", found).startswith(sentence)
    assert "\n" not in found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", 'p:1: it says nothing; expected at least "version: 1"'),
        ("# nothing\n", "p:1: it says nothing"),
        ("[version, 1]", r"p:1: expected keys and values \(version, rules, ...\), found a list"),
        ("version", "p:1: expected keys and values"),
        ("rules: []", 'p:1: the key "version" is missing'),
        ("version: 2", 'p:1: version: expected 1, found "2"'),
        (
            "version: 1\nrails: {include: [*]}",
            'p:2: column 20: this is no YAML: .*in quotes: "\\*"',
        ),
        ("version: 1\nrails: {include: *eth}", "p:2: column 18: the alias \\*eth: .* in quotes"),
        ("version: 1\nengine: &e {}", "p:2: column 9: the anchor &e: anchors are not read"),
        ("version: !!int 1", 'p:1: column 10: the tag "tag:yaml.org,2002:int": tags are not'),
        ("version: !!python/object:os.system 1", "p:1: column 10: the tag"),
        ("version: 1\n---\nversion: 1", "p:2: column 1: a second document begins"),
        ("version: 1\n\tclosed: no", "p:2: column 1: this is no YAML: .*tab"),
        ("version: 1\nrules: [", "p:3: column 1: this is no YAML"),
        ("? [a]\n: 1", "p:1: column 3: a key must be a single word"),
        ("version: 1\n\x00", "p:2: a control character \\(0x00\\)"),
        ("version: \ud800", "p:1: this is no text"),
    ],
)
def test_what_is_no_policy_at_all(text: str, sentence: str) -> None:
    assert re.match(sentence, refusal(text, source="p"))


def test_bytes_that_are_no_utf8_are_placed() -> None:
    assert refusal(b"version: 1\nengine: {name: \xff}").startswith(
        "policy.yaml:2: byte 26 (0xff) is no UTF-8"
    )


def test_several_mistakes_are_reported_together_in_the_order_of_the_file() -> None:
    found = refusal(
        "version: 1\n"
        "closed: maybe\n"
        "scheduler: {slice_size: 3}\n"
        "rules:\n"
        "  - match: {op: reed, size: 2m..1m}\n"
        "    uze: {}\n"
        "transports: [auto, tcp]\n"
    )
    lines = found.splitlines()
    assert [int(line.split(":")[1]) for line in lines] == [2, 3, 5, 5, 6, 7]


def test_at_most_twenty_mistakes_are_told() -> None:
    rules = "\n".join("  - {match: {op: x}}" for _ in range(30))
    lines = refusal(f"version: 1\nrules:\n{rules}\n").splitlines()
    assert len(lines) == 21
    assert lines[-1] == "policy.yaml: and 10 more mistakes"


def test_a_mistake_in_one_value_hides_none_in_another() -> None:
    found = refusal("version: 1\nrules: [{match: {op: x}, use: {slice: 1k}}, {use: {window: 1}}]")
    assert len(found.splitlines()) == 3


def test_foreign_text_cannot_garble_a_terminal_or_fill_a_log() -> None:
    found = refusal('version: 1\n"\\e[31m' + "x" * 5000 + '": 1\nclosed: "\\a"')
    assert "\x1b" not in found and "\x07" not in found
    assert len(found) < 1000


def test_files_are_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("version: 1\nclosed: x\n")
    with pytest.raises(PolicyError, match=re.escape(f"{path}:2: closed: expected yes or no")):
        read_policy(path)
    with pytest.raises(FileNotFoundError):
        read_policy(tmp_path / "none.yaml")
