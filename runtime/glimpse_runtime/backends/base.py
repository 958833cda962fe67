"""What the pipeline asks of an inference engine."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.manifest import StageSpec
from glimpse_runtime.types import Array, IntArray


class Engine(Protocol):
    """One loaded graph."""

    def run(self, inputs: Mapping[str, Array], interrupt: Interrupt) -> dict[str, Array]:
        """Runs the graph on host arrays and returns its outputs, state tensors excepted.

        Raises:
            Interrupted: the request ended before or within the run.
        """
        ...

    def prepare(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[Interrupt], None]:
        """Binds fixed arrays once and returns what runs the graph on them.

        Between runs the caller changes the content of ``inputs`` in place; every run writes ``outputs``. Outputs
        that are not named are not computed for anybody.
        """
        ...

    def close(self) -> None:
        """Frees the graph."""
        ...


class Backend(Protocol):
    """Loads graphs and owns the memory of their state.

    Attributes:
        name: its name.
        dialects: the dialects of graphs it runs, the best first.
    """

    name: str
    dialects: tuple[str, ...]

    def allocate(self, shape: Sequence[int], dtype: str) -> Array:
        """Returns zeroed memory that graphs of this backend can extend in place."""
        ...

    def load(self, graph: Path, stage: StageSpec, state: Mapping[str, Array]) -> Engine:
        """Loads a graph.

        Args:
            graph: the file.
            stage: its inputs and outputs as the manifest lists them.
            state: memory from ``allocate`` by the name of a state tensor; it is bound to the input ``past.NAME``
                and the output ``present.NAME``, so every run extends it in place.
        """
        ...

    def compact(self, buffers: Sequence[Array], keep: IntArray) -> None:
        """Moves rows ``keep`` (ascending) of axis 2 to the front of every buffer, in place."""
        ...

    def save(self, buffers: Sequence[Array], rows: int) -> list[Array]:
        """Returns copies of the first ``rows`` of axis 2 of every buffer."""
        ...

    def restore(self, buffers: Sequence[Array], saved: Sequence[Array]) -> None:
        """Writes what ``save`` returned back to the front of the buffers."""
        ...

    def close(self) -> None:
        """Frees everything that was not closed yet."""
        ...
