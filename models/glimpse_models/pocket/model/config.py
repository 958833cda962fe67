"""The sizes of pocket: one frozen description from which the model, its configs and the scorer are built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glimpse_models.pocket.model.tokenizer import (
    END_OF_TEXT,
    IMAGE_PAD,
    SPECIAL_TOKENS,
    TURN_END,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
)

PATCH = 14
MERGE = 2
CELL = PATCH * MERGE
"""Side in pixels of one visual token."""
WINDOW = 4
"""Side of an attention window of the vision tower, in visual tokens."""
NORM_EPS = 1e-6
MIN_KEPT = 12
"""``min_remain_num`` of pocket: so many stay where an image has few tokens or the scorer is in doubt."""
PAPER_CAP = 0.111
"""``max_remain_ratio`` behind the paper's main table."""
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
FIRST_SPECIAL_ID = 435


def special_id(token: str) -> int:
    """Return the id of a chat marker (the tokenizer's ids are checked against it when a checkpoint is written)."""
    return FIRST_SPECIAL_ID + SPECIAL_TOKENS.index(token)


@dataclass(frozen=True)
class PocketConfig:
    """Architecture of the base model and of the glimpse modules."""

    vocab_size: int = 448
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    rope_theta: float = 100.0
    mrope_section: tuple[int, int, int] = (4, 6, 6)
    vision_depth: int = 4
    vision_hidden_size: int = 128
    vision_intermediate_size: int = 320
    vision_heads: int = 4
    full_attention_blocks: tuple[int, ...] = (1, 3)

    reduce_layer: int = 2
    selected_layers: tuple[int, ...] = (1, 2)
    glimpse_layers: tuple[int, ...] = (0, 1, 2)
    vision_taps: tuple[int, ...] = (3, 1)
    scorer_size: int = 64
    scorer_condition_size: int = 64
    scorer_heads: int = 4

    @property
    def head_dim(self) -> int:
        """Size of one attention head of the text layers."""
        return self.hidden_size // self.heads

    @property
    def vision_head_dim(self) -> int:
        """Size of one attention head of the vision tower."""
        return self.vision_hidden_size // self.vision_heads

    @property
    def scorer_head_dim(self) -> int:
        """Size of one query/key head of the scorer."""
        return (self.scorer_size + self.scorer_condition_size) // self.scorer_heads

    def base_config(self) -> dict[str, Any]:
        """Return the base model's config.json, in the flat form of published Qwen2.5-VL checkpoints."""
        return {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "attention_dropout": 0.0,
            "bos_token_id": special_id(END_OF_TEXT),
            "eos_token_id": special_id(TURN_END),
            "pad_token_id": special_id(END_OF_TEXT),
            "vision_start_token_id": special_id(VISION_START),
            "vision_end_token_id": special_id(VISION_END),
            "vision_token_id": special_id(IMAGE_PAD),
            "image_token_id": special_id(IMAGE_PAD),
            "video_token_id": special_id(VIDEO_PAD),
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": 4096,
            "max_window_layers": self.layers,
            "model_type": "qwen2_5_vl",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": NORM_EPS,
            "rope_theta": self.rope_theta,
            "rope_scaling": {
                "mrope_section": list(self.mrope_section),
                "rope_type": "default",
                "type": "default",
            },
            "sliding_window": 32768,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "transformers_version": "4.51.3",
            "use_cache": True,
            "use_sliding_window": False,
            "vision_config": {
                "depth": self.vision_depth,
                "fullatt_block_indexes": list(self.full_attention_blocks),
                "hidden_act": "silu",
                "hidden_size": self.vision_hidden_size,
                "in_channels": 3,
                "in_chans": 3,
                "intermediate_size": self.vision_intermediate_size,
                "model_type": "qwen2_5_vl",
                "num_heads": self.vision_heads,
                "out_hidden_size": self.hidden_size,
                "patch_size": PATCH,
                "spatial_merge_size": MERGE,
                "spatial_patch_size": PATCH,
                "temporal_patch_size": 2,
                "tokens_per_second": 2,
                "window_size": WINDOW * CELL,
            },
            "vocab_size": self.vocab_size,
        }

    def adapter_config(self, reduce_threshold: float, max_remain_ratio: float | None) -> dict[str, Any]:
        """Return the adapter's config.json: the base's fields and those of GlimpsePrune."""
        return {
            **self.base_config(),
            "model_type": "qwen2_5_vl_gp",
            "anchor_positions": [],
            "attn_fuse_global": True,
            "attn_fuse_hidden_act": "silu",
            "attn_fuse_num_heads": self.scorer_heads,
            "attn_fuse_size": self.scorer_size,
            "attn_fuse_type": "AttnFuserV1",
            "deep_supervision": False,
            "le_dropout_prob": 0.0,
            "le_layers": list(self.glimpse_layers),
            "le_length": 1,
            "le_norm_type": "rmsnorm",
            "max_remain_ratio": max_remain_ratio,
            "min_remain_num": MIN_KEPT,
            "ori_attn_supervision": False,
            "reduce_layer": self.reduce_layer,
            "reduce_threshold": reduce_threshold,
            "selected_layers": list(self.selected_layers),
            "selected_visual_layers": list(self.vision_taps),
            "use_attention_logits": True,
            "use_ref_masks": False,
            "use_zero_masks": False,
            "visual_cond_size": self.scorer_condition_size,
        }
