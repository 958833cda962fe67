"""The compaction kernel as a module of the CUDA driver, launched on the device's stream."""

import ctypes
from collections.abc import Sequence
from typing import Any

from glimpse_runtime.backends.cuda import driver
from glimpse_runtime.backends.cuda.device import Cuda
from glimpse_runtime.backends.cuda.resources import Resource


class CompactModule:
    """The kernel for one GPU; serves wherever a ``glimpse_plugins.library.CompactLibrary`` does."""

    def __init__(self, cuda: Cuda, capability: tuple[int, int]) -> None:
        """Loads it, from the cache or compiled by NVRTC.

        Args:
            cuda: the device.
            capability: its compute capability.

        Raises:
            BackendError: it cannot be compiled, or the driver refuses it.
        """
        from glimpse_plugins.compiled import KERNEL, kernel_image

        image = kernel_image(capability, cuda.driver_version // 1000)
        self._cuda = cuda
        self._largest = 0
        module = Resource(cuda, "cuModuleUnload", cuda.call("cuModuleLoadData", image))
        cuda.open[module] = None
        self._function: int = cuda.call("cuModuleGetFunction", module.handle, KERNEL.encode())

    def compact(self, tensors: Sequence[Any], keep: Any, count: int = 0, stream: int = 0) -> None:
        """Enqueues it; see ``CompactLibrary.compact``. ``stream`` is the device's own whatever is given.

        Raises:
            BackendError: the arguments make no sense, or the GPU has too little shared memory for so many rows.
        """
        from glimpse_plugins.launch import launches

        for launch in launches(tensors, keep, count):
            if launch.is_large and launch.shared_bytes > self._largest:
                self._cuda.call("cuFuncSetAttribute", self._function, driver.DYNAMIC_SHARED_BYTES, launch.shared_bytes)
                self._largest = launch.shared_bytes
            blocks, threads = (launch.blocks, 1, 1), (launch.threads, 1, 1)
            arguments = (ctypes.c_void_p * 1)(ctypes.addressof(launch.plan))
            where = (launch.shared_bytes, self._cuda.stream.handle, arguments, None)
            self._cuda.call("cuLaunchKernel", self._function, *blocks, *threads, *where)
