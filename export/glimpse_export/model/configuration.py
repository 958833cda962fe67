"""Reads the architecture from a model's configuration files.

Whatever these ask for and this version cannot do is refused by name. Fields of the adapter that its file leaves out
take the reference's defaults (``transformers_gp/models/qwen2_5_vl/configuration.py``).
"""

from typing import Any

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.model.architecture import (
    ACTIVATIONS,
    LAYER_NORM_EPS,
    VISION_ROPE_THETA,
    Architecture,
    Glimpse,
    PruningConfig,
    Scorer,
    Text,
    Tokens,
    Vision,
)
from glimpse_export.model.fields import Config, Fields, given
from glimpse_export.model.refusals import refuse_generation, refuse_text, refuse_unknown_options
from glimpse_runtime.pruning.options import ANCHORS

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


def read_architecture(
    base: Config,
    adapter: Config,
    generation: Config,
    base_name: str,
    adapter_name: str,
    generation_name: str = "generation_config.json",
) -> Architecture:
    """Reads the description of a model from its configuration files.

    Args:
        base: the base model's ``config.json``.
        adapter: the adapter's ``config.json``.
        generation: the base model's ``generation_config.json``, or empty.
        base_name: what to call the first in errors.
        adapter_name: what to call the second in errors.
        generation_name: what to call the third in errors.

    Raises:
        CheckpointError: a field is missing or makes no sense.
        UnsupportedError: the model needs something this version cannot export.
    """
    kind = base.get("model_type")
    if kind not in ("qwen2_5_vl", "qwen2_5_vl_gp"):
        raise UnsupportedError(f"{base_name}: model_type {kind!r} is not supported; this version exports qwen2_5_vl")
    text = _read_text(base, base_name)
    vision = _read_vision(base, base_name)
    if vision.out_size != text.hidden_size:
        raise CheckpointError(
            f"{base_name}: vision out_hidden_size {vision.out_size} is not the hidden_size {text.hidden_size}"
        )
    refuse_unknown_options(adapter, _ADAPTER_DEFAULTS, adapter_name)
    fields = Fields({**_ADAPTER_DEFAULTS, **adapter}, adapter_name)
    _check_same_base(adapter, text, vision, adapter_name)
    # Without the file, transformers looks for the same settings in config.json.
    settings = Fields(given(generation or base), generation_name if generation else base_name)
    refuse_generation(generation or base, settings.where)
    return Architecture(
        text,
        vision,
        _read_glimpse(fields, adapter, text),
        _read_scorer(fields, vision),
        _read_pruning(fields),
        _read_tokens(base, generation, text.vocab_size, base_name),
        settings.positive_float("repetition_penalty", 1.0),
    )


def _text_config(base: Config, where: str) -> Config:
    """Published checkpoints keep the decoder's fields at the top; newer writers nest them, with nulls for defaults."""
    return {**given(base), **given(Fields(base, where).nested("text_config"))}


def _read_text(base: Config, where: str) -> Text:
    config = _text_config(base, where)
    fields = Fields(config, where)
    refuse_text(config, where)
    fields.refuse(fields.get("use_sliding_window", bool, False), "sliding window attention (use_sliding_window)")
    heads = fields.positive("num_attention_heads")
    hidden = fields.positive("hidden_size")
    kv_heads = fields.positive("num_key_value_heads")
    if hidden % heads or heads % kv_heads:
        raise CheckpointError(
            f"{where}: hidden_size {hidden}, num_attention_heads {heads} and "
            f"num_key_value_heads {kv_heads} do not divide"
        )
    fields.refuse(fields.get("head_dim", int, hidden // heads) != hidden // heads, "a head_dim of its own")
    theta, section = _read_rope(config, hidden // heads, where)
    return Text(
        layers=fields.positive("num_hidden_layers"),
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        intermediate_size=fields.positive("intermediate_size"),
        vocab_size=fields.positive("vocab_size"),
        norm_eps=fields.positive_float("rms_norm_eps"),
        activation=_activation(fields, "hidden_act"),
        rope_theta=theta,
        mrope_section=section,
        max_positions=fields.positive("max_position_embeddings"),
        tied=Fields({**config, **given(base)}, where).get("tie_word_embeddings", bool, False),
    )


def _read_rope(config: Config, head_dim: int, where: str) -> tuple[float, tuple[int, ...]]:
    """Returns the rotary base and the sections of the three axes.

    Published checkpoints write ``rope_scaling`` beside ``rope_theta``, newer ones ``rope_parameters`` with both.
    """
    outer = Fields(config, where)
    rope: dict[str, Any] = {}
    for key in ("rope_parameters", "rope_scaling"):
        part = given(outer.nested(key))
        for name in ("rope_type", "type"):
            kind = part.get(name, "default")
            outer.refuse(kind not in ("default", "mrope"), f"rope type {kind!r}")
        outer.refuse(part.get("partial_rotary_factor", 1) != 1, "partial_rotary_factor (a rotary embedding of a part)")
        rope |= part
    fields = Fields({"rope_theta": config.get("rope_theta", ...), **rope}, where)
    section = fields.integers("mrope_section", [])
    if len(section) != 3 or min(section) < 0 or sum(section) * 2 != head_dim:
        raise CheckpointError(
            f"{where}: mrope_section {list(section)} must be three sizes that cover half a head ({head_dim // 2})"
        )
    return fields.positive_float("rope_theta"), section


def _activation(fields: Fields, key: str) -> str:
    name: str = fields.get(key, str, "silu")
    fields.refuse(name not in ACTIVATIONS, f"{key} {name!r} (known: {', '.join(ACTIVATIONS)})")
    return name


def _read_vision(base: Config, where: str) -> Vision:
    config = given(Fields(base, where).get("vision_config", dict))
    reader = Fields(config, f"{where} vision_config")
    theta = given(reader.nested("rope_parameters")).get("rope_theta", VISION_ROPE_THETA)
    reader.refuse(theta != VISION_ROPE_THETA, f"rope_theta {theta!r}")
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
    return Vision(
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
        activation=_activation(reader, "hidden_act"),
    )


def _check_same_base(adapter: Config, text: Text, vision: Vision, where: str) -> None:
    """Refuses an adapter that was trained for a base of other dimensions."""
    config = _text_config(adapter, where)
    vision_config = Fields(adapter, where).nested("vision_config")
    pairs = [
        ("hidden_size", config.get("hidden_size"), text.hidden_size),
        ("num_hidden_layers", config.get("num_hidden_layers"), text.layers),
        ("num_attention_heads", config.get("num_attention_heads"), text.heads),
        ("vision_config.hidden_size", vision_config.get("hidden_size"), vision.hidden_size),
        ("vision_config.depth", vision_config.get("depth"), vision.depth),
    ]
    for key, found, expected in pairs:
        if found is not None and found != expected:
            raise CheckpointError(
                f"{where}: {key} is {found}, the base model has {expected}; this adapter belongs to another base"
            )


def _read_glimpse(fields: Fields, adapter: Config, text: Text) -> Glimpse:
    fields.refuse(fields.get("use_ref_masks", bool), "use_ref_masks (pass keep masks at run time instead)")
    fields.refuse(fields.get("use_zero_masks", bool), "use_zero_masks")
    layers, length = fields.integers("le_layers"), fields.at_least("le_length", 0)
    if not layers or length < 1:
        layers, length = (), 0
    elif 0 not in layers:
        raise CheckpointError(f"{fields.where}: le_layers {list(layers)} must contain layer 0")
    selected, reduce_layer = fields.integers("selected_layers"), fields.get("reduce_layer", int)
    if not selected:
        raise CheckpointError(f"{fields.where}: selected_layers is empty, so there is no attention to score tokens by")
    if len(set(selected)) < len(selected):
        raise CheckpointError(f"{fields.where}: selected_layers {list(selected)} repeats a layer")
    for key, numbers in (("le_layers", layers), ("selected_layers", selected)):
        outside = [number for number in numbers if not 0 <= number < text.layers]
        if outside:
            raise CheckpointError(f"{fields.where}: {key} {outside} lie outside the {text.layers} layers of the model")
    if max(selected) > reduce_layer:
        raise CheckpointError(f"{fields.where}: selected_layers {list(selected)} go beyond reduce_layer {reduce_layer}")
    norm = fields.get("le_norm_type", str)
    fields.refuse(norm not in ("rmsnorm", "layernorm"), f"le_norm_type {norm!r}")
    model_eps = Fields(_text_config(adapter, fields.where), fields.where).positive_float("rms_norm_eps", text.norm_eps)
    return Glimpse(
        length=length,
        layers=layers,
        norm=norm,
        norm_eps=model_eps if norm == "rmsnorm" else LAYER_NORM_EPS,
        selected_layers=selected,
        reduce_layer=reduce_layer,
        log_softmax=not fields.get("use_attention_logits", bool),
    )


def _read_scorer(fields: Fields, vision: Vision) -> Scorer:
    kind = fields.get("attn_fuse_type", str)
    fields.get("deep_supervision", bool)  # of training only
    fields.refuse(kind not in ("AttnFuserV1", "AttnFuserV2"), f"attn_fuse_type {kind!r}")
    taps = fields.integers("selected_visual_layers")
    if not taps or len(set(taps)) < len(taps) or any(not 0 <= tap < vision.depth for tap in taps):
        raise CheckpointError(
            f"{fields.where}: selected_visual_layers {list(taps)} must be distinct blocks of the "
            f"{vision.depth} of the vision encoder"
        )
    scorer = Scorer(
        size=fields.positive("attn_fuse_size"),
        condition_size=fields.positive("visual_cond_size"),
        heads=fields.positive("attn_fuse_num_heads"),
        taps=taps,
        conditioned=kind == "AttnFuserV1",
        windowed=not fields.get("attn_fuse_global", bool),
        activation=_activation(fields, "attn_fuse_hidden_act"),
        attention_row=fields.get("ori_attn_supervision", bool),
    )
    if scorer.qk_size % scorer.heads or scorer.size % scorer.heads or scorer.head_dim % 4:
        raise CheckpointError(
            f"{fields.where}: attn_fuse_size {scorer.size} and visual_cond_size {scorer.condition_size} do not give "
            f"{scorer.heads} heads of a multiple of 4"
        )
    return scorer


def _read_pruning(fields: Fields) -> PruningConfig:
    anchors = tuple(fields.get("anchor_positions", list, None) or ())
    for anchor in anchors:
        fields.refuse(anchor not in ANCHORS, f"anchor position {anchor!r} (known: {', '.join(ANCHORS)})")
    threshold = fields.get("reduce_threshold", float)
    ratio = fields.get("max_remain_ratio", float, None)
    if not 0 <= threshold <= 1 or not 0 <= (ratio or 0) <= 1:
        raise CheckpointError(
            f"{fields.where}: reduce_threshold {threshold} and max_remain_ratio {ratio} must lie in 0..1"
        )
    return PruningConfig(threshold, ratio, fields.at_least("min_remain_num", 0, None), anchors)


def _read_tokens(base: Config, generation: Config, vocab_size: int, where: str) -> Tokens:
    config = _text_config(base, where)
    fields = Fields(config, where)
    eos = given(generation).get("eos_token_id", config.get("eos_token_id"))
    ids = [eos] if type(eos) is int else eos
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise CheckpointError(f"{where}: no eos_token_id here or in generation_config.json, so no answer would end")
    for token in ids:
        Fields({"eos_token_id": token}, f"{where} or its generation_config.json").token("eos_token_id", vocab_size)
    image = fields.token("image_token_id", vocab_size)
    return Tokens(image, fields.token("video_token_id", vocab_size, None), tuple(ids))
