"""The CUDA runtime by way of ``cuda.bindings``: memory, one stream, events, graphs; failures are errors with advice.

Everything is asynchronous: a call enqueues work on the stream, whose work is done in order. Only ``synchronize`` waits.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from glimpse_runtime.backends.cuda.resources import Event, Graph, Pinned, Resource
from glimpse_runtime.errors import BackendError

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
        open: what has to be given back, in the order in which it was opened.
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
        self.open: dict[Resource, None] = {}
        self._thread = threading.local()
        self._lock = threading.RLock()  # a collection of garbage may free memory within a call that frees memory
        self._to_free: list[int] | None = None  # while work is captured
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

    def release(self, function: str, *arguments: object) -> None:
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
