"""How much attention each visual token receives in a block of the vision encoder, what VisionZip chooses by.

Encoders with a class token have what it looks at, as VisionZip does; others the mean over all queries.
"""

import math

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects import Heads

_END = (1 << 63) - 1


def attention_received(g: GraphBuilder, q: ir.Value, k: ir.Value, heads: Heads, unit: int) -> ir.Value:
    """Returns the share of all attention that each visual token receives.

    Scores of all heads at once would be the largest array of the encoder by far: they are spelled head by head, and
    ``unit`` runs of rows each, so 16 MiB of them live at a time for 4,096 patches.

    Args:
        g: the graph.
        q: (heads, patches, size) float32, rotated.
        k: the same.
        heads: the head counts.
        unit: patches of a visual token.

    Returns:
        (visual tokens,) float32 of sum 1: the mean over heads and queries, summed over a token's patches.
    """
    scaled = g.op("Mul", q, g.scalar(1 / math.sqrt(heads.size)))
    keys = g.op("Transpose", k, perm=[0, 2, 1])
    total: ir.Value | None = None
    for head in range(heads.query):
        key = g.op("Gather", keys, g.integers(head), axis=0)
        runs = g.reshape(g.op("Gather", scaled, g.integers(head), axis=0), unit, -1, heads.size)
        for run in range(unit):
            scores = g.op("MatMul", g.op("Gather", runs, g.integers(run), axis=0), key)
            summed = g.op("ReduceSum", g.op("Softmax", scores, axis=-1), g.integers(0, 1), keepdims=0)
            total = summed if total is None else g.op("Add", total, summed)
    assert total is not None
    tokens = g.op("ReduceSum", g.reshape(total, -1, unit), g.integers(1), keepdims=0)
    return g.op("Div", tokens, g.op("ReduceSum", tokens, g.integers(0), keepdims=1))


def attention_of_first_row(g: GraphBuilder, q: ir.Value, k: ir.Value, heads: Heads) -> ir.Value:
    """Returns the share of the first row's attention that each other row receives.

    Args:
        g: the graph.
        q: (heads, rows, size) float32.
        k: the same.
        heads: the head counts.

    Returns:
        (rows - 1,) float32 of sum 1: the mean over heads of the first row's attention to the rows behind it.
    """
    first = g.op("Slice", q, g.integers(0), g.integers(1), g.integers(1))
    scaled = g.op("Mul", first, g.scalar(1 / math.sqrt(heads.size)))
    shares = g.op("Softmax", g.op("MatMul", scaled, g.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    mean = g.op("ReduceMean", shares, g.integers(0, 1), keepdims=0)
    others = g.op("Slice", mean, g.integers(1), g.integers(_END), g.integers(0))
    return g.op("Div", others, g.op("ReduceSum", others, g.integers(0), keepdims=1))
