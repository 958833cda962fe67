"""AdaptPrune: a token chosen by attention makes its neighbours that look like it less wanted.

Luan et al., "Multi-Cue Adaptive Visual Token Pruning for Large Vision-Language Models", arXiv 2503.08019; reference
``adapt_nms_2d`` in bzluan/AdaptPrune (Apache-2.0), whose constants these are: scores are weighted by a Gaussian around
the image's centre, then soft non-maximum suppression takes the best token again and again.

Likeness is the cosine of the embeddings that enter layer 0; the reference takes the keys of layer 2. Its Gaussian has
the deviation of half a 24 x 24 grid; here half of each side of any grid.
"""

import numpy as np

from glimpse_runtime.arrays import FloatArray, IntArray
from glimpse_runtime.pruners.methods.similarity import unit_rows

REACH = 5.0
"""Cells around a chosen token in which scores fall."""
DISTANCE_DEVIATION = 1.5
LIKENESS_DEVIATION = 0.05


def centred(scores: FloatArray, cells: IntArray, rows: int, columns: int) -> FloatArray:
    """Weights (tokens,) scores of one image by a Gaussian around its centre whose deviation is half of each side."""
    row, column = np.divmod(cells, columns)
    down, across = _from_centre(row, rows), _from_centre(column, columns)
    weighted: FloatArray = (scores * np.exp(-(down**2 + across**2) / 2)).astype(np.float32)
    return weighted


def pick(scores: FloatArray, embeds: FloatArray, places: IntArray, keep: int) -> IntArray:
    """Chooses tokens by soft non-maximum suppression.

    Args:
        scores: (tokens,) not negative.
        embeds: (tokens, hidden) float32.
        places: (3, tokens) image, row and column.
        keep: how many to choose.

    Returns:
        (keep,) token numbers, first choice first.
    """
    left = scores.astype(np.float64)
    unit = unit_rows(embeds)
    image, row, column = places
    chosen = np.empty(keep, np.int64)
    for step in range(keep):
        best = chosen[step] = int(np.argmax(left))
        squares = (row - row[best]) ** 2 + (column - column[best]) ** 2
        near = np.flatnonzero((image == image[best]) & (squares <= REACH**2))
        unlike = 1 - unit[near] @ unit[best]
        nearness = np.exp(-squares[near] / (2 * DISTANCE_DEVIATION**2))
        left[near] *= 1 - nearness * np.exp(-(unlike**2) / (2 * LIKENESS_DEVIATION**2))
        left[best] = -np.inf
    return chosen


def _from_centre(place: IntArray, count: int) -> FloatArray:
    """-1 at the first of ``count`` places, 1 at the last."""
    half = (count - 1) / 2
    scaled: FloatArray = (place - half) / half if half else np.zeros(len(place), np.float32)
    return scaled
