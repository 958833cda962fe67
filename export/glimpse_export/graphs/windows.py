"""Attention within windows: rows are gathered into equally long windows and scattered back."""

from dataclasses import dataclass

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects import Dialect, Heads


@dataclass(frozen=True)
class WindowInputs:
    """The host-computed window layout as graph inputs; ``slots`` rows per window, padding included."""

    gather: ir.Value
    scatter: ir.Value
    keys: ir.Value
    slots: int

    def arrange(self, g: GraphBuilder, x: ir.Value, axis: int) -> ir.Value:
        """Returns items in window order, padding included: before the projections, so that one copy is enough."""
        return g.op("Gather", x, self.gather, axis=axis)

    @classmethod
    def declare(cls, g: GraphBuilder, items: str, slots: int) -> "WindowInputs":
        """Declares the inputs; ``items`` names the dimension that is cut into windows."""
        return cls(
            g.input("window_gather", ["window_slots"], "int64"),
            g.input("window_scatter", [items], "int64"),
            g.input("window_keys", ["windows", slots], "int32"),
            slots,
        )


def attend(
    g: GraphBuilder,
    dialect: Dialect,
    qkv: tuple[ir.Value, ir.Value, ir.Value],
    heads: Heads,
    widths: tuple[int, int],
    windows: WindowInputs | None,
) -> ir.Value:
    """Attention over all items of (1, items, width) rows, or within windows.

    Args:
        g: the graph.
        dialect: how to spell attention.
        qkv: queries, keys and values; of rows in window order where there are windows.
        heads: the head counts.
        widths: width of queries and keys, and of values.
        windows: the window layout; None attends over all items.
    """
    if windows is None:
        return dialect.attention(g, *qkv, heads, None)
    qk_width, v_width = widths
    cut = [g.reshape(x, -1, windows.slots, width) for x, width in zip(qkv, (qk_width, qk_width, v_width), strict=True)]
    out = dialect.attention(g, cut[0], cut[1], cut[2], heads, windows.keys)
    return g.op("Gather", g.reshape(out, 1, -1, v_width), windows.scatter, axis=1)
