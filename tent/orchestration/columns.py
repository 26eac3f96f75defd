"""Requests as columns: what callers write, as uint64 arrays that the native side reads in place.

Leans on numpy only. Arrays that already are uint64 and contiguous are passed on without a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tent.errors import InvalidArgument

U64 = npt.NDArray[np.uint64]
U64_MAX = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True)
class Columns:
    """`count` requests: element i of each column; `length` None means `length_each` for all."""

    local: U64
    remote: U64
    length: U64 | None
    length_each: int
    user_data: U64 | None

    @property
    def count(self) -> int:
        """How many requests there are."""
        return len(self.local)

    def rest(self, start: int, *, user_data_first: int) -> Columns:
        """The requests from `start` on; made-up user data continues at `user_data_first`."""
        user_data = self.user_data
        if user_data is None:
            user_data = np.arange(start, self.count, dtype=np.uint64)
            user_data += np.uint64(user_data_first - start)
        else:
            user_data = user_data[start:]
        return Columns(
            local=self.local[start:],
            remote=self.remote[start:],
            length=None if self.length is None else self.length[start:],
            length_each=self.length_each,
            user_data=user_data,
        )

    def request(self, index: int) -> tuple[int, int, int]:
        """(local, remote, length) of one request."""
        length = self.length_each if self.length is None else int(self.length[index])
        return int(self.local[index]), int(self.remote[index]), length


def as_number(value: Any, *, name: str) -> int:
    """A non-negative 64-bit integer, or a sentence."""
    try:
        number = value.__index__()
    except AttributeError:
        raise InvalidArgument(f"{name} is a {type(value).__name__}; write an integer") from None
    if not 0 <= number <= U64_MAX:
        raise InvalidArgument(f"{name} is {number}; write an integer from 0 to 2**64 - 1")
    return int(number)


def as_column(values: Any, *, name: str) -> U64:
    """A one-dimensional C-contiguous uint64 array; no copy when it is one already."""
    if isinstance(values, np.ndarray) and values.dtype == np.uint64 and values.ndim == 1:
        return np.ascontiguousarray(values)
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"{name} is no column of integers: {error}") from error
    if array.ndim != 1:
        raise InvalidArgument(f"{name} has {array.ndim} dimensions; a column has one")
    if array.size == 0:
        return np.empty(0, dtype=np.uint64)
    if array.dtype.kind == "O":
        # Lists that hold integers of 2**63 and more beside smaller ones end here.
        numbers = [as_number(v, name=f"{name}[{i}]") for i, v in enumerate(array.tolist())]
        return np.array(numbers, dtype=np.uint64)
    if array.dtype.kind == "f" and not isinstance(values, np.ndarray):
        # numpy makes floats of a list that mixes integers around 2**63.
        numbers = [as_number(v, name=f"{name}[{i}]") for i, v in enumerate(values)]
        return np.array(numbers, dtype=np.uint64)
    if array.dtype.kind not in "iu":
        raise InvalidArgument(f"{name} has dtype {array.dtype}; write integers")
    if array.dtype.kind == "i" and bool((array < 0).any()):
        at = int(np.argmax(array < 0))
        raise InvalidArgument(f"{name}[{at}] is {int(array[at])}; write integers from 0 on")
    return np.ascontiguousarray(array, dtype=np.uint64)


def is_column(values: Any) -> bool:
    """True for a sequence or array of numbers, False for a single number."""
    if isinstance(values, np.ndarray):
        return values.ndim > 0
    return hasattr(values, "__len__") or hasattr(values, "__iter__")


def offsets_to_addresses(base: int, offsets: Any, *, length: int, name: str) -> U64:
    """base + offsets, each offset inside [0, length)."""
    column = as_column(offsets, name=name)
    if len(column) and int(column.max()) >= length:
        at = int(np.argmax(column >= length))
        raise InvalidArgument(f"{name}[{at}] is {int(column[at])}; the region holds {length} bytes")
    return np.asarray(column + np.uint64(base), dtype=np.uint64)


def ready_columns(local: Any, remote: Any, length: Any) -> Columns | None:
    """Columns that need no conversion, the way of thousands of requests per call; else None."""
    if type(local) is not np.ndarray or type(remote) is not np.ndarray or type(length) is not int:
        return None
    if local.dtype != np.uint64 or remote.dtype != np.uint64 or local.shape != remote.shape:
        return None
    if local.ndim != 1 or not (local.flags.c_contiguous and remote.flags.c_contiguous):
        return None
    if not 0 <= length <= U64_MAX:
        return None
    return Columns(local, remote, None, length, None)


def make_columns(
    *,
    local: int | U64,
    remote: int | U64,
    length: Any,
    user_data: Any,
) -> Columns:
    """Broadcasts single numbers and checks that all columns are equally long."""
    given: dict[str, Any] = {"local": local, "remote": remote}
    given["length"] = as_column(length, name="length") if is_column(length) else length
    if user_data is not None:
        given["user_data"] = as_column(user_data, name="user_data")
    counts = {name: len(v) for name, v in given.items() if isinstance(v, np.ndarray)}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InvalidArgument(f"the columns differ in length: {text}")
    count = next(iter(counts.values()), 1)

    def full(value: int | U64) -> U64:
        return value if isinstance(value, np.ndarray) else np.full(count, value, dtype=np.uint64)

    lengths = given["length"]
    single = not isinstance(lengths, np.ndarray)
    return Columns(
        local=full(local),
        remote=full(remote),
        length=None if single else lengths,
        length_each=as_number(lengths, name="length") if single else 0,
        user_data=given.get("user_data"),
    )
