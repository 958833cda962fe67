"""Several prompts packed side by side: one sequence for the reference, one each for the bundle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from glimpse_runtime.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Packed:
    """The rows of all prompts, one prompt behind the other.

    Attributes:
        owner: (rows,) the prompt each belongs to, ascending.
        positions: (axes, rows) rope positions.
    """

    owner: IntArray
    positions: IntArray

    @classmethod
    def join(cls, positions: Sequence[IntArray]) -> "Packed":
        """Puts prompts side by side."""
        owner = np.concatenate([np.full(part.shape[1], index) for index, part in enumerate(positions)])
        return cls(owner, np.concatenate(positions, axis=1))

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return int(self.owner[-1]) + 1

    def of(self, prompt: int) -> slice:
        """Where a prompt's rows lie."""
        where = np.flatnonzero(self.owner == prompt)
        return slice(int(where[0]), int(where[-1]) + 1)

    def split(self, values: FloatArray) -> list[FloatArray]:
        """Cuts (rows, ...) into one array per prompt."""
        return [values[self.of(prompt)] for prompt in range(self.prompts)]

    def keep(self, rows: BoolArray) -> "Packed":
        """Drops the other rows."""
        return Packed(self.owner[rows], self.positions[:, rows])

    def mask(self, past: IntArray | None = None) -> torch.Tensor:
        """(rows, past + rows) bool: each row sees its own prompt's rows up to itself.

        Args:
            past: owners of the rows that went before, if any.
        """
        before = np.zeros(0, np.int64) if past is None else past
        keys = np.concatenate([before, self.owner])
        order = np.arange(len(self.owner))
        later = np.concatenate([np.full(len(before), -1), order])[None] > order[:, None]
        return torch.from_numpy((keys[None] == self.owner[:, None]) & ~later)
