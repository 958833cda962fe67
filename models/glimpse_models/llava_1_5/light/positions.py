"""Where tokens are: one after the other, on one axis."""

from collections.abc import Sequence

import numpy as np

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.errors import PromptError
from glimpse_runtime.inputs.grid import Grid


def text_positions(ids: IntArray, grids: Sequence[Grid], image_token: int) -> IntArray:
    """Returns the (1, tokens) positions of a prompt: 0, 1, 2 and so on, for visual tokens as for text.

    Args:
        ids: (tokens,) prompt with one image token per visual token.
        grids: the images in prompt order.
        image_token: id of the image token.

    Raises:
        PromptError: image tokens and images do not match.
    """
    rows = np.flatnonzero(ids == image_token)
    expected = sum(grid.visual_tokens for grid in grids)
    if len(rows) != expected:
        raise PromptError(f"the prompt has {len(rows)} image tokens, its images need {expected}")
    if len(grids) == 1 and int(rows[-1] - rows[0]) + 1 != expected:
        gap = int(rows[int(np.argmax(np.diff(rows) != 1))])
        raise PromptError(f"image tokens of one image are not in one run at prompt position {gap + 1}")
    return np.arange(len(ids), dtype=np.int64)[None]
