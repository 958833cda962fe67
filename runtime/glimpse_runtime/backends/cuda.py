"""The CUDA runtime by way of ``cuda.bindings``: memory, one stream, events, graphs; failures are errors with advice.

Everything is asynchronous: a call enqueues work on the stream, whose work is done in order. Only ``synchronize`` waits.
"""

import ctypes
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from glimpse_runtime.errors import BackendError
from glimpse_runtime.types import Array

log = logging.getLogger("glimpse")

DEVICE = 0
"""Number of the device; ``CUDA_VISIBLE_DEVICES`` says which one that is."""
INSTALL = 'pip install "glimpse-edge[cuda]"'
_KEEP_ALL_BYTES = 2**64 - 1
_ADVICE = {
    "cudaErrorMemoryAllocation": "the GPU has too little memory left: end other programs that use it, or export with a "
    "smaller --max-context or --max-visual-tokens, --kv-cache-precision fp16 or a precision of int4",
    "cudaErrorInsufficientDriver": "the driver is older than the package cuda-bindings: bring it up to date, or for a "
    'driver of CUDA 12 (JetPack 6) run: pip install "cuda-bindings<13"',
    "cudaErrorNoDevice": "no CUDA device is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use the device cpu",
    "cudaErrorStreamCaptureUnsupported": "the work cannot be captured in a CUDA graph",
}
_LOST = "the GPU's state is lost: end this process and start it again"
_ADVICE |= dict.fromkeys(("cudaErrorIllegalAddress", "cudaErrorLaunchFailure", "cudaErrorLaunchTimeout"), _LOST)


class Cuda:
    """The first CUDA device that the process may see, and one stream on it.

    Attributes:
        runtime: the module ``cuda.bindings.runtime``.
        stream: what all work is enqueued on.
    """

    def __init__(self) -> None:
        """Opens the device.

        Raises:
            BackendError: cuda-bindings is not installed, or there is no device or driver that it can use.
        """
        try:
            from cuda.bindings import driver, runtime
        except ImportError as error:
            raise BackendError(f"the package cuda-bindings cannot be imported ({error}); run: {INSTALL}") from None
        self.runtime: Any = runtime
        self._open: dict[Resource, None] = {}
        self._thread = threading.local()
        self.use_here()
        self.stream = self._new_stream()
        self._pool: Resource | None = None
        if self.call("cudaDeviceGetAttribute", runtime.cudaDeviceAttr.cudaDevAttrMemoryPoolsSupported, DEVICE):
            self._pool = self._own("cudaMemPoolDestroy", self._new_pool(driver))

    def use_here(self) -> None:
        """Makes the device that of the calling thread, as every call below does; for what others call in CUDA."""
        if not getattr(self._thread, "uses_it", False):
            self._call("cudaSetDevice", DEVICE)
            self._thread.uses_it = True

    def call(self, function: str, *arguments: object) -> Any:
        """Calls a function of the CUDA runtime and returns its result, None if it has none.

        Raises:
            BackendError: it failed, or work that was enqueued before did.
        """
        self.use_here()
        return self._call(function, *arguments)

    def _call(self, function: str, *arguments: object) -> Any:
        error, *values = getattr(self.runtime, function)(*arguments)
        if error != self.runtime.cudaError_t.cudaSuccess:
            raise BackendError(f"CUDA: {function} failed with {error.name}: {self._advice(error)}")
        return values[0] if values else None

    def synchronize(self) -> None:
        """Waits until all work on the stream is done."""
        self.call("cudaStreamSynchronize", self.stream.handle)

    def drain(self) -> None:
        """Waits likewise on the way out; never raises."""
        if self._open:
            self._release("cudaStreamSynchronize", self.stream.handle)

    def allocate(self, nbytes: int) -> int:
        """Returns the address of device memory, aligned to 256 bytes; work enqueued from now on may use it."""
        if self._pool is None:
            address: int = self.call("cudaMalloc", max(nbytes, 1))
        else:
            address = self.call("cudaMallocFromPoolAsync", max(nbytes, 1), self._pool.handle, self.stream.handle)
        return address

    def free(self, address: int) -> None:
        """Gives memory back once all work that is enqueued so far is done; never raises."""
        if self._pool is None:
            self._release("cudaFree", address)  # waits by itself
        else:
            self._release("cudaFreeAsync", address, self.stream.handle)

    def pinned(self, nbytes: int) -> "Pinned":
        """Returns memory of the host that the GPU copies from and to while the host goes on."""
        address = self.call("cudaHostAlloc", max(nbytes, 1), self.runtime.cudaHostAllocDefault)
        resource = Pinned(self, address, nbytes)
        self._open[resource] = None
        return resource

    def event(self, is_timed: bool = False) -> "Event":
        """Returns an event that nothing has been recorded to."""
        runtime = self.runtime
        # A thread that waits sleeps: the robot has better use for the core.
        flags = runtime.cudaEventBlockingSync | (0 if is_timed else runtime.cudaEventDisableTiming)
        event = Event(self, "cudaEventDestroy", self.call("cudaEventCreateWithFlags", flags))
        self._open[event] = None
        return event

    def upload(self, source: int, target: int, nbytes: int, stream: "Resource | None" = None) -> None:
        """Copies from pinned memory to the device."""
        self._copy(self.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice, source, target, nbytes, stream)

    def download(self, source: int, target: int, nbytes: int, stream: "Resource | None" = None) -> None:
        """Copies from the device to pinned memory."""
        self._copy(self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost, source, target, nbytes, stream)

    def copy(self, source: int, target: int, nbytes: int) -> None:
        """Copies on the device, from and to memory that does not overlap."""
        self._copy(self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice, source, target, nbytes, None)

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

    def capture(self, enqueue: "Callable[[Resource], None]") -> "Graph":
        """Returns a graph of what ``enqueue`` enqueues on the stream it is given; nothing of it is done yet.

        It is recorded on a stream of its own: what another thread enqueues meanwhile, such as memory that it gives
        back, does not become part of it.
        """
        runtime, flags = self.runtime, 0
        self.synchronize()
        with self._temporary_stream() as stream:
            self.call(
                "cudaStreamBeginCapture", stream.handle, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            )
            try:
                enqueue(stream)
            except BaseException:
                self._end_failed_capture(stream)
                raise
            graph = Resource(self, "cudaGraphDestroy", self.call("cudaStreamEndCapture", stream.handle))
            try:
                executable = Graph(self, "cudaGraphExecDestroy", self.call("cudaGraphInstantiate", graph.handle, flags))
            finally:
                graph.close()
        self._open[executable] = None
        return executable

    def close(self) -> None:
        """Waits for the stream and frees everything that is still open, last opened first; never raises."""
        self.drain()
        for resource in reversed(list(self._open)):
            resource.close()

    def _new_stream(self) -> "Resource":
        return self._own(
            "cudaStreamDestroy", self.call("cudaStreamCreateWithFlags", self.runtime.cudaStreamNonBlocking)
        )

    @contextmanager
    def _temporary_stream(self) -> "Iterator[Resource]":
        stream = self._new_stream()
        try:
            yield stream
        finally:
            stream.close()

    def _new_pool(self, driver: Any) -> Any:
        """A pool that keeps what was given back: requests take and return the same sizes again and again."""
        runtime = self.runtime
        properties = runtime.cudaMemPoolProps()
        properties.allocType = runtime.cudaMemAllocationType.cudaMemAllocationTypePinned
        properties.location.type = runtime.cudaMemLocationType.cudaMemLocationTypeDevice
        properties.location.id = DEVICE
        pool = self.call("cudaMemPoolCreate", properties)
        keep = runtime.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        self.call("cudaMemPoolSetAttribute", pool, keep, driver.cuuint64_t(_KEEP_ALL_BYTES))
        return pool

    def _copy(self, kind: Any, source: int, target: int, nbytes: int, stream: "Resource | None") -> None:
        if nbytes:
            self.call("cudaMemcpyAsync", target, source, nbytes, kind, (stream or self.stream).handle)

    def _own(self, destroy: str, handle: Any) -> "Resource":
        resource = Resource(self, destroy, handle)
        self._open[resource] = None
        return resource

    def _end_failed_capture(self, stream: "Resource") -> None:
        error, graph = self.runtime.cudaStreamEndCapture(stream.handle)
        if error == self.runtime.cudaError_t.cudaSuccess:
            self._release("cudaGraphDestroy", graph)
        self.runtime.cudaGetLastError()  # the failed capture is no error of the next call

    def _release(self, function: str, *arguments: object) -> None:
        """Calls a function on the way out, where an earlier error must not hide behind a new one."""
        try:
            self.call(function, *arguments)
        except BackendError as error:
            log.debug("while closing: %s", error)

    def _advice(self, error: Any) -> str:
        if error.name in _ADVICE:
            return _ADVICE[error.name]
        text = self.runtime.cudaGetErrorString(error)[1]
        return text.decode() if isinstance(text, bytes) else str(text)


class Resource:
    """Something of CUDA that has to be given back."""

    def __init__(self, cuda: Cuda, destroy: str, handle: Any) -> None:
        """Names the function that gives ``handle`` back."""
        self.handle = handle
        self._cuda = cuda
        self._destroy = destroy

    def close(self) -> None:
        """Gives it back, once; never raises."""
        self._cuda._open.pop(self, None)
        if self.handle is not None:
            self._cuda._release(self._destroy, self.handle)
            self.handle = None


class Event(Resource):
    """A point in the stream's work."""

    def record(self) -> None:
        """Puts it behind everything that is enqueued so far."""
        self._cuda.call("cudaEventRecord", self.handle, self._cuda.stream.handle)

    def synchronize(self) -> None:
        """Waits until the stream has come to where it was last recorded; an event never recorded is no wait."""
        self._cuda.call("cudaEventSynchronize", self.handle)

    def milliseconds_since(self, earlier: "Event") -> float:
        """Returns the device's time between two events that it has come to; both made with ``is_timed``."""
        spent: float = self._cuda.call("cudaEventElapsedTime", earlier.handle, self.handle)
        return spent


class Graph(Resource):
    """Captured work that is enqueued as one."""

    def launch(self) -> None:
        """Enqueues it."""
        self._cuda.call("cudaGraphLaunch", self.handle, self._cuda.stream.handle)


class Pinned(Resource):
    """Page-locked memory of the host.

    Attributes:
        address: where it begins.
        array: (bytes,) uint8 view of it; must not be used once it is closed.
    """

    def __init__(self, cuda: Cuda, address: int, nbytes: int) -> None:
        """Wraps an address that ``cudaHostAlloc`` gave."""
        super().__init__(cuda, "cudaFreeHost", address)
        self.address = address
        self.array: Array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
