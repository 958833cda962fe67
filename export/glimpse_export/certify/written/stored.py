"""Reads written weights back through the graphs' own references, and compares them with what they must be."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from glimpse_export.certify.written.cuts import GraphFile
from glimpse_export.certify.written.matrix import StoredMatrix, StoredParts, bits_of, open_matrix, rows_of, runs
from glimpse_runtime.arrays import Array

# Runs of a tensor's rows lie apart where a checkpoint joins several matrices, or where one is multiplied in parts.
_PART = re.compile(r"(.+)\.(\d+)")


class StoredWeights:
    """The weights that a graph uses."""

    def __init__(self, graph: GraphFile) -> None:
        """Collects where they lie; a weight that no output depends on counts as missing."""
        self._graph = graph
        self._where: dict[str, tuple[Path, Any]] = {}
        for name in graph.used_initializers():
            tensor = graph.initializers[name]
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                self._where[name] = (graph.path.parent, tensor)

    @property
    def names(self) -> set[str]:
        """Names of all weights, as checkpoints have them."""
        found = map(_PART.fullmatch, self._where)
        return set(self._where) | {part[1] for part in found if part is not None}

    def bits(self, name: str) -> int:
        """Returns the bits of one stored number, 0 for a type that no weight has."""
        return min(bits_of(self._where[part][1]) for part in self._parts(name))

    def open(self, name: str, shape: tuple[int, ...]) -> StoredMatrix:
        """Opens a weight that should hold a tensor of some shape."""
        parts, columns = self._parts(name), math.prod(shape[1:])
        if len(parts) > 1:
            return self._open_parts(parts, shape[0], columns)
        if len(shape) == 1:
            return self._open(name, 1, shape[0], by_row=True)
        # The dimensions tell how it lies, unless they are equal.
        straight = shape[0] != columns or self._graph.multiplied_by_rows(name) or self._graph.is_added(name)
        return self._open(name, shape[0], columns, straight)

    def _open_parts(self, parts: list[str], rows: int, columns: int) -> StoredMatrix:
        """Opens runs of rows that lie apart; a vector's are rows of one number."""
        matrices, left = [], rows
        for part in parts:
            by_row = self._graph.multiplied_by_rows(part)
            count = left if part == parts[-1] else min(rows_of(self._where[part][1], by_row), left)
            matrices.append(self._open(part, count, columns, by_row))
            left -= count
        return StoredParts(matrices)

    def _open(self, name: str, rows: int, columns: int, by_row: bool) -> StoredMatrix:
        return open_matrix(self._where[name], self._where.get(f"{name}.scale"), rows, columns, by_row)

    def compare(self, name: str, original: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Reads a weight.

        Args:
            name: its name, the checkpoint's.
            original: the checkpoint's float32 tensor.

        Returns:
            The stored weight widened to float32 in the original's shape, and how many of its values are not what the
            original rounds to; all of them where the shape is another.
        """
        matrix = self.open(name, tuple(original.shape))
        flat = original.reshape(matrix.rows, -1)
        out, wrong = torch.empty_like(flat), 0
        for start, stop in runs(matrix):
            out[start:stop], bad = matrix.judge(start, flat[start:stop])
            wrong += bad
        return out.reshape(original.shape), wrong

    def _parts(self, name: str) -> list[str]:
        """The weights that make up a tensor of the checkpoint: itself, or the runs of rows it was cut into."""
        if name in self._where:
            return [name]
        found = [part for part in map(_PART.fullmatch, self._where) if part is not None and part[1] == name]
        return [part[0] for part in sorted(found, key=lambda part: int(part[2]))]


def table_errors(path: Path, dtype: str, start: int, original: torch.Tensor) -> int:
    """Returns how many values of some rows of the embedding table are not what the original rounds to."""
    kind = getattr(torch, dtype)
    rows, columns = original.shape
    raw = np.fromfile(path, np.int8, rows * columns * kind.itemsize, offset=start * columns * kind.itemsize)
    if raw.size != rows * columns * kind.itemsize:
        return rows * columns
    return int((torch.from_numpy(raw).view(kind).reshape(rows, columns) != original.to(kind)).sum())


def as_tensor(array: Array) -> torch.Tensor:
    """Returns an array as a float32 tensor on the same memory where possible."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
