"""The ONNX parser: what becomes of a node depends on the version."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import onnx
from onnx import helper, inliner, shape_inference

from fake_trt.network import ILayer, INetworkDefinition, ITensor
from fake_trt.registry import IPluginRegistry
from fake_trt.types import DataType, ErrorCode, ILogger, LayerType, Settings, Severity

_DTYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.BFLOAT16: DataType.BF16,
    onnx.TensorProto.BOOL: DataType.BOOL,
    onnx.TensorProto.INT64: DataType.INT64,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.INT8: DataType.INT8,
    onnx.TensorProto.INT4: DataType.INT4,
    onnx.TensorProto.UINT8: DataType.UINT8,
}
_LAYERS = {
    "MatMul": LayerType.MATRIX_MULTIPLY,
    "Cast": LayerType.CAST,
    "Constant": LayerType.CONSTANT,
    "Reshape": LayerType.SHUFFLE,
    "Transpose": LayerType.SHUFFLE,
    "Shape": LayerType.SHAPE,
    "DequantizeLinear": LayerType.DEQUANTIZE,
    "Attention": LayerType.ATTENTION_OUTPUT,
    "RotaryEmbedding": LayerType.ROTARY_EMBEDDING,
    "TensorScatter": LayerType.KV_CACHE_UPDATE,
    "RMSNormalization": LayerType.NORMALIZATION,
    "Add": LayerType.ELEMENTWISE,
    "Mul": LayerType.ELEMENTWISE,
}
_SINCE = {"Attention": (10, 14), "RotaryEmbedding": (10, 15), "RMSNormalization": (10, 15), "TensorScatter": (10, 15)}
_NEVER = {"Compress", "Unique", "BitwiseAnd", "BitwiseOr", "DynamicQuantizeLinear", "GroupQueryAttention"}
_NEVER_RTX = {"NonZero"}
_IGNORED_INPUTS = {"Attention": {6}}  # nonpad_kv_seqlen


class ParserError:
    def __init__(self, node: onnx.NodeProto | None, desc: str, code: ErrorCode) -> None:
        self._node, self._desc, self._code = node, desc, code

    def node_name(self) -> str:
        return self._node.name if self._node is not None else ""

    def node_operator(self) -> str:
        return self._node.op_type if self._node is not None else ""

    def desc(self) -> str:
        return self._desc

    def code(self) -> ErrorCode:
        return self._code


class OnnxParser:
    settings: ClassVar[Settings]
    registry: ClassVar[IPluginRegistry]

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        """Reads a model; ``path`` says where its external data lies."""
        try:
            proto = onnx.load_model_from_string(model)
        except Exception:
            self._errors.append(ParserError(None, "Failed to parse ONNX model", ErrorCode.MODEL_DESERIALIZE_FAILED))
            return False
        self._require_weights(proto, path)
        proto = self._inline(proto)
        for node in proto.graph.node:
            self._check(node)
        if self._errors:
            self._logger.log(Severity.ERROR, f"parsing failed: {self._errors[0].desc()}")
            return False
        self._network.graph = path or ""
        self._fill(shape_inference.infer_shapes(proto))
        return True

    def _require_weights(self, proto: onnx.ModelProto, path: str | None) -> None:
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location" and not (path and Path(path).with_name(entry.value).is_file()):
                    text = f"Failed to open external weights {entry.value}"
                    self._errors.append(ParserError(None, text, ErrorCode.UNSUPPORTED_NODE))

    def _plugin(self, node: onnx.NodeProto) -> bool:
        """Whether a node becomes a plugin's layer."""
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        version = given.get("plugin_version", b"1").decode()
        namespace = given.get("plugin_namespace", b"").decode()
        if self.registry.get_creator(node.op_type, version, namespace) is None:
            return False
        return not self.settings.at_least(10, 15) or "plugin_namespace" in given

    def _inline(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        functions = {function.name: function for function in proto.functions}
        inlined = []
        for function in functions.values():
            nodes = [node for node in proto.graph.node if node.op_type == function.name]
            wins = not self.settings.at_least(10, 7) or not all(self._plugin(node) for node in nodes)
            if wins:
                inlined.append((function.domain, function.name))
        return inliner.inline_selected_functions(proto, inlined) if inlined else proto

    def _check(self, node: onnx.NodeProto) -> None:
        banned = _NEVER | (_NEVER_RTX if self.settings.is_rtx else set())
        known = node.domain in ("", "ai.onnx") and node.op_type not in banned
        since = _SINCE.get(node.op_type)
        if (not known and not self._plugin(node)) or (since and not self.settings.at_least(*since)):
            text = f"No importer registered for op: {node.op_type}. Plugin not found"
            self._errors.append(ParserError(node, text, ErrorCode.UNSUPPORTED_NODE))

    def _fill(self, proto: onnx.ModelProto) -> None:
        graph, network = proto.graph, self._network
        known: dict[str, Any] = {v.name: v.type.tensor_type for v in (*graph.input, *graph.output, *graph.value_info)}
        tensors: dict[str, ITensor] = {}
        for value in graph.input:
            tensors[value.name] = _tensor(value.name, known)
            network.inputs.append(tensors[value.name])
        for weight in graph.initializer:
            dtype = _DTYPES[weight.data_type]
            tensors[weight.name] = ITensor(weight.name, dtype, list(weight.dims))
            network.layers.append(ILayer(weight.name, LayerType.CONSTANT, [], [tensors[weight.name]]))
        for node in graph.node:
            ignored = _IGNORED_INPUTS.get(node.op_type, set())
            inputs = [tensors.get(name) for i, name in enumerate(node.input) if i not in ignored]
            for name in node.output:
                tensors[name] = _tensor(name, known)
            kind = LayerType.PLUGIN_V3 if self._is_foreign(node) else _LAYERS.get(node.op_type, LayerType.OTHER)
            network.layers.append(ILayer(node.name, kind, inputs, [tensors[name] for name in node.output]))
        network.outputs.extend(tensors[value.name] for value in graph.output)

    def _is_foreign(self, node: onnx.NodeProto) -> bool:
        return node.domain not in ("", "ai.onnx")


def _tensor(name: str, known: Mapping[str, Any]) -> ITensor:
    if name not in known:
        return ITensor(name, DataType.FLOAT, None)
    kind = known[name]
    dims = [dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in kind.shape.dim]
    return ITensor(name, _DTYPES[kind.elem_type], dims)
