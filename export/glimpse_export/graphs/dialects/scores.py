"""The last row's attention scores, which the glimpse is read from."""

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects.base import Heads


def last_row_scores(g: GraphBuilder, query: ir.Value, keys: ir.Value, heads: Heads) -> ir.Value:
    """Returns the scores of one row.

    Args:
        g: the graph.
        query: the row's query, head after head, float32, scaled.
        keys: (1, key heads, columns, size) float32.
        heads: the head counts.

    Returns:
        (query heads, columns) float32.
    """
    per_key_head = g.reshape(query, heads.key, heads.query // heads.key, heads.size)
    transposed = g.op("Transpose", g.op("Squeeze", keys, g.integers(0)), perm=[0, 2, 1])
    return g.reshape(g.op("MatMul", per_key_head, transposed), heads.query, -1)
