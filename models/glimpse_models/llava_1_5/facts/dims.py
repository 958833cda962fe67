"""The sizes of a LLaVA-1.5 model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glimpse_models.dims import Dims

_CHANNELS = 3


@dataclass(frozen=True)
class LlavaDims(Dims):
    """Sizes of a model; the published ones share their vision tower, CLIP's ViT-L/14 at 336 pixels.

    Taps are blocks counted from 0; adapters' files count hidden states, which are one more.

    Attributes:
        patch_size: side of a patch in pixels.
        image_size: side of the square that the tower sees.
    """

    vocab_size: int = 32000
    tied: bool = False
    reduce_layer: int = 21
    taps: tuple[int, ...] = (22, 16, 10, 4)
    vision_hidden_size: int = 1024
    vision_depth: int = 24
    vision_heads: int = 16
    vision_intermediate_size: int = 4096
    patch_size: int = 14
    image_size: int = 336

    @classmethod
    def from_configs(cls, base: Mapping[str, Any], adapter: Mapping[str, Any], tower: Mapping[str, Any]) -> LlavaDims:
        """Returns the sizes that three published ``config.json`` state, to compare with what is known here.

        Args:
            base: the authors'.
            adapter: the GlimpsePrune adapter's.
            tower: CLIP's.
        """
        vision = tower["vision_config"]
        return cls(
            hidden_size=base["hidden_size"],
            layers=base["num_hidden_layers"],
            heads=base["num_attention_heads"],
            kv_heads=base["num_key_value_heads"],
            intermediate_size=base["intermediate_size"],
            vocab_size=base["vocab_size"],
            tied=base.get("tie_word_embeddings", False),
            reduce_layer=adapter["reduce_layer"],
            taps=tuple(index - 1 for index in adapter["selected_visual_layers"]),
            vision_hidden_size=vision["hidden_size"],
            vision_depth=vision["num_hidden_layers"],
            vision_heads=vision["num_attention_heads"],
            vision_intermediate_size=vision["intermediate_size"],
            patch_size=vision["patch_size"],
            image_size=vision["image_size"],
        )

    @property
    def qkv_bias(self) -> bool:
        """They have none."""
        return False

    @property
    def vision_parameters(self) -> int:
        """Weights of the whole tower and the projector."""
        width, inner, norm = self.vision_hidden_size, self.vision_intermediate_size, 2 * self.vision_hidden_size
        tokens = (self.image_size // self.patch_size) ** 2 + 1
        embeddings = width + _CHANNELS * self.patch_size**2 * width + tokens * width
        block = 4 * (width * width + width) + 2 * width * inner + inner + width + 2 * norm
        projector = width * self.hidden_size + self.hidden_size + self.hidden_size**2 + self.hidden_size
        return embeddings + self.vision_depth * block + 2 * norm + projector
