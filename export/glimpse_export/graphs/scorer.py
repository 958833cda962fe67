"""The scorer (VIP): the glimpse's attention map and the vision taps of one image in, a logit per visual token out.

Follows ``AttnFuserV1`` and ``AttnFuserV2`` of the reference. It runs on one image at a time, so attending to the
whole input is attending within the image; the windowed form uses the vision encoder's windows.
"""

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects import Attention, Dialect, Heads
from glimpse_export.graphs.windows import WindowInputs
from glimpse_export.model.architecture import SCORER_NORM_EPS, Architecture
from glimpse_export.source.adapter import Adapter
from glimpse_export.source.matrix import matrix_of
from glimpse_export.weights.precision import DEFAULT_PRECISION

_RANGE_EPS = 1e-6


class ScorerAuthor:
    """Writes the scorer graph."""

    def __init__(self, architecture: Architecture, adapter: Adapter, dialect: Dialect, trace: bool = False) -> None:
        """Prepares; with ``trace`` the graph also gives the hidden state after every block."""
        self._architecture = architecture
        self._scorer = architecture.scorer
        self._adapter = adapter
        self._dialect = dialect
        self._trace = trace
        self._form = dialect.linear(DEFAULT_PRECISION)

    def author(self, g: GraphBuilder) -> None:
        """Authors the scorer into an empty graph."""
        scorer, vision = self._scorer, self._architecture.vision
        maps = len(self._architecture.glimpse.selected_layers) * self._architecture.text.heads
        whole = g.input("attention", [maps, "context"])
        visual_rows = g.input("visual_rows", ["visual_tokens"], "int64")
        seen = g.op("Transpose", g.op("Gather", whole, visual_rows, axis=1), perm=[1, 0])
        features = None
        if scorer.conditioned:
            features = g.input("features", [len(scorer.taps), "visual_tokens", vision.hidden_size])
        cos = g.input("cos", ["visual_tokens", scorer.head_dim // 2])
        sin = g.input("sin", ["visual_tokens", scorer.head_dim // 2])
        windows = None
        if scorer.window is not None:
            windows = WindowInputs.declare(g, "visual_tokens", "token_slots", scorer.window**2)
            cos, sin = windows.arrange(g, cos, 0), windows.arrange(g, sin, 0)
        heads = Heads(scorer.heads, scorer.heads, scorer.head_dim, scorer.size // scorer.heads)
        attention = self._dialect.attention(g, cos, sin, heads, windows.keys if windows else None, self._form.compute)
        h = g.mark(self._linear(g, g.op("Unsqueeze", seen, g.integers(0)), "attn_in_proj"), "attn_in")
        self._trace_hidden(g, h, 0)
        for index in range(len(scorer.taps)):
            condition = None
            if features is not None:
                tap = g.op("Gather", features, g.integers(index), axis=0)
                condition = self._linear(g, tap, f"cond_in_projs.{index}")
            h = g.mark(self._block(g, h, condition, f"layers.{index}", attention, windows), f"block.{index}")
            self._trace_hidden(g, h, index + 1)
        logits = self._linear(g, h, f"attn_out_projs.{len(scorer.taps) - 1}")
        rows = [g.reshape(logits, 1, -1)]
        if scorer.attention_row:
            rows.insert(0, self._attention_row(g, seen))
        stacked = g.op("Concat", *rows, axis=0)
        g.output(stacked, "token_logits", [len(rows), "visual_tokens"])

    def _block(
        self,
        g: GraphBuilder,
        h: ir.Value,
        condition: ir.Value | None,
        prefix: str,
        attention: Attention,
        windows: WindowInputs | None,
    ) -> ir.Value:
        normed = self._norm(g, h, f"{prefix}.norm1")
        if windows is not None:
            normed = windows.arrange(g, normed, 1)
            condition = None if condition is None else windows.arrange(g, condition, 1)
        mixed = normed if condition is None else g.op("Concat", normed, condition, axis=-1)
        q, k = (self._linear(g, mixed, f"{prefix}.attn.{name}_proj", bias=False) for name in "qk")
        v = self._linear(g, normed, f"{prefix}.attn.v_proj", bias=False)
        out = attention.attend(g, q, k, v)
        if windows is not None:
            out = windows.restore(g, out)
        h = g.op("Add", h, self._linear(g, out, f"{prefix}.attn.o_proj", bias=False))
        normed = self._norm(g, h, f"{prefix}.norm2")
        gate = self._dialect.activation(g, self._linear(g, normed, f"{prefix}.mlp.gate_proj"), self._scorer.activation)
        inner = g.op("Mul", gate, self._linear(g, normed, f"{prefix}.mlp.up_proj"))
        return g.op("Add", h, self._linear(g, inner, f"{prefix}.mlp.down_proj"))

    def _attention_row(self, g: GraphBuilder, attention: ir.Value) -> ir.Value:
        """(1, visual tokens): the mean attention scaled to 0..1, a by-product of training that decides nothing."""
        mean = g.op("ReduceMean", attention, g.integers(1), keepdims=0)
        weight = g.op("Exp", mean) if self._architecture.glimpse.log_softmax else g.op("Softmax", mean, axis=0)
        low, high = (g.op(kind, weight, keepdims=1) for kind in ("ReduceMin", "ReduceMax"))
        span = g.op("Add", g.op("Sub", high, low), g.scalar(_RANGE_EPS))
        return g.reshape(g.op("Div", g.op("Sub", weight, low), span), 1, -1)

    def _trace_hidden(self, g: GraphBuilder, h: ir.Value, index: int) -> None:
        if self._trace:
            state = g.reshape(h, -1, self._scorer.size)
            g.output(state, f"trace.vip_hidden.{index}", ["visual_tokens", self._scorer.size])

    def _norm(self, g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
        return self._dialect.rms_norm(g, x, self._vector(g, f"{name}.weight"), SCORER_NORM_EPS)

    def _linear(self, g: GraphBuilder, x: ir.Value, name: str, bias: bool = True) -> ir.Value:
        weight = matrix_of(f"{name}.weight", self._adapter.scorer(f"{name}.weight"))
        return self._form.multiply(g, x, weight, self._vector(g, f"{name}.bias") if bias else None, bounded=False)

    def _vector(self, g: GraphBuilder, name: str) -> ir.Value:
        values = self._adapter.scorer(name)
        return g.vector(name, values.shape, lambda: values)
