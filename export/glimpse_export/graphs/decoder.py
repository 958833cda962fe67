"""The decoder cut after layer K: ``lower`` (layers 0..K) and ``upper`` (the rest, final norm, LM head).

Both serve prefill and decode, so no weight exists twice. The glimpse vectors enter ``lower`` through a gate that
is zero for ordinary rows; the attention of the last row is read in the selected layers.
"""

import numpy as np
import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.compact import CompactAuthor
from glimpse_export.graphs.dialects import DecoderStep, Dialect, Heads
from glimpse_export.model.architecture import Architecture
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.weights.journal import StoredTensor
from glimpse_export.weights.precision import STORED_DTYPES, Precision, lower_part
from glimpse_runtime.arrays import FloatArray


def expected_tensors(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of every decoder tensor."""
    text = architecture.text
    hidden, kv = text.hidden_size, text.kv_heads * text.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (text.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not text.tied:
        shapes["lm_head.weight"] = (text.vocab_size, hidden)
    for layer in range(text.layers):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (rows, hidden)
            if text.qkv_bias:
                shapes[f"{prefix}.self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (hidden, hidden)
        for name in ("gate", "up"):
            shapes[f"{prefix}.mlp.{name}_proj.weight"] = (text.intermediate_size, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, text.intermediate_size)
    return shapes


class DecoderAuthor:
    """Writes the two decoder graphs."""

    def __init__(
        self,
        architecture: Architecture,
        checkpoint: Checkpoint,
        dialect: Dialect,
        precision: Precision,
        context: int,
        trace: bool = False,
    ) -> None:
        """Prepares.

        Args:
            architecture: the model.
            checkpoint: its weights.
            dialect: how to spell the graphs.
            precision: what matrices and KV cache are stored in.
            context: rows of the KV cache.
            trace: the graphs also give every layer's output at the rows of interest.
        """
        self._lower = {part: dialect.linear(getattr(precision, part)) for part in ("lower", "lower_attention")}
        self._upper = dialect.linear(precision.upper)
        self._head = dialect.linear(precision.head)
        self._context = context
        self._cache_dtype = STORED_DTYPES[precision.kv_cache]
        self._architecture = architecture
        self._text = architecture.text
        self._checkpoint = checkpoint
        self._dialect = dialect
        self._trace = trace
        self._heads = Heads(self._text.heads, self._text.kv_heads, self._text.head_dim, self._text.head_dim)

    def lower(self, g: GraphBuilder, glimpse_vectors: FloatArray | None) -> None:
        """Authors layers 0..K.

        Args:
            g: an empty graph.
            glimpse_vectors: (listed layers, glimpse rows, hidden) float32; None without a glimpse token.
        """
        glimpse, hidden = self._architecture.glimpse, self._text.hidden_size
        x = g.input("hidden_in", [1, "rows", hidden])
        gate = g.input("glimpse_gate", [1, "rows", glimpse.length]) if glimpse.length else None
        step = self._step(g)
        attention: dict[int, ir.Value] = {}
        layers = range(self._architecture.lower_layers)

        def add_glimpse(y: ir.Value, layer: int) -> ir.Value:
            """Adds layer's glimpse vectors to the glimpse rows of its input."""
            if gate is None or glimpse_vectors is None or layer not in glimpse.layers:
                return y
            index = glimpse.layers.index(layer)
            vectors = g.vector(f"glimpse.{layer}", (glimpse.length, hidden), lambda: glimpse_vectors[index])
            return g.op("Add", y, g.op("MatMul", gate, vectors))

        x = add_glimpse(x, 0)
        normed = self._norm(g, x, "model.layers.0.input_layernorm")
        for layer in layers:
            mixed, scores = self._attention(g, normed, layer, step, scored=layer in glimpse.selected_layers)
            if scores is not None:
                attention[layer] = self._glimpse_attention(g, scores)
            normed, x = self._add_norm(g, mixed, x, f"model.layers.{layer}.post_attention_layernorm")
            g.mark(x, f"layer.{layer}.residual")
            y = self._mlp(g, normed, layer)
            if self._trace:
                rows = g.last(g.op("Add", y, x), max(glimpse.length, 1), axis=1)
                g.output(rows, f"trace.glimpse_hidden.{layer}", [1, "glimpse_rows", hidden])
            if layer == layers[-1]:
                x = g.op("Add", y, x)
            else:
                y = add_glimpse(y, layer + 1)
                normed, x = self._add_norm(g, y, x, f"model.layers.{layer + 1}.input_layernorm")
        g.output(x, "hidden_out", [1, "rows", hidden])
        maps = [attention[layer] for layer in glimpse.selected_layers]
        stacked = g.op("Concat", *maps, axis=0)
        g.output(stacked, "glimpse_attention", [len(maps) * self._text.heads, step.columns])

    def upper(self, g: GraphBuilder, tied_head: StoredTensor | None, head_parts: int = 1) -> None:
        """Authors the layers after K, the final norm and the LM head on the last row.

        Args:
            g: an empty graph.
            tied_head: where the (vocab, hidden) embedding lies when the head is tied to it.
            head_parts: how many products the LM head is made of.
        """
        hidden, text = self._text.hidden_size, self._text
        x = g.input("hidden_in", [1, "rows", hidden])
        layers = range(self._architecture.lower_layers, text.layers)
        if not layers:
            normed = self._norm(g, g.last(x, 1, axis=1), "model.norm")
        else:
            step = self._step(g)
            normed = self._norm(g, x, f"model.layers.{layers[0]}.input_layernorm")
        for layer in layers:
            mixed, _ = self._attention(g, normed, layer, step, scored=False)
            normed, x = self._add_norm(g, mixed, x, f"model.layers.{layer}.post_attention_layernorm")
            g.mark(x, f"layer.{layer}.residual")
            y = self._mlp(g, normed, layer)
            if self._trace:
                row = g.last(g.op("Add", y, x), 1, axis=1)
                g.output(row, f"trace.upper_last_hidden.{layer}", [1, 1, hidden])
            if layer == layers[-1]:
                y, x = g.last(y, 1, axis=1), g.last(x, 1, axis=1)
                normed, _ = self._add_norm(g, y, x, "model.norm")
            else:
                normed, x = self._add_norm(g, y, x, f"model.layers.{layer + 1}.input_layernorm")
        if self._trace:
            g.output(g.op("Identity", normed), "trace.final_hidden_last", [1, 1, hidden])
        row = g.reshape(normed, 1, hidden)
        head = self._checkpoint.matrix("model.embed_tokens.weight" if text.tied else "lm_head.weight")
        g.output(self._head.head(g, row, head, tied_head, head_parts), "logits", [1, text.vocab_size])

    def compact(self, g: GraphBuilder) -> None:
        """Authors what drops rows between the two: from hidden states, positions and the cache of ``lower``."""
        text = self._text
        shape = (1, text.kv_heads, self._context, self._dialect.cache_width(text.head_dim))
        CompactAuthor(self._architecture.lower_layers, text.hidden_size, shape, np.dtype(self._cache_dtype)).author(g)

    def _step(self, g: GraphBuilder) -> DecoderStep:
        return self._dialect.decoder_step(g, self._heads, self._cache_dtype, self._context)

    def _attention(
        self, g: GraphBuilder, x: ir.Value, layer: int, step: DecoderStep, scored: bool
    ) -> tuple[ir.Value, ir.Value | None]:
        """Returns the attention's output of one layer, and the last row's scores if they are wanted."""
        prefix = f"model.layers.{layer}.self_attn"
        q, k, v = (self._linear(g, x, f"{prefix}.{name}_proj", layer, bias=self._text.qkv_bias) for name in "qkv")
        out, scores = step.attend(g, q, k, v, str(layer), scored)
        mixed = g.mark(self._linear(g, out, f"{prefix}.o_proj", layer, bounded=False), f"layer.{layer}.attention")
        return mixed, scores

    def _glimpse_attention(self, g: GraphBuilder, scores: ir.Value) -> ir.Value:
        """(heads, columns): the last row's attention to every key, as scaled scores or their log-softmax."""
        return g.op("LogSoftmax", scores, axis=-1) if self._architecture.glimpse.log_softmax else scores

    def _mlp(self, g: GraphBuilder, x: ir.Value, layer: int) -> ir.Value:
        prefix = f"model.layers.{layer}.mlp"
        gate = self._dialect.activation(g, self._linear(g, x, f"{prefix}.gate_proj", layer), self._text.activation)
        inner = g.op("Mul", gate, self._linear(g, x, f"{prefix}.up_proj", layer))
        return g.mark(self._linear(g, inner, f"{prefix}.down_proj", layer, bounded=False), f"layer.{layer}.mlp")

    def _norm(self, g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
        return self._dialect.rms_norm(g, x, g.read_vector(self._checkpoint, f"{name}.weight"), self._text.norm_eps)

    def _add_norm(self, g: GraphBuilder, x: ir.Value, skip: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        return self._dialect.add_rms_norm(
            g, x, skip, g.read_vector(self._checkpoint, f"{name}.weight"), self._text.norm_eps
        )

    def _linear(
        self, g: GraphBuilder, x: ir.Value, name: str, layer: int, bias: bool = False, bounded: bool = True
    ) -> ir.Value:
        form = self._upper
        if layer < self._architecture.lower_layers:
            form = self._lower[lower_part(name)]
        added = g.read_vector(self._checkpoint, f"{name}.bias") if bias else None
        return form.multiply(g, x, self._checkpoint.matrix(f"{name}.weight"), added, bounded)
