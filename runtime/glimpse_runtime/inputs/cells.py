"""Which cells of an image's merged grid to encode, as a caller gives them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from glimpse_runtime.arrays import Array, IntArray
from glimpse_runtime.checked import shown
from glimpse_runtime.errors import InputError
from glimpse_runtime.inputs.family import Family
from glimpse_runtime.inputs.grid import Grid

Cells = Sequence[int] | Array | Sequence[Sequence[int] | Array | None] | None
"""Of one image: ascending places, or a (rows, columns) bool mask. Of a list of images: a list of these."""
Chosen = Sequence[IntArray | None] | None
"""Per image, checked: (n,) ascending places; None for all."""


def checked_cells(cells: Cells, images: object, grids: Sequence[Grid], family: Family) -> list[IntArray | None] | None:
    """Returns the places to encode per image, (n,) int64 ascending on its merged grid, None for all of it.

    Args:
        cells: what the caller gave.
        images: what it gave for images: a list of images takes a list of cells.
        grids: the patch grids of the images.
        family: the model's.

    Raises:
        InputError: they do not fit the images, or the model's vision encoder takes whole images alone.
    """
    if cells is None:
        return None
    given: Any = cells if isinstance(images, (list, tuple)) else [cells]
    if not isinstance(given, (list, tuple)) or len(given) != len(grids):
        raise InputError(
            f"cells must be a list with one entry (places, a mask or None) per image of the list of {len(grids)} "
            f"images, found {shown(cells)}"
        )
    chosen = [
        None if own is None else _places(own, grid, number)
        for number, (own, grid) in enumerate(zip(given, grids, strict=True))
    ]
    for own, grid in zip(chosen, grids, strict=True):
        if own is not None and not family.encodes_parts:
            family.vision_inputs(grid, own)  # says why, in the family's words
    return chosen


def _places(cells: Any, grid: Grid, number: int) -> IntArray | None:
    """The places of one image; all of them are None, which costs no gathering."""
    try:
        array = np.asarray(cells)
    except (TypeError, ValueError):  # rows of uneven lengths
        array = np.empty(())
    rows, columns = grid.merged
    count = grid.visual_tokens
    if array.dtype.kind == "b":
        if array.shape != grid.merged:
            raise InputError(f"the mask of cells of image {number} has shape {array.shape}, its grid is {grid.merged}")
        places = np.flatnonzero(array)
    elif array.ndim == 1 and (array.dtype.kind in "iu" or not array.size):
        places = array.astype(np.int64)
    else:
        raise InputError(
            f"cells of image {number} must be ascending whole numbers or a bool mask of {rows} x {columns}, found "
            f"{shown(cells)}"
        )
    if not len(places):
        raise InputError(f"no cell of image {number} is chosen; choose at least one, or leave the image out")
    if places[0] < 0 or places[-1] >= count or (np.diff(places) <= 0).any():
        raise InputError(
            f"cells of image {number} must ascend within 0..{count - 1} ({rows} rows of {columns}), found "
            f"{shown(cells)}"
        )
    return None if len(places) == count else places
