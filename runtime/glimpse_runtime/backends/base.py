"""What the pipeline asks of an inference engine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from glimpse_runtime.arrays import Array, IntArray
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import StageSpec
from glimpse_runtime.interrupt import Interrupt


class Tensor(Protocol):
    """An array in the memory of a backend: a numpy array on the host, something like it on a device."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        ...


class Engine(Protocol):
    """One loaded graph."""

    def run(
        self, inputs: Mapping[str, Tensor], interrupt: Interrupt, outputs: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Runs the graph.

        Args:
            inputs: arrays of the host or tensors of the backend by name; those that the graph does not have are
                passed over.
            interrupt: ends the request.
            outputs: tensors to write outputs to.

        Returns:
            All outputs, state tensors excepted. What was not given in ``outputs`` may be written over by the next
            run.

        Raises:
            Interrupted: the request ended before or within the run.
        """
        ...

    def prepare(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[Interrupt], None]:
        """Binds fixed arrays once and returns what runs the graph on them.

        Between runs the caller changes the content of ``inputs`` in place; every run writes ``outputs``. Outputs
        that are not named are not computed for anybody. Arrays of the host are read and written by every run.
        """
        ...

    def close(self) -> None:
        """Frees the graph."""
        ...


class Backend(Protocol):
    """Loads graphs and owns the memory of their state.

    Attributes:
        name: the device it stands for.
        on_host: its tensors are numpy arrays, so looking at them costs nothing.
        dialects: the dialects of graphs it runs, the best first.
    """

    name: str
    on_host: bool
    dialects: tuple[str, ...]

    def allocate(self, shape: Sequence[int], dtype: str) -> Tensor:
        """Returns zeroed memory that graphs of this backend can read, write and extend in place."""
        ...

    def load(self, bundle: Bundle, name: str, stage: StageSpec, state: Mapping[str, Tensor]) -> Engine:
        """Loads a stage; several may be loaded side by side.

        Args:
            bundle: the checked bundle.
            name: the stage's name.
            stage: its graph, with inputs and outputs as the manifest lists them.
            state: memory from ``allocate`` by the name of a state tensor; it is bound to the input ``past.NAME``
                and the output ``present.NAME``, so every run extends it in place. A ``past.NAME`` that is not there
                is an input like others, given and taken by every run; on the host alone.
        """
        ...

    def rows(self, tensor: Tensor, start: int, stop: int) -> Tensor:
        """Returns rows of the last axis but one, as a view; the axes before it have length 1."""
        ...

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Writes an array of the host, or a tensor, to a tensor of the same shape or of as many numbers."""
        ...

    def download(self, tensor: Tensor) -> Array:
        """Returns a tensor as an array of the host, when everything before it is done."""
        ...

    def compact(self, buffers: Sequence[Tensor], hidden: Tensor, keep: IntArray) -> None:
        """Moves the kept rows to the front, in place and in order.

        Args:
            buffers: the KV cache, (1, kv_heads, capacity, width) each.
            hidden: (1, rows, hidden).
            keep: (kept,) ascending row numbers.
        """
        ...

    def save(self, buffers: Sequence[Tensor], rows: int) -> list[Tensor]:
        """Returns copies of the first ``rows`` of axis 2 of every buffer."""
        ...

    def restore(self, buffers: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
        """Writes what ``save`` returned back to the front of the buffers."""
        ...

    def memory(self) -> dict[str, int]:
        """Returns bytes by purpose as ``Session.memory_plan`` names them, where a device makes them differ."""
        ...

    def close(self) -> None:
        """Frees everything that was not closed yet, also after an error."""
        ...
