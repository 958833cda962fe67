"""One TensorRT execution context: shapes and addresses by name, and the scratch memory that all contexts share."""

from collections.abc import Mapping
from typing import Any

from glimpse_runtime.backends.cuda.memory import DeviceMemory, DeviceTensor
from glimpse_runtime.backends.cuda.resources import Resource
from glimpse_runtime.engines.log import Messages
from glimpse_runtime.errors import BackendError

ALIGNMENT = 256
"""Bytes that every address TensorRT is given must be a multiple of."""


class Workspace:
    """Scratch memory for what an engine needs while it runs: one piece serves all, since one runs at a time."""

    def __init__(self, memory: DeviceMemory) -> None:
        """Allocates nothing yet."""
        self._memory = memory
        self._nbytes = 0
        self._block: DeviceTensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that the hungriest engine needs."""
        return self._nbytes

    def need(self, nbytes: int) -> None:
        """Says what an engine needs."""
        if nbytes > self._nbytes:
            self._nbytes, self._block = nbytes, None

    def address(self) -> int:
        """Returns where it lies; it moves when an engine is loaded that needs more."""
        if self._block is None:
            self._block = self._memory.empty((self._nbytes,), "uint8")
        return self._block.address

    def close(self) -> None:
        """Gives it back."""
        self._block = None


class Context:
    """An execution context on one profile."""

    def __init__(
        self, raw: Any, title: str, profile: int, workspace: Workspace, messages: Messages, stream: Resource
    ) -> None:
        """Chooses the profile.

        Args:
            raw: the ``IExecutionContext``, made without memory of its own.
            title: what to call the engine in errors.
            profile: number of the optimization profile.
            workspace: its scratch memory.
            messages: what TensorRT said.
            stream: where the choice of a profile is enqueued.

        Raises:
            BackendError: TensorRT refuses.
        """
        self._raw = raw
        self._title = title
        self._workspace = workspace
        self._messages = messages
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._scratch = 0
        if raw is None:
            raise BackendError(f"{title}: TensorRT cannot make an execution context:{messages.take()}")
        try:
            chosen = raw.set_optimization_profile_async(profile, int(stream.handle))
        except RuntimeError:  # the Python module's way to say no
            chosen = False
        self._check(chosen, f"profile {profile}")

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Sets the shapes of inputs."""
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self._check(self._raw.set_input_shape(name, shape), f"shape {shape} of input {name!r}")
                self._shapes[name] = shape

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an output for the inputs' shapes; -1 is a length that depends on their numbers."""
        return tuple(self._raw.get_tensor_shape(name))

    def bind(self, name: str, address: int) -> None:
        """Sets where an input or output lies."""
        self._check(self._raw.set_tensor_address(name, address), f"address of {name!r}")

    def enqueue(self, stream: Resource) -> None:
        """Enqueues a run.

        Raises:
            BackendError: TensorRT refuses.
        """
        scratch = self._workspace.address()
        if scratch != self._scratch:
            self._raw.set_device_memory(scratch, self._workspace.nbytes)
            self._scratch = scratch
        self._check(self._raw.execute_async_v3(int(stream.handle)), "the run")

    def close(self) -> None:
        """Drops the context."""
        self._raw = None

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise BackendError(f"{self._title}: TensorRT refused {what}:{self._messages.take()}")
