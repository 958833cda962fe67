"""Whose turn it is in a session: one request computes at a time, and the newest one is the one that is cancelled."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from glimpse_runtime.errors import SessionError
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.session.answer import Answer


class Turns:
    """Requests of one session, from any thread.

    Attributes:
        lock: held while something is computed.
    """

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.lock = threading.Lock()
        self._running: Interrupt | None = None
        self._unfinished: weakref.ref[Answer] | None = None

    def begin(self, interrupt: Interrupt) -> None:
        """Makes a request the one that ``cancel`` ends, unless another is being computed."""
        if not self.lock.locked():
            self._running = interrupt

    @contextmanager
    def take(self, interrupt: Interrupt) -> Iterator[None]:
        """Holds the session for one computation, then the one that ``cancel`` ends.

        Raises:
            SessionError: it is busy.
        """
        if not self.lock.acquire(blocking=False):
            raise SessionError("this session is busy with another request; use one session per thread")
        try:
            self._running = interrupt
            yield
        finally:
            self.lock.release()

    def cancel(self) -> None:
        """Ends the request that is running."""
        running = self._running
        if running is not None:
            running.cancel()

    def leave(self, answer: Answer) -> None:
        """Remembers an answer as the one whose decoding goes on, for as long as somebody else holds it."""
        self._unfinished = weakref.ref(answer)

    @property
    def left(self) -> Answer | None:
        """The last answer, unless it was dropped."""
        return self._unfinished() if self._unfinished else None

    def finish_left(self, interrupt: Interrupt) -> None:
        """Ends an answer that is still held: its KV cache is about to be reused."""
        left = self.left
        if left is not None:
            left._finish_for(interrupt)
