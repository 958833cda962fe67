"""Which visual tokens show what a question is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glimpse_models.pocket.sprites import Box

MARGIN = 8
"""Pixels around a box that training marks as well, so that letters and edges are kept with what surrounds them."""


def relevant_tokens(
    boxes: Sequence[Box], size: tuple[int, int], rows: int, columns: int, margin: int = 0
) -> npt.NDArray[np.bool_]:
    """Mark the visual tokens that boxes touch.

    Args:
        boxes: Left, top, right and bottom in pixels of the image as it was drawn.
        size: Its width and height in pixels, whatever the model resizes it to.
        rows: Rows of the merged grid.
        columns: Columns of the merged grid.
        margin: Pixels by which every box is widened on all sides.

    Returns:
        (rows, columns) boolean.
    """
    width, height = size
    mask = np.zeros((rows, columns), bool)
    for left, top, right, bottom in boxes:
        top, left = max(top - margin, 0), max(left - margin, 0)
        down = slice(top * rows // height, -(-(bottom + margin) * rows // height))
        mask[down, left * columns // width : -(-(right + margin) * columns // width)] = True
    return mask
