"""The KV cache: memory of all layers, allocated once, and how many of its rows are valid."""

from collections.abc import Sequence

from glimpse_runtime.backends import Backend
from glimpse_runtime.types import Array, IntArray


class KVCache:
    """Keys and values of some layers, (1, kv_heads, capacity, head_dim) each.

    Attributes:
        capacity: rows there is memory for.
        length: rows that are valid.
        state: the buffers by tensor name, ``<layer>.key`` and ``<layer>.value``.
    """

    def __init__(
        self, backend: Backend, layers: Sequence[int], kv_heads: int, capacity: int, head_dim: int, dtype: str
    ) -> None:
        """Allocates the memory."""
        self._backend = backend
        self.capacity = capacity
        self.length = 0
        shape = (1, kv_heads, capacity, head_dim)
        self.state: dict[str, Array] = {
            f"{layer}.{part}": backend.allocate(shape, dtype) for layer in layers for part in ("key", "value")
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.state.values())

    def compact(self, keep: IntArray) -> None:
        """Keeps only the rows ``keep`` (ascending) of every layer."""
        self._backend.compact(list(self.state.values()), keep)
        self.length = len(keep)
