"""Errors carry their context, across processes as well, and fit Python's own families."""

from __future__ import annotations

import pickle

import pytest

from tent import errors
from tent.types import Status


def test_context_survives_pickling() -> None:
    error = errors.error_for(
        Status.RANGE, "no such place", segment="peer", address=0x1000, length=10, index=3
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.OutOfRange
    assert str(again) == "no such place"
    assert (again.status, again.segment, again.address, again.length, again.index) == (
        Status.RANGE,
        "peer",
        0x1000,
        10,
        3,
    )


@pytest.mark.parametrize("status", [status for status in Status if status < 0])
def test_every_family_pickles_and_prints(status: Status) -> None:
    error = errors.error_for(status, "a sentence", segment="s")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.status) == (type(error), "a sentence", status)


@pytest.mark.parametrize(
    ("status", "base"),
    [
        (Status.INVALID, ValueError),
        (Status.TIMEOUT, TimeoutError),
        (Status.PEER, ConnectionError),
        (Status.NOT_FOUND, LookupError),
        (Status.NO_MEMORY, MemoryError),
        (Status.PLAN, ValueError),
    ],
)
def test_pythons_own_family_catches_it(status: Status, base: type[Exception]) -> None:
    with pytest.raises(base):
        raise errors.error_for(status, "x")


def test_an_unknown_status_is_kept_as_its_number() -> None:
    error = errors.error_for(-999, "from a newer library")
    assert type(error) is errors.TentError
    assert error.status == -999
