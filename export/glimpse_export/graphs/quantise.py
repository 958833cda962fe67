"""Rounds matrices to blocks of small integers: symmetric, one scale per block of inputs and output."""

import numpy as np

from glimpse_export.graphs.matrix import Matrix
from glimpse_runtime.types import Array, FloatArray

BLOCK = 128
LARGEST = {4: 7, 8: 127}


def quantised(matrix: Matrix, bits: int) -> tuple[Array, FloatArray]:
    """Rounds a matrix to ``bits`` in blocks of ``BLOCK`` inputs.

    Returns:
        The integers transposed: (columns, rows) int8, or for four bits (columns, rows / 2) uint8 with the even row in
        the low half, as ONNX stores INT4; and the scales (blocks, rows) float32. Value = integer * scale.
    """
    blocks = -(-matrix.columns // BLOCK)
    four = bits == 4
    out = (
        np.empty((matrix.columns, matrix.rows // 2), np.uint8)
        if four
        else np.empty((matrix.columns, matrix.rows), np.int8)
    )
    scales = np.empty((blocks, matrix.rows), np.float32)

    def work(start: int, stop: int, rows: FloatArray) -> None:
        values, scale = quantise_rows(rows, bits)
        scales[:, start:stop] = scale.T
        if four:
            out[:, start // 2 : stop // 2] = pack(values).T
        else:
            out[:, start:stop] = values.T

    matrix.each(work)
    return out, scales


def quantise_rows(rows: FloatArray, bits: int) -> tuple[Array, FloatArray]:
    """Rounds (n, columns) float32 rows; returns (n, columns) int8 integers and (n, blocks) float32 scales.

    Each block takes the scale with the smaller squared error of two: the one that reaches its largest value, and a
    finer one (an eighth smaller for four bits) that cuts it off.
    """
    count, columns = rows.shape
    blocks = -(-columns // BLOCK)
    if columns % BLOCK:
        rows = np.pad(rows, ((0, 0), (0, blocks * BLOCK - columns)))
    cut = rows.reshape(count, blocks, BLOCK)
    top = LARGEST[bits]
    widest = np.abs(cut).max(axis=2)
    scale = np.where(widest > 0, widest, 1).astype(np.float32) / np.float32(top)
    values = _rounded(cut, scale, top)
    if bits == 4:
        finer = scale * np.float32(top / (top + 1))
        other = _rounded(cut, finer, top)
        better = _squared_error(cut, other, finer) < _squared_error(cut, values, scale)
        values = np.where(better[..., None], other, values)
        scale = np.where(better, finer, scale)
    return values.astype(np.int8).reshape(count, -1)[:, :columns], scale


def pack(values: Array) -> Array:
    """Returns (n, columns) integers of four bits as (n / 2, columns) uint8: the even row in the low half."""
    return np.asarray((values[0::2] & 15) | (values[1::2] << 4)).view(np.uint8)


def _rounded(cut: FloatArray, scale: FloatArray, top: int) -> FloatArray:
    values: FloatArray = cut / scale[..., None]
    np.rint(values, out=values)
    np.clip(values, -top - 1, top, out=values)
    return values


def _squared_error(cut: FloatArray, values: FloatArray, scale: FloatArray) -> FloatArray:
    difference = values * scale[..., None]
    difference -= cut
    return np.asarray(np.einsum("nbk,nbk->nb", difference, difference))
