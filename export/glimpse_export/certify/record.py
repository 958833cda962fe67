"""What a certificate says, and how checks become one."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from glimpse_runtime.types import Array

CERTIFICATE_NAME = "certificate.json"
CERTIFICATE_VERSION = 1
NON_FINITE = "non_finite"
_DIGITS = 4


@dataclass(frozen=True)
class Check:
    """One measured figure.

    Attributes:
        stage: the stage of the pipeline it belongs to.
        layer: the layer or block within it, None for the stage as a whole.
        measure: what was measured.
        value: the figure.
        bound: what it was held against; None is for information only.
        passed: whether it kept the bound.
    """

    stage: str
    layer: int | None
    measure: str
    value: float
    bound: float | None
    passed: bool


@dataclass(frozen=True)
class Certificate:
    """What was checked against the original, with figures; see docs/certificate.md."""

    level: str
    command: str
    versions: Mapping[str, str]
    precision: Mapping[str, str]
    files: Mapping[str, str]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check with a bound kept it."""
        return all(check.passed for check in self.checks)

    @property
    def first_failure(self) -> Check | None:
        """The check to look at first; None when all passed."""
        return next((check for check in self.checks if not check.passed), None)

    def to_json(self) -> str:
        """Returns readable JSON with a final newline, the same for the same export."""
        data = {
            "certificate_version": CERTIFICATE_VERSION,
            "level": self.level,
            "passed": self.passed,
            "command": self.command,
            "versions": dict(self.versions),
            "precision": dict(self.precision),
            "files": dict(sorted(self.files.items())),
            "checks": [dataclasses.asdict(check) for check in self.checks],
        }
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


class Stop(Exception):  # noqa: N818  (no error of the user's: it ends a walk early)
    """A failure after which nothing further can be measured."""


@dataclass
class Recorder:
    """Collects checks in the order they are made."""

    checks: list[Check] = field(default_factory=list)

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
        if not math.isfinite(value):
            self.checks.append(Check(stage, layer, NON_FINITE, 1.0, 0.0, False))
            raise Stop
        rounded = float(f"{value:.{_DIGITS - 1}e}")
        self.checks.append(Check(stage, layer, measure, rounded, bound, good))
