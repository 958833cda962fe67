"""The small files of a checkpoint and adapter, as published."""

import json
from typing import Any

from glimpse_export.source.resolve import resolve
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
MARKED_TOKENS = ("<|im_start|>", "<|vision_start|>")
"""Those that carry massive activations, as first tokens and separators do in the real models."""
PLAIN_TOKENS = 151643
"""Entries of the published tokenizer before its special tokens."""


class Vocabulary:
    """Which ids the tokenizer gives out."""

    def __init__(self, rows: int) -> None:
        """Fits into an embedding table of ``rows``."""
        self.first_special = min(PLAIN_TOKENS, rows - len(SPECIAL_TOKENS))
        self.words = self.first_special + len(SPECIAL_TOKENS)

    def special(self, token: str) -> int:
        """Returns the id of a special token."""
        return self.first_special + SPECIAL_TOKENS.index(token)

    def tokenizer(self) -> dict[str, Any]:
        """Returns ``tokenizer.json``: pocket's words, special tokens at their published ids, fillers between.

        Nothing is ever encoded as a filler; as an answer it reads as ``w`` and its id.

        Raises:
            ValueError: the table is too small for pocket's words.
        """
        content = _pocket("tokenizer.json")
        special = {token["content"] for token in content["added_tokens"]}
        words = {word: index for word, index in content["model"]["vocab"].items() if word not in special}
        if len(words) > self.first_special:
            raise ValueError(f"--vocab must be at least {len(words) + len(SPECIAL_TOKENS)}")
        words |= {f"Ġw{index}": index for index in range(len(words), self.first_special)}
        # The library numbers added tokens anew unless the model's vocabulary has them.
        words |= {token: self.special(token) for token in SPECIAL_TOKENS}
        content["model"]["vocab"] = words
        content["added_tokens"] = [{"id": self.special(token), **_added(token)} for token in SPECIAL_TOKENS]
        return content


def base_files(dims: QwenDims) -> dict[str, dict[str, Any]]:
    """Returns the base checkpoint's JSON files by name."""
    vocabulary = Vocabulary(dims.vocab_size)
    end, start = vocabulary.special("<|im_end|>"), vocabulary.special("<|endoftext|>")
    return {
        "config.json": base_config(dims),
        "generation_config.json": {
            "bos_token_id": start,
            "pad_token_id": start,
            "do_sample": True,
            "eos_token_id": [end, start],
            "repetition_penalty": 1.05,
            "temperature": 0.000001,
            "transformers_version": "4.49.0",
        },
        "preprocessor_config.json": {
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        },
        "tokenizer.json": vocabulary.tokenizer(),
        "tokenizer_config.json": {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {str(vocabulary.special(token)): _added(token) for token in SPECIAL_TOKENS},
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
        "chat_template.json": {
            "chat_template": (resolve("pocket").base / "chat_template.jinja").read_text(encoding="utf-8")
        },
    }


def base_config(dims: QwenDims) -> dict[str, Any]:
    """Returns the base's ``config.json``."""
    special = Vocabulary(dims.vocab_size).special
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": special("<|endoftext|>"),
        "eos_token_id": special("<|im_end|>"),
        "vision_start_token_id": special("<|vision_start|>"),
        "vision_end_token_id": special("<|vision_end|>"),
        "vision_token_id": special("<|vision_pad|>"),
        "image_token_id": special("<|image_pad|>"),
        "video_token_id": special("<|video_pad|>"),
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


def _added(token: str) -> dict[str, Any]:
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": token, **plain, "special": token.startswith("<|") and not token.startswith("<|fim")}


def _pocket(name: str) -> dict[str, Any]:
    return json.loads((resolve("pocket").base / name).read_text(encoding="utf-8"))
