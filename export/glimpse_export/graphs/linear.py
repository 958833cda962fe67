"""How the matrices of a stage are stored and multiplied, one class per kind of number.

Activations are float32 everywhere outside the multiplications, so norms, rotary embeddings, softmax and the residual
stream keep their range whatever the matrices are rounded to.
"""

from typing import Protocol

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
import onnx_ir as ir

from glimpse_export.errors import UnsupportedError
from glimpse_export.graphs.builder import MICROSOFT, GraphBuilder
from glimpse_export.graphs.journal import StoredTensor
from glimpse_export.graphs.matrix import Matrix, transposed
from glimpse_export.graphs.quantise import BLOCK, quantised
from glimpse_export.precision import STORED_DTYPES
from glimpse_runtime.types import Array, FloatArray

_HALF_LIMIT = 64.0


class LinearForm(Protocol):
    """One way to store and multiply matrices; activations go in and come out as float32."""

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

    def head(self, g: GraphBuilder, row: ir.Value, matrix: Matrix, shared: StoredTensor | None) -> ir.Value:
        """Returns row @ matrix.T for the largest matrix of a model; ``shared`` is where its rows already lie."""
        ...


class FloatForm:
    """fp32, fp16 or bf16 matrices.

    fp16 multiplies in fp16; rows whose largest value is greater than 64 are scaled down before and up after, so that
    neither they nor their products leave fp16's range. bf16 matrices are widened to float32 when they are loaded.
    """

    def __init__(self, precision: str) -> None:
        """Prepares for ``fp32``, ``fp16`` or ``bf16``."""
        self._dtype = STORED_DTYPES[precision]
        self._half = precision == "fp16"

    def multiply(
        self, g: GraphBuilder, x: ir.Value, matrix: Matrix, bias: ir.Value | None = None, bounded: bool = True
    ) -> ir.Value:
        """See ``LinearForm``."""
        y = self._product(g, x, matrix, bounded)
        return y if bias is None else g.op("Add", y, bias)

    def _product(self, g: GraphBuilder, x: ir.Value, matrix: Matrix, bounded: bool) -> ir.Value:
        dtype = np.dtype(self._dtype)
        shape = (matrix.columns, matrix.rows)
        weight = g.weight(matrix.name, dtype, shape, lambda: [transposed(self._checked(matrix), dtype)])
        if not self._half:
            return g.op("MatMul", x, self._widened(g, weight))
        scale = None
        if not bounded:
            x, scale = _scaled_down(g, x)
        y = g.cast(g.op("MatMul", g.cast(x, "float16"), weight), "float32")
        return y if scale is None else g.op("Mul", y, scale)

    def head(self, g: GraphBuilder, row: ir.Value, matrix: Matrix, shared: StoredTensor | None) -> ir.Value:
        """See ``LinearForm``; the matrix stays as checkpoints store it and is written a few rows at a time."""
        if shared is not None:
            weight = g.stored(matrix.name, shared)
        else:
            dtype, checked = np.dtype(self._dtype), self._checked(matrix)
            weight = g.weight(
                matrix.name,
                dtype,
                (matrix.rows, matrix.columns),
                lambda: (checked.read(*bounds).astype(dtype) for bounds in checked.runs()),
            )
        if not self._half:
            return g.op("Gemm", row, self._widened(g, weight), transB=1)
        return g.cast(g.op("Gemm", g.cast(row, "float16"), weight, transB=1), "float32")

    def _widened(self, g: GraphBuilder, weight: ir.Value) -> ir.Value:
        return weight if self._dtype == "float32" else g.cast(weight, "float32")

    def _checked(self, matrix: Matrix) -> Matrix:
        if not self._half:
            return matrix
        return Matrix(matrix.name, matrix.rows, matrix.columns, lambda start, stop: _in_half_range(matrix, start, stop))


class BlockForm:
    """int8 or int4 matrices in blocks with a scale each, multiplied by onnxruntime's MatMulNBits.

    The portable spelling, DequantizeLinear + MatMul, is fused into the same operator when a graph is loaded; on a 3B
    model that costs seconds and a gigabyte every time, so it is written here as it will run.
    """

    def __init__(self, bits: int) -> None:
        """Prepares for 8 or 4 bits."""
        self._bits = bits

    def multiply(
        self, g: GraphBuilder, x: ir.Value, matrix: Matrix, bias: ir.Value | None = None, bounded: bool = True
    ) -> ir.Value:
        """See ``LinearForm``; accuracy level 4 rounds activations to eight bits, per row and block."""
        blocks = -(-matrix.columns // BLOCK)
        scales: list[Array] = []

        def integers() -> list[Array]:
            values, scale = quantised(matrix, self._bits)
            scales.append(scale)
            return [values]

        weight = g.weight(matrix.name, "uint8", (matrix.rows, blocks, BLOCK * self._bits // 8), integers)
        scale = g.weight(
            f"{matrix.name}.scale",
            "float32",
            (matrix.rows * blocks,),
            # They are at hand unless an earlier run wrote the integers and was cut off before the scales.
            lambda: scales or [quantised(matrix, self._bits)[1]],
        )
        sizes = {"K": matrix.columns, "N": matrix.rows, "bits": self._bits, "block_size": BLOCK}
        inputs = (x, weight, scale) if bias is None else (x, weight, scale, None, None, bias)
        return g.op("MatMulNBits", *inputs, domain=MICROSOFT, accuracy_level=4, **sizes)

    def head(self, g: GraphBuilder, row: ir.Value, matrix: Matrix, shared: StoredTensor | None) -> ir.Value:
        """See ``LinearForm``."""
        return self.multiply(g, row, matrix)


def linear_form(precision: str) -> LinearForm:
    """Returns how a precision's matrices are stored and multiplied.

    Raises:
        UnsupportedError: there is no such precision.
    """
    if precision in STORED_DTYPES:
        return FloatForm(precision)
    if precision in ("int8", "int4"):
        return BlockForm(int(precision[3:]))
    raise UnsupportedError(f"unknown precision {precision!r}")


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
