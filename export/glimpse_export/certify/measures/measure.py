"""How far two arrays are apart."""

import math

import numpy as np

from glimpse_runtime.arrays import Array

_FLOAT32_STEP = float(np.finfo(np.float32).eps)
# A residual stream passes through this many roundings on its way through one layer, on either side.
_ROUNDINGS = 4


def relative_l2(found: Array, expected: Array) -> float:
    """Returns the length of the difference in units of the length of ``expected``."""
    return _ratio(_length(_wide(found) - _wide(expected)), _length(_wide(expected)))


def max_abs(found: Array, expected: Array) -> float:
    """Returns the largest difference of two elements."""
    return float(np.abs(_wide(found) - _wide(expected)).max(initial=0))


def cosine(found: Array, expected: Array) -> float:
    """Returns the cosine of the angle between two arrays."""
    lengths = _length(_wide(found)) * _length(_wide(expected))
    return float(np.vdot(_wide(found), _wide(expected)) / lengths) if lengths else 1.0


def contribution_error(found: Array, expected: Array, before: Array) -> float:
    """Returns the relative L2 error of what a layer adds to the residual stream.

    What float32 cannot hold beside large values of the stream itself does not count.

    Args:
        found: the stream after the layer.
        expected: what it should be.
        before: the stream before the layer.
    """
    added = _length(_wide(expected) - _wide(before))
    unavoidable = _ROUNDINGS * _FLOAT32_STEP * _length(_wide(before))
    return _ratio(max(_length(_wide(found) - _wide(expected)) - unavoidable, 0.0), added)


def rms(values: Array) -> float:
    """Returns the root of the mean square."""
    return math.sqrt(float(np.mean(_wide(values) ** 2))) if values.size else 0.0


def _ratio(part: float, whole: float) -> float:
    if whole == 0:
        return 0.0 if part == 0 else 1.0
    return part / whole


def _length(values: Array) -> float:
    return float(np.sqrt(np.vdot(values, values)))


def _wide(values: Array) -> Array:
    return np.asarray(values, np.float64)
