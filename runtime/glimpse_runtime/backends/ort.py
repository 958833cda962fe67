"""ONNX Runtime on the CPU: state lives in numpy arrays that the graphs extend in place through IO binding."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glimpse_runtime.compaction import compact_rows
from glimpse_runtime.errors import BackendError
from glimpse_runtime.manifest import StageSpec
from glimpse_runtime.types import Array, IntArray

_PROVIDERS = ["CPUExecutionProvider"]


class OrtBackend:
    """Runs graphs with onnxruntime's CPU provider."""

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        """Imports onnxruntime.

        Raises:
            BackendError: onnxruntime is not installed.
        """
        try:
            import onnxruntime
        except ImportError:
            raise BackendError('onnxruntime is not installed; run: pip install "glimpse-edge[cpu]"') from None
        self._ort: Any = onnxruntime
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads or 0
        self._options.log_severity_level = 3
        # Spinning threads starve each other where cores are shared: decode took 284 ms with it, 95 ms without.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def allocate(self, shape: Sequence[int], dtype: str) -> Array:
        """Returns a zeroed numpy array."""
        return np.zeros(tuple(shape), dtype)

    def load(self, graph: Path, stage: StageSpec, state: Mapping[str, Array]) -> "OrtEngine":
        """Loads a graph; see ``Backend.load``.

        Raises:
            BackendError: onnxruntime cannot load the graph.
        """
        try:
            session = self._ort.InferenceSession(os.fspath(graph), self._options, providers=_PROVIDERS)
        except Exception as error:
            raise BackendError(f"onnxruntime cannot load {graph}: {error}") from None
        return OrtEngine(session, stage, state)

    def compact(self, buffers: Sequence[Array], keep: IntArray) -> None:
        """Moves kept rows to the front; see ``Backend.compact``."""
        for buffer in buffers:
            compact_rows(buffer, keep)

    def close(self) -> None:
        """Does nothing: numpy frees the state with its last user."""


class OrtEngine:
    """One onnxruntime session and the state its graph extends in place."""

    def __init__(self, session: Any, stage: StageSpec, state: Mapping[str, Array]) -> None:
        """Keeps ``state`` for the graph's ``past.*`` inputs and ``present.*`` outputs."""
        self._session = session
        self._state = dict(state)
        self._inputs = [tensor for tensor in stage.inputs if not tensor.name.startswith("past.")]
        self._outputs = [tensor.name for tensor in stage.outputs if not tensor.name.startswith("present.")]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the graph; see ``Engine.run``.

        Raises:
            BackendError: an input is missing, or onnxruntime fails.
        """
        # A binding keeps the shapes of its outputs, and these change from call to call: a new one each time.
        binding = self._session.io_binding()
        bound = []
        for spec in self._inputs:
            if spec.name not in inputs:
                raise BackendError(f"input {spec.name!r} of the graph was not given")
            array = np.require(inputs[spec.name], spec.dtype, "C")
            bound.append(array)
            _bind(binding.bind_input, spec.name, array)
        for name, array in self._state.items():
            _bind(binding.bind_input, f"past.{name}", array)
            _bind(binding.bind_output, f"present.{name}", array)
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise BackendError(f"onnxruntime failed: {error}") from None
        values = binding.get_outputs()[len(self._state) :]
        return {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}

    def close(self) -> None:
        """Drops the session and its state."""
        self._session = None
        self._state = {}


def _bind(bind: Any, name: str, array: Array) -> None:
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
