"""Compaction of kept tokens in numpy: the definition that every other implementation is tested against."""

from glimpse_runtime.types import Array, IntArray


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
