"""Every implementation of the compaction behind one call: a case in, what is left of it out.

Each class makes itself or skips the test with the reason.
"""

from functools import cache
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import pytest
from compaction_cases import Case, Geometry

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
