"""Collects the checks of a certificate."""

import math
from dataclasses import dataclass, field

import numpy as np

from glimpse_runtime.arrays import Array
from glimpse_runtime.bundle.certificate import Check
from glimpse_runtime.bundle.dialects import ORT, graph_name

NON_FINITE = "non_finite"
DIFFERENT_TOKENS, DIFFERENT_WORDS, DIFFERENT_TEXTS = "different_tokens", "different_added_words", "different_questions"
_OF_NO_DIALECT = ("preprocess", "checkpoint", "embedding")
_DIGITS = 4


class Stop(Exception):  # noqa: N818  (no error of the user's: it ends a walk early)
    """A failure after which nothing further can be measured."""


@dataclass
class Recorder:
    """Collects checks in the order they are made.

    Attributes:
        checks: what was collected.
        dialect: whose graphs are checked; the stages of other dialects than ``ort`` are called as their graphs are.
    """

    checks: list[Check] = field(default_factory=list)
    dialect: str = ORT

    def of(self, dialect: str) -> "Recorder":
        """Returns a recorder for another dialect, into the same list."""
        return Recorder(self.checks, dialect)

    def at_most(self, stage: str, layer: int | None, measure: str, value: float, bound: float | None) -> None:
        """Records a figure that must not exceed ``bound``; None records it for information.

        Raises:
            Stop: it is not a number.
        """
        self._add(stage, layer, measure, value, bound, bound is None or value <= bound)

    def at_least(self, stage: str, layer: int | None, measure: str, value: float, bound: float | None) -> None:
        """Records a figure that must reach ``bound``; None records it for information.

        Raises:
            Stop: it is not a number.
        """
        self._add(stage, layer, measure, value, bound, bound is None or value >= bound)

    def finite(self, stage: str, layer: int | None, *arrays: Array) -> None:
        """Notes infinities and NaN, for instance after an overflow.

        Raises:
            Stop: there are some, so that what follows says nothing.
        """
        strange = sum(int(array.size - np.isfinite(array).sum()) for array in arrays)
        if strange:
            self._add(stage, layer, NON_FINITE, strange, 0.0, False)
            raise Stop

    def _add(self, stage: str, layer: int | None, measure: str, value: float, bound: float | None, good: bool) -> None:
        if stage not in _OF_NO_DIALECT:
            stage = graph_name(stage, self.dialect)
        if not math.isfinite(value):
            self.checks.append(Check(stage, layer, NON_FINITE, 1.0, 0.0, False))
            raise Stop
        rounded = float(f"{value:.{_DIGITS - 1}e}")
        self.checks.append(Check(stage, layer, measure, rounded, bound, good))
