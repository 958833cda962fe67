"""ONNX Runtime on the CPU: state lives in numpy arrays that the graphs extend in place through IO binding."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.host import HostMemory, host
from glimpse_runtime.errors import BackendError
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.manifest import StageSpec
from glimpse_runtime.types import Array

log = logging.getLogger("glimpse")

# Address space that is taken at once and used as needed; chunks are cut to size, or many sizes would waste a third.
_ARENA_BYTES = 256 << 20
_FIRST_BYTES = 1 << 20  # what the arena begins with is never given back
_ARENA_WASTE_BYTES = 64 << 10
# After a run on inputs of this size, a large image's patches, the arena is given back: the next stage needs less.
_LARGE_RUN_BYTES = 8 << 20
_PROVIDERS = ["CPUExecutionProvider"]
_FOR_GPUS = "onnxruntime lacks an operator; a graph in bfloat16 needs a GPU; export again with --dialect ort"


class OrtBackend(HostMemory):
    """Runs graphs with onnxruntime's CPU provider."""

    name = "cpu"
    dialects: tuple[str, ...] = ("ort", "opset24", "plain")

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
        # onnxruntime would remember a memory plan for every combination of lengths it ever saw: that grows for ever.
        self._options.enable_mem_pattern = False
        # It would also hold a buffer of every shape for its next use; the arena below serves all shapes.
        self._options.enable_mem_reuse = False
        _share_arena(onnxruntime)
        self._options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights stay as long as the session: in the arena they would pin what a run has left.
        self._options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        # Spinning threads starve each other where cores are shared: decode took 284 ms with it, 95 ms without.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def load(self, graph: Path, stage: StageSpec, state: Mapping[str, Tensor]) -> "OrtEngine":
        """Loads a graph; see ``Backend.load``.

        Raises:
            BackendError: onnxruntime cannot load the graph.
        """
        try:
            session = self._ort.InferenceSession(os.fspath(graph), self._options, providers=_PROVIDERS)
        except Exception as error:
            if "NOT_IMPLEMENTED" in str(error):
                raise BackendError(f"{graph}: {_FOR_GPUS} ({error})") from None
            raise BackendError(f"onnxruntime cannot load {graph}: {error}") from None
        return OrtEngine(self._ort, session, stage, state)


@cache
def _share_arena(ort: Any) -> None:
    """Gives all sessions of this process one arena, so that each stage uses the memory that the last one left."""
    settings = {
        "max_mem": 0,
        "arena_extend_strategy": 0,
        "initial_chunk_size_bytes": _FIRST_BYTES,
        "initial_growth_chunk_size_bytes": _ARENA_BYTES,
        "max_dead_bytes_per_chunk": _ARENA_WASTE_BYTES,
    }
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg(settings))
    except Exception as error:  # somebody else in this process has registered one: that serves as well
        log.debug("onnxruntime's shared arena was there already: %s", error)


class OrtEngine:
    """One onnxruntime session and the state its graph extends in place."""

    def __init__(self, ort: Any, session: Any, stage: StageSpec, state: Mapping[str, Tensor]) -> None:
        """Keeps ``state`` for the graph's ``past.*`` inputs and ``present.*`` outputs."""
        self._ort = ort
        self._session = session
        self._state = {name: host(tensor) for name, tensor in state.items()}
        self._inputs = [tensor for tensor in stage.inputs if not tensor.name.startswith("past.")]
        self._outputs = [tensor.name for tensor in stage.outputs if not tensor.name.startswith("present.")]

    def run(
        self, inputs: Mapping[str, Tensor], interrupt: Interrupt, outputs: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Runs the graph; see ``Engine.run``."""
        # A binding keeps the shapes of its outputs, and these change from call to call: a new one each time.
        binding, bound = self._bind(inputs)
        given = outputs or {}
        for name in self._outputs:
            if name in given:
                _bind(binding.bind_output, name, host(given[name]))
            else:
                binding.bind_output(name, "cpu")
        self._run(binding, interrupt, is_large=sum(array.nbytes for array in bound) >= _LARGE_RUN_BYTES)
        values = binding.get_outputs()[len(self._state) :]
        named = zip(self._outputs, values, strict=True)
        return {name: given[name] if name in given else value.numpy() for name, value in named}

    def prepare(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[Interrupt], None]:
        """Binds once; see ``Engine.prepare``."""
        binding, keep_alive = self._bind(inputs)
        for spec, array in zip(self._inputs, keep_alive, strict=True):
            if array is not inputs[spec.name]:
                raise BackendError(f"input {spec.name!r} must be a contiguous {spec.dtype} array to be bound once")
        for name, tensor in outputs.items():
            _bind(binding.bind_output, name, host(tensor))

        def run(interrupt: Interrupt, keep_alive: object = (keep_alive, dict(outputs))) -> None:
            self._run(binding, interrupt, short=True)

        return run

    def close(self) -> None:
        """Drops the session and its state."""
        self._session = None
        self._state = {}

    def _bind(self, inputs: Mapping[str, Tensor]) -> tuple[Any, list[Array]]:
        binding = self._session.io_binding()
        bound = []
        for spec in self._inputs:
            if spec.name not in inputs:
                raise BackendError(f"input {spec.name!r} of the graph was not given")
            bound.append(np.require(inputs[spec.name], spec.dtype, "C"))
            _bind(binding.bind_input, spec.name, bound[-1])
        for name, array in self._state.items():
            _bind(binding.bind_input, f"past.{name}", array)
            _bind(binding.bind_output, f"present.{name}", array)
        return binding, bound

    def _run(self, binding: Any, interrupt: Interrupt, short: bool = False, is_large: bool = False) -> None:
        options = self._ort.RunOptions()
        if is_large:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with interrupt.during(lambda: setattr(options, "terminate", True), short):
            try:
                self._session.run_with_iobinding(binding, options)
            except Exception as error:
                raise BackendError(f"onnxruntime failed: {error}") from None


def _bind(bind: Any, name: str, array: Array) -> None:
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
