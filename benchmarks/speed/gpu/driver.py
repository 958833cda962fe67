"""One GPU for measurements: memory, copies, events and the compaction kernel, by way of the runtime's own calls."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse_runtime.backends.cuda.device import Cuda
from glimpse_runtime.backends.cuda.kernel import CompactModule
from glimpse_runtime.backends.cuda.transfer import Transfer
from glimpse_runtime.engines.gpu import current_gpu
from glimpse_runtime.errors import BackendError


class NoGpuError(Exception):
    """There is no driver, or no GPU."""


class Gpu:
    """The first GPU that this process may use; a context manager that frees what was allocated."""

    def __init__(self) -> None:
        """Opens the GPU.

        Raises:
            NoGpuError: there is none.
        """
        found = current_gpu()
        try:
            self._cuda = Cuda()
        except BackendError as error:
            raise NoGpuError(str(error)) from None
        if found is None:
            raise NoGpuError("the NVIDIA driver finds no GPU; is CUDA_VISIBLE_DEVICES set?")
        self._found = found
        self._transfer = Transfer(self._cuda)
        self._events = [self._cuda.event(is_timed=True) for _ in range(2)]
        self._allocated: list[int] = []

    @property
    def name(self) -> str:
        """What the GPU is called."""
        return self._found.name

    @property
    def stream(self) -> int:
        """The stream that all work goes to."""
        return int(self._cuda.stream.handle)

    def kernel(self) -> CompactModule:
        """Returns the compaction kernel, compiled by NVRTC if the cache does not have it.

        Raises:
            BackendError: it cannot be had; with what to install.
        """
        return CompactModule(self._cuda, self._found.capability)

    def allocate(self, nbytes: int) -> int:
        """Returns the address of new memory, aligned to 256 bytes."""
        address = self._cuda.allocate(nbytes)
        self._allocated.append(address)
        return address

    def free(self) -> None:
        """Frees all memory, after the stream's work is done."""
        self.wait()
        while self._allocated:
            self._cuda.free(self._allocated.pop())

    def write(self, address: int, content: NDArray[np.uint8]) -> None:
        """Copies bytes to the GPU, in the stream."""
        self._transfer.upload(content, address)

    def read(self, address: int, nbytes: int) -> Any:
        """Copies bytes from the GPU, (nbytes,) uint8, after the stream's work is done."""
        return self._transfer.download(address, nbytes)

    def fill(self, address: int, nbytes: int) -> None:
        """Overwrites memory with zeros, in the stream."""
        self._cuda.zero(address, nbytes)

    def copy(self, destination: int, source: int, nbytes: int) -> None:
        """Copies memory of the GPU, in the stream."""
        self._cuda.copy(source, destination, nbytes)

    def milliseconds(self, work: Callable[[], None]) -> float:
        """Returns how long the GPU takes for what ``work`` puts into the stream."""
        start, end = self._events
        start.record()
        work()
        end.record()
        end.synchronize()
        return end.milliseconds_since(start)

    def wait(self) -> None:
        """Waits for the stream's work."""
        self._cuda.synchronize()

    def __enter__(self) -> "Gpu":
        """Gives itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Frees everything; after an error the context may be unusable, and the driver frees it with the process."""
        if error is None:
            self.free()
            self._cuda.close()
