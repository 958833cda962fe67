"""Reads ``preprocessor_config.json`` into the manifest's image rules."""

from collections.abc import Mapping
from typing import Any

from glimpse_export.architecture import Vision
from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_runtime.manifest import ImageRules

_BICUBIC = 3
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_STEPS = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")


def read_image_rules(config: Mapping[str, Any], vision: Vision, where: str) -> ImageRules:
    """Returns the rules; what the file leaves out takes the defaults of Qwen2VLImageProcessor.

    Args:
        config: the file's content.
        vision: the vision encoder it prepares images for.
        where: what to call the file in errors.

    Raises:
        CheckpointError: values that make no sense or do not fit the vision encoder.
        UnsupportedError: a step is switched off, or another resampling filter is asked for.
    """
    for step in _STEPS:
        if not config.get(step, True):
            raise UnsupportedError(f"{where}: {step} = false is not supported")
    if config.get("resample", _BICUBIC) != _BICUBIC:
        raise UnsupportedError(f"{where}: resample {config['resample']} is not supported, only bicubic (3)")
    size = config.get("size") or {}
    min_pixels = config.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or 56 * 56
    max_pixels = config.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or 28 * 28 * 1280
    rules = ImageRules(
        patch_size=config.get("patch_size", 14),
        temporal_patch_size=config.get("temporal_patch_size", 2),
        merge_size=config.get("merge_size", 2),
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        mean=tuple(config.get("image_mean") or _CLIP_MEAN),
        std=tuple(config.get("image_std") or _CLIP_STD),
        rescale_factor=config.get("rescale_factor", 1 / 255),
    )
    if not 0 < min_pixels <= max_pixels:
        raise CheckpointError(f"{where}: min_pixels {min_pixels} and max_pixels {max_pixels} make no range")
    if len(rules.mean) != vision.channels or len(rules.std) != vision.channels or 0 in rules.std:
        raise CheckpointError(f"{where}: image_mean and image_std must have {vision.channels} values, std none of 0")
    pairs = (
        ("patch_size", "patch_size"),
        ("temporal_patch_size", "temporal_patch_size"),
        ("merge_size", "merge_size"),
    )
    for mine, theirs in pairs:
        if getattr(rules, mine) != getattr(vision, theirs):
            raise CheckpointError(
                f"{where}: {mine} {getattr(rules, mine)} is not the vision encoder's {getattr(vision, theirs)}"
            )
    return rules
