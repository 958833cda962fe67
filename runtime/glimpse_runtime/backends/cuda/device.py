"""The CUDA runtime by way of ``cuda.bindings``: memory, one stream, events, graphs; failures are errors with advice.

Everything is asynchronous: a call enqueues work on the stream, whose work is done in order. Only ``synchronize`` waits.
"""

import threading
from collections.abc import Callable
from typing import Any

from glimpse_runtime.backends.cuda.calls import DEVICE, Calls
from glimpse_runtime.backends.cuda.resources import Event, Graph, Pinned, Resource

_KEEP_ALL_BYTES = 2**64 - 1


class Cuda(Calls):
    """The first CUDA device that the process may see, and one stream on it.

    Attributes:
        stream: what all work is enqueued on.
    """

    def __init__(self) -> None:
        """Opens the device.

        Raises:
            BackendError: cuda-bindings is not installed, or there is no device or driver that it can use.
        """
        super().__init__()
        self._lock = threading.RLock()  # a collection of garbage may free memory within a call that frees memory
        self._to_free: list[int] | None = None  # while work is captured
        self.stream: Resource = self._new_stream()
        self._pool: Resource | None = None
        if self.call("cudaDeviceGetAttribute", self.runtime.cudaDeviceAttr.cudaDevAttrMemoryPoolsSupported, DEVICE):
            self._pool = self._own("cudaMemPoolDestroy", self._new_pool())

    def synchronize(self) -> None:
        """Waits until all work on the stream is done."""
        self.call("cudaStreamSynchronize", self.stream.handle)

    def drain(self) -> None:
        """Waits likewise on the way out; never raises."""
        if self.open:
            self.release("cudaStreamSynchronize", self.stream.handle)

    def allocate(self, nbytes: int) -> int:
        """Returns the address of device memory, aligned to 256 bytes; work enqueued from now on may use it."""
        if self._pool is None:
            address: int = self.call("cudaMalloc", max(nbytes, 1))
        else:
            address = self.call("cudaMallocFromPoolAsync", max(nbytes, 1), self._pool.handle, self.stream.handle)
        return address

    def free(self, address: int) -> None:
        """Gives memory back once all work that is enqueued so far is done; never raises."""
        with self._lock:
            if self._to_free is not None:
                self._to_free.append(address)
            elif self._pool is None:
                self.release("cudaFree", address)  # waits by itself
            else:
                self.release("cudaFreeAsync", address, self.stream.handle)

    def pinned(self, nbytes: int) -> Pinned:
        """Returns memory of the host that the GPU copies from and to while the host goes on."""
        address = self.call("cudaHostAlloc", max(nbytes, 1), self.runtime.cudaHostAllocDefault)
        resource = Pinned(self, address, nbytes)
        self.open[resource] = None
        return resource

    def event(self, is_timed: bool = False) -> Event:
        """Returns an event that nothing has been recorded to."""
        runtime = self.runtime
        # A thread that waits sleeps: the robot has better use for the core.
        flags = runtime.cudaEventBlockingSync | (0 if is_timed else runtime.cudaEventDisableTiming)
        event = Event(self, "cudaEventDestroy", self.call("cudaEventCreateWithFlags", flags))
        self.open[event] = None
        return event

    def upload(self, source: int, target: int, nbytes: int) -> None:
        """Copies from pinned memory to the device."""
        self._copy(self.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice, source, target, nbytes)

    def download(self, source: int, target: int, nbytes: int) -> None:
        """Copies from the device to pinned memory."""
        self._copy(self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost, source, target, nbytes)

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """Copies on the device, from and to memory that does not overlap."""
        self._copy(self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice, source, target, nbytes)

    def copy_blocks(
        self, source: int, source_pitch: int, target: int, target_pitch: int, width: int, count: int
    ) -> None:
        """Copies ``count`` blocks of ``width`` bytes on the device, which begin every so many bytes."""
        if width and count:
            kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
            where = (target, target_pitch, source, source_pitch, width, count)
            self.call("cudaMemcpy2DAsync", *where, kind, self.stream.handle)

    def zero(self, address: int, nbytes: int) -> None:
        """Writes zeros."""
        if nbytes:
            self.call("cudaMemsetAsync", address, 0, nbytes, self.stream.handle)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """Returns a graph of what ``enqueue`` enqueues on the stream; nothing of it is done yet.

        Memory that is given back meanwhile, by whatever thread, is given back afterwards: it must not become part of
        the graph.
        """
        runtime, no_flags = self.runtime, 0
        self.synchronize()
        with self._lock:
            self._to_free = []
        try:
            mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            self.call("cudaStreamBeginCapture", self.stream.handle, mode)
            try:
                enqueue()
            except BaseException:
                self._end_failed_capture()
                raise
            graph = Resource(self, "cudaGraphDestroy", self.call("cudaStreamEndCapture", self.stream.handle))
            try:
                executable = Graph(
                    self, "cudaGraphExecDestroy", self.call("cudaGraphInstantiate", graph.handle, no_flags)
                )
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
        for resource in reversed(list(self.open)):
            resource.close()

    def _new_stream(self) -> Resource:
        return self._own(
            "cudaStreamDestroy", self.call("cudaStreamCreateWithFlags", self.runtime.cudaStreamNonBlocking)
        )

    def _new_pool(self) -> Any:
        """A pool that keeps what was given back: requests take and return the same sizes again and again."""
        runtime = self.runtime
        properties = runtime.cudaMemPoolProps()
        properties.allocType = runtime.cudaMemAllocationType.cudaMemAllocationTypePinned
        properties.location.type = runtime.cudaMemLocationType.cudaMemLocationTypeDevice
        properties.location.id = DEVICE
        pool = self.call("cudaMemPoolCreate", properties)
        keep = runtime.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        self.call("cudaMemPoolSetAttribute", pool, keep, self.driver.cuuint64_t(_KEEP_ALL_BYTES))
        return pool

    def _copy(self, kind: Any, source: int, target: int, nbytes: int) -> None:
        if nbytes:
            self.call("cudaMemcpyAsync", target, source, nbytes, kind, self.stream.handle)

    def _own(self, destroy: str, handle: Any) -> Resource:
        resource = Resource(self, destroy, handle)
        self.open[resource] = None
        return resource

    def _end_failed_capture(self) -> None:
        error, graph = self.runtime.cudaStreamEndCapture(self.stream.handle)
        if error == self.runtime.cudaError_t.cudaSuccess:
            self.release("cudaGraphDestroy", graph)
        self.runtime.cudaGetLastError()  # the failed capture is no error of the next call
