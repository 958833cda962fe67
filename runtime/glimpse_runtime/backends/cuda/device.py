"""A CUDA device by way of its driver: memory, one stream, events, graphs; failures are errors with advice.

Everything is asynchronous: a call enqueues work on the stream, whose work is done in order. Only ``synchronize`` waits.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from glimpse_runtime.backends.cuda import driver
from glimpse_runtime.backends.cuda.calls import DEVICE, Calls
from glimpse_runtime.backends.cuda.resources import Event, Graph, Pinned, Resource
from glimpse_runtime.errors import BackendError

_KEEP_ALL_BYTES = 2**64 - 1


class Cuda(Calls):
    """The first CUDA device that the process may see, and one stream on it.

    Attributes:
        stream: what all work is enqueued on.
    """

    def __init__(self) -> None:
        """Opens the device.

        Raises:
            BackendError: there is no driver or no device.
        """
        super().__init__()
        self._lock = threading.RLock()  # a collection of garbage may free memory within a call that frees memory
        self._to_free: list[int] | None = None  # while work is captured
        self._own("cuDevicePrimaryCtxRelease_v2", self.device)
        self._pool: Resource | None = None
        try:
            self.stream: Resource = self._own("cuStreamDestroy_v2", self.call("cuStreamCreate", driver.NON_BLOCKING))
            if self.attribute(driver.MEMORY_POOLS_SUPPORTED):
                self._pool = self._own("cuMemPoolDestroy", self._new_pool())
        except BackendError:
            self._close_all()
            raise

    def attribute(self, number: int) -> int:
        """Returns an attribute of the device, by its number in ``CUdevice_attribute``."""
        value: int = self.call("cuDeviceGetAttribute", number, self.device)
        return value

    def synchronize(self) -> None:
        """Waits until all work on the stream is done."""
        self.call("cuStreamSynchronize", self.stream.handle)

    def drain(self) -> None:
        """Waits likewise on the way out; never raises."""
        if self.open:
            self.release("cuStreamSynchronize", self.stream.handle)

    def allocate(self, nbytes: int) -> int:
        """Returns the address of device memory, aligned to 256 bytes; work enqueued from now on may use it."""
        if self._pool is None:
            address: int = self.call("cuMemAlloc_v2", max(nbytes, 1))
        else:
            address = self.call("cuMemAllocFromPoolAsync", max(nbytes, 1), self._pool.handle, self.stream.handle)
        return address

    def free(self, address: int) -> None:
        """Gives memory back once all work that is enqueued so far is done; never raises."""
        with self._lock:
            if self._to_free is not None:
                self._to_free.append(address)
            elif self._pool is None:
                self.release("cuMemFree_v2", address)  # waits by itself
            else:
                self.release("cuMemFreeAsync", address, self.stream.handle)

    def pinned(self, nbytes: int) -> Pinned:
        """Returns memory of the host that the GPU copies from and to while the host goes on."""
        address = self.call("cuMemHostAlloc", max(nbytes, 1), 0)
        resource = Pinned(self, address, nbytes)
        self.open[resource] = None
        return resource

    def event(self, is_timed: bool = False) -> Event:
        """Returns an event that nothing has been recorded to."""
        # A thread that waits sleeps: the robot has better use for the core.
        flags = driver.BLOCKING_SYNC | (0 if is_timed else driver.DISABLE_TIMING)
        event = Event(self, "cuEventDestroy_v2", self.call("cuEventCreate", flags))
        self.open[event] = None
        return event

    def upload(self, source: int, target: int, nbytes: int) -> None:
        """Copies from pinned memory to the device."""
        self._copy("cuMemcpyHtoDAsync_v2", source, target, nbytes)

    def download(self, source: int, target: int, nbytes: int) -> None:
        """Copies from the device to pinned memory."""
        self._copy("cuMemcpyDtoHAsync_v2", source, target, nbytes)

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """Copies on the device, from and to memory that does not overlap."""
        self._copy("cuMemcpyDtoDAsync_v2", source, target, nbytes)

    def copy_blocks(
        self, source: int, source_pitch: int, target: int, target_pitch: int, width: int, count: int
    ) -> None:
        """Copies ``count`` blocks of ``width`` bytes on the device, which begin every so many bytes."""
        if width and count:
            copy = driver.blocks(source, source_pitch, target, target_pitch, width, count)
            self.call("cuMemcpy2DAsync_v2", copy, self.stream.handle)

    def zero(self, address: int, nbytes: int) -> None:
        """Writes zeros."""
        if nbytes:
            self.call("cuMemsetD8Async", address, 0, nbytes, self.stream.handle)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """Returns a graph of what ``enqueue`` enqueues on the stream; nothing of it is done yet.

        Memory that is given back meanwhile, by whatever thread, is given back afterwards: it must not become part of
        the graph.
        """
        no_flags = 0
        self.synchronize()
        with self._lock:
            self._to_free = []
        try:
            self.call("cuStreamBeginCapture_v2", self.stream.handle, driver.CAPTURE_THREAD_LOCAL)
            try:
                enqueue()
            except BaseException:
                self._end_failed_capture()
                raise
            graph = Resource(self, "cuGraphDestroy", self.call("cuStreamEndCapture", self.stream.handle))
            try:
                made = self.call("cuGraphInstantiateWithFlags", graph.handle, no_flags)
                executable = Graph(self, "cuGraphExecDestroy", made)
            finally:
                graph.close()
        finally:
            with self._lock:
                waiting, self._to_free = self._to_free, None
            for address in waiting:
                self.free(address)
        self.open[executable] = None
        return executable

    def close(self) -> None:
        """Waits for the stream and frees everything that is still open, last opened first; never raises."""
        self.drain()
        self._close_all()

    def _close_all(self) -> None:
        for resource in reversed(list(self.open)):
            resource.close()

    def _new_pool(self) -> Any:
        """A pool that keeps what was given back: requests take and return the same sizes again and again."""
        pool = self.call("cuMemPoolCreate", driver.pool_on(DEVICE))
        self.call("cuMemPoolSetAttribute", pool, driver.RELEASE_THRESHOLD, ctypes.c_uint64(_KEEP_ALL_BYTES))
        return pool

    def _copy(self, function: str, source: int, target: int, nbytes: int) -> None:
        if nbytes:
            self.call(function, target, source, nbytes, self.stream.handle)

    def _own(self, destroy: str, handle: Any) -> Resource:
        resource = Resource(self, destroy, handle)
        self.open[resource] = None
        return resource

    def _end_failed_capture(self) -> None:
        status, graph = self._driver("cuStreamEndCapture", self.stream.handle)
        if status == driver.SUCCESS and graph is not None:
            self.release("cuGraphDestroy", graph)
