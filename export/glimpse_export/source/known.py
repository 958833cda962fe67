"""Weights of a model whose files are not here: names, shapes and types as they are known, and no numbers."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from glimpse_export.model.architecture import Architecture
from glimpse_export.source.adapter import Adapter, expected_tensors
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_runtime.arrays import FloatArray


class KnownCheckpoint(Checkpoint):
    """A base of given shapes, for plans; what is read of it is zero."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
        """Takes names and shapes, and the dtype of all of them."""
        self.folder, self.tower = Path(), None
        self.shapes = dict(shapes)
        self.dtypes = dict.fromkeys(shapes, dtype)
        self.file_names, self.tower_file_names = [], []

    @property
    def source_bytes(self) -> int:
        """Size of the weights."""
        return sum(math.prod(shape) * np.dtype(self.dtypes[name]).itemsize for name, shape in self.shapes.items())

    def read(self, name: str, start: int = 0, stop: int | None = None) -> FloatArray:
        """Returns zeros."""
        rows, *rest = self.shapes[name]
        return np.zeros((len(range(*slice(start, stop).indices(rows))), *rest), np.float32)


class KnownAdapter(Adapter):
    """A GlimpsePrune adapter of the shapes that a configuration asks for, all zero."""

    def __init__(self, architecture: Architecture) -> None:
        """Takes the model."""
        self.path = Path()
        self.tensors = {name: np.zeros(shape, np.float32) for name, shape in expected_tensors(architecture).items()}
