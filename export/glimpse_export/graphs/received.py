"""How much attention each visual token receives in a block of the vision encoder, what VisionZip chooses by."""

import math

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects import Heads


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
