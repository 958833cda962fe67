"""Tokens by lot: the floor that a method must beat."""

import numpy as np

from glimpse_runtime.arrays import DoubleArray
from glimpse_runtime.pruners.base import BEFORE, Pruner, PrunerInput


def choose(given: PrunerInput) -> DoubleArray:
    """Draws a score for each token; the same seed, image number and grid size give the same scores."""
    return np.random.default_rng([given.seed, given.image]).random(len(given.cells))


PRUNER = Pruner("random", BEFORE, (), "control: seeded draw without replacement", choose)
