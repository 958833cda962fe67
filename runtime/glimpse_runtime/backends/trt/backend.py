"""The backend of TensorRT and TensorRT-RTX."""

import threading
from collections.abc import Mapping
from typing import Any

from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.cuda.compaction import HostCompaction, find_kernels
from glimpse_runtime.backends.cuda.device import Cuda
from glimpse_runtime.backends.cuda.memory import DeviceMemory, device
from glimpse_runtime.backends.cuda.packages import require_driver_for_tensorrt
from glimpse_runtime.backends.trt.compaction import EngineCompaction
from glimpse_runtime.backends.trt.context import Workspace
from glimpse_runtime.backends.trt.engine import TrtEngine
from glimpse_runtime.backends.trt.in_flight import InFlight
from glimpse_runtime.backends.trt.shared import Shared
from glimpse_runtime.backends.trt.source import Source
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import StageSpec
from glimpse_runtime.engines.flavours import installed
from glimpse_runtime.engines.gpu import current_gpu
from glimpse_runtime.engines.key import Setting, engine_key
from glimpse_runtime.engines.log import Messages, make_logger
from glimpse_runtime.engines.store import StoredEngine, find_engine, require_engine
from glimpse_runtime.errors import BackendError

_COMPACT, _LOWER = "compact", "lower"


class TrtBackend(DeviceMemory):
    """Runs engines that ``glimpse-export`` has built on this machine.

    Nothing is built here: a robot must not stand still for minutes because a file is missing.
    """

    def __init__(self, name: str, threads: int | None = None) -> None:
        """Imports TensorRT and opens the GPU.

        Args:
            name: ``tensorrt`` or ``tensorrt-rtx``.
            threads: of no use here.

        Raises:
            BackendError: TensorRT, the driver or the GPU is missing or cannot be used.
        """
        require_driver_for_tensorrt(name)
        found, gpu = installed(name), current_gpu()
        self._setting = Setting.here(found, gpu)
        super().__init__(Cuda())
        self.compaction = HostCompaction(self)
        self.name = name
        self.dialects = found.flavour.dialects
        self._found = found
        self._gpu = gpu
        self._engines: list[TrtEngine] = []
        messages = Messages()
        self._workspace = Workspace(self)
        self._runtime: Any = None
        try:
            self._runtime = found.module.Runtime(make_logger(found.module, messages))
            self._shared = Shared(self, self._workspace, messages, InFlight(self.cuda))
        except (TypeError, RuntimeError) as error:  # pybind's words for a null pointer
            self.close()
            raise BackendError(f"{found.title} cannot start here: {error}:{messages.take()}") from None
        except BackendError:
            self.close()
            raise
        self._engine_bytes = 0
        self._lock = threading.Lock()

    def load(self, bundle: Bundle, name: str, stage: StageSpec, state: Mapping[str, Tensor]) -> TrtEngine:
        """Loads a stage's engine from the cache; see ``Backend.load``.

        Raises:
            BackendError: it was not built for this bundle, GPU and version of TensorRT, or cannot be loaded.
        """
        stored = require_engine(engine_key(bundle, name, stage, self._setting), bundle.folder, self.name)
        self.cuda.use_here()
        with self._lock:
            engine = self._open(bundle, stored, stage, state)
            if name == _LOWER:
                self._choose_compaction(bundle, state)
        return engine

    def memory(self) -> dict[str, int]:
        """Returns bytes by purpose; see ``Backend.memory``."""
        return {"weight_bytes": self._engine_bytes, "device_bytes": self.allocated_bytes}

    def close(self) -> None:
        """Frees engines, then memory; see ``Backend.close``."""
        for engine in self._engines:
            engine.close()
        self._engines = []
        self._workspace.close()
        self._runtime = None
        super().close()

    def _open(self, bundle: Bundle, stored: StoredEngine, stage: StageSpec, state: Mapping[str, Tensor]) -> TrtEngine:
        command = f"glimpse-export --bundle {bundle.folder} --target {self.name}"
        source = Source(self._found, self._runtime, stored, self._shared.messages, command)
        try:
            engine = TrtEngine(self._shared, source, stage, state)
        except BackendError:
            source.close()
            raise
        self._engines.append(engine)
        self._engine_bytes += stored.record.engine.bytes
        return engine

    def _choose_compaction(self, bundle: Bundle, state: Mapping[str, Tensor]) -> None:
        """The kernel if it can be had, else the compact stage's engine, else the way by the host."""
        kernels = find_kernels(self, self._gpu)
        if kernels is not None:
            self.compaction = kernels
            return
        manifest = bundle.manifest
        stage = manifest.stages_of(manifest.choose_dialect(self.dialects)).get(_COMPACT)
        stored = None if stage is None else find_engine(engine_key(bundle, _COMPACT, stage, self._setting))
        if stage is not None and stored is not None:
            engine = self._open(bundle, stored, stage, {})
            buffers = [device(tensor) for tensor in state.values()]
            self.compaction = EngineCompaction(self, engine, list(state), buffers)
