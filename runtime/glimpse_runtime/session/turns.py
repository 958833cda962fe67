"""Whose turn it is in a session: one request computes at a time, and the newest one is the one that is cancelled."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from glimpse_runtime.errors import SessionError
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.session.answer import Answer

CLOSED = "this session is closed; load the bundle again"


class Turns:
    """Requests of one session, from any thread."""

    def __init__(self, free: Callable[[], None]) -> None:
        """Nothing runs yet.

        Args:
            free: a method of the session, called when it is closed and nothing is computed any more.
        """
        # A signal handler or a logits processor may call in the thread that holds it.
        self._lock = threading.RLock()
        self._computing = self._closing = False
        self._free = weakref.WeakMethod(free)
        self._running: Interrupt | None = None
        self._unfinished: weakref.ref[Answer] | None = None

    def begin(self, interrupt: Interrupt) -> None:
        """Makes a request the one that ``cancel`` ends, unless another is being computed."""
        if not self._computing:
            self._running = interrupt

    @contextmanager
    def take(self, interrupt: Interrupt) -> Iterator[None]:
        """Holds the session for one computation, then the one that ``cancel`` ends.

        Raises:
            SessionError: it is busy, or closed.
        """
        taken = self._lock.acquire(blocking=False)
        if not taken or self._computing:
            if taken:
                self._lock.release()
            raise SessionError("this session is busy with another request; use one session per thread")
        try:
            # Before the look: who closes from now on cancels this request, and leaves the model until it has ended.
            self._computing, self._running = True, interrupt
            if self._closing:
                raise SessionError(CLOSED)
            yield
        finally:
            self._computing = False
            self._free_if_closed()
            self._lock.release()

    def close(self) -> None:
        """Ends the request that is running; the session is freed now, or when the request has ended."""
        self._closing = True  # before the lock: a request that waits for it is not begun any more
        self.cancel()
        with self._lock:
            if not self._computing:
                self._free_if_closed()

    def _free_if_closed(self) -> None:
        free = self._free()
        if self._closing and free is not None:
            free()

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
