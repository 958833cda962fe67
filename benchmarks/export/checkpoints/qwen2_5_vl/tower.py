"""The weights of Qwen2.5-VL's vision encoder, scaled for sane activations."""

import math
import re

import numpy as np

from benchmarks.export.checkpoints.decoder import EARLY_VALUE_BIAS, MIXED, SHARPNESS, SILU_GATED, VALUE_BIAS
from benchmarks.export.checkpoints.draw import Recipe, draw
from benchmarks.export.checkpoints.residual import GELU, VISUAL_TOKEN_RMS, Residual
from glimpse_export.model.architecture import Architecture

_BLOCK = re.compile(r"visual\.blocks\.(\d+)\.(.+)")


class Tower:
    """Recipes of ``visual.*``."""

    def __init__(self, architecture: Architecture, seed: int) -> None:
        """Prepares."""
        self._vision = vision = architecture.vision
        self._seed = seed
        self.residual = Residual(
            width=vision.hidden_size,
            depth=vision.depth,
            start=0.5,
            first=0.6,
            last=4.0,
            loud=(25.0, -12.0),
            varied=8.0,
            massive=(),
            seed=seed,
            name="vision",
        )

    def recipe(self, name: str) -> Recipe:
        """Returns the recipe of one tensor."""
        vision, residual = self._vision, self.residual
        hidden, merged = vision.hidden_size, vision.hidden_size * vision.merge_unit
        found = _BLOCK.fullmatch(name)
        if found is None:
            return {
                "visual.patch_embed.proj.weight": Recipe(residual.start / math.sqrt(vision.patch_values)),
                "visual.merger.ln_q.weight": residual.norm(vision.depth),
                "visual.merger.mlp.0.weight": Recipe(1 / math.sqrt(merged)),
                "visual.merger.mlp.0.bias": Recipe(0.05),
                "visual.merger.mlp.2.weight": Recipe(VISUAL_TOKEN_RMS / (GELU * math.sqrt(merged))),
                "visual.merger.mlp.2.bias": Recipe(0.1 * VISUAL_TOKEN_RMS),
            }[name]
        block, part = int(found[1]), found[2]
        match part:
            case "norm1.weight":
                return residual.norm(block)
            case "norm2.weight":
                return residual.norm(block, second=True)
            case "attn.qkv.weight":
                return Recipe(1 / math.sqrt(hidden), edit=self._sharpen)
            case "attn.qkv.bias":
                values = EARLY_VALUE_BIAS if block == residual.early else VALUE_BIAS
                return Recipe(values)
            case "attn.proj.weight":
                return residual.attention_output(block, MIXED, hidden, self._value_bias(block))
            case "mlp.down_proj.weight":
                return residual.mlp_output(block, vision.intermediate_size, SILU_GATED)
            case "attn.proj.bias" | "mlp.down_proj.bias":
                return Recipe(0.1 * residual.attention_part(block))
            case "mlp.gate_proj.bias" | "mlp.up_proj.bias":
                return Recipe(0.05)
        return Recipe(1 / math.sqrt(hidden))

    def _sharpen(self, values: np.ndarray, first: int) -> None:
        values[: max(2 * self._vision.hidden_size - first, 0)] *= np.float32(SHARPNESS)

    def _value_bias(self, block: int) -> np.ndarray:
        name, hidden = f"visual.blocks.{block}.attn.qkv.bias", self._vision.hidden_size
        return draw(self._seed, name, (3 * hidden,), self.recipe(name))[2 * hidden :]
