"""The vision encoder: patches in, visual tokens and the scorer's taps out.

Patches stay in the image processor's order. Only attention depends on which patches share a window, so window blocks
gather the normed rows by a host-computed index before the projections, and scatter what attention gives back; there is
no permutation of the hidden states to undo.
"""

from functools import partial

import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects import Attention, Dialect, Heads, UpdatingAttention
from glimpse_export.graphs.received import attention_received
from glimpse_export.graphs.windows import WindowInputs
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.weights.precision import DEFAULT_PRECISION, INTEGER
from glimpse_models.qwen2_5_vl.heavy.architecture import NORM_EPS, QwenVision
from glimpse_models.qwen2_5_vl.heavy.limits import UPDATED_PATCHES, UPDATED_TOKENS


def expected_tensors(vision: QwenVision) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of every vision tensor."""
    hidden, merged = vision.hidden_size, vision.hidden_size * vision.merge_unit
    patch = (vision.channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    shapes: dict[str, tuple[int, ...]] = {
        "visual.patch_embed.proj.weight": (hidden, *patch),
        "visual.merger.ln_q.weight": (hidden,),
        "visual.merger.mlp.0.weight": (merged, merged),
        "visual.merger.mlp.0.bias": (merged,),
        "visual.merger.mlp.2.weight": (vision.out_size, merged),
        "visual.merger.mlp.2.bias": (vision.out_size,),
    }
    inner = vision.intermediate_size
    for block in range(vision.depth):
        prefix = f"visual.blocks.{block}"
        shapes |= {f"{prefix}.norm1.weight": (hidden,), f"{prefix}.norm2.weight": (hidden,)}
        for name, rows, columns in (
            ("attn.qkv", 3 * hidden, hidden),
            ("attn.proj", hidden, hidden),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ):
            shapes[f"{prefix}.{name}.weight"] = (rows, columns)
            shapes[f"{prefix}.{name}.bias"] = (rows,)
    return shapes


class VisionAuthor:
    """Writes the vision graph."""

    def __init__(
        self,
        vision: QwenVision,
        taps: tuple[int, ...],
        checkpoint: Checkpoint,
        dialect: Dialect,
        precision: str,
        attention: bool = False,
        update: bool = False,
    ) -> None:
        """Prepares; with ``attention`` the graph also gives what each token receives in the last full attention.

        With ``update`` it runs some patches of an image, whose others left their keys and values in a cache.
        """
        self._update = update
        self._received_in = max(vision.full_attention) if attention else None
        self._form = dialect.linear(precision)
        # Pixels carry detail that a few bits would lose, and the kernel is small: it is never rounded to integers.
        self._kernel_form = dialect.linear(DEFAULT_PRECISION if precision in INTEGER else precision)
        self._vision = vision
        self._taps = taps
        self._checkpoint = checkpoint
        self._dialect = dialect

    def author(self, g: GraphBuilder) -> None:
        """Authors the whole encoder into an empty graph."""
        vision = self._vision
        patches, tokens = (UPDATED_PATCHES, UPDATED_TOKENS) if self._update else ("patches", "visual_tokens")
        rows = g.input("rows", [patches], "int64") if self._update else None
        x = g.input("pixel_values", [patches, vision.patch_values])
        cos = g.input("cos", [patches, vision.head_dim // 2])
        sin = g.input("sin", [patches, vision.head_dim // 2])
        heads = Heads(vision.heads, vision.heads, vision.head_dim, vision.head_dim)
        windows = windowed = whole = None
        if vision.has_windows:
            windows = WindowInputs.declare(g, patches, "window_slots", vision.window_tokens * vision.merge_unit)
            tables = windows.arrange(g, cos, 0), windows.arrange(g, sin, 0)
            windowed = self._dialect.attention(g, *tables, heads, windows.keys, self._form.compute)
        if vision.full_attention:
            whole = self._dialect.attention(g, cos, sin, heads, None, self._form.compute)
        kernel = self._checkpoint.matrix("visual.patch_embed.proj.weight")
        flat = self._kernel_form.multiply(g, x, kernel)
        h = g.mark(g.op("Unsqueeze", flat, g.integers(0)), "patch_embed")
        taps: dict[int, ir.Value] = {}
        for block in range(vision.depth):
            prefix = f"visual.blocks.{block}"
            normed = self._norm(g, h, f"{prefix}.norm1")
            if block in vision.full_attention:
                cache = None if rows is None else (rows, str(block))
                mixed = self._attention(g, normed, prefix, whole, None, cache)
                if block == self._received_in:
                    self._received(g, normed, prefix, whole)
            else:
                mixed = self._attention(g, normed, prefix, windowed, windows)
            normed, h = self._dialect.add_rms_norm(
                g, mixed, h, g.read_vector(self._checkpoint, f"{prefix}.norm2.weight"), NORM_EPS
            )
            added = self._dialect.by_rows(g, normed, partial(self._mlp, g, f"{prefix}.mlp"))
            h = g.mark(g.op("Add", h, added), f"block.{block}")
            if block in self._taps:
                units = g.reshape(h, -1, vision.merge_unit, vision.hidden_size)
                taps[block] = g.op("ReduceMean", units, g.integers(1), keepdims=0)
        g.output(self._merge(g, h), "image_embeds", [tokens, vision.out_size])
        stacked = [g.op("Unsqueeze", taps[block], g.integers(0)) for block in self._taps]
        features = g.op("Concat", *stacked, axis=0)
        g.output(features, "features", [len(self._taps), tokens, vision.hidden_size])

    def _attention(
        self,
        g: GraphBuilder,
        x: ir.Value,
        prefix: str,
        attention: UpdatingAttention | None,
        windows: WindowInputs | None,
        cache: tuple[ir.Value, str] | None = None,
    ) -> ir.Value:
        """Attention of a block; ``cache`` has the numbers of the patches that are run and the cache's name."""
        assert attention is not None
        if windows is not None:
            x = windows.arrange(g, x, 1)
        q, k, v = (self._linear(g, x, f"{prefix}.attn.qkv", part=part) for part in range(3))
        out = attention.attend(g, q, k, v) if cache is None else attention.attend_updated(g, q, k, v, *cache, "patches")
        if windows is not None:
            out = windows.restore(g, out)
        return self._linear(g, out, f"{prefix}.attn.proj", bounded=False)

    def _received(self, g: GraphBuilder, x: ir.Value, prefix: str, attention: Attention | None) -> None:
        vision = self._vision
        assert attention is not None
        q, k = (attention.rotated(g, self._linear(g, x, f"{prefix}.attn.qkv", part=part)) for part in range(2))
        heads = Heads(vision.heads, vision.heads, vision.head_dim, vision.head_dim)
        g.output(attention_received(g, q, k, heads, vision.merge_unit), "attention_received", ["visual_tokens"])

    def _mlp(self, g: GraphBuilder, prefix: str, x: ir.Value) -> ir.Value:
        gate = self._dialect.activation(g, self._linear(g, x, f"{prefix}.gate_proj"), self._vision.activation)
        inner = g.op("Mul", gate, self._linear(g, x, f"{prefix}.up_proj"))
        return self._linear(g, inner, f"{prefix}.down_proj", bounded=False)

    def _merge(self, g: GraphBuilder, h: ir.Value) -> ir.Value:
        """(visual tokens, out): the four patches of a unit side by side through an erf-GELU MLP."""
        vision = self._vision
        normed = self._norm(g, h, "visual.merger.ln_q")
        units = g.reshape(normed, -1, vision.merge_unit * vision.hidden_size)
        inner = self._dialect.activation(g, self._linear(g, units, "visual.merger.mlp.0"), "gelu")
        return self._linear(g, inner, "visual.merger.mlp.2", bounded=False)

    def _norm(self, g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
        return self._dialect.rms_norm(g, x, g.read_vector(self._checkpoint, f"{name}.weight"), NORM_EPS)

    def _linear(
        self, g: GraphBuilder, x: ir.Value, name: str, bounded: bool = True, part: int | None = None
    ) -> ir.Value:
        """A linear layer; ``part`` takes one third of its outputs, where the checkpoint joins three matrices."""
        weight, bias = self._checkpoint.matrix(f"{name}.weight"), f"{name}.bias"
        if part is None:
            return self._form.multiply(g, x, weight, g.read_vector(self._checkpoint, bias), bounded)
        third = weight.rows // 3
        start, stop = part * third, (part + 1) * third
        added = g.vector(f"{bias}.{part}", (third,), lambda: self._checkpoint.read(bias, start, stop))
        return self._form.multiply(g, x, weight.part(f"{weight.name}.{part}", start, stop), added, bounded)
