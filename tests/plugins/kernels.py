"""The kernel library behind the same call, in host memory and in a GPU's; all that it must not touch is watched."""

import ctypes
import os
import shutil
from functools import cache
from typing import Protocol

import numpy as np
import pytest
from compaction_cases import Case

from glimpse_plugins.build import build_host, build_plugin
from glimpse_plugins.errors import PluginError
from glimpse_plugins.library import CompactLibrary, Keep, KeepForm, Rows, cache_rows, hidden_rows, position_rows
from glimpse_plugins.toolchain import find_nvcc, gpu_architecture
from glimpse_runtime.backends.compact import Compacted

GUARD_BYTES, GUARD = 512, 0xA5


class Memory(Protocol):
    """Where a kernel's tensors lie; ``driver.Gpu`` is one."""

    @property
    def stream(self) -> int: ...

    def allocate(self, nbytes: int) -> int: ...

    def write(self, address: int, content: np.ndarray) -> None: ...

    def read(self, address: int, nbytes: int) -> np.ndarray: ...

    def free(self) -> None: ...


class HostMemory:
    """Memory of the process, aligned as a GPU's is."""

    stream = 0

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []

    def allocate(self, nbytes: int) -> int:
        self._blocks.append(np.empty(nbytes + 256, np.uint8))
        address = self._blocks[-1].ctypes.data
        return address + -address % 256

    def write(self, address: int, content: np.ndarray) -> None:
        ctypes.memmove(address, content.ctypes.data, content.nbytes)

    def read(self, address: int, nbytes: int) -> np.ndarray:
        return np.frombuffer(ctypes.string_at(address, nbytes), np.uint8)

    def free(self) -> None:
        self._blocks.clear()


class Block:
    """An array in a kernel's memory, between two guards."""

    def __init__(self, memory: Memory, array: np.ndarray, misaligned_bytes: int) -> None:
        self._memory, self._shape, self._dtype, self._nbytes = memory, array.shape, array.dtype, array.nbytes
        guard = np.full(GUARD_BYTES + misaligned_bytes, GUARD, np.uint8)
        whole = np.concatenate([guard, np.ascontiguousarray(array).reshape(-1).view(np.uint8), guard])
        self.start = memory.allocate(whole.nbytes)
        memory.write(self.start, whole)
        self._guard_bytes = guard.nbytes
        self.address = self.start + guard.nbytes

    def read(self) -> np.ndarray:
        """Returns the array, after a look at the guards."""
        whole = self._memory.read(self.start, self._nbytes + 2 * self._guard_bytes)
        content, guards = whole[self._guard_bytes : -self._guard_bytes], np.ones(len(whole), bool)
        guards[self._guard_bytes : -self._guard_bytes] = False
        assert (whole[guards] == GUARD).all(), "written outside of the tensor"
        return content.copy().view(self._dtype).reshape(self._shape)


class Kernel:
    """The kernel library, called with a mask or an index list, in place or not."""

    def __init__(
        self, library: CompactLibrary, memory: Memory, form: KeepForm, in_place: bool, misaligned_bytes: int = 0
    ) -> None:
        self._library, self._memory, self._form, self._in_place = library, memory, form, in_place
        self._misaligned_bytes = misaligned_bytes

    def __call__(self, case: Case) -> Compacted:
        arrays = [case.hidden, case.positions, *case.buffers]
        sources = [Block(self._memory, array, self._misaligned_bytes) for array in arrays]
        results = sources
        if not self._in_place:
            results = [Block(self._memory, np.zeros_like(array), self._misaligned_bytes) for array in arrays]
        addresses = [(source.address, result.address) for source, result in zip(sources, results, strict=True)]
        listed = keep_array(case.keep, self._form)
        keep = Block(self._memory, listed, 0)
        count = Block(self._memory, np.full(1, -1, np.int32), 0)
        told = Keep(keep.address, self._form, case.rows, len(listed))
        self._library.compact(tensors_of(case, addresses), told, count.address, self._memory.stream)
        hidden, positions, *buffers = (result.read() for result in results)
        kept = int(count.read()[0])
        assert np.array_equal(keep.read(), listed)
        if not self._in_place:
            for source, array in zip(sources, arrays, strict=True):
                assert source.read().tobytes() == array.tobytes(), "a source was written to"
        self._memory.free()
        packed = positions.reshape(-1)[: 3 * kept].reshape(3, kept)
        return Compacted(kept, hidden[:, :kept], packed, tuple(buffers))


def tensors_of(case: Case, addresses: list[tuple[int, int]]) -> list[Rows]:
    """What the library is told of a case; addresses of hidden states, positions and caches from where to where."""
    hidden, positions, *buffers = addresses
    geometry = case.geometry
    width_bytes = geometry.width * geometry.cache.itemsize
    return [
        hidden_rows(*hidden, case.rows, geometry.hidden * case.hidden.itemsize),
        position_rows(*positions, case.rows),
        *(cache_rows(*buffer, geometry.kv_heads, geometry.capacity, width_bytes) for buffer in buffers),
    ]


def keep_array(keep: np.ndarray, form: KeepForm) -> np.ndarray:
    """A keep mask in the form that the library is told; any value but zero keeps a row."""
    if form is KeepForm.INDEX_INT32:
        return np.flatnonzero(keep).astype(np.int32)
    kind, value = (np.uint8, 0x80) if form is KeepForm.MASK_BYTES else (np.int32, 1 << 30)
    return np.where(keep, value, 0).astype(kind)


@cache
def host_library() -> CompactLibrary:
    """The library for the host, built once."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    return CompactLibrary(build_host().library)


def host_kernel(form: KeepForm, in_place: bool, order: int = 0, misaligned_bytes: int = 0) -> Kernel:
    """The library for the host; ``order`` is that of threads and blocks."""
    library = host_library()
    library._library.glimpse_compact_host_order(ctypes.c_uint32(order))
    return Kernel(library, HostMemory(), form, in_place, misaligned_bytes)


@cache
def gpu_library() -> tuple[CompactLibrary, Memory]:
    """The library for this machine's GPU, built once, and the GPU."""
    try:
        gpu_architecture()
        find_nvcc()
    except PluginError as error:
        pytest.skip(str(error))
    from benchmarks.speed.gpu.driver import Gpu

    return CompactLibrary(build_plugin().library), Gpu()


def gpu_kernel(form: KeepForm, in_place: bool, misaligned_bytes: int = 0) -> Kernel:
    """The library on a GPU."""
    return Kernel(*gpu_library(), form, in_place, misaligned_bytes)
