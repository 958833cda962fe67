"""ONNX Runtime on a CUDA device: all state lies in device memory and is bound by address."""

import contextlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.cuda.calls import DEVICE
from glimpse_runtime.backends.cuda.compaction import choose_compaction
from glimpse_runtime.backends.cuda.device import Cuda
from glimpse_runtime.backends.cuda.memory import DeviceMemory, DeviceTensor, device
from glimpse_runtime.backends.cuda.packages import require_driver_for_onnxruntime, require_one_onnxruntime
from glimpse_runtime.backends.ort import OrtEngine, check_names, import_onnxruntime, open_session, session_options
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.dialects import ORT
from glimpse_runtime.bundle.manifest import StageSpec, TensorSpec
from glimpse_runtime.engines.gpu import current_gpu
from glimpse_runtime.errors import BackendError
from glimpse_runtime.interrupt import Interrupt

log = logging.getLogger("glimpse")

_PROVIDER = "CUDAExecutionProvider"
_INSTALL = 'run: pip uninstall -y onnxruntime && pip install "glimpse-edge[gpu]"'
# Cached keys and values that its attention computes with; it has no kernel for float32.
_CACHE_DTYPES = ("float16", "bfloat16")
_ALL_ON_GPU, _RECORD = "session.disable_cpu_ep_fallback", "session.record_ep_graph_assignment_info"
_NAMED = 3  # nodes in a message
_NO_BIAS = "does not support bias in CUDA kernel"
# What onnxruntime says where a kernel or the provider's libraries are missing.
_FALLS_BACK = ("fallback to CPU EP has been explicitly disabled", "also disabled fallback to the CPU EP")
_ELEMENT_TYPES = {"bfloat16": 16}  # onnx.TensorProto.BFLOAT16, a type that numpy does not have


class OrtCudaBackend(DeviceMemory):
    """Runs graphs with onnxruntime's CUDA provider, on the stream that also moves the data."""

    dialects: tuple[str, ...] = (ORT,)

    def __init__(self, name: str, threads: int | None = None) -> None:
        """Imports onnxruntime and opens the GPU.

        Args:
            name: of the device.
            threads: per operator of the host; None lets onnxruntime choose.

        Raises:
            BackendError: the driver or the GPU is missing, or onnxruntime is not the one for it.
        """
        self.name = name
        require_one_onnxruntime()
        self._ort = import_onnxruntime("gpu")
        if _PROVIDER not in self._ort.get_available_providers():
            raise BackendError(f"the onnxruntime that is installed has no {_PROVIDER}; {_INSTALL}")
        require_driver_for_onnxruntime(self._ort)
        _load_libraries(self._ort)
        self._options = session_options(self._ort, threads)
        for entry in (_ALL_ON_GPU, _RECORD):
            self._options.add_session_config_entry(entry, "1")
        super().__init__(Cuda())
        self.compaction = choose_compaction(self, current_gpu())

    def load(self, bundle: Bundle, name: str, stage: StageSpec, state: Mapping[str, Tensor]) -> "OrtCudaEngine":
        """Loads a graph; see ``Backend.load``.

        Raises:
            BackendError: onnxruntime cannot load it on the device.
        """
        for tensor in state.values():
            if device(tensor).dtype not in _CACHE_DTYPES:
                raise BackendError(
                    f"stage {name}: the device cuda needs a KV cache of fp16, the bundle has {device(tensor).dtype}; "
                    "export the model again with --target ort-cuda, the packaged one with: "
                    "glimpse-export --model pocket --target ort-cuda --out pocket-cuda"
                )
        graph, providers = bundle.path(stage.file), [(_PROVIDER, provider_options(int(self.cuda.stream.handle)))]
        try:
            session = open_session(self._ort, graph, self._options, providers)
        except BackendError as error:
            if not any(text in str(error) for text in _FALLS_BACK):
                raise
            self._refuse(name, graph, providers)
            raise
        _require_provider(name, session)
        check_names(session, graph, stage)
        return OrtCudaEngine(self.cuda, self._ort, session, stage, state)

    def _refuse(self, name: str, graph: Path, providers: Sequence[Any]) -> None:
        """Raises an error that says which nodes of a graph would run on the CPU, as far as onnxruntime tells."""
        options = session_options(self._ort, None)
        options.add_session_config_entry(_RECORD, "1")
        session = open_session(self._ort, graph, options, [*providers, "CPUExecutionProvider"])
        _require_provider(name, session)
        tell = getattr(session, "get_provider_graph_assignment_info", None)  # versions from 1.24 on have it
        parts = [] if tell is None else [part for part in tell() if part.ep_name != _PROVIDER]
        nodes = sorted({f"{node.op_type} ({node.name})" for part in parts for node in part.get_nodes()})
        found = ", ".join(nodes[:_NAMED]) or "some nodes"
        raise BackendError(
            f"stage {name}: onnxruntime-gpu {self._ort.__version__} would run {found} of it "
            "on the CPU in every step, since it has no kernel for the GPU; export the model again with "
            '--target ort-cuda, or run: pip install -U "onnxruntime-gpu[cuda,cudnn]"'
        )

    def memory(self) -> dict[str, int]:
        """Returns bytes by purpose; see ``Backend.memory``."""
        return {"device_bytes": self.allocated_bytes}


def provider_options(stream: int) -> dict[str, str]:
    """Returns how the CUDA provider works, on a stream that is there already."""
    return {
        "device_id": str(DEVICE),
        "user_compute_stream": str(stream),
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
        # Flash (1) and memory-efficient (2) attention: cuDNN's for newer GPUs is planned for every length of a prompt.
        "sdpa_kernel": "3",
    }


def _require_provider(name: str, session: Any) -> None:
    """Checks that a session uses the GPU: where it cannot, onnxruntime only prints why, and goes on with the CPU.

    Raises:
        BackendError: it does not.
    """
    if session.get_providers()[0] != _PROVIDER:
        raise BackendError(
            f"stage {name}: onnxruntime cannot use the GPU, its message is above; the libraries of CUDA and cuDNN "
            'that it was built for may be missing: run: pip install "onnxruntime-gpu[cuda,cudnn]"'
        )


def _load_libraries(ort: Any) -> None:
    """Loads CUDA and cuDNN from Python packages where they come from there; what is missing is seen at load."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):  # it prints, and standard output is for answers
            preload()
        log.debug("onnxruntime: %s", said.getvalue())


class OrtCudaEngine(OrtEngine):
    """A session whose state and outputs lie on the device.

    onnxruntime copies an input of the host to the device when it is bound, not when it runs.
    """

    device = "cuda"
    run_entries: Mapping[str, str] = {"disable_synchronize_execution_providers": "1"}  # the stream is waited for below

    def __init__(self, cuda: Cuda, ort: Any, session: Any, stage: StageSpec, state: Mapping[str, Tensor]) -> None:
        """Keeps ``state``; see ``OrtEngine``."""
        super().__init__(ort, session, stage, state)
        self._cuda = cuda

    def prepare(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[Interrupt], None]:
        """Binds what lies on the device once, arrays of the host before every run; see ``Engine.prepare``."""
        binding = self._session.io_binding()
        bound = self._bind_inputs(binding, inputs)
        for name, tensor in outputs.items():
            self._bind(binding.bind_output, name, tensor)
        is_read = any(isinstance(tensor, np.ndarray) for tensor in outputs.values())
        fed = {spec.name: inputs[spec.name] for spec in self._inputs if isinstance(inputs[spec.name], np.ndarray)}

        def run(interrupt: Interrupt, keep_alive: object = (bound, dict(outputs))) -> None:
            for name, array in fed.items():
                self._bind(binding.bind_input, name, array)
            self._run(binding, interrupt, short=True, is_read=is_read)

        return run

    def _bind(self, bind: Any, name: str, tensor: Tensor) -> None:
        if isinstance(tensor, np.ndarray):
            super()._bind(bind, name, tensor)
        else:
            found = device(tensor)
            kind = _ELEMENT_TYPES.get(found.dtype) or np.dtype(found.dtype)
            bind(name, self.device, DEVICE, kind, found.shape, found.address)

    def _tensor(self, value: Any, spec: TensorSpec) -> Tensor:
        return DeviceTensor(value.data_ptr(), tuple(value.shape()), spec.dtype, value)

    def _run(
        self, binding: Any, interrupt: Interrupt, short: bool = False, is_large: bool = False, is_read: bool = True
    ) -> None:
        try:
            super()._run(binding, interrupt, short, is_large)
        except BackendError as error:
            if _NO_BIAS not in str(error):
                raise
            raise BackendError(
                f"onnxruntime-gpu {self._ort.__version__} takes no bias in products of int8 and int4; export the model "
                'again with --target ort-cuda, or run: pip install -U "onnxruntime-gpu[cuda,cudnn]>=1.29"'
            ) from None
        if is_read:  # on the host; what the device reads next waits on the stream
            self._cuda.synchronize()
