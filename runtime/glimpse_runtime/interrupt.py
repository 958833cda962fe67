"""Ends a request early: by its deadline, or by somebody's ``cancel``, also while an engine runs."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

Result = TypeVar("Result")
# How long work of the host may take whatever the deadline, and how often the one who waits for it looks up.
_MOMENT_S, _LOOK_S = 0.25, 0.02


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
        self._lock = threading.RLock()  # a signal may call ``cancel`` while this very thread holds it
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

    def run(self, work: Callable[[], Result]) -> Result:
        """Does work of the host that cannot be stopped, and comes back when the request ends before it is done.

        Without a deadline it is done here. With one it is done by a thread of its own, which is left to itself when the
        request ends: what it holds is freed when it is through. However short the deadline is, the work has a moment to
        find what is wrong with the request.

        Args:
            work: reads, decodes, resizes or tokenises; it must change nothing that others see.

        Raises:
            Interrupted: the request has ended.
        """
        if self._deadline_s is None:
            self.check()
            return work()
        until_s = max(self._deadline_s, time.monotonic() + _MOMENT_S)
        finished = threading.Event()
        outcome: list[Result] = []
        failure: list[BaseException] = []

        def labour() -> None:
            try:
                outcome.append(work())
            except BaseException as error:  # it is raised again in the thread that waits
                failure.append(error)
            finally:
                finished.set()

        threading.Thread(target=labour, name="glimpse-host", daemon=True).start()
        while not finished.wait(_LOOK_S):
            if time.monotonic() >= until_s:
                self._fire("deadline")
            if self.reason == "cancelled" or time.monotonic() >= until_s:
                raise Interrupted
        if failure:
            raise failure[0]
        return outcome[0]

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
