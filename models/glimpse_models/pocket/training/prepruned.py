"""The glimpse's scorer learns with half of the visual tokens gone before layer 0, as a first stage leaves them.

Both are learnt from every batch, the whole image and half of it, so that the scorer keeps what it knows. The base model
is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from glimpse_models.pocket.model.batch import Batch
from glimpse_models.pocket.model.layout import Layout, row_positions, text_rotary
from glimpse_models.pocket.model.model import patchify
from glimpse_models.pocket.training.objectives import TRAINING_TYPE, GlimpseTask, Scores
from glimpse_runtime.pruners import PrunerInput, find

FIRST_STAGES = ("divprune", "dart", "cdpruner")
"""Taken in turn; without a look at the tokens (``uniform``, ``random``) half of what is written is gone."""
SHARE = 0.5
"""Of the visual tokens enter layer 0: a fixed share, so that there is one shape to compile per image size."""


def entering(method: str, visual: Tensor, questions: Sequence[Tensor], rows: int, columns: int) -> Tensor:
    """Return which tokens a first stage of the runtime lets into layer 0, (batch, entered) ascending cells.

    Args:
        method: Its name.
        visual: (batch, tokens, hidden).
        questions: For each image the embeddings of a question, (length, hidden).
        rows: Rows of the grid.
        columns: Its columns.
    """
    count = int(SHARE * rows * columns)
    cells = np.arange(rows * columns)
    positions = np.stack([np.zeros_like(cells), *divmod(cells, columns)])
    chosen = []
    for image, (embeds, words) in enumerate(zip(visual, questions, strict=True)):
        arrays = {"embeds": embeds.float().numpy(), "text": words.float().numpy()}
        chosen.append(find(method).choose(PrunerInput(image, rows, columns, cells, positions, count, 0, arrays)))
    return torch.from_numpy(np.stack(list(map(np.flatnonzero, chosen))))


def entered_rotary(layout: Layout, rotary: tuple[Tensor, Tensor], cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotary tables of rows without the tokens that did not enter, each (batch, 1, length, head).

    Args:
        layout: Of the whole rows.
        rotary: Their tables, each (length, head).
        cells: (batch, entered).
    """
    before, behind = torch.arange(layout.prefix), torch.arange(layout.start, len(rotary[0]))
    rows = torch.cat([before.expand(len(cells), -1), layout.prefix + cells, behind.expand(len(cells), -1)], 1)
    cos, sin = (table[rows][:, None] for table in rotary)
    return cos, sin


class PrePrunedTask(GlimpseTask):
    """Learn to mark the visual tokens that the answer needs, among all of them and among a half."""

    _steps = 0

    def loss(self, batch: Batch, shift: int, scores: Scores) -> Tensor:
        """Return the mean of the keep mask's losses for the whole image and for half of it."""
        trainee, layout = self.trainee, self.layout(batch)
        trainee.model.requires_grad_(False)
        forward, relevant, wanted = trainee.glimpse_forward, batch.relevant.flatten(2), batch.wanted.flatten(2)
        rotary = text_rotary(trainee.config, row_positions(layout, shift))
        with torch.no_grad():
            patches = patchify(batch.pixels, TRAINING_TYPE)
            visual, taps = trainee.pocket.encode(patches, layout, trainee.config.vision_taps)
        logits = forward.logits(layout, rotary, self.prefix, visual, taps, batch)
        whole = self.mask(logits, relevant.flatten(0, 1), wanted.flatten(0, 1), scores)
        cells = self._entering(batch, visual, layout)
        rotary, half = entered_rotary(layout, rotary, cells), layout.entering(cells.shape[1])
        visual, *taps = (x.gather(1, cells[..., None].expand(-1, -1, x.shape[-1])) for x in (visual, *taps))
        logits = forward.logits(half, rotary, self.prefix, visual, taps, batch, cells=cells)
        entered = cells[:, None].expand(-1, relevant.shape[1], -1)
        marks = [marked.gather(2, entered).flatten(0, 1) for marked in (relevant, wanted)]
        return (whole + self.mask(logits, marks[0], marks[1], scores, "half ")) / 2

    def _entering(self, batch: Batch, visual: Tensor, layout: Layout) -> Tensor:
        """Run the next first stage; one that reads the question reads one of each image's."""
        self._steps += 1
        asked = self._steps % batch.ids.shape[1]
        text = self.trainee.pocket.embed(batch.ids[:, asked], visual.dtype)
        questions = [words[: last + 1] for words, last in zip(text, batch.last[:, asked].tolist(), strict=True)]
        method = FIRST_STAGES[self._steps % len(FIRST_STAGES)]
        return entering(method, visual, questions, layout.rows, layout.columns)
