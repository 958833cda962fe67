"""Random prompts to compact, what must come of them in plain Python, and the comparison."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from glimpse_runtime.backends.compact import Compacted

CACHE_DTYPES = [np.dtype(kind) for kind in (np.float32, np.float16, ml_dtypes.bfloat16, np.int8)]


@dataclass(frozen=True)
class Geometry:
    """Shapes that a graph fixes."""

    layers: int = 2
    hidden: int = 16
    kv_heads: int = 2
    capacity: int = 48
    width: int = 8
    cache: np.dtype = CACHE_DTYPES[0]

    @property
    def cache_shape(self) -> tuple[int, int, int, int]:
        return 1, self.kv_heads, self.capacity, self.width


@dataclass(frozen=True)
class Case:
    """One prompt and its keep mask."""

    geometry: Geometry
    keep: np.ndarray
    hidden: np.ndarray
    positions: np.ndarray
    buffers: Sequence[np.ndarray]

    def copy(self) -> "Case":
        buffers = [buffer.copy() for buffer in self.buffers]
        return Case(self.geometry, self.keep.copy(), self.hidden.copy(), self.positions.copy(), buffers)

    @property
    def rows(self) -> int:
        return len(self.keep)


def make_case(rng: np.random.Generator, geometry: Geometry, keep: np.ndarray) -> Case:
    """Fills a case with random bytes, so that NaNs and denormals are among them."""
    rows = len(keep)

    def filled(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return rng.integers(0, 256, (*shape[:-1], shape[-1] * dtype.itemsize), np.uint8).view(dtype)

    return Case(
        geometry,
        keep,
        filled((1, rows, geometry.hidden), np.dtype(np.float32)),
        filled((3, rows), np.dtype(np.int32)),
        [filled(geometry.cache_shape, geometry.cache) for _ in range(2 * geometry.layers)],
    )


def random_keep(rng: np.random.Generator, rows: int) -> np.ndarray:
    """A mask with a random share of kept rows; none and all come up often."""
    share = rng.choice([0.0, 1.0, rng.random()], p=[0.1, 0.1, 0.8])
    return rng.random(rows) < share


def random_cases(seed: int, number: int, geometry: Geometry) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for _ in range(number):
        rows = int(rng.integers(1, geometry.capacity + 1))
        yield make_case(rng, geometry, random_keep(rng, rows))


def bits(array: np.ndarray) -> np.ndarray:
    """The array as bytes: NaN equals NaN, and -0 is not 0."""
    return np.ascontiguousarray(array).view(np.uint8)


def assert_compacted(case: Case, result: Compacted) -> None:
    """Compares with lists built row by row; whatever lies behind the kept rows of a cache tensor is ignored."""
    kept = [row for row in range(case.rows) if case.keep[row]]
    assert result.count == len(kept)
    assert result.hidden.shape == (1, len(kept), case.geometry.hidden)
    assert result.positions.shape == (3, len(kept))
    assert np.array_equal(bits(result.hidden), bits(case.hidden.take(kept, axis=1)))
    assert np.array_equal(bits(result.positions), bits(case.positions.take(kept, axis=1)))
    assert len(result.buffers) == len(case.buffers)
    for got, buffer in zip(result.buffers, case.buffers, strict=True):
        assert got.shape == buffer.shape
        assert np.array_equal(bits(got[:, :, : len(kept)]), bits(buffer.take(kept, axis=2)))
