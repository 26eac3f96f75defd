"""Where an object's bytes lie: buffer protocol, numpy, DLPack and tensors by duck type.

Leans on numpy; imports neither the native module nor a tensor library. It must never copy: an
object whose bytes are not one contiguous piece of host memory is refused with a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tent.errors import InvalidArgument, Unsupported

_DLPACK_HOST = {1: "cpu", 3: "pinned cpu"}  # kDLCPU, kDLCUDAHost of dlpack.h


@dataclass(frozen=True)
class BufferFacts:
    """A piece of host memory and what must stay referenced for it to stay there."""

    address: int
    length: int
    readonly: bool
    keep: object

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.address + self.length


def buffer_facts(obj: Any) -> BufferFacts:
    """Finds the bytes of `obj` without copying.

    Accepts numpy arrays, everything with the buffer protocol (bytearray, memoryview, mmap,
    bytes), tensors with `data_ptr()` and objects with `__dlpack__`, all of them contiguous and in
    host memory.
    """
    if isinstance(obj, np.ndarray):
        return _of_array(obj, keep=obj)
    if hasattr(obj, "data_ptr") and hasattr(obj, "is_contiguous"):
        return _of_tensor(obj)
    try:
        view = memoryview(obj)
    except TypeError:
        view = None
    except BufferError as error:
        raise InvalidArgument(f"{_name(obj)} does not give its buffer: {error}") from error
    if view is not None:
        return _of_view(obj, view)
    if hasattr(obj, "__dlpack__"):
        return _of_dlpack(obj)
    if hasattr(obj, "__array__"):
        # An object that makes an array of its own bytes (tent's Memory on older Pythons does).
        array = np.asarray(obj)
        if array.base is not None:
            return _of_array(array, keep=array)
    raise InvalidArgument(
        f"{_name(obj)} has no bytes to register: give a numpy array, an object with the buffer "
        "protocol, or a tensor with __dlpack__"
    )


def _of_array(array: np.ndarray[Any, Any], *, keep: object) -> BufferFacts:
    if array.dtype.hasobject:
        raise InvalidArgument(f"an array of dtype {array.dtype} holds Python objects, not bytes")
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        raise InvalidArgument(
            f"the array of shape {array.shape} with strides {array.strides} is not contiguous; "
            "register the array it is a view of, and address parts of it by offset"
        )
    address = int(array.__array_interface__["data"][0])
    return _facts(address, array.nbytes, readonly=not array.flags.writeable, keep=keep)


def _of_view(obj: object, view: memoryview) -> BufferFacts:
    if not view.contiguous:
        raise InvalidArgument(
            f"{_name(obj)} of shape {view.shape} with strides {view.strides} is not contiguous; "
            "register what it is a view of, and address parts of it by offset"
        )
    if view.nbytes == 0:
        raise InvalidArgument(f"{_name(obj)} is empty: there are no bytes to register")
    # The view, not the object: while it is held, a bytearray cannot be resized nor a mmap closed.
    if view.c_contiguous:
        array = np.frombuffer(view, dtype=np.uint8)
    else:
        array = np.asarray(view)
    address = int(array.__array_interface__["data"][0])
    return _facts(address, view.nbytes, readonly=view.readonly, keep=view)


def _of_tensor(tensor: Any) -> BufferFacts:
    device = str(getattr(getattr(tensor, "device", None), "type", "cpu"))
    if device != "cpu":
        raise Unsupported(
            f"the tensor lies on {device}; only host memory can be registered in this version"
        )
    if not tensor.is_contiguous():
        raise InvalidArgument(
            f"the tensor of shape {tuple(tensor.shape)} is not contiguous; register its base, or "
            "make it contiguous first"
        )
    length = int(tensor.numel()) * int(tensor.element_size())
    return _facts(int(tensor.data_ptr()), length, readonly=False, keep=tensor)


def _of_dlpack(obj: Any) -> BufferFacts:
    kind, _ = obj.__dlpack_device__()
    if int(kind) not in _DLPACK_HOST:
        raise Unsupported(
            f"{_name(obj)} lies on a device (DLPack type {int(kind)}); only host memory can be "
            "registered in this version"
        )
    try:
        array = np.from_dlpack(obj)
    except (BufferError, TypeError, RuntimeError) as error:
        raise InvalidArgument(f"{_name(obj)} does not give its bytes by DLPack: {error}") from error
    return _of_array(array, keep=(obj, array))


def _facts(address: int, length: int, *, readonly: bool, keep: object) -> BufferFacts:
    if length == 0:
        raise InvalidArgument("the buffer is empty: there are no bytes to register")
    return BufferFacts(address=address, length=length, readonly=readonly, keep=keep)


def _name(obj: object) -> str:
    kind = type(obj)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
