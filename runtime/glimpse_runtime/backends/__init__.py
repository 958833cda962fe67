"""Inference engines behind one small seam."""

import importlib
import os

from glimpse_runtime.backends.base import Backend, Engine, Tensor
from glimpse_runtime.checked import whole
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
    if threads is not None:
        threads = whole("threads", threads, 1, 4 * (os.cpu_count() or 1))
    found = DEVICES.get(device)
    if found is None:
        raise BackendError(f"unknown device {device!r}; this version has: {', '.join(DEVICES)}")
    if threads is not None and not found.takes_threads:
        able = " and ".join(name for name, other in DEVICES.items() if other.takes_threads)
        raise InputError(f"threads are for the devices {able}, not for {device}")
    module, name = found.backend
    opened: Backend = getattr(importlib.import_module(module), name)(device, threads)
    return opened


__all__ = ["Backend", "Engine", "Tensor", "open_backend"]
