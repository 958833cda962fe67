"""The two ways to spell softmax(q k^T) v for TensorRT, heads apart from rows."""

from typing import Protocol

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects.base import Heads

# Finite, so that not even a row without keys becomes NaN, and far below any score.
HIDDEN = -1e30


class AttentionProduct(Protocol):
    """Attention of scaled queries to keys, all of one type."""

    def window_mask(self, g: GraphBuilder, counts: ir.Value, slots: int) -> ir.Value:
        """Makes a mask from a bool (windows, 1, 1, slots) that is true where a key counts."""
        ...

    def step_mask(self, g: GraphBuilder, seen: ir.Value, context: int) -> ir.Value:
        """Makes a mask from a bool (1, 1, rows, context) that is true where a row sees a key."""
        ...

    def attend(self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None) -> ir.Value:
        """Returns (batch, query heads, rows, value_size).

        Args:
            g: the graph.
            q: (batch, query heads, rows, size), divided by sqrt(size) already.
            k: (batch, key heads, keys, size).
            v: (batch, key heads, keys, value_size).
            mask: from ``window_mask`` or ``step_mask``; None shows every key to every row.
        """
        ...


class FusedProduct:
    """The operator Attention, which becomes one of TensorRT's own kernels."""

    def window_mask(self, g: GraphBuilder, counts: ir.Value, slots: int) -> ir.Value:
        """See ``AttentionProduct``; written out for every row: no engine spreads a single one."""
        return g.op("Expand", counts, g.integers(1, 1, slots, 1))

    def step_mask(self, g: GraphBuilder, seen: ir.Value, context: int) -> ir.Value:
        """See ``AttentionProduct``."""
        return seen

    def attend(self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None) -> ir.Value:
        """See ``AttentionProduct``."""
        return g.op("Attention", q, k, v, mask, scale=1.0)


class SpelledProduct:
    """Two products and a softmax, which is computed in float32.

    Query heads that share a key head are rows of one product, so no key is copied.
    """

    def __init__(self, heads: Heads, dtype: str) -> None:
        """Prepares for queries, keys and values of a type."""
        self._heads, self._dtype = heads, dtype
        self._group = heads.query // heads.key

    def window_mask(self, g: GraphBuilder, counts: ir.Value, slots: int) -> ir.Value:
        """See ``AttentionProduct``."""
        return counts

    def step_mask(self, g: GraphBuilder, seen: ir.Value, context: int) -> ir.Value:
        """See ``AttentionProduct``: once for each query head of a key head."""
        if self._group == 1:
            return seen
        return g.reshape(g.op("Expand", seen, g.integers(1, self._group, 1, 1)), 1, 1, -1, context)

    def attend(self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None) -> ir.Value:
        """See ``AttentionProduct``."""
        heads, dtype = self._heads, self._dtype
        if self._group > 1:
            q = g.reshape(q, 1, heads.key, -1, heads.size)
        scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
        if dtype != "float32":
            scores = g.cast(scores, "float32")
        if mask is not None:
            scores = g.op("Where", mask, scores, g.scalar(HIDDEN))
        shares = g.op("Softmax", scores, axis=-1)
        if dtype != "float32":
            shares = g.cast(shares, dtype)
        out = g.op("MatMul", shares, v)
        return g.reshape(out, 1, heads.query, -1, heads.value_size) if self._group > 1 else out
