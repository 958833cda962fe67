"""Cuts a written graph at named values and runs the pieces on their own, weights staying in the bundle's files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from glimpse_export.certify.measures.record import Stop
from glimpse_export.certify.written.halves import without_bfloat16
from glimpse_runtime.arrays import Array
from glimpse_runtime.backends.ort import import_onnxruntime

# What onnxruntime computes the products of integer weights in: float32, or eight-bit activations as at run time.
EXACT, FAST = 0, 4


class GraphFile:
    """One written graph, without its weights."""

    def __init__(self, path: Path) -> None:
        """Reads the graph."""
        self.path = path
        self.proto = onnx.load(str(path), load_external_data=False)
        graph = self.proto.graph
        self._inputs = {value.name: value for value in graph.input}
        self.outputs = [value.name for value in graph.output]
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._maker = {name: node for node in graph.node for name in node.output if name}
        self._order = {id(node): index for index, node in enumerate(graph.node)}

    def maker(self, value: str) -> Any:
        """Returns the node that makes a value."""
        return self._maker[value]

    def multiplied_by_rows(self, name: str) -> bool:
        """Whether a weight is multiplied as (outputs, inputs), as checkpoints store it, and not transposed."""
        nodes = [node for node in self.proto.graph.node if name in node.input]
        if len(nodes) == 1 and nodes[0].op_type == "Cast":
            return self.multiplied_by_rows(nodes[0].output[0])
        return any(node.op_type == "Gemm" for node in nodes)

    def is_added(self, name: str) -> bool:
        """Whether a weight is added to states and not multiplied."""
        return any(node.op_type == "Add" for node in self.proto.graph.node if name in node.input)

    def weights_by_rows(self, starts: Sequence[str], end: str) -> dict[str, int]:
        """Returns the weights (outputs, inputs) that a value depends on, and how many outputs each has."""
        names = self._walk(starts, [end])[2]
        return {name: self.initializers[name].dims[0] for name in names if self.multiplied_by_rows(name)}

    def used_initializers(self) -> list[str]:
        """Returns the weights and constants that some output depends on."""
        return self._walk((), self.outputs)[2]

    def cut(
        self,
        starts: Sequence[str],
        ends: Sequence[str],
        level: int = FAST,
        rows: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    ) -> tuple[bytes, list[str]]:
        """Returns the model between two sets of values, and the names of its inputs.

        Args:
            starts: values that become inputs, float32; those that the ends do not depend on are left out.
            ends: values that become outputs.
            level: what products of integer weights are computed in.
            rows: first row and the row behind the last one of weights that only a part is wanted of; what is made of
                it has as many columns.

        Raises:
            Stop: there is no such value, or nothing to compute it from.
        """
        nodes, inputs, initializers = self._walk(starts, ends)
        nodes = without_bfloat16([_at_level(node, level) for node in nodes], self._bfloat16())
        infos = [
            self._inputs.get(name) or onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in inputs
        ]
        known = {} if rows else {value.name: value for value in self.proto.graph.output}
        outputs = [known.get(name) or onnx.helper.make_empty_tensor_value_info(name) for name in ends]
        weights = [_some_rows(self.initializers[name], rows.get(name)) for name in initializers]
        graph = onnx.helper.make_graph(nodes, "cut", infos, outputs, weights)
        model = onnx.helper.make_model(graph, opset_imports=self.proto.opset_import, ir_version=self.proto.ir_version)
        return model.SerializeToString(), inputs

    def _bfloat16(self) -> set[str]:
        """Names of inputs and weights in bfloat16."""
        kinds = {name: value.type.tensor_type.elem_type for name, value in self._inputs.items()}
        kinds |= {name: tensor.data_type for name, tensor in self.initializers.items()}
        return {name for name, kind in kinds.items() if kind == onnx.TensorProto.BFLOAT16}

    def _walk(self, starts: Sequence[str], ends: Sequence[str]) -> tuple[list[Any], list[str], list[str]]:
        nodes: dict[int, Any] = {}
        inputs: dict[str, None] = {}
        initializers: dict[str, None] = {}
        waiting = list(ends)
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            if name in starts or name in self._inputs:
                inputs[name] = None
            elif name in self.initializers:
                initializers[name] = None
            elif name in self._maker:
                node = self._maker[name]
                nodes[self._order[id(node)]] = node
                waiting += node.input
            else:
                raise Stop(f"{self.path.name} has no value {name!r}")
        return [nodes[index] for index in sorted(nodes)], list(inputs), list(initializers)


def _some_rows(tensor: Any, rows: tuple[int, int] | None) -> Any:
    """Returns a weight in a file of its own as some of its rows."""
    if rows is None:
        return tensor
    part = onnx.TensorProto()
    part.CopyFrom(tensor)
    places = {entry.key: entry for entry in part.external_data}
    row_bytes = int(places["length"].value) // tensor.dims[0]
    part.dims[0] = rows[1] - rows[0]
    places["offset"].value = str(int(places["offset"].value) + rows[0] * row_bytes)
    places["length"].value = str(part.dims[0] * row_bytes)
    return part


def _at_level(node: Any, level: int) -> Any:
    """Returns a node that computes products of integer weights in the way of a level."""
    if node.op_type != "MatMulNBits":
        return node
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    for attribute in changed.attribute:
        if attribute.name == "accuracy_level":
            attribute.i = level
    return changed


class Piece:
    """A cut, loaded into onnxruntime."""

    def __init__(
        self,
        graph: GraphFile,
        starts: Sequence[str],
        ends: Sequence[str],
        level: int = FAST,
        rows: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    ) -> None:
        """Loads the part of a graph between some values; arguments as in ``GraphFile.cut``."""
        onnxruntime = import_onnxruntime("cpu")
        model, self.inputs = graph.cut(starts, ends, level, rows)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Dequantised matrices are multiplied as the graph says, not with activations in eight bits.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(graph.path.parent.resolve())
        )
        self._ends = list(ends)
        self._types = {value.name: value.type.tensor_type.elem_type for value in graph.proto.graph.input}
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, values: Mapping[str, Array], state: Mapping[str, Array] | None = None) -> list[Array]:
        """Runs the piece.

        Args:
            values: its inputs; those it does not have are passed over.
            state: buffers of the KV cache by tensor name, extended in place.

        Returns:
            Its ends in order.
        """
        binding = self._session.io_binding()
        keep_alive = []
        for name in self.inputs:
            if name.startswith("past."):
                continue
            array = np.require(values[name], self._dtype(name), "C")
            keep_alive.append(array)
            bind(binding.bind_input, name, array)
        held = state or {}
        for name, array in held.items():
            bind(binding.bind_input, f"past.{name}", array)
        for name in self._ends:
            if name.startswith("present."):
                array = held[name[len("present.") :]]
                bind(binding.bind_output, name, array)
            else:
                binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return [
            value.numpy()
            for name, value in zip(self._ends, binding.get_outputs(), strict=True)
            if not name.startswith("present.")
        ]

    def _dtype(self, name: str) -> Any:
        kind = self._types.get(name, onnx.TensorProto.FLOAT)
        return onnx.helper.tensor_dtype_to_np_dtype(kind)


def bind(method: Callable[..., None], name: str, array: Array) -> None:
    """Binds an array in place as an input or output; onnxruntime knows bfloat16 by its number alone."""
    kind = onnx.TensorProto.BFLOAT16 if array.dtype.name == "bfloat16" else array.dtype
    method(name, "cpu", 0, kind, array.shape, array.ctypes.data)
