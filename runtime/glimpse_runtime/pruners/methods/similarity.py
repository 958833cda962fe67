"""Cosine similarity of rows."""

import numpy as np

from glimpse_runtime.arrays import FloatArray

_SMALLEST_NORM = 1e-12


def unit_rows(rows: FloatArray) -> FloatArray:
    """Returns (count, width) rows of length 1; a row of zeros stays zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float32))
    unit: FloatArray = rows / np.maximum(norms, _SMALLEST_NORM)[:, None]
    return unit
