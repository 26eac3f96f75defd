"""What a plugin's table says of its options is what the plugin does, for every plugin here.

Each option with its default, least and most value is accepted where it may stand; one beyond them,
an unknown name and an option in the wrong place are refused with a sentence that names it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests_support import KEY

import tent
from tent.errors import InvalidArgument, TentError
from tent.testing import Fabric
from tent.transports.catalog import load_catalog
from tent.transports.model import Option, OptionKind, Transport

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
UNITS = {
    OptionKind.COUNT: {"": 1},
    OptionKind.SIZE: {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40},
    OptionKind.DURATION: {"": 1, "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9},
}
SMALLEST = {OptionKind.COUNT: "", OptionKind.SIZE: "", OptionKind.DURATION: "ns"}
NAMES = ["fault", "null", "shm", "sim", "tcp"]
DEVICES = {"tcp": "127.0.0.1", "shm": "host"}
LISTED = ["fault", "shm", "tcp"]
"""Those with options."""


def transport(name: str) -> Transport:
    found = load_catalog().find(name)
    assert found is not None and found.available
    return found


def open_with(name: str, option: str, value: str, *, rail: bool) -> None:
    """An engine whose plan says this; what decorates does so to the null transport."""
    inner = "null" if name == "fault" else name
    device = DEVICES.get(inner, "any")
    lines = ["plan 1"]
    if inner != name:
        lines.append(f"decorate {inner} {name}")
    if not rail:
        lines.append(f"set {name}.{option}={value}")
    own = f" {name}.{option}={value}" if rail else ""
    lines += [f"rail 0 {inner} {device}{own}", f"route * : {inner}[0]"]
    tent.Engine(plan="\n".join(lines) + "\n", key=KEY, listen="none").close()


def refused(name: str, option: str, value: str, *, rail: bool) -> None:
    with pytest.raises(TentError) as raised:
        open_with(name, option, value, rail=rail)
    assert isinstance(raised.value, InvalidArgument), raised.value
    assert option in str(raised.value), raised.value


def number(option: Option, text: str) -> int:
    digits = text.rstrip("kmgtnus")
    return int(digits) * UNITS[option.kind][text[len(digits) :]]


def test_there_is_no_plugin_that_is_not_tried() -> None:
    found = {found.name for found in load_catalog().transports if found.available}
    # rdma needs a device to be opened; what it does with its options is tried natively.
    assert sorted(found - {"rdma"}) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_options_have_a_meaning_a_known_kind_and_a_place_of_their_own(name: str) -> None:
    options = transport(name).options
    places = [(option.name, option.rail) for option in options]
    assert len(places) == len(set(places))
    for option in options:
        assert option.meaning and "\n" not in option.meaning, option
        assert bool(option.choices) or option.kind is not OptionKind.CHOICE, option
        assert bool(option.least) == bool(option.most) == (option.kind in SMALLEST), option


@pytest.mark.parametrize("name", LISTED)
def test_what_the_table_says_is_accepted(name: str) -> None:
    for option in transport(name).options:
        accepted = {option.default, option.least, option.most, *option.choices} - {""}
        for value in sorted(accepted):
            open_with(name, option.name, value, rail=option.rail)


@pytest.mark.parametrize("name", LISTED)
def test_what_the_table_excludes_is_refused(name: str) -> None:
    options = transport(name).options
    for option in options:
        if option.kind in SMALLEST:
            unit = SMALLEST[option.kind]
            least, most = number(option, option.least), number(option, option.most)
            if least > 0:
                refused(name, option.name, f"{least - 1}{unit}", rail=option.rail)
            refused(name, option.name, f"{most + 1}{unit}", rail=option.rail)
            refused(name, option.name, "x", rail=option.rail)
        if option.kind in (OptionKind.CHOICE, OptionKind.SWITCH):
            refused(name, option.name, "other", rail=option.rail)
        if not any(other.name == option.name and other is not option for other in options):
            refused(name, option.name, option.default or option.least or "1", rail=not option.rail)


@pytest.mark.parametrize(
    ("name", "rail"),
    [(name, rail) for name in NAMES for rail in (False, True) if (name, rail) != ("sim", True)],
)
def test_an_option_that_is_not_in_the_table_is_refused(name: str, *, rail: bool) -> None:
    assert transport(name).option("nonsense") is None
    refused(name, "nonsense", "1", rail=rail)


@pytest.mark.parametrize("name", ["tcp", "shm"])
def test_the_page_of_a_transport_has_its_table(name: str) -> None:
    page = (PLUGINS / name / "README.md").read_text(encoding="utf-8")
    options = transport(name).options
    everywhere = any(option.rail for option in options)
    rows = {}
    for option in options:
        places = {other.rail for other in options if other.name == option.name}
        where = " (rails only)" if everywhere and False not in places else ""
        facts = [f"`{option.name}`{where}", option.default, option.least, option.most]
        rows[option.name] = "| " + " | ".join([*facts, option.meaning]) + " |"
    found = [" ".join(line.split()) for line in page.splitlines() if line.startswith("| `")]
    assert rows
    assert found[: len(rows)] == [" ".join(row.split()) for row in rows.values()]


def test_the_page_of_fault_names_all_its_options() -> None:
    page = (PLUGINS / "fault" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:set )?(?:fault\.)?([a-z_]+)", page))
    assert {option.name for option in transport("fault").options} <= named


def test_the_page_of_rdma_tells_its_options_as_they_are() -> None:
    found = load_catalog().find("rdma")
    if found is None or not found.options:
        pytest.skip("the rdma plugin is not built here: it needs the headers of libibverbs")
    rows: dict[str, list[str]] = {}
    for option in found.options:
        facts = ["rail" if option.rail else "set", option.default, option.least, option.most]
        if option.name in rows:
            facts[0] = "both"
        if option.kind == OptionKind.CHOICE:  # of numbers, beside words in a number's place
            numbers = [word for word in option.choices if word.isdecimal()]
            facts[2:] = [numbers[0], numbers[-1]]
        rows[option.name] = facts
    page = (PLUGINS.parent / "docs" / "rdma.md").read_text(encoding="utf-8")
    table = page.partition("## Options")[2].partition("\n## ")[0]
    told = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    assert {row[0].strip("`"): row[1:5] for row in told} == rows


def test_the_fabric_of_sim_must_be_given_and_its_rails_have_no_options() -> None:
    with pytest.raises(InvalidArgument, match=r"sim\.fabric=NAME"):
        tent.Engine(plan="plan 1\nrail 0 sim a/0\nroute * : sim[0]\n", key=KEY, listen="none")
    with Fabric() as fabric:
        host = fabric.host("a")
        line = f"rail 0 sim {host.rail('0', bandwidth=1e9).device}"
        plan = fabric.plan(host)
        assert plan.count(line) == 1
        with pytest.raises(InvalidArgument, match="no rail option 'nonsense'"):
            fabric.engine(host, plan=plan.replace(line, line + " nonsense=1"))
    with pytest.raises(InvalidArgument, match="no fabric 'absent'"):
        open_with("sim", "fabric", "absent", rail=False)
