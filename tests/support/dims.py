"""The sizes that published ``config.json`` files state, to compare with what the registry knows."""

from collections.abc import Mapping
from typing import Any

from glimpse_models.llava_1_5.facts.dims import LlavaDims
from glimpse_models.qwen2_5_vl.facts.dims import QwenDims

Config = Mapping[str, Any]


def qwen_dims(base: Config, adapter: Config) -> QwenDims:
    vision = base["vision_config"]
    return QwenDims(
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


def llava_dims(base: Config, adapter: Config, tower: Config) -> LlavaDims:
    vision = tower["vision_config"]
    return LlavaDims(
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
