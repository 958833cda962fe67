"""The vision tower and projector: patches in, visual tokens and the scorer's taps out.

The class token is the first row of all states, and takes part in attention; what leaves the encoder is without it.
Blocks behind the last one that projector or scorer read are not written.
"""

from functools import partial

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects import Attention, Dialect, Heads
from glimpse_export.graphs.received import attention_of_first_row
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.weights.precision import DEFAULT_PRECISION, INTEGER
from glimpse_models.llava_1_5.heavy.architecture import LlavaVision

EMBEDDINGS = "vision_model.embeddings"
# Sic: so CLIP's own code spells it.
PRE_NORM = "vision_model.pre_layrnorm"
PROJECTOR = "model.mm_projector"
_END = (1 << 63) - 1


def expected_tensors(vision: LlavaVision) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of every tensor that the graph reads."""
    hidden, out = vision.hidden_size, vision.out_size
    shapes: dict[str, tuple[int, ...]] = {
        f"{EMBEDDINGS}.class_embedding": (hidden,),
        f"{EMBEDDINGS}.patch_embedding.weight": (hidden, vision.channels, vision.patch_size, vision.patch_size),
        f"{EMBEDDINGS}.position_embedding.weight": (vision.tokens + 1, hidden),
        f"{PRE_NORM}.weight": (hidden,),
        f"{PRE_NORM}.bias": (hidden,),
        f"{PROJECTOR}.0.weight": (out, hidden),
        f"{PROJECTOR}.0.bias": (out,),
        f"{PROJECTOR}.2.weight": (out, out),
        f"{PROJECTOR}.2.bias": (out,),
    }
    for block in range(vision.depth):
        shapes |= _block_tensors(vision, block)
    return shapes


def spare_tensors(vision: LlavaVision) -> set[str]:
    """Returns the names of the tensors of blocks that nothing is read of."""
    return {name for block in range(vision.depth, vision.tower_depth) for name in _block_tensors(vision, block)}


def _prefix(block: int) -> str:
    return f"vision_model.encoder.layers.{block}"


def _block_tensors(vision: LlavaVision, block: int) -> dict[str, tuple[int, ...]]:
    hidden, inner, prefix = vision.hidden_size, vision.intermediate_size, _prefix(block)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("layer_norm1", "layer_norm2"):
        shapes |= {f"{prefix}.{name}.{part}": (hidden,) for part in ("weight", "bias")}
    linear = [(f"self_attn.{name}_proj", hidden, hidden) for name in ("q", "k", "v", "out")]
    for name, rows, columns in (*linear, ("mlp.fc1", inner, hidden), ("mlp.fc2", hidden, inner)):
        shapes |= {f"{prefix}.{name}.weight": (rows, columns), f"{prefix}.{name}.bias": (rows,)}
    return shapes


class VisionAuthor:
    """Writes the vision graph."""

    def __init__(
        self,
        vision: LlavaVision,
        taps: tuple[int, ...],
        checkpoint: Checkpoint,
        dialect: Dialect,
        precision: str,
        attention: bool = False,
        trace: bool = False,
    ) -> None:
        """Prepares.

        Args:
            vision: the tower.
            taps: the blocks whose states the scorer reads.
            checkpoint: its weights.
            dialect: how to spell the graph.
            precision: what its matrices are stored in.
            attention: the graph also gives what the class token looks at in the block that the projector reads.
            trace: the graph also gives the first states and what the projector reads.
        """
        self._form = dialect.linear(precision)
        # Pixels carry detail that a few bits would lose, and the kernel is small: it is never rounded to integers.
        self._kernel_form = dialect.linear(DEFAULT_PRECISION if precision in INTEGER else precision)
        self._watched = vision.projected if attention else None
        self._vision = vision
        self._taps = taps
        self._checkpoint = checkpoint
        self._dialect = dialect
        self._trace = trace

    def author(self, g: GraphBuilder) -> None:
        """Authors the whole encoder into an empty graph."""
        vision = self._vision
        heads = Heads(vision.heads, vision.heads, vision.head_dim, vision.head_dim)
        attention = self._dialect.attention(g, None, None, heads, None, self._form.compute)
        h = g.mark(self._embed(g), "patch_embed")
        if self._trace:
            g.output(g.reshape(h, -1, vision.hidden_size), "trace.clip_embeddings", ["states", vision.hidden_size])
        states = {-1: h}
        for block in range(vision.depth):
            h = g.mark(self._block(g, h, block, attention, heads), f"block.{block}")
            states[block] = h
        tokens = {block: self._without_class(g, states[block]) for block in {vision.projected, *self._taps}}
        read = tokens[vision.projected]
        if self._trace:
            g.output(g.op("Identity", read), "trace.projector_input", ["visual_tokens", vision.hidden_size])
        inner = self._dialect.activation(g, self._linear(g, read, f"{PROJECTOR}.0", False), vision.projector_activation)
        g.output(self._linear(g, inner, f"{PROJECTOR}.2", False), "image_embeds", ["visual_tokens", vision.out_size])
        stacked = [g.op("Unsqueeze", tokens[block], g.integers(0)) for block in self._taps]
        features = g.op("Concat", *stacked, axis=0)
        g.output(features, "features", [len(self._taps), "visual_tokens", vision.hidden_size])

    def _embed(self, g: GraphBuilder) -> ir.Value:
        """(1, 1 + patches, hidden): the class token and the patches at their places, normed."""
        vision, name = self._vision, f"{EMBEDDINGS}.class_embedding"
        pixels = g.input("pixel_values", ["patches", vision.patch_values])
        kernel = self._checkpoint.matrix(f"{EMBEDDINGS}.patch_embedding.weight")
        patches = self._kernel_form.multiply(g, pixels, kernel)
        first = g.vector(name, (1, vision.hidden_size), lambda: self._checkpoint.read(name))
        rows = g.op("Concat", first, patches, axis=0)
        placed = g.op("Add", rows, g.read_vector(self._checkpoint, f"{EMBEDDINGS}.position_embedding.weight"))
        return self._norm(g, g.op("Unsqueeze", placed, g.integers(0)), PRE_NORM)

    def _block(self, g: GraphBuilder, h: ir.Value, block: int, attention: Attention, heads: Heads) -> ir.Value:
        vision, prefix = self._vision, _prefix(block)
        normed = self._norm(g, h, f"{prefix}.layer_norm1")
        q, k, v = (self._linear(g, normed, f"{prefix}.self_attn.{name}_proj") for name in "qkv")
        mixed = self._linear(g, attention.attend(g, q, k, v), f"{prefix}.self_attn.out_proj", bounded=False)
        if block == self._watched:
            queries, keys = attention.rotated(g, q), attention.rotated(g, k)
            received = attention_of_first_row(g, queries, keys, heads)
            g.output(received, "attention_received", ["visual_tokens"])
        weight, bias = (g.read_vector(self._checkpoint, f"{prefix}.layer_norm2.{part}") for part in ("weight", "bias"))
        normed, h = self._dialect.add_layer_norm(g, mixed, h, weight, bias, vision.norm_eps)
        return g.op("Add", h, self._dialect.by_rows(g, normed, partial(self._mlp, g, f"{prefix}.mlp")))

    def _mlp(self, g: GraphBuilder, prefix: str, x: ir.Value) -> ir.Value:
        inner = self._dialect.activation(g, self._linear(g, x, f"{prefix}.fc1"), self._vision.activation)
        return self._linear(g, inner, f"{prefix}.fc2", bounded=False)

    def _without_class(self, g: GraphBuilder, h: ir.Value) -> ir.Value:
        """(visual tokens, hidden) of the states (1, 1 + visual tokens, hidden)."""
        behind = g.op("Slice", h, g.integers(1), g.integers(_END), g.integers(1))
        return g.reshape(behind, -1, self._vision.hidden_size)

    def _norm(self, g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
        weight, bias = (g.read_vector(self._checkpoint, f"{name}.{part}") for part in ("weight", "bias"))
        return g.layer_norm(x, weight, bias, self._vision.norm_eps)

    def _linear(self, g: GraphBuilder, x: ir.Value, name: str, bounded: bool = True) -> ir.Value:
        weight, bias = self._checkpoint.matrix(f"{name}.weight"), g.read_vector(self._checkpoint, f"{name}.bias")
        return self._form.multiply(g, x, weight, bias, bounded)
