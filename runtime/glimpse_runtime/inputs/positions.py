"""Where tokens are: multimodal rope positions, rotary tables and attention windows, all in numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import Array, FloatArray, IntArray
from glimpse_runtime.errors import PromptError
from glimpse_runtime.inputs.preprocess import Grid


def mrope_positions(ids: IntArray, grids: Sequence[Grid], image_token: int) -> IntArray:
    """Returns the (3, tokens) time, height and width positions of a prompt.

    Text counts up on all three axes; an image's tokens share one time position and carry their row and column;
    what follows continues after the largest position so far. Follows ``get_rope_index`` of Qwen2.5-VL.

    Args:
        ids: (tokens,) prompt with one image token per visual token.
        grids: the images in prompt order.
        image_token: id of the image token.

    Raises:
        PromptError: image tokens and images do not match.
    """
    is_image = ids == image_token
    expected = sum(grid.visual_tokens for grid in grids)
    if int(is_image.sum()) != expected:
        raise PromptError(f"the prompt has {int(is_image.sum())} image tokens, its images need {expected}")
    out = np.empty((3, len(ids)), np.int64)
    index, start, images = 0, 0, iter(grids)
    while index < len(ids):
        if is_image[index]:
            grid = next(images)
            rows, columns = grid.merged
            count = rows * columns
            if not is_image[index : index + count].all():
                raise PromptError(f"image tokens of one image are not in one run at prompt position {index}")
            row, column = np.divmod(np.arange(count), columns)
            out[:, index : index + count] = start + np.stack([np.zeros(count, np.int64), row, column])
            start += max(rows, columns)
        else:
            following = np.flatnonzero(is_image[index:])
            count = int(following[0]) if len(following) else len(ids) - index
            out[:, index : index + count] = start + np.arange(count)
            start += count
        index += count
    return out


class TextRope:
    """cos and sin rows of the decoder for given multimodal positions."""

    def __init__(self, head_dim: int, theta: float, sections: Sequence[int]) -> None:
        """Prepares the frequencies: ``sections`` says how many of them follow time, height and width."""
        self._inverse = _inverse_frequencies(head_dim, theta)
        self._axis = np.repeat(np.arange(3), sections)

    def __call__(self, positions: IntArray) -> tuple[FloatArray, FloatArray]:
        """Returns cos and sin, each (tokens, head_dim / 2) float32, for (3, tokens) positions."""
        return _cos_sin(positions[self._axis].T.astype(np.float32) * self._inverse)


def vision_rope(grid: Grid, head_dim: int, theta: float) -> tuple[FloatArray, FloatArray]:
    """Returns cos and sin, (patches, head_dim / 2), of every patch's row and column, in patch order."""
    row, column = np.divmod(np.arange(grid.patches), grid.columns)
    order = _patch_order(grid)
    return _grid_rope(row[order], column[order], head_dim, theta)


def token_rope(grid: Grid, head_dim: int, theta: float) -> tuple[FloatArray, FloatArray]:
    """Returns cos and sin, (visual tokens, head_dim / 2), on the merged grid in row-major order."""
    row, column = np.divmod(np.arange(grid.visual_tokens), grid.merged[1])
    return _grid_rope(row, column, head_dim, theta)


@dataclass(frozen=True)
class Windows:
    """Which items share an attention window; padding makes all windows equally long.

    Attributes:
        gather: (windows * slots,) int64: the item in each slot, 0 where the slot is padding.
        scatter: (items,) int64: the slot of each item.
        keys: (windows, slots) int32: 1 for an item, 0 for padding.
    """

    gather: IntArray
    scatter: IntArray
    keys: Array

    @property
    def order(self) -> IntArray:
        """(items,) the items in window order."""
        order: IntArray = self.gather[self.keys.reshape(-1) > 0]
        return order

    @property
    def lengths(self) -> IntArray:
        """(windows,) items per window."""
        lengths: IntArray = self.keys.sum(axis=1).astype(np.int64)
        return lengths

    def inputs(self) -> dict[str, Array]:
        """Returns the arrays by the names of the graph inputs that take them."""
        return {"window_gather": self.gather, "window_scatter": self.scatter, "window_keys": self.keys}


def token_windows(grid: Grid, window_size: int, patch_size: int, cells: IntArray | None = None) -> Windows:
    """Returns the vision encoder's windows over the merged grid, items being visual tokens in row-major order.

    Args:
        grid: the patch grid.
        window_size: side of a window in pixels.
        patch_size: side of a patch in pixels.
        cells: (tokens,) ascending places of the tokens that there are; None is all of the grid. The others are
            padding, and windows without a token are left out.
    """
    side = window_size // grid.merge // patch_size
    rows, columns = grid.merged
    down, across = -(-rows // side), -(-columns // side)
    present = np.arange(rows * columns) if cells is None else cells
    numbers = np.full(rows * columns, -1, np.int64)
    numbers[present] = np.arange(len(present))
    padded = np.full((down * side, across * side), -1, np.int64)
    padded[:rows, :columns] = numbers.reshape(rows, columns)
    slots = padded.reshape(down, side, across, side).transpose(0, 2, 1, 3).reshape(down * across, side * side)
    return _windows(slots[(slots >= 0).any(axis=1)])


def patch_windows(grid: Grid, window_size: int, patch_size: int) -> Windows:
    """Returns the same windows with patches for items: the patches of a merge unit are neighbours."""
    tokens = token_windows(grid, window_size, patch_size)
    slots = np.where(tokens.keys > 0, tokens.gather.reshape(tokens.keys.shape), -1)
    unit = grid.merge**2
    patches = slots[:, :, None] * unit + np.arange(unit)
    return _windows(np.where(slots[:, :, None] >= 0, patches, -1).reshape(len(slots), -1))


def _windows(slots: IntArray) -> Windows:
    valid = slots >= 0
    gather = np.where(valid, slots, 0).reshape(-1)
    filled = np.flatnonzero(valid.reshape(-1))
    scatter = np.empty(len(filled), np.int64)
    scatter[gather[filled]] = filled
    return Windows(gather, scatter, valid.astype(np.int32))


def _patch_order(grid: Grid) -> IntArray:
    """(patches,) row-major patch index of each patch in the image processor's merge-unit order."""
    index = np.arange(grid.patches).reshape(grid.rows // grid.merge, grid.merge, grid.columns // grid.merge, grid.merge)
    return index.transpose(0, 2, 1, 3).reshape(-1)


def _grid_rope(row: IntArray, column: IntArray, head_dim: int, theta: float) -> tuple[FloatArray, FloatArray]:
    inverse = _inverse_frequencies(head_dim // 2, theta)
    angles = [axis[:, None].astype(np.float32) * inverse for axis in (row, column)]
    return _cos_sin(np.concatenate(angles, axis=1))


def _inverse_frequencies(dim: int, theta: float) -> FloatArray:
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (1.0 / np.float32(theta) ** exponent).astype(np.float32)


def _cos_sin(angles: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.cos(angles), np.sin(angles)
