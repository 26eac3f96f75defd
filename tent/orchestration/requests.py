"""From what callers write as local, remote and length to columns of requests.

Leans on columns, buffers and segments. The native side checks ranges and access once more; what
it cannot know is checked here alone: that a destination is not in a read-only buffer.
"""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from tent.errors import Denied, InvalidArgument, NotFound
from tent.orchestration.buffers import BufferFacts, buffer_facts
from tent.orchestration.columns import (
    U64,
    Columns,
    as_column,
    as_number,
    is_column,
    make_columns,
    offsets_to_addresses,
    ready_columns,
)
from tent.orchestration.memory import Region, Span
from tent.orchestration.transfer import Place
from tent.types import Op, RegionInfo, parse_op

if TYPE_CHECKING:
    from tent.orchestration.engine import Engine
    from tent.orchestration.segment import Segment

_NO_LENGTH = "length is missing; only a region or a span has one of its own"

Remote = int | str | RegionInfo | tuple[RegionInfo | str, int]


def one_request(
    engine: Engine, segment: Segment, op: Op, local: Any, remote: Any, length: int | None
) -> Place:
    """The request of a write or read call, where a numpy array is a buffer."""
    _same_engine(engine, segment)
    if isinstance(local, Region | Span | tuple | Integral):
        where, room = _local_place(engine, local)
    else:
        facts = buffer_facts(local)
        where, room = facts.address, facts.length
        if op is Op.READ and facts.readonly:
            raise Denied(
                f"the buffer at {where:#x} is read-only: it cannot be the destination of a read",
                address=where,
                length=room,
            )
    there = remote if type(remote) is int else segment.resolve(remote)
    if not isinstance(where, int) or not isinstance(there, int):
        raise InvalidArgument("write and read take one request; use submit for columns")
    place = (where, as_number(there, name="remote"), _one_length(length, room))
    if op is Op.READ and engine.readonly_buffers:
        columns = make_columns(local=place[0], remote=place[1], length=place[2], user_data=None)
        refuse_readonly(columns, engine.readonly_buffers, engine.buffers)
    return place


def _one_length(length: Any, room: int | None) -> int:
    if length is None:
        if room is None:
            raise InvalidArgument(_NO_LENGTH)
        return room
    size = as_number(length, name="length")
    if room is not None and size > room:
        raise InvalidArgument(f"length is {size}, but local holds {room} bytes")
    return size


def many_requests(
    engine: Engine,
    segment: Segment,
    op: Op | str,
    local: Any,
    remote: Any,
    length: Any,
    user_data: Any,
) -> Columns:
    """The requests of a submit call, checked as far as Python has to."""
    direction = parse_op(op)
    _same_engine(engine, segment)
    columns = ready_columns(local, remote, length) if user_data is None else None
    if columns is not None:
        if direction is Op.READ:
            refuse_readonly(columns, engine.readonly_buffers, engine.buffers)
        return columns
    where, room = _local_place(engine, local)
    if length is None or not is_column(length):
        length = _one_length(length, room)
    columns = make_columns(
        local=where, remote=segment.resolve(remote), length=length, user_data=user_data
    )
    if direction is Op.READ:
        refuse_readonly(columns, engine.readonly_buffers, engine.buffers)
    return columns


def _local_place(engine: Engine, local: Any) -> tuple[int | U64, int | None]:
    """(address or addresses, bytes there when that is known)."""
    if isinstance(local, Region):
        return _own(engine, local).address, local.length
    if isinstance(local, Span):
        return _own(engine, local.region).address + local.offset, local.length
    if isinstance(local, tuple) and len(local) == 2 and isinstance(local[0], Region):
        region, offset = _own(engine, local[0]), local[1]
        if is_column(offset):
            addresses = offsets_to_addresses(
                region.address, offset, length=region.length, name="local offset"
            )
            return addresses, None
        number = as_number(offset, name="local offset")
        if number >= region.length:
            raise InvalidArgument(
                f"local offset {number} lies outside a region of {region.length} bytes"
            )
        return region.address + number, region.length - number
    if is_column(local):
        return as_column(local, name="local"), None
    return as_number(local, name="local"), None


def explained_places(
    engine: Engine, segment: Segment, local: str | Region, remote: str | RegionInfo
) -> tuple[str, str, int]:
    """Both sides' locations for a request that need not exist, and the address of a region that
    `remote` names, else 0."""
    _same_engine(engine, segment)
    here = _own(engine, local).location if isinstance(local, Region) else local
    if isinstance(remote, RegionInfo):
        return here, remote.location, remote.address
    # A label first: of the words without a number only "file" and what the peer has are locations.
    regions = segment.regions
    is_label = any(info.label == remote for info in regions)
    is_location = ":" in remote or remote in ("file", *(info.location for info in regions))
    if is_label or not is_location:
        named = segment.region(remote)
        return here, named.location, named.address
    return here, remote, 0


def _same_engine(engine: Engine, segment: Segment) -> None:
    if segment.engine is not engine:
        raise InvalidArgument(f"segment {segment.name} was opened by another engine")


def _own(engine: Engine, region: Region) -> Region:
    if region.engine is not engine:
        raise InvalidArgument(f"{region!r} was registered with another engine")
    if region.released:
        raise NotFound(f"{region!r} cannot be used any more")
    return region


def refuse_readonly(
    columns: Columns, readonly: Collection[BufferFacts], registered: Collection[BufferFacts]
) -> None:
    """Refuses destinations in read-only buffers, unless a writable region holds them whole."""
    if not readonly:
        return
    lengths = columns.length if columns.length is not None else np.uint64(columns.length_each)
    begin, end = columns.local, columns.local + lengths
    suspect = np.zeros(columns.count, dtype=bool)
    for facts in readonly:
        suspect |= (begin < np.uint64(facts.end)) & (end > np.uint64(facts.address))
    if not suspect.any():
        return
    for facts in registered:
        if not facts.readonly:
            suspect &= ~((begin >= np.uint64(facts.address)) & (end <= np.uint64(facts.end)))
    if suspect.any():
        index = int(np.argmax(suspect))
        local, _, length = columns.request(index)
        raise Denied(
            f"request {index} would read {length} bytes into {local:#x}, which lies in a read-only "
            "buffer",
            address=local,
            length=length,
            index=index,
        )
