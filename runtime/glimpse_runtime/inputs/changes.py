"""Which cells of a camera's frame differ from an earlier one by more than its noise."""

import numpy as np

from glimpse_runtime.arrays import BoolArray, FloatArray
from glimpse_runtime.inputs.grid import Patches

_FACTOR = 1.5
"""A cell that differs by more than this many times the noise has changed."""
_LEAST = 0.012
"""Under one level of 255, in normalised pixel values: what a cell must differ by without any noise."""
_MOST_NOISE = 0.25
"""More than this, in normalised pixel values, is a change and no noise: about 15 levels of standard deviation."""


def changed_cells(frame: Patches, earlier: FloatArray) -> BoolArray:
    """Returns the (visual tokens,) mask of the cells whose pixels changed.

    The noise is estimated anew: it is what is left of the differences in the quietest quarter of the cells when what
    they have in common, such as other light, is taken out. So a change of everything is a change, and no noise.

    Args:
        frame: the new one.
        earlier: (patches, values) float32 pixel values to compare with, laid out alike.
    """
    grid = frame.grid
    difference = (frame.pixel_values - earlier).reshape(grid.visual_tokens, grid.merge**2, -1)
    size = np.abs(difference).mean(axis=(1, 2))
    quietest = difference[np.argsort(size, kind="stable")[: max(grid.visual_tokens // 4, 1)]]
    noise = float(np.abs(quietest - quietest.mean(axis=(0, 1))).mean())
    changed: BoolArray = size > _FACTOR * min(noise, _MOST_NOISE) + _LEAST
    return changed
