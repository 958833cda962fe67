"""Weight files: raw tensors, aligned for memory mapping, that several graphs can point into."""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from glimpse_runtime.types import Array

_PAGE_BYTES = 4096
_LINE_BYTES = 64

Dtype = str | np.dtype[np.generic] | ir.DataType
Parts = Callable[[], Iterable[Array]]


@dataclass(frozen=True)
class StoredTensor:
    """Where the bytes of one tensor lie."""

    file: str
    offset: int
    nbytes: int
    dtype: ir.DataType
    shape: tuple[int, ...]


class WeightFile:
    """An append-only file of tensors; a tensor that was stored under a name is not stored again."""

    def __init__(self, path: Path) -> None:
        """Creates the file."""
        self.path = path
        self._file = path.open("wb")
        self._stored: dict[str, StoredTensor] = {}

    def store(self, name: str, dtype: Dtype, shape: tuple[int, ...], parts: Parts) -> StoredTensor:
        """Returns where a tensor lies, and writes it if it is not in the file yet.

        Args:
            name: its name.
            dtype: its type in the graph.
            shape: its shape.
            parts: gives its bytes as arrays that follow each other; called only when it is written.
        """
        if name not in self._stored:
            kind = data_type(dtype)
            nbytes = tensor_bytes(kind, shape)
            align = _PAGE_BYTES if nbytes >= _PAGE_BYTES else _LINE_BYTES
            self._file.write(b"\0" * (-self._file.tell() % align))
            offset = self._file.tell()
            for part in parts():
                np.ascontiguousarray(part).tofile(self._file)
            written = self._file.tell() - offset
            assert written == nbytes, f"{name}: wrote {written} bytes instead of {nbytes}"
            self._stored[name] = StoredTensor(self.path.name, offset, nbytes, kind, shape)
        return self._stored[name]

    def close(self) -> None:
        """Writes everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def data_type(dtype: Dtype) -> ir.DataType:
    """Returns the ONNX type of a numpy dtype or its name."""
    return dtype if isinstance(dtype, ir.DataType) else ir.DataType.from_numpy(np.dtype(dtype))


def tensor_bytes(dtype: ir.DataType, shape: tuple[int, ...]) -> int:
    """Returns the bytes of a stored tensor; four-bit numbers lie two to a byte."""
    return math.ceil(math.prod(shape) * dtype.itemsize)
