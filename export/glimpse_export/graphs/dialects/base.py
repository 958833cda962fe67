"""What the graph authors need of a dialect.

Activations are float32 and (1, rows, heads * head_size) wherever they pass this line; how heads, rotary tables, masks
and the KV cache are laid out is a dialect's own affair.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.linear import LinearForm

QUICK_GELU_ALPHA = 1.702
"""quick_gelu is x * sigmoid(alpha * x)."""


@dataclass(frozen=True)
class Heads:
    """Head counts and sizes of one attention: ``size`` of queries and keys, ``value_size`` of values."""

    query: int
    key: int
    size: int
    value_size: int


@dataclass(frozen=True)
class WindowKeys:
    """Rows that come in windows of ``slots`` rows; ``keys`` (windows, slots) int32 is 1 where a row counts."""

    keys: ir.Value
    slots: int


class Attention(Protocol):
    """Attention without a cache, over all rows or within windows: prepared once for all layers that share it."""

    def attend(self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Rotates queries and keys where there are rotary tables, and lets every row attend.

        Args:
            g: the graph.
            q: (1, rows, heads * size) float32.
            k: the same.
            v: (1, rows, heads * value_size) float32.

        Returns:
            (1, rows, heads * value_size) float32.
        """
        ...

    def rotated(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        """Returns (heads, rows, size) float32: the heads of (1, rows, heads * size), rotated, over all rows."""
        ...


class UpdatingAttention(Attention, Protocol):
    """``Attention`` over all rows that can also run some of them, with what the others left in a cache."""

    def attend_updated(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, rows: ir.Value, name: str, items: str
    ) -> ir.Value:
        """Replaces some rows of the cache ``name`` and lets them attend to all of it.

        Args:
            g: the graph.
            q: (1, rows, heads * size) float32.
            k: the same.
            v: (1, rows, heads * value_size) float32.
            rows: (rows,) int64, the numbers of the rows among all items.
            name: names the inputs ``past.NAME.key|value`` and the outputs ``present.NAME.key|value``, which are
                (items, heads * size) float32, keys rotated.
            items: names the dimension of all items.

        Returns:
            (1, rows, heads * value_size) float32.
        """
        ...


class DecoderStep(Protocol):
    """The inputs that every decoder graph has beside hidden states, and causal attention over the KV cache."""

    @property
    def columns(self) -> int | str:
        """Length or name of the last axis of ``attend``'s scores."""
        ...

    def attend(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, name: str, scored: bool
    ) -> tuple[ir.Value, ir.Value | None]:
        """Rotates queries and keys, appends the rows to the cache ``name`` and attends to all of it.

        Args:
            g: the graph.
            q: (1, rows, query heads * size) float32.
            k: (1, rows, key heads * size) float32.
            v: the same.
            name: names the inputs ``past.NAME.key|value`` and the outputs ``present.NAME.key|value``.
            scored: also give the last row's scores.

        Returns:
            (1, rows, query heads * size) float32, and (query heads, columns) float32: the last row's products with
            all keys divided by sqrt(size), large negative numbers where there is no row. None unless ``scored``.
        """
        ...


class Dialect(Protocol):
    """One way to spell a model's building blocks in ONNX, for one family of inference engines.

    Attributes:
        name: its name.
        cache_precisions: what the KV cache may be stored in.
        fixed_cache: the length of the KV cache is a part of the graphs.
    """

    name: str
    fixed_cache: bool
    cache_precisions: tuple[str, ...]

    def opset(self, precisions: Collection[str]) -> int:
        """Returns the opset of a graph whose matrices are stored in some precisions."""
        ...

    def linear(self, precision: str) -> LinearForm:
        """Returns how a precision's matrices are stored and multiplied."""
        ...

    def rms_norm(self, g: GraphBuilder, x: ir.Value, weight: ir.Value, eps: float) -> ir.Value:
        """Returns the root-mean-square norm of the last axis."""
        ...

    def add_rms_norm(
        self, g: GraphBuilder, x: ir.Value, skip: ir.Value, weight: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        """Returns the norm of x + skip, and x + skip."""
        ...

    def add_layer_norm(
        self, g: GraphBuilder, x: ir.Value, skip: ir.Value, weight: ir.Value, bias: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        """Returns the layer norm of x + skip, and x + skip."""
        ...

    def activation(self, g: GraphBuilder, x: ir.Value, kind: str) -> ir.Value:
        """Returns a named activation."""
        ...

    def by_rows(self, g: GraphBuilder, x: ir.Value, work: Callable[[ir.Value], ir.Value]) -> ir.Value:
        """Returns ``work`` of (1, rows, width) activations, every row of which it treats by itself."""
        ...

    def attention(
        self,
        g: GraphBuilder,
        cos: ir.Value | None,
        sin: ir.Value | None,
        heads: Heads,
        windows: WindowKeys | None,
        dtype: str,
    ) -> UpdatingAttention:
        """Prepares attention without a cache.

        Args:
            g: the graph.
            cos: (rows, size / 2) float32, in window order where there are windows; None rotates nothing.
            sin: the same.
            heads: the head counts, as many of keys as of queries.
            windows: which rows attend to each other; None lets all.
            dtype: what a GPU's kernels are fed; onnxruntime's own operator computes in float32 always.
        """
        ...

    def decoder_step(self, g: GraphBuilder, heads: Heads, cache_dtype: str, context: int) -> DecoderStep:
        """Declares the decoder inputs of this dialect; ``context`` is the longest KV cache."""
        ...

    def cache_width(self, head_dim: int) -> int:
        """Columns of a row of the KV cache: the head size, or what this dialect's attention pads it to."""
        ...
