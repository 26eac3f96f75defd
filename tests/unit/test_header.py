"""The numbers and functions said again in Python are those of tent.h."""

from __future__ import annotations

import dataclasses
import enum
import re
from pathlib import Path

import pytest

from tent import (
    Access,
    Candidate,
    Class,
    CounterRow,
    EventType,
    Explanation,
    MemoryInfo,
    Op,
    State,
    Status,
    Strategy,
    Verdict,
    _abi,
)
from tent.errors import TentError, error_for
from tent.transports import catalog
from tent.transports.model import Memory, OptionKind

ROOT = Path(__file__).resolve().parents[2]
HEADER = (ROOT / "csrc" / "include" / "tent" / "tent.h").read_text()
DEFINES = {
    name: int(value)
    for name, value in re.findall(r"^#define (TENT_\w+)\s+(-?\d+)\b", HEADER, re.MULTILINE)
}
# Given to C programs; Python has its own way: batches for tent_transfer, memory with options and
# without an engine.
NOT_BOUND = {"tent_transfer", "tent_memory_alloc"}


def of_prefix(prefix: str) -> dict[str, int]:
    return {n.removeprefix(prefix): v for n, v in DEFINES.items() if n.startswith(prefix)}


def test_statuses_are_the_headers() -> None:
    expected = of_prefix("TENT_E_") | {
        "OK": DEFINES["TENT_OK"],
        "IN_PROGRESS": DEFINES["TENT_IN_PROGRESS"],
    }
    assert {member.name: member.value for member in Status} == expected


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (Op, "TENT_OP_"),
        (Class, "TENT_CLASS_"),
        (State, "TENT_STATE_"),
        (EventType, "TENT_EVENT_"),
        (Strategy, "TENT_STRATEGY_"),
        (Verdict, "TENT_VERDICT_"),
    ],
)
def test_enums_are_the_headers(kind: type[enum.IntEnum], prefix: str) -> None:
    assert {member.name: member.value for member in kind} == of_prefix(prefix)


def test_access_bits_are_the_headers() -> None:
    assert DEFINES["TENT_ACCESS_READ"] == Access.READ
    assert DEFINES["TENT_ACCESS_WRITE"] == Access.WRITE


def test_flags_are_the_headers() -> None:
    assert DEFINES["TENT_SUBMIT_SEAL"] == _abi.SEAL
    assert DEFINES["TENT_SUBMIT_NO_WAKE"] == _abi.NO_WAKE
    assert DEFINES["TENT_BATCH_CHECK_OVERLAP"] == _abi.CHECK_OVERLAP
    assert DEFINES["TENT_BATCH_INTEGRITY"] == _abi.INTEGRITY
    assert DEFINES["TENT_COMPLETIONS_NONE"] == _abi.COMPLETIONS_NONE
    assert DEFINES["TENT_COMPLETIONS_BATCH"] == _abi.COMPLETIONS_BATCH
    assert DEFINES["TENT_UNFENCED_FORGET_PROVEN"] == _abi.UNFENCED_FORGET_PROVEN
    assert of_prefix("TENT_HUGE_") == {word.upper(): n for word, n in _abi.HUGE.items()}
    assert DEFINES["TENT_ALLOC_BIND"] == _abi.ALLOC_BIND
    assert DEFINES["TENT_ALLOC_PRIVATE"] == _abi.ALLOC_PRIVATE
    assert DEFINES["TENT_COUNTERS_ENGINE"] == _abi.COUNTERS_ENGINE
    assert DEFINES["TENT_COUNTERS_RAIL"] == _abi.COUNTERS_RAIL
    assert DEFINES["TENT_COUNTERS_ENDPOINT"] == _abi.COUNTERS_ENDPOINT
    assert DEFINES["TENT_COUNTERS_CLASS"] == _abi.COUNTERS_CLASS


def test_facts_of_transports_are_the_headers() -> None:
    assert {kind.name: kind.value for kind in Memory} == of_prefix("TENT_MEMORY_")
    options = of_prefix("TENT_OPTION_")
    assert options.pop("OF_RAIL") == catalog._OF_RAIL
    assert options.pop("OF_TRANSPORT") == catalog._OF_TRANSPORT
    assert {kind.name: kind.value for kind in OptionKind} == options
    flags = of_prefix("TENT_PLUGIN_")
    assert flags.pop("REGISTERS_ASIDE") == 4  # the core's alone
    assert flags == {"DECORATES": catalog._DECORATES, "TEST": catalog._TEST}


def test_arrays_read_in_place_have_the_structs_layout() -> None:
    for dtype, name in (
        (_abi.STATUS_DTYPE, "tent_request_status"),
        (_abi.COMPLETION_DTYPE, "tent_completion"),
    ):
        struct = _abi._ffi.typeof(f"struct {name}")
        assert dtype.itemsize == _abi._ffi.sizeof(struct)
        assert dtype.fields is not None
        offsets = {field: place[1] for field, place in dtype.fields.items()}
        assert offsets == {field: about.offset for field, about in struct.fields}


@pytest.mark.parametrize(
    ("kind", "struct"),
    [
        (Candidate, "tent_candidate"),
        (CounterRow, "tent_counters"),
        (Explanation, "tent_explanation"),
        (MemoryInfo, "tent_memory_info"),
    ],
)
def test_facts_have_the_structs_fields(kind: type, struct: str) -> None:
    fields = {name for name, _ in _abi._ffi.typeof(f"struct {struct}").fields}
    own = {field.name for field in dataclasses.fields(kind)}
    assert own - {"candidates"} == fields - {"size", "reserved"}


def test_every_function_is_bound_with_its_arguments() -> None:
    text = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    header = {
        name: 0 if arguments.strip() == "void" else arguments.count(",") + 1
        for name, arguments in re.findall(r"TENT_API [^;(]*?(tent_\w+)\(([^)]*)\)", text)
    }
    assert len(header) > 40
    bound = {
        name: annotation.partition("[[")[2].partition("]")[0]
        for name, annotation in _abi.Library.__annotations__.items()
    }
    counts = {name: len([a for a in text.split(",") if a.strip()]) for name, text in bound.items()}
    assert counts == {name: n for name, n in header.items() if name not in NOT_BOUND}


def test_every_failure_has_an_exception_of_its_own() -> None:
    families = {type(error_for(status, "x")) for status in Status if status < 0}
    assert len(families) == sum(status < 0 for status in Status)
    assert TentError not in families


def test_the_library_names_the_statuses_alike() -> None:
    for status in Status:
        name = "TENT_E_" + status.name if status < 0 else "TENT_" + status.name
        assert _abi.status_name(status) == name
        assert _abi.status_text(status)
