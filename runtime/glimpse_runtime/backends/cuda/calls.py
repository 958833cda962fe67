"""Calls of the CUDA driver on one device: failures are errors with advice."""

import logging
import threading
from typing import Any, Protocol

from glimpse_runtime.backends.cuda.driver import SUCCESS, Driver, open_driver
from glimpse_runtime.errors import BackendError

log = logging.getLogger("glimpse")

DEVICE = 0
"""Number of the device; ``CUDA_VISIBLE_DEVICES`` says which one that is."""
_ADVICE = {
    "CUDA_ERROR_OUT_OF_MEMORY": "the GPU has too little memory left: end other programs that use it, or export with a "
    "smaller --max-context or --max-visual-tokens, --kv-cache-precision fp16 or a precision of int4",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver's library and its kernel module differ in version: reboot, and in "
    "a container remove the driver packages that were installed there",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "the work cannot be captured in a CUDA graph",
}
_NONE = "no CUDA device is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use the device cpu"
_ADVICE |= dict.fromkeys(("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_DEVICE"), _NONE)
_LOST = "the GPU's state is lost: end this process and start it again"
_ADVICE |= dict.fromkeys(("CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_LAUNCH_TIMEOUT"), _LOST)


class Closable(Protocol):
    """What can be given back."""

    def close(self) -> None:
        """Gives it back; never raises."""
        ...


class Calls:
    """The CUDA driver, called on one device in its primary context, which CUDA's own runtime uses as well.

    Attributes:
        stream: the handle of the stream that all work is enqueued on.
        driver_version: of CUDA, 12060 for 12.6.
        device: the driver's number of the device.
        open: what has to be given back, in the order in which it was opened.
    """

    stream: Any

    def __init__(self) -> None:
        """Opens the driver and the device's primary context.

        Raises:
            BackendError: there is no driver or no device.
        """
        self._driver: Driver = open_driver()
        self.open: dict[Closable, None] = {}
        self._thread = threading.local()
        self._call("cuInit", 0)
        self.driver_version: int = self._call("cuDriverGetVersion")
        self.device: int = self._call("cuDeviceGet", DEVICE)
        self._context = self._call("cuDevicePrimaryCtxRetain", self.device)
        self.use_here()

    def use_here(self) -> None:
        """Makes the device that of the calling thread, as every call below does; for what others call in CUDA."""
        if not getattr(self._thread, "uses_it", False):
            self._call("cuCtxSetCurrent", self._context)
            self._thread.uses_it = True

    def call(self, function: str, *arguments: object) -> Any:
        """Calls a function of the CUDA driver and returns its result, None if it has none.

        Raises:
            BackendError: it failed, or work that was enqueued before did.
        """
        self.use_here()
        return self._call(function, *arguments)

    def _call(self, function: str, *arguments: object) -> Any:
        status, value = self._driver(function, *arguments)
        if status != SUCCESS:
            name = self._words("cuGetErrorName", status)
            advice = _ADVICE.get(name) or self._words("cuGetErrorString", status)
            raise BackendError(f"CUDA: {function} failed with {name}: {advice}")
        return value

    def release(self, function: str, *arguments: object) -> None:
        """Calls a function on the way out, where an earlier error must not hide behind a new one."""
        try:
            self.call(function, *arguments)
        except BackendError as error:
            log.debug("while closing: %s", error)

    def _words(self, function: str, status: int) -> str:
        failed, text = self._driver(function, status)
        return f"error {status}" if failed or text is None else str(text, "utf-8", "replace")
