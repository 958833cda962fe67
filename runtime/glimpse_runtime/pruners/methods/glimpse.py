"""GlimpsePrune: a trained glimpse token and scorer; how many tokens stay depends on image and question.

Zeng et al., "A Glimpse to Compress: Dynamic Visual Token Pruning for Large Vision-Language Models", arXiv 2508.01548;
reference HVision-NKU/GlimpsePrune (Apache-2.0). The scorer is a graph of the bundle; its logits are what is chosen by.
"""

from glimpse_runtime.arrays import FloatArray
from glimpse_runtime.pruners.base import SPLIT, Pruner, PrunerInput


def choose(given: PrunerInput) -> FloatArray:
    """Returns the scorer's logits."""
    return given.glimpse_logits


PRUNER = Pruner(
    "glimpse",
    SPLIT,
    ("glimpse_logits",),
    "GlimpsePrune, arXiv 2508.01548, HVision-NKU/GlimpsePrune",
    choose,
    adaptive=True,
)
