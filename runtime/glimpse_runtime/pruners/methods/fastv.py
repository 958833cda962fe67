"""FastV: the tokens that the last prompt token attends to most.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024, arXiv 2403.06764; reference
pkunlp-icler/FastV: attention after softmax, mean over heads, of the last token to the visual tokens.

The reference reads layer 1 and prunes at layer 2; here the layers are those whose attention the bundle gives, the
glimpse's, and tokens leave at the split. The glimpse rows are not run.
"""

from glimpse_runtime.arrays import FloatArray
from glimpse_runtime.pruners.base import SPLIT, Pruner, PrunerInput


def choose(given: PrunerInput) -> FloatArray:
    """Returns the mean share of attention over layers and heads."""
    mean: FloatArray = given.attention.mean(axis=0)
    return mean


PRUNER = Pruner("fastv", SPLIT, ("attention",), "FastV, ECCV 2024, arXiv 2403.06764, pkunlp-icler/FastV", choose)
