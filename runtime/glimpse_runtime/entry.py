"""A prompt as it enters layer 0: all of it, or without the visual tokens that a first stage dropped."""

from dataclasses import dataclass

import numpy as np

from glimpse_runtime.preprocess import Grid
from glimpse_runtime.prompt import Prompt
from glimpse_runtime.rule import keep_index
from glimpse_runtime.types import BoolArray, FloatArray, IntArray

_AT_ONCE = 1024


@dataclass(frozen=True)
class Entry:
    """The rows of a prompt that enter layer 0. What is missing leaves no trace: positions stay those of the prompt.

    Attributes:
        prompt: the whole prompt.
        entered: (visual tokens,) bool: which of the prompt's visual tokens enter.
        ids: (rows,) ids of the rows that enter.
        positions: (3, rows) their positions.
        visual_rows: (entered,) numbers of the rows that are visual tokens.
        scores: (visual tokens,) what the method that chose them gave; None for a mask, or when none chose.
    """

    prompt: Prompt
    entered: BoolArray
    ids: IntArray
    positions: IntArray
    visual_rows: IntArray
    scores: FloatArray | None = None

    @classmethod
    def of(
        cls, prompt: Prompt, image_token: int, entered: BoolArray | None = None, scores: FloatArray | None = None
    ) -> "Entry":
        """Returns the entry of a prompt; without ``entered`` all of it enters."""
        is_image = prompt.ids == image_token
        if entered is None:
            everything = np.ones(int(is_image.sum()), np.bool_)
            return cls(prompt, everything, prompt.ids, prompt.positions, np.flatnonzero(is_image))
        rows = keep_index(entered, is_image)
        visual_rows = np.flatnonzero(is_image[rows])
        return cls(prompt, entered, prompt.ids[rows], prompt.positions[:, rows], visual_rows, scores)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The patch grids of the prompt's images."""
        return self.prompt.grids

    def parts(self) -> list[BoolArray]:
        """Returns ``entered`` cut by image."""
        ends = np.cumsum([grid.visual_tokens for grid in self.grids])[:-1]
        return np.split(self.entered, ends)

    def keep_rows(self, keep: BoolArray) -> IntArray:
        """Returns the rows that stay for a (visual tokens,) keep mask: all text and the kept visual tokens."""
        is_image = np.zeros(len(self.ids), np.bool_)
        is_image[self.visual_rows] = True
        return keep_index(keep[self.entered], is_image)

    def standing_in(self) -> IntArray:
        """Returns (visual tokens,) row numbers: a token's own, or that of the nearest one of its image that entered.

        Nearest is by distance on the grid, of equal ones the first. An image of which nothing entered gets row 0.
        """
        rows = np.zeros(len(self.entered), np.int64)
        start = taken = 0
        for grid, part in zip(self.grids, self.parts(), strict=True):
            end, cells = start + grid.visual_tokens, np.flatnonzero(part)
            if len(cells):
                own = self.visual_rows[taken : taken + len(cells)]
                rows[start:end] = own[_nearest(grid.merged[1], np.arange(grid.visual_tokens), cells)]
            start, taken = end, taken + len(cells)
        return rows


def _nearest(columns: int, cells: IntArray, others: IntArray) -> IntArray:
    """For each cell the number of the nearest one in ``others``; a run of cells at a time bounds the memory."""
    found = np.empty(len(cells), np.int64)
    row, column = np.divmod(others, columns)
    for start in range(0, len(cells), _AT_ONCE):
        own_row, own_column = np.divmod(cells[start : start + _AT_ONCE, None], columns)
        found[start : start + _AT_ONCE] = np.argmin((own_row - row) ** 2 + (own_column - column) ** 2, axis=1)
    return found
