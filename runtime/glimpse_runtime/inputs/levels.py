"""The values that the eight-bit levels of a pixel become."""

import math
from collections.abc import Sequence

import numpy as np

from glimpse_runtime.arrays import FloatArray

# Of pixels scaled to about 0..1.
LARGEST_LEVEL, SMALLEST_STD = 1e3, 1e-6


def sensible_levels(mean: Sequence[float], std: Sequence[float], rescale_factor: float) -> bool:
    """Tells whether a file's values are those of three channels, and finite numbers come out."""
    channels = len(mean) == len(std) == 3 and all(map(math.isfinite, (*mean, *std)))
    means = all(abs(value) <= LARGEST_LEVEL for value in mean)
    spreads = all(SMALLEST_STD <= value <= LARGEST_LEVEL for value in std)
    return channels and means and spreads and 0 < rescale_factor <= 1


def normalised_levels(mean: Sequence[float], std: Sequence[float], rescale_factor: float) -> FloatArray:
    """(channels, 256) float32: the value each level becomes, rounded as transformers' image processors round it.

    They multiply by the rescale factor in float64, store float32, then subtract and divide in float32.
    """
    levels = (np.arange(256, dtype=np.float64) * rescale_factor).astype(np.float32)
    means, spreads = np.array(mean, np.float32)[:, None], np.array(std, np.float32)[:, None]
    return ((levels[None] - means) / spreads).astype(np.float32)
