"""The compaction by numpy and by onnxruntime behind one call: a case in, what is left of it out.

Where something is missing, the test is skipped with the reason.
"""

import dataclasses
import os
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import pytest
from compaction_cases import Case, Geometry

from glimpse_plugins.build import build_onnxruntime
from glimpse_runtime.backends.compact import Compacted, compact_prompt

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
    from glimpse_export.weights.file import WeightLayout

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


class OrtOperator(OnnxFunction):
    """The same graph where the operator library for the CPU is registered, so that the node is run and not its body."""

    def __init__(self, folder: Path, mask: type = np.bool_) -> None:
        super().__init__(24, folder)
        self._mask = mask

    def __call__(self, case: Case) -> Compacted:
        keep = case.keep if self._mask is np.bool_ else np.where(case.keep, 1 << 30, 0).astype(self._mask)
        return super().__call__(dataclasses.replace(case, keep=keep))

    def _load(self, geometry: Geometry) -> Any:
        onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
        library = ort_library()
        path = self._folder / f"{hash(geometry)}.onnx"
        save_graph(path, 24, geometry)
        model = onnx.load(path)
        del model.functions[:]
        model.graph.input[0].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self._mask))
        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library(str(library))
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@cache
def ort_library() -> Path:
    """The operator library for the CPU, built once."""
    include = os.environ.get("ONNXRUNTIME_INCLUDE_DIR")
    if not include:
        pytest.skip("ONNXRUNTIME_INCLUDE_DIR does not name the folder of onnxruntime_c_api.h")
    return build_onnxruntime(Path(include), None).library
