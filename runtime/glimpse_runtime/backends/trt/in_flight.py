"""How far the host may be ahead of the device."""

from glimpse_runtime.backends.cuda.device import Cuda
from glimpse_runtime.interrupt import Interrupt

_RUNS = 2


class InFlight:
    """Lets so many runs be under way that the device never waits, and a request can still be ended between them."""

    def __init__(self, cuda: Cuda) -> None:
        """Makes an event for each."""
        self._events = [cuda.event() for _ in range(_RUNS)]
        self._next = 0

    def wait(self, interrupt: Interrupt) -> None:
        """Waits until there is room for a run.

        Raises:
            Interrupted: the request has ended.
        """
        interrupt.check()
        self._events[self._next].synchronize()
        interrupt.check()

    def record(self) -> None:
        """Says that a run was enqueued."""
        self._events[self._next].record()
        self._next = (self._next + 1) % _RUNS
