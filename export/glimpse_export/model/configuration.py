"""Reads what all families' configuration files have in common: the decoder, the adapter, the ids that end an answer.

Whatever these ask for and this version cannot do is refused by name.
"""

from collections.abc import Collection, Mapping
from typing import Any

from glimpse_export.errors import CheckpointError
from glimpse_export.model.architecture import ACTIVATIONS, LAYER_NORM_EPS, Glimpse, PruningConfig, Scorer, Text
from glimpse_export.model.fields import Config, Fields, given
from glimpse_export.model.refusals import refuse_quantised, refuse_text, refuse_unknown_options
from glimpse_runtime.bundle.anchors import ANCHORS, is_anchor
from glimpse_runtime.bundle.manifest import LARGEST_ROPE_THETA


def read_text(
    config: Config, where: str, rope: tuple[float, tuple[int, ...]], qkv_bias: bool, tied: bool, norm_eps: float | None
) -> Text:
    """Reads the decoder's description.

    Args:
        config: its fields.
        where: what to call them in errors.
        rope: base of the rotary embedding and sections of its axes.
        qkv_bias: whether queries, keys and values of this family have biases.
        tied: whether the LM head is the embedding table.
        norm_eps: of a configuration that does not say; None asks for one that does.
    """
    fields = Fields(config, where)
    refuse_text(config, where, qkv_bias)
    fields.refuse(fields.get("use_sliding_window", bool, False), "sliding window attention (use_sliding_window)")
    heads, hidden = head_sizes(fields)
    theta, sections = rope
    if not 1 <= theta <= LARGEST_ROPE_THETA:
        raise CheckpointError(f"{where}: rope_theta {theta} must lie in 1..{LARGEST_ROPE_THETA:.0e}")
    return Text(
        layers=fields.positive("num_hidden_layers"),
        hidden_size=hidden,
        heads=heads,
        kv_heads=fields.positive("num_key_value_heads"),
        intermediate_size=fields.positive("intermediate_size"),
        vocab_size=fields.positive("vocab_size"),
        norm_eps=fields.positive_float("rms_norm_eps", *([] if norm_eps is None else [norm_eps])),
        activation=read_activation(fields, "hidden_act"),
        rope_theta=theta,
        rope_sections=sections,
        max_positions=fields.positive("max_position_embeddings"),
        qkv_bias=qkv_bias,
        tied=tied,
    )


def head_sizes(fields: Fields) -> tuple[int, int]:
    """Returns the decoder's query heads and width, whose quotient is the size of a head."""
    heads, hidden = fields.positive("num_attention_heads"), fields.positive("hidden_size")
    kv_heads = fields.positive("num_key_value_heads")
    if hidden % heads or heads % kv_heads:
        raise CheckpointError(
            f"{fields.where}: hidden_size {hidden}, num_attention_heads {heads} and "
            f"num_key_value_heads {kv_heads} do not divide"
        )
    fields.refuse(fields.get("head_dim", int, hidden // heads) != hidden // heads, "a head_dim of its own")
    return heads, hidden


def read_rope_fields(config: Config, where: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Returns the fields of the rotary embedding, ``rope_theta`` among them where it is given.

    Published checkpoints write ``rope_scaling`` beside ``rope_theta``, newer ones ``rope_parameters`` with both.

    Args:
        config: the decoder's fields.
        where: what to call them in errors.
        kinds: the types of rotary embedding that the family's graphs follow.
    """
    outer = Fields(config, where)
    rope: dict[str, Any] = {}
    for key in ("rope_parameters", "rope_scaling"):
        part = given(outer.nested(key))
        for name in ("rope_type", "type"):
            kind = part.get(name, "default")
            outer.refuse(kind not in kinds, f"rope type {kind!r}")
        outer.refuse(part.get("partial_rotary_factor", 1) != 1, "partial_rotary_factor (a rotary embedding of a part)")
        rope |= part
    if "rope_theta" not in rope and config.get("rope_theta") is not None:
        rope["rope_theta"] = config["rope_theta"]
    return rope


def read_activation(fields: Fields, key: str, default: str = "silu") -> str:
    """Reads the name of an activation that the graphs know."""
    name: str = fields.get(key, str, default)
    fields.refuse(name not in ACTIVATIONS, f"{key} {name!r} (known: {', '.join(ACTIVATIONS)})")
    return name


def read_adapter(
    adapter: Config,
    where: str,
    defaults: Mapping[str, Any],
    text: Text,
    taps: tuple[int, ...],
    window: int,
    norm_eps: float,
) -> tuple[Glimpse, Scorer, PruningConfig]:
    """Reads the adapter's description.

    Args:
        adapter: its ``config.json``.
        where: what to call that in errors.
        defaults: what the reference takes for a field that the file leaves out; the options that there are.
        text: the decoder.
        taps: the checked ``selected_visual_layers``, as blocks of the vision encoder.
        window: side of the vision encoder's windows in visual tokens, for a scorer that stays within them.
        norm_eps: of the norm of the glimpse vectors, where that is a root-mean-square norm.
    """
    fields = Fields({**defaults, **adapter}, where)
    return _read_glimpse(fields, text, norm_eps), _read_scorer(fields, taps, window), _read_pruning(fields)


def check_options(adapter: Config, where: str, defaults: Mapping[str, Any], harmless: Collection[str]) -> Fields:
    """Refuses options of the adapter that this version does not know; returns its fields, defaults filled in.

    Args:
        adapter: its ``config.json``.
        where: what to call that in errors.
        defaults: the options that there are.
        harmless: fields of the family's own that change nothing.
    """
    refuse_quantised(adapter, where)
    refuse_unknown_options(adapter, defaults, where, harmless)
    return Fields({**defaults, **adapter}, where)


def check_same(found: Mapping[str, tuple[Any, Any]], where: str) -> None:
    """Refuses an adapter that was trained for a base of other dimensions.

    Args:
        found: for each field what the adapter says, None for nothing, and what the base has.
        where: what to call the adapter's configuration in errors.
    """
    for key, (said, expected) in found.items():
        if said is not None and said != expected:
            raise CheckpointError(
                f"{where}: {key} is {said}, the base model has {expected}; this adapter belongs to another base"
            )


def read_eos(generation: Config, config: Config, vocab_size: int, where: str) -> tuple[int, ...]:
    """Reads the ids that end an answer, of ``generation_config.json`` or else of the base's configuration."""
    eos = given(generation).get("eos_token_id", config.get("eos_token_id"))
    ids = [eos] if type(eos) is int else eos
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise CheckpointError(f"{where}: no eos_token_id here or in generation_config.json, so no answer would end")
    for token in ids:
        Fields({"eos_token_id": token}, f"{where} or its generation_config.json").token("eos_token_id", vocab_size)
    return tuple(ids)


def _read_glimpse(fields: Fields, text: Text, norm_eps: float) -> Glimpse:
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
    return Glimpse(
        length=length,
        layers=layers,
        norm=norm,
        norm_eps=norm_eps if norm == "rmsnorm" else LAYER_NORM_EPS,
        selected_layers=selected,
        reduce_layer=reduce_layer,
        log_softmax=not fields.get("use_attention_logits", bool),
    )


def _read_scorer(fields: Fields, taps: tuple[int, ...], window: int) -> Scorer:
    kind = fields.get("attn_fuse_type", str)
    fields.get("deep_supervision", bool)  # of training only
    fields.refuse(kind not in ("AttnFuserV1", "AttnFuserV2"), f"attn_fuse_type {kind!r}")
    scorer = Scorer(
        size=fields.positive("attn_fuse_size"),
        condition_size=fields.positive("visual_cond_size"),
        heads=fields.positive("attn_fuse_num_heads"),
        taps=taps,
        conditioned=kind == "AttnFuserV1",
        window=None if fields.get("attn_fuse_global", bool) else window,
        activation=read_activation(fields, "attn_fuse_hidden_act"),
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
        fields.refuse(not is_anchor(anchor), f"anchor position {anchor!r} (known: {', '.join(ANCHORS)})")
    threshold = fields.get("reduce_threshold", float)
    ratio = fields.get("max_remain_ratio", float, None)
    if not 0 <= threshold <= 1 or not 0 <= (ratio or 0) <= 1:
        raise CheckpointError(
            f"{fields.where}: reduce_threshold {threshold} and max_remain_ratio {ratio} must lie in 0..1"
        )
    fixed = fields.get("fixed_remain_ratio", float, None)
    if fixed is not None:
        return _fixed_share(fields, fixed, anchors)
    return PruningConfig(threshold, ratio, fields.at_least("min_remain_num", 0, None), anchors)


def _fixed_share(fields: Fields, ratio: float, anchors: tuple[str, ...]) -> PruningConfig:
    """The best share of the tokens, whatever their scores, and at least one; the other settings have no say."""
    if not 0 <= ratio <= 1:
        raise CheckpointError(f"{fields.where}: fixed_remain_ratio {ratio} must lie in 0..1")
    fields.refuse(bool(anchors), "anchor_positions together with fixed_remain_ratio, which the reference ignores,")
    return PruningConfig(0.0, ratio, 1, ())
