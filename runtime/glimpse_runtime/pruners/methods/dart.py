"""DART: tokens that are least like a few pivots, so that no two kept ones say the same.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More", EMNLP 2025,
arXiv 2502.11494; reference ``get_retained_image_token`` in ZichenWen1/DART (Apache-2.0).

Differences: vectors are the embeddings that enter layer 0, where the reference takes keys and states of layer 2
(NVIDIA TensorRT-Edge-LLM does the same); exactly ``keep`` tokens stay, pivots included, where the reference keeps the
image pivots on top of eight equal shares; pivots take their turn by falling norm, where it leaves the order open.
"""

import numpy as np

from glimpse_runtime.arrays import BoolArray, FloatArray, IntArray
from glimpse_runtime.pruners.base import BEFORE, Pruner, PrunerInput
from glimpse_runtime.pruners.methods.similarity import unit_rows

IMAGE_PIVOTS = 4
TEXT_PIVOTS = 4


def choose(given: PrunerInput) -> BoolArray:
    """Keeps the image pivots, and for each pivot in turn those of the rest that are least like it."""
    image = _largest(given.embeds, min(IMAGE_PIVOTS, given.keep))
    text = _largest(given.text, TEXT_PIVOTS)
    kept = np.zeros(len(given.embeds), np.bool_)
    kept[image] = True
    unit = unit_rows(given.embeds)
    pivots = np.concatenate([unit[image], unit_rows(given.text)[text]])
    share, more = divmod(given.keep - len(image), max(len(pivots), 1))
    for index, likeness in enumerate(pivots @ unit.T):
        order = np.argsort(np.where(kept, np.inf, likeness), kind="stable")
        kept[order[: share + (index < more)]] = True
    return kept


def _largest(rows: FloatArray, count: int) -> IntArray:
    """Numbers of the rows with the largest sum of magnitudes, largest first."""
    return np.argsort(-np.abs(rows).sum(axis=1), kind="stable")[:count]


PRUNER = Pruner(
    "dart",
    BEFORE,
    ("embeds", "text"),
    "DART, EMNLP 2025, arXiv 2502.11494, ZichenWen1/DART",
    choose,
)
