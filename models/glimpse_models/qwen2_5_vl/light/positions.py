"""Where tokens are: multimodal rope positions, and the rotary table of the vision encoder."""

from collections.abc import Sequence

import numpy as np

from glimpse_runtime.arrays import FloatArray, IntArray
from glimpse_runtime.errors import PromptError
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.rope import grid_rope


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


def vision_rope(grid: Grid, head_dim: int, theta: float) -> tuple[FloatArray, FloatArray]:
    """Returns cos and sin, (patches, head_dim / 2), of every patch's row and column, in patch order."""
    row, column = np.divmod(np.arange(grid.patches), grid.columns)
    order = _patch_order(grid)
    return grid_rope(row[order], column[order], head_dim, theta)


def _patch_order(grid: Grid) -> IntArray:
    """(patches,) row-major patch index of each patch in the image processor's merge-unit order."""
    index = np.arange(grid.patches).reshape(grid.rows // grid.merge, grid.merge, grid.columns // grid.merge, grid.merge)
    return index.transpose(0, 2, 1, 3).reshape(-1)
