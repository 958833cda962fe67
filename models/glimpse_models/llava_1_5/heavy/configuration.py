"""Reads the architecture from a LLaVA-1.5 model's configuration files, in the authors' layout and in llava-hf's.

The base's files say what the decoder, the tower and the projector are, the adapter's all about the glimpse and how an
image is padded. Fields that a file leaves out take the defaults of the classes that the reference reads it with:
``LlamaConfig``, ``CLIPVisionConfig``, ``LlavaConfig`` of transformers, and ``LlavaConfig_GP`` (``llava_gp``).
"""

from typing import Any

from glimpse_export.errors import CheckpointError
from glimpse_export.model.architecture import Architecture, Text, Tokens
from glimpse_export.model.configuration import (
    check_options,
    check_same,
    head_sizes,
    read_adapter,
    read_eos,
    read_rope_fields,
    read_text,
)
from glimpse_export.model.family import ModelConfigs
from glimpse_export.model.fields import Config, Fields, given
from glimpse_export.model.refusals import refuse_generation, refuse_quantised
from glimpse_models.llava_1_5 import ARCHITECTURE
from glimpse_models.llava_1_5.heavy.architecture import LlavaVision
from glimpse_models.llava_1_5.heavy.layouts import is_hf
from glimpse_models.llava_1_5.heavy.tower import Projected, block_of, read_hf_tower, read_tower

_LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "eos_token_id": 2,
}
_IMAGE_TOKEN = 32000
_ADAPTER: dict[str, Any] = {
    "selected_layers": [21],
    "use_attention_logits": False,
    "attn_fuse_size": 256,
    "selected_visual_layers": [23, 17, 11, 5],
    "visual_cond_size": 256,
    "attn_fuse_type": "AttnFuserV1",
    "attn_fuse_num_heads": 4,
    "attn_fuse_hidden_act": "silu",
    "ori_attn_supervision": True,
    "deep_supervision": True,
    "le_layers": [0],
    "le_length": 1,
    "reduce_threshold": 0.5,
    "use_ref_masks": False,
    "use_zero_masks": False,
    "reduce_layer": 21,
    "anchor_positions": [],
    "min_remain_num": 1,
    "max_remain_ratio": None,
    "fixed_remain_ratio": None,
}
# What the other families' adapters may choose and this one's have no choice of.
_FIXED = {"attn_fuse_global": True, "le_norm_type": "rmsnorm"}
# Of the base's tower, projector and training; what counts of them is checked beside the options.
_HARMLESS = (
    *("freeze_mm_mlp_adapter", "freeze_mm_vision_resampler", "image_aspect_ratio", "image_crop_resolution"),
    *("image_grid_pinpoints", "image_split_resolution", "mm_hidden_size", "mm_patch_merge_type", "mm_projector_lr"),
    *("mm_projector_type", "mm_resampler_type", "mm_use_im_patch_token", "mm_use_im_start_end"),
    *("mm_vision_select_feature", "mm_vision_select_layer", "mm_vision_tower", "tokenizer_model_max_length"),
    *("tune_mm_mlp_adapter", "tune_mm_vision_resampler", "unfreeze_mm_vision_tower", "use_mm_proj"),
)


def read_architecture(configs: ModelConfigs) -> Architecture:
    """Reads the description of a model; see ``glimpse_export.model.family.Family``."""
    base, adapter, generation = configs.base, configs.adapter, configs.generation
    base_name, adapter_name = configs.name("base"), configs.name("adapter")
    refuse_quantised(base, base_name)
    hf = is_hf(base, base_name)
    text_config = _text_config(base, base_name)
    text = _read_text(base, text_config, base_name)
    projected = _read_hf_projector(base, base_name) if hf else _read_projector(base, base_name)
    fields = check_options(adapter, adapter_name, _ADAPTER, _HARMLESS)
    _refuse_adapter(fields)
    taps = fields.integers("selected_visual_layers")
    if hf:
        vision = read_hf_tower(base, base_name, projected, taps, text.hidden_size, adapter_name)
    else:
        vision = read_tower(configs.tower, configs.name("tower"), projected, taps, text.hidden_size, adapter_name)
        _check_width(base, vision, base_name)
    _check_same_base(adapter, text, vision, adapter_name)
    norm_eps = Fields(given(adapter), adapter_name).positive_float("rms_norm_eps", _LLAMA["rms_norm_eps"])
    blocks = tuple(block_of(tap, vision.tower_depth) for tap in taps)
    parts = read_adapter(adapter, adapter_name, {**_ADAPTER, **_FIXED}, text, blocks, 0, norm_eps)
    # Without the file, transformers looks for the same settings in config.json.
    settings = Fields(given(generation or base), configs.name("generation") if generation else base_name)
    refuse_generation(generation or base, settings.where)
    eos = read_eos(generation, text_config, text.vocab_size, base_name)
    return Architecture(
        ARCHITECTURE,
        text,
        vision,
        *parts,
        Tokens(_image_token(base, text, base_name) if hf else text.vocab_size, None, eos),
        settings.positive_float("repetition_penalty", 1.0),
    )


def _text_config(base: Config, where: str) -> Config:
    """The authors' files keep the decoder's fields at the top, llava-hf's nest them; the rest is LlamaConfig's."""
    nested = Fields(base, where).nested("text_config")
    found = given(nested if is_hf(base, where) else base)
    config = {**_LLAMA, **found}
    return {"num_key_value_heads": config["num_attention_heads"], **config}


def _read_text(base: Config, config: Config, where: str) -> Text:
    fields = Fields(config, where)
    kind = Fields(base, where).nested("text_config").get("model_type", "llama")
    fields.refuse(kind != "llama", f"a text_config of model_type {kind!r} (only 'llama')")
    heads, hidden = head_sizes(fields)
    rope = Fields(read_rope_fields(config, where, ("default",)), where)
    if hidden // heads % 2:
        raise CheckpointError(f"{where}: the head size {hidden // heads} must be even for a rotary embedding")
    outer, inner = (Fields(given(part), where).get("tie_word_embeddings", bool, None) for part in (base, config))
    if outer is not None and inner is not None and outer != inner:
        raise CheckpointError(f"{where}: tie_word_embeddings is {outer} there and {inner} in text_config")
    tied = bool(outer or inner)
    return read_text(config, where, (rope.positive_float("rope_theta"), (hidden // heads // 2,)), False, tied, None)


def _read_projector(base: Config, where: str) -> Projected:
    """What the authors' base says about the projector and what it reads of the tower."""
    fields = Fields(given(base), where)
    kind = fields.get("mm_projector_type", str, "linear")
    fields.refuse(kind != "mlp2x_gelu", f"mm_projector_type {kind!r} (only 'mlp2x_gelu')")
    feature = fields.get("mm_vision_select_feature", str, "patch")
    fields.refuse(feature != "patch", f"mm_vision_select_feature {feature!r} (only 'patch')")
    fields.refuse(fields.get("s2", bool, False), "s2 (a tower at several scales)")
    for key in ("mm_use_im_start_end", "mm_use_im_patch_token"):
        fields.refuse(fields.get(key, bool, False), f"{key} (image marks in the prompt)")
    resampler = base.get("mm_resampler_type")
    fields.refuse(resampler is not None, f"mm_resampler_type {resampler!r}")
    return Projected(fields.get("mm_vision_select_layer", int), "gelu")


def _read_hf_projector(base: Config, where: str) -> Projected:
    """The same of a llava-hf base."""
    fields = Fields(given(base), where)
    strategy = fields.get("vision_feature_select_strategy", str, "default")
    fields.refuse(strategy != "default", f"vision_feature_select_strategy {strategy!r} (only 'default')")
    fields.refuse(not fields.get("multimodal_projector_bias", bool, True), "multimodal_projector_bias = false")
    layer = base.get("vision_feature_layer")
    fields.refuse(isinstance(layer, list), f"vision_feature_layer {layer!r} (features of several layers)")
    activation = fields.get("projector_hidden_act", str, "gelu")
    return Projected(fields.get("vision_feature_layer", int, -2), activation)


def _refuse_adapter(fields: Fields) -> None:
    """Refuses what the reference's code for this family does not do, or this version does not follow."""
    kind = fields.get("attn_fuse_type", str)
    fields.refuse(kind != "AttnFuserV1", f"attn_fuse_type {kind!r} (this family has 'AttnFuserV1')")
    fields.refuse(fields.get("mm_use_im_start_end", bool, None) or False, "mm_use_im_start_end")
    selected = fields.integers("selected_layers")
    if len(selected) != 1:
        raise CheckpointError(f"{fields.where}: selected_layers {list(selected)} must name one layer in this family")
    if 0 not in fields.integers("le_layers") or fields.at_least("le_length", 0) < 1:
        raise CheckpointError(f"{fields.where}: le_layers must contain layer 0, and le_length be at least 1")


def _check_width(base: Config, vision: LlavaVision, where: str) -> None:
    width = Fields(base, where).get("mm_hidden_size", int, None)
    if width is not None and width != vision.hidden_size:
        raise CheckpointError(
            f"{where}: mm_hidden_size {width} is not the vision tower's hidden_size {vision.hidden_size}; name the "
            "tower that the model was made with by --vision-tower"
        )


def _check_same_base(adapter: Config, text: Text, vision: LlavaVision, where: str) -> None:
    check_same(
        {
            "hidden_size": (adapter.get("hidden_size"), text.hidden_size),
            "num_hidden_layers": (adapter.get("num_hidden_layers"), text.layers),
            "num_attention_heads": (adapter.get("num_attention_heads"), text.heads),
            "mm_hidden_size": (adapter.get("mm_hidden_size"), vision.hidden_size),
        },
        where,
    )


def _image_token(base: Config, text: Text, where: str) -> int:
    """The id that llava-hf's prompts repeat; it may come right behind the vocabulary."""
    fields = Fields(given(base), where)
    key = "image_token_id" if "image_token_index" not in given(base) else "image_token_index"
    token: int = fields.token(key, text.vocab_size + 1, _IMAGE_TOKEN)
    return token
