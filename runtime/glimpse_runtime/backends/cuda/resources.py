"""What CUDA hands out and wants back: streams and pools, events, graphs, page-locked memory."""

import ctypes
from typing import Any

import numpy as np

from glimpse_runtime.arrays import Array
from glimpse_runtime.backends.cuda.calls import Calls


class Resource:
    """Something of CUDA that has to be given back."""

    def __init__(self, cuda: Calls, destroy: str, handle: Any) -> None:
        """Names the function that gives ``handle`` back."""
        self.handle = handle
        self._cuda = cuda
        self._destroy = destroy

    def close(self) -> None:
        """Gives it back, once; never raises."""
        self._cuda.open.pop(self, None)
        if self.handle is not None:
            self._cuda.release(self._destroy, self.handle)
            self.handle = None


class Event(Resource):
    """A point in the stream's work."""

    def record(self) -> None:
        """Puts it behind everything that is enqueued so far."""
        self._cuda.call("cuEventRecord", self.handle, self._cuda.stream.handle)

    def synchronize(self) -> None:
        """Waits until the stream has come to where it was last recorded; an event never recorded is no wait."""
        self._cuda.call("cuEventSynchronize", self.handle)

    def milliseconds_since(self, earlier: "Event") -> float:
        """Returns the device's time between two events that it has come to; both made with ``is_timed``."""
        spent: float = self._cuda.call("cuEventElapsedTime", earlier.handle, self.handle)
        return spent


class Graph(Resource):
    """Captured work that is enqueued as one."""

    def launch(self) -> None:
        """Enqueues it."""
        self._cuda.call("cuGraphLaunch", self.handle, self._cuda.stream.handle)


class Pinned(Resource):
    """Page-locked memory of the host.

    Attributes:
        address: where it begins.
        array: (bytes,) uint8 view of it; must not be used once it is closed.
    """

    def __init__(self, cuda: Calls, address: int, nbytes: int) -> None:
        """Wraps an address that ``cuMemHostAlloc`` gave."""
        super().__init__(cuda, "cuMemFreeHost", address)
        self.address = address
        self.array: Array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
