"""Where visual tokens lie."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

MERGE = 2


@dataclass
class Places:
    """Where every visual token lies: number in the prompt, image, row, column and window, row-major within an image."""

    grids: list[tuple[int, int]]
    image: Tensor
    rows: Tensor
    columns: Tensor
    window: Tensor
    number: Tensor

    @classmethod
    def of(cls, grids: list[tuple[int, int]], vision: dict[str, Any]) -> "Places":
        side = vision["window_size"] // MERGE // vision["patch_size"]
        tokens = [(i, r, c) for i, (rows, columns) in enumerate(grids) for r in range(rows) for c in range(columns)]
        image, row, column = torch.tensor(tokens, dtype=torch.long).reshape(-1, 3).T
        # One number per window that grows image by image, then row by row of windows.
        window = (image * 10000 + row // side) * 10000 + column // side
        return cls(grids, image, row, column, window, torch.arange(len(tokens)))

    def only(self, present: np.ndarray) -> "Places":
        """The places of some of the tokens."""
        parts = (self.image, self.rows, self.columns, self.window, self.number)
        return Places(self.grids, *(part[torch.tensor(present)] for part in parts))

    @property
    def same_image(self) -> Tensor:
        return self.image[:, None] == self.image

    @property
    def same_window(self) -> Tensor:
        return self.window[:, None] == self.window

    @property
    def patch_rows(self) -> Tensor:
        return (self.rows[:, None] * MERGE + torch.tensor([0, 0, 1, 1])).flatten()

    @property
    def patch_columns(self) -> Tensor:
        return (self.columns[:, None] * MERGE + torch.tensor([0, 1, 0, 1])).flatten()

    def for_patches(self, mask: Tensor) -> Tensor:
        """A token mask for patches: the four of a token lie side by side."""
        return mask.repeat_interleave(MERGE**2, 0).repeat_interleave(MERGE**2, 1)

    def arrays(self) -> dict[str, Tensor]:
        sizes = torch.unique_consecutive(self.window.sort(stable=True).values, return_counts=True)[1]
        images = torch.tensor([rows * columns for rows, columns in self.grids])
        return {
            "image_grid_thw": torch.tensor([[1, MERGE * rows, MERGE * columns] for rows, columns in self.grids]),
            "window_index": self.window.argsort(stable=True),
            "cu_window_seqlens": F.pad(sizes.cumsum(0), (1, 0)) * MERGE**2,
            "cu_seqlens": F.pad(images.cumsum(0), (1, 0)) * MERGE**2,
        }
