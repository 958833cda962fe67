"""A deserialised engine, and how contexts of it are made in TensorRT and in TensorRT-RTX."""

import logging
import mmap
from typing import Any

from glimpse_runtime.engines.flavours import Installed
from glimpse_runtime.engines.log import Messages
from glimpse_runtime.engines.store import StoredEngine
from glimpse_runtime.errors import BackendError
from glimpse_runtime.files.atomic import open_atomic

log = logging.getLogger("glimpse")


class Source:
    """An engine in the device's memory.

    TensorRT-RTX compiles kernels for the GPU when a context is made or meets new shapes; what it has compiled is kept
    beside the engine for the next time.

    Attributes:
        title: what to call the engine in errors.
        aliases: outputs that the engine writes in the memory of an input, by output.
        captures: whether decode steps are to be captured in CUDA graphs. TensorRT-RTX does that by itself: only it
            knows when the kernels for the shapes are ready.
    """

    def __init__(self, found: Installed, runtime: Any, stored: StoredEngine, messages: Messages, command: str) -> None:
        """Loads an engine.

        Args:
            found: the TensorRT to use.
            runtime: its ``Runtime``.
            stored: the engine's file and record.
            messages: what TensorRT said.
            command: builds the engine again, for errors.

        Raises:
            BackendError: TensorRT cannot load it.
        """
        self._trt = found.module
        self._compiles = found.flavour.portable
        self._compiled_file = stored.path.with_suffix(".kernels")
        self.title = f"stage {stored.record.key.stage}"
        self.aliases = stored.record.aliases
        self.captures = not self._compiles
        # Mapped, not read: on a board the file's copy would take the memory that the engine needs.
        with stored.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self._engine: Any = runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            why = f"{found.title} cannot load {stored.path}"
            raise BackendError(f"{self.title}: {why}; build it again with: {command}{messages.take()}")
        self._compiled: Any = self._engine.create_runtime_config().create_runtime_cache() if self._compiles else None
        self._compiled_bytes = self._read_compiled()

    @property
    def engine(self) -> Any:
        """The ``ICudaEngine``; None when it is closed."""
        return self._engine

    def make_context(self, for_step: bool) -> Any:
        """Returns an ``IExecutionContext`` without memory of its own, or None.

        Args:
            for_step: it only ever runs one shape, a decode step.
        """
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._compiles:
            return self._engine.create_execution_context(strategy)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.set_runtime_cache(self._compiled)
        if for_step:
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(config)

    def close(self) -> None:
        """Drops the engine; what was compiled for it is kept."""
        if self._engine is not None and self._compiles:
            self._write_compiled()
        self._engine = self._compiled = None

    def _read_compiled(self) -> int:
        """Takes up what was compiled before; returns its bytes."""
        if not self._compiles:
            return 0
        try:
            data = self._compiled_file.read_bytes()
        except OSError:
            return 0
        if not self._compiled.deserialize(data):
            log.debug("%s: %s is not used", self.title, self._compiled_file)
            return 0
        return len(data)

    def _write_compiled(self) -> None:
        data = bytes(memoryview(self._compiled.serialize()))
        if len(data) == self._compiled_bytes:
            return
        try:
            with open_atomic(self._compiled_file) as file:
                file.write(data)
        except OSError as error:
            log.debug("%s: compiled kernels cannot be kept: %s", self.title, error)
