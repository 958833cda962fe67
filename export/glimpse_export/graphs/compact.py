"""The compact stage: keep mask in; hidden states, positions and lower KV cache of the kept rows out, and their count.

The graph is one node, ``glimpse::CompactMany``. TensorRT with the plugin of ``glimpse_plugins`` runs it as one kernel;
every other engine runs its body, a model-local function of primitives. ONNX has no functions with a variable number
of arguments, so the body is written for the number of cache tensors at hand; it holds for any type of theirs.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.functions import FunctionBuilder
from glimpse_export.weights.file import Dtype

# Also TensorRT's namespace of the plugin. Its plugins have no variable number of outputs either: the node's attribute
# "buffers" tells it how many cache tensors there are; for "in_place" see csrc/tensorrt_plugin.cpp of glimpse_plugins.
DOMAIN = "glimpse"
OPERATOR = "CompactMany"


class CompactAuthor:
    """Writes the graph of the compact stage."""

    def __init__(self, layers: int, hidden_size: int, cache_shape: tuple[int, int, int, int], cache: Dtype) -> None:
        """Prepares.

        Args:
            layers: lower layers of the decoder.
            hidden_size: columns of the hidden states.
            cache_shape: (1, kv_heads, context, width) of every cache tensor.
            cache: type of the KV cache.
        """
        self._names = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
        self._hidden_size = hidden_size
        self._cache_shape = cache_shape
        self._cache = cache

    def author(self, g: GraphBuilder) -> None:
        """Authors the stage into an empty graph."""
        names, hidden, shape, cache = self._names, self._hidden_size, self._cache_shape, self._cache
        inputs = [
            g.input("keep", ["rows"], "bool"),
            g.input("hidden_in", [1, "rows", hidden]),
            g.input("positions", [3, "rows"], "int32"),
            *(g.input(f"past.{name}", shape, cache) for name in names),
        ]
        g.define(compact_many(g, shape[2], names))
        results = g.ops(OPERATOR, *inputs, outputs=len(inputs), domain=DOMAIN, buffers=len(names), in_place=0)
        g.output(results[0], "count", [], "int32")
        g.output(results[1], "hidden_out", [1, "kept", hidden])
        g.output(results[2], "positions_out", [3, "kept"], "int32")
        for name, value in zip(names, results[3:], strict=True):
            g.output(value, f"present.{name}", shape, cache)


def compact_many(caller: GraphBuilder, context: int, names: Sequence[str]) -> ir.Function:
    """Returns the body of ``CompactMany`` for the cache tensors ``names`` of ``context`` rows.

    The counting is in float32, in which it is exact: TensorRT documents CumSum for floating-point types alone.
    Cache tensors keep their length, so they are permuted: kept rows first, then the others in their order, which
    makes every index valid. Hidden states and positions are cut to the count.
    """
    g = FunctionBuilder(OPERATOR, DOMAIN, caller)
    keep, hidden, positions, *past = g.inputs(["keep", "hidden_in", "positions", *(f"past.{name}" for name in names)])
    slots = g.constant(np.arange(context, dtype=np.int64))
    first, rows = g.integers(0), g.op("Shape", keep)
    row = g.op("Slice", slots, first, rows, first)
    ones = g.cast(keep, "float32")
    kept_until = g.cast(g.op("CumSum", ones, g.constant(np.array(0, np.int64))), "int64")
    total = g.cast(g.op("ReduceSum", ones, first, keepdims=1), "int64")
    kept_slot = g.op("Sub", kept_until, g.integers(1))
    dropped_slot = g.op("Sub", g.op("Add", total, row), kept_until)
    slot = g.op("Where", keep, kept_slot, dropped_slot)
    order = g.op("ScatterND", slots, g.op("Unsqueeze", slot, g.integers(1)), row)
    kept = g.op("Slice", order, first, total, first)
    results = [
        g.cast(g.op("Squeeze", total, first), "int32"),
        g.op("Gather", hidden, kept, axis=1),
        g.op("Gather", positions, kept, axis=1),
        *(g.op("Gather", tensor, order, axis=2) for tensor in past),
    ]
    g.outputs(results, ["count", "hidden_out", "positions_out", *(f"present.{name}" for name in names)])
    return g.function("buffers", "in_place")
