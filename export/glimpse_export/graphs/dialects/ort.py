"""``ort``: onnxruntime's own operators, for its CPU and CUDA providers.

GroupQueryAttention extends the KV cache in place, normalisation fuses with the residual sum, attention over all keys
runs without an N x N mask.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from glimpse_export.graphs.builder import MICROSOFT, GraphBuilder, Shape
from glimpse_export.graphs.dialects.base import QUICK_GELU_ALPHA, Heads, WindowKeys
from glimpse_export.graphs.dialects.items import updated
from glimpse_export.graphs.dialects.scores import last_row_scores
from glimpse_export.graphs.integers import BlockForm
from glimpse_export.graphs.linear import FloatForm, LinearForm
from glimpse_export.weights.precision import INTEGER


class OrtDialect:
    """onnxruntime's own operators."""

    name = "ort"
    fixed_cache = False
    cache_precisions: tuple[str, ...] = ("fp32", "fp16")

    def __init__(self, gpu: bool = False) -> None:
        """Prepares for the CPU's provider or, with ``gpu``, for CUDA's, whose kernels came later."""
        self._gpu = gpu

    def opset(self, precisions: Collection[str]) -> int:
        """See ``Dialect``; CUDA's provider has a ReduceMax up to opset 19, and no Cast of 21 before version 1.24."""
        return 19

    def linear(self, precision: str) -> LinearForm:
        """See ``Dialect``; CPUs have no products of bf16, so such matrices are widened."""
        if precision in INTEGER:
            return BlockForm(int(precision[3:]), bias_apart=self._gpu)
        return FloatForm(precision, widen=True)

    def rms_norm(self, g: GraphBuilder, x: ir.Value, weight: ir.Value, eps: float) -> ir.Value:
        """See ``Dialect``."""
        return g.op("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=eps, stash_type=1)

    def add_rms_norm(
        self, g: GraphBuilder, x: ir.Value, skip: ir.Value, weight: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        """See ``Dialect``; outputs 1 and 2 of the operator are for training and stay unnamed."""
        normed, mean, inverse, total = g.ops(
            "SkipSimplifiedLayerNormalization", x, skip, weight, outputs=4, domain=MICROSOFT, epsilon=eps
        )
        mean.name = inverse.name = ""
        return normed, total

    def add_layer_norm(
        self, g: GraphBuilder, x: ir.Value, skip: ir.Value, weight: ir.Value, bias: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        """See ``Dialect``; outputs 1 and 2 of the operator are for training and stay unnamed."""
        normed, mean, inverse, total = g.ops(
            "SkipLayerNormalization", x, skip, weight, bias, outputs=4, domain=MICROSOFT, epsilon=eps
        )
        mean.name = inverse.name = ""
        return normed, total

    def activation(self, g: GraphBuilder, x: ir.Value, kind: str) -> ir.Value:
        """See ``Dialect``; QuickGelu with alpha 1 is SiLU in one pass, and FastGelu the approximation by tanh."""
        if kind in ("silu", "quick_gelu"):
            return g.op("QuickGelu", x, domain=MICROSOFT, alpha=1.0 if kind == "silu" else QUICK_GELU_ALPHA)
        if kind == "relu":
            return g.op("Relu", x)
        return g.op("FastGelu" if kind == "gelu_pytorch_tanh" else "Gelu", x, domain=MICROSOFT)

    def by_rows(self, g: GraphBuilder, x: ir.Value, work: Callable[[ir.Value], ir.Value]) -> ir.Value:
        """See ``Dialect``; in two runs of rows, which halves the memory of what is wide in between."""
        halves = g.ops("Split", x, outputs=2, axis=1, num_outputs=2)
        return g.op("Concat", *(work(half) for half in halves), axis=1)

    def attention(
        self,
        g: GraphBuilder,
        cos: ir.Value | None,
        sin: ir.Value | None,
        heads: Heads,
        windows: WindowKeys | None,
        dtype: str,
    ) -> "OrtAttention":
        """See ``Dialect``."""
        return OrtAttention(cos, sin, heads, windows)

    def decoder_step(self, g: GraphBuilder, heads: Heads, cache_dtype: str, context: int) -> "OrtStep":
        """See ``Dialect``; the cache's length is known only when the graph runs."""
        return OrtStep(
            g.input("cos", ["rows", heads.size // 2]),
            g.input("sin", ["rows", heads.size // 2]),
            g.input("seqlens_k", [1], "int32"),
            g.input("total_sequence_length", [], "int32"),
            heads,
            cache_dtype,
            self.cache_width(heads.size),
        )

    def cache_width(self, head_dim: int) -> int:
        """See ``Dialect``; GroupQueryAttention takes head sizes of whole eights."""
        return -(-head_dim // 8) * 8


@dataclass(frozen=True)
class OrtAttention:
    """MultiHeadAttention: without a mask its CPU kernel needs no memory for scores."""

    cos: ir.Value | None
    sin: ir.Value | None
    heads: Heads
    windows: WindowKeys | None

    def attend(self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """See ``Attention``."""
        heads = self.heads
        q, k, keys = _rotated(g, q, self.cos, self.sin), _rotated(g, k, self.cos, self.sin), None
        width = heads.query * heads.value_size
        if self.windows is not None:
            slots, keys = self.windows.slots, self.windows.keys
            q, k = (g.reshape(x, -1, slots, heads.query * heads.size) for x in (q, k))
            v = g.reshape(v, -1, slots, width)
        out = self._product(g, q, k, v, keys)
        return out if self.windows is None else g.reshape(out, 1, -1, width)

    def attend_updated(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, rows: ir.Value, name: str, items: str
    ) -> ir.Value:
        """See ``UpdatingAttention``."""
        q, k = _rotated(g, q, self.cos, self.sin), _rotated(g, k, self.cos, self.sin)
        key, value = (
            g.op("Unsqueeze", part, g.integers(0)) for part in updated(g, k, v, rows, name, items, self.heads)
        )
        return self._product(g, q, key, value, None)

    def _product(self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, keys: ir.Value | None) -> ir.Value:
        scale = 1 / math.sqrt(self.heads.size)
        count = self.heads.query
        return g.op("MultiHeadAttention", q, k, v, None, keys, domain=MICROSOFT, num_heads=count, scale=scale)

    def rotated(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        """See ``Attention``."""
        apart = g.reshape(_rotated(g, x, self.cos, self.sin), -1, self.heads.query, self.heads.size)
        return g.op("Transpose", apart, perm=[1, 0, 2])


@dataclass
class OrtStep:
    """GroupQueryAttention: past and present are one buffer, so the cache grows in place.

    ``scored`` is how many columns scores are made of: an input in the type that Slice reads from the host, since a Cast
    of ``total`` would run on a GPU, and the host would wait for it.
    """

    cos: ir.Value
    sin: ir.Value
    seqlens_k: ir.Value
    total: ir.Value
    heads: Heads
    cache_dtype: str
    width: int
    columns: int | str = "total"
    scored: ir.Value | None = None

    def attend(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, name: str, scored: bool
    ) -> tuple[ir.Value, ir.Value | None]:
        """See ``DecoderStep``.

        Zeros behind every head change neither scores nor sums, so padding a head size is exact. With a cache of
        float16 the queries are scaled by a power of two before they are rounded: the product of query and key stays
        within range, and nothing else changes.
        """
        heads, width, dtype = self.heads, self.width, self.cache_dtype
        shape: Shape = (1, heads.key, "context", width)
        q, k = _rotated(g, q, self.cos, self.sin), _rotated(g, k, self.cos, self.sin)
        past = [g.input(f"past.{name}.{part}", shape, dtype) for part in ("key", "value")]
        padded = [_resize_heads(g, x, heads.size, width) for x in (q, k, v)]
        down = 1
        if dtype == "float16":
            down = 2 ** math.ceil(math.log2(heads.size) / 2)
            padded[0] = g.op("Mul", padded[0], g.scalar(1 / down))
            padded = [g.cast(x, dtype) for x in padded]
        out, key, value = g.ops(
            "GroupQueryAttention",
            *padded,
            *past,
            self.seqlens_k,
            self.total,
            outputs=3,
            domain=MICROSOFT,
            num_heads=heads.query,
            kv_num_heads=heads.key,
            scale=down / math.sqrt(heads.size),
        )
        g.output(key, f"present.{name}.key", shape, dtype)
        g.output(value, f"present.{name}.value", shape, dtype)
        if dtype == "float16":
            out = g.cast(out, "float32")
        scores = self._scores(g, q, key) if scored else None
        return _resize_heads(g, out, width, heads.size), scores

    def _scores(self, g: GraphBuilder, q: ir.Value, key: ir.Value) -> ir.Value:
        heads = self.heads
        if self.scored is None:
            self.scored = g.input("scored_columns", [1], "int64")
        keys = g.op("Slice", key, g.integers(0), self.scored, g.integers(2))
        if self.width != heads.size:
            keys = g.op("Slice", keys, g.integers(0), g.integers(heads.size), g.integers(3))
        if self.cache_dtype == "float16":
            keys = g.cast(keys, "float32")
        scaled = g.op("Mul", g.last(q, 1, axis=1), g.scalar(1 / math.sqrt(heads.size)))
        return last_row_scores(g, scaled, keys, heads)


def _rotated(g: GraphBuilder, x: ir.Value, cos: ir.Value | None, sin: ir.Value | None) -> ir.Value:
    """Rotates all heads, if there are tables; a single position id is the table row of the first token."""
    if cos is None or sin is None:
        return x
    return g.op("RotaryEmbedding", x, g.integers(0), cos, sin, domain=MICROSOFT)


def _resize_heads(g: GraphBuilder, x: ir.Value, size: int, new_size: int) -> ir.Value:
    """Cuts every head of (1, rows, heads * size) activations to ``new_size``, or fills it up with zeros."""
    if new_size == size:
        return x
    per_head = g.reshape(x, 0, 0, -1, size)
    if new_size < size:
        resized = g.op("Slice", per_head, g.integers(0), g.integers(new_size), g.integers(3))
    else:
        resized = g.op("Pad", per_head, g.integers(0, new_size - size), None, g.integers(3))
    return g.reshape(resized, 0, 0, -1)
