"""The sizes of a Qwen2.5-VL model with a GlimpsePrune adapter, as far as they differ between models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PATCH_VALUES = 3 * 2 * 14 * 14
_MERGED_PATCHES = 4


@dataclass(frozen=True)
class Dims:
    """Sizes of the decoder and of the vision encoder, and where the glimpse looks.

    Attributes:
        hidden_size: width of the decoder.
        layers: decoder layers.
        heads: query heads.
        kv_heads: key and value heads.
        intermediate_size: width of the decoder's MLP.
        vocab_size: rows of the embedding table, which may be more than the tokenizer has entries.
        tied: whether the LM head is the embedding table.
        reduce_layer: the layer K whose attention is read and after which tokens are dropped.
        taps: vision blocks that the scorer sees, in its order.
        vision_hidden_size: width of the vision encoder.
        vision_depth: its blocks.
        vision_heads: its heads.
        vision_intermediate_size: width of its MLP.
        full_attention: its blocks that attend to the whole image.
    """

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    tied: bool
    reduce_layer: int
    taps: tuple[int, ...] = (31, 23, 15, 7)
    vision_hidden_size: int = 1280
    vision_depth: int = 32
    vision_heads: int = 16
    vision_intermediate_size: int = 3420
    full_attention: tuple[int, ...] = (7, 15, 23, 31)

    @classmethod
    def from_configs(cls, base: Mapping[str, Any], adapter: Mapping[str, Any]) -> Dims:
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
    def parameters(self) -> int:
        """Weights of the base model, a tied LM head counted once."""
        hidden, kv = self.hidden_size, self.hidden_size // self.heads * self.kv_heads
        attention = 2 * hidden * (hidden + kv) + hidden + 2 * kv
        layer = attention + 3 * hidden * self.intermediate_size + 2 * hidden
        tables = self.vocab_size * hidden * (1 if self.tied else 2)
        return tables + self.layers * layer + hidden + self.vision_parameters

    @property
    def vision_parameters(self) -> int:
        """Weights of the vision encoder."""
        width, inner = self.vision_hidden_size, self.vision_intermediate_size
        merged = _MERGED_PATCHES * width
        attention = 4 * width * width + 4 * width
        block = attention + 3 * width * inner + 2 * inner + width + 2 * width
        merger = width + merged * merged + merged + merged * self.hidden_size + self.hidden_size
        return _PATCH_VALUES * width + self.vision_depth * block + merger
