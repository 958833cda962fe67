"""Builds the body of an ONNX model-local function."""

from collections.abc import Sequence

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_runtime.arrays import Array


class FunctionBuilder(GraphBuilder):
    """One function under construction; its values have no types, and its constants are nodes, as ONNX wants them."""

    def __init__(self, name: str, domain: str, caller: GraphBuilder) -> None:
        """Starts an empty function of the caller's opset."""
        super().__init__(name, caller.weights, caller.opset)
        self._domain = domain

    def inputs(self, names: Sequence[str]) -> list[ir.Value]:
        """Declares the inputs, in order."""
        values = [ir.Value(name=name) for name in names]
        self._graph.inputs.extend(values)
        return values

    def outputs(self, values: Sequence[ir.Value], names: Sequence[str]) -> None:
        """Declares the outputs, in order."""
        for value, name in zip(values, names, strict=True):
            value.name = name
        self._graph.outputs.extend(values)

    def constant(self, array: Array) -> ir.Value:
        """Returns a small constant, stored once in the function."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=ir.tensor(array))
        return self._constants[key]

    def function(self, *integers: str) -> ir.Function:
        """Returns the finished function, whose calls must have the attributes ``integers``; see ``define``."""
        attributes = [ir.Attr(name, ir.AttributeType.INT, None) for name in integers]
        return ir.Function(self._domain, self.name, graph=self._graph, attributes=attributes)
