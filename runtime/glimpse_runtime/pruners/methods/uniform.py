"""Tokens at even steps: the floor that a method must beat when nothing is known."""

import numpy as np

from glimpse_runtime.arrays import BoolArray
from glimpse_runtime.pruners.base import BEFORE, Pruner, PrunerInput


def choose(given: PrunerInput) -> BoolArray:
    """Keeps the middle token of each of ``keep`` runs of equal length, in row-major order."""
    count = len(given.cells)
    mask = np.zeros(count, np.bool_)
    mask[(2 * np.arange(given.keep) + 1) * count // (2 * max(given.keep, 1))] = True
    return mask


PRUNER = Pruner("uniform", BEFORE, (), "control: even steps in row-major order", choose)
