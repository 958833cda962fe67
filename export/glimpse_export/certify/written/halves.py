"""Lets a CPU compute what a graph does in bfloat16: onnxruntime has no such kernels there, only conversions.

Every operator with operands in bfloat16 runs in float32 between conversions, and its result is rounded to bfloat16
again. Products of rounded numbers, summed in float32 and rounded once, are what GPUs compute as well.
"""

from collections.abc import Sequence
from typing import Any

import onnx

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16
_WIDE = ":float32"


def without_bfloat16(nodes: Sequence[Any], rounded: set[str]) -> list[Any]:
    """Returns nodes that compute the same without an operand in bfloat16, conversions aside.

    Args:
        nodes: in an order in which they can run.
        rounded: inputs and weights in bfloat16.
    """
    rounded, widened = set(rounded), set()
    out: list[Any] = []
    for node in nodes:
        if node.op_type == "Cast":
            if _target(node) == _HALF:
                rounded.update(node.output)
            out.append(node)
            continue
        halves = [name for name in dict.fromkeys(node.input) if name in rounded]
        if not halves:
            out.append(node)
            continue
        for name in halves:
            if name not in widened:
                widened.add(name)
                out.append(onnx.helper.make_node("Cast", [name], [name + _WIDE], to=_FLOAT))
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in rounded:
                changed.input[index] = name + _WIDE
        out.append(changed)
        for index, name in enumerate(node.output):
            changed.output[index] = f"{name}:exact"
            out.append(onnx.helper.make_node("Cast", [f"{name}:exact"], [name], to=_HALF))
        rounded.update(node.output)
    return out


def _target(cast: Any) -> int:
    return int(next(attribute.i for attribute in cast.attribute if attribute.name == "to"))
