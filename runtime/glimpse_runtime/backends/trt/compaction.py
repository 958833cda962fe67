"""Compaction by the engine of the compact stage, for machines without the kernel library."""

from collections.abc import Sequence

import numpy as np

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.cuda.memory import DeviceMemory, DeviceTensor
from glimpse_runtime.backends.trt.engine import TrtEngine
from glimpse_runtime.interrupt import Interrupt


class EngineCompaction:
    """Runs the compact stage into buffers of its own, and copies the kept rows back.

    It takes the memory of the lower layers' KV cache and of their hidden states a second time.
    """

    def __init__(
        self, memory: DeviceMemory, engine: TrtEngine, names: Sequence[str], buffers: Sequence[DeviceTensor]
    ) -> None:
        """Allocates the buffers.

        Args:
            memory: where the tensors lie.
            engine: of the compact stage.
            names: of the state tensors, in the order in which they come.
            buffers: of the KV cache, for their shapes.
        """
        self._memory = memory
        self._engine = engine
        self._names = list(names)
        self._spare = [
            None if engine.updates_in_place(name) else memory.empty(buffer.shape, buffer.dtype)
            for name, buffer in zip(names, buffers, strict=True)
        ]
        self._outputs = {
            name: memory.empty(engine.profiles.largest(same), dtype)
            for name, same, dtype in (("hidden_out", "hidden_in", "float32"), ("positions_out", "positions", "int32"))
        }
        self._outputs["count"] = memory.empty((), "int32")

    def __call__(self, buffers: Sequence[DeviceTensor], hidden: DeviceTensor, keep: IntArray) -> None:
        """Enqueues it; see ``Backend.compact``."""
        rows, kept = hidden.shape[1], len(keep)
        mask = np.zeros(rows, bool)
        mask[keep] = True
        inputs: dict[str, Tensor] = {"keep": mask, "hidden_in": hidden, "positions": np.zeros((3, rows), np.int32)}
        outputs: dict[str, Tensor] = dict(self._outputs)
        for name, buffer, spare in zip(self._names, buffers, self._spare, strict=True):
            inputs[f"past.{name}"] = buffer
            outputs[f"present.{name}"] = buffer if spare is None else spare
        self._engine.run(inputs, Interrupt(), outputs)
        cuda = self._memory.cuda
        for buffer, spare in zip(buffers, self._spare, strict=True):
            if spare is not None:
                _, heads, capacity, _ = buffer.shape
                row, pitch = buffer.row_bytes, capacity * buffer.row_bytes
                cuda.copy_blocks(spare.address, pitch, buffer.address, pitch, kept * row, heads)
        cuda.copy(self._outputs["hidden_out"].address, hidden.address, kept * hidden.row_bytes)
