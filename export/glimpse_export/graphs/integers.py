"""Matrices of small integers: onnxruntime's own product of them, and the standard one that TensorRT imports."""

import numpy as np
import onnx_ir as ir

from glimpse_export.graphs.builder import MICROSOFT, GraphBuilder
from glimpse_export.graphs.linear import head_parts, joined, part_name, rounded_product
from glimpse_export.source.matrix import Matrix
from glimpse_export.weights.journal import StoredTensor
from glimpse_export.weights.quantise import BLOCK, quantised, quantised_columns
from glimpse_runtime.arrays import Array


class BlockForm:
    """int8 or int4 matrices in blocks with a scale each, multiplied by onnxruntime's MatMulNBits.

    The portable spelling, DequantizeLinear + MatMul, is fused into the same operator when a graph is loaded; on a 3B
    model that costs seconds and a gigabyte every time, so it is written here as it will run.
    """

    compute = "float32"

    def __init__(self, bits: int, bias_apart: bool = False) -> None:
        """Prepares for 8 or 4 bits; CUDA's product takes a bias since version 1.29, so it can be added apart."""
        self._bits, self._bias_apart = bits, bias_apart

    def multiply(
        self, g: GraphBuilder, x: ir.Value, matrix: Matrix, bias: ir.Value | None = None, bounded: bool = True
    ) -> ir.Value:
        """See ``LinearForm``; accuracy level 4 rounds activations to eight bits, per row and block."""
        y = self._product(g, x, matrix, matrix.name, (0, matrix.rows), None if self._bias_apart else bias)
        return g.op("Add", y, bias) if bias is not None and self._bias_apart else y

    def head(self, g: GraphBuilder, row: ir.Value, matrix: Matrix, shared: StoredTensor | None, parts: int) -> ir.Value:
        """See ``LinearForm``."""
        row_bytes = -(-matrix.columns // BLOCK) * BLOCK * self._bits // 8
        bounds = head_parts(matrix.rows, parts, row_bytes)
        names = [matrix.name] if parts == 1 else [part_name(matrix.name, index) for index in range(parts)]
        return joined(g, [self._product(g, row, matrix, *part, None) for part in zip(names, bounds, strict=True)])

    def _product(
        self,
        g: GraphBuilder,
        x: ir.Value,
        matrix: Matrix,
        name: str,
        bounds: tuple[int, int],
        bias: ir.Value | None,
    ) -> ir.Value:
        """The product with some rows of a matrix, all of which are stored."""
        values, scales = self._stored(g, matrix)
        start, stop = bounds
        blocks = values.shape[1]
        weight = g.stored(name, values.rows(start, stop))
        scale = g.stored(f"{name}.scale", scales.rows(start * blocks, stop * blocks))
        sizes = {"K": matrix.columns, "N": stop - start, "bits": self._bits, "block_size": BLOCK}
        inputs = (x, weight, scale) if bias is None else (x, weight, scale, None, None, bias)
        return g.op("MatMulNBits", *inputs, domain=MICROSOFT, accuracy_level=4, **sizes)

    def _stored(self, g: GraphBuilder, matrix: Matrix) -> tuple[StoredTensor, StoredTensor]:
        blocks = -(-matrix.columns // BLOCK)
        scales: list[Array] = []

        def integers() -> list[Array]:
            values, scale = quantised(matrix, self._bits)
            scales.append(scale)
            return [values]

        shape = (matrix.rows, blocks, BLOCK * self._bits // 8)
        # The scales are at hand unless an earlier run wrote the integers and was cut off before them.
        return g.weights.store(matrix.name, "uint8", shape, integers), g.weights.store(
            f"{matrix.name}.scale",
            "float32",
            (matrix.rows * blocks,),
            lambda: scales or [quantised(matrix, self._bits)[1]],
        )


class DequantizedForm:
    """int8 or int4 matrices as (inputs, outputs), dequantised and multiplied in float16.

    int4 has a scale for each block of inputs and output, int8 one for each output. The scales are float16, which makes
    the products float16: TensorRT multiplies in the type of the scale, and its kernels that read integers while they
    multiply take half precision alone. It wants whole blocks, an even number of outputs in four bits and scales
    greater than zero; so inputs are filled up with zeros, and an odd output has a neighbour that is cut off again.
    """

    compute = "float16"

    def __init__(self, bits: int) -> None:
        """Prepares for 8 or 4 bits."""
        self._bits = bits

    def multiply(
        self, g: GraphBuilder, x: ir.Value, matrix: Matrix, bias: ir.Value | None = None, bounded: bool = True
    ) -> ir.Value:
        """See ``LinearForm``."""
        y = self._product(g, x, matrix, bounded)
        return y if bias is None else g.op("Add", y, bias)

    def head(self, g: GraphBuilder, row: ir.Value, matrix: Matrix, shared: StoredTensor | None, parts: int) -> ir.Value:
        """See ``LinearForm``; outputs lie side by side, so each part is stored by itself."""
        if parts == 1:
            return self._product(g, row, matrix, bounded=True)
        runs = [
            matrix.part(part_name(matrix.name, index), *bounds)
            for index, bounds in enumerate(head_parts(matrix.rows, parts, BLOCK))
        ]
        return joined(g, [self._product(g, row, run, bounded=True) for run in runs])

    def _product(self, g: GraphBuilder, x: ir.Value, matrix: Matrix, bounded: bool) -> ir.Value:
        bits, fill = self._bits, -matrix.columns % BLOCK if self._bits == 4 else 0
        columns, outputs = matrix.columns + fill, matrix.rows + (matrix.rows % 2 if bits == 4 else 0)
        kind = ir.DataType.INT4 if bits == 4 else ir.DataType.INT8
        scales: list[Array] = []

        def integers() -> list[Array]:
            values, scale = quantised_columns(matrix, bits)
            scales.append(scale)
            return [values]

        key = f"{matrix.name}.int{bits}"  # named apart from the integers that another dialect stores of this matrix
        weight = g.weight(matrix.name, kind, (columns, outputs), integers, key)
        scale = g.weight(
            f"{matrix.name}.scale",
            np.dtype(np.float16),
            (columns // BLOCK, outputs) if bits == 4 else (outputs,),
            lambda: scales or [quantised_columns(matrix, bits)[1]],
            f"{key}.scale",
        )
        if bits == 4:
            dequantised = g.op("DequantizeLinear", weight, scale, axis=0, block_size=BLOCK)
        else:
            dequantised = g.op("DequantizeLinear", weight, scale, axis=1)
        if fill:
            x = g.op("Pad", x, g.integers(0, fill), None, g.integers(-1))
        y = rounded_product(g, x, dequantised, self.compute, bounded)
        if outputs == matrix.rows:
            return y
        return g.op("Slice", y, g.integers(0), g.integers(matrix.rows), g.integers(-1))
