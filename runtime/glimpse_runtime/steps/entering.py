"""A prompt as it enters layer 0: all of it, or without the visual tokens that a first stage dropped."""

from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import BoolArray, FloatArray, IntArray
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.prompt import Prompt
from glimpse_runtime.pruning.rule import keep_index


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

    @property
    def has_start(self) -> bool:
        """Whether it has visual tokens and text behind them: a start that other questions can share."""
        return len(self.visual_rows) > 0 and int(self.visual_rows[-1]) < len(self.ids) - 1

    def cells(self) -> list[IntArray]:
        """Returns for each image the places of its tokens that entered, row-major on the merged grid."""
        ends = np.cumsum([grid.visual_tokens for grid in self.grids], dtype=np.int64)
        return [np.flatnonzero(part) for part in np.split(self.entered, ends)[:-1]]

    def keep_rows(self, keep: BoolArray) -> IntArray:
        """Returns the rows that stay for a (visual tokens,) keep mask: all text and the kept visual tokens."""
        is_image = np.zeros(len(self.ids), np.bool_)
        is_image[self.visual_rows] = True
        return keep_index(keep[self.entered], is_image)
