"""Tensors on a CUDA device, and the memory half of the backends that compute there."""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from glimpse_runtime.arrays import Array, IntArray
from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.cuda.device import Cuda
from glimpse_runtime.backends.cuda.transfer import Transfer
from glimpse_runtime.bundle.memory import ITEM_BYTES
from glimpse_runtime.errors import BackendError


@dataclass(eq=False)
class DeviceTensor:
    """A C-contiguous array in device memory.

    Attributes:
        address: of its first number.
        shape: length of every axis.
        dtype: numpy's name of the type, or ``bfloat16``.
        owner: what keeps the memory as long as this lives.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    owner: object

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the last axis but one."""
        return self.shape[-1] * ITEM_BYTES[self.dtype]


class Heap:
    """Device memory that is held; what is no longer used comes back to it, from whatever thread."""

    def __init__(self, cuda: Cuda) -> None:
        """Holds nothing."""
        self._cuda = cuda
        self._held: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(list(self._held.values()))

    def allocate(self, nbytes: int) -> tuple[int, object]:
        """Returns an address and what must live as long as it is used."""
        address = self._cuda.allocate(nbytes)
        self._held[address] = nbytes
        owner = _Block()
        weakref.finalize(owner, self.free, address).atexit = False
        return address, owner

    def free(self, address: int) -> None:
        """Gives memory back if it is still held."""
        if self._held.pop(address, None) is not None:
            self._cuda.free(address)

    def close(self) -> None:
        """Gives all of it back."""
        for address in list(self._held):
            self.free(address)


class Compaction(Protocol):
    """Moves kept rows to the front."""

    def __call__(self, buffers: Sequence[DeviceTensor], hidden: DeviceTensor, keep: IntArray) -> None:
        """Enqueues it; see ``Backend.compact``."""
        ...


class DeviceMemory:
    """The memory half of ``Backend`` on a CUDA device; all that it does is enqueued on one stream.

    Attributes:
        compaction: what moves kept rows; the backend chooses it.
    """

    on_host = False
    compaction: Compaction

    def __init__(self, cuda: Cuda) -> None:
        """Allocates what transfers need; the device is its own from now on."""
        self._cuda = cuda
        self._heap = Heap(cuda)
        try:
            self._transfer = Transfer(cuda)
        except BackendError:
            cuda.close()
            raise

    @property
    def cuda(self) -> Cuda:
        """The device."""
        return self._cuda

    @property
    def allocated_bytes(self) -> int:
        """Device memory that is held."""
        return self._heap.nbytes

    def allocate(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        """Returns zeroed memory; see ``Backend.allocate``."""
        tensor = self.empty(shape, dtype)
        self._cuda.zero(tensor.address, tensor.nbytes)
        return tensor

    def empty(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        """Returns memory that nothing was written to; it is given back with the last view of it."""
        address, owner = self._heap.allocate(math.prod(shape) * ITEM_BYTES[dtype])
        return DeviceTensor(address, tuple(shape), dtype, owner)

    def rows(self, tensor: Tensor, start: int, stop: int) -> DeviceTensor:
        """Returns a view; see ``Backend.rows``."""
        whole = device(tensor)
        shape = (*whole.shape[:-2], stop - start, whole.shape[-1])
        return DeviceTensor(whole.address + start * whole.row_bytes, shape, whole.dtype, whole.owner)

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copies numbers; see ``Backend.copy``."""
        to = device(target)
        if isinstance(source, np.ndarray):
            array = np.ascontiguousarray(source, to.dtype)
            _require_bytes(array.nbytes, to)
            self._transfer.upload(array, to.address)
            return
        found = device(source)
        if found.dtype != to.dtype:
            raise TypeError(f"expected a tensor of {to.dtype}, found {found.dtype}")
        _require_bytes(found.nbytes, to)
        self._cuda.copy(found.address, to.address, to.nbytes)

    def download(self, tensor: Tensor) -> Array:
        """Waits and returns the numbers, bfloat16 as float32; see ``Backend.download``."""
        found = device(tensor)
        raw = self._transfer.download(found.address, found.nbytes)
        if found.dtype == "bfloat16":
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(found.shape)
        return raw.view(found.dtype).reshape(found.shape)

    def compact(self, buffers: Sequence[Tensor], hidden: Tensor, keep: IntArray) -> None:
        """Moves kept rows to the front; see ``Backend.compact``."""
        self.compaction([device(buffer) for buffer in buffers], device(hidden), keep)

    def save(self, buffers: Sequence[Tensor], rows: int) -> list[Tensor]:
        """Copies rows; see ``Backend.save``."""
        saved: list[Tensor] = []
        for buffer in buffers:
            whole = device(buffer)
            _, heads, capacity, width = whole.shape
            part, row = self.empty((1, heads, rows, width), whole.dtype), whole.row_bytes
            self._cuda.copy_blocks(whole.address, capacity * row, part.address, rows * row, rows * row, heads)
            saved.append(part)
        return saved

    def restore(self, buffers: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
        """Writes rows back; see ``Backend.restore``."""
        for buffer, part in zip(buffers, saved, strict=True):
            whole, rows = device(buffer), device(part)
            _, heads, count, _ = rows.shape
            capacity, row = whole.shape[2], whole.row_bytes
            self._cuda.copy_blocks(rows.address, count * row, whole.address, capacity * row, count * row, heads)

    def close(self) -> None:
        """Waits, and frees everything that is still held."""
        self._heap.close()
        self._cuda.close()


class _Block:
    """What the views of a piece of memory keep alive."""


def device(tensor: Tensor) -> DeviceTensor:
    """Returns a tensor that lies on the device as one.

    Raises:
        TypeError: it does not.
    """
    if not isinstance(tensor, DeviceTensor):
        raise TypeError(f"expected a tensor on the device, found {type(tensor).__name__}")
    return tensor


def _require_bytes(found: int, target: DeviceTensor) -> None:
    if found != target.nbytes:
        raise BackendError(f"{found} bytes cannot be copied to a tensor of shape {target.shape}, {target.nbytes} bytes")
