"""The bytes of an object are found without a copy, or refused with the reason."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

from tent import InvalidArgument, Memory, Unsupported
from tent.orchestration.buffers import buffer_facts


def address_of(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_either_order(order: Any) -> None:
    array = np.zeros((3, 5), dtype=np.float32, order=order)
    found = buffer_facts(array)
    assert (found.address, found.length, found.readonly) == (address_of(array), 60, False)


def test_a_bytearray_is_held_at_its_size() -> None:
    data = bytearray(100)
    found = buffer_facts(data)
    assert found.address == address_of(np.frombuffer(data, dtype=np.uint8))
    with pytest.raises(BufferError):
        data.extend(b"more")
    del found
    data.extend(b"more")


def test_a_map_is_held_open() -> None:
    with mmap.mmap(-1, 8192) as pages:
        found = buffer_facts(pages)
        assert found.length == 8192
        with pytest.raises(BufferError):
            pages.close()
        del found


@pytest.mark.parametrize("make", [lambda: b"bytes", lambda: memoryview(bytearray(5)).toreadonly()])
def test_read_only_is_seen(make: Any) -> None:
    assert buffer_facts(make()).readonly


def test_a_read_only_array_is_seen() -> None:
    array = np.zeros(4)
    array.flags.writeable = False
    assert buffer_facts(array).readonly


def test_memoryviews_of_other_items() -> None:
    view = memoryview(np.zeros((2, 3), dtype=np.int32))
    assert buffer_facts(view).length == 24


def test_tents_memory_refuses_to_go_while_it_is_held() -> None:
    memory = Memory(10_000)
    found = buffer_facts(memory)
    assert found.address == address_of(memory.numpy())
    assert found.address % mmap.PAGESIZE == 0
    del found
    memory.close()


class HostTensor:
    """Looks like a tensor of two-byte items that numpy does not know."""

    def __init__(self, array: Any, *, device: str = "cpu", contiguous: bool = True) -> None:
        self.array, self._contiguous, self.shape = array, contiguous, array.shape
        self.device = type("Device", (), {"type": device})()

    def data_ptr(self) -> int:
        return address_of(self.array)

    def is_contiguous(self) -> bool:
        return self._contiguous

    def numel(self) -> int:
        return int(self.array.size)

    def element_size(self) -> int:
        return 2


class DlpackOnly:
    """Gives DLPack and nothing else."""

    def __init__(self, array: Any, kind: int = 1) -> None:
        self._array, self._kind = array, kind

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._kind, 0


def test_a_host_tensor_by_its_pointer() -> None:
    array = np.zeros(8, dtype=np.int16)
    tensor = HostTensor(array)
    found = buffer_facts(tensor)
    assert (found.address, found.length, found.keep) == (address_of(array), 16, tensor)


def test_dlpack() -> None:
    array = np.zeros(8, dtype=np.float64)
    found = buffer_facts(DlpackOnly(array))
    assert (found.address, found.length) == (address_of(array), 64)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: np.zeros((4, 4))[:, 1], InvalidArgument, "not contiguous"),
        (lambda: memoryview(bytes(10))[::2], InvalidArgument, "not contiguous"),
        (lambda: np.array([object()]), InvalidArgument, "Python objects"),
        (lambda: np.zeros(0), InvalidArgument, "empty"),
        (lambda: b"", InvalidArgument, "empty"),
        (lambda: 5, InvalidArgument, "int has no bytes"),
        (lambda: [1, 2], InvalidArgument, "list has no bytes"),
        (lambda: HostTensor(np.zeros(4), device="cuda"), Unsupported, "lies on cuda"),
        (lambda: HostTensor(np.zeros(4), contiguous=False), InvalidArgument, "not contiguous"),
        (lambda: DlpackOnly(np.zeros(4), kind=2), Unsupported, "DLPack type 2"),
    ],
)
def test_what_cannot_be_registered_is_refused(make: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        buffer_facts(make())
