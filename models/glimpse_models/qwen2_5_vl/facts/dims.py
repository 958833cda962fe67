"""The sizes of a Qwen2.5-VL model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glimpse_models.dims import Dims

_PATCH_VALUES = 3 * 2 * 14 * 14
_MERGED_PATCHES = 4


@dataclass(frozen=True)
class QwenDims(Dims):
    """Sizes of a model; the published ones share their vision encoder.

    Attributes:
        full_attention: blocks of the vision encoder that attend to the whole image.
    """

    taps: tuple[int, ...] = (31, 23, 15, 7)
    vision_hidden_size: int = 1280
    vision_depth: int = 32
    vision_heads: int = 16
    vision_intermediate_size: int = 3420
    full_attention: tuple[int, ...] = (7, 15, 23, 31)

    @classmethod
    def from_configs(cls, base: Mapping[str, Any], adapter: Mapping[str, Any]) -> QwenDims:
        """Returns the sizes that two published ``config.json`` state, to compare with what is known here."""
        vision = base["vision_config"]
        return cls(
            hidden_size=base["hidden_size"],
            layers=base["num_hidden_layers"],
            heads=base["num_attention_heads"],
            kv_heads=base["num_key_value_heads"],
            intermediate_size=base["intermediate_size"],
            vocab_size=base["vocab_size"],
            tied=base.get("tie_word_embeddings", False),
            reduce_layer=adapter["reduce_layer"],
            taps=tuple(adapter["selected_visual_layers"]),
            vision_hidden_size=vision["hidden_size"],
            vision_depth=vision["depth"],
            vision_heads=vision["num_heads"],
            vision_intermediate_size=vision["intermediate_size"],
            full_attention=tuple(vision["fullatt_block_indexes"]),
        )

    @property
    def qkv_bias(self) -> bool:
        """They have."""
        return True

    @property
    def vision_parameters(self) -> int:
        """Weights of the vision encoder and its merger."""
        width, inner = self.vision_hidden_size, self.vision_intermediate_size
        merged = _MERGED_PATCHES * width
        attention = 4 * width * width + 4 * width
        block = attention + 3 * width * inner + 2 * inner + width + 2 * width
        merger = width + merged * merged + merged + merged * self.hidden_size + self.hidden_size
        return _PATCH_VALUES * width + self.vision_depth * block + merger
