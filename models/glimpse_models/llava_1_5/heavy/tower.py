"""Reads the configuration of the vision tower: a CLIP model's, its vision half's, or what llava-hf's base nests."""

from dataclasses import dataclass
from typing import Any

from glimpse_export.errors import CheckpointError
from glimpse_export.model.configuration import read_activation
from glimpse_export.model.fields import Config, Fields, given
from glimpse_models.llava_1_5.heavy.architecture import LlavaVision

_CLIP: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
# What LlavaConfig takes for a base that leaves out vision_config.
_LLAVA_TOWER: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_VISION_TYPE = "clip_vision_model"


@dataclass(frozen=True)
class Projected:
    """What the base says about its projector.

    Attributes:
        layer: index into the tower's ``hidden_states`` that it reads; negative ones count from the end.
        activation: between its two layers.
    """

    layer: int
    activation: str


def block_of(index: int, depth: int) -> int:
    """Returns the block behind which ``hidden_states[index]`` of a tower is the state; -1 is before the first."""
    return index - 1 if index >= 0 else index + depth


def read_tower(
    config: Config, where: str, projected: Projected, taps: tuple[int, ...], out_size: int, adapter: str
) -> LlavaVision:
    """Reads a tower that has a ``config.json`` of its own.

    Args:
        config: that.
        where: what to call it in errors.
        projected: what the projector reads.
        taps: what the scorer reads, indices into ``hidden_states``.
        out_size: width of a visual token.
        adapter: what to call the adapter's configuration in errors.
    """
    kind = config.get("model_type")
    fields = Fields(config, where)
    if kind == "clip" or (kind is None and config.get("vision_config") is not None):
        # A vision_config_dict, of old versions, is what counts where there is one.
        vision = fields.nested("vision_config_dict") or fields.nested("vision_config")
    else:
        fields.refuse(kind not in (None, _VISION_TYPE), f"a vision tower of model_type {kind!r} (only CLIP's)")
        vision = config
    return _read(vision, where, projected, taps, out_size, adapter)


def read_hf_tower(
    base: Config, where: str, projected: Projected, taps: tuple[int, ...], out_size: int, adapter: str
) -> LlavaVision:
    """Reads the tower of a llava-hf base; arguments as for ``read_tower``."""
    fields, where = Fields(base, where), f"{where} vision_config"
    if base.get("vision_config") is None:
        return _read(_LLAVA_TOWER, where, projected, taps, out_size, adapter)
    vision = fields.nested("vision_config")
    kind = vision.get("model_type", _VISION_TYPE)
    fields.refuse(kind != _VISION_TYPE, f"a vision_config of model_type {kind!r} (only {_VISION_TYPE!r})")
    return _read(vision, where, projected, taps, out_size, adapter)


def _read(
    config: Config, where: str, projected: Projected, taps: tuple[int, ...], out_size: int, adapter: str
) -> LlavaVision:
    fields = Fields({**_CLIP, **given(config)}, where)
    heads, hidden = fields.positive("num_attention_heads"), fields.positive("hidden_size")
    depth, channels = fields.positive("num_hidden_layers"), fields.positive("num_channels")
    patch, image = _side(fields, "patch_size"), _side(fields, "image_size")
    if hidden % heads:
        raise CheckpointError(f"{where}: hidden_size {hidden} and num_attention_heads {heads} do not divide")
    if image < patch:
        raise CheckpointError(f"{where}: image_size {image} is smaller than patch_size {patch}")
    fields.refuse(channels != 3, f"{channels} image channels")
    if not taps:
        raise CheckpointError(f"{adapter}: selected_visual_layers is empty, so the scorer would have no layer")
    for what, index in (("the base's vision layer", projected.layer), *((adapter, tap) for tap in taps)):
        if not -depth - 1 <= index <= depth:
            raise CheckpointError(
                f"{what}: {index} is none of the {depth + 1} hidden states of the vision tower in {where}"
            )
    read = block_of(projected.layer, depth)
    return LlavaVision(
        depth=max(read, *(block_of(tap, depth) for tap in taps)) + 1,
        tower_depth=depth,
        projected=read,
        hidden_size=hidden,
        heads=heads,
        intermediate_size=fields.positive("intermediate_size"),
        out_size=out_size,
        channels=channels,
        patch_size=patch,
        image_size=image,
        activation=read_activation(fields, "hidden_act"),
        projector_activation=read_activation(Fields({"activation": projected.activation}, where), "activation"),
        norm_eps=fields.positive_float("layer_norm_eps"),
    )


def _side(fields: Fields, key: str) -> int:
    """Reads a length that newer files may give for both axes."""
    value = fields.get(key, object)
    if isinstance(value, list):
        if len(set(map(str, value))) != 1:
            raise fields.wrong(key, "one length, or the same for both axes")
        fields = Fields({key: value[0]}, fields.where)
    return fields.positive(key)
