"""Which visual tokens show what a question is about, and how much of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glimpse_models.pocket.scenes.sprites import Box

MARGIN = 8
"""Pixels around a box that training marks as well, so that letters and edges are kept with what surrounds them."""
BESIDE, TOUCHED = 0.3, 0.5
"""What training wants a token to score that lies within the margin, and one that a box just touches; 1 is the most."""


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
    mask = np.zeros((rows, columns), bool)
    for left, top, right, bottom in boxes:
        wide = (left - margin, top - margin, right + margin, bottom + margin)
        mask |= _covered(wide, size, rows, columns) > 0
    return mask


def graded_tokens(boxes: Sequence[Box], size: tuple[int, int], rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Say what every visual token should score: most where most of a box is, little beside it.

    So the tokens that hold the letters come first where there is room for few.

    Args:
        boxes: As of ``relevant_tokens``.
        size: The same.
        rows: The same.
        columns: The same.

    Returns:
        (rows, columns) from 0 to 1.
    """
    wanted = np.where(relevant_tokens(boxes, size, rows, columns, MARGIN), BESIDE, 0)
    for box in boxes:
        share = _covered(box, size, rows, columns)
        touched = TOUCHED + (1 - TOUCHED) * share / share.max()
        wanted = np.maximum(wanted, np.where(share > 0, touched, 0))
    return wanted.astype(np.float32)


def _covered(box: Box, size: tuple[int, int], rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Return how much of each token a box covers, 1 all of it."""
    left, top, right, bottom = box
    width, height = size
    down = _overlap(top * rows, bottom * rows, height, rows) / height
    across = _overlap(left * columns, right * columns, width, columns) / width
    return down[:, None] * across


def _overlap(start: int, stop: int, length: int, cells: int) -> npt.NDArray[np.float64]:
    """Return how much of [start, stop) lies in each of the cells, which are ``length`` long."""
    edges = np.arange(cells + 1, dtype=np.float64) * length
    shared: npt.NDArray[np.float64] = np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start)
    return np.maximum(shared, 0)
