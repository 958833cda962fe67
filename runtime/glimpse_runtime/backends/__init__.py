"""Inference engines behind one small seam."""

from glimpse_runtime.backends.base import Backend, Engine
from glimpse_runtime.errors import BackendError

BACKENDS = ("cpu",)


def open_backend(device: str, threads: int | None = None) -> Backend:
    """Returns the backend for a device.

    Args:
        device: one of ``BACKENDS``.
        threads: CPU threads per operator; None lets the engine choose.

    Raises:
        BackendError: the device is unknown or its engine is not installed.
    """
    if device == "cpu":
        from glimpse_runtime.backends.ort import OrtBackend

        return OrtBackend(threads)
    raise BackendError(f"unknown device {device!r}; this version has: {', '.join(BACKENDS)}")


__all__ = ["BACKENDS", "Backend", "Engine", "open_backend"]
