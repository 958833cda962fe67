"""GELU in its usual approximation, for the small networks among the methods."""

import numpy as np

from glimpse_runtime.arrays import FloatArray


def gelu(x: FloatArray) -> FloatArray:
    """Returns 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    cube = x + np.float32(0.044715) * x**3
    y: FloatArray = np.float32(0.5) * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * cube))
    return y
