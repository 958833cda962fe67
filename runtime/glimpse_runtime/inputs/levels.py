"""The values that the eight-bit levels of a pixel become."""

from collections.abc import Sequence

import numpy as np

from glimpse_runtime.arrays import FloatArray


def normalised_levels(mean: Sequence[float], std: Sequence[float], rescale_factor: float) -> FloatArray:
    """(channels, 256) float32: the value each level becomes, rounded as transformers' image processors round it.

    They multiply by the rescale factor in float64, store float32, then subtract and divide in float32.
    """
    levels = (np.arange(256, dtype=np.float64) * rescale_factor).astype(np.float32)
    means, spreads = np.array(mean, np.float32)[:, None], np.array(std, np.float32)[:, None]
    return ((levels[None] - means) / spreads).astype(np.float32)
