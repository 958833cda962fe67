"""A cache of keys and values by item, for attention that runs some of the items again."""

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder, Shape
from glimpse_export.graphs.dialects.base import Heads


def updated(
    g: GraphBuilder, k: ir.Value, v: ir.Value, rows: ir.Value, name: str, items: str, heads: Heads
) -> tuple[ir.Value, ir.Value]:
    """Declares the cache ``name`` and replaces some of its rows; see ``UpdatingAttention.attend_updated``.

    Args:
        g: the graph.
        k: (1, rows, heads * size) float32, rotated.
        v: (1, rows, heads * value_size) float32.
        rows: (rows,) int64, where they go.
        name: the cache's.
        items: names the dimension of all items.
        heads: the head counts.

    Returns:
        Keys and values of all items, (items, heads * size) and (items, heads * value_size) float32.
    """
    places = g.op("Unsqueeze", rows, g.integers(1))

    def written(new: ir.Value, part: str, width: int) -> ir.Value:
        shape: Shape = (items, width)
        past = g.input(f"past.{name}.{part}", shape)
        present = g.op("ScatterND", past, places, g.reshape(new, -1, width))
        g.output(present, f"present.{name}.{part}", shape)
        return present

    return written(k, "key", heads.key * heads.size), written(v, "value", heads.key * heads.value_size)
