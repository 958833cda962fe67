"""What the dialects for TensorRT share: heads apart from rows, and a KV cache of fixed length.

A cache tensor is (1, key heads, context, head size) on either side of the graph: the rows of a step are written at
``slots``, and a mask made from ``slots`` hides what lies behind them. Queries are divided by sqrt(size) in float32
before anything is rounded: unscaled products of some models' queries and keys leave the range of float16.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

import numpy as np
import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects.base import QUICK_GELU_ALPHA, Heads, WindowKeys
from glimpse_export.graphs.dialects.items import updated
from glimpse_export.graphs.dialects.products import HIDDEN, AttentionProduct
from glimpse_export.graphs.dialects.scores import last_row_scores
from glimpse_export.graphs.integers import DequantizedForm
from glimpse_export.graphs.linear import FloatForm, LinearForm
from glimpse_export.weights.precision import INTEGER


class TensorRTDialect(ABC):
    """Standard ONNX operators that TensorRT imports; the two dialects differ in how new they may be."""

    name: str
    fixed_cache = True
    cache_precisions: tuple[str, ...] = ("fp32", "fp16", "bf16")

    @abstractmethod
    def opset(self, precisions: Collection[str]) -> int:
        """See ``Dialect``."""

    @abstractmethod
    def rms_norm(self, g: GraphBuilder, x: ir.Value, weight: ir.Value, eps: float) -> ir.Value:
        """See ``Dialect``."""

    @abstractmethod
    def gelu(self, g: GraphBuilder, x: ir.Value, tanh: bool) -> ir.Value:
        """Returns x * Phi(x), or its approximation by tanh."""

    @abstractmethod
    def rotary_table(self, g: GraphBuilder, table: ir.Value) -> ir.Value:
        """Makes what ``rotate`` takes from cosines or sines, (batch, rows, size / 2)."""

    @abstractmethod
    def rotate(self, g: GraphBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """Rotates (batch, heads, rows, size)."""

    @abstractmethod
    def product(self, heads: Heads, dtype: str) -> AttentionProduct:
        """Returns how to spell attention of some heads in a type."""

    @abstractmethod
    def write_index(self, g: GraphBuilder, slots: ir.Value, heads: Heads) -> ir.Value:
        """Says to ``write`` where rows go: to ``slots`` (rows,) int64, which follow each other."""

    @abstractmethod
    def write(self, g: GraphBuilder, past: ir.Value, rows: ir.Value, index: ir.Value) -> ir.Value:
        """Returns a cache tensor (1, key heads, context, size) with (1, key heads, rows, size) written into it."""

    def linear(self, precision: str) -> LinearForm:
        """See ``Dialect``."""
        return DequantizedForm(int(precision[3:])) if precision in INTEGER else FloatForm(precision)

    def add_rms_norm(
        self, g: GraphBuilder, x: ir.Value, skip: ir.Value, weight: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        """See ``Dialect``."""
        total = g.op("Add", x, skip)
        return self.rms_norm(g, total, weight, eps), total

    def add_layer_norm(
        self, g: GraphBuilder, x: ir.Value, skip: ir.Value, weight: ir.Value, bias: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        """See ``Dialect``."""
        total = g.op("Add", x, skip)
        return g.layer_norm(total, weight, bias, eps), total

    def activation(self, g: GraphBuilder, x: ir.Value, kind: str) -> ir.Value:
        """See ``Dialect``; SiLU in two operators, since TensorRT imports Swish only since version 11."""
        if kind == "silu":
            return g.op("Mul", x, g.op("Sigmoid", x))
        if kind == "quick_gelu":
            return g.op("Mul", x, g.op("Sigmoid", g.op("Mul", x, g.scalar(QUICK_GELU_ALPHA))))
        if kind == "relu":
            return g.op("Relu", x)
        return self.gelu(g, x, tanh=kind == "gelu_pytorch_tanh")

    def by_rows(self, g: GraphBuilder, x: ir.Value, work: Callable[[ir.Value], ir.Value]) -> ir.Value:
        """See ``Dialect``; all at once."""
        return work(x)

    def attention(
        self,
        g: GraphBuilder,
        cos: ir.Value | None,
        sin: ir.Value | None,
        heads: Heads,
        windows: WindowKeys | None,
        dtype: str,
    ) -> "HeadAttention":
        """See ``Dialect``."""
        return HeadAttention(g, self, None if cos is None or sin is None else (cos, sin), heads, windows, dtype)

    def decoder_step(self, g: GraphBuilder, heads: Heads, cache_dtype: str, context: int) -> "CapacityStep":
        """See ``Dialect``."""
        return CapacityStep(g, self, heads, cache_dtype, context)

    def cache_width(self, head_dim: int) -> int:
        """See ``Dialect``."""
        return head_dim


class HeadAttention:
    """``Attention`` of heads that lie apart."""

    def __init__(
        self,
        g: GraphBuilder,
        dialect: TensorRTDialect,
        tables: tuple[ir.Value, ir.Value] | None,
        heads: Heads,
        windows: WindowKeys | None,
        dtype: str,
    ) -> None:
        """Brings rotary tables and mask into the form that all layers take."""
        self._dialect, self._heads, self._dtype = dialect, heads, dtype
        self._product = dialect.product(heads, dtype)
        self._rows = (1, -1) if windows is None else (-1, windows.slots)
        shape = (*self._rows, heads.size // 2)
        self._tables = [dialect.rotary_table(g, g.reshape(table, *shape)) for table in tables or ()]
        self._mask = None
        if windows is not None:
            counts = g.reshape(g.cast(windows.keys, "bool"), -1, 1, 1, windows.slots)
            self._mask = self._product.window_mask(g, counts, windows.slots)

    def attend(self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """See ``Attention``."""
        heads = self._heads
        q, k = self._rotated(g, q, heads.query), self._rotated(g, k, heads.key)
        return self._attend(g, q, k, self._split(g, v, heads.key, heads.value_size))

    def attend_updated(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, rows: ir.Value, name: str, items: str
    ) -> ir.Value:
        """See ``UpdatingAttention``."""
        heads = self._heads
        q, k = self._rotated(g, q, heads.query), self._rotated(g, k, heads.key)
        keys, values = updated(g, _joined(g, k, heads.key * heads.size), v, rows, name, items, heads)
        apart = self._split(g, keys, heads.key, heads.size), self._split(g, values, heads.key, heads.value_size)
        return self._attend(g, q, *apart)

    def _attend(self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        heads, dtype = self._heads, self._dtype
        q, k, v = (_rounded(g, x, dtype) for x in (_scaled(g, q, heads), k, v))
        out = _widened(g, self._product.attend(g, q, k, v, self._mask), dtype)
        return _joined(g, out, heads.query * heads.value_size)

    def rotated(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        """See ``Attention``."""
        return g.op("Squeeze", self._rotated(g, x, self._heads.query), g.integers(0))

    def _rotated(self, g: GraphBuilder, x: ir.Value, count: int) -> ir.Value:
        apart = self._split(g, x, count, self._heads.size)
        return self._dialect.rotate(g, apart, *self._tables) if self._tables else apart

    def _split(self, g: GraphBuilder, x: ir.Value, count: int, size: int) -> ir.Value:
        return g.op("Transpose", g.reshape(x, *self._rows, count, size), perm=[0, 2, 1, 3])


class CapacityStep:
    """``DecoderStep`` with a KV cache of fixed length."""

    def __init__(self, g: GraphBuilder, dialect: TensorRTDialect, heads: Heads, cache_dtype: str, context: int) -> None:
        """Declares the inputs, and makes what all layers share."""
        self.columns: int | str = context
        self._dialect, self._heads, self._dtype = dialect, heads, cache_dtype
        tables = [g.input(name, ["rows", heads.size // 2]) for name in ("cos", "sin")]
        self._cos, self._sin = (dialect.rotary_table(g, g.op("Unsqueeze", x, g.integers(0))) for x in tables)
        slots = g.input("slots", ["rows"], "int64")
        self._index = dialect.write_index(g, slots, heads)
        keys = g.constant(np.arange(context, dtype=np.int64))
        self._seen = g.op("LessOrEqual", keys, g.reshape(slots, 1, 1, -1, 1))
        self._product = dialect.product(heads, cache_dtype)
        self._mask = self._product.step_mask(g, self._seen, context)

    def attend(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, name: str, scored: bool
    ) -> tuple[ir.Value, ir.Value | None]:
        """See ``DecoderStep``."""
        heads, dialect, dtype = self._heads, self._dialect, self._dtype
        q = dialect.rotate(g, _split(g, q, heads.query, heads.size), self._cos, self._sin)
        k = dialect.rotate(g, _split(g, k, heads.key, heads.size), self._cos, self._sin)
        q, v = _scaled(g, q, heads), _split(g, v, heads.key, heads.size)
        key, value = (self._stored(g, x, f"{name}.{part}") for part, x in (("key", k), ("value", v)))
        out = self._product.attend(g, _rounded(g, q, dtype), key, value, self._mask)
        scores = self._scores(g, q, key) if scored else None
        return _joined(g, _widened(g, out, dtype), heads.query * heads.size), scores

    def _stored(self, g: GraphBuilder, rows: ir.Value, name: str) -> ir.Value:
        shape = (1, self._heads.key, self.columns, self._heads.size)
        past = g.input(f"past.{name}", shape, self._dtype)
        present = self._dialect.write(g, past, _rounded(g, rows, self._dtype), self._index)
        g.output(present, f"present.{name}", shape, self._dtype)
        return present

    def _scores(self, g: GraphBuilder, q: ir.Value, key: ir.Value) -> ir.Value:
        scores = last_row_scores(g, g.last(q, 1, axis=2), _widened(g, key, self._dtype), self._heads)
        seen = g.reshape(g.last(self._seen, 1, axis=2), 1, -1)
        return g.op("Where", seen, scores, g.scalar(HIDDEN))


def _split(g: GraphBuilder, x: ir.Value, count: int, size: int) -> ir.Value:
    """(1, rows, count * size) -> (1, count, rows, size)."""
    return g.op("Transpose", g.reshape(x, 1, -1, count, size), perm=[0, 2, 1, 3])


def _joined(g: GraphBuilder, x: ir.Value, width: int) -> ir.Value:
    """(batch, heads, rows, size) -> (1, batch * rows, heads * size)."""
    return g.reshape(g.op("Transpose", x, perm=[0, 2, 1, 3]), 1, -1, width)


def _scaled(g: GraphBuilder, q: ir.Value, heads: Heads) -> ir.Value:
    return g.op("Mul", q, g.scalar(1 / math.sqrt(heads.size)))


def _rounded(g: GraphBuilder, x: ir.Value, dtype: str) -> ir.Value:
    return x if dtype == "float32" else g.cast(x, dtype)


def _widened(g: GraphBuilder, x: ir.Value, dtype: str) -> ir.Value:
    return x if dtype == "float32" else g.cast(x, "float32")
