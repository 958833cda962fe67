"""Reads the architecture from a Qwen2.5-VL model's configuration files.

Fields that a file leaves out take the defaults of the classes that it was written by: ``Qwen2_5_VLConfig`` and its
``text_config`` and ``vision_config`` of transformers, and the reference's for the adapter
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
from glimpse_export.model.refusals import refuse_generation, refuse_quantised
from glimpse_export.model.size_fields import SizeFields
from glimpse_models.qwen2_5_vl import ARCHITECTURE
from glimpse_models.qwen2_5_vl.heavy.architecture import ROPE_THETA, QwenVision

TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "eos_token_id": 151645,
}
VISION_DEFAULTS: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 3584,
    "hidden_act": "silu",
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
TOKEN_DEFAULTS = {"image_token_id": 151655, "video_token_id": 151656}
"""What the classes of transformers take for a field that ``config.json`` leaves out, in 4.49 to 5.24 alike; only the
end of an answer has had a default since 5."""

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
    "fixed_remain_ratio": None,
}
# The base's towers and tokens once more.
_ADAPTER_HARMLESS = {
    *("text_config", "vision_config", "image_token_id", "video_token_id", "vision_token_id"),
    *("vision_start_token_id", "vision_end_token_id"),
}
_WIDTH = "vision_config.hidden_size"
_PATCH = tuple(f"vision_config.{name}" for name in ("in_channels", "temporal_patch_size", "patch_size", "patch_size"))
SIZE_FIELDS = SizeFields(
    axes={
        r"visual\.patch_embed\.proj\.weight": (_WIDTH, *_PATCH),
        r"visual\.merger\.mlp\.2\..+": ("vision_config.out_hidden_size", _WIDTH),
        r"visual\.blocks\.\d+\.mlp\.(gate|up)_proj\..+": ("vision_config.intermediate_size", _WIDTH),
        r"visual\.blocks\.\d+\.mlp\.down_proj\.weight": (_WIDTH, "vision_config.intermediate_size"),
        r"visual\..+": (_WIDTH, _WIDTH),
    },
    counts={r"visual\.blocks\.\d+\..+": "vision_config.depth"},
)
"""What the sizes of the vision encoder's tensors are called."""


def read_architecture(configs: ModelConfigs) -> Architecture:
    """Reads the description of a model; see ``glimpse_export.model.family.Family``."""
    base, adapter, generation = configs.base, configs.adapter, configs.generation
    base_name, adapter_name = configs.name("base"), configs.name("adapter")
    refuse_quantised(base, base_name)
    text, vision = _read_text(base, base_name), _read_vision(base, base_name)
    if vision.out_size != text.hidden_size:
        raise CheckpointError(
            f"{base_name}: vision out_hidden_size {vision.out_size} is not the hidden_size {text.hidden_size}"
        )
    fields = check_options(adapter, adapter_name, _ADAPTER_DEFAULTS, _ADAPTER_HARMLESS)
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
    """Returns the decoder's fields: in ``text_config`` or, as published checkpoints have them, at the top."""
    nested = base.get("text_config")
    config = dict(base if nested is None else Fields(base, where).nested("text_config"))
    if "num_key_value_heads" in config and config["num_key_value_heads"] is None:
        config["num_key_value_heads"] = config.get("num_attention_heads") or TEXT_DEFAULTS["num_attention_heads"]
    return given(config)


def _read_text(base: Config, where: str) -> Text:
    said = _text_config(base, where)
    config = {**TEXT_DEFAULTS, **said}
    heads, hidden = head_sizes(Fields(config, where))
    # At the top, in text_config, or in both: what transformers reads has changed, so that both must agree.
    outer, inner = (Fields(part, where).get("tie_word_embeddings", bool, None) for part in (given(base), said))
    if outer and inner is False:
        raise CheckpointError(
            f"{where}: tie_word_embeddings is true there and false in text_config; set both to what is meant"
        )
    return read_text(config, where, _read_rope(said, hidden // heads, where), True, bool(outer or inner), None)


def _read_rope(said: Config, head_dim: int, where: str) -> tuple[float, tuple[int, ...]]:
    """Returns the rotary base and the sections of the three axes."""
    rope = {"rope_theta": TEXT_DEFAULTS["rope_theta"], **read_rope_fields(said, where, ("default", "mrope"))}
    fields = Fields(rope, where)
    section = fields.integers("mrope_section", [])
    if len(section) != 3 or min(section) < 0 or sum(section) * 2 != head_dim:
        raise CheckpointError(
            f"{where}: mrope_section {list(section)} must be three sizes that cover half a head, {head_dim // 2} "
            "(hidden_size / num_attention_heads / 2; a field that is left out has the default of transformers' class)"
        )
    return fields.positive_float("rope_theta"), section


def _read_vision(base: Config, where: str) -> QwenVision:
    said = given(Fields(base, where).nested("vision_config"))
    config = {**VISION_DEFAULTS, **said}
    reader = Fields(config, f"{where} vision_config")
    theta = given(reader.nested("rope_parameters")).get("rope_theta", ROPE_THETA)
    reader.refuse(theta != ROPE_THETA, f"rope_theta {theta!r}")
    heads, hidden = reader.positive("num_heads"), reader.positive("hidden_size")
    patch, merge = reader.positive("patch_size"), reader.positive("spatial_merge_size")
    depth, window = reader.positive("depth"), reader.positive("window_size")
    full = reader.integers("fullatt_block_indexes")
    if hidden % heads or (hidden // heads) % 4:
        raise CheckpointError(f"{where}: the vision head size {hidden}/{heads} must be a whole multiple of 4")
    if window < merge * patch:
        raise CheckpointError(
            f"{where}: window_size {window} is smaller than one visual token ({merge * patch} pixels)"
        )
    # Published checkpoints say in_chans, which transformers' class does not know.
    channels = reader.positive("in_channels" if "in_channels" in said or "in_chans" not in said else "in_chans")
    reader.refuse(channels != 3, f"{channels} image channels")
    return QwenVision(
        depth=depth,
        hidden_size=hidden,
        heads=heads,
        intermediate_size=reader.positive("intermediate_size"),
        out_size=reader.positive("out_hidden_size"),
        channels=channels,
        patch_size=patch,
        temporal_patch_size=reader.positive("temporal_patch_size"),
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
    said = {**given(base), **_text_config(base, where)}
    # A class's default for a file that says nothing counts where the vocabulary has it.
    defaults = {key: TEXT_DEFAULTS[key] for key in ("eos_token_id",)} | TOKEN_DEFAULTS
    config = {**{key: token for key, token in defaults.items() if token < vocab_size}, **said}
    eos = read_eos(generation, config, vocab_size, where)
    fields = Fields(config, where)
    return Tokens(fields.token("image_token_id", vocab_size), fields.token("video_token_id", vocab_size, None), eos)
