"""``plain``: primitives alone, for TensorRT 10.3 (JetPack 6), which imports no opset behind 20."""

import math
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects.base import Heads
from glimpse_export.graphs.dialects.products import AttentionProduct, SpelledProduct
from glimpse_export.graphs.dialects.tensorrt import TensorRTDialect


class PlainDialect(TensorRTDialect):
    """Primitives."""

    name = "plain"

    def opset(self, precisions: Collection[str]) -> int:
        """See ``Dialect``; blocks of four-bit integers came with opset 21, and TensorRT 10.3 imports them."""
        return 21 if "int4" in precisions else 20

    def rms_norm(self, g: GraphBuilder, x: ir.Value, weight: ir.Value, eps: float) -> ir.Value:
        """See ``Dialect``."""
        mean = g.op("ReduceMean", g.op("Mul", x, x), g.integers(-1), keepdims=1)
        root = g.op("Sqrt", g.op("Add", mean, g.scalar(eps)))
        return g.op("Mul", g.op("Div", x, root), weight)

    def gelu(self, g: GraphBuilder, x: ir.Value, tanh: bool) -> ir.Value:
        """See ``TensorRTDialect``."""
        if tanh:
            cube = g.op("Mul", g.op("Mul", x, x), x)
            inner = g.op("Add", x, g.op("Mul", cube, g.scalar(0.044715)))
            share = g.op("Tanh", g.op("Mul", inner, g.scalar(math.sqrt(2 / math.pi))))
        else:
            share = g.op("Erf", g.op("Mul", x, g.scalar(math.sqrt(0.5))))
        return g.op("Mul", g.op("Mul", x, g.scalar(0.5)), g.op("Add", share, g.scalar(1.0)))

    def rotary_table(self, g: GraphBuilder, table: ir.Value) -> ir.Value:
        """See ``TensorRTDialect``: one for all heads."""
        return g.op("Unsqueeze", table, g.integers(1))

    def rotate(self, g: GraphBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """See ``TensorRTDialect``."""
        first, second = g.ops("Split", x, outputs=2, axis=-1, num_outputs=2)
        left = g.op("Sub", g.op("Mul", first, cos), g.op("Mul", second, sin))
        right = g.op("Add", g.op("Mul", second, cos), g.op("Mul", first, sin))
        return g.op("Concat", left, right, axis=-1)

    def product(self, heads: Heads, dtype: str) -> AttentionProduct:
        """See ``TensorRTDialect``."""
        return SpelledProduct(heads, dtype)

    def write_index(self, g: GraphBuilder, slots: ir.Value, heads: Heads) -> ir.Value:
        """See ``TensorRTDialect``: (1, key heads, rows, 3) batch entry, head and slot of every row."""
        head = np.zeros((1, heads.key, 1, 3), np.int64)
        head[0, :, 0, 1] = np.arange(heads.key)
        slot = g.op("Mul", g.reshape(slots, 1, 1, -1, 1), g.integers(0, 0, 1))
        return g.op("Add", slot, g.constant(head))

    def write(self, g: GraphBuilder, past: ir.Value, rows: ir.Value, index: ir.Value) -> ir.Value:
        """See ``TensorRTDialect``."""
        return g.op("ScatterND", past, index, rows)
