"""Builds one ONNX graph node by node."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.weights.file import Dtype, Parts, WeightLayout, data_type
from glimpse_export.weights.journal import StoredTensor
from glimpse_runtime.arrays import Array
from glimpse_runtime.bundle.manifest import StageSpec, TensorSpec

MICROSOFT = "com.microsoft"
Shape = Sequence[int | str]
_END = (1 << 63) - 1
# The first version of the file format that knows an opset.
_IR_VERSIONS = {19: 9, 20: 9, 21: 10, 24: 12}


class GraphBuilder:
    """One graph under construction; values are float32 where nothing else is said."""

    def __init__(self, name: str, weights: WeightLayout, opset: int) -> None:
        """Starts an empty graph whose weights go to ``weights``."""
        self.name, self.weights, self.opset = name, weights, opset
        self._graph = ir.Graph([], [], nodes=[], name=name, opset_imports={"": opset})
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._functions: list[ir.Function] = []
        self._nodes = 0

    def input(self, name: str, shape: Shape, dtype: Dtype = "float32") -> ir.Value:
        """Declares a graph input."""
        value = ir.Value(name=name, type=_tensor_type(dtype), shape=ir.Shape(shape))
        self._graph.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, shape: Shape, dtype: Dtype = "float32") -> None:
        """Declares a graph output."""
        value.name, value.type, value.shape = name, _tensor_type(dtype), ir.Shape(shape)
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
        """Returns a 0-d float32 constant."""
        return self.constant(np.array(value, np.float32))

    def weight(self, name: str, dtype: Dtype, shape: tuple[int, ...], parts: Parts, key: str | None = None) -> ir.Value:
        """Returns a weight stored in the weight file; see ``WeightLayout.store``.

        Args:
            name: its name in the graph.
            dtype: its type.
            shape: its shape.
            parts: gives its bytes.
            key: its name in the file, where another graph may store other bytes under the same name.
        """
        return self.stored(name, self.weights.store(key or name, dtype, shape, parts))

    def vector(self, name: str, shape: tuple[int, ...], make: Callable[[], Array]) -> ir.Value:
        """Returns a small float32 weight such as a bias, which ``make`` gives."""
        return self.weight(name, "float32", shape, lambda: [make().astype(np.float32).reshape(shape)])

    def read_vector(self, checkpoint: Checkpoint, name: str) -> ir.Value:
        """Returns a small float32 weight as a checkpoint has it."""
        return self.vector(name, checkpoint.shapes[name], lambda: checkpoint.read(name))

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
                base_dir=self.weights.path.parent,
            )
            value = ir.Value(
                name=name, type=ir.TensorType(where.dtype), shape=ir.Shape(where.shape), const_value=tensor
            )
            self._graph.register_initializer(value)
        return self._graph.initializers[name]

    def layer_norm(self, x: ir.Value, weight: ir.Value, bias: ir.Value, eps: float) -> ir.Value:
        """Returns the last axis with mean 0 and variance 1, times weight, plus bias, as every dialect spells it."""
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)

    def op(self, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """Adds a node with one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """Adds a node with several outputs."""
        self._nodes += 1
        if domain:
            self._graph.opset_imports[domain] = 1
        name = f"{kind}_{self._nodes}"
        node = ir.node(kind, list(inputs), attributes=attributes, domain=domain, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_{index}"
        self._graph.append(node)
        return node.outputs

    def define(self, function: ir.Function) -> None:
        """Adds a model-local function; nodes of its name and domain then call it."""
        self._functions.append(function)
        self._graph.opset_imports[function.domain] = 1

    def reshape(self, x: ir.Value, *shape: int) -> ir.Value:
        """Reshapes; 0 copies a dimension, -1 infers one."""
        return self.op("Reshape", x, self.integers(*shape))

    def cast(self, x: ir.Value, dtype: Dtype) -> ir.Value:
        """Converts to another type."""
        return self.op("Cast", x, to=int(data_type(dtype)))

    def last(self, x: ir.Value, count: int, axis: int) -> ir.Value:
        """Returns the last ``count`` items of an axis; a negative index of Gather means nothing to TensorRT."""
        return self.op("Slice", x, self.integers(-count), self.integers(_END), self.integers(axis))

    def mark(self, x: ir.Value, name: str) -> ir.Value:
        """Names a value, so that the graph can be cut there."""
        x.name = name
        return x

    def save(self, path: Path) -> None:
        """Writes the graph."""
        model = ir.Model(
            self._graph,
            ir_version=_IR_VERSIONS[self.opset],
            producer_name="glimpse-export",
            functions=self._functions,
        )
        ir.save(model, path)


def stage_spec(path: Path) -> StageSpec:
    """Returns what the manifest says about a graph that was written."""
    graph = ir.load(path).graph
    return StageSpec(path.name, _specs(graph.inputs), _specs(graph.outputs))


def _tensor_type(dtype: Dtype) -> ir.TensorType:
    return ir.TensorType(data_type(dtype))


def _specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    specs = []
    for value in values:
        assert value.name is not None
        assert value.dtype is not None
        assert value.shape is not None
        shape = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
        specs.append(TensorSpec(value.name, value.dtype.numpy().name, shape))
    return tuple(specs)
