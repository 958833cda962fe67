"""Reads from ``preprocessor_config.json`` how a pixel's levels become numbers; all families' files say it alike."""

from typing import NamedTuple

from glimpse_export.model.fields import Fields
from glimpse_runtime.inputs.levels import LARGEST_LEVEL, SMALLEST_STD, sensible_levels

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class Levels(NamedTuple):
    """Mean and standard deviation of every channel, and what eight-bit levels are multiplied by first."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float


def read_levels(fields: Fields, channels: int) -> Levels:
    """Returns them; what the file leaves out takes the defaults that transformers' processors of all families share.

    Raises:
        CheckpointError: values that make no sense.
    """
    mean = fields.numbers("image_mean", channels, _MEAN)
    std = fields.numbers("image_std", channels, _STD)
    factor = fields.positive_float("rescale_factor", 1 / 255)
    if not sensible_levels((0.0,) * 3, std, 1.0):
        raise fields.wrong("image_std", f"in {SMALLEST_STD:g}..{LARGEST_LEVEL:g} in every channel")
    if not sensible_levels(mean, std, 1.0):
        raise fields.wrong("image_mean", f"in -{LARGEST_LEVEL:g}..{LARGEST_LEVEL:g} in every channel")
    if not sensible_levels(mean, std, factor):
        raise fields.wrong("rescale_factor", "at most 1")
    return Levels(mean, std, factor)
