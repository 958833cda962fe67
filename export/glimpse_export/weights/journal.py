"""What is certain about a weight file under construction: one line for each tensor that is on the disk.

A claim is only taken for true when the file's content confirms it. Lines are read up to the first one that is not
whole, so a damaged journal costs time and nothing else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from glimpse_runtime.files.atomic import write_text


@dataclass(frozen=True)
class StoredTensor:
    """Where the bytes of one tensor lie."""

    file: str
    offset: int
    nbytes: int
    dtype: ir.DataType
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.nbytes

    def rows(self, start: int, stop: int) -> "StoredTensor":
        """Returns a run of its first axis, whose items take whole bytes."""
        item_bytes = self.nbytes // self.shape[0]
        offset, shape = self.offset + start * item_bytes, (stop - start, *self.shape[1:])
        return StoredTensor(self.file, offset, (stop - start) * item_bytes, self.dtype, shape)


@dataclass(frozen=True)
class JournalLine:
    """One tensor; ``sha256`` is the hash of the whole file up to the tensor's end."""

    name: str
    tensor: StoredTensor
    sha256: str


def journal_of(path: Path) -> Path:
    """Returns where the journal of a weight file lies."""
    return path.with_name(f"{path.name}.journal")


def write_journal(path: Path, entries: Sequence[JournalLine]) -> None:
    """Replaces the journal in one step; it is small beside the weights it speaks of."""
    lines = []
    for entry in entries:
        tensor = entry.tensor
        line = [entry.name, tensor.offset, tensor.nbytes, tensor.dtype.name, tensor.shape, entry.sha256]
        lines.append(json.dumps(line) + "\n")
    write_text(path, "".join(lines))


def read_journal(path: Path, file: str) -> list[JournalLine]:
    """Returns the entries about a weight file called ``file``; none without a journal."""
    entries: list[JournalLine] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            name, offset, nbytes, dtype, shape, sha256 = json.loads(line)
            tensor = StoredTensor(file, int(offset), int(nbytes), ir.DataType[dtype], tuple(map(int, shape)))
            entries.append(JournalLine(name, tensor, sha256))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return entries
