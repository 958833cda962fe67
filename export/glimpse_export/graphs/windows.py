"""Attention within windows: rows are gathered into equally long windows and scattered back."""

from dataclasses import dataclass

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects import WindowKeys


@dataclass(frozen=True)
class WindowInputs:
    """The host-computed window layout as graph inputs."""

    gather: ir.Value
    scatter: ir.Value
    keys: WindowKeys

    @classmethod
    def declare(cls, g: GraphBuilder, items: str, arranged: str, slots: int) -> "WindowInputs":
        """Declares the inputs.

        Args:
            g: the graph.
            items: names the dimension that is cut into windows.
            arranged: names the same in window order, padding included.
            slots: rows of a window.
        """
        return cls(
            g.input("window_gather", [arranged], "int64"),
            g.input("window_scatter", [items], "int64"),
            WindowKeys(g.input("window_keys", ["windows", slots], "int32"), slots),
        )

    def arrange(self, g: GraphBuilder, x: ir.Value, axis: int) -> ir.Value:
        """Returns items in window order, padding included: before the projections, so that one copy is enough."""
        return g.op("Gather", x, self.gather, axis=axis)

    def restore(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        """Returns (1, rows in window order, width) in the items' own order, without padding."""
        return g.op("Gather", x, self.scatter, axis=1)
