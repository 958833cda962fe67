"""The glimpse token's attention without its scorer: what the trained query alone is worth."""

from glimpse_runtime.arrays import FloatArray
from glimpse_runtime.pruners.base import SPLIT, Pruner, PrunerInput


def choose(given: PrunerInput) -> FloatArray:
    """Returns the mean share of the glimpse row's attention over layers and heads."""
    mean: FloatArray = given.glimpse_attention.mean(axis=0)
    return mean


PRUNER = Pruner(
    "glimpse-attention",
    SPLIT,
    ("glimpse_attention",),
    "control: GlimpsePrune's attention map, arXiv 2508.01548",
    choose,
)
