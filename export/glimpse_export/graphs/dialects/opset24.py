"""``opset24``: Attention, RotaryEmbedding, RMSNormalization, TensorScatter, for TensorRT from 10.15 and TensorRT-RTX.

What TensorRT accepts of these operators and then passes over is not used: Attention gets its mask, and neither lengths
nor a past; TensorScatter gets a cache of fixed length.
"""

from collections.abc import Collection

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects.base import Heads
from glimpse_export.graphs.dialects.products import AttentionProduct, FusedProduct, SpelledProduct
from glimpse_export.graphs.dialects.tensorrt import TensorRTDialect


class Opset24Dialect(TensorRTDialect):
    """The operators of opset 24."""

    name = "opset24"

    def opset(self, precisions: Collection[str]) -> int:
        """See ``Dialect``."""
        return 24

    def rms_norm(self, g: GraphBuilder, x: ir.Value, weight: ir.Value, eps: float) -> ir.Value:
        """See ``Dialect``."""
        return g.op("RMSNormalization", x, weight, axis=-1, epsilon=eps)

    def gelu(self, g: GraphBuilder, x: ir.Value, tanh: bool) -> ir.Value:
        """See ``TensorRTDialect``."""
        return g.op("Gelu", x, approximate="tanh" if tanh else "none")

    def rotary_table(self, g: GraphBuilder, table: ir.Value) -> ir.Value:
        """See ``TensorRTDialect``."""
        return table

    def rotate(self, g: GraphBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """See ``TensorRTDialect``; the tables have a row for each row, so there are no position ids."""
        return g.op("RotaryEmbedding", x, cos, sin)

    def product(self, heads: Heads, dtype: str) -> AttentionProduct:
        """See ``TensorRTDialect``.

        TensorRT's kernels behind Attention take half precision, and heads of one size; it refuses the operator
        otherwise.
        """
        is_fused = dtype != "float32" and heads.size == heads.value_size
        return FusedProduct() if is_fused else SpelledProduct(heads, dtype)

    def write_index(self, g: GraphBuilder, slots: ir.Value, heads: Heads) -> ir.Value:
        """See ``TensorRTDialect``: the first slot, for each batch entry."""
        return g.op("Slice", slots, g.integers(0), g.integers(1), g.integers(0))

    def write(self, g: GraphBuilder, past: ir.Value, rows: ir.Value, index: ir.Value) -> ir.Value:
        """See ``TensorRTDialect``."""
        return g.op("TensorScatter", past, rows, index, axis=2)
