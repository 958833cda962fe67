"""Compaction in device memory, in place: by one kernel launch, or where there is no kernel library by copies."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.backends.cuda.memory import Compaction, DeviceMemory, DeviceTensor
from glimpse_runtime.engines.gpu import Gpu

log = logging.getLogger("glimpse")


def choose_compaction(memory: DeviceMemory, gpu: Gpu | None) -> Compaction:
    """Returns the kernels that were built for a GPU; where there are none, copies."""
    return find_kernels(memory, gpu) or CopyCompaction(memory)


def find_kernels(memory: DeviceMemory, gpu: Gpu | None) -> "KernelCompaction | None":
    """Returns compaction by the kernel library that was built for a GPU; None if there is none."""
    from glimpse_plugins.errors import PluginError
    from glimpse_plugins.find import find_kernel_library
    from glimpse_plugins.library import CompactLibrary

    path = None if gpu is None else find_kernel_library(gpu.capability)
    if path is None:
        log.info("the compaction kernels were not built for this GPU, copies take their place: see glimpse_plugins")
        return None
    try:
        return KernelCompaction(memory, CompactLibrary(path))
    except PluginError as error:
        log.warning("%s", error)
        return None


class KernelCompaction:
    """One launch of the kernel library moves the rows of all tensors."""

    def __init__(self, memory: DeviceMemory, library: Any) -> None:
        """Takes an open ``glimpse_plugins.library.CompactLibrary``."""
        self._memory = memory
        self._library = library

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
        self._library.compact(tensors, kept, stream=int(self._memory.cuda.stream.handle))


class CopyCompaction:
    """Copies of the device: runs of kept rows are gathered in scratch memory and come back as one run."""

    def __init__(self, memory: DeviceMemory) -> None:
        """Takes the memory that the tensors lie in."""
        self._memory = memory

    def __call__(self, buffers: Sequence[DeviceTensor], hidden: DeviceTensor, keep: IntArray) -> None:
        """Enqueues it; see ``Backend.compact``."""
        cuts = np.flatnonzero(np.diff(keep, prepend=-1) != 1)  # where a run begins that does not follow the last row
        if not len(cuts):
            return  # the kept rows are the first ones already
        still = int(cuts[0])
        runs = [(int(run[0]), len(run)) for run in np.split(keep, cuts)[1:]]
        moved = len(keep) - still
        most = max(tensor.shape[1] * tensor.row_bytes for tensor in buffers) if buffers else 0
        scratch = self._memory.empty((moved * max(most, hidden.row_bytes),), "uint8")
        for tensor in buffers:
            self._move(tensor.address, tensor.shape[1], tensor.shape[2], tensor.row_bytes, still, runs, scratch.address)
        self._move(hidden.address, 1, hidden.shape[1], hidden.row_bytes, still, runs, scratch.address)

    def _move(
        self,
        address: int,
        groups: int,
        capacity: int,
        row_bytes: int,
        still: int,
        runs: Sequence[tuple[int, int]],
        scratch: int,
    ) -> None:
        cuda = self._memory.cuda
        pitch, moved = capacity * row_bytes, sum(count for _, count in runs) * row_bytes
        done = 0
        for start, count in runs:
            width = count * row_bytes
            cuda.copy_blocks(address + start * row_bytes, pitch, scratch + done, moved, width, groups)
            done += width
        cuda.copy_blocks(scratch, moved, address + still * row_bytes, pitch, moved, groups)
