"""A backend without an engine: right shapes, zeros for numbers; to test and measure everything around engines."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.host import HostMemory, host
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.dialects import DIALECTS
from glimpse_runtime.bundle.manifest import StageSpec
from glimpse_runtime.interrupt import Interrupt


class FakeBackend(HostMemory):
    """Host memory like the CPU backend's, engines that compute nothing."""

    name = "fake"
    dialects: tuple[str, ...] = DIALECTS

    def __init__(self, merge_unit: int = 4) -> None:
        """Needs no library; ``merge_unit`` patches become one visual token."""
        self._merge_unit = merge_unit

    def load(self, bundle: Bundle, name: str, stage: StageSpec, state: Mapping[str, Tensor]) -> "FakeEngine":
        """Returns an engine for the stage; the graph file is not read."""
        return FakeEngine(stage, self._merge_unit)


class FakeEngine:
    """Gives outputs of the shapes that the manifest promises."""

    def __init__(self, stage: StageSpec, merge_unit: int) -> None:
        """Reads names and shapes."""
        self._stage = stage
        self._merge_unit = merge_unit

    def run(
        self, inputs: Mapping[str, Tensor], interrupt: Interrupt, outputs: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Returns zeros; see ``Engine.run``."""
        interrupt.check()
        dims: dict[str, int] = {}
        for tensor in self._stage.inputs:
            if tensor.name in inputs:
                named = zip(tensor.shape, np.shape(inputs[tensor.name]), strict=True)
                dims |= {dim: length for dim, length in named if isinstance(dim, str)}
        if "total_sequence_length" in inputs:
            dims["total"] = int(host(inputs["total_sequence_length"]))
        if "patches" in dims:
            dims["visual_tokens"] = dims["patches"] // self._merge_unit
        given = outputs or {}
        return {
            tensor.name: given[tensor.name]
            if tensor.name in given
            else np.zeros(_shape(tensor.shape, dims), tensor.dtype)
            for tensor in self._stage.outputs
            if not tensor.name.startswith("present.")
        }

    def prepare(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[Interrupt], None]:
        """Returns a step that only looks at the interrupt; see ``Engine.prepare``."""
        return Interrupt.check

    def close(self) -> None:
        """Does nothing."""


def _shape(shape: Sequence[int | str], dims: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else dims[dim] for dim in shape)
