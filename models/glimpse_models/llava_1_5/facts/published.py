"""What the published checkpoints, their tower and adapters say in their configuration files, by a model's sizes."""

from typing import Any

from glimpse_models.facts import Published
from glimpse_models.llava_1_5.facts.dims import LlavaDims

TOWER = "openai/clip-vit-large-patch14-336"
"""The hub id that the base names; a folder of that name beside the base is taken for it."""
GENERATION: dict[str, Any] = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_length": 4096,
    "pad_token_id": 0,
    "transformers_version": "4.31.0",
}
"""The base's ``generation_config.json``."""
STORED = "float16"
"""How weights are stored."""


def published(dims: LlavaDims) -> Published:
    """Returns what the files of a model say."""
    tower = tower_files(dims)
    configs = {
        "base": base_config(dims),
        "adapter": adapter_config(dims),
        "generation": dict(GENERATION),
        "images": tower["preprocessor_config.json"],
        "tower": tower["config.json"],
    }
    return Published(configs, STORED)


def base_config(dims: LlavaDims) -> dict[str, Any]:
    """Returns the base's ``config.json``."""
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "freeze_mm_vision_resampler": False,
        "hidden_act": "silu",
        "hidden_size": dims.hidden_size,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": dims.intermediate_size,
        "max_length": 4096,
        "max_position_embeddings": 4096,
        "mm_hidden_size": dims.vision_hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": TOWER,
        "model_type": "llava",
        "num_attention_heads": dims.heads,
        "num_hidden_layers": dims.layers,
        "num_key_value_heads": dims.kv_heads,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": dims.tied,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "tune_mm_mlp_adapter": False,
        "tune_mm_vision_resampler": False,
        "unfreeze_mm_vision_tower": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": dims.vocab_size,
    }


def tower_files(dims: LlavaDims) -> dict[str, dict[str, Any]]:
    """Returns the vision tower's JSON files by name."""
    return {
        "config.json": {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": 768,
            "torch_dtype": "float32",
            "vision_config": {
                "attention_dropout": 0.0,
                "hidden_act": "quick_gelu",
                "hidden_size": dims.vision_hidden_size,
                "image_size": dims.image_size,
                "intermediate_size": dims.vision_intermediate_size,
                "layer_norm_eps": 1e-05,
                "model_type": "clip_vision_model",
                "num_attention_heads": dims.vision_heads,
                "num_channels": 3,
                "num_hidden_layers": dims.vision_depth,
                "patch_size": dims.patch_size,
                "projection_dim": 768,
            },
        },
        "preprocessor_config.json": {
            "crop_size": dims.image_size,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "size": dims.image_size,
        },
    }


def adapter_config(dims: LlavaDims) -> dict[str, Any]:
    """Returns the adapter's ``config.json``: the base's fields and those of GlimpsePrune."""
    return {
        **base_config(dims),
        "model_type": "llava_llama_gp",
        "anchor_positions": [],
        "attn_fuse_hidden_act": "silu",
        "attn_fuse_num_heads": 4,
        "attn_fuse_size": 256,
        "attn_fuse_type": "AttnFuserV1",
        "deep_supervision": False,
        "le_dropout_prob": 0.0,
        "le_layers": list(range(dims.layers)),
        "le_length": 1,
        "max_remain_ratio": None,
        "min_remain_num": 1,
        "ori_attn_supervision": False,
        "reduce_layer": dims.reduce_layer,
        "reduce_threshold": 0.5,
        "rope_theta": 10000.0,
        "selected_layers": [dims.reduce_layer],
        "selected_visual_layers": [tap + 1 for tap in dims.taps],
        "tokenizer_padding_side": "left",
        "use_attention_logits": False,
        "use_ref_masks": False,
        "use_zero_masks": False,
        "visual_cond_size": 512,
    }
