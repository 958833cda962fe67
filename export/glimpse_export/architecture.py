"""The one description of a Qwen2.5-VL model with GlimpsePrune that all graphs and the manifest follow.

It is read from the configuration files alone. Whatever these ask for and this version cannot do is refused by
name. Fields of the adapter that its file leaves out take the reference's defaults
(``transformers_gp/models/qwen2_5_vl/configuration.py``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_runtime.pruning import ANCHORS

VISION_ROPE_THETA = 10000.0
VISION_NORM_EPS = 1e-6
SCORER_NORM_EPS = 1e-6
LAYER_NORM_EPS = 1e-5
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")

Config = Mapping[str, Any]

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


@dataclass(frozen=True)
class Text:
    """The decoder."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float
    activation: str
    rope_theta: float
    mrope_section: tuple[int, ...]
    max_positions: int
    tied: bool

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.heads


@dataclass(frozen=True)
class Vision:
    """The vision encoder."""

    depth: int
    hidden_size: int
    heads: int
    intermediate_size: int
    out_size: int
    channels: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    full_attention: tuple[int, ...]
    activation: str

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.heads

    @property
    def merge_unit(self) -> int:
        """Patches that become one visual token."""
        return self.merge_size**2

    @property
    def patch_values(self) -> int:
        """Numbers in one patch."""
        return self.channels * self.temporal_patch_size * self.patch_size**2

    @property
    def window_tokens(self) -> int:
        """Visual tokens in one attention window."""
        return (self.window_size // self.merge_size // self.patch_size) ** 2

    @property
    def has_windows(self) -> bool:
        """Whether any block attends within windows."""
        return len(set(self.full_attention)) < self.depth


@dataclass(frozen=True)
class Glimpse:
    """The glimpse token and where its attention is read."""

    length: int
    layers: tuple[int, ...]
    norm: str
    norm_eps: float
    selected_layers: tuple[int, ...]
    reduce_layer: int
    log_softmax: bool


@dataclass(frozen=True)
class Scorer:
    """The scorer (VIP): a few attention blocks over the visual tokens of one image."""

    size: int
    condition_size: int
    heads: int
    taps: tuple[int, ...]
    conditioned: bool
    windowed: bool
    activation: str
    attention_row: bool

    @property
    def qk_size(self) -> int:
        """Width of queries and keys."""
        return self.size + (self.condition_size if self.conditioned else 0)

    @property
    def head_dim(self) -> int:
        """Size of one query or key head; the rotary embedding covers all of it."""
        return self.qk_size // self.heads


@dataclass(frozen=True)
class PruningConfig:
    """The adapter's selection rule."""

    threshold: float
    max_keep_ratio: float | None
    min_keep: int | None
    anchors: tuple[str, ...]


@dataclass(frozen=True)
class Tokens:
    """Special token ids."""

    image: int
    video: int | None
    eos: tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A whole model."""

    text: Text
    vision: Vision
    glimpse: Glimpse
    scorer: Scorer
    pruning: PruningConfig
    tokens: Tokens
    repetition_penalty: float

    @property
    def lower_layers(self) -> int:
        """Decoder layers that run on all tokens: 0..K, or all when K is the last layer or beyond."""
        return min(self.glimpse.reduce_layer + 1, self.text.layers)


class _Reader:
    """Reads typed fields of one configuration file and names it in errors."""

    def __init__(self, config: Config, where: str) -> None:
        self._config = config
        self._where = where

    def get(self, key: str, kind: type, default: Any = ...) -> Any:
        value = self._config.get(key, default)
        if value is ...:
            raise CheckpointError(f"{self._where} has no {key!r}; the checkpoint is incomplete or of another model")
        if value is None and default is None:
            return None
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise CheckpointError(f"{self._where}: {key!r} must be of type {kind.__name__}, found {value!r}")
        return value

    def positive(self, key: str, default: Any = ...) -> int:
        value: int = self.get(key, int, default)
        if value < 1:
            raise CheckpointError(f"{self._where}: {key!r} must be at least 1, found {value}")
        return value

    def integers(self, key: str, default: Any = ...) -> tuple[int, ...]:
        values = self.get(key, list, default)
        if not all(type(value) is int for value in values):
            raise CheckpointError(f"{self._where}: {key!r} must be a list of integers, found {values!r}")
        return tuple(values)

    def activation(self, key: str, default: Any = "silu") -> str:
        name: str = self.get(key, str, default)
        if name not in ACTIVATIONS:
            raise UnsupportedError(
                f"{self._where}: {key} {name!r} is not supported; known are {', '.join(ACTIVATIONS)}"
            )
        return name

    def refuse(self, condition: bool, what: str) -> None:
        if condition:
            raise UnsupportedError(f"{self._where}: {what} is not supported")


def read_architecture(
    base: Config, adapter: Config, generation: Config, base_name: str, adapter_name: str
) -> Architecture:
    """Reads the description of a model from its configuration files.

    Args:
        base: the base model's ``config.json``.
        adapter: the adapter's ``config.json``.
        generation: the base model's ``generation_config.json``, or empty.
        base_name: what to call the first in errors.
        adapter_name: what to call the second in errors.

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
    reader = _Reader({**_ADAPTER_DEFAULTS, **adapter}, adapter_name)
    _check_same_base(adapter, text, vision, adapter_name)
    return Architecture(
        text,
        vision,
        _read_glimpse(reader, adapter, text, adapter_name),
        _read_scorer(reader, vision, adapter_name),
        _read_pruning(reader, adapter_name),
        _read_tokens(base, generation, base_name),
        _read_repetition_penalty(generation, f"{base_name}'s generation_config.json"),
    )


def _text_config(base: Config) -> Config:
    """Published checkpoints keep the decoder's fields at the top; newer writers nest them."""
    nested = base.get("text_config")
    return {**base, **nested} if isinstance(nested, dict) else base


def _read_text(base: Config, where: str) -> Text:
    config = _text_config(base)
    reader = _Reader(config, where)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    reader.refuse(kind not in ("default", "mrope"), f"rope type {kind!r}")
    reader.refuse(bool(config.get("use_sliding_window", False)), "sliding window attention (use_sliding_window)")
    heads = reader.positive("num_attention_heads")
    hidden = reader.positive("hidden_size")
    kv_heads = reader.positive("num_key_value_heads", heads)
    if hidden % heads or heads % kv_heads:
        raise CheckpointError(
            f"{where}: hidden_size {hidden}, num_attention_heads {heads} and "
            f"num_key_value_heads {kv_heads} do not divide"
        )
    reader.refuse(config.get("head_dim", hidden // heads) != hidden // heads, "a head_dim of its own")
    section = rope.get("mrope_section")
    if not isinstance(section, list) or len(section) != 3 or sum(section) * 2 != hidden // heads:
        raise CheckpointError(f"{where}: mrope_section {section!r} does not cover half a head ({hidden // heads // 2})")
    theta = rope.get("rope_theta", config.get("rope_theta"))
    return Text(
        layers=reader.positive("num_hidden_layers"),
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        intermediate_size=reader.positive("intermediate_size"),
        vocab_size=reader.positive("vocab_size"),
        norm_eps=reader.get("rms_norm_eps", float, 1e-6),
        activation=reader.activation("hidden_act"),
        rope_theta=_Reader({"rope_theta": theta}, where).get("rope_theta", float),
        mrope_section=tuple(section),
        max_positions=reader.positive("max_position_embeddings"),
        tied=bool(base.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
    )


def _read_vision(base: Config, where: str) -> Vision:
    reader = _Reader(_Reader(base, where).get("vision_config", dict), f"{where} vision_config")
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
    channels = base["vision_config"].get("in_channels", base["vision_config"].get("in_chans", 3))
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
        activation=reader.activation("hidden_act"),
    )


def _check_same_base(adapter: Config, text: Text, vision: Vision, where: str) -> None:
    """Refuses an adapter that was trained for a base of other dimensions."""
    config = _text_config(adapter)
    vision_config = adapter.get("vision_config") or {}
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


def _read_glimpse(reader: _Reader, adapter: Config, text: Text, where: str) -> Glimpse:
    reader.refuse(reader.get("use_ref_masks", bool), "use_ref_masks (pass keep masks at run time instead)")
    reader.refuse(reader.get("use_zero_masks", bool), "use_zero_masks")
    layers, length = reader.integers("le_layers"), reader.get("le_length", int)
    if not layers or length < 1:
        layers, length = (), 0
    elif 0 not in layers:
        raise CheckpointError(f"{where}: le_layers {list(layers)} must contain layer 0")
    selected, reduce_layer = reader.integers("selected_layers"), reader.get("reduce_layer", int)
    if not selected:
        raise CheckpointError(f"{where}: selected_layers is empty, so there is no attention to score tokens by")
    if len(set(selected)) < len(selected):
        raise CheckpointError(f"{where}: selected_layers {list(selected)} repeats a layer")
    for key, numbers in (("le_layers", layers), ("selected_layers", selected)):
        outside = [number for number in numbers if not 0 <= number < text.layers]
        if outside:
            raise CheckpointError(f"{where}: {key} {outside} lie outside the {text.layers} layers of the model")
    if max(selected) > reduce_layer:
        raise CheckpointError(f"{where}: selected_layers {list(selected)} go beyond reduce_layer {reduce_layer}")
    norm = reader.get("le_norm_type", str)
    reader.refuse(norm not in ("rmsnorm", "layernorm"), f"le_norm_type {norm!r}")
    model_eps = _Reader(_text_config(adapter), where).get("rms_norm_eps", float, text.norm_eps)
    return Glimpse(
        length=length,
        layers=layers,
        norm=norm,
        norm_eps=model_eps if norm == "rmsnorm" else LAYER_NORM_EPS,
        selected_layers=selected,
        reduce_layer=reduce_layer,
        log_softmax=not reader.get("use_attention_logits", bool),
    )


def _read_scorer(reader: _Reader, vision: Vision, where: str) -> Scorer:
    kind = reader.get("attn_fuse_type", str)
    reader.refuse(kind not in ("AttnFuserV1", "AttnFuserV2"), f"attn_fuse_type {kind!r}")
    taps = reader.integers("selected_visual_layers")
    if not taps or len(set(taps)) < len(taps) or any(not 0 <= tap < vision.depth for tap in taps):
        raise CheckpointError(
            f"{where}: selected_visual_layers {list(taps)} must be distinct blocks of the "
            f"{vision.depth} of the vision encoder"
        )
    scorer = Scorer(
        size=reader.positive("attn_fuse_size"),
        condition_size=reader.positive("visual_cond_size"),
        heads=reader.positive("attn_fuse_num_heads"),
        taps=taps,
        conditioned=kind == "AttnFuserV1",
        windowed=not reader.get("attn_fuse_global", bool),
        activation=reader.activation("attn_fuse_hidden_act"),
        attention_row=reader.get("ori_attn_supervision", bool),
    )
    if scorer.qk_size % scorer.heads or scorer.size % scorer.heads or scorer.head_dim % 4:
        raise CheckpointError(
            f"{where}: attn_fuse_size {scorer.size} and visual_cond_size {scorer.condition_size} do not give "
            f"{scorer.heads} heads of a multiple of 4"
        )
    return scorer


def _read_pruning(reader: _Reader, where: str) -> PruningConfig:
    anchors = tuple(reader.get("anchor_positions", list, None) or ())
    for anchor in anchors:
        reader.refuse(anchor not in ANCHORS, f"anchor position {anchor!r} (known: {', '.join(ANCHORS)})")
    threshold = reader.get("reduce_threshold", float)
    ratio = reader.get("max_remain_ratio", float, None)
    if not 0 <= threshold <= 1 or not 0 <= (ratio or 0) <= 1:
        raise CheckpointError(f"{where}: reduce_threshold {threshold} and max_remain_ratio {ratio} must lie in 0..1")
    return PruningConfig(threshold, ratio, reader.get("min_remain_num", int, None), anchors)


def _read_tokens(base: Config, generation: Config, where: str) -> Tokens:
    config = _text_config(base)
    reader = _Reader(config, where)
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    ids = [eos] if type(eos) is int else eos
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise CheckpointError(f"{where}: no eos_token_id here or in generation_config.json, so no answer would end")
    return Tokens(reader.get("image_token_id", int), reader.get("video_token_id", int, None), tuple(ids))


def _read_repetition_penalty(generation: Config, where: str) -> float:
    penalty: float | None = _Reader(generation, where).get("repetition_penalty", float, None)
    if penalty is None:
        return 1.0
    if not 0 < penalty < math.inf:
        raise CheckpointError(f"{where}: repetition_penalty {penalty} must be a number above 0")
    return penalty
