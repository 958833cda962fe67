"""Rounds matrices to blocks of small integers: symmetric, one scale per block of inputs and output."""

import numpy as np

from glimpse_export.graphs.matrix import Matrix
from glimpse_runtime.types import Array, FloatArray

BLOCK = 128
LARGEST = {4: 7, 8: 127}


def quantised(matrix: Matrix, bits: int) -> tuple[Array, FloatArray]:
    """Rounds a matrix to ``bits`` in blocks of ``BLOCK`` inputs, in the layout of MatMulNBits.

    Returns:
        (rows, blocks, BLOCK * bits / 8) uint8 integers, offset so that they are not negative, four-bit ones two to a
        byte with the first in the low half, inputs filled up with zeros to whole blocks; and the scales (rows, blocks)
        float32. Value = (integer - 2 ** (bits - 1)) * scale.
    """
    blocks = -(-matrix.columns // BLOCK)
    out = np.empty((matrix.rows, blocks, BLOCK * bits // 8), np.uint8)
    scales = np.empty((matrix.rows, blocks), np.float32)

    def work(start: int, stop: int, rows: FloatArray) -> None:
        values, scales[start:stop] = quantise_rows(rows, bits)
        unsigned = (values + 2 ** (bits - 1)).astype(np.uint8)
        out[start:stop] = unsigned if bits == 8 else unsigned[..., 0::2] | (unsigned[..., 1::2] << 4)

    matrix.each(work)
    return out, scales


def quantise_rows(rows: FloatArray, bits: int) -> tuple[FloatArray, FloatArray]:
    """Rounds (n, columns) float32 rows; returns (n, blocks, BLOCK) integers as float32 and (n, blocks) scales.

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
    return values, scale


def _rounded(cut: FloatArray, scale: FloatArray, top: int) -> FloatArray:
    values: FloatArray = cut / scale[..., None]
    np.rint(values, out=values)
    np.clip(values, -top - 1, top, out=values)
    return values


def _squared_error(cut: FloatArray, values: FloatArray, scale: FloatArray) -> FloatArray:
    difference = values * scale[..., None]
    difference -= cut
    return np.asarray(np.einsum("nbk,nbk->nb", difference, difference))
