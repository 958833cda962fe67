"""Ends a request early: by its deadline, or by somebody's ``cancel``, also while an engine runs."""

import threading
import time
from collections.abc import Callable
from types import TracebackType


class Interrupted(Exception):  # noqa: N818  (a signal between stages, never shown to a caller)
    """The request was ended; the reason is in ``Interrupt.reason``."""


class Interrupt:
    """The switch of one request.

    Attributes:
        reason: None, or why the request ended: ``deadline`` or ``cancelled``.
    """

    def __init__(self, timeout: float | None = None) -> None:
        """Starts the clock.

        Args:
            timeout: seconds until the deadline; None for no deadline.
        """
        self.reason: str | None = None
        self._lock = threading.Lock()
        self._stop_engine: Callable[[], None] | None = None
        self._deadline_s = None if timeout is None else time.monotonic() + timeout

    def cancel(self) -> None:
        """Ends the request; may be called from any thread, also more than once."""
        self._fire("cancelled")

    def expired(self) -> bool:
        """Returns whether the request has ended."""
        if self.reason is None and self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            self._fire("deadline")
        return self.reason is not None

    def check(self) -> None:
        """Raises ``Interrupted`` if the request has ended."""
        if self.expired():
            raise Interrupted

    def during(self, stop_engine: Callable[[], None], short: bool = False) -> "_Run":
        """Returns a context for one engine run.

        Args:
            stop_engine: called if the request ends within the run.
            short: the run is one decode step: ``cancel`` still stops it, but the deadline is only looked at before
                it, which saves a timer thread for every token.
        """
        return _Run(self, stop_engine, short)

    def _fire(self, reason: str) -> None:
        with self._lock:
            self.reason = self.reason or reason
            if self._stop_engine is not None:
                self._stop_engine()


class _Run:
    """One engine run that a deadline or ``cancel`` may stop."""

    def __init__(self, interrupt: Interrupt, stop_engine: Callable[[], None], short: bool) -> None:
        self._interrupt = interrupt
        self._stop_engine = stop_engine
        self._short = short
        self._timer: threading.Timer | None = None

    def __enter__(self) -> None:
        interrupt = self._interrupt
        interrupt.check()
        with interrupt._lock:
            if interrupt.reason is not None:  # it ended since the check
                raise Interrupted
            interrupt._stop_engine = self._stop_engine
        if interrupt._deadline_s is not None and not self._short:
            left_s = interrupt._deadline_s - time.monotonic()
            self._timer = threading.Timer(min(max(left_s, 0.0), threading.TIMEOUT_MAX), interrupt._fire, ["deadline"])
            self._timer.daemon = True
            self._timer.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._interrupt._lock:
            self._interrupt._stop_engine = None
        if error is not None and self._interrupt.reason is not None:
            raise Interrupted from None
