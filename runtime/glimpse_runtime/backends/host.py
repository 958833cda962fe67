"""State in numpy arrays, for backends whose engines read host memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from glimpse_runtime.arrays import Array, IntArray
from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.compact import compact_rows
from glimpse_runtime.errors import BackendError


class HostMemory:
    """The memory half of ``Backend``."""

    on_host = True

    def allocate(self, shape: Sequence[int], dtype: str) -> Array:
        """Returns a zeroed numpy array.

        Raises:
            BackendError: the host computes with no such type, or there is not enough memory.
        """
        if dtype == "bfloat16":  # which numpy has where ml_dtypes was imported, and then engines do not take it
            raise BackendError(
                f"a KV cache of {dtype} needs a GPU; export again with --kv-cache-precision fp32 or fp16"
            )
        try:
            return np.zeros(tuple(shape), dtype)
        except (MemoryError, ValueError) as error:  # numpy's words for more than it can count are a ValueError
            raise BackendError(
                f"no memory for {dtype} of shape {tuple(shape)}: {error}; export again with a smaller --max-context"
            ) from None

    def rows(self, tensor: Tensor, start: int, stop: int) -> Array:
        """Returns a view; see ``Backend.rows``."""
        return host(tensor)[..., start:stop, :]

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copies numbers; see ``Backend.copy``."""
        host(target)[...] = host(source).reshape(target.shape)

    def download(self, tensor: Tensor) -> Array:
        """Returns the tensor itself."""
        return host(tensor)

    def compact(self, buffers: Sequence[Tensor], hidden: Tensor, keep: IntArray) -> None:
        """Moves kept rows to the front; see ``Backend.compact``."""
        for buffer in buffers:
            compact_rows(host(buffer), keep)
        compact_rows(host(hidden), keep, axis=1)

    def save(self, buffers: Sequence[Tensor], rows: int) -> list[Tensor]:
        """Copies rows; see ``Backend.save``."""
        return [host(buffer)[:, :, :rows].copy() for buffer in buffers]

    def restore(self, buffers: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
        """Writes rows back; see ``Backend.restore``."""
        for buffer, rows in zip(buffers, saved, strict=True):
            host(buffer)[:, :, : rows.shape[2]] = host(rows)

    def memory(self) -> dict[str, int]:
        """Returns nothing: there is no device."""
        return {}

    def close(self) -> None:
        """Does nothing: numpy frees the state with its last user."""


def host(tensor: Tensor) -> Array:
    """Returns a tensor that is a numpy array as one.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(tensor, np.ndarray):
        raise TypeError(f"expected an array of the host, found {type(tensor).__name__}")
    array: np.ndarray[Any, np.dtype[Any]] = tensor
    return array
