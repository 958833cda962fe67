"""Bootstrap intervals over scenes: questions about one image are not independent of each other."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LOW, HIGH = 2.5, 97.5


class Bootstrap:
    """Draws scenes with replacement, the same draws for everything that is asked of it."""

    def __init__(self, scenes: Sequence[int], seed: int, resamples: int = RESAMPLES) -> None:
        """Draws.

        Args:
            scenes: (questions,) the scene of each question.
            seed: of the draws.
            resamples: how many.
        """
        _, self._scene = np.unique(np.asarray(scenes), return_inverse=True)
        count = int(self._scene.max()) + 1
        drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
        self._times = np.stack([np.bincount(draw, minlength=count) for draw in drawn])

    def interval(self, values: npt.ArrayLike) -> tuple[float, float]:
        """Returns the 95 % percentile interval of the mean of (questions,) values.

        Of the difference of two ways, question by question, it is the paired interval.
        """
        sums = np.bincount(self._scene, np.asarray(values, np.float64))
        means = self._times @ sums / (self._times @ np.bincount(self._scene))
        low, high = np.percentile(means, [LOW, HIGH])
        return float(low), float(high)
