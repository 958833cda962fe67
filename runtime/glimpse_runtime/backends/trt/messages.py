"""What TensorRT has to say: passed on to ``logging``, and its errors kept for the exception that follows."""

import logging
from collections import deque
from typing import Any

log = logging.getLogger("glimpse")

_KEPT = 3
_LEVELS = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.WARNING}


class Messages:
    """The last errors of TensorRT.

    Attributes:
        logger: the ``ILogger`` to give to TensorRT.
    """

    def __init__(self, trt: Any) -> None:
        """Makes a logger of the module's own base class."""
        errors: deque[str] = deque(maxlen=_KEPT)

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                level = _LEVELS.get(severity.name, logging.DEBUG)
                if level == logging.ERROR:
                    errors.append(msg)
                    level = logging.DEBUG  # it comes back in the exception
                log.log(level, "TensorRT: %s", msg)

        self.logger: Any = Logger()
        self._errors = errors

    def take(self) -> str:
        """Returns the errors since the last time as text to end a message with, and forgets them."""
        text = "; ".join(self._errors)
        self._errors.clear()
        return f": {text}" if text else ""
