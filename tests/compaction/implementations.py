"""Every implementation of the compaction behind one call: a case in, what is left of it out.

Each class makes itself or skips the test with the reason.
"""

import ctypes
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import pytest
from compaction_cases import Case, Geometry

from glimpse_plugins.build import build_host
from glimpse_plugins.library import CompactLibrary, Keep, KeepForm, cache_rows, hidden_rows, position_rows
from glimpse_runtime.compaction import Compacted, compact_prompt

BFLOAT16_IN_ONNX = 16


class Implementation(Protocol):
    def __call__(self, case: Case) -> Compacted: ...


class Numpy:
    """The definition."""

    def __init__(self, in_place: bool) -> None:
        self._in_place = in_place

    def __call__(self, case: Case) -> Compacted:
        return compact_prompt(case.keep, case.hidden, case.positions, case.buffers, self._in_place)


class OnnxFunction:
    """The function body in onnxruntime on the CPU."""

    def __init__(self, opset: int, folder: Path) -> None:
        self._opset = opset
        self._folder = folder
        self._session = cache(self._load)

    def __call__(self, case: Case) -> Compacted:
        return run_session(self._session(case.geometry), case)

    def _load(self, geometry: Geometry) -> Any:
        onnxruntime = pytest.importorskip("onnxruntime")
        path = self._folder / f"{hash((self._opset, geometry))}.onnx"
        save_graph(path, self._opset, geometry)
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def save_graph(path: Path, opset: int, geometry: Geometry) -> None:
    """Writes the graph of the compact stage."""
    pytest.importorskip("onnx_ir")
    from glimpse_export.graphs.builder import GraphBuilder
    from glimpse_export.graphs.compact import CompactAuthor
    from glimpse_export.graphs.weights import WeightLayout

    graph = GraphBuilder("compact", WeightLayout(path.with_suffix(".data")), opset)
    CompactAuthor(geometry.layers, geometry.hidden, geometry.cache_shape, geometry.cache).author(graph)
    graph.save(path)


def run_session(session: Any, case: Case) -> Compacted:
    """Runs a compact graph; numpy has no bfloat16 of its own, so its bits go through int16."""
    import onnxruntime

    binding = session.io_binding()
    names = [entry.name for entry in session.get_inputs()]
    for name, array in zip(names, [case.keep, case.hidden, case.positions, *case.buffers], strict=True):
        binding.bind_ortvalue_input(name, _value(onnxruntime, array))
    outputs = [entry.name for entry in session.get_outputs()]
    for name in outputs[:3]:
        binding.bind_output(name)
    buffers = [np.empty_like(buffer) for buffer in case.buffers]
    values = [_value(onnxruntime, buffer) for buffer in buffers]
    for name, value in zip(outputs[3:], values, strict=True):
        binding.bind_ortvalue_output(name, value)
    session.run_with_iobinding(binding)
    count, hidden, positions = (value.numpy() for value in binding.get_outputs()[:3])
    assert count.shape == ()
    assert count.dtype == np.int32
    return Compacted(int(count), hidden, positions, tuple(buffers))


def _value(onnxruntime: Any, array: np.ndarray) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.int16), BFLOAT16_IN_ONNX)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


class HostKernel:
    """The kernel's logic, compiled for the host."""

    def __init__(self, in_place: bool, form: KeepForm, seed: int = 0) -> None:
        self._in_place, self._form, self._seed = in_place, form, seed
        self._library = host_library()

    def __call__(self, case: Case) -> Compacted:
        self._library.order(self._seed)
        return run_kernel(self._library, case, self._form, self._in_place)


@cache
def host_library() -> "OrderedLibrary":
    """The library for the host, built once."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    return OrderedLibrary(build_host().library)


class OrderedLibrary(CompactLibrary):
    """The library for the host, whose simulated threads and blocks can be put in another order."""

    def order(self, seed: int) -> None:
        self._library.glimpse_compact_host_order(ctypes.c_uint32(seed))


def run_kernel(library: CompactLibrary, case: Case, form: KeepForm, in_place: bool) -> Compacted:
    """Calls the kernel library with host addresses."""
    rows, width = case.rows, case.geometry.width * case.geometry.cache.itemsize
    arrays = [case.hidden, case.positions, *case.buffers]
    results = arrays if in_place else [np.full_like(array, 1) for array in arrays]
    addresses = [(array.ctypes.data, result.ctypes.data) for array, result in zip(arrays, results, strict=True)]
    hidden, positions, *buffers = addresses
    tensors = [
        hidden_rows(*hidden, rows, case.hidden.shape[2] * case.hidden.itemsize),
        position_rows(*positions, rows),
        *(cache_rows(*buffer, case.geometry.kv_heads, case.geometry.capacity, width) for buffer in buffers),
    ]
    count = np.full(1, -1, np.int32)
    listed = keep_array(case.keep, form)
    keep = Keep(listed.ctypes.data, form, rows, len(listed))
    library.compact(tensors, keep, count.ctypes.data)
    kept = int(count[0])
    positions_out = results[1].reshape(-1)[: 3 * kept].reshape(3, kept)
    return Compacted(kept, results[0][:, :kept], positions_out, tuple(results[2:]))


def keep_array(keep: np.ndarray, form: KeepForm) -> np.ndarray:
    """A keep mask in the form that the library is told; any value but zero keeps a row."""
    if form is KeepForm.INDEX_INT32:
        return np.flatnonzero(keep).astype(np.int32)
    kind, value = (np.uint8, 0x80) if form is KeepForm.MASK_BYTES else (np.int32, 1 << 30)
    return np.where(keep, value, 0).astype(kind)
