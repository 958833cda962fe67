"""Rows of a prompt through one decoder graph, as many at a time as memory in between allows."""

from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import FloatArray, IntArray
from glimpse_runtime.backends import Backend, Engine, Tensor
from glimpse_runtime.bundle import memory
from glimpse_runtime.inputs.rope import TextRope
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.steps.cache import KVCache


@dataclass(frozen=True)
class RowBatch:
    """Rows of a prompt that go through one decoder graph.

    Attributes:
        hidden: (1, rows, hidden) float32 of the backend.
        positions: (axes, rows).
        gate: (1, rows, glimpse length) which glimpse vector a row gets; None for a graph without a gate.
        target: (1, rows, hidden) where the graph's ``hidden_out`` goes; None for a graph without it.
        together: rows at the end that must not be parted.
    """

    hidden: Tensor
    positions: IntArray
    gate: FloatArray | None = None
    target: Tensor | None = None
    together: int = 1


class RowRunner:
    """Runs batches of rows."""

    def __init__(self, backend: Backend, rope: TextRope) -> None:
        """Takes where things are."""
        self._backend = backend
        self._rope = rope

    def __call__(self, engine: Engine, cache: KVCache, batch: RowBatch, interrupt: Interrupt) -> dict[str, Tensor]:
        """Runs rows behind those in the cache, a run of them after the other, and returns the last one's outputs."""
        out: dict[str, Tensor] = {}
        for start, stop in runs_of_rows(batch.positions.shape[1], batch.together):
            inputs: dict[str, Tensor] = {"hidden_in": self._backend.rows(batch.hidden, start, stop)}
            if batch.gate is not None:
                inputs["glimpse_gate"] = batch.gate[:, start:stop]
            target = None if batch.target is None else {"hidden_out": self._backend.rows(batch.target, start, stop)}
            out = engine.run({**inputs, **self._step_inputs(batch.positions[:, start:stop], cache)}, interrupt, target)
            cache.length += stop - start
        return out

    def _step_inputs(self, positions: IntArray, cache: KVCache) -> dict[str, Tensor]:
        cos, sin = self._rope(positions)
        total = cache.length + positions.shape[1]
        return {
            "cos": cos,
            "sin": sin,
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "scored_columns": np.array([total], np.int64),
            "slots": np.arange(cache.length, total),
        }


def runs_of_rows(rows: int, together: int) -> list[tuple[int, int]]:
    """Returns starts and stops of runs of about equal length, the last ``together`` rows in one run."""
    count = -(-rows // memory.ROWS_AT_ONCE)
    starts = [min(rows * index // count, max(rows - together, 0)) for index in range(count)]
    stops = [*starts[1:], rows]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]
