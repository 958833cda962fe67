"""The weights of CLIP's vision tower and of the projector, scaled for sane activations."""

import math
import re

import numpy as np

from benchmarks.export.checkpoints.decoder import EARLY_VALUE_BIAS, MIXED, SHARPNESS, VALUE_BIAS
from benchmarks.export.checkpoints.draw import Recipe, draw
from benchmarks.export.checkpoints.residual import GELU, JITTER, VISUAL_TOKEN_RMS, Residual
from glimpse_export.model.architecture import Architecture

_BLOCK = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.(.+)")
_START = 0.5


class Tower:
    """Recipes of ``vision_model.*`` and ``model.mm_projector.*``."""

    def __init__(self, architecture: Architecture, seed: int) -> None:
        """Prepares."""
        self._vision = vision = architecture.vision
        self._out = architecture.text.hidden_size
        self._seed = seed
        self.residual = Residual(
            width=vision.hidden_size,
            depth=vision.tower_depth,
            start=_START,
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
        found = _BLOCK.fullmatch(name)
        if found is not None:
            return self._of_block(int(found[1]), found[2])
        if name == "model.mm_projector.0.weight":
            return residual.reader(vision.projected + 1)
        return {
            "vision_model.embeddings.class_embedding": Recipe(1.0),
            "vision_model.embeddings.patch_embedding.weight": Recipe(1 / math.sqrt(vision.patch_values)),
            "vision_model.embeddings.position_embedding.weight": Recipe(0.3),
            "vision_model.pre_layrnorm.weight": Recipe(JITTER * _START, _START),
            "vision_model.pre_layrnorm.bias": Recipe(JITTER * _START),
            "vision_model.post_layernorm.weight": Recipe(JITTER, 1.0),
            "vision_model.post_layernorm.bias": Recipe(JITTER),
            "model.mm_projector.0.bias": Recipe(0.05),
            "model.mm_projector.2.weight": Recipe(VISUAL_TOKEN_RMS / (GELU * math.sqrt(self._out))),
            "model.mm_projector.2.bias": Recipe(0.1 * VISUAL_TOKEN_RMS),
        }[name]

    def _of_block(self, block: int, part: str) -> Recipe:
        vision, residual = self._vision, self.residual
        hidden, inner = vision.hidden_size, vision.intermediate_size
        match part:
            case "layer_norm1.weight":
                return residual.norm(block)
            case "layer_norm2.weight":
                return residual.norm(block, second=True)
            case "layer_norm1.bias" | "layer_norm2.bias" | "mlp.fc1.bias":
                return Recipe(0.05)
            case "self_attn.q_proj.weight" | "self_attn.k_proj.weight":
                return Recipe(SHARPNESS / math.sqrt(hidden))
            case "self_attn.q_proj.bias" | "self_attn.k_proj.bias":
                return Recipe(0.3)
            case "self_attn.v_proj.bias":
                return Recipe(EARLY_VALUE_BIAS if block == residual.early else VALUE_BIAS)
            case "self_attn.out_proj.weight":
                return residual.attention_output(block, MIXED, hidden, self._value_bias(block))
            case "mlp.fc2.weight":
                return residual.mlp_output(block, inner, GELU)
            case "self_attn.out_proj.bias" | "mlp.fc2.bias":
                return Recipe(0.1 * residual.attention_part(block))
        return Recipe(1 / math.sqrt(hidden))

    def _value_bias(self, block: int) -> np.ndarray:
        name = f"vision_model.encoder.layers.{block}.self_attn.v_proj.bias"
        return draw(self._seed, name, (self._vision.hidden_size,), self.recipe(name))
