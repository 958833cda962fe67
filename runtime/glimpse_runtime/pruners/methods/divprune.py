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
    kept = np.zeros(len(given.embeds), np.bool_)
    unit = unit_rows(given.embeds)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    chosen = int(likeness.max(axis=0).argmin())
    # A chosen token is never the one least like the chosen ones.
    np.fill_diagonal(likeness, np.inf)
    closest = np.full(len(unit), -np.inf, np.float32)
    for _ in range(given.keep):
        kept[chosen] = True
        np.maximum(closest, likeness[chosen], out=closest)
        chosen = int(closest.argmin())
    return kept


PRUNER = Pruner(
    "divprune",
    BEFORE,
    ("embeds",),
    "DivPrune, CVPR 2025, arXiv 2503.02175, vbdi/divprune",
    choose,
)
