"""A learned pre-pruner in the manner of CoViPAL: a small classifier reads visual tokens and question before layer 0.

Tang et al., "CoViPAL: Layer-wise Contextualized Visual Token Pruning for Large Vision-Language Models", EMNLP 2025
Findings, arXiv 2508.17243: S = p(H_v, H_t), and the best tokens by S stay. The paper leaves the classifier open; here
each visual token v looks once at the question's embeddings T, and a perceptron of two layers reads both:

    c = softmax((v q) (T k)^T / sqrt(size)) (T v)      S = gelu([v, c] w1 + b1) w2 + b2

Weights come from ``pruner.covipal.npz`` in the bundle; ``WEIGHTS`` has their shapes.
"""

import numpy as np

from glimpse_runtime.arrays import FloatArray
from glimpse_runtime.pruners.base import BEFORE, Pruner, PrunerInput
from glimpse_runtime.pruners.methods.activation import gelu

WEIGHTS = {
    "q": ("hidden", "size"),
    "k": ("hidden", "size"),
    "v": ("hidden", "size"),
    "w1": ("hidden+size", "inner"),
    "b1": ("inner",),
    "w2": ("inner",),
    "b2": (),
}


def choose(given: PrunerInput) -> FloatArray:
    """Returns the classifier's score of each token."""
    visual, text = given.embeds, given.text
    query, key = visual @ given.weights("q"), text @ given.weights("k")
    scores = query @ key.T / np.float32(np.sqrt(key.shape[1]))
    shares = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    context = shares @ (text @ given.weights("v"))
    inner = gelu(np.concatenate([visual, context], axis=1) @ given.weights("w1") + given.weights("b1"))
    out: FloatArray = inner @ given.weights("w2") + given.weights("b2")
    return out


PRUNER = Pruner(
    "covipal",
    BEFORE,
    ("embeds", "text", "weights"),
    "CoViPAL, EMNLP 2025 Findings, arXiv 2508.17243",
    choose,
    weights=WEIGHTS,
)
