"""Rotary tables: of the decoder for positions on one axis or several, and of places on a grid."""

from collections.abc import Sequence

import numpy as np

from glimpse_runtime.arrays import FloatArray, IntArray
from glimpse_runtime.inputs.grid import Grid


class TextRope:
    """cos and sin rows of the decoder for given positions."""

    def __init__(self, head_dim: int, theta: float, sections: Sequence[int]) -> None:
        """Prepares the frequencies: ``sections`` says how many of them follow each axis."""
        self._inverse = _inverse_frequencies(head_dim, theta)
        self._axis = np.repeat(np.arange(len(sections)), sections)

    def __call__(self, positions: IntArray) -> tuple[FloatArray, FloatArray]:
        """Returns cos and sin, each (tokens, head_dim / 2) float32, for (axes, tokens) positions."""
        return _cos_sin(positions[self._axis].T.astype(np.float32) * self._inverse)


def token_rope(grid: Grid, head_dim: int, theta: float) -> tuple[FloatArray, FloatArray]:
    """Returns cos and sin, (visual tokens, head_dim / 2), on the merged grid in row-major order."""
    row, column = np.divmod(np.arange(grid.visual_tokens), grid.merged[1])
    return grid_rope(row, column, head_dim, theta)


def grid_rope(row: IntArray, column: IntArray, head_dim: int, theta: float) -> tuple[FloatArray, FloatArray]:
    """Returns cos and sin, (items, head_dim / 2), of places: half of them follow the row, half the column."""
    inverse = _inverse_frequencies(head_dim // 2, theta)
    angles = [axis[:, None].astype(np.float32) * inverse for axis in (row, column)]
    return _cos_sin(np.concatenate(angles, axis=1))


def _inverse_frequencies(dim: int, theta: float) -> FloatArray:
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (1.0 / np.float32(theta) ** exponent).astype(np.float32)


def _cos_sin(angles: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.cos(angles), np.sin(angles)
