"""The KV cache: memory of all layers, allocated once, and how many of its rows are valid."""

from collections.abc import Iterable

from glimpse_runtime.arrays import IntArray
from glimpse_runtime.backends import Backend, Tensor
from glimpse_runtime.bundle.manifest import TensorSpec
from glimpse_runtime.bundle.memory import cache_buffers


class KVCache:
    """Keys and values of the layers of one graph, (1, kv_heads, capacity, width) each.

    The width is the head size, or more where the graph's attention needs it: columns behind the head size are zero.

    Attributes:
        capacity: rows there is memory for.
        length: rows that are valid.
        state: the buffers by tensor name, ``<layer>.key`` and ``<layer>.value``.
    """

    def __init__(self, backend: Backend, inputs: Iterable[TensorSpec], capacity: int) -> None:
        """Allocates the memory of the ``past.*`` tensors among a graph's inputs."""
        self._backend = backend
        self.capacity = capacity
        self.length = 0
        buffers = cache_buffers(inputs, capacity)
        self.state: dict[str, Tensor] = {name: backend.allocate(*buffer) for name, buffer in buffers.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.state.values())

    def compact(self, hidden: Tensor, keep: IntArray) -> None:
        """Keeps only the rows ``keep`` (ascending) of every layer, and of (1, rows, hidden) states."""
        self._backend.compact(list(self.state.values()), hidden, keep)
        self.length = len(keep)

    def save(self) -> list[Tensor]:
        """Returns copies of the valid rows of every buffer."""
        return self._backend.save(list(self.state.values()), self.length)

    def restore(self, saved: list[Tensor]) -> None:
        """Puts saved rows back; they are then the valid ones."""
        self._backend.restore(list(self.state.values()), saved)
        self.length = saved[0].shape[2] if saved else 0
