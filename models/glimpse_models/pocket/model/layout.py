"""Index and rotary tables of one image size, for prompts that ask several questions about one image at once.

A row of a batch is ``prefix | image tokens | question 1 | question 2 | ...``. Every question sees the prefix, the image
and itself, at the positions it would have alone, so the row equals as many separate prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from glimpse_models.pocket.model.config import WINDOW, PocketConfig

VISION_THETA = 10000.0


@dataclass(frozen=True)
class Layout:
    """What depends only on the image size and on the number and length of the questions.

    Attributes:
        rows: Rows of visual tokens.
        columns: Columns of visual tokens.
        prefix: Length of the prompt before the image.
        questions: Questions per image.
        segment: Length of one question with its answer, padded.
        to_raster: Window order to row-major order, (tokens,).
        vision_cos: Rotary table of the patches in window order, (patches, head).
        vision_sin: The same, sines.
        mask: What each position of a row may attend to, (length, length).
        entered: Visual tokens that enter layer 0, None where all do.
    """

    rows: int
    columns: int
    prefix: int
    questions: int
    segment: int
    to_raster: Tensor
    vision_cos: Tensor
    vision_sin: Tensor
    mask: Tensor
    entered: int | None = None

    @property
    def tokens(self) -> int:
        """Visual tokens in a row."""
        return self.rows * self.columns if self.entered is None else self.entered

    @property
    def start(self) -> int:
        """Index of the first question's first token in the row."""
        return self.prefix + self.tokens

    def entering(self, count: int) -> Layout:
        """Return the layout of rows into which only so many of the visual tokens enter, whichever they are."""
        rows = torch.cat([torch.arange(self.prefix + count), torch.arange(self.start, len(self.mask))])
        return replace(self, mask=self.mask[rows[:, None], rows], entered=count)


@lru_cache(maxsize=32)
def make_layout(config: PocketConfig, rows: int, columns: int, prefix: int, questions: int, segment: int) -> Layout:
    """Build the tables of one image size; those of the last sizes are kept.

    Raises:
        ValueError: The grid is not made of whole attention windows.
    """
    if rows % WINDOW or columns % WINDOW:
        raise ValueError(f"a grid of {rows}x{columns} visual tokens is not made of whole {WINDOW}x{WINDOW} windows")
    window_order = _windowed(torch.arange(rows * columns).reshape(rows, columns))
    token_row, token_column = _grid(rows, columns)
    patch_row = (token_row[window_order, None] * 2 + torch.tensor([0, 0, 1, 1])).reshape(-1)
    patch_column = (token_column[window_order, None] * 2 + torch.tensor([0, 1, 0, 1])).reshape(-1)
    vision_cos, vision_sin = grid_rotary(patch_row, patch_column, config.vision_head_dim)
    image_end = prefix + rows * columns
    index = torch.arange(image_end + questions * segment)
    owner = torch.where(index < image_end, -1, (index - image_end) // segment)
    visible = (owner[None] == -1) | (owner[None] == owner[:, None])
    return Layout(
        rows=rows,
        columns=columns,
        prefix=prefix,
        questions=questions,
        segment=segment,
        to_raster=torch.argsort(window_order),
        vision_cos=vision_cos,
        vision_sin=vision_sin,
        mask=visible & (index[:, None] >= index[None]),
    )


def _windowed(grid: Tensor) -> Tensor:
    rows, columns = grid.shape
    return grid.reshape(rows // WINDOW, WINDOW, columns // WINDOW, WINDOW).permute(0, 2, 1, 3).reshape(-1)


def _grid(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return row.reshape(-1), column.reshape(-1)


def grid_rotary(row: Tensor, column: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of a two-dimensional rotary embedding, each (positions, head_dim)."""
    frequency = 1.0 / VISION_THETA ** (torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2))
    angle = torch.cat([row[:, None] * frequency, column[:, None] * frequency], -1)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def scorer_rotary(config: PocketConfig, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return the scorer's rotary tables on the grid of visual tokens, each (tokens, head)."""
    return grid_rotary(*_grid(rows, columns), config.scorer_head_dim)


def row_positions(layout: Layout, shift: int = 0) -> Tensor:
    """Return the multimodal positions of a row, (3, length): time, height, width.

    Args:
        layout: The row's layout.
        shift: Moves the questions away from the image; training varies it so that no distance is learnt by heart.
    """
    row, column = _grid(layout.rows, layout.columns)
    prefix = torch.arange(layout.prefix).expand(3, -1)
    image = torch.stack([torch.full_like(row, layout.prefix), layout.prefix + row, layout.prefix + column])
    first = layout.prefix + max(layout.rows, layout.columns) + shift
    questions = (first + torch.arange(layout.segment)).repeat(layout.questions).expand(3, -1)
    return torch.cat([prefix, image, questions], 1)


def text_rotary(config: PocketConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the multimodal rotary embedding for positions (3, n), each (n, head)."""
    frequency = 1.0 / config.rope_theta ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim)
    angle = positions[..., None].float() * frequency
    sections = torch.split(angle, list(config.mrope_section), -1)
    merged = torch.cat([section[axis] for axis, section in enumerate(sections)], -1)
    merged = torch.cat([merged, merged], -1)
    return merged.cos(), merged.sin()
