"""VisionZip: the tokens that the vision encoder attends to most, and a few evenly spaced ones for the rest.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025, arXiv 2412.04467;
reference ``visionzip/clip_encoder.py`` in dvlab-research/VisionZip (Apache-2.0) and its port to Qwen2.5-VL. A vision
encoder with a class token gives what that looks at; another the attention of the last block that sees the whole image,
mean over heads, summed over queries and over the patches of a token.

Differences: the reference adds the mean of the dropped tokens to the evenly spaced ones; nothing is merged here, kept
tokens are what the model made. Shares of both kinds are those of its 64 tokens, 54 and 10.
"""

import numpy as np

from glimpse_runtime.arrays import BoolArray
from glimpse_runtime.pruners.base import BEFORE, Pruner, PrunerInput

CONTEXTUAL, OF = 10, 64


def choose(given: PrunerInput) -> BoolArray:
    """Keeps the dominant tokens, and every so many-th of the others."""
    received = given.vision_attention
    contextual = given.keep * CONTEXTUAL // OF
    kept = np.zeros(len(received), np.bool_)
    kept[np.argsort(-received, kind="stable")[: given.keep - contextual]] = True
    rest = np.flatnonzero(~kept)
    kept[rest[:: max(1, len(rest) // max(contextual, 1))][:contextual]] = True
    return kept


PRUNER = Pruner(
    "visionzip",
    BEFORE,
    ("vision_attention",),
    "VisionZip, CVPR 2025, arXiv 2412.04467, dvlab-research/VisionZip",
    choose,
)
