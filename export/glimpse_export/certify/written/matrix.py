"""One written weight, read back and compared with what it must be.

A rounded weight is judged by the rule of its number format, not by how the exporter came to it: the nearest value of
the format, and for blocks of integers a scale that fits the block's largest weight.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch

# The rules' own numbers, not the exporter's: checked with that, a wrong one would go unnoticed.
_BLOCK = 128
_FINEST_HALF = 2.0**-14
_CHUNK_VALUES = 1 << 19
# A weight half way between two integers may go to either; float32 decides within this share of a step.
_HALF_STEP = 0.5 + 1e-3
# How far the largest weight of a block may lie from the largest integer: a scale in float16 is itself rounded.
_SCALE_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2.0**-10}
FLOATS = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
}
_COLUMN_BITS = {onnx.TensorProto.INT4: 4, onnx.TensorProto.INT8: 8}

# A file's folder and a graph's reference to a weight in it.
Place = tuple[Path, Any]


class StoredMatrix(Protocol):
    """One weight, (rows = outputs, columns = inputs) as checkpoints have it; a vector is one row."""

    rows: int
    columns: int

    def judge(self, start: int, original: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Reads some rows.

        Args:
            start: the first.
            original: what the checkpoint has there.

        Returns:
            The rows widened to float32, and how many of their values are not what the original rounds to.
        """
        ...


def open_matrix(where: Place, scale: Place | None, rows: int, columns: int, by_row: bool) -> StoredMatrix:
    """Opens a weight.

    Args:
        where: where it lies.
        scale: where its scales lie, if it has any.
        rows: outputs it should have; 1 for a vector.
        columns: inputs it should have.
        by_row: whether a weight of that shape has its rows one after the other; else it is transposed.
    """
    if scale is None:
        return _Floats(where, rows, columns, by_row)
    if bits_of(where[1]) and where[1].data_type in _COLUMN_BITS:
        return _Columns(where, scale, rows, columns)
    return _Blocks(where, scale, rows, columns)


def runs(matrix: StoredMatrix) -> Iterator[tuple[int, int]]:
    """Yields starts and stops of runs of rows of moderate size; starts are even."""
    step = max(_CHUNK_VALUES // matrix.columns // 2 * 2, 2)
    for start in range(0, matrix.rows, step):
        yield start, min(start + step, matrix.rows)


def bits_of(tensor: Any) -> int:
    """Returns the bits of one stored number, 0 for a type that no weight has."""
    if tensor.data_type in FLOATS:
        return int(FLOATS[tensor.data_type].itemsize * 8)
    if tensor.data_type in _COLUMN_BITS:
        return _COLUMN_BITS[tensor.data_type]
    if tensor.data_type != onnx.TensorProto.UINT8 or len(tensor.dims) != 3:
        return 0
    return {_BLOCK: 8, _BLOCK // 2: 4}.get(tensor.dims[2], 0)


def rows_of(tensor: Any, by_row: bool) -> int:
    """Returns how many rows a weight has of those of the checkpoint's tensor."""
    across = tensor.data_type in _COLUMN_BITS or (tensor.data_type in FLOATS and not by_row)
    return int(tensor.dims[1] if across and len(tensor.dims) == 2 else tensor.dims[0])


class StoredParts:
    """A weight whose runs of rows lie apart."""

    def __init__(self, parts: Sequence[StoredMatrix]) -> None:
        """Joins them in order."""
        self._parts = parts
        self.rows, self.columns = sum(part.rows for part in parts), parts[0].columns

    def judge(self, start: int, original: torch.Tensor) -> tuple[torch.Tensor, int]:
        """See ``StoredMatrix``."""
        found, wrong, first = [], 0, 0
        for part in self._parts:
            low, high = max(start, first), min(start + len(original), first + part.rows)
            if low < high:
                rows, bad = part.judge(low - first, original[low - start : high - start])
                found.append(rows)
                wrong += bad
            first += part.rows
        return torch.cat(found), wrong


class _Floats:
    """Floating-point numbers, by rows or transposed."""

    def __init__(self, where: Place, rows: int, columns: int, by_row: bool) -> None:
        """Reads it, unless its rows lie one after the other and can be read as they are needed."""
        self._where, self.rows, self.columns = where, rows, columns
        kind, dims = where[1].data_type, tuple(where[1].dims)
        self._transposed: torch.Tensor | None = None
        straight = len(dims) == 1 or (by_row and dims == (rows, columns))
        size = math.prod(dims) == rows * columns if straight else dims == (columns, rows)
        self._fits = kind in FLOATS and size
        self._kind = FLOATS.get(kind, torch.float32)
        if self._fits and not straight:
            self._transposed = read(where).view(self._kind).reshape(columns, rows)

    def judge(self, start: int, original: torch.Tensor) -> tuple[torch.Tensor, int]:
        """See ``StoredMatrix``."""
        if not self._fits:
            return torch.zeros_like(original), original.numel()
        kind = self._kind
        if self._transposed is None:
            part = read(self._where, start * self.columns * kind.itemsize, original.numel() * kind.itemsize)
            stored = part.view(kind).reshape(original.shape).float()
        else:
            stored = self._transposed[:, start : start + len(original)].t().float()
        return stored, int(torch.count_nonzero(stored != original.to(kind).float()))


class _Blocks:
    """Blocks of integers with a float32 scale each, by rows, as MatMulNBits takes them."""

    def __init__(self, where: Place, scale: Place, rows: int, columns: int) -> None:
        """Looks at the shapes; rows are read as they are needed."""
        self._where, self._scale, self.rows, self.columns = where, scale, rows, columns
        self._bits, self._blocks = bits_of(where[1]), -(-columns // _BLOCK)
        expected = (rows, self._blocks, _BLOCK * self._bits // 8)
        scales = (math.prod(scale[1].dims), scale[1].data_type)
        self._fits = bool(self._bits) and tuple(where[1].dims) == expected
        self._fits = self._fits and scales == (rows * self._blocks, onnx.TensorProto.FLOAT)

    def judge(self, start: int, original: torch.Tensor) -> tuple[torch.Tensor, int]:
        """See ``StoredMatrix``."""
        if not self._fits:
            return torch.zeros_like(original), original.numel()
        count, row_bytes = len(original), self._blocks * _BLOCK * self._bits // 8
        part = read(self._where, start * row_bytes, count * row_bytes).view(torch.uint8).reshape(count, row_bytes)
        if self._bits == 8:
            integers = part.float().sub_(128)
        else:
            integers = torch.empty(count, 2 * row_bytes)
            integers[:, 0::2], integers[:, 1::2] = part & 15, part >> 4
            integers.sub_(8)
        scales = read(self._scale, start * self._blocks * 4, count * self._blocks * 4).view(torch.float32)
        return _judge_blocks(original, integers, scales.reshape(count, -1), self._bits, _BLOCK)


class _Columns:
    """Integers as (inputs, outputs) with float16 scales, as DequantizeLinear takes them.

    Four bits have a scale for each block of inputs and output, eight bits one for each output.
    """

    def __init__(self, where: Place, scale: Place, rows: int, columns: int) -> None:
        """Reads integers and scales."""
        self.rows, self.columns = rows, columns
        self._bits = bits_of(where[1])
        self._block = _BLOCK if self._bits == 4 else columns
        blocks = -(-columns // self._block)
        outputs = rows + (rows % 2 if self._bits == 4 else 0)
        scale_dims = (blocks, outputs) if self._bits == 4 else (outputs,)
        self._fits = tuple(where[1].dims) == (blocks * self._block, outputs) and tuple(scale[1].dims) == scale_dims
        self._fits = self._fits and scale[1].data_type == onnx.TensorProto.FLOAT16
        if self._fits:
            self._integers = read(where).reshape(blocks * self._block, -1)
            self._scales = read(scale).view(torch.float16).reshape(blocks, outputs)

    def judge(self, start: int, original: torch.Tensor) -> tuple[torch.Tensor, int]:
        """See ``StoredMatrix``."""
        if not self._fits:
            return torch.zeros_like(original), original.numel()
        stop = start + len(original)
        if self._bits == 8:
            integers = self._integers[:, start:stop]
        else:
            pairs = self._integers[:, start // 2 : -(-stop // 2)]
            # Shifts of int8 keep the sign: the low half is brought to the top and back.
            integers = torch.stack([(pairs << 4) >> 4, pairs >> 4], dim=2).flatten(1)
            integers = integers[:, start % 2 : start % 2 + len(original)]
        scales = self._scales[:, start:stop].t()
        return _judge_blocks(original, integers.t().float(), scales, self._bits, self._block)


def read(where: Place, start: int = 0, count: int | None = None) -> torch.Tensor:
    """Returns bytes of a weight as int8; read, not mapped, so that they do not stay in memory."""
    folder, tensor = where
    place = {entry.key: entry.value for entry in tensor.external_data}
    offset = int(place.get("offset", "0")) + start
    length = int(place["length"]) if count is None else count
    return torch.from_numpy(np.fromfile(folder / place["location"], np.int8, length, offset=offset))


def _judge_blocks(
    weights: torch.Tensor, integers: torch.Tensor, scales: torch.Tensor, bits: int, block: int
) -> tuple[torch.Tensor, int]:
    """Returns the stored values of some rows, and how many of integers and scales break the format's rule."""
    rows, columns = weights.shape
    blocks, tolerance = scales.shape[1], _SCALE_TOLERANCE[scales.dtype]
    is_half, scales = scales.dtype == torch.float16, scales.float()
    fill = blocks * block - columns
    if fill:
        weights = torch.nn.functional.pad(weights, (0, fill))
    cut = weights.reshape(rows, blocks, block)
    stored = integers.reshape(rows, blocks, block).mul(scales[..., None])
    top = 2 ** (bits - 1) - 1
    reach = cut.abs().amax(2) / scales
    fits = (reach - top).abs() <= top * tolerance
    if bits == 4:
        fits |= (reach - top - 1).abs() <= top * tolerance
    fits |= (reach == 0) & (scales > 0)
    if is_half:
        fits |= (reach <= top) & (scales == _FINEST_HALF)
    wrong = int((~fits).sum())
    # Beyond the largest integer the nearest value is that integer, however far away; below, the scale reaches.
    error = torch.minimum(cut, top * scales[..., None]).sub_(stored).abs_()
    if (error.amax(2) > _HALF_STEP * scales).any():
        wrong += int(torch.count_nonzero(error > _HALF_STEP * scales[..., None]))
    return stored.reshape(rows, -1)[:, :columns], wrong
