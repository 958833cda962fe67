"""Reads written weights back through the graphs' own references, and compares them with what they must be.

A rounded weight is judged by the rule of its number format, not by how the exporter came to it: the nearest value of
the format, and for blocks of integers a scale that fits the block's largest weight.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from glimpse_export.certify.cuts import GraphFile
from glimpse_runtime.types import Array

# The rule's own number, not the exporter's: checked with that, a wrong one would go unnoticed.
_BLOCK = 128
_CHUNK_VALUES = 1 << 19
# A weight half way between two integers may go to either; float32 decides within this share of a step.
_HALF_STEP = 0.5 + 1e-3
_SCALE_TOLERANCE = 1e-5
# Queries, keys and values lie apart where checkpoints join them.
_PARTS = (".0", ".1", ".2")
_BITS = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
}
_FLOATS = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
}


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
        joint = {name.rpartition(".")[0] for name in self._where if name.endswith(_PARTS)}
        return set(self._where) | {name for name in joint if all(f"{name}{part}" in self._where for part in _PARTS)}

    def bits(self, name: str) -> int:
        """Returns the bits of one stored number, 0 for a type that no weight has."""
        tensor = self._where[self._parts(name)[0]][1]
        return _BITS.get(tensor.data_type, 0) or _integer_bits(tensor)

    def open(self, name: str, shape: tuple[int, ...]) -> "StoredMatrix":
        """Opens a weight that should hold a tensor of some shape."""
        scale = f"{name}.scale"
        square = len(shape) == 2 and shape[0] == shape[1]
        by_row = not square or self._graph.multiplied_by_rows(name)
        return StoredMatrix(self._where[name], self._where.get(scale), shape, by_row)

    def compare(self, name: str, original: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Reads a weight.

        Args:
            name: its name, the checkpoint's.
            original: the checkpoint's float32 tensor.

        Returns:
            The stored weight widened to float32 in the original's shape, and how many of its values are not what the
            original rounds to; all of them where the shape is another.
        """
        parts = self._parts(name)
        if len(parts) > 1:
            found = [self.compare(part, rows) for part, rows in zip(parts, original.chunk(len(parts)), strict=True)]
            return torch.cat([stored for stored, _ in found]), sum(wrong for _, wrong in found)
        matrix = self.open(name, tuple(original.shape))
        flat = original.reshape(matrix.rows, -1)
        out, wrong = torch.empty_like(flat), 0
        for start, stop in matrix.runs():
            out[start:stop], bad = matrix.judge(start, flat[start:stop])
            wrong += bad
        return out.reshape(original.shape), wrong

    def _parts(self, name: str) -> list[str]:
        """The weights that make up a tensor of the checkpoint: itself, or the thirds it was cut into."""
        return [name] if name in self._where else [f"{name}{part}" for part in _PARTS]

    def float_form(self, name: str) -> bool:
        """Whether a weight is stored as floating-point numbers."""
        return self._where[self._parts(name)[0]][1].data_type in _FLOATS


class StoredMatrix:
    """One weight, (rows = outputs, columns = inputs) as checkpoints have it; a vector is one row."""

    def __init__(
        self, where: tuple[Path, Any], scale: tuple[Path, Any] | None, shape: tuple[int, ...], by_row: bool
    ) -> None:
        """Reads it, unless its rows lie one after the other and can be read as they are needed.

        Args:
            where: the file's folder and the graph's reference to the weight.
            scale: the same of its scales, if it has any.
            shape: the tensor's shape in the checkpoint.
            by_row: whether a weight of that shape has its rows one after the other; else it is transposed.
        """
        self._where = where
        self._scale = scale
        self._kind = where[1].data_type
        self.rows, self.columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, shape[0])
        self._blocks = -(-self.columns // _BLOCK)
        dims = tuple(where[1].dims)
        self._bits = _integer_bits(where[1]) if scale is not None else 0
        self._transposed: torch.Tensor | None = None
        if self._bits:
            expected = (self.rows, self._blocks, _BLOCK * self._bits // 8)
            self._fits = dims == expected and math.prod(scale[1].dims) == self.rows * self._blocks if scale else False
            return
        straight = len(dims) == 1 or (by_row and dims == (self.rows, self.columns))
        self._fits = self._kind in _FLOATS and (
            math.prod(dims) == self.rows * self.columns if straight else dims == (self.columns, self.rows)
        )
        if self._fits and not straight:
            self._transposed = _read(where).view(_FLOATS[self._kind]).reshape(self.columns, self.rows)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yields starts and stops of runs of rows of moderate size."""
        step = max(_CHUNK_VALUES // self.columns, 1)
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def judge(self, start: int, original: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Reads some rows.

        Args:
            start: the first.
            original: what the checkpoint has there.

        Returns:
            The rows widened to float32, and how many of their values are not what the original rounds to.
        """
        if not self._fits:
            return torch.zeros_like(original), original.numel()
        if self._bits:
            return self._judge_integers(start, original)
        kind = _FLOATS[self._kind]
        if self._transposed is None:
            part = _read(self._where, start * self.columns * kind.itemsize, original.numel() * kind.itemsize)
            stored = part.view(kind).reshape(original.shape).float()
        else:
            stored = self._transposed[:, start : start + len(original)].t().float()
        return stored, int(torch.count_nonzero(stored != original.to(kind).float()))

    def _judge_integers(self, start: int, original: torch.Tensor) -> tuple[torch.Tensor, int]:
        assert self._scale is not None
        count, row_bytes = len(original), self._blocks * _BLOCK * self._bits // 8
        part = _read(self._where, start * row_bytes, count * row_bytes).view(torch.uint8).reshape(count, row_bytes)
        if self._bits == 8:
            integers = part.float().sub_(128)
        else:
            integers = torch.empty(count, 2 * row_bytes)
            integers[:, 0::2], integers[:, 1::2] = part & 15, part >> 4
            integers.sub_(8)
        scales = _read(self._scale, start * self._blocks * 4, count * self._blocks * 4).view(torch.float32)
        return _judge_blocks(original, integers, scales.reshape(count, -1), self._bits)


def _integer_bits(tensor: Any) -> int:
    """Bits of the integers in a weight of blocks of them; 0 for another weight."""
    if tensor.data_type != onnx.TensorProto.UINT8 or len(tensor.dims) != 3:
        return 0
    return {_BLOCK: 8, _BLOCK // 2: 4}.get(tensor.dims[2], 0)


def _read(where: tuple[Path, Any], start: int = 0, count: int | None = None) -> torch.Tensor:
    """Bytes of a weight as int8; read, not mapped, so that they do not stay in memory."""
    folder, tensor = where
    place = {entry.key: entry.value for entry in tensor.external_data}
    offset = int(place.get("offset", "0")) + start
    length = int(place["length"]) if count is None else count
    return torch.from_numpy(np.fromfile(folder / place["location"], np.int8, length, offset=offset))


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


def _judge_blocks(
    weights: torch.Tensor, integers: torch.Tensor, scales: torch.Tensor, bits: int
) -> tuple[torch.Tensor, int]:
    """Returns the stored values of some rows, and how many of integers and scales break the format's rule."""
    rows, columns = weights.shape
    blocks = scales.shape[1]
    fill = blocks * _BLOCK - columns
    if fill:
        weights = torch.nn.functional.pad(weights, (0, fill))
    cut = weights.reshape(rows, blocks, _BLOCK)
    stored = integers.reshape(rows, blocks, _BLOCK).mul_(scales[..., None])
    top = 2 ** (bits - 1) - 1
    reach = cut.abs().amax(2) / scales
    fits = (reach - top).abs() <= top * _SCALE_TOLERANCE
    if bits == 4:
        fits |= (reach - top - 1).abs() <= top * _SCALE_TOLERANCE
    fits |= (reach == 0) & (scales > 0)
    wrong = int((~fits).sum())
    # Beyond the largest integer the nearest value is that integer, however far away; below, the scale reaches.
    error = torch.minimum(cut, top * scales[..., None]).sub_(stored).abs_()
    if (error.amax(2) > _HALF_STEP * scales).any():
        wrong += int(torch.count_nonzero(error > _HALF_STEP * scales[..., None]))
    return stored.reshape(rows, -1)[:, :columns], wrong
