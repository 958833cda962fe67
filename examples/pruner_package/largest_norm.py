"""A pruning method in a package of its own: keep the visual tokens whose embeddings are longest.

pip install ./examples/pruner_package
glimpse-run photo.jpg "What colour is the circle?" --pruner largest-norm --max-keep-ratio 0.25
"""

import numpy as np

from glimpse_runtime.pruners import BEFORE, Pruner, PrunerInput


def choose(given: PrunerInput) -> np.ndarray:
    """Returns the (tokens,) score of each visual token of an image; the highest are kept."""
    return np.linalg.norm(given.embeds, axis=1)


PRUNER = Pruner("largest-norm", BEFORE, needs=("embeds",), source="example", choose=choose)
