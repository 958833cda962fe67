"""State in numpy arrays, for backends whose engines read host memory."""

from collections.abc import Sequence

import numpy as np

from glimpse_runtime.compaction import compact_rows
from glimpse_runtime.errors import BackendError
from glimpse_runtime.types import Array, IntArray


class HostMemory:
    """The memory half of ``Backend``."""

    def allocate(self, shape: Sequence[int], dtype: str) -> Array:
        """Returns a zeroed numpy array.

        Raises:
            BackendError: numpy has no such type.
        """
        try:
            return np.zeros(tuple(shape), dtype)
        except TypeError:
            raise BackendError(
                f"a KV cache of {dtype} needs a GPU; export again with --kv-cache-precision fp32 or fp16"
            ) from None

    def compact(self, buffers: Sequence[Array], keep: IntArray) -> None:
        """Moves kept rows to the front; see ``Backend.compact``."""
        for buffer in buffers:
            compact_rows(buffer, keep)

    def save(self, buffers: Sequence[Array], rows: int) -> list[Array]:
        """Copies rows; see ``Backend.save``."""
        return [buffer[:, :, :rows].copy() for buffer in buffers]

    def restore(self, buffers: Sequence[Array], saved: Sequence[Array]) -> None:
        """Writes rows back; see ``Backend.restore``."""
        for buffer, rows in zip(buffers, saved, strict=True):
            buffer[:, :, : rows.shape[2]] = rows

    def close(self) -> None:
        """Does nothing: numpy frees the state with its last user."""
