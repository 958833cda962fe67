"""Reads the architecture from a Qwen2.5-VL model's configuration files.

Fields of the adapter that its file leaves out take the reference's defaults
(``transformers_gp/models/qwen2_5_vl/configuration.py``).
"""

from typing import Any

from glimpse_export.errors import CheckpointError
from glimpse_export.model.architecture import Architecture, Text, Tokens
from glimpse_export.model.configuration import (
    check_options,
    check_same,
    head_sizes,
    read_activation,
    read_adapter,
    read_eos,
    read_rope_fields,
    read_text,
)
from glimpse_export.model.family import ModelConfigs
from glimpse_export.model.fields import Config, Fields, given
from glimpse_export.model.refusals import refuse_generation
from glimpse_models.qwen2_5_vl import ARCHITECTURE
from glimpse_models.qwen2_5_vl.heavy.architecture import ROPE_THETA, QwenVision

_ADAPTER_DEFAULTS: dict[str, Any] = {
    "selected_layers": [],
    "use_attention_logits": False,
    "attn_fuse_size": 256,
    "selected_visual_layers": [8],
    "visual_cond_size": 256,
    "attn_fuse_type": "AttnFuserV1",
    "attn_fuse_num_heads": 4,
    "attn_fuse_hidden_act": "silu",
    "attn_fuse_global": False,
    "ori_attn_supervision": True,
    "deep_supervision": True,
    "le_layers": [0],
    "le_length": 1,
    "le_norm_type": "rmsnorm",
    "reduce_threshold": 0.5,
    "use_ref_masks": False,
    "use_zero_masks": False,
    "reduce_layer": 1000,
    "anchor_positions": [],
    "min_remain_num": 1,
    "max_remain_ratio": None,
}


def read_architecture(configs: ModelConfigs) -> Architecture:
    """Reads the description of a model; see ``glimpse_export.model.family.Family``."""
    base, adapter, generation = configs.base, configs.adapter, configs.generation
    base_name, adapter_name = configs.name("base"), configs.name("adapter")
    text, vision = _read_text(base, base_name), _read_vision(base, base_name)
    if vision.out_size != text.hidden_size:
        raise CheckpointError(
            f"{base_name}: vision out_hidden_size {vision.out_size} is not the hidden_size {text.hidden_size}"
        )
    fields = check_options(adapter, adapter_name, _ADAPTER_DEFAULTS)
    _check_same_base(adapter, text, vision, adapter_name)
    norm_eps = Fields(_text_config(adapter, adapter_name), adapter_name).positive_float("rms_norm_eps", text.norm_eps)
    taps = _read_taps(fields, vision)
    parts = read_adapter(adapter, adapter_name, _ADAPTER_DEFAULTS, text, taps, vision.window_side, norm_eps)
    # Without the file, transformers looks for the same settings in config.json.
    settings = Fields(given(generation or base), configs.name("generation") if generation else base_name)
    refuse_generation(generation or base, settings.where)
    return Architecture(
        ARCHITECTURE,
        text,
        vision,
        *parts,
        _read_tokens(base, generation, text.vocab_size, base_name),
        settings.positive_float("repetition_penalty", 1.0),
    )


def _text_config(base: Config, where: str) -> Config:
    """Published checkpoints keep the decoder's fields at the top; newer writers nest them, with nulls for defaults."""
    return {**given(base), **given(Fields(base, where).nested("text_config"))}


def _read_text(base: Config, where: str) -> Text:
    config = _text_config(base, where)
    heads, hidden = head_sizes(Fields(config, where))
    tied = Fields({**config, **given(base)}, where).get("tie_word_embeddings", bool, False)
    return read_text(config, where, _read_rope(config, hidden // heads, where), True, tied, None)


def _read_rope(config: Config, head_dim: int, where: str) -> tuple[float, tuple[int, ...]]:
    """Returns the rotary base and the sections of the three axes."""
    fields = Fields(read_rope_fields(config, where, ("default", "mrope")), where)
    section = fields.integers("mrope_section", [])
    if len(section) != 3 or min(section) < 0 or sum(section) * 2 != head_dim:
        raise CheckpointError(
            f"{where}: mrope_section {list(section)} must be three sizes that cover half a head ({head_dim // 2})"
        )
    return fields.positive_float("rope_theta"), section


def _read_vision(base: Config, where: str) -> QwenVision:
    config = given(Fields(base, where).get("vision_config", dict))
    reader = Fields(config, f"{where} vision_config")
    theta = given(reader.nested("rope_parameters")).get("rope_theta", ROPE_THETA)
    reader.refuse(theta != ROPE_THETA, f"rope_theta {theta!r}")
    heads, hidden = reader.positive("num_heads"), reader.positive("hidden_size")
    patch, merge = reader.positive("patch_size", 14), reader.positive("spatial_merge_size", 2)
    depth, window = reader.positive("depth"), reader.positive("window_size", 112)
    full = reader.integers("fullatt_block_indexes")
    if hidden % heads or (hidden // heads) % 4:
        raise CheckpointError(f"{where}: the vision head size {hidden}/{heads} must be a whole multiple of 4")
    if window < merge * patch:
        raise CheckpointError(
            f"{where}: window_size {window} is smaller than one visual token ({merge * patch} pixels)"
        )
    channels = reader.positive("in_channels", config.get("in_chans", 3))
    reader.refuse(channels != 3, f"{channels} image channels")
    return QwenVision(
        depth=depth,
        hidden_size=hidden,
        heads=heads,
        intermediate_size=reader.positive("intermediate_size"),
        out_size=reader.positive("out_hidden_size"),
        channels=channels,
        patch_size=patch,
        temporal_patch_size=reader.positive("temporal_patch_size", 2),
        merge_size=merge,
        window_size=window,
        full_attention=tuple(block for block in full if 0 <= block < depth),
        activation=read_activation(reader, "hidden_act"),
    )


def _read_taps(fields: Fields, vision: QwenVision) -> tuple[int, ...]:
    taps = fields.integers("selected_visual_layers")
    if not taps or len(set(taps)) < len(taps) or any(not 0 <= tap < vision.depth for tap in taps):
        raise CheckpointError(
            f"{fields.where}: selected_visual_layers {list(taps)} must be distinct blocks of the "
            f"{vision.depth} of the vision encoder"
        )
    return taps


def _check_same_base(adapter: Config, text: Text, vision: QwenVision, where: str) -> None:
    config = _text_config(adapter, where)
    vision_config = Fields(adapter, where).nested("vision_config")
    check_same(
        {
            "hidden_size": (config.get("hidden_size"), text.hidden_size),
            "num_hidden_layers": (config.get("num_hidden_layers"), text.layers),
            "num_attention_heads": (config.get("num_attention_heads"), text.heads),
            "vision_config.hidden_size": (vision_config.get("hidden_size"), vision.hidden_size),
            "vision_config.depth": (vision_config.get("depth"), vision.depth),
        },
        where,
    )


def _read_tokens(base: Config, generation: Config, vocab_size: int, where: str) -> Tokens:
    config = _text_config(base, where)
    fields = Fields(config, where)
    eos = read_eos(generation, config, vocab_size, where)
    image = fields.token("image_token_id", vocab_size)
    return Tokens(image, fields.token("video_token_id", vocab_size, None), eos)
