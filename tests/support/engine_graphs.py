"""Small ONNX graphs with what makes TensorRT trip."""

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper, save_model

ROWS, WIDTH, HEADS, HEAD_DIM, CONTEXT = "rows", 16, 2, 8, 32
DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def value(name: str, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> object:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(nodes: list, inputs: list, outputs: list, initializers: list = (), functions: list = ()) -> ModelProto:  # type: ignore[assignment, type-arg]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("glimpse", 1), helper.make_opsetid("other", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=11)


def product(dtype: str = "float16", extra_float_values: int = 0) -> ModelProto:
    """Hidden states times a stored matrix in ``dtype``, cast before and after; and a float32 matrix beside it."""
    kind = DTYPES[dtype]
    weight = helper.make_tensor("weight", kind, [WIDTH, WIDTH], np.zeros(WIDTH * WIDTH, np.float32))
    nodes = [
        helper.make_node("Cast", ["hidden_in"], ["narrow"], name="narrow", to=kind),
        helper.make_node("MatMul", ["narrow", "weight"], ["wide"], name="product"),
        helper.make_node("Cast", ["wide"], ["hidden_out"], name="widen", to=TensorProto.FLOAT),
    ]
    initializers, outputs = [weight], [value("hidden_out", [1, ROWS, WIDTH])]
    if extra_float_values:
        columns = extra_float_values // WIDTH
        initializers.append(numpy_helper.from_array(np.zeros((WIDTH, columns), np.float32), "plain_weight"))
        nodes.append(helper.make_node("MatMul", ["hidden_in", "plain_weight"], ["beside"], name="plain_product"))
        outputs.append(value("beside", [1, ROWS, columns]))
    return model(nodes, [value("hidden_in", [1, ROWS, WIDTH])], outputs, initializers)


def attention(ignored: bool) -> ModelProto:
    """Attention over a cache; ``ignored`` limits the keys by an input that the parser passes over."""
    names = ["query", "key", "value"]
    inputs = [value(name, [1, HEADS, ROWS if name == "query" else CONTEXT, HEAD_DIM]) for name in names]
    if ignored:
        inputs.append(value("lengths", [1], TensorProto.INT64))
        names = [*names, "", "", "", "lengths"]
    else:
        inputs.append(value("mask", [1, 1, ROWS, CONTEXT], TensorProto.BOOL))
        names = [*names, "mask"]
    node = helper.make_node("Attention", names, ["result"], name="attend")
    return model([node], inputs, [value("result", [1, HEADS, ROWS, HEAD_DIM])])


def cache_update() -> ModelProto:
    """A cache that is updated in place."""
    shape = [1, HEADS, CONTEXT, HEAD_DIM]
    inputs = [
        value("past.0.key", shape),
        value("update", [1, HEADS, ROWS, HEAD_DIM]),
        value("write", [1], TensorProto.INT64),
    ]
    node = helper.make_node(
        "TensorScatter", ["past.0.key", "update", "write"], ["present.0.key"], name="update", axis=2
    )
    return model([node], inputs, [value("present.0.key", shape)])


def compaction(nested: bool = False) -> ModelProto:
    """The compaction operator with a function for it; ``nested`` calls it from another function."""
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("glimpse", 1)]
    body = [
        helper.make_node("Cast", ["keep"], ["ones"], to=TensorProto.INT32),
        helper.make_node("ReduceSum", ["ones"], ["count"], keepdims=0),
        helper.make_node("Identity", ["hidden_in"], ["hidden_out"]),
    ]
    functions = [
        helper.make_function("glimpse", "CompactMany", ["keep", "hidden_in"], ["count", "hidden_out"], body, opsets)
    ]
    call = helper.make_node("CompactMany", ["keep", "hidden_in"], ["count", "hidden_out"], "compact", domain="glimpse")
    if nested:
        inner = helper.make_node("CompactMany", ["keep", "hidden_in"], ["count", "hidden_out"], domain="glimpse")
        functions.append(
            helper.make_function("other", "Wrap", ["keep", "hidden_in"], ["count", "hidden_out"], [inner], opsets)
        )
        call = helper.make_node("Wrap", ["keep", "hidden_in"], ["count", "hidden_out"], "wrap", domain="other")
    inputs = [value("keep", [ROWS], TensorProto.BOOL), value("hidden_in", [1, ROWS, WIDTH])]
    outputs = [value("count", [], TensorProto.INT32), value("hidden_out", [1, ROWS, WIDTH])]
    return model([call], inputs, outputs, functions=functions)


def save(made: ModelProto, folder: Path, name: str = "stage.onnx") -> Path:
    save_model(made, str(folder / name))
    return folder / name
