"""Weight files: raw tensors, aligned for memory mapping, that several graphs can point into.

A file under construction has a journal beside it, so that an interrupted export goes on behind its last whole tensors.
"""

import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir

from glimpse_export.weights.journal import JournalLine, StoredTensor, journal_of, read_journal, write_journal
from glimpse_runtime.arrays import Array
from glimpse_runtime.bundle.manifest import FileSpec

_PAGE_BYTES = 4096
_LINE_BYTES = 64
_CHUNK_BYTES = 4 << 20
_JOURNAL_EACH_BYTES = 64 << 20

Dtype = str | np.dtype[np.generic] | ir.DataType
Parts = Callable[[], Iterable[Array]]


class WeightLayout:
    """Where the tensors of a weight file lie; by itself it writes nothing, so it tells sizes without reading weights.

    Attributes:
        path: the file.
        nbytes: its length with all tensors so far.
    """

    def __init__(self, path: Path) -> None:
        """Starts with no tensors."""
        self.path = path
        self.nbytes = 0
        self._stored: dict[str, StoredTensor] = {}

    @property
    def tensors(self) -> Collection[StoredTensor]:
        """The tensors so far, in the order of the file."""
        return self._stored.values()

    def store(self, name: str, dtype: Dtype, shape: tuple[int, ...], parts: Parts) -> StoredTensor:
        """Returns where a tensor lies, and appends it if it is not in the file yet.

        Args:
            name: its name; a tensor that was stored under a name is not stored again.
            dtype: its type in the graph.
            shape: its shape.
            parts: gives its bytes as arrays that follow each other; called only when it is written.
        """
        if name not in self._stored:
            kind = data_type(dtype)
            nbytes = tensor_bytes(kind, shape)
            align = _PAGE_BYTES if nbytes >= _PAGE_BYTES else _LINE_BYTES
            offset = self.nbytes + -self.nbytes % align
            tensor = StoredTensor(self.path.name, offset, nbytes, kind, shape)
            self._append(name, tensor, parts)
            self._stored[name], self.nbytes = tensor, tensor.end
        return self._stored[name]

    def _append(self, name: str, tensor: StoredTensor, parts: Parts) -> None:
        """Called once for each tensor, in order."""


class WeightFile(WeightLayout):
    """A weight file on the disk; a context manager, hashed while it is written."""

    def __init__(self, path: Path) -> None:
        """Opens the file and keeps what its journal claims and its content confirms."""
        super().__init__(path)
        # A finished bundle may share these bytes; they must never be written over in place.
        if path.exists() and path.stat().st_nlink > 1:
            path.unlink()
        path.touch()
        # Without a buffer of its own a full disk is reported by the write that met it, not again by close.
        self._file = path.open("r+b", buffering=0)
        self._entries: list[JournalLine] = []
        # The hash's states behind the tensors of an earlier run: as long as all entries are such, one for each.
        self._kept: list[hashlib._Hash] = []
        self._digest = hashlib.sha256()
        self._read_kept()
        self._rewind(len(self._kept))
        self._journalled = self._end

    def __enter__(self) -> "WeightFile":
        """Returns the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Brings everything to the disk; after an error, what is whole."""
        try:
            if kind is None:
                self._rewind(len(self._stored))
                os.fsync(self._file.fileno())
            else:
                with suppress(OSError):
                    # On a full disk this makes the room that the journal needs.
                    self._file.truncate(self._end)
                    self._save_journal()
        finally:
            self._file.close()

    def spec(self) -> FileSpec:
        """Returns size and hash of all that was stored."""
        return FileSpec(self._end, self._digest.hexdigest())

    @property
    def _end(self) -> int:
        """Where the last whole tensor ends."""
        return self._entries[-1].tensor.end if self._entries else 0

    def _append(self, name: str, tensor: StoredTensor, parts: Parts) -> None:
        index = len(self._stored)
        if index < len(self._entries):
            claimed = self._entries[index]
            if (claimed.name, claimed.tensor) == (name, tensor):
                return
            self._rewind(index)
        self._write(memoryview(bytes(tensor.offset - self.nbytes)))
        for part in parts():
            # Not every dtype (bfloat16) can be read as a buffer; bytes can.
            self._write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        written = self._file.tell() - tensor.offset
        assert written == tensor.nbytes, f"{name}: wrote {written} bytes instead of {tensor.nbytes}"
        self._entries.append(JournalLine(name, tensor, self._digest.hexdigest()))
        if self._end - self._journalled >= _JOURNAL_EACH_BYTES:
            self._save_journal()

    def _write(self, data: memoryview) -> None:
        for start in range(0, len(data), _CHUNK_BYTES):
            piece = data[start : start + _CHUNK_BYTES]
            self._digest.update(piece)
            while piece:
                piece = piece[self._file.write(piece) :]

    def _save_journal(self) -> None:
        # The data first: the journal must not claim what a power cut could take away.
        os.fsync(self._file.fileno())
        write_journal(journal_of(self.path), self._entries)
        self._journalled = self._end

    def _read_kept(self) -> None:
        position, digest = 0, hashlib.sha256()
        for entry in read_journal(journal_of(self.path), self.path.name):
            while position < entry.tensor.end:
                piece = self._file.read(min(_CHUNK_BYTES, entry.tensor.end - position))
                if not piece:
                    return
                digest.update(piece)
                position += len(piece)
            if digest.hexdigest() != entry.sha256:
                return
            self._kept.append(digest.copy())
            self._entries.append(entry)

    def _rewind(self, count: int) -> None:
        """Forgets the tensors of an earlier run behind the first ``count``."""
        if count > len(self._kept):
            return
        del self._kept[count:]
        del self._entries[count:]
        self._digest = self._kept[-1].copy() if self._kept else hashlib.sha256()
        self._file.truncate(self._end)
        self._file.seek(self._end)


def data_type(dtype: Dtype) -> ir.DataType:
    """Returns the ONNX type of a numpy dtype or its name."""
    return dtype if isinstance(dtype, ir.DataType) else ir.DataType.from_numpy(np.dtype(dtype))


def tensor_bytes(dtype: ir.DataType, shape: tuple[int, ...]) -> int:
    """Returns the bytes of a stored tensor; four-bit numbers lie two to a byte."""
    return math.ceil(math.prod(shape) * dtype.itemsize)
