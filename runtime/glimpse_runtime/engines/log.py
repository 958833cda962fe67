"""TensorRT's log: its last errors become part of an exception's message, the rest goes to Python's logging."""

import logging
from typing import Any

log = logging.getLogger("glimpse")

_SHOWN = 5
_LONGEST = 600


class Messages:
    """What TensorRT complained about.

    Attributes:
        errors: its errors in order.
    """

    def __init__(self) -> None:
        """Starts without any."""
        self.errors: list[str] = []

    def add(self, severity: str, message: str) -> None:
        """Takes a message; ``severity`` is TensorRT's name for it."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message[:_LONGEST])
        level = {"WARNING": logging.INFO}.get(severity, logging.DEBUG)
        log.log(level, "TensorRT: %s", message)

    def take(self) -> str:
        """Returns the last errors, one a line, and forgets all of them."""
        text = str(self)
        self.errors.clear()
        return text

    def __str__(self) -> str:
        """Returns the last errors, one a line."""
        shown = dict.fromkeys(self.errors[-_SHOWN:])
        return "".join(f"\n  {message}" for message in shown) or "\n  TensorRT gave no reason"


def make_logger(trt: Any, messages: Messages) -> Any:
    """Returns a logger that TensorRT takes, and that hands its messages on."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            messages.add(severity.name, message)

    return Logger()
