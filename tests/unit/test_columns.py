"""Columns: what goes in is what the native side reads, bit by bit, or a sentence says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tent import Denied, InvalidArgument
from tent.orchestration.buffers import BufferFacts
from tent.orchestration.columns import (
    Columns,
    as_column,
    as_number,
    make_columns,
    offsets_to_addresses,
)
from tent.orchestration.requests import refuse_readonly

U64 = st.integers(0, 2**64 - 1)


@given(st.lists(U64, max_size=50))
def test_a_list_becomes_the_same_numbers(values: list[int]) -> None:
    column = as_column(values, name="x")
    assert column.dtype == np.uint64
    assert column.tolist() == values


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=50),
    st.sampled_from(["uint8", "int16", "uint32", "int64", "uint64", ">u8"]),
    st.integers(1, 3),
)
def test_any_integer_array_becomes_the_same_numbers(
    values: list[int], dtype: str, step: int
) -> None:
    array = np.array(values, dtype=dtype)[::step]
    column = as_column(array, name="x")
    assert column.flags.c_contiguous
    assert column.dtype == np.dtype(np.uint64)
    assert column.tolist() == values[::step]


def test_a_fitting_array_is_not_copied() -> None:
    array = np.arange(10, dtype=np.uint64)
    assert np.shares_memory(as_column(array, name="x"), array)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, -1], ["x[1]", "-1"]),
        (np.array([3, -7]), ["x[1]", "-7"]),
        ([1, 2**64], ["x[1]", str(2**64)]),
        ([-1, 2**63], ["x[0]", "-1"]),
        ([1.5, 2.0], ["x[0]", "float"]),
        (np.array([1.0]), ["x", "float64"]),
        (np.array([[1, 2]]), ["x", "2 dimensions"]),
        ([[1], [2, 3]], ["x"]),
        ("12", ["x"]),
        ([True, False], ["x", "bool"]),
        ([None], ["x[0]", "NoneType"]),
    ],
)
def test_what_is_no_column_is_refused_by_name(values: Any, words: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        as_column(values, name="x")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [-1, 2**64, 1.0, "1", None])
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="length is"):
        as_number(value, name="length")


def test_columns_of_different_lengths_are_refused_with_their_lengths() -> None:
    with pytest.raises(InvalidArgument, match=r"local has 2, length has 3"):
        make_columns(
            local=np.arange(2, dtype=np.uint64), remote=5, length=[1, 2, 3], user_data=None
        )


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20), U64.filter(lambda n: n < 2**60))
def test_single_numbers_stand_for_all(locals_: list[int], remote: int) -> None:
    columns = make_columns(
        local=as_column(locals_, name="local"), remote=remote, length=7, user_data=None
    )
    assert columns.count == len(locals_)
    requests = [columns.request(i) for i in range(columns.count)]
    assert requests == [(local, remote, 7) for local in locals_]


@given(st.data())
def test_rest_is_the_tail_with_continued_tags(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    start = data.draw(st.integers(0, count))
    tagged = data.draw(st.booleans())
    columns = Columns(
        local=np.arange(count, dtype=np.uint64),
        remote=np.arange(count, dtype=np.uint64) * np.uint64(2),
        length=np.arange(1, count + 1, dtype=np.uint64),
        length_each=0,
        user_data=np.arange(count, dtype=np.uint64) + np.uint64(1000) if tagged else None,
    )
    rest = columns.rest(start, user_data_first=start + 5)
    assert [rest.request(i) for i in range(rest.count)] == [
        columns.request(i) for i in range(start, count)
    ]
    assert rest.user_data is not None
    first = start + (1000 if tagged else 5)
    assert rest.user_data.tolist() == list(range(first, first + count - start))


@given(st.integers(0, 2**63), st.integers(1, 2**32), st.lists(st.integers(0, 2**33)))
def test_offsets_are_added_inside_the_region_only(
    base: int, length: int, offsets: list[int]
) -> None:
    if all(offset < length for offset in offsets):
        column = offsets_to_addresses(base, offsets, length=length, name="remote offset")
        assert column.tolist() == [base + offset for offset in offsets]
    else:
        with pytest.raises(InvalidArgument, match=f"holds {length} bytes"):
            offsets_to_addresses(base, offsets, length=length, name="remote offset")


def facts(address: int, length: int, *, readonly: bool) -> BufferFacts:
    return BufferFacts(address=address, length=length, readonly=readonly, keep=None)


RANGES = st.tuples(st.integers(0, 60), st.integers(1, 20))


@given(st.lists(RANGES, max_size=4), st.lists(RANGES, max_size=4), st.lists(RANGES, min_size=1))
def test_read_only_destinations_are_refused_as_a_byte_map_says(
    readonly: list[tuple[int, int]], writable: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    closed = [facts(a, n, readonly=True) for a, n in readonly]
    known = closed + [facts(a, n, readonly=False) for a, n in writable]
    columns = make_columns(
        local=as_column([a for a, _ in asked], name="local"),
        remote=0,
        length=[n for _, n in asked],
        user_data=None,
    )
    blocked = {byte for a, n in readonly for byte in range(a, a + n)}
    bad = [
        index
        for index, (a, n) in enumerate(asked)
        if blocked & set(range(a, a + n))
        and not any(b <= a and a + n <= b + m for b, m in writable)
    ]
    try:
        refuse_readonly(columns, closed, known)
    except Denied as error:
        assert bad, error
        assert error.index == bad[0]
    else:
        assert not bad
