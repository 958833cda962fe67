"""Rounds matrices to small integers: symmetric, one scale per output, or per block of inputs and output."""

import numpy as np

from glimpse_export.errors import UnsupportedError
from glimpse_export.source.matrix import Matrix
from glimpse_runtime.arrays import Array, FloatArray

BLOCK = 128
LARGEST = {4: 7, 8: 127}
# A scale in float16 is not finer: its own rounding would tell, and TensorRT refuses a scale of zero.
FINEST_HALF = float(np.finfo(np.float16).smallest_normal)


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


def quantised_columns(matrix: Matrix, bits: int) -> tuple[Array, Array]:
    """Rounds a matrix to ``bits`` in the layout of DequantizeLinear before a product: inputs down, outputs across.

    Returns:
        For eight bits (columns, rows) int8 and the scales (rows,) float16, one for each output. For four bits
        (columns, rows / 2) uint8, outputs two to a byte with the first in the low half, columns filled up with zeros
        to whole blocks of ``BLOCK`` and an odd number of rows by one; and the scales (blocks, rows) float16.
        Value = integer * scale.

    Raises:
        UnsupportedError: a scale leaves the range of float16.
    """
    block = BLOCK if bits == 4 else matrix.columns
    blocks, outputs = -(-matrix.columns // block), matrix.rows + (matrix.rows % 2 if bits == 4 else 0)
    out = np.zeros((blocks * block, outputs * bits // 8), np.uint8 if bits == 4 else np.int8)
    scales = np.ones((blocks, outputs), np.float16)

    def work(start: int, stop: int, rows: FloatArray) -> None:
        values, scale = quantise_rows(rows, bits, block, half_scales=True)
        if not np.isfinite(scale).all():
            raise UnsupportedError(
                f"tensor {matrix.name} holds values beyond the range of int{bits}; export this stage with fp32 or bf16"
            )
        scales[:, start:stop] = scale.T
        signed = values.reshape(stop - start, -1).T.astype(np.int8)
        if bits == 8:
            out[:, start:stop] = signed
            return
        if signed.shape[1] % 2:
            signed = np.pad(signed, ((0, 0), (0, 1)))
        halves = signed.view(np.uint8) & 15
        out[:, start // 2 : start // 2 + halves.shape[1] // 2] = halves[:, 0::2] | (halves[:, 1::2] << 4)

    matrix.each(work, multiple=8 // bits)  # what shares a byte must be written together
    return out, scales if bits == 4 else scales[0]


def quantise_rows(
    rows: FloatArray, bits: int, block: int = BLOCK, half_scales: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Rounds (n, columns) float32 rows; returns (n, blocks, block) integers as float32 and (n, blocks) scales.

    Each block of four-bit integers takes the scale with the smaller squared error of two: the one that reaches its
    largest value, and a finer one, an eighth smaller, that cuts it off.

    Args:
        rows: the values; blocks are filled up with zeros.
        bits: 4 or 8.
        block: inputs that share a scale.
        half_scales: scales are numbers of float16, and integers are the nearest with these.
    """
    count, columns = rows.shape
    blocks = -(-columns // block)
    if columns % block:
        rows = np.pad(rows, ((0, 0), (0, blocks * block - columns)))
    cut = rows.reshape(count, blocks, block)
    top = LARGEST[bits]
    widest = np.abs(cut).max(axis=2)
    wanted = np.where(widest > 0, widest, 1).astype(np.float32) / np.float32(top)
    scale = _stored_scale(wanted, half_scales)
    values = _rounded(cut, scale, top)
    if bits == 4:
        finer = _stored_scale(wanted * np.float32(top / (top + 1)), half_scales)
        other = _rounded(cut, finer, top)
        better = _squared_error(cut, other, finer) < _squared_error(cut, values, scale)
        values = np.where(better[..., None], other, values)
        scale = np.where(better, finer, scale)
    return values, scale


def _stored_scale(scale: FloatArray, half: bool) -> FloatArray:
    if not half:
        return scale
    with np.errstate(over="ignore"):
        return np.maximum(scale, FINEST_HALF).astype(np.float16).astype(np.float32)


def _rounded(cut: FloatArray, scale: FloatArray, top: int) -> FloatArray:
    values: FloatArray = cut / scale[..., None]
    np.rint(values, out=values)
    np.clip(values, -top - 1, top, out=values)
    return values


def _squared_error(cut: FloatArray, values: FloatArray, scale: FloatArray) -> FloatArray:
    difference = values * scale[..., None]
    difference -= cut
    return np.asarray(np.einsum("nbk,nbk->nb", difference, difference))
