"""Makes a graph ready for TensorRT's parser, in memory: the file in the bundle stays what every engine reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from glimpse_export.errors import BuildError
from glimpse_runtime.engines.flavours import Flavour
from glimpse_runtime.engines.key import COMPACTION

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto

PLUGIN_NAMESPACE, PLUGIN_VERSION = "glimpse", "1"
_ATTENTION = "Attention"


def prepare(path: Path, flavour: Flavour, plugin: bool) -> "ModelProto":
    """Reads a graph without its weights and prepares it.

    Args:
        path: the graph.
        flavour: what will parse it.
        plugin: True makes the compaction operator the plugin's, whatever the flavour would choose; False leaves it to
            the function in the file.

    Raises:
        BuildError: onnx is not installed.
    """
    model = read_graph(path)
    if plugin:
        # A node inside another function never becomes a plugin.
        callers = [(f.domain, f.name) for f in model.functions if f.name != COMPACTION and _uses(model, f, COMPACTION)]
        if callers:
            from onnx.inliner import inline_selected_functions

            model = inline_selected_functions(model, callers)
        _give_to_plugin(model)
    if flavour.fused_attention:
        for node in model.graph.node:
            if node.op_type == _ATTENTION and not node.domain:
                _set(node, "TRT_decomposable", 1)
    return model


def read_graph(path: Path) -> "ModelProto":
    """Reads a graph without its weights.

    Raises:
        BuildError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise BuildError('onnx is not installed; run: pip install "glimpse-edge[engines]"') from None
    return onnx.load_model(str(path), load_external_data=False)


def _uses(model: "ModelProto", function: "FunctionProto", kind: str) -> bool:
    """Whether a function contains an operator, itself or through functions it calls."""
    called = {(f.domain, f.name): f for f in model.functions}
    for node in function.node:
        inner = called.get((node.domain, node.op_type))
        if node.op_type == kind or (inner is not None and _uses(model, inner, kind)):
            return True
    return False


def _give_to_plugin(model: "ModelProto") -> None:
    """Names the plugin at every node, and takes the function away, which would count before it."""
    for node in model.graph.node:
        if node.op_type == COMPACTION:
            _set(node, "plugin_namespace", PLUGIN_NAMESPACE)
            _set(node, "plugin_version", PLUGIN_VERSION)
    kept = [function for function in model.functions if function.name != COMPACTION]
    del model.functions[:]
    model.functions.extend(kept)


def _set(node: Any, name: str, value: int | str) -> None:
    from onnx import helper

    others = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*others, helper.make_attribute(name, value)])
