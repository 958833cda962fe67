"""Compaction of kept tokens in numpy: the definition that every other implementation is tested against."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glimpse_runtime.arrays import Array, BoolArray, IntArray


@dataclass(frozen=True)
class Compacted:
    """What is left of a prompt after pruning.

    Attributes:
        count: kept rows.
        hidden: (1, count, hidden) states of the kept rows, in order.
        positions: (3, count) of the kept rows, in order.
        buffers: the KV cache, (1, kv_heads, capacity, width) each: rows 0..count-1 are the kept ones in order; what
            the others hold is unspecified.
    """

    count: int
    hidden: Array
    positions: Array
    buffers: tuple[Array, ...]


def compact_prompt(
    keep: BoolArray | IntArray, hidden: Array, positions: Array, buffers: Sequence[Array], in_place: bool = False
) -> Compacted:
    """Keeps some rows of a prompt: the whole operation ``glimpse::CompactMany``.

    Args:
        keep: (rows,) a row is kept where this is not zero.
        hidden: (1, rows, hidden) states.
        positions: (3, rows).
        buffers: the KV cache of every layer, (1, kv_heads, capacity, width) each with capacity >= rows.
        in_place: moves rows within the given arrays, of which the result then holds views.
    """
    rows = np.flatnonzero(keep)
    if not in_place:
        hidden, positions, buffers = hidden.copy(), positions.copy(), [buffer.copy() for buffer in buffers]
    compact_rows(hidden, rows, axis=1)
    compact_rows(positions, rows, axis=1)
    for buffer in buffers:
        compact_rows(buffer, rows)
    return Compacted(len(rows), hidden[:, : len(rows)], positions[:, : len(rows)], tuple(buffers))


def compact_rows(buffer: Array, keep: IntArray, axis: int = 2) -> None:
    """Moves the rows ``keep`` of ``axis`` to the front of ``buffer``, in place and in order.

    Args:
        buffer: for the KV cache (1, kv_heads, capacity, width); rows behind the kept ones are left as they are.
        keep: (kept,) ascending row numbers.
        axis: the axis to compact.
    """
    front: list[slice | IntArray] = [slice(None)] * buffer.ndim
    chosen = list(front)
    front[axis], chosen[axis] = slice(0, len(keep)), keep
    buffer[tuple(front)] = buffer[tuple(chosen)]
