"""How a model's building blocks are spelled in ONNX: one class per family of inference engines.

``ort`` uses onnxruntime's own operators (CPU and CUDA): GroupQueryAttention extends the KV cache in place,
normalisation fuses with the residual sum, attention over all keys runs without an N x N mask.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from glimpse_export.errors import UnsupportedError
from glimpse_export.graphs.builder import MICROSOFT, GraphBuilder, Shape


@dataclass(frozen=True)
class StepInputs:
    """The inputs every decoder graph has beside hidden states and cache."""

    cos: ir.Value
    sin: ir.Value
    seqlens_k: ir.Value
    total: ir.Value
    cache_dtype: str


@dataclass(frozen=True)
class Heads:
    """Head counts and size of one attention."""

    query: int
    key: int
    size: int


class Dialect(Protocol):
    """What the graph authors need; activations are (batch, rows, heads * head_size) throughout."""

    name: str
    opset: int

    def rms_norm(self, g: GraphBuilder, x: ir.Value, weight: ir.Value, eps: float) -> ir.Value:
        """Returns the root-mean-square norm of the last axis."""
        ...

    def add_rms_norm(
        self, g: GraphBuilder, x: ir.Value, skip: ir.Value, weight: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        """Returns the norm of x + skip, and x + skip."""
        ...

    def activation(self, g: GraphBuilder, x: ir.Value, kind: str) -> ir.Value:
        """Returns a named activation."""
        ...

    def rope(self, g: GraphBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """Rotates all heads; cos and sin are (rows, head_size / 2)."""
        ...

    def attention(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, heads: Heads, keys: ir.Value | None
    ) -> ir.Value:
        """Full attention within each batch entry; ``keys`` (batch, rows) is 1 where a key counts."""
        ...

    def by_rows(self, g: GraphBuilder, x: ir.Value, work: Callable[[ir.Value], ir.Value]) -> ir.Value:
        """Returns ``work`` of (1, rows, width) activations, every row of which it treats by itself."""
        ...

    def step_inputs(self, g: GraphBuilder, head_dim: int, cache_dtype: str) -> StepInputs:
        """Declares the decoder inputs of this dialect."""
        ...

    def cache_width(self, head_dim: int) -> int:
        """Columns of a row of the KV cache: the head size, or what this dialect's attention pads it to."""
        ...

    def cached_attention(
        self,
        g: GraphBuilder,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        heads: Heads,
        name: str,
        step: StepInputs,
    ) -> tuple[ir.Value, ir.Value]:
        """Causal attention over the cache ``name``, which it extends; returns the result and all valid keys.

        The keys are (1, kv_heads, total, head_size).
        """
        ...


class OrtDialect:
    """onnxruntime's own operators."""

    name = "ort"
    opset = 21

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

    def activation(self, g: GraphBuilder, x: ir.Value, kind: str) -> ir.Value:
        """See ``Dialect``; QuickGelu with alpha 1 is SiLU in one pass."""
        if kind == "silu":
            return g.op("QuickGelu", x, domain=MICROSOFT, alpha=1.0)
        if kind == "relu":
            return g.op("Relu", x)
        return g.op("Gelu", x, approximate="tanh" if kind == "gelu_pytorch_tanh" else "none")

    def rope(self, g: GraphBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """See ``Dialect``; a single position id is the table row of the first token."""
        return g.op("RotaryEmbedding", x, g.integers(0), cos, sin, domain=MICROSOFT)

    def attention(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, heads: Heads, keys: ir.Value | None
    ) -> ir.Value:
        """See ``Dialect``; without a mask the CPU kernel needs no memory for scores."""
        scale = 1 / math.sqrt(heads.size)
        return g.op("MultiHeadAttention", q, k, v, None, keys, domain=MICROSOFT, num_heads=heads.query, scale=scale)

    def by_rows(self, g: GraphBuilder, x: ir.Value, work: Callable[[ir.Value], ir.Value]) -> ir.Value:
        """See ``Dialect``; in two runs of rows, which halves the memory of what is wide in between."""
        halves = g.ops("Split", x, outputs=2, axis=1, num_outputs=2)
        return g.op("Concat", *(work(half) for half in halves), axis=1)

    def step_inputs(self, g: GraphBuilder, head_dim: int, cache_dtype: str) -> StepInputs:
        """See ``Dialect``."""
        return StepInputs(
            g.input("cos", ["rows", head_dim // 2]),
            g.input("sin", ["rows", head_dim // 2]),
            g.input("seqlens_k", [1], "int32"),
            g.input("total_sequence_length", [], "int32"),
            cache_dtype,
        )

    def cache_width(self, head_dim: int) -> int:
        """See ``Dialect``; GroupQueryAttention takes head sizes of whole eights."""
        return -(-head_dim // 8) * 8

    def cached_attention(
        self,
        g: GraphBuilder,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        heads: Heads,
        name: str,
        step: StepInputs,
    ) -> tuple[ir.Value, ir.Value]:
        """See ``Dialect``; past and present are one buffer, so the cache grows in place.

        Zeros behind every head change neither scores nor sums, so padding a head size is exact. With a cache of
        float16 the queries are scaled by a power of two before they are rounded: the product of query and key stays
        within range, and nothing else changes.
        """
        width, dtype = self.cache_width(heads.size), step.cache_dtype
        shape: Shape = (1, heads.key, "context", width)
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
            step.seqlens_k,
            step.total,
            outputs=3,
            domain=MICROSOFT,
            num_heads=heads.query,
            kv_num_heads=heads.key,
            scale=down / math.sqrt(heads.size),
        )
        g.output(key, f"present.{name}.key", shape, dtype)
        g.output(value, f"present.{name}.value", shape, dtype)
        total = g.op("Cast", step.total, to=int(ir.DataType.INT64))
        ends = g.op("Concat", g.reshape(total, 1), g.integers(heads.size), axis=0)
        keys = g.op("Slice", key, g.integers(0, 0), ends, g.integers(2, 3))
        if dtype == "float16":
            out, keys = g.cast(out, "float32"), g.cast(keys, "float32")
        return _resize_heads(g, out, width, heads.size), keys


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


_DIALECTS: dict[str, type[OrtDialect]] = {OrtDialect.name: OrtDialect}
DIALECTS: Sequence[str] = tuple(_DIALECTS)


def dialect(name: str) -> Dialect:
    """Returns a dialect by name.

    Raises:
        UnsupportedError: there is no such dialect.
    """
    if name not in _DIALECTS:
        raise UnsupportedError(f"unknown dialect {name!r}; this version writes: {', '.join(DIALECTS)}")
    return _DIALECTS[name]()
