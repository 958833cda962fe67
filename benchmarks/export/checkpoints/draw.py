"""Random tensors by name: the same seed and name give the same numbers, whatever else is drawn before."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

PIECE_VALUES = 1 << 22


@dataclass(frozen=True)
class Recipe:
    """How the values of a tensor are drawn: ``mean + std * normal``, then edited.

    Attributes:
        std: standard deviation.
        mean: mean.
        edit: changes rows in place, given their values as a matrix and the index of the first one.
    """

    std: float
    mean: float = 0.0
    edit: Callable[[np.ndarray, int], None] | None = None


@dataclass(frozen=True)
class Piece:
    """Some rows of a tensor, small enough to be drawn at once."""

    name: str
    columns: int
    first: int
    rows: int


def stream_of(seed: int, *names: str | int) -> np.random.Generator:
    """Returns a generator of its own for every name."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def pieces(name: str, shape: tuple[int, ...]) -> Iterator[Piece]:
    """Cuts a tensor by rows; a vector is a matrix of one column."""
    columns = math.prod(shape[1:])
    step = max(PIECE_VALUES // columns, 1)
    for first in range(0, shape[0], step):
        yield Piece(name, columns, first, min(step, shape[0] - first))


def draw_piece(seed: int, piece: Piece, recipe: Recipe) -> np.ndarray:
    """Returns (rows, columns) float32."""
    rng = stream_of(seed, piece.name, piece.first)
    values = rng.standard_normal((piece.rows, piece.columns), dtype=np.float32)
    values *= np.float32(recipe.std)
    if recipe.mean:
        values += np.float32(recipe.mean)
    if recipe.edit is not None:
        recipe.edit(values, piece.first)
    return values


def draw(seed: int, name: str, shape: tuple[int, ...], recipe: Recipe) -> np.ndarray:
    """Returns a whole tensor, float32."""
    return np.concatenate([draw_piece(seed, piece, recipe) for piece in pieces(name, shape)]).reshape(shape)
