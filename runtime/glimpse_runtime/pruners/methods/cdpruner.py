"""CDPruner: tokens that are diverse and relevant to the question, by a determinantal point process.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs", NeurIPS
2025, arXiv 2506.10967; reference ``encode_images`` in Theia-4869/CDPruner (Apache-2.0).

Relevance to the question: the reference takes CLIP's text encoder, whose similarities it negates. No bundle has
such an encoder; as in OpenVINO GenAI, relevance is the plain cosine between visual tokens and the question's token
embeddings, and it enters the kernel as exp(alpha * relevance), the reference's own variant, with theta 0.5.

It holds a float32 of each pair of tokens, and one for each token and kept token. When what is left lies in the span of
what is kept, so that no token gains anything, the most relevant ones follow; the reference divides by nothing there.
"""

import numpy as np

from glimpse_runtime.arrays import BoolArray, FloatArray
from glimpse_runtime.pruners.base import BEFORE, Pruner, PrunerInput
from glimpse_runtime.pruners.methods.similarity import unit_rows

THETA = 0.5
"""Weight of relevance against diversity, in 0..1."""
_SMALLEST_GAIN = 1e-5


def choose(given: PrunerInput) -> BoolArray:
    """Keeps the subset of about the largest determinant of the kernel: greedy maximum a posteriori inference."""
    unit = unit_rows(given.embeds)
    relevance = np.exp(THETA / (2 * (1 - THETA)) * _relevance(unit, given.text))
    kernel = relevance[:, None] * (unit @ unit.T) * relevance
    gains = np.diagonal(kernel).copy()
    kept = np.zeros(len(unit), np.bool_)
    rows = np.zeros((given.keep, len(unit)), np.float32)
    for step in range(given.keep):
        chosen = int(np.argmax(gains))
        if gains[chosen] < _SMALLEST_GAIN:
            kept[np.argsort(np.where(kept, np.inf, -relevance), kind="stable")[: given.keep - step]] = True
            break
        rows[step] = (kernel[chosen] - rows[:step, chosen] @ rows[:step]) / np.sqrt(gains[chosen])
        gains -= rows[step] ** 2
        kept[chosen] = True
        gains[chosen] = -np.inf
    return kept


def _relevance(unit: FloatArray, text: FloatArray) -> FloatArray:
    """(tokens,) mean cosine to the question's tokens, stretched to 0..1; 0 where all are alike."""
    mean = unit @ unit_rows(text).mean(axis=0) if len(text) else np.zeros(len(unit), np.float32)
    span = mean.max() - mean.min()
    stretched: FloatArray = (mean - mean.min()) / span if span > 0 else np.zeros_like(mean)
    return stretched


PRUNER = Pruner(
    "cdpruner",
    BEFORE,
    ("embeds", "text"),
    "CDPruner, NeurIPS 2025, arXiv 2506.10967, Theia-4869/CDPruner",
    choose,
)
