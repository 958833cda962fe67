"""Compaction in device memory, in place: by one kernel launch, or where there is no compiler by way of the host."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.backends.cuda.kernel import CompactModule
from glimpse_runtime.backends.cuda.memory import Compaction, DeviceMemory, DeviceTensor
from glimpse_runtime.engines.gpu import Gpu
from glimpse_runtime.errors import BackendError

log = logging.getLogger("glimpse")


class Kernels(Protocol):
    """What compacts tensors of the device, whoever compiled it."""

    def compact(self, tensors: Sequence[Any], keep: Any, count: int = 0, stream: int = 0) -> None:
        """Enqueues it; see ``glimpse_plugins.library.CompactLibrary``."""
        ...


def choose_compaction(memory: DeviceMemory, gpu: Gpu | None) -> Compaction:
    """Returns the kernel for a GPU; where there is no way to have one, the way by the host, with a warning."""
    found = find_kernels(memory, gpu)
    if found is not None:
        return found
    log.warning("kept tokens are compacted by way of the host, some milliseconds a question")
    return HostCompaction(memory)


def find_kernels(memory: DeviceMemory, gpu: Gpu | None) -> "KernelCompaction | None":
    """Returns compaction by the kernel: compiled by NVRTC, or in the library that nvcc built; None if there is none."""
    from glimpse_plugins.find import find_kernel_library
    from glimpse_plugins.library import CompactLibrary

    if gpu is None:
        return None
    try:
        return KernelCompaction(memory, CompactModule(memory.cuda, gpu.capability))
    except BackendError as error:
        reason = error
    path = find_kernel_library(gpu.capability)
    if path is not None:
        try:
            return KernelCompaction(memory, CompactLibrary(path))
        except BackendError as error:
            reason = error
    log.warning("the compaction kernel cannot be had: %s", reason)
    return None


class KernelCompaction:
    """One launch of the kernel moves the rows of all tensors."""

    def __init__(self, memory: DeviceMemory, kernels: Kernels) -> None:
        """Takes the memory that the tensors lie in, and the kernel for its device."""
        self._memory = memory
        self._kernels = kernels

    def __call__(self, buffers: Sequence[DeviceTensor], hidden: DeviceTensor, keep: IntArray) -> None:
        """Enqueues it; see ``Backend.compact``."""
        from glimpse_plugins.library import Keep, KeepForm, cache_rows, hidden_rows

        rows = hidden.shape[1]
        index = self._memory.empty((len(keep),), "int32")
        self._memory.copy(keep.astype(np.int32), index)
        tensors = [
            cache_rows(buffer.address, buffer.address, buffer.shape[1], buffer.shape[2], buffer.row_bytes)
            for buffer in buffers
        ]
        tensors.append(hidden_rows(hidden.address, hidden.address, rows, hidden.row_bytes))
        kept = Keep(index.address, KeepForm.INDEX_INT32, rows, len(keep))
        self._kernels.compact(tensors, kept, stream=int(self._memory.cuda.stream.handle))


class HostCompaction:
    """The rows that move go to the host, which puts them in order, and come back: four copies and a wait a tensor."""

    def __init__(self, memory: DeviceMemory) -> None:
        """Takes the memory that the tensors lie in."""
        self._memory = memory

    def __call__(self, buffers: Sequence[DeviceTensor], hidden: DeviceTensor, keep: IntArray) -> None:
        """Does it; see ``Backend.compact``."""
        moved = np.flatnonzero(keep != np.arange(len(keep)))
        if not len(moved):
            return  # the kept rows are the first ones already
        first, last = int(moved[0]), int(keep[-1]) + 1
        order = keep[first:] - first
        for tensor in buffers:
            self._move(tensor, tensor.shape[1], tensor.shape[2], first, last, order)
        self._move(hidden, 1, hidden.shape[1], first, last, order)

    def _move(self, tensor: DeviceTensor, groups: int, capacity: int, first: int, last: int, order: IntArray) -> None:
        memory, row = self._memory, tensor.row_bytes
        start, pitch, taken = tensor.address + first * row, capacity * row, (last - first) * row
        scratch = memory.empty((groups, last - first, row), "uint8")
        memory.cuda.copy_blocks(start, pitch, scratch.address, taken, taken, groups)
        rows = memory.download(scratch)[:, order]
        back = DeviceTensor(scratch.address, rows.shape, "uint8", scratch.owner)
        memory.copy(rows, back)
        memory.cuda.copy_blocks(scratch.address, len(order) * row, start, pitch, len(order) * row, groups)
