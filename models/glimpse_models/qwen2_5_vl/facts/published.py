"""What the published checkpoints and adapters say in their configuration files, by the sizes of a model."""

from typing import Any

from glimpse_models.facts import Published
from glimpse_models.qwen2_5_vl.facts.dims import QwenDims

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
PLAIN_TOKENS = 151643
"""Entries of the published tokenizer before its special tokens."""
IMAGES: dict[str, Any] = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}
"""The image rules, ``preprocessor_config.json``."""
STORED = "bfloat16"
"""How weights are stored."""


def published(dims: QwenDims) -> Published:
    """Returns what the files of a model say."""
    configs = {
        "base": base_config(dims),
        "adapter": adapter_config(dims),
        "generation": generation_config(dims),
        "images": dict(IMAGES),
    }
    return Published(configs, STORED)


def first_special(rows: int) -> int:
    """Returns the id of the first special token, in an embedding table of so many rows."""
    return min(PLAIN_TOKENS, rows - len(SPECIAL_TOKENS))


def special(rows: int, token: str) -> int:
    """Returns the id of a special token."""
    return first_special(rows) + SPECIAL_TOKENS.index(token)


def generation_config(dims: QwenDims) -> dict[str, Any]:
    """Returns the base's ``generation_config.json``."""
    end, start = special(dims.vocab_size, "<|im_end|>"), special(dims.vocab_size, "<|endoftext|>")
    return {
        "bos_token_id": start,
        "pad_token_id": start,
        "do_sample": True,
        "eos_token_id": [end, start],
        "repetition_penalty": 1.05,
        "temperature": 0.000001,
        "transformers_version": "4.49.0",
    }


def base_config(dims: QwenDims) -> dict[str, Any]:
    """Returns the base's ``config.json``."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": special(dims.vocab_size, "<|endoftext|>"),
        "eos_token_id": special(dims.vocab_size, "<|im_end|>"),
        "vision_start_token_id": special(dims.vocab_size, "<|vision_start|>"),
        "vision_end_token_id": special(dims.vocab_size, "<|vision_end|>"),
        "vision_token_id": special(dims.vocab_size, "<|vision_pad|>"),
        "image_token_id": special(dims.vocab_size, "<|image_pad|>"),
        "video_token_id": special(dims.vocab_size, "<|video_pad|>"),
        "hidden_act": "silu",
        "hidden_size": dims.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": dims.intermediate_size,
        "max_position_embeddings": 128000,
        "max_window_layers": dims.layers,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": dims.heads,
        "num_hidden_layers": dims.layers,
        "num_key_value_heads": dims.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": dims.tied,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": dims.vision_depth,
            "hidden_act": "silu",
            "hidden_size": dims.vision_hidden_size,
            "intermediate_size": dims.vision_intermediate_size,
            "num_heads": dims.vision_heads,
            "in_chans": 3,
            "out_hidden_size": dims.hidden_size,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": list(dims.full_attention),
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
        "vocab_size": dims.vocab_size,
    }


def adapter_config(dims: QwenDims) -> dict[str, Any]:
    """Returns the adapter's ``config.json``: the base's fields and those of GlimpsePrune."""
    return {
        **base_config(dims),
        "model_type": "qwen2_5_vl_gp",
        "anchor_positions": [],
        "attn_fuse_global": True,
        "attn_fuse_hidden_act": "silu",
        "attn_fuse_num_heads": 4,
        "attn_fuse_size": 256,
        "attn_fuse_type": "AttnFuserV1",
        "deep_supervision": False,
        "le_dropout_prob": 0.0,
        "le_layers": list(range(dims.layers)),
        "le_length": 1,
        "le_norm_type": "rmsnorm",
        "max_remain_ratio": None,
        "min_remain_num": 1,
        "ori_attn_supervision": False,
        "reduce_layer": dims.reduce_layer,
        "reduce_threshold": 0.5,
        "selected_layers": [dims.reduce_layer],
        "selected_visual_layers": list(dims.taps),
        "use_attention_logits": True,
        "use_ref_masks": False,
        "use_zero_masks": False,
        "visual_cond_size": 512,
    }
