"""Matrices of linear layers, read in parts so that none is ever held whole in float32."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import Array, FloatArray

CHUNK_VALUES = 4 << 20


@dataclass(frozen=True)
class Matrix:
    """The weight of a linear layer as checkpoints store it: (rows = outputs, columns = inputs).

    Attributes:
        name: the tensor's name.
        rows: outputs of the layer.
        columns: inputs of the layer.
        read: gives rows start..stop as float32.
    """

    name: str
    rows: int
    columns: int
    read: Callable[[int, int], FloatArray]

    def part(self, name: str, start: int, stop: int) -> "Matrix":
        """Returns rows start..stop under a name of their own."""
        return Matrix(name, stop - start, self.columns, lambda first, last: self.read(start + first, start + last))

    def runs(self, multiple: int = 1) -> Iterator[tuple[int, int]]:
        """Yields starts and stops of runs of rows of moderate size; starts are multiples of ``multiple``."""
        step = max(CHUNK_VALUES // self.columns // multiple, 1) * multiple
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def each(self, work: Callable[[int, int, FloatArray], None], multiple: int = 1) -> None:
        """Calls ``work(start, stop, rows)`` for all rows, a few runs at a time in threads; see ``runs``."""

        def one(bounds: tuple[int, int]) -> None:
            work(*bounds, self.read(*bounds))

        with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
            for _ in pool.map(one, self.runs(multiple)):
                pass


def matrix_of(name: str, array: FloatArray) -> Matrix:
    """Returns an array in memory, (rows, ...) float32, as a matrix."""
    flat = array.reshape(len(array), -1)
    return Matrix(name, *flat.shape, lambda start, stop: flat[start:stop])


def transposed(matrix: Matrix, dtype: np.dtype[np.generic]) -> Array:
    """Returns the matrix as (columns, rows) of a dtype, so that x @ matrix needs no transposition."""
    out = np.empty((matrix.columns, matrix.rows), dtype)

    def work(start: int, stop: int, rows: FloatArray) -> None:
        out[:, start:stop] = rows.T

    matrix.each(work)
    return out
