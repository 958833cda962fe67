"""One GPU through the CUDA driver's C interface: memory, copies, events.

ctypes on libcuda.so.1, and not cuda-python or libcudart: the driver's library is wherever a GPU is, under this one
name, so the measurements need nothing that is not there already. The kernel library works in the same primary context.
"""

import ctypes
from collections.abc import Callable
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

_NAME_BYTES = 128
_Address, _Pointer = ctypes.c_uint64, ctypes.c_void_p


class NoGpuError(Exception):
    """There is no driver, or no GPU."""


class Gpu:
    """The first GPU that this process may use; a context manager that frees what was allocated."""

    def __init__(self) -> None:
        """Opens the GPU.

        Raises:
            NoGpuError: there is none.
        """
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NoGpuError(f"no NVIDIA driver: {error}") from None
        device, self._context, self._stream = ctypes.c_int(), _Pointer(), _Pointer()
        if self._driver.cuInit(0) or self._driver.cuDeviceGet(ctypes.byref(device), 0):
            raise NoGpuError("the NVIDIA driver finds no GPU; is CUDA_VISIBLE_DEVICES set?")
        self._device = device
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(0))
        self._events = [_Pointer(), _Pointer()]
        for event in self._events:
            self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        self._allocated: list[int] = []

    @property
    def name(self) -> str:
        """What the GPU is called."""
        text = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("cuDeviceGetName", text, ctypes.c_int(_NAME_BYTES), self._device)
        return text.value.decode()

    @property
    def stream(self) -> int:
        """The stream that all work goes to."""
        return self._stream.value or 0

    def allocate(self, nbytes: int) -> int:
        """Returns the address of new memory, aligned to 256 bytes."""
        address = _Address()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(nbytes))
        self._allocated.append(address.value)
        return address.value

    def free(self) -> None:
        """Frees all memory, after the stream's work is done."""
        self.wait()
        while self._allocated:
            self._call("cuMemFree_v2", _Address(self._allocated.pop()))

    def write(self, address: int, content: NDArray[np.uint8]) -> None:
        """Copies bytes to the GPU, after the stream's work is done."""
        self.wait()
        if content.nbytes:
            self._call("cuMemcpyHtoD_v2", _Address(address), content.ctypes.data_as(_Pointer), _size(content.nbytes))

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Copies bytes from the GPU, after the stream's work is done."""
        self.wait()
        content = np.empty(nbytes, np.uint8)
        self._call("cuMemcpyDtoH_v2", content.ctypes.data_as(_Pointer), _Address(address), _size(nbytes))
        return content

    def fill(self, address: int, nbytes: int) -> None:
        """Overwrites memory with zeros, in the stream."""
        self._call("cuMemsetD8Async", _Address(address), ctypes.c_ubyte(0), _size(nbytes), self._stream)

    def copy(self, destination: int, source: int, nbytes: int) -> None:
        """Copies memory of the GPU, in the stream."""
        self._call("cuMemcpyDtoDAsync_v2", _Address(destination), _Address(source), _size(nbytes), self._stream)

    def milliseconds(self, work: Callable[[], None]) -> float:
        """Returns how long the GPU takes for what ``work`` puts into the stream."""
        start, end = self._events
        self._call("cuEventRecord", start, self._stream)
        work()
        self._call("cuEventRecord", end, self._stream)
        self._call("cuEventSynchronize", end)
        spent = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(spent), start, end)
        return spent.value

    def wait(self) -> None:
        """Waits for the stream's work."""
        self._call("cuStreamSynchronize", self._stream)

    def __enter__(self) -> "Gpu":
        """Gives itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Frees everything; after an error the context may be unusable, and the driver frees it with the process."""
        if error is None:
            self.free()
            for event in self._events:
                self._call("cuEventDestroy_v2", event)
            self._call("cuStreamDestroy_v2", self._stream)
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()} ({status})")


def _size(nbytes: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(nbytes)
