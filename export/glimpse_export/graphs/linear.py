"""How the matrices of a stage are stored and multiplied: the seam, and matrices of floating-point numbers.

Activations are float32 everywhere outside the multiplications, so norms, rotary embeddings, softmax and the residual
stream keep their range whatever the matrices are rounded to.
"""

from typing import Protocol

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
import onnx_ir as ir

from glimpse_export.errors import UnsupportedError
from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.source.matrix import Matrix, transposed
from glimpse_export.weights.journal import StoredTensor
from glimpse_export.weights.precision import STORED_DTYPES
from glimpse_runtime.arrays import FloatArray

_HALF_LIMIT = 64.0
# Parts of a matrix that lie in one file begin where a file can be mapped from, if the matrix is large enough.
_PAGE_BYTES = 4096


class LinearForm(Protocol):
    """One way to store and multiply matrices; activations go in and come out as float32.

    Attributes:
        compute: the type that products are computed in.
    """

    compute: str

    def multiply(
        self, g: GraphBuilder, x: ir.Value, matrix: Matrix, bias: ir.Value | None = None, bounded: bool = True
    ) -> ir.Value:
        """Returns x @ matrix.T + bias.

        Args:
            g: the graph.
            x: (..., columns) float32.
            matrix: the weight.
            bias: (rows,) float32, None for none.
            bounded: x comes from a norm, so its values are moderate.
        """
        ...

    def head(self, g: GraphBuilder, row: ir.Value, matrix: Matrix, shared: StoredTensor | None, parts: int) -> ir.Value:
        """Returns row @ matrix.T for the largest matrix of a model.

        Args:
            g: the graph.
            row: (1, columns) float32.
            matrix: the weight.
            shared: where its rows already lie, in the type they are multiplied from; None stores them.
            parts: how many products to make it of, so that none needs much memory.
        """
        ...


class FloatForm:
    """fp32, fp16 or bf16 matrices, multiplied as they are stored.

    In fp16, rows whose largest value is greater than 64 are scaled down before and up after, so that neither they nor
    their products leave its range.
    """

    def __init__(self, precision: str, widen: bool = False) -> None:
        """Prepares for ``fp32``, ``fp16`` or ``bf16``; with ``widen`` bf16 matrices are multiplied in float32."""
        self._dtype = STORED_DTYPES[precision]
        self._half = precision == "fp16"
        self.compute = "float32" if widen and precision == "bf16" else self._dtype

    def multiply(
        self, g: GraphBuilder, x: ir.Value, matrix: Matrix, bias: ir.Value | None = None, bounded: bool = True
    ) -> ir.Value:
        """See ``LinearForm``."""
        dtype, shape = np.dtype(self._dtype), (matrix.columns, matrix.rows)
        weight = g.weight(matrix.name, dtype, shape, lambda: [transposed(self._checked(matrix), dtype)])
        y = rounded_product(g, x, self._widened(g, weight), self.compute, bounded)
        return y if bias is None else g.op("Add", y, bias)

    def head(self, g: GraphBuilder, row: ir.Value, matrix: Matrix, shared: StoredTensor | None, parts: int) -> ir.Value:
        """See ``LinearForm``; the matrix stays as checkpoints store it and is written a few rows at a time."""
        dtype, checked = np.dtype(self._dtype), self._checked(matrix)
        where = shared or g.weights.store(
            matrix.name,
            dtype,
            (matrix.rows, matrix.columns),
            lambda: (checked.read(*bounds).astype(dtype) for bounds in checked.runs()),
        )
        rounded = row if self.compute == "float32" else g.cast(row, self.compute)
        products = []
        for index, (start, stop) in enumerate(head_parts(matrix.rows, parts, matrix.columns * dtype.itemsize)):
            name = matrix.name if parts == 1 else part_name(matrix.name, index)
            weight = self._widened(g, g.stored(name, where.rows(start, stop)))
            y = g.op("Gemm", rounded, weight, transB=1)
            products.append(y if self.compute == "float32" else g.cast(y, "float32"))
        return joined(g, products)

    def _widened(self, g: GraphBuilder, weight: ir.Value) -> ir.Value:
        return weight if self._dtype == self.compute else g.cast(weight, self.compute)

    def _checked(self, matrix: Matrix) -> Matrix:
        if not self._half:
            return matrix
        return Matrix(matrix.name, matrix.rows, matrix.columns, lambda start, stop: _in_half_range(matrix, start, stop))


def rounded_product(g: GraphBuilder, x: ir.Value, weight: ir.Value, dtype: str, bounded: bool) -> ir.Value:
    """Returns x @ weight as float32, computed in ``dtype``, which the weight has; see ``LinearForm.multiply``."""
    if dtype == "float32":
        return g.op("MatMul", x, weight)
    scale = None
    if dtype == "float16" and not bounded:
        x, scale = _scaled_down(g, x)
    y = g.cast(g.op("MatMul", g.cast(x, dtype), weight), "float32")
    return y if scale is None else g.op("Mul", y, scale)


def head_parts(rows: int, parts: int, row_bytes: int) -> list[tuple[int, int]]:
    """Returns starts and stops of about equal runs of a head's rows.

    Raises:
        UnsupportedError: there are fewer rows than parts.
    """
    if not 1 <= parts <= rows // 2:
        raise UnsupportedError(f"an LM head of {rows} rows cannot be multiplied in {parts} parts")
    step = _PAGE_BYTES // np.gcd(_PAGE_BYTES, row_bytes)
    if step > rows // parts:
        step = 2  # rows of four-bit integers lie two by two
    starts = [int(rows * index // parts // step * step) for index in range(parts)]
    return list(zip(starts, [*starts[1:], rows], strict=True))


def part_name(name: str, index: int) -> str:
    """Returns the name of a run of rows of a matrix that is stored or multiplied in several."""
    return f"{name}.{index}"


def joined(g: GraphBuilder, products: list[ir.Value]) -> ir.Value:
    """Returns the products of the parts of a head as one."""
    return products[0] if len(products) == 1 else g.op("Concat", *products, axis=-1)


def _scaled_down(g: GraphBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Returns x with every row's values within +-64, and what to multiply the rows with afterwards."""
    widest = g.op("ReduceMax", g.op("Abs", x), g.integers(-1), keepdims=1)
    scale = g.op("Max", g.op("Mul", widest, g.scalar(1 / _HALF_LIMIT)), g.scalar(1.0))
    return g.op("Div", x, scale), scale


def _in_half_range(matrix: Matrix, start: int, stop: int) -> FloatArray:
    rows = matrix.read(start, stop)
    if np.abs(rows).max(initial=0) > np.finfo(np.float16).max:
        raise UnsupportedError(
            f"tensor {matrix.name} holds values beyond the range of fp16; export this stage with bf16 or fp32"
        )
    return rows
