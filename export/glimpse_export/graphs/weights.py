"""Weight files: raw tensors, aligned for memory mapping, that several graphs can point into."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from glimpse_runtime.types import Array

_PAGE_BYTES = 4096
_LINE_BYTES = 64


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

    def store(self, name: str, make: Callable[[], Array]) -> StoredTensor:
        """Returns where tensor ``name`` lies; ``make`` is called only if it is not in the file yet."""
        if name not in self._stored:
            array = np.ascontiguousarray(make())
            align = _PAGE_BYTES if array.nbytes >= _PAGE_BYTES else _LINE_BYTES
            self._file.write(b"\0" * (-self._file.tell() % align))
            offset = self._file.tell()
            array.tofile(self._file)
            dtype = ir.DataType.from_numpy(array.dtype)
            self._stored[name] = StoredTensor(self.path.name, offset, array.nbytes, dtype, array.shape)
        return self._stored[name]

    def close(self) -> None:
        """Writes everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
