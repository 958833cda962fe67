"""Builds one ONNX graph node by node."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from glimpse_export.graphs.weights import StoredTensor, WeightFile
from glimpse_runtime.manifest import StageSpec, TensorSpec
from glimpse_runtime.types import Array

MICROSOFT = "com.microsoft"
Shape = Sequence[int | str]


class GraphBuilder:
    """One graph under construction.

    Attributes:
        dtype: the numpy dtype of weights and activations.
    """

    def __init__(self, name: str, weights: WeightFile, opset: int, dtype: str = "float32") -> None:
        """Starts an empty graph whose weights go to ``weights``."""
        self.dtype = np.dtype(dtype)
        self._weights = weights
        self._graph = ir.Graph([], [], nodes=[], name=name, opset_imports={"": opset, MICROSOFT: 1})
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._nodes = 0

    def input(self, name: str, shape: Shape, dtype: str | None = None) -> ir.Value:
        """Declares a graph input."""
        value = ir.Value(name=name, type=_tensor_type(dtype or self.dtype), shape=ir.Shape(shape))
        self._graph.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, shape: Shape, dtype: str | None = None) -> None:
        """Declares a graph output."""
        value.name, value.type, value.shape = name, _tensor_type(dtype or self.dtype), ir.Shape(shape)
        self._graph.outputs.append(value)

    def constant(self, array: Array) -> ir.Value:
        """Returns a small constant, stored once in the graph itself."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            value = ir.Value(
                name=name,
                type=_tensor_type(array.dtype),
                shape=ir.Shape(array.shape),
                const_value=ir.tensor(array, name=name),
            )
            self._graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def integers(self, *values: int) -> ir.Value:
        """Returns a one-dimensional int64 constant."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float) -> ir.Value:
        """Returns a 0-d constant of the graph's dtype."""
        return self.constant(np.array(value, self.dtype))

    def weight(self, name: str, make: Callable[[], Array]) -> ir.Value:
        """Returns a weight stored in the weight file; ``make`` gives it as float32, in the layout to store."""
        return self.stored(name, self._weights.store(name, lambda: make().astype(self.dtype)))

    def stored(self, name: str, where: StoredTensor) -> ir.Value:
        """Returns a weight whose bytes lie in some file already."""
        if name not in self._graph.initializers:
            tensor = ir.ExternalTensor(
                where.file,
                where.offset,
                where.nbytes,
                where.dtype,
                shape=ir.Shape(where.shape),
                name=name,
                base_dir=self._weights.path.parent,
            )
            value = ir.Value(
                name=name, type=ir.TensorType(where.dtype), shape=ir.Shape(where.shape), const_value=tensor
            )
            self._graph.register_initializer(value)
        return self._graph.initializers[name]

    def op(self, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """Adds a node with one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """Adds a node with several outputs."""
        self._nodes += 1
        name = f"{kind}_{self._nodes}"
        node = ir.node(kind, list(inputs), attributes=attributes, domain=domain, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_{index}"
        self._graph.append(node)
        return node.outputs

    def reshape(self, x: ir.Value, *shape: int) -> ir.Value:
        """Reshapes; 0 copies a dimension, -1 infers one."""
        return self.op("Reshape", x, self.integers(*shape))

    def linear(
        self, x: ir.Value, name: str, weight: Callable[[], Array], bias: Callable[[], Array] | None = None
    ) -> ir.Value:
        """Returns x @ weight.T + bias; ``weight`` gives (out, in) as checkpoints store it."""
        y = self.op("MatMul", x, self.weight(f"{name}.weight", lambda: weight().T))
        return y if bias is None else self.op("Add", y, self.weight(f"{name}.bias", bias))

    def save(self, path: Path) -> StageSpec:
        """Writes the graph and returns what the manifest says about it."""
        model = ir.Model(self._graph, ir_version=10, producer_name="glimpse-export")
        ir.save(model, path)
        return StageSpec(path.name, _specs(self._graph.inputs), _specs(self._graph.outputs))


def _tensor_type(dtype: str | np.dtype[Any]) -> ir.TensorType:
    return ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))


def _specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    specs = []
    for value in values:
        assert value.name is not None
        assert value.dtype is not None
        assert value.shape is not None
        shape = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
        specs.append(TensorSpec(value.name, value.dtype.numpy().name, shape))
    return tuple(specs)
