"""Inference engines behind one small seam."""

import os

from glimpse_runtime.backends.base import Backend, Engine, Tensor
from glimpse_runtime.devices import DEVICES
from glimpse_runtime.errors import BackendError, InputError


def open_backend(device: str, threads: int | None = None) -> Backend:
    """Returns the backend for a device.

    Args:
        device: one of ``DEVICES``.
        threads: CPU threads per operator; None lets the engine choose.

    Raises:
        InputError: the number of threads makes no sense on this machine.
        BackendError: the device is unknown or not there, or its engine is not installed.
    """
    most = 4 * (os.cpu_count() or 1)
    if threads is not None and not 1 <= threads <= most:
        raise InputError(f"threads must lie in 1..{most} on this machine, found {threads}")
    if device == "cpu":
        from glimpse_runtime.backends.ort import OrtBackend

        return OrtBackend(threads)
    if device == "cuda":
        from glimpse_runtime.backends.ort_cuda import OrtCudaBackend

        return OrtCudaBackend(threads)
    if device in ("tensorrt", "tensorrt-rtx"):
        if threads is not None:
            raise InputError(f"threads are for the devices cpu and cuda, not for {device}")
        from glimpse_runtime.backends.trt import TrtBackend

        return TrtBackend(device)
    raise BackendError(f"unknown device {device!r}; this version has: {', '.join(DEVICES)}")


__all__ = ["Backend", "Engine", "Tensor", "open_backend"]
