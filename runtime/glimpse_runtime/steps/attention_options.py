"""The options that work on any method that ranks attention, for all images of a prompt."""

import numpy as np

from glimpse_runtime.arrays import BoolArray, FloatArray
from glimpse_runtime.pruners.methods.neighbour_suppression import centred, pick
from glimpse_runtime.pruners.methods.position_debias import debias
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.steps.entering import Entry


def weigh(scores: FloatArray, entry: Entry, pruning: Pruning) -> FloatArray:
    """Returns (entered,) scores as the options change them, image by image."""
    weighed, taken = [], 0
    for grid, cells in zip(entry.grids, entry.cells(), strict=True):
        own = scores[taken : taken + len(cells)]
        taken += len(cells)
        if pruning.position_debias:
            own = debias(own, cells)
        if pruning.neighbour_suppression:
            own = centred(own, cells, *grid.merged)
        weighed.append(own)
    return np.concatenate(weighed)


def pick_apart(scores: FloatArray, entry: Entry, embeds: FloatArray, count: int) -> BoolArray:
    """Keeps ``count`` of (entered,) scores, a chosen token suppressing its neighbours; embeds are (entered, hidden)."""
    places = [
        np.stack([np.full(len(cells), number), *np.divmod(cells, grid.merged[1])])
        for number, (grid, cells) in enumerate(zip(entry.grids, entry.cells(), strict=True))
    ]
    keep = np.zeros(len(scores), np.bool_)
    keep[pick(scores, embeds, np.concatenate(places, axis=1), count)] = True
    return keep
