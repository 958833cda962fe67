"""What an engine says about its inputs and outputs: types, and the shapes that its profiles allow."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from glimpse_runtime.bundle.manifest import StageSpec, TensorSpec
from glimpse_runtime.errors import BackendError

Shape = tuple[int, ...]

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def check_tensors(engine: Any, title: str, stage: StageSpec) -> None:
    """Compares names and types of an engine's tensors with the manifest's.

    Raises:
        BackendError: naming the first that differs, or that would have to lie in memory of the host.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: _DTYPES.get(engine.get_tensor_dtype(name).name, "unknown") for name in names}
    expected = {spec.name: spec.dtype for spec in (*stage.inputs, *stage.outputs)}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise BackendError(
                f"{title}: tensor {name!r} is {found.get(name, 'missing')} in the engine and "
                f"{expected.get(name, 'missing')} in the manifest; build the engine again"
            )
    for name in names:
        if engine.get_tensor_location(name).name != "DEVICE":
            raise BackendError(f"{title}: tensor {name!r} is read from memory of the host, which is not supported")


class Profiles:
    """Smallest and largest shape of some inputs in every optimization profile."""

    def __init__(self, engine: Any, title: str, inputs: Sequence[TensorSpec]) -> None:
        """Asks the engine; ``title`` is what errors call it."""
        self._title = title
        self._ranges: list[dict[str, tuple[Shape, Shape]]] = []
        for number in range(engine.num_optimization_profiles):
            ranges = {}
            for spec in inputs:
                shapes = [tuple(shape) for shape in engine.get_tensor_profile_shape(spec.name, number)]
                ranges[spec.name] = shapes[0], shapes[-1]
            self._ranges.append(ranges)

    def choose(self, shapes: Mapping[str, Shape]) -> int:
        """Returns the number of the narrowest profile that holds the shapes; later ones are narrower.

        Raises:
            BackendError: none does.
        """
        for number in reversed(range(len(self._ranges))):
            if all(_fits(shape, *self._ranges[number][name]) for name, shape in shapes.items()):
                return number
        for name, shape in shapes.items():
            allowed = [ranges[name] for ranges in self._ranges]
            if not any(_fits(shape, *one) for one in allowed):
                text = " or ".join(f"{low}..{high}" for low, high in allowed)
                raise BackendError(f"{self._title}: input {name!r} of shape {shape} is outside of {text}")
        raise BackendError(f"{self._title}: no profile holds the shapes {dict(shapes)} together")

    def widest(self) -> dict[str, Shape]:
        """Returns the largest shapes of the first profile, which is the widest."""
        return {name: high for name, (_, high) in self._ranges[0].items()}

    def largest(self, name: str) -> Shape:
        """Returns the largest shape that an input may have."""
        return max((ranges[name][1] for ranges in self._ranges), key=math.prod)


def _fits(shape: Shape, low: Shape, high: Shape) -> bool:
    return len(shape) == len(low) and all(a <= dim <= b for a, dim, b in zip(low, shape, high, strict=True))
