"""The start of a prompt behind the lower layers, which the questions about a scene share."""

from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.backends import Tensor
from glimpse_runtime.steps.entering import Entry


@dataclass(frozen=True)
class Prefix:
    """The start of a prompt after the lower layers: all that does not depend on the question.

    Attributes:
        ids: (tokens,) what entered layer 0, up to the last visual token.
        positions: (3, tokens) their positions, which tell which visual tokens they are.
        hidden: (1, tokens, hidden) float32 after layer K, of the backend.
        cache: the rows of the lower layers' KV cache.
    """

    ids: IntArray
    positions: IntArray
    hidden: Tensor
    cache: list[Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        own = self.ids.nbytes + self.positions.nbytes + self.hidden.nbytes
        return own + sum(rows.nbytes for rows in self.cache)

    def starts(self, entry: Entry) -> bool:
        """Whether an entry starts with these tokens at these places."""
        count = len(self.ids)
        same = np.array_equal(self.ids, entry.ids[:count])
        return same and np.array_equal(self.positions, entry.positions[:, :count])
