"""DivPrune: the subset whose two nearest tokens lie as far apart as possible, chosen greedily.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025, arXiv 2503.02175;
reference ``DivPrune`` in vbdi/divprune (CC BY-NC 4.0, read for the formula alone; this is written from it anew).

It holds a float32 of each pair of tokens: 4 MiB for 1,024 of them, 64 MiB for 4,096.
"""

import numpy as np

from glimpse_runtime.arrays import BoolArray
from glimpse_runtime.pruners.base import BEFORE, Pruner, PrunerInput
from glimpse_runtime.pruners.methods.similarity import unit_rows


def choose(given: PrunerInput) -> BoolArray:
    """Begins with the token whose nearest other one is farthest, then adds the one farthest from all chosen ones."""
    count = len(given.embeds)
    kept = np.zeros(count, np.bool_)
    unit = unit_rows(given.embeds)
    distances = 1 - unit @ unit.T
    # The second smallest of a column: the smallest is the token's distance to itself.
    nearest = np.partition(distances, 1, axis=0)[1] if count > 1 else distances[0]
    for step in range(given.keep):
        chosen = int(np.argmax(np.where(kept, -np.inf, nearest)))
        nearest = np.minimum(nearest, distances[chosen]) if step else distances[chosen]
        kept[chosen] = True
    return kept


PRUNER = Pruner(
    "divprune",
    BEFORE,
    ("embeds",),
    "DivPrune, CVPR 2025, arXiv 2503.02175, vbdi/divprune",
    choose,
)
