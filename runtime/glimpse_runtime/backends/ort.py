"""ONNX Runtime: sessions, IO binding and the CPU's backend, whose state lives in numpy arrays."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from glimpse_runtime.arrays import Array
from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.host import HostMemory, host
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.dialects import DIALECTS
from glimpse_runtime.bundle.manifest import StageSpec, TensorSpec
from glimpse_runtime.devices import DEFAULT_DEVICE
from glimpse_runtime.errors import BackendError
from glimpse_runtime.interrupt import Interrupt

log = logging.getLogger("glimpse")

# Address space that is taken at once and used as needed; chunks are cut to size, or many sizes would waste a third.
_ARENA_BYTES = 256 << 20
_FIRST_BYTES = 1 << 20  # what the arena begins with is never given back
_ARENA_WASTE_BYTES = 64 << 10
# After a run on inputs of this size, a large image's patches, the arena is given back: the next stage needs less.
_LARGE_RUN_BYTES = 8 << 20
_ARENAS = {"cpu": "cpu:0", "cuda": "cpu:0;gpu:0"}
_CPU = ["CPUExecutionProvider"]
_FOR_GPUS = "onnxruntime lacks an operator; a graph in bfloat16 needs a GPU; export again with --dialect ort"


class OrtBackend(HostMemory):
    """Runs graphs with onnxruntime's CPU provider."""

    dialects: tuple[str, ...] = DIALECTS

    def __init__(self, name: str = DEFAULT_DEVICE, threads: int | None = None) -> None:
        """Imports onnxruntime.

        Args:
            name: of the device.
            threads: per operator; None lets onnxruntime choose.

        Raises:
            BackendError: onnxruntime is not installed.
        """
        self.name = name
        self._ort = import_onnxruntime("cpu")
        self._options = session_options(self._ort, threads)

    def load(self, bundle: Bundle, name: str, stage: StageSpec, state: Mapping[str, Tensor]) -> "OrtEngine":
        """Loads a graph; see ``Backend.load``.

        Raises:
            BackendError: onnxruntime cannot load the graph.
        """
        session = open_session(self._ort, bundle.path(stage.file), self._options, _CPU)
        check_names(session, bundle.path(stage.file), stage)
        return OrtEngine(self._ort, session, stage, state)


def import_onnxruntime(extra: str) -> Any:
    """Imports onnxruntime.

    Args:
        extra: the extra of this package that brings it.

    Raises:
        BackendError: it is not installed.
    """
    # Versions from 1.29 on send telemetry and write below the home folder, unless told so before they are imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise BackendError(f'onnxruntime is not installed; run: pip install "glimpse-edge[{extra}]"') from None
    return onnxruntime


def session_options(ort: Any, threads: int | None) -> Any:
    """Returns options that keep memory from growing, and leave the cores to others."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    # onnxruntime would remember a memory plan for every combination of lengths it ever saw: that grows for ever.
    options.enable_mem_pattern = False
    # It would also hold a buffer of every shape for its next use; the arena below serves all shapes.
    options.enable_mem_reuse = False
    _share_arena(ort)
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Weights stay as long as the session: in the arena they would pin what a run has left.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # Spinning threads starve each other where cores are shared: decode took 284 ms with it, 95 ms without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(ort: Any, graph: Path, options: Any, providers: Sequence[Any]) -> Any:
    """Returns a session.

    Raises:
        BackendError: onnxruntime cannot load the graph.
    """
    try:
        return ort.InferenceSession(os.fspath(graph), options, providers=list(providers))
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error) and providers is _CPU:
            raise BackendError(f"{graph}: {_FOR_GPUS} ({error})") from None
        raise BackendError(f"onnxruntime cannot load {graph}: {error}") from None


def check_names(session: Any, graph: Path, stage: StageSpec) -> None:
    """Refuses a graph that is not the one that the manifest describes.

    Raises:
        BackendError: inputs or outputs have other names.
    """
    for kind, found, listed in (
        ("inputs", session.get_inputs(), stage.inputs),
        ("outputs", session.get_outputs(), stage.outputs),
    ):
        names, wanted = {value.name for value in found}, {tensor.name for tensor in listed}
        if names != wanted:
            other = min(names ^ wanted)
            raise BackendError(
                f"{graph} is not the graph that the manifest describes: {kind} differ in {other!r}; copy the bundle "
                "again or export the model again"
            )


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
    """One onnxruntime session and the state its graph extends in place.

    Attributes:
        device: onnxruntime's name of the device that outputs are left on.
        run_entries: settings of every run.
    """

    device = "cpu"
    run_entries: Mapping[str, str] = {}

    def __init__(self, ort: Any, session: Any, stage: StageSpec, state: Mapping[str, Tensor]) -> None:
        """Keeps ``state`` for the graph's ``past.*`` inputs and ``present.*`` outputs."""
        self._ort = ort
        self._session = session
        self._state = dict(state)
        past, present = {f"past.{name}" for name in state}, {f"present.{name}" for name in state}
        self._inputs = [tensor for tensor in stage.inputs if tensor.name not in past]
        self._outputs = [tensor for tensor in stage.outputs if tensor.name not in present]

    def run(
        self, inputs: Mapping[str, Tensor], interrupt: Interrupt, outputs: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Runs the graph; see ``Engine.run``."""
        # A binding keeps the shapes of its outputs, and these change from call to call: a new one each time.
        binding = self._session.io_binding()
        bound = self._bind_inputs(binding, inputs)
        given = outputs or {}
        for spec in self._outputs:
            if spec.name in given:
                self._bind(binding.bind_output, spec.name, given[spec.name])
            else:
                binding.bind_output(spec.name, self.device)
        self._run(binding, interrupt, is_large=sum(tensor.nbytes for tensor in bound) >= _LARGE_RUN_BYTES)
        values = binding.get_outputs()[len(self._state) :]
        named = zip(self._outputs, values, strict=True)
        return {
            spec.name: given[spec.name] if spec.name in given else self._tensor(value, spec) for spec, value in named
        }

    def prepare(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[Interrupt], None]:
        """Binds once; see ``Engine.prepare``."""
        binding = self._session.io_binding()
        bound = self._bind_inputs(binding, inputs)
        for spec, tensor in zip(self._inputs, bound, strict=True):
            if tensor is not inputs[spec.name]:
                raise BackendError(f"input {spec.name!r} must be a contiguous {spec.dtype} array to be bound once")
        for name, tensor in outputs.items():
            self._bind(binding.bind_output, name, tensor)

        def run(interrupt: Interrupt, keep_alive: object = (bound, dict(outputs))) -> None:
            self._run(binding, interrupt, short=True)

        return run

    def close(self) -> None:
        """Drops the session and its state."""
        self._session = None
        self._state = {}

    def _bind_inputs(self, binding: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Binds inputs and state; returns the inputs as they were bound, which must live as long as the binding."""
        bound: list[Tensor] = []
        for spec in self._inputs:
            if spec.name not in inputs:
                raise BackendError(f"input {spec.name!r} of the graph was not given")
            value = inputs[spec.name]
            bound.append(np.require(value, spec.dtype, "C") if isinstance(value, np.ndarray) else value)
            self._bind(binding.bind_input, spec.name, bound[-1])
        for name, tensor in self._state.items():
            self._bind(binding.bind_input, f"past.{name}", tensor)
            self._bind(binding.bind_output, f"present.{name}", tensor)
        return bound

    def _bind(self, bind: Any, name: str, tensor: Tensor) -> None:
        array = host(tensor)
        bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _tensor(self, value: Any, spec: TensorSpec) -> Tensor:
        array: Array = value.numpy()
        return array

    def _run(self, binding: Any, interrupt: Interrupt, short: bool = False, is_large: bool = False) -> None:
        options = self._ort.RunOptions()
        for key, value in self.run_entries.items():
            options.add_run_config_entry(key, value)
        if is_large:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", _ARENAS[self.device])
        with interrupt.during(lambda: setattr(options, "terminate", True), short):
            try:
                self._session.run_with_iobinding(binding, options)
            except Exception as error:
                if not _raised_within(error, self._ort):
                    raise  # of a signal's handler, say
                raise BackendError(f"onnxruntime failed: {error}") from None


def _raised_within(error: Exception, module: Any) -> bool:
    """Whether an exception comes from a package, not from code that happened to run meanwhile."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    package = str(Path(str(module.__file__)).parent)
    return traceback is None or traceback.tb_frame.f_code.co_filename.startswith(package)
