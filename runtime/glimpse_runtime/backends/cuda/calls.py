"""Calls of the CUDA runtime by way of ``cuda.bindings``: failures are errors with advice."""

import logging
import threading
from typing import Any, Protocol

from glimpse_runtime.errors import BackendError

log = logging.getLogger("glimpse")

DEVICE = 0
"""Number of the device; ``CUDA_VISIBLE_DEVICES`` says which one that is."""
INSTALL = 'pip install "glimpse-edge[cuda]"'
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


class Closable(Protocol):
    """What can be given back."""

    def close(self) -> None:
        """Gives it back; never raises."""
        ...


class Calls:
    """The CUDA runtime, called on one device.

    Attributes:
        runtime: the module ``cuda.bindings.runtime``.
        driver: the module ``cuda.bindings.driver``.
        stream: the handle of the stream that all work is enqueued on.
        open: what has to be given back, in the order in which it was opened.
    """

    stream: Any

    def __init__(self) -> None:
        """Imports the bindings.

        Raises:
            BackendError: cuda-bindings is not installed, or there is no device or driver that it can use.
        """
        try:
            from cuda.bindings import driver, runtime
        except ImportError as error:
            raise BackendError(f"the package cuda-bindings cannot be imported ({error}); run: {INSTALL}") from None
        self.runtime: Any = runtime
        self.driver: Any = driver
        self.open: dict[Closable, None] = {}
        self._thread = threading.local()
        self.use_here()

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
