"""Which visual tokens show what a question is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glimpse_models.pocket.sprites import Box


def relevant_tokens(boxes: Sequence[Box], size: tuple[int, int], rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """Mark the visual tokens that boxes touch.

    Args:
        boxes: Left, top, right and bottom in pixels of the image as it was drawn.
        size: Its width and height in pixels, whatever the model resizes it to.
        rows: Rows of the merged grid.
        columns: Columns of the merged grid.

    Returns:
        (rows, columns) boolean.
    """
    width, height = size
    mask = np.zeros((rows, columns), bool)
    for left, top, right, bottom in boxes:
        down = slice(top * rows // height, -(-bottom * rows // height))
        mask[down, left * columns // width : -(-right * columns // width)] = True
    return mask
