"""PoRe: attention grows towards the end of a sequence whatever is there; divide that trend out.

Zhao et al., "PoRe: Position-Reweighted Visual Token Pruning for Vision Language Models" (v2: "Attention Debiasing for
Token Pruning in Vision-Language Models"), arXiv 2508.17807; reference intcomp/attention-bias (Apache-2.0): scores are
multiplied by the inverse of a smooth, exponential trend over the token's number.

The reference measures the trend once per model on a data set; here it is fitted to the scores of the image at hand, so
it needs no calibration, but takes a part of what truly lies low in the image with it. Its second half, attention to
padding, is left out: most images have none, and where a model pads, a padded cell counts as any other.
"""

import numpy as np

from glimpse_runtime.arrays import FloatArray, IntArray

_SMALLEST_SHARE = 1e-12


def debias(scores: FloatArray, cells: IntArray) -> FloatArray:
    """Divides scores by their exponential trend over the row-major place.

    Args:
        scores: (tokens,) shares of attention of one image.
        cells: (tokens,) places on the merged grid.

    Returns:
        (tokens,) score / exp(slope * place), the slope being that of a line of least squares through log(score), and
        places counted from the first token's.
    """
    place = (cells - cells[:1]).astype(np.float64)
    centred = place - place.mean() if len(place) else place
    spread = float(centred @ centred)
    if not spread:
        return scores
    slope = float(centred @ np.log(np.maximum(scores, _SMALLEST_SHARE, dtype=np.float64))) / spread
    flat: FloatArray = (scores / np.exp(slope * place)).astype(np.float32)
    return flat
