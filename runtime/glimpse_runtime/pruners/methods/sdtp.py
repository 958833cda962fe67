"""SDTP: saliency predicted from the hidden states by a small perceptron.

Tao et al., "Saliency-driven Dynamic Token Pruning for Large Language Models", arXiv 2504.04514: a perceptron of two
layers, trained with a ranking loss to follow gradient times input, scores the tokens' hidden states at several
layers. A graph that is cut once has one such place, the split; a method before layer 0 can be the stage before it.

Where the image stands before the question, as in the prompts here, the hidden states of its tokens know nothing of
the question: the same tokens stay whatever is asked.

Weights come from ``pruner.sdtp.npz`` in the bundle; ``WEIGHTS`` has their shapes.
"""

from glimpse_runtime.arrays import FloatArray
from glimpse_runtime.pruners.base import SPLIT, Pruner, PrunerInput
from glimpse_runtime.pruners.methods.activation import gelu

WEIGHTS = {"w1": ("hidden", "inner"), "b1": ("inner",), "w2": ("inner",), "b2": ()}


def choose(given: PrunerInput) -> FloatArray:
    """Returns the predicted saliency of each token."""
    inner = gelu(given.hidden @ given.weights("w1") + given.weights("b1"))
    out: FloatArray = inner @ given.weights("w2") + given.weights("b2")
    return out


PRUNER = Pruner("sdtp", SPLIT, ("hidden", "weights"), "SDTP, arXiv 2504.04514", choose, weights=WEIGHTS)
